//! Who waits for whom now: cycles that persist, and waits that nobody will end.

use std::collections::BTreeSet;

use petgraph::{Direction, algo::tarjan_scc, graphmap::DiGraphMap};

use crate::{
    hooks::{LockClass, Mode},
    judge::{
        finding::{Act, Findings, Key, LockSeen, Party, Role, Witness},
        inode::{Files, InodeIndex},
        operations::Operation,
        rules::{Kind, Observed},
        task::{Task, TaskId, Tasks},
    },
    units::{ByteRange, Nanos, StackId},
};

use super::{
    Actor, Doing, Moment, Order,
    resource::{Resource, Wait, excludes},
    seen,
};

/// How often waits are looked at, in the run's own time.
const EVERY: u64 = 250_000_000;
/// A cycle that lasts this long is a deadlock: longer than records of different CPUs take to meet.
const CYCLE: u64 = 500_000_000;
/// A wait for something whose holder went back to user space with it.
const ABANDONED: u64 = 1_000_000_000;
/// Any other wait: within the 120 s after which the kernel's own hung-task check speaks
/// (kernel/hung_task.c), and longer than a freeze or a slow device explains.
const STALL: u64 = 30_000_000_000;

/// A lock that outlived its operation.
#[derive(Clone, Copy, Debug)]
pub struct Leak {
    /// Which.
    pub resource: Resource,
    /// How.
    pub mode: Mode,
    /// Who has it.
    pub task: TaskId,
    /// What it was taken in.
    pub operation: Operation,
    /// When that returned.
    pub returned: Nanos,
    /// Where it was taken, or where the operation returned.
    pub stack: Option<StackId>,
}

/// Tasks shown beside the one that stalls.
const PARTIES: usize = 8;

/// Leaks remembered.
const LEAKS: usize = 1024;

/// What is known of waits so far.
#[derive(Debug, Default)]
pub struct Waits {
    next: Nanos,
    told: BTreeSet<(TaskId, Nanos)>,
    leaks: Vec<Leak>,
}

impl Waits {
    /// True if it is time to look again.
    #[inline]
    pub fn due(&self, now: Nanos) -> bool {
        now >= self.next
    }

    /// A task left a lock behind.
    pub fn leaked(&mut self, leak: Leak) {
        if self.leaks.len() < LEAKS {
            self.leaks.push(leak);
        }
    }

    /// A lock was released by another task than the one that took it; true if somebody had left it behind.
    pub fn mended(&mut self, resource: Resource) -> bool {
        let before = self.leaks.len();
        self.leaks.retain(|leak| leak.resource != resource);
        self.leaks.len() < before
    }
}

/// Why a wait does not end.
enum Cause {
    Leak(Leak),
    Unknown,
}

impl Order {
    /// Looks for waits that will not end.
    pub fn look(&mut self, tasks: &mut Tasks, findings: &mut Findings, files: &Files, now: Nanos) {
        self.waits.next = Nanos(now.0.saturating_add(EVERY));
        let old = |wait: &Wait, limit: u64| now.0.saturating_sub(wait.since.0) >= limit;
        let stuck: Vec<usize> = tasks
            .iter()
            .enumerate()
            .filter(|(_, task)| {
                let wait = task.account.waiting.as_ref();
                wait.is_some_and(|wait| old(wait, CYCLE))
            })
            .map(|(index, _)| index)
            .collect();
        if stuck.is_empty() {
            return;
        }
        for &index in &stuck {
            self.asked(tasks.get(index), findings, files);
        }
        let graph = blockers(tasks, &stuck);
        let mut in_cycles = BTreeSet::new();
        for component in tarjan_scc(&graph) {
            let closed = component.len() > 1
                || component
                    .first()
                    .is_some_and(|&one| graph.contains_edge(one, one));
            if !closed {
                continue;
            }
            in_cycles.extend(component.iter().copied());
            let cycle = shortest(&graph, &component);
            self.deadlocked(tasks, &cycle, findings, files, now);
        }
        for &index in &stuck {
            // What waits for a task that waits is told with that one.
            let first = !graph
                .neighbors(index)
                .any(|holder| stuck.contains(&holder) && holder != index);
            if !in_cycles.contains(&index) && first {
                let others = involved(tasks, &graph, index, now);
                if let Some(task) = tasks.at(index) {
                    self.stalled(task, others, findings, files, now);
                }
            }
        }
    }

