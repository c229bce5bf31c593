//! Mappings that are taken under the extent lock and used after it was released and retaken: they must
//! be taken again if another task changed the map meanwhile (fs/xfs/xfs_reflink.c:
//! xfs_reflink_fill_cow_hole, xfs_reflink_fill_delalloc).

use tracer_ebpf::Event;

use crate::{
    hooks::{FilesystemKind, LockClass, Mode, Span},
    judge::{
        due::Place,
        engine::Engine,
        finding::{Act, Key, LockSeen, Party, Role, Strength, Witness},
        inode::InodeIndex,
        operations::Operation,
        owed::{Broken, extent_lock},
        rules::{Kind, Observed},
        task::{Scope, Task, TaskId, doing, stack_id},
    },
    units::{ByteRange, HookId, Nanos, StackId},
};

/// A mapping in use.
#[derive(Clone, Copy, Debug)]
pub struct TakenMapping {
    /// Of which file.
    inode: InodeIndex,
    /// Of which bytes.
    range: ByteRange,
    /// The hold of the extent lock under which it was taken, if it was seen.
    hold: Option<u32>,
    /// The hold under which it was taken again.
    again: Option<u32>,
    /// When its use began.
    since: Nanos,
}

/// A change of a file's extent map, kept while somebody uses a mapping of that file.
#[derive(Clone, Copy, Debug)]
pub struct MapChange {
    task: TaskId,
    operation: Option<Operation>,
    range: ByteRange,
    time: Nanos,
    stack: Option<StackId>,
}

/// Changes kept a file; older ones are forgotten, which can only spare a finding.
const CHANGES: usize = 64;

/// Uses of mappings of one file, and what changed during them.
#[derive(Clone, Debug, Default)]
pub struct MapUse {
    users: u32,
    changes: Vec<MapChange>,
}

impl Engine {
    /// A task begins to use a mapping.
    pub(super) fn sampled(&mut self, task: &mut Task, event: &Event) {
        let now = Nanos(event.head.time);
        let Some(inode) = self.files.at(event.inode, now) else {
            return;
        };
        self.unsampled(task);
        let file = self.files.get_mut(inode);
        let Some(lock) = file.filesystem.and_then(extent_lock) else {
            return;
        };
        file.map_use.users += 1;
        self.mappings_used += 1;
        let range = Span::Blocks.bytes(event.a, event.b, file.meta.block_bits);
        task.sample = Some(TakenMapping {
            inode,
            range,
            hold: task.locks.find(inode, lock).map(|hold| hold.number),
            again: None,
            since: now,
        });
    }

    /// It takes the mapping again.
    pub(super) fn looked_up(&mut self, task: &mut Task) {
        let Some(sample) = &mut task.sample else {
            return;
        };
        let lock = self
            .files
            .get(sample.inode)
            .filesystem
            .and_then(extent_lock);
        sample.again = lock
            .and_then(|lock| task.locks.find(sample.inode, lock))
            .map(|hold| hold.number);
    }

    /// Keeps a change for those who use mappings of the file.
    pub(super) fn map_changed(&mut self, task: &mut Task, span: Span, event: &Event) {
        if self.mappings_used == 0 {
            return;
        }
        let Some(inode) = self.files.at(event.inode, Nanos(event.head.time)) else {
            return;
        };
        let range = span.bytes(event.a, event.b, self.files.get(inode).meta.block_bits);
        let operation = match doing(&mut task.scopes) {
            Some(Scope::Change(change)) => Some(change.operation),
            Some(Scope::Fault(fault)) => Some(fault.operation),
            _ => None,
        };
        let map_use = &mut self.files.get_mut(inode).map_use;
        if map_use.users > 0 && map_use.changes.len() < CHANGES {
            map_use.changes.push(MapChange {
                task: task.id,
                operation,
                range,
                time: Nanos(event.head.time),
                stack: stack_id(event.head.stack),
            });
        }
    }

