//! Two programs on one function: the second makes up for what the kernel skipped the first for.

use tracer_ebpf::hook::{RELIEVED_HOOKS, Relieved, Turn};

use crate::{
    args::Args,
    ring::RELIEVED,
    role,
    scope::{Task, known},
    spec::{SPEC, frozen},
};

const FIRST: u8 = Turn::First as u8;
const RELIEF: u8 = Turn::Relief as u8;

#[inline(always)]
pub fn run(args: &impl Args) {
    let turn = frozen(&SPEC.turn);
    let stranger = if turn == RELIEF {
        match known() {
            Some(task) if first_ran(task) => return,
            // Counted before the work, during which user space may ask for the balance.
            Some(_) => {
                count(|counted| counted.made_up += 1);
                false
            }
            None => true,
        }
    } else {
        false
    };
    role::run(args);
    if turn == FIRST {
        match known() {
            Some(task) => {
                let (word, bit) = word_of(task);
                // SAFETY: `task` is a live map value that only this task changes.
                unsafe { *word |= bit }
            }
            None => count(|counted| counted.strangers_first += 1),
        }
    }
    if stranger {
        match known() {
            // The first would have made it known.
            Some(_) => count(|counted| counted.made_up += 1),
            None => count(|counted| counted.strangers_second += 1),
        }
    }
}

/// Whether the first left word for the task, which is taken back.
#[inline(always)]
fn first_ran(task: *mut Task) -> bool {
    let (word, bit) = word_of(task);
    // SAFETY: `task` is a live map value that only this task changes.
    unsafe {
        let ran = *word & bit != 0;
        *word &= !bit;
        ran
    }
}

#[inline(always)]
fn word_of(task: *mut Task) -> (*mut u64, u64) {
    let hook = u32::from(frozen(&SPEC.id)) % RELIEVED_HOOKS;
    // SAFETY: `task` is a live map value; the index is below the number of words.
    let word = unsafe { (&raw mut (*task).ran).cast::<u64>().add(hook as usize / 64) };
    (word, 1 << (hook % 64))
}

/// The kernel lets no program begin twice on a CPU, so that nobody comes in between.
#[inline(always)]
fn count(add: impl FnOnce(&mut Relieved)) {
    if let Some(counted) = RELIEVED.get_ptr_mut(u32::from(frozen(&SPEC.id))) {
        // SAFETY: a per-CPU map value, valid for the program's run.
        add(unsafe { &mut *counted });
    }
}
