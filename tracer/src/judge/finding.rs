//! Findings: one per mistake, however often it was made, with its best witness.

use serde::{Deserialize, Serialize};

use crate::{
    hooks::{FilesystemKind, LockClass, Mode},
    judge::{
        hash::Map,
        inode::InodeIndex,
        lockset::LockSet,
        operations::Operation,
        rules::{Kind, Observed},
        task::TaskId,
        text::duration,
        translations::Frame,
        window::{FindingIndex, Installed, ScopeId, Window},
    },
    units::{ByteRange, HookId, Ino, Nanos, Pid, StackId, Tid},
};

/// How much was seen; never mixed up, since a tool that cries wolf is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strength {
    /// A rule was broken, though nobody lost a race. One task's program order suffices.
    Predicted,
    /// A fault and a window on the same bytes did overlap with no lock between them. Of orders: every
    /// task of the cycle was seen, and some schedule of this very run closes it.
    Observed,
    /// The damage itself was seen. Of waits: tasks are blocked for good.
    Proven,
}

impl Strength {
    /// The name in findings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Predicted => "predicted",
            Self::Observed => "observed",
            Self::Proven => "proven",
        }
    }
}

/// What makes two occurrences one finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The rule.
    pub kind: Kind,
    /// Where.
    pub filesystem: FilesystemKind,
    /// In what.
    pub operation: Operation,
    /// The lock in question.
    pub class: LockClass,
    /// How it was found.
    pub observed: Observed,
    /// The hook that saw the act.
    pub hook: HookId,
}

/// What was done against the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Extents changed.
    Change,
    /// `i_size` fell or rose, bytes.
    SizeChanged {
        /// From this
        from: u64,
        /// To this
        to: u64,
    },
    /// A translation was installed.
    Install,
    /// Blocks were looked up for a translation.
    LookUp,
    /// `page_mkwrite` let a page become writable.
    Mkwrite,
    /// The operation returned.
    Return,
    /// The lock was released.
    Release,
    /// Something was taken.
    Take {
        /// How.
        mode: Mode,
        /// It and what was held are the same file's, process's or filesystem's.
        same: bool,
    },
    /// The task went to sleep.
    Wait,
    /// The task does not go on.
    Blocked {
        /// How it wants what it waits for.
        mode: Mode,
        /// For how long it has waited, nanoseconds.
        for_ns: u64,
    },
    /// Bytes of a DAX file were written.
    Data,
    /// What was written was made to last.
    Sync,
    /// Blocks were allocated.
    Allocate,
    /// The extent map was changed.
    Map,
    /// Blocks that were reserved for a write were given back.
    TakeBack,
    /// Unwritten blocks became written ones.
    Convert,
    /// Bytes went to or from the medium, beside the page cache.
    Transfer,
    /// Pages read ahead.
    ReadAhead,
    /// Blocks were reserved for pages.
    Reserve,
    /// Pages were dropped.
    Drop,
    /// What lies between the end of the file and a write beyond it was zeroed.
    ZeroTail,
    /// A mapping was used that another task had changed.
    Reuse,
    /// A translation stayed.
    Outlived {
        /// What it names.
        frame: Frame,
        /// Whose that is now, if it was seen.
        by: Option<InodeIndex>,
    },
}