    /// What a wait that lasts would be as an acquisition.
    fn asked(&mut self, task: &mut Task, findings: &mut Findings, files: &Files) {
        let Some(wait) = task.account.waiting else {
            return;
        };
        let Some(doing) = doing(&wait, files) else {
            return;
        };
        if self.waits.told.contains(&(task.id, wait.since)) {
            return;
        }
        let moment = Moment {
            time: wait.since,
            hook: wait.hook,
            stack: wait.stack,
        };
        let mut actor = Actor::of(task);
        self.nested(
            (findings, files),
            &mut actor,
            doing,
            (wait.resource, wait.mode),
            moment,
        );
    }

    fn deadlocked(
        &mut self,
        tasks: &mut Tasks,
        cycle: &[usize],
        findings: &mut Findings,
        files: &Files,
        now: Nanos,
    ) {
        let members: Vec<(&Task, Wait)> = cycle
            .iter()
            .filter_map(|&index| {
                let task = tasks.at(index)?;
                Some((task, task.account.waiting?))
            })
            .collect();
        let news = members
            .iter()
            .any(|(task, wait)| self.waits.told.insert((task.id, wait.since)));
        if !news {
            return;
        }
        // The one that breaks a documented order, or else the first by a fixed order.
        let blame = |(task, wait): &(&Task, Wait)| {
            let filesystem = files.get(wait.inode).filesystem;
            let breaks = task.account.held(&task.locks).any(|hold| {
                filesystem.is_some_and(|filesystem| {
                    self.documented
                        .broken(filesystem, hold.resource.class, wait.resource.class)
                        .is_some()
                })
            });
            (!breaks, wait.operation, wait.resource.class)
        };
        let Some(first) = (0..members.len()).min_by_key(|&at| blame(&members[at])) else {
            return;
        };
        let (task, wait) = members[first];
        let Some(doing) = doing(&wait, files) else {
            return;
        };
        let key = Key {
            kind: Kind::Deadlock,
            filesystem: doing.filesystem,
            operation: doing.operation,
            class: wait.resource.class,
            observed: Observed::Cycle(members.len().min(255) as u8),
            hook: wait.hook,
        };
        let mut locks = Vec::new();
        let mut more = Vec::new();
        for step in 0..members.len() {
            let (task, wait) = members[(first + step) % members.len()];
            locks.extend(seen(task.id, &task.locks, &task.account, now));
            if step > 0 {
                more.push(blocked(task, &wait, now));
            }
        }
        let witness = Witness {
            actor: blocked(task, &wait, now),
            more,
            ..witness(&wait, doing, locks, now)
        };
        let index = findings.add(key, &witness);
        findings.prove(index, witness);
    }

    fn stalled(
        &mut self,
        task: &Task,
        others: Vec<Party>,
        findings: &mut Findings,
        files: &Files,
        now: Nanos,
    ) {
        let Some(wait) = task.account.waiting else {
            return;
        };
        let Some(doing) = doing(&wait, files) else {
            return;
        };
        let leak = self
            .waits
            .leaks
            .iter()
            .find(|leak| leak.resource == wait.resource && excludes(leak.mode, wait.mode));
        let lasted = now.0.saturating_sub(wait.since.0);
        let cause = match leak {
            Some(leak) if lasted >= ABANDONED => Cause::Leak(*leak),
            None if lasted >= STALL => Cause::Unknown,
            _ => return,
        };
        if !self.waits.told.insert((task.id, wait.since)) {
            return;
        }
        let key = Key {
            kind: Kind::Stall,
            filesystem: doing.filesystem,
            operation: doing.operation,
            class: wait.resource.class,
            observed: match cause {
                Cause::Leak(leak) => Observed::Abandoned(leak.mode),
                Cause::Unknown => Observed::NoProgress,
            },
            hook: wait.hook,
        };
        let mut locks = seen(task.id, &task.locks, &task.account, now);
        let more = match cause {
            Cause::Leak(leak) => {
                locks.push(LockSeen {
                    task: leak.task,
                    inode: leak.resource.owner.inode(),
                    class: leak.resource.class,
                    mode: leak.mode,
                    held_ns: now.0.saturating_sub(leak.returned.0),
                });
                vec![Party {
                    task: leak.task,
                    role: Role::Left {
                        operation: leak.operation,
                        class: leak.resource.class,
                        mode: leak.mode,
                    },
                    stack: leak.stack,
                }]
            }
            Cause::Unknown => others,
        };
        let witness = Witness {
            actor: blocked(task, &wait, now),
            more,
            ..witness(&wait, doing, locks, now)
        };
        let index = findings.add(key, &witness);
        findings.prove(index, witness);
    }
}

fn doing(wait: &Wait, files: &Files) -> Option<Doing> {
    Some(Doing {
        operation: wait.operation,
        inode: wait.inode,
        filesystem: files.get(wait.inode).filesystem?,
        entered: wait.entered,
    })
}

