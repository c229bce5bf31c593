//! Cycles in the order in which tasks take resources, and whether a schedule of this very run closes
//! them.
//!
//! Soundness: a pattern of acquisitions, each by another task holding what the next one wants, is a
//! deadlock if every task can get to the point right before its acquisition with all of them there at
//! once. Tasks' own order is the only causality that a recording of locks shows, so by the theory of
//! sync-preserving deadlocks (Tunç, Mathur, Pavlogiannis, Viswanathan, PLDI 2023) the run's own order
//! of critical sections can be kept iff no task of the pattern, on its way to its acquisition, takes
//! what another one holds in the pattern after that one took it. Else the order is inverted all the
//! same, though this run does not show a schedule.

use petgraph::{algo::tarjan_scc, graphmap::DiGraphMap};

use crate::{
    hooks::{LockClass, Mode},
    judge::{
        hash::Map,
        inode::InodeIndex,
        operations::Operation,
        order::resource::{Hold, Recent, Resource, excludes},
        task::TaskId,
    },
    units::{HookId, Nanos, StackId},
};

/// Dependencies kept; what comes later can only silence a prediction.
const DEPENDENCIES: usize = 1 << 17;
/// Of those, dependencies that keep what their task took before.
const REMEMBERED: usize = 1 << 12;
/// Witnesses tried for one edge of a cycle.
const WITNESSES: usize = 8;
/// Tasks in a cycle.
const LONGEST: usize = 6;
/// Steps of one search for cycles.
const STEPS: usize = 1 << 21;

/// A task took something, or asked for it, while it held something else.
#[derive(Clone, Debug)]
pub struct Dependency {
    /// Who.
    pub task: TaskId,
    /// What.
    pub wanted: Resource,
    /// How.
    pub mode: Mode,
    /// When.
    pub at: Nanos,
    /// What it held.
    pub held: Vec<Hold>,
    /// What it had taken before.
    pub recent: Option<Box<Recent>>,
    /// In what.
    pub operation: Operation,
    /// On which file.
    pub inode: InodeIndex,
    /// When the operation began.
    pub entered: Nanos,
    /// What saw it.
    pub hook: HookId,
    /// Where, if a stack was taken.
    pub stack: Option<StackId>,
}

impl Dependency {
    fn is_like(&self, other: &Self) -> bool {
        let held = |dependency: &Self| -> Vec<_> {
            dependency
                .held
                .iter()
                .map(|hold| (hold.resource, hold.mode))
                .collect()
        };
        (self.task, self.wanted, self.mode) == (other.task, other.wanted, other.mode)
            && held(self) == held(other)
    }

    fn holds(&self, resource: Resource) -> Option<&Hold> {
        self.held.iter().find(|hold| hold.resource == resource)
    }
}

/// A cycle that can close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// Each holds what the one before wants; the first holds what the last wants.
    pub dependencies: Vec<usize>,
    /// Some schedule of this very run closes it.
    pub scheduled: bool,
    /// It was told before, without a schedule.
    pub again: bool,
}

/// The dependencies of a run that may take part in cycles.
#[derive(Debug, Default)]
pub struct Predictor {
    dependencies: Vec<Dependency>,
    by_likeness: Map<u64, usize>,
    /// Numbers of resources.
    numbers: Map<Resource, u32>,
    resources: Vec<Resource>,
    /// Held, wanted: who did.
    edges: Map<(u32, u32), Vec<usize>>,
    /// Classes that somebody took exclusively.
    written: u32,
    /// Cycles told already: by their resources, and whether with a schedule.
    told: Map<u64, bool>,
    changed: bool,
}

/// Readers of these always have somebody who may queue behind them: mmap(2), a commit, a freeze.
const ALWAYS_WRITTEN: [LockClass; 5] = [
    LockClass::MmapLock,
    LockClass::VmaLock,
    LockClass::FreezePagefault,
    LockClass::Handle,
    LockClass::Transaction,
];