/// What a task has to do with a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It did it, in this operation or fault.
    Actor(Operation),
    /// Its fault overlapped the window.
    Overlapped(Operation),
    /// A fault that the lock would have held off, seen at another time.
    SampledFault,
    /// An extent change that the lock would have held off, seen at another time.
    SampledChange,
    /// It took this before.
    Took {
        /// What.
        class: LockClass,
        /// How.
        mode: Mode,
        /// The stack is of another time that it was taken in this operation.
        sampled: bool,
    },
    /// It takes the two the other way round.
    Inverse {
        /// In what.
        operation: Operation,
        /// What it takes,
        takes: LockClass,
        /// and what it holds then.
        holding: LockClass,
    },
    /// It waits.
    Blocked {
        /// In what.
        operation: Operation,
        /// For what.
        class: LockClass,
        /// How it wants it.
        mode: Mode,
        /// Whose that is, if it is a file's.
        inode: Option<InodeIndex>,
        /// For how long, nanoseconds.
        for_ns: u64,
        /// What the scheduler said of it then, as in /proc/TID/stat.
        state: Option<char>,
    },
    /// It has what the others wait for, and does not wait itself.
    Holds {
        /// What.
        class: LockClass,
        /// How.
        mode: Mode,
        /// For how long, nanoseconds.
        for_ns: u64,
        /// What the scheduler said of it then, as in /proc/TID/stat.
        state: Option<char>,
    },
    /// It returned with a lock.
    Left {
        /// From what.
        operation: Operation,
        /// Which.
        class: LockClass,
        /// How it was held.
        mode: Mode,
    },
}

impl Role {
    /// True if the party was seen at another time than the act.
    pub fn is_sampled(self) -> bool {
        matches!(
            self,
            Self::SampledFault | Self::SampledChange | Self::Took { sampled: true, .. }
        )
    }

    /// The words in findings.
    pub fn text(self) -> String {
        match self {
            Self::Actor(operation) => operation.name().to_owned(),
            Self::Overlapped(operation) => format!("{}, at the same time", operation.name()),
            Self::SampledFault => "a fault that this lock would have held off (sampled)".to_owned(),
            Self::SampledChange => {
                "an extent change that this lock would have held off (sampled)".to_owned()
            }
            Self::Took {
                class,
                mode,
                sampled,
            } => {
                let sampled = if sampled { " (sampled)" } else { "" };
                format!("took {} {} here{sampled}", class.name(), mode.name())
            }
            Self::Inverse {
                operation,
                takes,
                holding,
            } => format!(
                "{}, takes {} while holding {}",
                operation.name(),
                takes.name(),
                holding.name()
            ),
            Self::Blocked {
                operation,
                class,
                mode,
                for_ns,
                state,
                ..
            } => {
                let state = state.map_or(String::new(), |state| format!(", state {state}"));
                format!(
                    "{}, waits for {} {} for {}{state}",
                    operation.name(),
                    class.name(),
                    mode.name(),
                    duration(for_ns)
                )
            }
            Self::Holds {
                class,
                mode,
                for_ns,
                state,
            } => {
                let state = match state {
                    Some('R') => ", running",
                    Some('S' | 'D') => ", asleep",
                    Some(_) => ", stopped or gone",
                    None => "",
                };
                format!(
                    "has held {} {} for {}{state}",
                    class.name(),
                    mode.name(),
                    duration(for_ns)
                )
            }
            Self::Left {
                operation,
                class,
                mode,
            } => format!(
                "{}, returned with {} {}",
                operation.name(),
                class.name(),
                mode.name()
            ),
        }
    }
}

/// A task's part in a finding.
#[derive(Clone, Copy, Debug)]
pub struct Party {
    /// Who.
    pub task: TaskId,
    /// As what.
    pub role: Role,
    /// Where.
    pub stack: Option<StackId>,
}

/// A lock that a party held at the act.
#[derive(Clone, Copy, Debug)]
pub struct LockSeen {
    /// By whom.
    pub task: TaskId,
    /// Whose lock, if it is a file's.
    pub inode: Option<InodeIndex>,
    /// Which.
    pub class: LockClass,
    /// How.
    pub mode: Mode,
    /// For how long then, nanoseconds.
    pub held_ns: u64,
}

impl LockSeen {
    /// Everything that `task` holds at `now`.
    pub fn all(task: TaskId, locks: &LockSet, now: Nanos) -> Vec<Self> {
        locks
            .iter()
            .map(|held| Self {
                task,
                inode: Some(held.inode),
                class: held.class,
                mode: held.hold.mode,
                held_ns: now.0.saturating_sub(held.hold.since.0),
            })
            .collect()
    }
}

