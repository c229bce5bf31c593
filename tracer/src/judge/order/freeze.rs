//! Freeze protection of write faults: `sb_start_pagefault` comes before the exclusion lock.
//!
//! Its fast path is an inlined per-CPU increment that no hook sees. What can be seen is the counter
//! (`super_block.s_writers.rw_sem[SB_FREEZE_PAGEFAULT - 1].read_count`, summed over CPUs) at moments of
//! a fault that needs the protection: zero means that nobody holds it, hence not this task either; more
//! than zero says nothing, another task may hold it. The kernel side looks when the exclusion lock was
//! taken and when a translation is installed.
//!
//! It looks too when a write fault begins, which holds nothing yet: more than zero while no other is
//! under way was left behind by one that is over ([`Balances`]).

use tracer_ebpf::event::{FLAG_FREEZE_FREE, FLAG_FREEZE_HELD};

use crate::{
    hooks::{FilesystemKind, LockClass, Mode},
    judge::{
        finding::{Act, Findings, Key, Party, Role, Witness},
        inode::InodeIndex,
        operations::Operation,
        rules::{Kind, Observed},
        task::TaskId,
        window::CLOCK_SKEW_NS,
    },
    units::{ByteRange, Device, HookId, Nanos, StackId},
};

use super::{Actor, Doing, Moment};

/// The sum is read CPU by CPU. On two CPUs no task can move from one not yet read to one already read
/// meanwhile, since the reader occupies one of them; on more it can, and one zero is no proof.
const EXACT_CPUS: u32 = 2;
/// Zeros of one kind that are.
const PROOF: u64 = 3;

/// What one fault showed.
#[derive(Clone, Copy, Debug, Default)]
pub struct FreezeSeen {
    /// Nobody held the protection when the exclusion lock was taken: how, when, where it was taken.
    unprotected: Option<(Mode, Nanos, HookId, Option<StackId>)>,
    /// Nobody held it at a later act.
    free: Option<(Nanos, HookId, Option<StackId>)>,
    /// Somebody held it at a later act.
    held: Option<Option<StackId>>,
}

/// What the kernel side saw, if it looked.
fn protected(flags: u8) -> Option<bool> {
    if flags & FLAG_FREEZE_FREE != 0 {
        Some(false)
    } else if flags & FLAG_FREEZE_HELD != 0 {
        Some(true)
    } else {
        None
    }
}

impl FreezeSeen {
    /// The exclusion lock was taken.
    #[inline]
    pub fn locked(&mut self, flags: u8, mode: Mode, moment: Moment) {
        if protected(flags) == Some(false) && self.unprotected.is_none() {
            self.unprotected = Some((mode, moment.time, moment.hook, moment.stack));
        }
    }

    /// The fault changed something.
    #[inline]
    pub fn acted(&mut self, flags: u8, moment: Moment) {
        match protected(flags) {
            Some(false) if self.free.is_none() => {
                self.free = Some((moment.time, moment.hook, moment.stack));
            }
            Some(true) if self.held.is_none() => self.held = Some(moment.stack),
            Some(_) | None => {}
        }
    }
}

/// Findings that wait for more of their kind.
#[derive(Debug, Default)]
pub struct Doubts {
    seen: Vec<(Key, u64)>,
}

impl Doubts {
    fn proven(&mut self, key: Key, cpus: u32) -> bool {
        if cpus <= EXACT_CPUS {
            return true;
        }
        if let Some((_, count)) = self.seen.iter_mut().find(|(known, _)| *known == key) {
            *count += 1;
            return *count >= PROOF;
        }
        self.seen.push((key, 1));
        false
    }
}

/// Write faults that are under freeze protection; of page-cache files only `page_mkwrite` is
/// (mm/filemap.c:filemap_fault writes nothing).
pub fn needs_protection(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::DaxWriteFault | Operation::PfnMkwrite | Operation::PageMkwrite
    )
}

/// Judges a fault that is over.
pub fn judge(
    findings: &mut Findings,
    doubts: &mut Doubts,
    cpus: u32,
    seen: &FreezeSeen,
    actor: &Actor<'_>,
    doing: Doing,
) {
    let (kind, observed, act, (time, hook, stack), later) = match *seen {
        FreezeSeen {
            unprotected: Some((mode, time, hook, stack)),
            held: Some(later),
            ..
        } => (
            Kind::FreezeOrder,
            Observed::Holding(LockClass::InvalidateLock, mode),
            Act::Take {
                mode: Mode::Shared,
                same: false,
            },
            (time, hook, stack),
            Some(later),
        ),
        FreezeSeen {
            free: Some(seen),
            held: None,
            ..
        } => (
            Kind::FreezeMissing,
            Observed::Unheld,
            Act::Install,
            seen,
            None,
        ),
        _ => return,
    };
    let key = Key {
        kind,
        filesystem: doing.filesystem,
        operation: doing.operation,
        class: LockClass::FreezePagefault,
        observed,
        hook,
    };
    if !doubts.proven(key, cpus) {
        return;
    }
    let more = later
        .map(|stack| Party {
            task: actor.task,
            role: Role::Took {
                class: LockClass::FreezePagefault,
                mode: Mode::Shared,
                sampled: false,
            },
            stack,
        })
        .into_iter()
        .collect();
    let mut locks = actor.seen(time);
    if let Some((mode, since, ..)) = seen.unprotected {
        locks.push(crate::judge::finding::LockSeen {
            task: actor.task,
            inode: Some(doing.inode),
            class: LockClass::InvalidateLock,
            mode,
            held_ns: time.0.saturating_sub(since.0),
        });
    }
    let witness = Witness {
        scope: None,
        entered: doing.entered,
        time,
        act,
        inode: doing.inode,
        range: ByteRange::ALL,
        size: 0,
        locks,
        actor: Party {
            task: actor.task,
            role: Role::Actor(doing.operation),
            stack,
        },
        other: None,
        more,
    };
    findings.add(key, &witness);
}

