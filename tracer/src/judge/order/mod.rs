//! Deadlocks: predicted from a run that went well, and shown in one that did not.
//!
//! Three views of what tasks take while they hold something else, from the surest to the widest:
//! orders that the kernel documents ([`documented`]), of which one act against them is enough; cycles
//! among resources of this run ([`cycles`]); and tasks that wait for each other now ([`waits`]).

mod cycles;
pub mod documented;
mod freeze;
mod resource;
mod waits;

use crate::{
    hooks::{FilesystemKind, LockClass, Mode},
    judge::{
        finding::{Act, Findings, Key, LockSeen, Party, Role, Witness},
        inode::{Files, InodeIndex},
        lockset::LockSet,
        operations::Operation,
        rules::{Kind, Observed},
        task::{Task, TaskId},
    },
    units::{ByteRange, HookId, Nanos, StackId},
};

use cycles::{Dependency, Predictor};
use documented::Orders;

pub use documented::{broken, twins};
pub use freeze::{
    Balance, Balances, Doubts, Ended, FreezeSeen, judge as judge_freeze, needs_protection,
};
pub use resource::{Account, Blocked, Hold, Owner, Resource, Wait, excludes};
pub use waits::{Leak, Waits};

const CLASSES: usize = LockClass::ALL.len();
const MODES: usize = 2;

/// What a task is in the middle of.
#[derive(Clone, Copy, Debug)]
pub struct Doing {
    /// Operation or fault.
    pub operation: Operation,
    /// Its file.
    pub inode: InodeIndex,
    /// On which kind of filesystem.
    pub filesystem: FilesystemKind,
    /// When it began.
    pub entered: Nanos,
}

/// An event as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// When.
    pub time: Nanos,
    /// What saw it.
    pub hook: HookId,
    /// Where, if a stack was taken.
    pub stack: Option<StackId>,
}

/// A task as far as it matters here.
#[derive(Debug)]
pub struct Actor<'a> {
    /// Who.
    pub task: TaskId,
    /// Locks of inodes that it holds.
    pub locks: &'a LockSet,
    /// Everything else.
    pub account: &'a mut Account,
}

impl<'a> Actor<'a> {
    /// The parts of a task.
    pub fn of(task: &'a mut Task) -> Self {
        Self {
            task: task.id,
            locks: &task.locks,
            account: &mut task.account,
        }
    }

    /// Everything that it holds, for a finding.
    pub fn seen(&self, now: Nanos) -> Vec<LockSeen> {
        seen(self.task, self.locks, self.account, now)
    }
}

/// Everything that a task holds, for a finding.
pub fn seen(task: TaskId, locks: &LockSet, account: &Account, now: Nanos) -> Vec<LockSeen> {
    account
        .held(locks)
        .map(|hold| LockSeen {
            task,
            inode: hold.resource.owner.inode(),
            class: hold.resource.class,
            mode: hold.mode,
            held_ns: now.0.saturating_sub(hold.since.0),
        })
        .collect()
}

/// The order of a run's resources.
#[derive(Debug, Default)]
pub struct Order {
    documented: Orders,
    /// Pairs of classes and modes seen, by held and wanted.
    seen: [[u64; CLASSES * MODES]; FilesystemKind::ALL.len()],
    /// The first witness of each pair of classes.
    first: Vec<Dependency>,
    /// Classes that were taken within each class.
    within: [u32; CLASSES],
    /// Pairs of classes, by held, that lie on a cycle of classes.
    cyclic: [u32; CLASSES],
    /// One stack of each kind of acquisition.
    stacks: Vec<(Operation, LockClass, Mode, StackId)>,
    predictor: Predictor,
    /// Who waits for whom.
    pub waits: Waits,
}

impl Order {
    /// Pairs of classes of which one was taken, or asked for, by a task that held the other: the held one first.
    pub fn pairs(&self) -> Vec<(FilesystemKind, LockClass, LockClass)> {
        let mut pairs = Vec::new();
        for filesystem in FilesystemKind::ALL {
            let seen = &self.seen[filesystem as usize];
            for held in LockClass::ALL {
                let at = held as usize * MODES;
                let within: u64 = seen[at..at + MODES].iter().fold(0, |all, row| all | row);
                for wanted in LockClass::ALL {
                    if within >> (wanted as usize * MODES) & ((1 << MODES) - 1) != 0 {
                        pairs.push((filesystem, held, wanted));
                    }
                }
            }
        }
        pairs
    }