fn witness(wait: &Wait, doing: Doing, locks: Vec<LockSeen>, now: Nanos) -> Witness {
    let inode: InodeIndex = doing.inode;
    Witness {
        scope: None,
        entered: doing.entered,
        time: wait.since,
        act: Act::Blocked {
            mode: wait.mode,
            for_ns: now.0.saturating_sub(wait.since.0),
        },
        inode,
        range: ByteRange::ALL,
        size: 0,
        locks,
        actor: Party {
            task: TaskId::default(),
            role: Role::Actor(doing.operation),
            stack: None,
        },
        other: None,
        more: Vec::new(),
    }
}

fn blocked(task: &Task, wait: &Wait, now: Nanos) -> Party {
    let since = task
        .account
        .blocked
        .filter(|blocked| blocked.time >= wait.since);
    Party {
        task: task.id,
        role: Role::Blocked {
            operation: wait.operation,
            class: wait.resource.class,
            mode: wait.mode,
            inode: wait.resource.owner.inode(),
            for_ns: now.0.saturating_sub(wait.since.0),
            state: since.map(|blocked| blocked.state),
        },
        stack: since.and_then(|blocked| blocked.stack).or(wait.stack),
    }
}

/// Who waits for whom: a waiter waits for every task that holds the resource in a mode that excludes
/// its own, and, since the kernel's rwsems are fair, for those that queued for it before.
fn blockers(tasks: &Tasks, stuck: &[usize]) -> DiGraphMap<usize, ()> {
    let mut graph = DiGraphMap::new();
    for &waiter in stuck {
        let Some(wait) = tasks.at(waiter).and_then(|task| task.account.waiting) else {
            continue;
        };
        for (other, task) in tasks.iter().enumerate() {
            let holds = task.account.held(&task.locks).any(|hold| {
                hold.resource == wait.resource
                    && (excludes(hold.mode, wait.mode) || is_commit(wait.resource.class))
            });
            let ahead = other != waiter
                && task.account.waiting.is_some_and(|ahead| {
                    ahead.resource == wait.resource
                        && ahead.since < wait.since
                        && excludes(ahead.mode, wait.mode)
                });
            if holds || ahead {
                graph.add_edge(waiter, other, ());
            }
        }
    }
    graph
}

/// Those who have what a task waits for without waiting themselves, and those who wait for the task.
fn involved(tasks: &Tasks, graph: &DiGraphMap<usize, ()>, index: usize, now: Nanos) -> Vec<Party> {
    let mut parties = Vec::new();
    let wait = tasks.at(index).and_then(|task| task.account.waiting);
    for holder in graph.neighbors(index).filter_map(|holder| tasks.at(holder)) {
        let hold = holder
            .account
            .held(&holder.locks)
            .find(|hold| wait.is_some_and(|wait| wait.resource == hold.resource));
        let seen = holder.account.blocked;
        parties.extend(hold.map(|hold| Party {
            task: holder.id,
            role: Role::Holds {
                class: hold.resource.class,
                mode: hold.mode,
                for_ns: now.0.saturating_sub(hold.since.0),
                state: seen.map(|seen| seen.state),
            },
            stack: seen.and_then(|seen| seen.stack).or(hold.stack),
        }));
    }
    let mut behind = vec![index];
    let mut at = 0;
    while let Some(&blocker) = behind.get(at) {
        at += 1;
        let mut waiters: Vec<_> = graph
            .neighbors_directed(blocker, Direction::Incoming)
            .filter(|waiter| !behind.contains(waiter))
            .collect();
        waiters.sort_unstable();
        behind.extend(waiters);
    }
    parties.extend(behind[1..].iter().filter_map(|&waiter| {
        let task = tasks.at(waiter)?;
        Some(blocked(task, &task.account.waiting?, now))
    }));
    parties.truncate(PARTIES);
    parties
}

/// Whoever waits for one of these waits for a commit, which waits for everybody who has one.
fn is_commit(class: LockClass) -> bool {
    matches!(class, LockClass::Handle)
}

/// A shortest cycle through the first member.
fn shortest(graph: &DiGraphMap<usize, ()>, component: &[usize]) -> Vec<usize> {
    let Some(&root) = component.iter().min() else {
        return Vec::new();
    };
    let mut paths = vec![vec![root]];
    let mut met = BTreeSet::new();
    while let Some(at) = paths.first().cloned() {
        paths.remove(0);
        let last = at[at.len() - 1];
        let mut next: Vec<usize> = graph
            .neighbors(last)
            .filter(|node| component.contains(node))
            .collect();
        next.sort_unstable();
        for node in next {
            if node == root {
                return at;
            }
            if met.insert(node) {
                let mut longer = at.clone();
                longer.push(node);
                paths.push(longer);
            }
        }
    }
    vec![root]
}
