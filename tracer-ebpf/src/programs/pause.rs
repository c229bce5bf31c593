//! Holding a task up, so that others run into the window that it has open.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, generated::bpf_probe_read_kernel},
    macros::map,
    maps::Array,
};

use crate::spec::{SPEC, frozen};

/// A program may neither sleep nor loop for long: what takes time is copying this much, some
/// microseconds a time.
const COPIED: usize = 1 << 16;
/// The verifier walks through every round.
const ROUNDS: u32 = 1000;

#[map]
static PAUSE: Array<[u8; COPIED]> = Array::with_max_entries(1, 0);

/// Spins for as long as the spec asks, or as long as it can.
#[inline(always)]
pub fn pause() {
    let delay = frozen(&SPEC.delay);
    if delay == 0 {
        return;
    }
    let Some(room) = PAUSE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a helper call.
    let until = unsafe { bpf_ktime_get_ns() } + delay;
    let mut round = 0;
    while round < ROUNDS {
        // SAFETY: both helpers; the copy stays inside the map's value.
        unsafe {
            if bpf_ktime_get_ns() >= until {
                break;
            }
            let _ = bpf_probe_read_kernel(
                room.cast::<c_void>(),
                COPIED as u32,
                room.cast::<c_void>().cast_const(),
            );
        }
        round += 1;
    }
}