    /// A task took a resource for which it would have waited, or waits for it. It is not yet among
    /// what the task holds.
    #[inline]
    pub fn take(
        &mut self,
        (findings, files): (&mut Findings, &Files),
        actor: &mut Actor<'_>,
        doing: Doing,
        wanted: (Resource, Mode),
        moment: Moment,
    ) {
        let (resource, mode) = wanted;
        let class = resource.class;
        if mode == Mode::Excl {
            self.predictor.written(class);
        }
        if !actor.locks.is_empty() || !actor.account.others.is_empty() {
            self.nested((findings, files), actor, doing, wanted, moment);
        }
        if let Some(stack) = moment.stack {
            self.keep_stack(doing.operation, class, mode, stack);
        }
        actor.account.recent.took(resource, moment.time);
    }

    fn nested(
        &mut self,
        (findings, files): (&mut Findings, &Files),
        actor: &mut Actor<'_>,
        doing: Doing,
        wanted: (Resource, Mode),
        moment: Moment,
    ) {
        let (resource, mode) = wanted;
        let bit = 1u64 << (resource.class as usize * MODES + mode as usize);
        let (mut new, mut cyclic) = (false, false);
        for hold in actor.account.held(actor.locks) {
            let class = hold.resource.class;
            if hold.resource == resource {
                self.recursive(findings, actor, doing, (hold, mode), moment);
                continue;
            }
            if let (Owner::Inode(held), Owner::Inode(taken)) = (hold.resource.owner, resource.owner)
                && class == resource.class
                && twins(doing.filesystem, class).is_some_and(|twins| {
                    twins.inverted(&files.get(held).meta, &files.get(taken).meta)
                })
            {
                let kind = Kind::LockOrder;
                self.inverted(findings, actor, doing, (kind, hold, wanted), moment);
            }
            if let Some(order) = self
                .documented
                .broken(doing.filesystem, class, resource.class)
            {
                self.inverted(findings, actor, doing, (order.kind, hold, wanted), moment);
            }
            let row = &mut self.seen[doing.filesystem as usize]
                [class as usize * MODES + hold.mode as usize];
            new |= *row & bit == 0;
            *row |= bit;
            cyclic |= self.cyclic[class as usize] & 1 << resource.class as u32 != 0;
        }
        if new {
            cyclic |= self.learn(actor, doing, wanted, moment);
        }
        if cyclic {
            self.predictor
                .depend(dependency(actor, doing, wanted, moment));
        }
    }

    /// A pair of classes that was not seen before. True if it closes a cycle of classes.
    #[cold]
    fn learn(
        &mut self,
        actor: &Actor<'_>,
        doing: Doing,
        (resource, mode): (Resource, Mode),
        moment: Moment,
    ) -> bool {
        let wanted = resource.class;
        for hold in actor.account.held(actor.locks) {
            self.within[hold.resource.class as usize] |= 1 << wanted as u32;
        }
        self.first
            .push(dependency(actor, doing, (resource, mode), moment));
        let mut reach = self.within;
        for through in 0..CLASSES {
            for from in 0..CLASSES {
                if reach[from] & 1 << through != 0 {
                    reach[from] |= reach[through];
                }
            }
        }
        let before = self.cyclic;
        for held in LockClass::ALL {
            let within = LockClass::ALL.into_iter().filter(|&inner| {
                self.within[held as usize] & 1 << inner as u32 != 0
                    && (inner == held || reach[inner as usize] & 1 << held as u32 != 0)
            });
            for inner in within {
                self.cyclic[held as usize] |= 1 << inner as u32;
            }
        }
        if self.cyclic != before {
            for first in &self.first {
                if first.held.iter().any(|hold| {
                    self.cyclic[hold.resource.class as usize] & 1 << first.wanted.class as u32 != 0
                }) {
                    self.predictor.depend(first.clone());
                }
            }
        }
        actor
            .account
            .held(actor.locks)
            .any(|hold| self.cyclic[hold.resource.class as usize] & 1 << wanted as u32 != 0)
    }

    fn keep_stack(&mut self, operation: Operation, class: LockClass, mode: Mode, stack: StackId) {
        let known = self
            .stacks
            .iter()
            .any(|&(o, c, m, _)| (o, c, m) == (operation, class, mode));
        if !known {
            self.stacks.push((operation, class, mode, stack));
        }
    }

