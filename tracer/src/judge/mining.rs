//! Rule mining: which locks were in fact held at each phase of each operation, and how consistently.
//!
//! Knows no rule: it counts locksets. For a filesystem that has no table yet, and to hold the tables
//! that there are against what kernels do.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    hooks::{FilesystemKind, LockClass, Mode},
    judge::{inode::InodeIndex, lockset::LockSet, operations::Operation, task::TaskId},
    units::{HookId, Nanos, StackId, Tid},
};

/// What an operation does, as far as locks matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It looks for pinned pages.
    Scan,
    /// It tears down translations, pages or DAX entries.
    Invalidate,
    /// It changes mapped extents.
    Change,
    /// It adds blocks.
    Allocate,
    /// It installs a translation.
    Install,
    /// It reads or writes bytes of a DAX file.
    Transfer,
}

impl Phase {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Invalidate => "invalidate",
            Self::Change => "change",
            Self::Allocate => "allocate",
            Self::Install => "install",
            Self::Transfer => "transfer",
        }
    }
}

/// Where locks are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// On which kind of filesystem.
    pub filesystem: FilesystemKind,
    /// With DAX or through the page cache.
    pub dax: bool,
    /// In what.
    pub operation: Operation,
    /// At which step.
    pub phase: Phase,
    /// The hook that saw it.
    pub hook: HookId,
}

/// An act that was done otherwise than most.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// By whom.
    pub task: TaskId,
    /// When.
    pub time: Nanos,
    /// Where, if a stack was taken.
    pub stack: Option<StackId>,
}

/// How often a lock was held in which way, with the first example that has a stack, or else the first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    counts: [u64; MODES],
    examples: [Option<Example>; MODES],
}

/// Not held, shared, exclusive.
const MODES: usize = 3;

fn slot(mode: Option<Mode>) -> usize {
    mode.map_or(0, |mode| mode as usize + 1)
}

const WAYS: [Option<Mode>; MODES] = [None, Some(Mode::Shared), Some(Mode::Excl)];

/// Locks counted at one place.
#[derive(Clone, Debug, Default)]
struct Row {
    acts: u64,
    by_class: BTreeMap<LockClass, Tally>,
}

/// Everything that was counted.
#[derive(Clone, Debug, Default)]
pub struct Mining {
    rows: BTreeMap<Place, Row>,
}

impl Mining {
    /// Counts an act of `task` on a file, with the locks of that file that it holds. `inherited` is a
    /// lock that its caller holds, unseen.
    pub fn act(
        &mut self,
        place: Place,
        inode: InodeIndex,
        locks: &LockSet,
        inherited: Option<(LockClass, Mode)>,
        example: Example,
    ) {
        let row = self.rows.entry(place).or_default();
        row.acts += 1;
        let held = locks
            .iter()
            .filter(|held| held.inode == inode)
            .map(|held| (held.class, held.hold.mode))
            .chain(inherited);
        let mut modes: BTreeMap<LockClass, Mode> = BTreeMap::new();
        for (class, mode) in held {
            let strongest = modes.entry(class).or_insert(mode);
            *strongest = (*strongest).max(mode);
        }
        for &class in modes.keys() {
            row.by_class.entry(class).or_insert_with(|| Tally {
                // Acts before this one came without it.
                counts: [row.acts - 1, 0, 0],
                examples: [None; MODES],
            });
        }
        for (class, tally) in &mut row.by_class {
            let at = slot(modes.get(class).copied());
            tally.counts[at] += 1;
            let known = &mut tally.examples[at];
            if known.is_none_or(|known| known.stack.is_none() && example.stack.is_some()) {
                *known = Some(example);
            }
        }
    }

    /// What the counts say.
    pub fn hypotheses(&self) -> Vec<Hypothesis> {
        self.rows
            .iter()
            .flat_map(|(&place, row)| {
                row.by_class
                    .iter()
                    .map(move |(&class, tally)| Hypothesis::new(place, row.acts, class, tally))
            })
            .collect()
    }
}