fn fold(parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, part| {
        (hash ^ part)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}

impl Predictor {
    /// Somebody took `class` exclusively.
    #[inline]
    pub fn written(&mut self, class: LockClass) {
        self.written |= 1 << class as u32;
    }

    /// A dependency by its place in a [`Cycle`].
    pub fn get(&self, index: usize) -> &Dependency {
        &self.dependencies[index]
    }

    fn number(&mut self, resource: Resource) -> u32 {
        let next = self.resources.len() as u32;
        let number = *self.numbers.entry(resource).or_insert(next);
        if number == next {
            self.resources.push(resource);
        }
        number
    }

    /// Takes a dependency in; of those alike the first is kept, unless only a later one has a stack.
    pub fn depend(&mut self, new: Dependency) {
        let wanted = self.number(new.wanted);
        let held: Vec<u32> = new
            .held
            .iter()
            .map(|hold| self.number(hold.resource))
            .collect();
        let likeness = fold(
            [
                u64::from(new.task.tid.0) << 32 | u64::from(new.task.reuse),
                u64::from(wanted) << 1 | new.mode as u64,
            ]
            .into_iter()
            .chain(
                held.iter()
                    .zip(&new.held)
                    .map(|(&number, hold)| u64::from(number) << 1 | hold.mode as u64),
            ),
        );
        if let Some(&known) = self.by_likeness.get(&likeness) {
            let known = &mut self.dependencies[known];
            if known.stack.is_none() && new.stack.is_some() && known.is_like(&new) {
                *known = new;
            }
            return;
        }
        if self.dependencies.len() == DEPENDENCIES {
            return;
        }
        let index = self.dependencies.len();
        self.by_likeness.insert(likeness, index);
        let mut new = new;
        if index >= REMEMBERED {
            new.recent = None;
        }
        self.dependencies.push(new);
        for number in held {
            if number != wanted {
                self.edges.entry((number, wanted)).or_default().push(index);
            }
        }
        self.changed = true;
    }

    /// Cycles that were not told before, or not with a schedule.
    pub fn predict(&mut self) -> Vec<Cycle> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        let graph: DiGraphMap<u32, ()> = self.edges.keys().copied().collect();
        let mut found = Vec::new();
        let mut steps = STEPS;
        for component in tarjan_scc(&graph) {
            if component.len() < 2 {
                continue;
            }
            let mut members = component;
            members.sort_unstable();
            for &root in &members {
                let mut path = vec![root];
                self.walk(&graph, &members, &mut path, &mut steps, &mut found);
            }
        }
        found
    }

    /// Every simple cycle through `path[0]` and members after it.
    fn walk(
        &mut self,
        graph: &DiGraphMap<u32, ()>,
        members: &[u32],
        path: &mut Vec<u32>,
        steps: &mut usize,
        found: &mut Vec<Cycle>,
    ) {
        let (root, last) = (path[0], path[path.len() - 1]);
        let mut next: Vec<u32> = graph
            .neighbors(last)
            .filter(|node| *node >= root && members.binary_search(node).is_ok())
            .collect();
        next.sort_unstable();
        for node in next {
            if *steps == 0 {
                return;
            }
            *steps -= 1;
            if node == root {
                found.extend(self.close(path));
            } else if path.len() < LONGEST && !path.contains(&node) {
                path.push(node);
                self.walk(graph, members, path, steps, found);
                path.pop();
            }
        }
    }

    /// The cycle of resources `path`, if tasks can close it and that is news.
    fn close(&mut self, path: &[u32]) -> Option<Cycle> {
        let key = fold(path.iter().map(|&node| u64::from(node)));
        if self.told.get(&key) == Some(&true) {
            return None;
        }
        // In the order in which the tasks wait for each other: each wants what the next one holds.
        let witnesses: Vec<&[usize]> = (0..path.len())
            .map(|at| {
                let edge = (path[at], path[(at + 1) % path.len()]);
                let all = self.edges.get(&edge).map_or(&[][..], Vec::as_slice);
                &all[..all.len().min(WITNESSES)]
            })
            .collect();
        let mut chosen = Vec::with_capacity(path.len());
        let mut best = None;
        self.choose(path, &witnesses, &mut chosen, &mut best);
        let mut cycle = best?;
        cycle.again = self.told.insert(key, cycle.scheduled).is_some();
        (!cycle.again || cycle.scheduled).then_some(cycle)
    }

    fn choose(
        &self,
        path: &[u32],
        witnesses: &[&[usize]],
        chosen: &mut Vec<usize>,
        best: &mut Option<Cycle>,
    ) {
        if best.as_ref().is_some_and(|best| best.scheduled) {
            return;
        }
        let Some(&candidates) = witnesses.get(chosen.len()) else {
            if self.blocks(path, chosen) {
                let scheduled = self.scheduled(chosen);
                if scheduled || best.is_none() {
                    *best = Some(Cycle {
                        dependencies: chosen.clone(),
                        scheduled,
                        again: false,
                    });
                }
            }
            return;
        };
        for &candidate in candidates {
            let new = &self.dependencies[candidate];
            let apart = chosen.iter().all(|&other| {
                let other = &self.dependencies[other];
                other.task != new.task && !gated(other, new)
            });
            if apart {
                chosen.push(candidate);
                self.choose(path, witnesses, chosen, best);
                chosen.pop();
            }
        }
    }

    /// Each wants what the next one holds in a mode that makes it wait: at once, or behind a writer
    /// that queues for it, since the kernel's rwsems are fair.
    fn blocks(&self, path: &[u32], chosen: &[usize]) -> bool {
        (0..chosen.len()).all(|at| {
            let wants = &self.dependencies[chosen[at]];
            let next = (at + 1) % chosen.len();
            let holds = &self.dependencies[chosen[next]];
            let resource = self.resources[path[next] as usize];
            let class = resource.class;
            holds.holds(resource).is_some_and(|hold| {
                excludes(wants.mode, hold.mode)
                    || self.written & 1 << class as u32 != 0
                    || ALWAYS_WRITTEN.contains(&class)
            })
        })
    }

    /// See the module.
    fn scheduled(&self, chosen: &[usize]) -> bool {
        let all = || chosen.iter().map(|&index| &self.dependencies[index]);
        all().all(|walker| {
            let Some(recent) = &walker.recent else {
                return false;
            };
            all()
                .filter(|holder| holder.task != walker.task)
                .flat_map(|holder| &holder.held)
                .all(|hold| hold.since > walker.at || recent.last(hold.resource) < hold.since)
        })
    }
}

/// Both hold something that keeps the one out while the other has it.
fn gated(one: &Dependency, other: &Dependency) -> bool {
    one.held.iter().any(|hold| {
        other
            .holds(hold.resource)
            .is_some_and(|also| excludes(hold.mode, also.mode))
    })
}
