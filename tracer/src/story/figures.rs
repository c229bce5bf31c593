//! The model's figures, as every face prints them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    hooks::FilesystemKind,
    judge::{
        Owner,
        facts::Outcome,
        operations::{FaultKind, Operation},
    },
    story::{
        Story,
        statistics::{Spans, Use},
    },
    units::{Ino, StackId},
};

/// Name and version of the format; documented in docs/stats.md.
pub const SCHEMA: &str = "faultline.stats/2";

/// A distribution of durations, nanoseconds. Percentiles are right to two digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub total_ns: u64,
    /// The shortest.
    pub min_ns: u64,
    /// The median.
    pub p50_ns: u64,
    /// The 90th percentile.
    pub p90_ns: u64,
    /// The 99th percentile.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Spread {
    fn of(spans: &Spans) -> Self {
        if spans.count() == 0 {
            return Self::default();
        }
        Self {
            count: spans.count(),
            total_ns: spans.total(),
            min_ns: spans.shortest(),
            p50_ns: spans.quantile(0.5),
            p90_ns: spans.quantile(0.9),
            p99_ns: spans.quantile(0.99),
            max_ns: spans.longest(),
        }
    }

    /// The mean, 0 of none.
    pub fn mean_ns(&self) -> u64 {
        self.total_ns / self.count.max(1)
    }
}

/// How locks were used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LockFigures {
    /// Acquisitions in shared mode.
    pub shared: u64,
    /// Acquisitions in exclusive mode.
    pub exclusive: u64,
    /// Waits that began.
    pub waits: u64,
    /// Waits that ended with the lock.
    pub wait: Spread,
    /// Holds that ended.
    pub hold: Spread,
}

impl LockFigures {
    fn of(uses: &Use) -> Self {
        Self {
            shared: uses.shared,
            exclusive: uses.exclusive,
            waits: uses.waits,
            wait: Spread::of(&uses.waited),
            hold: Spread::of(&uses.held),
        }
    }

    /// Acquisitions.
    pub fn acquisitions(&self) -> u64 {
        self.shared + self.exclusive
    }
}

/// A class of locks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassFigures {
    /// Whose.
    pub filesystem: FilesystemKind,
    /// Its name.
    pub class: &'static str,
    /// Its use.
    #[serde(flatten)]
    pub figures: LockFigures,
}

/// A class of locks within one kind of operation or fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallerFigures {
    /// Whose.
    pub filesystem: FilesystemKind,
    /// Its name.
    pub class: &'static str,
    /// What the task was doing.
    pub operation: Operation,
    /// Its use.
    #[serde(flatten)]
    pub figures: LockFigures,
}

/// One lock, or those of one file's pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceFigures {
    /// Whose, if it is a file's of a filesystem that is watched.
    pub filesystem: Option<FilesystemKind>,
    /// Its class.
    pub class: &'static str,
    /// Whose, if it is a file's: `i_ino`.
    pub inode: Option<Ino>,
    /// Whose, if it is an address space's: the process.
    pub process: Option<u32>,
    /// Of the file; empty if it is none's, or not known.
    pub path: String,
    /// Its use.
    #[serde(flatten)]
    pub figures: LockFigures,
}

impl InstanceFigures {
    /// Whose it is, for people.
    pub fn owner(&self) -> String {
        match (self.inode, self.process) {
            (Some(inode), _) => format!("{inode} {}", self.path.rsplit('/').next().unwrap_or("")),
            (None, Some(pid)) => format!("process {pid}"),
            (None, None) => "the filesystem".to_owned(),
        }
    }
}

/// A kind of operation, or its windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OperationFigures {
    /// Where.
    pub filesystem: FilesystemKind,
    /// Which.
    pub operation: Operation,
    /// How long they took.
    #[serde(flatten)]
    pub spread: Spread,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FaultFigures {
    /// Where.
    pub filesystem: FilesystemKind,
    /// Which.
    pub fault: FaultKind,
    /// How long they took.
    #[serde(flatten)]
    pub spread: Spread,
}

/// A place where locks were waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WaitStack {
    /// Which locks.
    pub class: &'static str,
    /// What the task was doing.
    pub operation: Operation,
    /// Waits that ended with the lock.
    pub count: u64,
    /// How long together, nanoseconds.
    pub total_ns: u64,
    /// Its number in the trace.
    #[serde(skip)]
    pub stack: StackId,
    /// Innermost first; empty until resolved.
    pub frames: Vec<String>,
}