/// Acts that contradict a hypothesis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exception {
    /// How the lock was held; none: not at all.
    pub mode: Option<Mode>,
    /// How often.
    pub count: u64,
    /// By whom, one of them.
    pub task: Option<Tid>,
    /// When, that one, CLOCK_MONOTONIC.
    pub time_ns: Option<Nanos>,
    /// Its stack's number in the trace.
    #[serde(skip)]
    pub stack: Option<StackId>,
    /// Its stack.
    pub frames: Vec<String>,
}

/// "In this phase of this operation this lock is held in this mode."
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hypothesis {
    /// On which kind of filesystem.
    pub filesystem: FilesystemKind,
    /// With DAX or through the page cache.
    pub dax: bool,
    /// In what.
    pub operation: Operation,
    /// At which step.
    pub phase: Phase,
    /// The hook that saw it.
    #[serde(skip)]
    pub hook: HookId,
    /// The function or tracepoint.
    pub target: String,
    /// The lock.
    pub class: &'static str,
    /// How it is held; none: not at all, most of the time.
    pub mode: Option<Mode>,
    /// Acts that agree.
    pub support: u64,
    /// All acts.
    pub acts: u64,
    /// Acts that do not agree.
    pub exceptions: Vec<Exception>,
}

impl Hypothesis {
    fn new(place: Place, acts: u64, class: LockClass, tally: &Tally) -> Self {
        let best = (0..MODES)
            .max_by_key(|&at| (tally.counts[at], at))
            .unwrap_or_default();
        let exceptions = (0..MODES)
            .filter(|&at| at != best && tally.counts[at] > 0)
            .map(|at| Exception {
                mode: WAYS[at],
                count: tally.counts[at],
                task: tally.examples[at].map(|example| example.task.tid),
                time_ns: tally.examples[at].map(|example| example.time),
                stack: tally.examples[at].and_then(|example| example.stack),
                frames: Vec::new(),
            })
            .collect();
        Self {
            filesystem: place.filesystem,
            dax: place.dax,
            operation: place.operation,
            phase: place.phase,
            hook: place.hook,
            target: String::new(),
            class: class.name(),
            mode: WAYS[best],
            support: tally.counts[best],
            acts,
            exceptions,
        }
    }

    /// Share of the acts that agree.
    pub fn confidence(&self) -> f64 {
        self.support as f64 / self.acts.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        filesystem: FilesystemKind::Xfs,
        dax: true,
        operation: Operation::PunchHole,
        phase: Phase::Change,
        hook: HookId(0),
    };
    const INODE: InodeIndex = InodeIndex(0);

    fn example(stack: Option<u32>) -> Example {
        Example {
            task: TaskId::default(),
            time: Nanos(1),
            stack: stack.map(StackId),
        }
    }

    #[test]
    fn the_commonest_mode_is_the_hypothesis_and_the_rest_are_exceptions() {
        let mut mining = Mining::default();
        let none = LockSet::default();
        let mut held = LockSet::default();
        held.acquire(INODE, LockClass::InvalidateLock, Mode::Excl, Nanos(0), None);
        mining.act(PLACE, INODE, &none, None, example(None));
        mining.act(PLACE, INODE, &none, None, example(Some(9)));
        for _ in 0..3 {
            mining.act(PLACE, INODE, &held, None, example(None));
        }
        let found = mining.hypotheses();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].mode, found[0].support, found[0].acts),
            (Some(Mode::Excl), 3, 5)
        );
        assert_eq!(found[0].exceptions.len(), 1);
        assert_eq!(
            (found[0].exceptions[0].mode, found[0].exceptions[0].count),
            (None, 2)
        );
    }

    #[test]
    fn locks_of_other_files_do_not_count_and_those_of_the_caller_do() {
        let mut mining = Mining::default();
        let mut other = LockSet::default();
        other.acquire(
            InodeIndex(1),
            LockClass::InvalidateLock,
            Mode::Excl,
            Nanos(0),
            None,
        );
        let caller = Some((LockClass::IRwsem, Mode::Excl));
        mining.act(PLACE, INODE, &other, caller, example(None));
        let found = mining.hypotheses();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].class, found[0].mode),
            ("i_rwsem", Some(Mode::Excl))
        );
    }
}
