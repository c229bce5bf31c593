//! What a clean run was worth: which operations' windows met which faults.

use serde::Serialize;

use crate::{
    hooks::{FilesystemKind, LockClass, Mode},
    judge::operations::{FaultKind, Operation},
};

const FILESYSTEMS: usize = FilesystemKind::ALL.len();
const FAULTS: usize = FaultKind::ALL.len();
const CLASSES: usize = LockClass::ALL.len();

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    met: u64,
    installed: u64,
    held_off: u64,
    wait_ns: u64,
    wait_max_ns: u64,
}

/// Counters of one run.
#[derive(Clone, Debug)]
pub struct Coverage {
    windows: [[u64; Operation::COUNT]; FILESYSTEMS],
    cells: Box<[[[Cell; FAULTS]; Operation::COUNT]; FILESYSTEMS]>,
    faults: [[u64; FAULTS]; FILESYSTEMS],
    installs: [[u64; FAULTS]; FILESYSTEMS],
    acquired: [[u64; 2]; CLASSES],
    waits: [u64; CLASSES],
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            windows: [[0; Operation::COUNT]; FILESYSTEMS],
            cells: Box::new([[[Cell::default(); FAULTS]; Operation::COUNT]; FILESYSTEMS]),
            faults: Default::default(),
            installs: Default::default(),
            acquired: Default::default(),
            waits: Default::default(),
        }
    }
}

/// One fault's meeting with one window.
#[derive(Clone, Copy, Debug)]
pub struct Meeting {
    /// Where.
    pub filesystem: FilesystemKind,
    /// Whose window.
    pub operation: Operation,
    /// Which fault.
    pub fault: FaultKind,
    /// It installed a translation in the end.
    pub installed: bool,
    /// Nanoseconds that it waited for the exclusion lock while the window was open.
    pub waited_ns: Option<u64>,
}

impl Coverage {
    /// An operation's window is over.
    pub fn window(&mut self, filesystem: FilesystemKind, operation: Operation) {
        self.windows[filesystem as usize][operation as usize] += 1;
    }

    /// A fault is over.
    pub fn fault(&mut self, filesystem: FilesystemKind, fault: FaultKind, installed: bool) {
        self.faults[filesystem as usize][fault as usize] += 1;
        self.installs[filesystem as usize][fault as usize] += u64::from(installed);
    }

    /// A fault that is over had met a window.
    pub fn met(&mut self, meeting: Meeting) {
        let cell = &mut self.cells[meeting.filesystem as usize][meeting.operation as usize]
            [meeting.fault as usize];
        cell.met += 1;
        cell.installed += u64::from(meeting.installed);
        if let Some(waited) = meeting.waited_ns {
            cell.held_off += 1;
            cell.wait_ns += waited;
            cell.wait_max_ns = cell.wait_max_ns.max(waited);
        }
    }

    /// A lock was taken.
    pub fn acquired(&mut self, class: LockClass, mode: Mode) {
        self.acquired[class as usize][mode as usize] += 1;
    }

    /// A lock was waited for.
    pub fn waited(&mut self, class: LockClass) {
        self.waits[class as usize] += 1;
    }

    /// Windows of all operations.
    pub fn windows(&self) -> u64 {
        self.windows.iter().flatten().sum()
    }

    /// Faults that returned.
    pub fn faults(&self) -> u64 {
        self.faults.iter().flatten().sum()
    }

    /// Faults that installed a translation.
    pub fn installs(&self) -> u64 {
        self.installs.iter().flatten().sum()
    }

    /// The lock counters that are not zero.
    pub fn locks(&self) -> Vec<LockCount> {
        LockClass::ALL
            .into_iter()
            .map(|class| LockCount {
                class: class.name(),
                shared: self.acquired[class as usize][Mode::Shared as usize],
                exclusive: self.acquired[class as usize][Mode::Excl as usize],
                waits: self.waits[class as usize],
            })
            .filter(|count| count.shared + count.exclusive + count.waits > 0)
            .collect()
    }

    /// Every pair that could have met: operations that opened a window, faults that happened.
    pub fn rows(&self) -> Vec<CoverageRow> {
        let mut rows = Vec::new();
        for filesystem in FilesystemKind::ALL {
            let faults = &self.faults[filesystem as usize];
            let none = faults.iter().all(|&count| count == 0);
            for operation in Operation::ALL {
                let windows = self.windows[filesystem as usize][operation as usize];
                if windows == 0 {
                    continue;
                }
                for fault in FaultKind::ALL {
                    let count = faults[fault as usize];
                    if count == 0 && !none {
                        continue;
                    }
                    let cell = self.cells[filesystem as usize][operation as usize][fault as usize];
                    rows.push(CoverageRow {
                        filesystem,
                        operation,
                        fault,
                        windows,
                        faults: count,
                        met: cell.met,
                        held_off: cell.held_off,
                        wait_ns: cell.wait_ns,
                        wait_max_ns: cell.wait_max_ns,
                        installed_outside: self.installs[filesystem as usize][fault as usize]
                            .saturating_sub(cell.installed),
                    });
                }
            }
        }
        rows
    }
}

/// Acquisitions of one class of locks within operations and faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LockCount {
    /// Its name.
    pub class: &'static str,
    /// In shared mode.
    pub shared: u64,
    /// In exclusive mode.
    pub exclusive: u64,
    /// Acquisitions that had to wait.
    pub waits: u64,
}

/// One pair of an operation's windows and a kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CoverageRow {
    /// Where.
    pub filesystem: FilesystemKind,
    /// Whose windows.
    pub operation: Operation,
    /// Which faults.
    pub fault: FaultKind,
    /// Windows opened.
    pub windows: u64,
    /// Faults on that filesystem, anywhere.
    pub faults: u64,
    /// Faults that were in flight while a window was open on their file; 0 is "never met".
    pub met: u64,
    /// Of those, faults that waited for the exclusion lock meanwhile.
    pub held_off: u64,
    /// How long, together, nanoseconds.
    pub wait_ns: u64,
    /// The longest, nanoseconds.
    pub wait_max_ns: u64,
    /// Faults that installed without having met such a window.
    pub installed_outside: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_classes_are_in_enum_order() {
        for (index, class) in LockClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }
}
