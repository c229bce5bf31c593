//! Freeze protection of write faults: `sb_start_pagefault` comes before the exclusion lock.
//!
//! Its fast path is an inlined per-CPU increment that no hook sees. What can be seen is the counter
//! (`super_block.s_writers.rw_sem[SB_FREEZE_PAGEFAULT - 1].read_count`, summed over CPUs) at moments of
//! a fault that needs the protection: zero means that nobody holds it, hence not this task either; more
//! than zero says nothing, another task may hold it. The kernel side looks when the exclusion lock was
//! taken and when a translation is installed.

use tracer_ebpf::event::{FLAG_FREEZE_FREE, FLAG_FREEZE_HELD};

use crate::{
    hooks::{LockClass, Mode},
    judge::{
        finding::{Act, Findings, Key, Party, Role, Witness},
        operations::Operation,
        rules::{Kind, Observed},
    },
    units::{ByteRange, HookId, Nanos, StackId},
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
