//! Two programs on one function: the second makes up for what the kernel skipped the first for.

use core::ptr::{read_volatile, write_volatile};

use tracer_ebpf::hook::{RELIEVED_HOOKS, Relieved, Turn};

use crate::{
    args::Args,
    ring::{MAX_STRANGERS, RELIEVED, STRANGERS},
    role,
    scope::{Task, current, known},
    spec::{SPEC, frozen},
};

const FIRST: u8 = Turn::First as u8;
const RELIEF: u8 = Turn::Relief as u8;

#[inline(always)]
pub fn run(args: &impl Args) {
    let turn = frozen(&SPEC.turn);
    if turn == RELIEF && first_ran() {
        return;
    }
    let stranger = turn == RELIEF && known().is_none();
    if turn == RELIEF && !stranger {
        // Before the work, during which user space may ask for the balance.
        count(|counted| counted.made_up += 1);
    }
    role::run(args);
    match (turn, known()) {
        (FIRST, Some(task)) => {
            let (word, bit) = word_of(task);
            // SAFETY: `task` is a live map value that only this task changes.
            unsafe { *word |= bit }
        }
        (FIRST, None) => {
            if let Some(word) = word_of_stranger() {
                // SAFETY: a live map value; whoever shares the word writes all of it.
                unsafe { write_volatile(word, mark()) }
            }
        }
        // The first would have made it known.
        (RELIEF, Some(_)) if stranger => count(|counted| counted.made_up += 1),
        (RELIEF, None) => count(|counted| counted.strangers += 1),
        _ => (),
    }
}

/// Whether the first left word for this task, which is taken back.
#[inline(always)]
fn first_ran() -> bool {
    // SAFETY: live map values; a task's own is changed by that task only.
    unsafe {
        if let Some(task) = known() {
            let (word, bit) = word_of(task);
            let ran = *word & bit != 0;
            *word &= !bit;
            ran
        } else if let Some(word) = word_of_stranger() {
            let ran = read_volatile(word) == mark();
            if ran {
                write_volatile(word, 0);
            }
            ran
        } else {
            false
        }
    }
}

#[inline(always)]
fn word_of(task: *mut Task) -> (*mut u64, u64) {
    let hook = u32::from(frozen(&SPEC.id)) % RELIEVED_HOOKS;
    // SAFETY: `task` is a live map value; the index is below the number of words.
    let word = unsafe { (&raw mut (*task).ran).cast::<u64>().add(hook as usize / 64) };
    (word, 1 << (hook % 64))
}

/// Where word is left for a task that never entered an operation. If another's is written over it, a
/// skipped run too much is counted as made up for.
#[inline(always)]
fn word_of_stranger() -> Option<*mut u64> {
    STRANGERS.get_ptr_mut(current() % MAX_STRANGERS)
}

#[inline(always)]
fn mark() -> u64 {
    u64::from(current()) << 32 | u64::from(frozen(&SPEC.id)) | 1 << 16
}

/// The kernel lets no program begin twice on a CPU, so that nobody comes in between.
#[inline(always)]
fn count(add: impl FnOnce(&mut Relieved)) {
    if let Some(counted) = RELIEVED.get_ptr_mut(u32::from(frozen(&SPEC.id))) {
        // SAFETY: a per-CPU map value, valid for the program's run.
        add(unsafe { &mut *counted });
    }
}