/// One occurrence of a finding.
#[derive(Clone, Debug)]
pub struct Witness {
    /// In which operation; none for faults.
    pub scope: Option<ScopeId>,
    /// When the operation or fault began.
    pub entered: Nanos,
    /// When.
    pub time: Nanos,
    /// What was done.
    pub act: Act,
    /// On which file.
    pub inode: InodeIndex,
    /// To which bytes.
    pub range: ByteRange,
    /// The larger of the file's sizes when the operation began and at the act; clips `range`.
    pub size: u64,
    /// Held then.
    pub locks: Vec<LockSeen>,
    /// Who did it.
    pub actor: Party,
    /// The other side.
    pub other: Option<Party>,
    /// What else led to it.
    pub more: Vec<Party>,
}

impl Witness {
    /// With the fault that came into the window.
    pub fn met_by(&self, install: &Installed) -> Self {
        let mut met = self.clone();
        met.other = Some(Party {
            task: install.task,
            role: Role::Overlapped(install.operation),
            stack: install.stack,
        });
        met.locks.extend(install.lock.map(|(mode, since)| LockSeen {
            task: install.task,
            inode: Some(self.inode),
            class: LockClass::InvalidateLock,
            mode,
            held_ns: install.at.0.saturating_sub(since.0),
        }));
        met
    }

    /// With the operation into whose window the fault came.
    pub fn met_window(&self, window: &Window) -> Self {
        let mut met = self.clone();
        met.other = Some(Party {
            task: window.task,
            role: Role::Overlapped(window.operation),
            stack: window.stack,
        });
        met.locks.extend(window.lock.map(|(mode, since)| LockSeen {
            task: window.task,
            inode: Some(self.inode),
            class: LockClass::InvalidateLock,
            mode,
            held_ns: self.time.0.saturating_sub(since.0),
        }));
        met
    }
}

/// Operations whose times are kept, to tell which of them lie in a loss.
const TIMES: usize = 256;

/// A finding in the making.
#[derive(Clone, Debug)]
pub struct Record {
    /// What it is.
    pub key: Key,
    /// The strongest seen.
    pub strength: Strength,
    /// Occurrences.
    pub count: u64,
    /// The best one.
    pub witness: Witness,
    /// The first outermost operations or faults that broke it: from their beginning to the last act.
    /// What the judge believes of a task ends with them.
    pub times: Vec<(Nanos, Nanos)>,
}

/// Every finding.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    records: Vec<Record>,
    index: Map<Key, FindingIndex>,
    /// Who acts, and since when it is in its outermost operation or fault.
    acting: Option<(TaskId, Nanos)>,
}

impl Findings {
    /// What follows is found where a task acts that is in an operation or fault since then.
    pub fn acts(&mut self, task: TaskId, since: Nanos) {
        self.acting = Some((task, since));
    }

    /// Counts an occurrence.
    pub fn add(&mut self, key: Key, witness: &Witness) -> FindingIndex {
        let next = FindingIndex(self.records.len() as u32);
        let index = *self.index.entry(key).or_insert(next);
        if index == next {
            self.records.push(Record {
                key,
                strength: Strength::Predicted,
                count: 0,
                witness: witness.clone(),
                times: Vec::new(),
            });
        }
        let record = &mut self.records[index.0 as usize];
        record.count += 1;
        let began = match self.acting {
            Some((task, since)) if task == witness.actor.task => since.min(witness.entered),
            _ => witness.entered,
        };
        match record.times.last_mut() {
            Some((entered, until)) if *entered == began => *until = witness.time,
            _ => {
                if record.times.len() < TIMES {
                    record.times.push((began, witness.time));
                }
            }
        }
        index
    }

    /// Widens the witness of a finding if it is this operation's.
    pub fn extend(&mut self, index: FindingIndex, scope: ScopeId, range: ByteRange) {
        let witness = &mut self.records[index.0 as usize].witness;
        if witness.scope == Some(scope) {
            witness.range = witness.range.union(range);
        }
    }