    /// The task uses no mapping any more.
    pub(super) fn unsampled(&mut self, task: &mut Task) {
        let Some(sample) = task.sample.take() else {
            return;
        };
        self.mappings_used -= 1;
        let map_use = &mut self.files.get_mut(sample.inode).map_use;
        map_use.users -= 1;
        if map_use.users == 0 {
            map_use.changes.clear();
        }
    }

    /// The use is over: was the mapping still what it was?
    pub(super) fn sample_used(&mut self, task: &mut Task, event: &Event) {
        let Some(sample) = task.sample else {
            return;
        };
        let file = self.files.get_mut(sample.inode);
        let map_use = &mut file.map_use;
        let changed = map_use
            .changes
            .iter()
            .find(|change| {
                change.task != task.id
                    && change.time >= sample.since
                    && change.range.overlaps(sample.range)
            })
            .copied();
        let filesystem = file.filesystem;
        self.unsampled(task);
        let Some(filesystem) = filesystem else {
            return;
        };
        let (Some(changed), Some(lock), Some(before)) =
            (changed, extent_lock(filesystem), sample.hold)
        else {
            return;
        };
        // Nobody changes the map under a hold of this task's: the change came into a gap.
        let Some(hold) = task.locks.find(sample.inode, lock) else {
            return;
        };
        if hold.number == before || sample.again == Some(hold.number) {
            return;
        }
        let operation = match doing(&mut task.scopes) {
            Some(Scope::Change(change)) => change.operation,
            Some(Scope::Fault(fault)) => fault.operation,
            _ => return,
        };
        self.reused(
            task,
            (sample, changed),
            (filesystem, operation, lock),
            event,
        );
    }

    /// The task goes on with a mapping that it has looked at.
    pub(super) fn validated(&mut self, task: &mut Task, event: &Event) {
        let Some((address, number)) = task.outdated.take() else {
            return;
        };
        if (address, number) != (event.inode, event.a & NUMBER) || event.b == 0 {
            return;
        }
        let Some(Place { doing, range }) = self.place(task, event.inode) else {
            return;
        };
        let Some(class) = extent_lock(doing.filesystem) else {
            return;
        };
        let broken = Broken {
            kind: Kind::StaleAfterRelock,
            observed: Observed::Outdated,
            class,
            act: Act::Reuse,
        };
        let finding = self.broke(task, doing, broken, range, event);
        self.findings.raise(finding, Strength::Observed);
    }

    #[cold]
    fn reused(
        &mut self,
        task: &Task,
        (sample, changed): (TakenMapping, MapChange),
        (filesystem, operation, class): (FilesystemKind, Operation, LockClass),
        event: &Event,
    ) {
        let time = Nanos(event.head.time);
        let key = Key {
            kind: Kind::StaleAfterRelock,
            filesystem,
            operation,
            class,
            observed: Observed::NotReread,
            hook: HookId(event.head.hook),
        };
        let mut locks = LockSeen::all(task.id, &task.locks, time);
        locks.push(LockSeen {
            task: changed.task,
            inode: Some(sample.inode),
            class,
            mode: Mode::Excl,
            held_ns: 0,
        });
        let witness = Witness {
            scope: None,
            entered: sample.since,
            time,
            act: Act::Reuse,
            inode: sample.inode,
            range: sample.range,
            size: event.size.max(1),
            locks,
            actor: Party {
                task: task.id,
                role: Role::Actor(operation),
                stack: stack_id(event.head.stack),
            },
            other: Some(Party {
                task: changed.task,
                role: Role::Overlapped(changed.operation.unwrap_or(operation)),
                stack: changed.stack,
            }),
            more: Vec::new(),
        };
        let finding = self.report(key, &witness);
        self.findings.raise(finding, Strength::Observed);
    }
}

/// What is kept of a fork's number in a mapping's (fs/xfs/xfs_iomap.c:xfs_iomap_inode_sequence).
const NUMBER: u64 = 0xffff_ffff;

/// A mapping that was taken earlier is looked at: has the map changed since?
pub(super) fn validate(task: &mut Task, event: &Event) {
    let (then, now) = (event.a & NUMBER, event.b & NUMBER);
    task.outdated = (then != now).then_some((event.inode, then));
}
