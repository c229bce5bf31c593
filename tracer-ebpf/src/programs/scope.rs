//! What one task is doing: its open operations and the inodes that they concern.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_get_current_task},
};
use tracer_ebpf::{
    event::{HOOK_TASK, Head, TaskRecord, lost},
    hook::{Hold, RELIEVED_HOOKS, Watched},
};

use crate::{
    ring::{TASKS, count_lost, publish},
    spec::{LAYOUT, frozen, peek},
};

/// Operations that may nest: write(2) -> fault -> truncate of another file is three.
pub const FRAMES: usize = 6;
/// Inodes that may be concerned at once.
pub const SLOTS: usize = 6;
const RAN_WORDS: usize = RELIEVED_HOOKS as usize / 64;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Frame {
    pub hook: u16,
    pub slots_before: u8,
    /// Where the operation's inode is among the slots.
    pub slot: u8,
    /// `Task::operation` and `Task::writes` outside it.
    pub outer_operation: u16,
    pub outer_writes: u8,
    pub reserved: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slot {
    pub inode: u64,
    pub bounds: Watched,
    pub hold: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Task {
    pub seq: u32,
    pub depth: u8,
    pub slots: u8,
    /// The hook under which the task's next sleep is reported, plus 1; 0 if it is not.
    pub armed: u16,
    /// Sum over the locks held, by kind: equal in equal states.
    pub held: u32,
    /// The hook that began the innermost operation.
    pub operation: u16,
    /// It is a write fault of a shared mapping whose freeze protection is looked at.
    pub writes: u8,
    pub reserved: u8,
    pub armed_inode: u64,
    pub armed_a: u64,
    /// The address of the mmap_lock of the task's address space, since its outermost operation began.
    pub mm_lock: u64,
    /// The hooks whose first program ran and whose relief did not yet, a bit each.
    pub ran: [u64; RAN_WORDS],
    pub frames: [Frame; FRAMES],
    pub slot: [Slot; SLOTS],
}

const NO_FRAME: Frame = Frame {
    hook: 0,
    slots_before: 0,
    slot: 0,
    outer_operation: 0,
    outer_writes: 0,
    reserved: 0,
};
const NO_SLOT: Slot = Slot {
    inode: 0,
    bounds: Watched {
        first: 0,
        last: 0,
        exclusion: 0,
        reserved: 0,
    },
    hold: 0,
    reserved: 0,
};
static NEW_TASK: Task = Task {
    seq: 0,
    depth: 0,
    slots: 0,
    armed: 0,
    held: 0,
    operation: 0,
    writes: 0,
    reserved: 0,
    armed_inode: 0,
    armed_a: 0,
    mm_lock: 0,
    ran: [0; RAN_WORDS],
    frames: [NO_FRAME; FRAMES],
    slot: [NO_SLOT; SLOTS],
};

/// Frame `index`, which must be below [`FRAMES`]. No indexing: a bounds check that cannot fail still
/// leaves a panic behind, which the verifier refuses.
#[inline(always)]
pub fn frame(task: *mut Task, index: usize) -> *mut Frame {
    // SAFETY: the caller checked the index.
    unsafe { (&raw mut (*task).frames).cast::<Frame>().add(index) }
}

/// Slot `index`, which must be below [`SLOTS`].
#[inline(always)]
pub fn slot(task: *mut Task, index: usize) -> *mut Slot {
    // SAFETY: the caller checked the index.
    unsafe { (&raw mut (*task).slot).cast::<Slot>().add(index) }
}

#[inline(always)]
pub fn current() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// This task's entry, if it ever entered an operation.
#[inline(always)]
pub fn known() -> Option<*mut Task> {
    TASKS.get_ptr_mut(current())
}

/// This task's entry, introducing the task to user space when it is new.
#[inline(always)]
pub fn known_or_new() -> Option<*mut Task> {
    if let Some(task) = known() {
        return Some(task);
    }
    let id = current();
    if TASKS.insert(id, &NEW_TASK, u64::from(BPF_NOEXIST)).is_err() {
        count_lost(lost::TASKS);
        return None;
    }
    let task = known()?;
    let seq = next_seq(task);
    let name = bpf_get_current_comm().unwrap_or_default();
    publish(|record: *mut TaskRecord, time| {
        // SAFETY: `record` is this ring's reservation.
        unsafe {
            record.write(TaskRecord {
                head: Head {
                    time,
                    task: id,
                    seq,
                    hook: HOOK_TASK,
                    depth: 0,
                    flags: 0,
                    stack: -1,
                },
                process: (bpf_get_current_pid_tgid() >> 32) as u32,
                reserved: 0,
                name,
            });
        }
    });
    Some(task)
}

/// Numbers the task's next record, whether or not it will reach user space.
#[inline(always)]
pub fn next_seq(task: *mut Task) -> u32 {
    // SAFETY: `task` is a live map value that only this task changes.
    unsafe {
        let seq = (*task).seq;
        (*task).seq = seq.wrapping_add(1);
        seq
    }
}

/// Adds `inode` to the task's scope unless it is there, and says in which slot; `None` when the scope
/// is full.
#[inline(always)]
pub fn concern(task: *mut Task, inode: u64, bounds: Watched) -> Option<u8> {
    // SAFETY: `task` is a live map value; indexes are below SLOTS.
    unsafe {
        let used = (*task).slots as usize;
        let mut i = 0;
        while i < SLOTS {
            if i >= used {
                *slot(task, i) = Slot {
                    inode,
                    bounds,
                    hold: 0,
                    reserved: 0,
                };
                (*task).slots = i as u8 + 1;
                return Some(i as u8);
            }
            if (*slot(task, i)).inode == inode {
                return Some(i as u8);
            }
            i += 1;
        }
    }
    count_lost(lost::SCOPE);
    None
}

/// The hook that opened the task's innermost operation.
#[inline(always)]
pub fn innermost(task: *mut Task) -> Option<u16> {
    // SAFETY: as above; the index is checked.
    unsafe {
        let depth = (*task).depth as usize;
        if depth == 0 || depth > FRAMES {
            return None;
        }
        Some((*frame(task, depth - 1)).hook)
    }
}

/// Remembers which address space the task runs in: exec(2) may have changed it.
#[inline(always)]
pub fn note_address_space(task: *mut Task) {
    // SAFETY: a helper without arguments; the address is only read through the checked helper.
    let current = unsafe { bpf_get_current_task() };
    let mm = peek::<u64>(current + u64::from(frozen(&LAYOUT.task_mm))).unwrap_or(0);
    // SAFETY: `task` is a live map value that only this task changes.
    unsafe {
        (*task).mm_lock = if mm == 0 {
            0
        } else {
            mm + u64::from(frozen(&LAYOUT.mm_lock))
        };
    }
}

/// The inode of the task's innermost operation.
#[inline(always)]
pub fn own(task: *mut Task) -> Option<u64> {
    // SAFETY: as above; the indexes are checked.
    unsafe {
        let depth = (*task).depth as usize;
        if depth == 0 || depth > FRAMES {
            return None;
        }
        let index = (*frame(task, depth - 1)).slot as usize;
        (index < SLOTS).then(|| (*slot(task, index)).inode)
    }
}

/// The mode in which the task holds `inode`'s exclusion lock: 0 none, 1 shared, 2 exclusive;
/// `None` if the inode is outside its scope.
#[inline(always)]
pub fn holds(task: *mut Task, inode: u64) -> Option<u32> {
    // SAFETY: as above.
    unsafe {
        let used = (*task).slots as usize;
        let mut i = 0;
        while i < SLOTS {
            if i >= used {
                break;
            }
            if (*slot(task, i)).inode == inode {
                return Some((*slot(task, i)).hold);
            }
            i += 1;
        }
    }
    None
}

/// If `address` lies in an inode of the task's scope: that inode, and whether it is the exclusion lock,
/// the hold of which is updated.
#[inline(always)]
pub fn lock_owner(task: *mut Task, address: u64, hold: u8) -> Option<(u64, bool)> {
    // SAFETY: as above.
    unsafe {
        let used = (*task).slots as usize;
        let mut i = 0;
        while i < SLOTS {
            if i >= used {
                break;
            }
            let slot = slot(task, i);
            let offset = address.wrapping_sub((*slot).inode) as i64;
            if offset >= i64::from((*slot).bounds.first) && offset < i64::from((*slot).bounds.last)
            {
                let exclusion = offset == i64::from((*slot).bounds.exclusion);
                if hold == Hold::Only as u8 {
                    return exclusion.then_some(((*slot).inode, true));
                }
                if hold != Hold::Keep as u8 && exclusion {
                    (*slot).hold = u32::from(hold) - 1;
                }
                return Some(((*slot).inode, exclusion));
            }
            i += 1;
        }
    }
    None
}