/// Sightings of a count that should be zero without which nothing is said: records of two CPUs may
/// come in the wrong order once.
const SIGHTINGS: u32 = 2;

/// A write fault that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Whose.
    pub task: TaskId,
    /// What it was.
    pub operation: Operation,
    /// On which file.
    pub inode: InodeIndex,
    /// Its bytes.
    pub range: ByteRange,
    /// It mapped nothing, and said so.
    pub failed: bool,
    /// What saw its end.
    pub hook: HookId,
    /// Where it was taken, if it was.
    pub stack: Option<StackId>,
}

/// The count of one filesystem's write faults under protection.
#[derive(Debug)]
pub struct Balance {
    device: Device,
    filesystem: FilesystemKind,
    /// Write faults under way.
    open: u32,
    /// When the last one ended.
    ended: Nanos,
    /// When the count was last zero: whatever was under way then is over.
    zero: Option<Nanos>,
    /// The likeliest fault since to have left something behind, and of how many of its kind.
    suspect: Option<(Ended, u32)>,
    /// How often it was more than zero with nothing under way, and when last.
    left: u32,
    seen: Nanos,
}

impl Balance {
    fn new(device: Device, filesystem: FilesystemKind) -> Self {
        Self {
            device,
            filesystem,
            open: 0,
            ended: Nanos(0),
            zero: None,
            suspect: None,
            left: 0,
            seen: Nanos(0),
        }
    }

    fn forget(&mut self) {
        self.zero = None;
        self.suspect = None;
        self.left = 0;
    }

    /// A write fault begins.
    pub fn begins(&mut self, flags: u8, now: Nanos) {
        match protected(flags) {
            Some(false) => {
                self.forget();
                self.zero = Some(now);
            }
            Some(true)
                if self.open == 0
                    && self.zero.is_some()
                    && now.0.saturating_sub(self.ended.0) > CLOCK_SKEW_NS =>
            {
                self.left += 1;
                self.seen = now;
            }
            Some(true) | None => {}
        }
        self.open += 1;
    }

    /// One is lost sight of: it may be over or not.
    pub fn lost(&mut self) {
        self.open = self.open.saturating_sub(1);
        self.forget();
    }

    /// A write fault ends.
    pub fn ends(&mut self, fault: Ended, now: Nanos) {
        self.open = self.open.saturating_sub(1);
        self.ended = self.ended.max(now);
        if self.zero.is_none() || self.left != 0 || !needs_protection(fault.operation) {
            return;
        }
        // Ways out that are seldom taken are those that forget.
        match &mut self.suspect {
            Some((known, count)) if known.failed == fault.failed => {
                *known = fault;
                *count += 1;
            }
            Some((known, _)) if known.failed => {}
            suspect => *suspect = Some((fault, 1)),
        }
    }
}

/// Whether every write fault ends the protection that it began, by filesystem.
#[derive(Debug, Default)]
pub struct Balances(Vec<Balance>);

impl Balances {
    /// That of one filesystem.
    pub fn of(&mut self, device: Device, filesystem: FilesystemKind) -> &mut Balance {
        let at = match self.0.iter().position(|known| known.device == device) {
            Some(at) => at,
            None => {
                self.0.push(Balance::new(device, filesystem));
                self.0.len() - 1
            }
        };
        &mut self.0[at]
    }

    /// Faults may be under way that nobody saw.
    pub fn lost(&mut self) {
        self.0.iter_mut().for_each(Balance::forget);
    }

    /// At the end of a run: what was left behind and never came back.
    pub fn judge(&mut self, findings: &mut Findings) {
        for balance in &mut self.0 {
            let (Some(zero), Some((fault, count))) = (balance.zero, balance.suspect) else {
                continue;
            };
            if balance.left < SIGHTINGS {
                continue;
            }
            let observed = match count {
                1 => Observed::StillHeld(Mode::Shared),
                _ => Observed::LeftByOne,
            };
            let key = Key {
                kind: Kind::LockLeak,
                filesystem: balance.filesystem,
                operation: fault.operation,
                class: LockClass::FreezePagefault,
                observed,
                hook: fault.hook,
            };
            let witness = Witness {
                scope: None,
                entered: zero,
                time: balance.seen,
                act: Act::Return,
                inode: fault.inode,
                range: fault.range,
                size: u64::MAX,
                locks: Vec::new(),
                actor: Party {
                    task: fault.task,
                    role: Role::Actor(fault.operation),
                    stack: fault.stack,
                },
                other: None,
                more: Vec::new(),
            };
            findings.add(key, &witness);
            balance.forget();
        }
    }
}
