//! Blocks come to be shared: those who write to the file that has them are kept out, or told
//! (fs/xfs/xfs_reflink.c:xfs_reflink_remap_prep).

use std::collections::VecDeque;

use tracer_ebpf::Event;

use crate::{
    hooks::{LockClass, Mode, Span},
    judge::{
        engine::{Engine, other_inode_locked},
        finding::{Act, Key, LockSeen, Party, Role, Strength, Witness},
        inode::{File, keep},
        lockset::LockSet,
        operations::Operation,
        rules::{Kind, Observed},
        task::{ChangeScope, Reported, Scope, Task, TaskId, doing, stack_id},
        window::CLOCK_SKEW_NS,
    },
    units::{ByteRange, HookId, Nanos, StackId},
};

/// Somebody wrote to a file while its blocks came to be shared.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// Who.
    pub task: TaskId,
    /// How.
    pub operation: Operation,
    /// Since when it held the lock that keeps it out, shared.
    pub since: Nanos,
    /// To what.
    pub range: ByteRange,
    /// Where.
    pub stack: Option<StackId>,
}

/// Direct writes kept per file.
const RECENT: usize = 16;

/// The last writes beside the page cache that held i_rwsem shared, oldest first.
#[derive(Debug, Default)]
pub struct DirectWriters(VecDeque<Writer>);

impl DirectWriters {
    /// One more.
    pub fn keep(&mut self, writer: Writer) {
        keep(&mut self.0, RECENT, writer);
    }

    /// None matters any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// One who writes and is not `task`, under a shared hold of a lock that it took after `demoted`.
fn beside(file: &File, class: LockClass, task: TaskId, demoted: u64) -> Option<Writer> {
    let after = |writer: &Writer| writer.task != task && writer.since.0 > demoted;
    if class == LockClass::IRwsem {
        return file.direct_writers.0.iter().copied().find(after);
    }
    let faults = file.installs.iter().filter_map(|install| {
        let (mode, since) = install.lock?;
        (mode == Mode::Shared && install.operation.is_write_fault()).then_some(Writer {
            task: install.task,
            operation: install.operation,
            since,
            range: install.range,
            stack: install.stack,
        })
    });
    faults.into_iter().find(after)
}

/// What is wrong with the source of blocks that come to be shared.
struct Exposed {
    observed: Observed,
    class: LockClass,
    range: ByteRange,
    writer: Option<Writer>,
}

impl Engine {
    /// Blocks of another file become shared: it is locked too (fs/xfs/xfs_inode.c:xfs_ilock2_io_mmap), and nobody
    /// may have written to it since its locks were demoted (fs/xfs/xfs_file.c:xfs_write_fault and
    /// xfs_ilock_iocb_for_write take theirs exclusively while it is marked XFS_IREMAPPING).
    pub(super) fn remapped(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        change: &mut ChangeScope,
        span: Span,
        event: &Event,
    ) {
        if !matches!(change.operation, Operation::Reflink | Operation::Dedupe) {
            return;
        }
        let Some(source) = change.iter().find(|one| one.address != event.inode) else {
            return;
        };
        let (address, inode) = (source.address, source.inode);
        if locks.find(inode, LockClass::InvalidateLock).is_none() {
            if other_inode_locked(change, locks, address) {
                let bits = self.files.get(inode).meta.block_bits;
                let exposed = Exposed {
                    observed: Observed::SourceUnheld,
                    class: LockClass::InvalidateLock,
                    range: span.bytes(event.a, event.b, bits),
                    writer: None,
                };
                self.source_exposed((task, locks), change, address, exposed, event);
            }
            return;
        }
        for class in [LockClass::InvalidateLock, LockClass::IRwsem] {
            let Some(hold) = locks.find(inode, class) else {
                continue;
            };
            if hold.mode != Mode::Shared {
                continue;
            }
            // What was acquired after the exclusive hold began came after it was demoted.
            let demoted = hold.since.0 + CLOCK_SKEW_NS;
            if let Some(writer) = beside(self.files.get(inode), class, task, demoted) {
                let exposed = Exposed {
                    observed: Observed::SharedWithWriter,
                    class,
                    range: writer.range,
                    writer: Some(writer),
                };
                self.source_exposed((task, locks), change, address, exposed, event);
            }
        }
    }

