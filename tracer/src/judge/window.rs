//! Windows: the time in which an operation relies on page faults being kept out; and the installs
//! that may or may not have come into one.

use crate::{
    hooks::{FilesystemKind, Mode},
    judge::{finding::Witness, operations::Operation, task::TaskId, translations::Frame},
    units::{ByteRange, Nanos, StackId},
};

/// Two times of different CPUs that differ by less are not ordered: CLOCK_MONOTONIC is read from
/// TSCs that Linux accepts as synchronised when a warp test sees no step back (arch/x86/kernel/
/// tsc_sync.c), which leaves errors of the order of a cross-socket cache miss.
pub const CLOCK_SKEW_NS: u64 = 1000;

/// Tells one operation's scope from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScopeId(pub u64);

/// A finding's place in the engine's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FindingIndex(pub u32);

/// Bytes whose extents changed, and since when no fault may map them.
#[derive(Clone, Copy, Debug)]
pub struct Danger {
    /// Start of the last invalidation before the change, or else the change itself.
    pub from: Nanos,
    /// Bytes.
    pub range: ByteRange,
}

impl Danger {
    /// Both.
    pub fn join(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            range: self.range.union(other.range),
        }
    }
}

/// Windows' exposures that are kept; later ones are forgotten, which can only spare a proof.
const EXPOSURES: usize = 64;

/// A range in the time between its teardown and its change, while faults were not kept out: what got
/// installed then names the old blocks.
#[derive(Clone, Copy, Debug)]
pub struct Exposure {
    /// The teardown was over.
    pub torn: Nanos,
    /// The change began.
    pub changed: Nanos,
    /// Bytes.
    pub range: ByteRange,
}

/// Changes that broke a rule, and the finding that they made.
#[derive(Clone, Debug)]
pub struct Breach {
    /// The finding.
    pub finding: FindingIndex,
    /// This occurrence of it.
    pub witness: Witness,
    /// What was unprotected.
    pub danger: Danger,
}

/// An operation's window on one inode: from its first invalidation under the exclusion lock (or its
/// first change) to the lock's release after its last change (or its own end).
#[derive(Clone, Debug)]
pub struct Window {
    /// Whose.
    pub scope: ScopeId,
    /// By whom.
    pub task: TaskId,
    /// On which kind of filesystem.
    pub filesystem: FilesystemKind,
    /// What it does.
    pub operation: Operation,
    /// Its start.
    pub from: Nanos,
    /// Its end, as far as it is known.
    pub to: Option<Nanos>,
    /// What changed so far.
    pub danger: Option<Danger>,
    /// The exclusion lock's mode and age at the last change.
    pub lock: Option<(Mode, Nanos)>,
    /// Stack of the last change that had one.
    pub stack: Option<StackId>,
    /// What it did wrong.
    pub breaches: Vec<Breach>,
    /// Every finding that its operation made on this file, and the bytes that each is about.
    pub broken: Vec<(FindingIndex, ByteRange)>,
    /// When an install would outlive it.
    pub exposures: Vec<Exposure>,
}

impl Window {
    /// The end, or the end of time.
    pub fn end(&self) -> Nanos {
        self.to.unwrap_or(Nanos(u64::MAX))
    }

    /// The operation broke a rule in these bytes.
    pub fn broke(&mut self, finding: FindingIndex, range: ByteRange) {
        match self.broken.iter_mut().find(|(known, _)| *known == finding) {
            Some((_, known)) => *known = known.union(range),
            None => self.broken.push((finding, range)),
        }
    }

    /// Remembers an exposure.
    pub fn expose(&mut self, exposure: Exposure) {
        if self.exposures.len() < EXPOSURES {
            self.exposures.push(exposure);
        }
    }

    /// A teardown after the change: what got installed before is gone.
    pub fn cover(&mut self, torn_down: ByteRange) {
        self.exposures
            .retain(|exposure| !exposure.range.overlaps(torn_down));
    }

    /// True if the install names a block that its page lost in this window, for good.
    pub fn outlived_by(&self, install: &Installed) -> bool {
        install.frame.is_some_and(Frame::may_be_medium)
            && self.exposures.iter().any(|exposure| {
                exposure.range.overlaps(install.range)
                    && exposure.torn.0 + CLOCK_SKEW_NS < install.at.0
                    && install.at.0 + CLOCK_SKEW_NS < exposure.changed.0
            })
    }

    /// True if the window was open at some time between `from` and `to`.
    pub fn met(&self, from: Nanos, to: Nanos) -> bool {
        self.from < to && from < self.end()
    }

    /// Nanoseconds of `from`..`to` in which the window was open.
    pub fn overlap(&self, from: Nanos, to: Nanos) -> u64 {
        self.end().min(to).0.saturating_sub(self.from.max(from).0)
    }
}

/// A translation that a fault installed.
#[derive(Clone, Debug)]
pub struct Installed {
    /// By whom.
    pub task: TaskId,
    /// What it names, if that is known.
    pub frame: Option<Frame>,
    /// In which kind of fault.
    pub operation: Operation,
    /// When the look-up may have begun: the lock's acquisition, or the fault's start without one.
    pub from: Nanos,
    /// When it was in place.
    pub at: Nanos,
    /// What it maps.
    pub range: ByteRange,
    /// The exclusion lock's mode, and since when.
    pub lock: Option<(Mode, Nanos)>,
    /// Where.
    pub stack: Option<StackId>,
    /// The finding that it made, and this occurrence of it.
    pub breach: Option<Box<(FindingIndex, Witness)>>,
}

impl Installed {
    /// True if the install's look-up or the install itself came into `danger`, which ended at `end`,
    /// by more than clocks may differ.
    pub fn came_into(&self, danger: Danger, end: Nanos) -> bool {
        let overlap = self
            .at
            .min(end)
            .0
            .saturating_sub(self.from.max(danger.from).0);
        overlap > CLOCK_SKEW_NS && self.range.overlaps(danger.range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(from: u64, at: u64) -> Installed {
        Installed {
            task: TaskId::default(),
            frame: None,
            operation: Operation::DaxReadFault,
            from: Nanos(from),
            at: Nanos(at),
            range: ByteRange::new(4096, 4096),
            lock: None,
            stack: None,
            breach: None,
        }
    }

    #[test]
    fn an_overlap_within_clock_skew_is_none() {
        let danger = Danger {
            from: Nanos(10_000),
            range: ByteRange::new(0, 8192),
        };
        assert!(!install(0, 11_000).came_into(danger, Nanos(90_000)));
        assert!(install(0, 11_001).came_into(danger, Nanos(90_000)));
        assert!(!install(89_000, 99_000).came_into(danger, Nanos(90_000)));
    }

    #[test]
    fn another_page_is_no_overlap() {
        let danger = Danger {
            from: Nanos(0),
            range: ByteRange::new(8192, 4096),
        };
        assert!(!install(0, 50_000).came_into(danger, Nanos(90_000)));
    }
}