    /// The stack of a hold, or of another acquisition of its kind in the same operation.
    fn stack_of(&self, operation: Operation, hold: &Hold) -> (Option<StackId>, bool) {
        let like = || {
            self.stacks
                .iter()
                .find(|&&(o, c, m, _)| (o, c, m) == (operation, hold.resource.class, hold.mode))
                .map(|&(.., stack)| stack)
        };
        match hold.stack {
            Some(stack) => (Some(stack), false),
            None => (like(), true),
        }
    }

    fn took(&self, task: TaskId, operation: Operation, hold: &Hold) -> Party {
        let (stack, sampled) = self.stack_of(operation, hold);
        Party {
            task,
            role: Role::Took {
                class: hold.resource.class,
                mode: hold.mode,
                sampled,
            },
            stack,
        }
    }

    #[cold]
    fn inverted(
        &self,
        findings: &mut Findings,
        actor: &Actor<'_>,
        doing: Doing,
        (kind, hold, (resource, mode)): (Kind, Hold, (Resource, Mode)),
        moment: Moment,
    ) {
        let key = Key {
            kind,
            filesystem: doing.filesystem,
            operation: doing.operation,
            class: resource.class,
            observed: Observed::Holding(hold.resource.class, hold.mode),
            hook: moment.hook,
        };
        let act = Act::Take {
            mode,
            same: hold.resource.owner == resource.owner,
        };
        let more = vec![self.took(actor.task, doing.operation, &hold)];
        findings.add(key, &self.witness(actor, doing, act, more, moment));
    }

    #[cold]
    fn recursive(
        &self,
        findings: &mut Findings,
        actor: &Actor<'_>,
        doing: Doing,
        (hold, mode): (Hold, Mode),
        moment: Moment,
    ) {
        // Handles nest, and transactions of one task do too if they reserve nothing.
        if !is_rwsem(hold.resource.class) && hold.resource.class != LockClass::DaxEntry {
            return;
        }
        let key = Key {
            kind: Kind::RecursiveLock,
            filesystem: doing.filesystem,
            operation: doing.operation,
            class: hold.resource.class,
            observed: Observed::Holding(hold.resource.class, hold.mode),
            hook: moment.hook,
        };
        let act = Act::Take { mode, same: true };
        let more = vec![self.took(actor.task, doing.operation, &hold)];
        findings.add(key, &self.witness(actor, doing, act, more, moment));
    }

    fn witness(
        &self,
        actor: &Actor<'_>,
        doing: Doing,
        act: Act,
        more: Vec<Party>,
        moment: Moment,
    ) -> Witness {
        Witness {
            scope: None,
            entered: doing.entered,
            time: moment.time,
            act,
            inode: doing.inode,
            range: ByteRange::ALL,
            size: 0,
            locks: actor.seen(moment.time),
            actor: Party {
                task: actor.task,
                role: Role::Actor(doing.operation),
                stack: moment.stack,
            },
            other: None,
            more,
        }
    }

    /// A task sleeps until pages of `inode` are no longer pinned.
    pub fn wait_for_pins(
        &mut self,
        findings: &mut Findings,
        actor: &Actor<'_>,
        doing: Doing,
        inode: InodeIndex,
        moment: Moment,
    ) {
        let exclusion = Resource {
            class: LockClass::InvalidateLock,
            owner: Owner::Inode(inode),
        };
        let held = actor
            .account
            .held(actor.locks)
            .find(|hold| hold.resource == exclusion);
        let Some(hold) = held else {
            return;
        };
        let key = Key {
            kind: Kind::WaitHoldingLock,
            filesystem: doing.filesystem,
            operation: doing.operation,
            class: LockClass::InvalidateLock,
            observed: Observed::Waiting(LockClass::PagePin, hold.mode),
            hook: moment.hook,
        };
        let more = vec![self.took(actor.task, doing.operation, &hold)];
        findings.add(key, &self.witness(actor, doing, Act::Wait, more, moment));
    }