    /// Raises a finding to `observed`; the first such witness stays.
    pub fn observe(&mut self, index: FindingIndex, witness: Witness) {
        let record = &mut self.records[index.0 as usize];
        if record.strength < Strength::Observed {
            record.strength = Strength::Observed;
            record.witness = witness;
        }
    }

    /// As [`Self::observe`], to `proven`.
    pub fn prove(&mut self, index: FindingIndex, witness: Witness) {
        let record = &mut self.records[index.0 as usize];
        if record.strength < Strength::Proven {
            record.strength = Strength::Proven;
            record.witness = witness;
        }
    }

    /// The finding of a key.
    pub fn find(&self, key: Key) -> Option<FindingIndex> {
        self.index.get(&key).copied()
    }

    /// True for faults that looked blocks up without the lock where others like them are told by what they mapped.
    pub fn is_told_by_another(&self, record: &Record) -> bool {
        let alike = |key: &Key| (key.kind, key.filesystem, key.operation, key.class);
        record.witness.act == Act::LookUp
            && self.records.iter().any(|other| {
                other.witness.act != Act::LookUp && alike(&other.key) == alike(&record.key)
            })
    }

    /// Raises a finding's strength.
    pub fn raise(&mut self, index: FindingIndex, strength: Strength) {
        let record = &mut self.records[index.0 as usize];
        record.strength = record.strength.max(strength);
    }

    /// Every finding, in the order of first occurrence.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }
}

/// Bytes of a file, as findings print them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

/// A lock held by a party at the act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LockHeld {
    /// Its name.
    pub class: &'static str,
    /// Its mode.
    pub mode: Mode,
    /// Whose lock: `i_ino`; `null` if it is no file's.
    pub inode: Option<Ino>,
    /// By which thread.
    pub task: Tid,
    /// For how long then, nanoseconds.
    pub held_ns: u64,
}

/// A party.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FindingTask {
    /// Thread.
    pub tid: Tid,
    /// Process, if the trace named it.
    pub pid: Option<Pid>,
    /// `comm`.
    pub name: String,
    /// What it has to do with it.
    pub role: String,
    /// It was seen at another time and stands for the side that was not met; its locks are unknown.
    pub sampled: bool,
}

/// A party's kernel stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FindingStack {
    /// Thread.
    pub task: Tid,
    /// What it has to do with it.
    pub role: String,
    /// It was taken at another time, from another act of this kind on this file or filesystem.
    pub sampled: bool,
    /// Its number in the trace.
    #[serde(skip)]
    pub id: StackId,
    /// Innermost first; empty until resolved.
    pub frames: Vec<String>,
}

/// The lock that the rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// Its name.
    pub class: &'static str,
    /// The weakest mode that will do; `null` if it had to be released, or taken earlier.
    pub mode: Option<Mode>,
}

/// A finding as reports carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule.
    pub kind: Kind,
    /// How much was seen.
    pub strength: Strength,
    /// Where.
    pub filesystem: FilesystemKind,
    /// In what.
    pub operation: Operation,
    /// `i_ino`.
    pub inode: Ino,
    /// Path, empty if its names were not known.
    pub path: String,
    /// Bytes concerned.
    pub range: Range,
    /// Held by each side at the act.
    pub locks_held: Vec<LockHeld>,
    /// What the rule asks for.
    pub expected: Expected,
    /// How it was found.
    pub observed: String,
    /// The same, for programs.
    #[serde(skip)]
    pub how: Observed,
    /// The hook that saw the act.
    pub target: String,
    /// Both sides, the one at fault first.
    pub tasks: Vec<FindingTask>,
    /// Both sides.
    pub stacks: Vec<FindingStack>,
    /// What a maintainer pastes into a mail.
    pub sentence: String,
    /// Occurrences.
    pub count: u64,
    /// CLOCK_MONOTONIC of the witness.
    pub time_ns: Nanos,
    /// The file, for those who draw it.
    #[serde(skip)]
    pub file: InodeIndex,
    /// When the operation or fault of the witness began.
    #[serde(skip)]
    pub entered: Nanos,
}
