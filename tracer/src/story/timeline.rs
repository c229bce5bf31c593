//! Windows and faults over time: what is recent, or what surrounds given moments.

use std::collections::VecDeque;

use crate::{
    judge::{
        InodeIndex, ScopeId, TaskId,
        facts::{Fact, FaultSeen, Outcome, WindowSeen},
        operations::Operation,
    },
    units::Nanos,
};

/// Windows kept.
const WINDOWS: usize = 8_192;
/// Faults kept.
const FAULTS: usize = 65_536;
/// Faults that came into a window and are not over yet.
const EARLY: usize = 64;
/// Faults whose last word is not spoken while their files' windows are open.
const PENDING: usize = 4_096;

/// A stretch of time on one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The file.
    pub inode: InodeIndex,
    /// From.
    pub from: Nanos,
    /// To.
    pub to: Nanos,
}

/// A window that is over.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// What was seen of it.
    pub seen: WindowSeen,
    /// Faults that came into it.
    pub entered: u32,
}

/// A window that is open.
#[derive(Clone, Copy, Debug)]
pub struct OpenWindow {
    /// Whose.
    pub scope: ScopeId,
    /// By whom.
    pub task: TaskId,
    /// On which file.
    pub inode: InodeIndex,
    /// In what.
    pub operation: Operation,
    /// Since when.
    pub from: Nanos,
    /// Faults that came into it so far.
    pub entered: u32,
}

/// Windows and faults, oldest first.
#[derive(Debug, Default)]
pub struct Timeline {
    /// None: everything, as far as it is recent.
    moments: Option<Vec<Moment>>,
    windows: VecDeque<Window>,
    faults: VecDeque<FaultSeen>,
    open: Vec<OpenWindow>,
    early: VecDeque<(TaskId, Nanos)>,
    /// Faults that may yet turn out to have come into a window: who, when installed, what so far.
    pending: VecDeque<(TaskId, Nanos, Outcome)>,
    outcomes: [u64; Outcome::ALL.len()],
}

impl Timeline {
    /// Keeps what is recent, within fixed bounds.
    pub fn recent() -> Self {
        Self::default()
    }

    /// Keeps what touches any of these moments.
    pub fn around(moments: Vec<Moment>) -> Self {
        Self {
            moments: Some(moments),
            ..Self::default()
        }
    }

    /// Windows that are over, by their end.
    pub fn windows(&self) -> impl DoubleEndedIterator<Item = &Window> {
        self.windows.iter()
    }

    /// Faults that returned, by their return.
    pub fn faults(&self) -> impl DoubleEndedIterator<Item = &FaultSeen> {
        self.faults.iter()
    }

    /// Windows that are open.
    pub fn open(&self) -> &[OpenWindow] {
        &self.open
    }

    /// Faults that returned, by what became of them, over the whole run.
    pub fn outcomes(&self) -> [u64; Outcome::ALL.len()] {
        self.outcomes
    }

    fn wanted(&self, inode: InodeIndex, from: Nanos, to: Nanos) -> bool {
        self.moments.as_ref().is_none_or(|moments| {
            moments
                .iter()
                .any(|moment| moment.inode == inode && from <= moment.to && moment.from <= to)
        })
    }

    pub(super) fn fact(&mut self, fact: &Fact) {
        match *fact {
            Fact::Open {
                scope,
                task,
                inode,
                operation,
                at,
            } => self.open.push(OpenWindow {
                scope,
                task,
                inode,
                operation,
                from: at,
                entered: 0,
            }),
            Fact::Window(seen) => self.window(seen),
            Fact::Fault(seen) => self.fault(seen),
            Fact::Inside {
                task,
                inode: _,
                at,
                scope,
            } => self.came_inside(task, at, scope),
            Fact::Forget { task } => self.open.retain(|window| window.task != task),
            _ => {}
        }
    }

    fn window(&mut self, seen: WindowSeen) {
        let place = self
            .open
            .iter()
            .position(|open| (open.scope, open.inode) == (seen.scope, seen.inode));
        let entered = place.map_or(0, |place| self.open.swap_remove(place).entered);
        if !self.wanted(seen.inode, seen.from, seen.to) {
            return;
        }
        if self.windows.len() == WINDOWS {
            self.windows.pop_front();
        }
        self.windows.push_back(Window { seen, entered });
    }

    fn fault(&mut self, mut seen: FaultSeen) {
        if let Some(at) = seen.installed {
            let early = |&known: &(TaskId, Nanos)| known == (seen.task, at);
            if let Some(place) = self.early.iter().position(early) {
                self.early.remove(place);
                seen.outcome = Outcome::Inside;
            } else {
                if self.pending.len() == PENDING {
                    self.pending.pop_front();
                }
                self.pending.push_back((seen.task, at, seen.outcome));
            }
        }
        self.outcomes[seen.outcome as usize] += 1;
        if !self.wanted(seen.inode, seen.from, seen.to) {
            return;
        }
        if self.faults.len() == FAULTS {
            self.faults.pop_front();
        }
        self.faults.push_back(seen);
    }

    fn came_inside(&mut self, task: TaskId, at: Nanos, scope: ScopeId) {
        if let Some(open) = self.open.iter_mut().find(|open| open.scope == scope) {
            open.entered += 1;
        } else if let Some(window) = self
            .windows
            .iter_mut()
            .rev()
            .find(|window| window.seen.scope == scope)
        {
            window.entered += 1;
        }
        let pending = self
            .pending
            .iter_mut()
            .rev()
            .find(|(who, when, _)| (*who, *when) == (task, at));
        let Some((_, _, outcome)) = pending else {
            if !self.early.contains(&(task, at)) {
                if self.early.len() == EARLY {
                    self.early.pop_front();
                }
                self.early.push_back((task, at));
            }
            return;
        };
        // A fault may come into several windows.
        let before = std::mem::replace(outcome, Outcome::Inside);
        self.outcomes[before as usize] -= 1;
        self.outcomes[Outcome::Inside as usize] += 1;
        let kept = self
            .faults
            .iter_mut()
            .rev()
            .find(|fault| fault.task == task && fault.installed == Some(at));
        if let Some(fault) = kept {
            fault.outcome = Outcome::Inside;
        }
    }
}