    /// Tells the cycles that became known since the last time.
    pub fn predict(&mut self, findings: &mut Findings, files: &Files) {
        for cycle in self.predictor.predict() {
            let members: Vec<&Dependency> = cycle
                .dependencies
                .iter()
                .map(|&index| self.predictor.get(index))
                .collect();
            let Some((key, at)) = self.name(&members, files) else {
                continue;
            };
            let witness = self.inversion(&members, at);
            // An act against a documented order was counted when it happened.
            let counted = cycle.again
                || matches!(key.observed, Observed::Holding(held, _)
                    if self.documented.broken(key.filesystem, held, key.class).is_some());
            let known = findings.find(key).filter(|_| counted);
            let index = known.unwrap_or_else(|| findings.add(key, &witness));
            if cycle.scheduled {
                findings.observe(index, witness);
            }
        }
    }

    /// The finding that a cycle is, and which of its members it is told of: the one that breaks a
    /// documented order, or else the first by a fixed order.
    fn name(&self, members: &[&Dependency], files: &Files) -> Option<(Key, usize)> {
        let step = |at: usize| {
            let (member, before) = (
                members[at],
                members[(at + members.len() - 1) % members.len()],
            );
            let hold = member
                .held
                .iter()
                .find(|hold| hold.resource == before.wanted)?;
            let filesystem = files.get(member.inode).filesystem?;
            let broken =
                self.documented
                    .broken(filesystem, hold.resource.class, member.wanted.class);
            let key = Key {
                kind: broken.map_or(Kind::LockOrder, |order| order.kind),
                filesystem,
                operation: member.operation,
                class: member.wanted.class,
                observed: Observed::Holding(hold.resource.class, hold.mode),
                hook: member.hook,
            };
            Some((broken.is_none(), key, at))
        };
        let mut steps: Vec<_> = (0..members.len()).filter_map(step).collect();
        steps.sort_by_key(|(documented, key, _)| {
            (*documented, key.operation, key.class, key.observed)
        });
        steps.first().map(|&(_, key, at)| (key, at))
    }

    /// A cycle as a finding shows it, member `at` first.
    fn inversion(&self, members: &[&Dependency], at: usize) -> Witness {
        let mut locks = Vec::new();
        let mut more = Vec::new();
        for step in 0..members.len() {
            let member = members[(at + step) % members.len()];
            let before = members[(at + step + members.len() - 1) % members.len()];
            for hold in &member.held {
                locks.push(LockSeen {
                    task: member.task,
                    inode: hold.resource.owner.inode(),
                    class: hold.resource.class,
                    mode: hold.mode,
                    held_ns: member.at.0.saturating_sub(hold.since.0),
                });
            }
            if step > 0 {
                more.push(Party {
                    task: member.task,
                    role: Role::Inverse {
                        operation: member.operation,
                        takes: member.wanted.class,
                        holding: before.wanted.class,
                    },
                    stack: member.stack,
                });
            }
            if let Some(hold) = member
                .held
                .iter()
                .find(|hold| hold.resource == before.wanted)
            {
                more.push(self.took(member.task, member.operation, hold));
            }
        }
        let first = members[at];
        let before = members[(at + members.len() - 1) % members.len()];
        Witness {
            scope: None,
            entered: first.entered,
            time: first.at,
            act: Act::Take {
                mode: first.mode,
                same: before.wanted.owner == first.wanted.owner,
            },
            inode: first.inode,
            range: ByteRange::ALL,
            size: 0,
            locks,
            actor: Party {
                task: first.task,
                role: Role::Actor(first.operation),
                stack: first.stack,
            },
            other: None,
            more,
        }
    }
}

fn dependency(
    actor: &Actor<'_>,
    doing: Doing,
    (wanted, mode): (Resource, Mode),
    moment: Moment,
) -> Dependency {
    Dependency {
        task: actor.task,
        wanted,
        mode,
        at: moment.time,
        held: actor.account.held(actor.locks).collect(),
        recent: Some(Box::new(actor.account.recent.clone())),
        operation: doing.operation,
        inode: doing.inode,
        entered: doing.entered,
        hook: moment.hook,
        stack: moment.stack,
    }
}

/// True for the kernel's read-write semaphores.
fn is_rwsem(class: LockClass) -> bool {
    use LockClass::{IDataSem, IMmapRwsem, IRwsem, Ilock, InvalidateLock, MmapLock, XattrSem};
    matches!(
        class,
        IRwsem | InvalidateLock | IMmapRwsem | Ilock | IDataSem | XattrSem | MmapLock
    )
}
