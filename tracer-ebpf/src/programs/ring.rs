//! The maps, and the way a record gets into this CPU's ring buffer.

use core::{cell::UnsafeCell, ffi::c_void};

use aya_ebpf::{
    bindings::{
        BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, bpf_map_def,
        bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS,
    },
    helpers::{
        bpf_ktime_get_ns,
        generated::{
            bpf_get_smp_processor_id, bpf_get_stackid, bpf_map_lookup_elem, bpf_ringbuf_query,
            bpf_ringbuf_reserve, bpf_ringbuf_submit,
        },
    },
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, StackTrace},
};
use tracer_ebpf::{
    event::lost,
    hook::{RELIEVED_HOOKS, Relieved, Watched},
};

use crate::{args::Args, identity::InodeIdentity, scope::Task};

/// `-EEXIST`
const NO_ROOM: i32 = -17;

/// Unread bytes of a ring from which on its reader is woken.
const WAKE_AT: u64 = 1 << 20;

#[repr(transparent)]
struct RingPerCpu(UnsafeCell<bpf_map_def>);

// SAFETY: only its address is used; the loader replaces it by a map.
unsafe impl Sync for RingPerCpu {}

/// An array of ring buffers, one a CPU: writers on different CPUs share no lock. User space sizes it.
#[unsafe(link_section = "maps")]
#[unsafe(no_mangle)]
static RINGS: RingPerCpu = RingPerCpu(UnsafeCell::new(bpf_map_def {
    type_: BPF_MAP_TYPE_ARRAY_OF_MAPS,
    key_size: 4,
    value_size: 4,
    max_entries: 1,
    map_flags: 0,
    id: 0,
    pinning: 0,
}));

#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(lost::SLOTS, 0);

#[map]
pub static RELIEVED: PerCpuArray<Relieved> = PerCpuArray::with_max_entries(RELIEVED_HOOKS, 0);

/// Tasks without an entry of their own that may be between the two programs of a hook at once.
pub const MAX_STRANGERS: u32 = 4096;

#[map]
pub static STRANGERS: Array<u64> = Array::with_max_entries(MAX_STRANGERS, 0);

#[map]
pub static WATCHED: HashMap<u32, Watched> = HashMap::with_max_entries(64, 0);

#[map]
pub static TASKS: HashMap<u32, Task> = HashMap::with_max_entries(16384, 0);

#[map]
pub static INODES: LruHashMap<u64, InodeIdentity> = LruHashMap::with_max_entries(65536, 0);

/// States in which a stack was taken: what a task did, held, and came to do next.
#[map]
pub static SEEN: HashMap<u64, u8> = HashMap::with_max_entries(16384, 0);

#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(16384, 0);

/// Counts a loss of kind `slot` on this CPU.
#[inline(always)]
pub fn count_lost(slot: u32) {
    if let Some(count) = LOST.get_ptr_mut(slot) {
        // SAFETY: a per-CPU map value, valid for the program's run.
        unsafe { *count += 1 }
    }
}

/// The kernel stack's key in the stack map, or a negative error. The map keeps one stack a bucket
/// (kernel/bpf/stackmap.c:bpf_get_stackid): one whose bucket is another's goes without its innermost frame, which
/// makes it land elsewhere.
#[inline(always)]
pub fn stack(args: &impl Args) -> i32 {
    let without = |frames: u64| {
        // SAFETY: a helper call on this program's own context and map.
        unsafe {
            bpf_get_stackid(
                args.context(),
                (&raw const STACKS).cast_mut().cast::<c_void>(),
                frames,
            ) as i32
        }
    };
    match without(0) {
        NO_ROOM => without(1),
        id => id,
    }
}

/// Reserves room for a `T` in this CPU's ring, lets `fill` write it, and submits it. The time given to
/// `fill` is taken after the reservation, so times in one ring follow its order.
#[inline(always)]
pub fn publish<T>(fill: impl FnOnce(*mut T, u64)) {
    // SAFETY: helper calls; the reserved record is of T's size and submitted exactly once.
    unsafe {
        let cpu = bpf_get_smp_processor_id();
        let ring = bpf_map_lookup_elem(
            (&raw const RINGS).cast_mut().cast(),
            (&raw const cpu).cast(),
        );
        if ring.is_null() {
            return count_lost(lost::RING);
        }
        let record = bpf_ringbuf_reserve(ring, size_of::<T>() as u64, 0).cast::<T>();
        if record.is_null() {
            return count_lost(lost::RING);
        }
        fill(record, bpf_ktime_get_ns());
        // Waking user space costs an interrupt: only when the ring fills up, else it looks by itself.
        let flags = if bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)) > WAKE_AT {
            BPF_RB_FORCE_WAKEUP
        } else {
            BPF_RB_NO_WAKEUP
        };
        bpf_ringbuf_submit(record.cast(), u64::from(flags));
    }
}