    /// The file whose blocks are shared is not marked, so that those who write to it hold its locks as the operation
    /// does.
    pub(super) fn unannounced(&mut self, task: &mut Task, event: &Event) {
        let Some(Scope::Change(change)) = doing(&mut task.scopes) else {
            return;
        };
        if !matches!(change.operation, Operation::Reflink | Operation::Dedupe) {
            return;
        }
        let Some(source) = change.subject(event.inode) else {
            return;
        };
        let class = LockClass::InvalidateLock;
        let hold = task.locks.find(source.inode, class);
        if hold.is_some_and(|hold| hold.mode == Mode::Shared) {
            let range = match event.b {
                0 => ByteRange::ALL.below(event.size),
                length => ByteRange::new(event.a, length),
            };
            let exposed = Exposed {
                observed: Observed::SharedUnannounced,
                class,
                range,
                writer: None,
            };
            let by = (task.id, &task.locks);
            self.source_exposed(by, change, event.inode, exposed, event);
        }
    }

    /// A write beside the page cache begins, which others of its kind may run beside.
    pub(super) fn writes_beside_others(&mut self, task: &mut Task, event: &Event) {
        let Some(Scope::Change(change)) = doing(&mut task.scopes) else {
            return;
        };
        if change.operation != Operation::DirectWrite {
            return;
        }
        let Some(subject) = change.subject(event.inode) else {
            return;
        };
        if let Some(hold) = task.locks.find(subject.inode, LockClass::IRwsem)
            && hold.mode == Mode::Shared
        {
            let writer = Writer {
                task: task.id,
                operation: change.operation,
                since: hold.since,
                range: ByteRange::new(event.a, event.b),
                stack: stack_id(event.head.stack),
            };
            self.files
                .get_mut(subject.inode)
                .direct_writers
                .keep(writer);
        }
    }

    /// Blocks of a file were shared that writers were not kept from. If it was marked, a writer that came is to blame.
    #[cold]
    fn source_exposed(
        &mut self,
        (task, locks): (TaskId, &LockSet),
        change: &mut ChangeScope,
        address: u64,
        exposed: Exposed,
        event: &Event,
    ) {
        let Exposed {
            class,
            range,
            writer,
            ..
        } = exposed;
        let (id, sharing, entered) = (change.id, change.operation, change.entered);
        let Some(source) = change.subject_mut(address) else {
            return;
        };
        let Some(filesystem) = self.files.get(source.inode).filesystem else {
            return;
        };
        let kind = match exposed.observed {
            Observed::SourceUnheld => Kind::PartialLock,
            _ => Kind::WrongMode,
        };
        if let Some(said) = source.reported.iter().find(|said| said.kind == kind) {
            if writer.is_some() {
                self.findings.raise(said.finding, Strength::Observed);
            }
            return;
        }
        let sharer = Party {
            task,
            role: Role::Actor(sharing),
            stack: stack_id(event.head.stack),
        };
        let (operation, observed, actor, other) = match writer {
            Some(writer) if self.sight.announces => (
                writer.operation,
                Observed::SharedWithSharer,
                Party {
                    task: writer.task,
                    role: Role::Actor(writer.operation),
                    stack: writer.stack,
                },
                Some(Party {
                    role: Role::Overlapped(sharing),
                    ..sharer
                }),
            ),
            writer => (
                sharing,
                exposed.observed,
                sharer,
                writer.map(|writer| Party {
                    task: writer.task,
                    role: Role::Overlapped(writer.operation),
                    stack: writer.stack,
                }),
            ),
        };
        let time = Nanos(event.head.time);
        let key = Key {
            kind,
            filesystem,
            operation,
            class,
            observed,
            hook: HookId(event.head.hook),
        };
        let witness = Witness {
            scope: Some(id),
            entered,
            time,
            act: Act::Change,
            inode: source.inode,
            range,
            size: u64::MAX,
            locks: LockSeen::all(task, locks, time),
            actor,
            other,
            more: Vec::new(),
        };
        let finding = self.report(key, &witness);
        source.reported.push(Reported {
            kind,
            class,
            finding,
        });
        if writer.is_some() {
            self.findings.raise(finding, Strength::Observed);
        }
    }
}
