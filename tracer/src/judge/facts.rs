//! What came to pass in a run, for those who count it or draw it: one fact each time that an
//! operation, a fault, a lock or a window begins or ends. The rules need none of this.

use crate::{
    hooks::Mode,
    judge::{
        inode::InodeIndex,
        operations::{FaultKind, Operation},
        order::Resource,
        task::TaskId,
        window::{FindingIndex, ScopeId},
    },
    units::{ByteRange, Nanos, StackId},
};

/// What became of a fault, as far as windows on its file are concerned; in rising order of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// It met no window.
    Clear,
    /// It was in flight while a window was open, and neither waited for it nor came into it.
    Beside,
    /// It waited for the exclusion lock while a window was open.
    HeldOff,
    /// It came into a window with no lock between them.
    Inside,
}

impl Outcome {
    /// Every outcome, in the order of the enum.
    pub const ALL: [Self; 4] = [Self::Clear, Self::Beside, Self::HeldOff, Self::Inside];

    /// The name in tables and legends.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Beside => "beside",
            Self::HeldOff => "held-off",
            Self::Inside => "inside",
        }
    }
}

/// A fault that returned.
#[derive(Clone, Copy, Debug)]
pub struct FaultSeen {
    /// Whose.
    pub task: TaskId,
    /// On which file.
    pub inode: InodeIndex,
    /// What it was.
    pub operation: Operation,
    /// How it mapped.
    pub kind: FaultKind,
    /// The bytes of the page or PMD.
    pub range: ByteRange,
    /// Its entry.
    pub from: Nanos,
    /// Its return.
    pub to: Nanos,
    /// When its translation was in place, if it installed one.
    pub installed: Option<Nanos>,
    /// Its longest wait for the exclusion lock: from, to.
    pub waited: Option<(Nanos, Nanos)>,
    /// What became of it, as far as it is known by now: `Inside` may follow as [`Fact::Inside`].
    pub outcome: Outcome,
}

/// An operation that returned.
#[derive(Clone, Copy, Debug)]
pub struct OperationSeen {
    /// Whose.
    pub task: TaskId,
    /// On which file.
    pub inode: InodeIndex,
    /// The other file of a swap or remap.
    pub second: Option<InodeIndex>,
    /// What it was.
    pub operation: Operation,
    /// Its entry.
    pub from: Nanos,
    /// Its return.
    pub to: Nanos,
}

/// A window that is over.
#[derive(Clone, Copy, Debug)]
pub struct WindowSeen {
    /// Whose.
    pub scope: ScopeId,
    /// By whom.
    pub task: TaskId,
    /// On which file.
    pub inode: InodeIndex,
    /// In what.
    pub operation: Operation,
    /// Its start.
    pub from: Nanos,
    /// Its end.
    pub to: Nanos,
    /// Bytes inside EOF whose extents changed, if any did.
    pub range: Option<ByteRange>,
    /// The exclusion lock's mode at the last change, if it was held.
    pub lock: Option<Mode>,
    /// It broke a rule.
    pub breached: bool,
}

/// One fact.
#[derive(Clone, Copy, Debug)]
pub enum Fact {
    /// A task enters an operation or a fault.
    Enter {
        /// Whose.
        task: TaskId,
        /// On which file.
        inode: InodeIndex,
        /// What.
        operation: Operation,
        /// When.
        at: Nanos,
    },
    /// An operation returned.
    Operation(OperationSeen),
    /// A fault returned.
    Fault(FaultSeen),
    /// A fault's translation turns out to have come into a window. Comes after the fault's own fact or
    /// before it.
    Inside {
        /// Whose fault.
        task: TaskId,
        /// On which file.
        inode: InodeIndex,
        /// When its translation was in place.
        at: Nanos,
        /// Whose window.
        scope: ScopeId,
    },
    /// A window opens.
    Open {
        /// Whose.
        scope: ScopeId,
        /// By whom.
        task: TaskId,
        /// On which file.
        inode: InodeIndex,
        /// In what.
        operation: Operation,
        /// When.
        at: Nanos,
    },
    /// A window is over.
    Window(WindowSeen),
    /// A task begins to wait for a lock.
    Wait {
        /// Who.
        task: TaskId,
        /// For what.
        resource: Resource,
        /// In what.
        within: Operation,
        /// The file that this is on.
        on: InodeIndex,
        /// When.
        at: Nanos,
        /// Where, if a stack was taken.
        stack: Option<StackId>,
    },
    /// A task holds a lock from here on.
    Acquire {
        /// Who.
        task: TaskId,
        /// What.
        resource: Resource,
        /// How.
        mode: Mode,
        /// In what.
        within: Operation,
        /// The file that this is on.
        on: InodeIndex,
        /// When.
        at: Nanos,
    },
    /// A task gives a lock back.
    Release {
        /// Who.
        task: TaskId,
        /// What.
        resource: Resource,
        /// How it was held.
        mode: Mode,
        /// Since when.
        since: Nanos,
        /// When.
        at: Nanos,
    },
    /// An exclusive hold becomes a shared one.
    Downgrade {
        /// Who.
        task: TaskId,
        /// Of what.
        resource: Resource,
    },
    /// A hold is over, and when it ended was not seen.
    Lapse {
        /// Who.
        task: TaskId,
        /// Of what.
        resource: Resource,
        /// Since when.
        since: Nanos,
    },
    /// Nothing is known any more of what a task does and holds.
    Forget {
        /// Who.
        task: TaskId,
    },
    /// A rule was broken, once more or for the first time.
    Found {
        /// Which finding.
        finding: FindingIndex,
        /// By whom.
        task: TaskId,
        /// On which file.
        inode: InodeIndex,
        /// When.
        at: Nanos,
    },
}

/// Facts on their way to whoever asked for them.
#[derive(Debug, Default)]
pub struct Facts {
    wanted: bool,
    list: Vec<Fact>,
}

impl Facts {
    /// From now on facts are kept until they are taken.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// Keeps a fact, if anyone wants it.
    #[inline]
    pub fn tell(&mut self, fact: impl FnOnce() -> Fact) {
        if self.wanted {
            self.list.push(fact());
        }
    }

    /// Exchanges the facts since the last time for an empty list, whose memory is used on.
    pub fn swap(&mut self, list: &mut Vec<Fact>) {
        list.clear();
        std::mem::swap(&mut self.list, list);
    }
}