/// Faults that returned, by what became of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// Met no window.
    pub clear: u64,
    /// In flight while a window was open, and neither waited for it nor came into it.
    pub beside: u64,
    /// Waited for the exclusion lock while a window was open.
    pub held_off: u64,
    /// Came into a window with no lock between them.
    pub inside: u64,
}

/// Everything counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// From the start to the last event, nanoseconds.
    pub elapsed_ns: u64,
    /// Events.
    pub events: u64,
    /// Faults left out for each that was recorded.
    pub left_out: u16,
    /// Faults by what became of them.
    pub outcomes: Outcomes,
    /// By class of locks.
    pub locks: Vec<ClassFigures>,
    /// By class and by what the task was doing.
    pub callers: Vec<CallerFigures>,
    /// By lock, the most acquired first.
    pub instances: Vec<InstanceFigures>,
    /// Acquisitions of locks that are told apart no longer.
    pub other_instances: u64,
    /// Operations.
    pub operations: Vec<OperationFigures>,
    /// Faults.
    pub faults: Vec<FaultFigures>,
    /// Windows.
    pub windows: Vec<OperationFigures>,
    /// Where locks were waited for, the longest first.
    pub wait_stacks: Vec<WaitStack>,
}

impl Figures {
    pub(super) fn of(story: &Story) -> Self {
        let statistics = story.statistics();
        let [clear, beside, held_off, inside] = story.timeline().outcomes();
        debug_assert_eq!(Outcome::ALL[3], Outcome::Inside);
        let mut instances: Vec<_> = statistics
            .instances
            .iter()
            .map(|(lock, uses)| {
                let file = lock.owner.inode().map(|inode| story.file(inode));
                let process = match lock.owner {
                    Owner::Process(pid) => Some(pid),
                    _ => None,
                };
                InstanceFigures {
                    filesystem: file.as_ref().and_then(|file| file.filesystem),
                    class: lock.class.name(),
                    inode: file.as_ref().map(|file| file.ino),
                    process,
                    path: file.map(|file| file.path).unwrap_or_default(),
                    figures: LockFigures::of(uses),
                }
            })
            .collect();
        instances.sort_by(|a, b| {
            let place = |of: &InstanceFigures| (of.inode, of.process, of.class);
            b.figures
                .acquisitions()
                .cmp(&a.figures.acquisitions())
                .then_with(|| place(a).cmp(&place(b)))
        });
        let mut wait_stacks: Vec<_> = statistics
            .wait_stacks
            .iter()
            .map(
                |(&(class, operation, stack), &(count, total_ns))| WaitStack {
                    class: class.name(),
                    operation,
                    count,
                    total_ns,
                    stack,
                    frames: Vec::new(),
                },
            )
            .collect();
        wait_stacks.sort_by_key(|wait| (std::cmp::Reverse(wait.total_ns), wait.stack));
        let operations = |map: &BTreeMap<(FilesystemKind, Operation), Spans>| {
            map.iter()
                .map(|(&(filesystem, operation), spans)| OperationFigures {
                    filesystem,
                    operation,
                    spread: Spread::of(spans),
                })
                .collect()
        };
        Self {
            schema: SCHEMA,
            elapsed_ns: statistics.elapsed(),
            events: story.judge().events(),
            left_out: story.left_out(),
            outcomes: Outcomes {
                clear,
                beside,
                held_off,
                inside,
            },
            locks: statistics
                .classes
                .iter()
                .map(|(&(filesystem, class), uses)| ClassFigures {
                    filesystem,
                    class: class.name(),
                    figures: LockFigures::of(uses),
                })
                .collect(),
            callers: statistics
                .callers
                .iter()
                .map(|(&(filesystem, class, operation), uses)| CallerFigures {
                    filesystem,
                    class: class.name(),
                    operation,
                    figures: LockFigures::of(uses),
                })
                .collect(),
            instances,
            other_instances: statistics.others,
            operations: operations(&statistics.operations),
            faults: statistics
                .faults
                .iter()
                .map(|(&(filesystem, fault), spans)| FaultFigures {
                    filesystem,
                    fault,
                    spread: Spread::of(spans),
                })
                .collect(),
            windows: operations(&statistics.windows),
            wait_stacks,
        }
    }

    /// Puts the trace's stacks in.
    pub fn resolve(&mut self, stacks: &[crate::trace::Stack]) {
        let by_id: BTreeMap<_, _> = stacks
            .iter()
            .map(|stack| (stack.id, &stack.frames))
            .collect();
        for wait in &mut self.wait_stacks {
            if let Some(frames) = by_id.get(&wait.stack) {
                wait.frames.clone_from(frames);
            }
        }
    }
}
