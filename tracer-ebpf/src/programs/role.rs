//! The roles that a hook can play.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tracer_ebpf::{
    event::{
        Event, FLAG_CACHED, FLAG_DIRECT, FLAG_SCOPE_OVERFLOW, FLAG_SECOND_INODE, FLAG_UNGUARDED,
        Head, lost,
    },
    hook::{
        Hold, HookSpec, MORE_ARMS, MORE_FIRST, MORE_FREEZE, MORE_HELD, MORE_QUIET, Role,
        SPEC_KNOWN, SPEC_OWN, SPEC_SIZE, SPEC_STACK, SPEC_STACK_SAMPLED, SPEC_STATE, SPEC_UNSCOPED,
        SPEC_WITHIN, Success,
    },
};

use crate::{
    args::Args,
    identity::{Look, direct_io, freeze_protection, introduce, introduced, pages, size, watched},
    pause::pause,
    ring::{SEEN, TASKS, count_lost, publish, stack},
    scope::{
        FRAMES, Frame, SLOTS, Task, concern, current, frame, holds, innermost, known, known_or_new,
        lock_owner, next_seq, note_address_space, own, slot,
    },
    spec::{LAYOUT, SPEC, follow, frozen},
};

/// One in this many of a task's records carries a stack where stacks are sampled.
const STACK_SAMPLE: u32 = 64;

const ENTER: u8 = Role::Enter as u8;
const LEAVE: u8 = Role::Leave as u8;
const LOCK: u8 = Role::Lock as u8;
const ACT: u8 = Role::Act as u8;
const RESOURCE: u8 = Role::Resource as u8;
const SLEEP: u8 = Role::Sleep as u8;

/// include/linux/mm.h: VM_SHARED
const VM_SHARED: u64 = 8;
/// include/linux/mm_types.h: FAULT_FLAG_WRITE
const FAULT_FLAG_WRITE: u64 = 1;

#[inline(always)]
pub fn run(args: &impl Args) {
    // The verifier knows the role and drops the other arms.
    let _ = match frozen(&SPEC.role) {
        ENTER => enter(args),
        LEAVE => leave(args),
        LOCK => lock(args),
        ACT => act(args),
        RESOURCE => resource(args),
        SLEEP => sleep(args),
        _ => exit(),
    };
}

struct Payload {
    inode: u64,
    a: u64,
    b: u64,
    c: u64,
    size: u64,
    flags: u8,
    stack: i32,
}

#[inline(always)]
fn emit(task: *mut Task, what: &Payload) {
    emit_as(task, frozen(&SPEC.id), what);
}

#[inline(always)]
fn emit_as(task: *mut Task, hook: u16, what: &Payload) {
    let seq = next_seq(task);
    // SAFETY: `task` is a live map value. Whoever goes on to the next record did not sleep for the last.
    let depth = unsafe {
        (*task).armed = 0;
        (*task).depth
    };
    publish(|record: *mut Event, time| {
        let head = Head {
            time,
            task: current(),
            seq,
            hook,
            depth,
            flags: what.flags,
            stack: what.stack,
        };
        // SAFETY: `record` is this ring's reservation.
        unsafe {
            record.write(Event {
                head,
                inode: what.inode,
                a: what.a,
                b: what.b,
                c: what.c,
                size: what.size,
            });
        }
    });
}

#[inline(always)]
fn sized(inode: u64) -> u64 {
    if frozen(&SPEC.flags) & SPEC_SIZE != 0 {
        size(inode)
    } else {
        0
    }
}

macro_rules! payload {
    ($args:expr, $set:ident, $index:literal) => {
        follow($args, &raw const SPEC.$set[$index])
    };
}

/// False if the hook asks for bits of `c` that are not there, or refuses some that are.
#[inline(always)]
fn passes_guard(c: u64) -> bool {
    let guard = frozen(&SPEC.guard);
    let exactly = frozen(&SPEC.exactly);
    (guard == 0 || c & guard != 0)
        && c & frozen(&SPEC.without) == 0
        && (exactly == 0 || c == exactly)
}

#[inline(always)]
fn sampled_stack(args: &impl Args, task: *mut Task) -> i32 {
    let flags = frozen(&SPEC.flags);
    // SAFETY: `task` is a live map value.
    let sample = flags & SPEC_STACK_SAMPLED != 0 && unsafe { (*task).seq } % STACK_SAMPLE == 0;
    if flags & SPEC_STACK != 0 || sample {
        stack(args)
    } else {
        -1
    }
}

/// Whether a fault on `page` is not recorded. Page and millisecond decide, so that a fault that passes two
/// hooks is taken by both or neither. Inside an operation every fault is: its locks would be taken for
/// the operation's.
#[inline(always)]
fn left_out(page: u64) -> bool {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let mixed = (page ^ now >> 20).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    // SAFETY: the map value is live.
    mixed & u64::from(frozen(&SPEC.left_out)) != 0
        && known().is_none_or(|task| unsafe { (*task).depth == 0 })
}

#[inline(always)]
fn enter(args: &impl Args) -> Option<()> {
    if frozen(&SPEC.left_out) != 0 && left_out(payload!(args, payload, 0).unwrap_or(0)) {
        return None;
    }
    let inode = payload!(args, inodes, 0)?;
    let (device, bounds) = watched(inode)?;
    let c = payload!(args, payload, 2).unwrap_or(0);
    if !passes_guard(c) {
        return None;
    }
    let task = known_or_new()?;
    let writes = protected(args, task, c);
    let mut flags = 0;
    // SAFETY: `task` is a live map value; the index is checked.
    let outermost = unsafe { (*task).depth == 0 };
    unsafe {
        if outermost {
            (*task).slots = 0;
            (*task).held = 0;
            note_address_space(task);
        }
        let slots_before = (*task).slots;
        let slot = concern(task, inode, bounds);
        if slot.is_none() {
            flags |= FLAG_SCOPE_OVERFLOW;
        }
        let depth = (*task).depth as usize;
        if depth < FRAMES {
            *frame(task, depth) = Frame {
                hook: frozen(&SPEC.id),
                slots_before,
                slot: slot.unwrap_or(SLOTS as u8),
                outer_operation: (*task).operation,
                outer_writes: (*task).writes,
                reserved: 0,
            };
            (*task).operation = frozen(&SPEC.id);
            (*task).writes = writes;
            (*task).depth = depth as u8 + 1;
        } else {
            count_lost(lost::SCOPE);
            flags |= FLAG_SCOPE_OVERFLOW;
        }
    }
    introduce(task, inode, device);
    // It holds nothing yet: who does, if no other fault is under way?
    if outermost {
        flags |= freeze(task, inode, Look::Once);
    }
    let stack = sampled_stack(args, task);
    emit(
        task,
        &Payload {
            inode,
            a: payload!(args, payload, 0).unwrap_or(0),
            b: payload!(args, payload, 1).unwrap_or(0),
            c,
            size: sized(inode),
            flags,
            stack,
        },
    );
    let second = payload!(args, inodes, 1)?;
    if second == 0 || second == inode {
        return None;
    }
    let (device, bounds) = watched(second)?;
    if concern(task, second, bounds).is_none() {
        flags |= FLAG_SCOPE_OVERFLOW;
    }
    introduce(task, second, device);
    emit(
        task,
        &Payload {
            inode: second,
            a: payload!(args, second, 0).unwrap_or(0),
            b: payload!(args, second, 1).unwrap_or(0),
            c: payload!(args, second, 2).unwrap_or(0),
            size: sized(second),
            flags: flags | FLAG_SECOND_INODE,
            stack: -1,
        },
    );
    None
}

#[inline(always)]
fn leave(args: &impl Args) -> Option<()> {
    let task = known()?;
    // SAFETY: `task` is a live map value; the index is checked.
    let inode = unsafe {
        let depth = (*task).depth as usize;
        if depth == 0 || depth > FRAMES {
            return None;
        }
        let closed = *frame(task, depth - 1);
        if closed.hook != frozen(&SPEC.pair) {
            return None;
        }
        let inode = own(task).unwrap_or(0);
        (*task).depth = depth as u8 - 1;
        (*task).slots = closed.slots_before;
        (*task).operation = closed.outer_operation;
        (*task).writes = closed.outer_writes;
        inode
    };
    let inode = payload!(args, inodes, 0).unwrap_or(inode);
    // SAFETY: `task` is a live map value.
    let leaks = unsafe { (*task).depth == 0 && (*slot(task, 0)).hold != 0 };
    emit(
        task,
        &Payload {
            inode,
            a: args.ret().unwrap_or(0),
            b: 0,
            c: 0,
            size: if inode != 0 { sized(inode) } else { 0 },
            flags: 0,
            stack: if leaks || frozen(&SPEC.flags) & SPEC_STACK != 0 {
                stack(args)
            } else {
                -1
            },
        },
    );
    None
}

#[inline(always)]
fn succeeded(args: &impl Args) -> bool {
    let success = frozen(&SPEC.success);
    if success == Success::Always as u8 {
        return true;
    }
    let value = args.ret().unwrap_or(0) as u32;
    if success == Success::Zero as u8 {
        value == 0
    } else {
        value != 0
    }
}

#[inline(always)]
fn lock(args: &impl Args) -> Option<()> {
    let task = known()?;
    // SAFETY: `task` is a live map value.
    if unsafe { (*task).depth } == 0 {
        return None;
    }
    if !succeeded(args) {
        return None;
    }
    let address = follow(args, &raw const SPEC.inodes[0])?;
    let (inode, offset, exclusion) = match lock_owner(task, address, frozen(&SPEC.hold)) {
        Some((inode, exclusion)) => (inode, address.wrapping_sub(inode), exclusion),
        None if frozen(&SPEC.hold) == Hold::Only as u8 => return None,
        // SAFETY: `task` is a live map value.
        None if unsafe { (*task).mm_lock } == address => (0, 0, false),
        None => return None,
    };
    let stack = first_stack(args, task, offset);
    let flags = if exclusion {
        freeze(task, inode, Look::Twice)
    } else {
        0
    };
    emit(
        task,
        &Payload {
            inode,
            a: offset,
            b: address,
            c: payload!(args, payload, 2).unwrap_or(0),
            size: 0,
            flags,
            stack,
        },
    );
    pause();
    None
}

/// 1 if what begins is a write fault of a shared mapping whose freeze protection is to be looked at.
#[inline(always)]
fn protected(args: &impl Args, task: *mut Task, c: u64) -> u8 {
    if frozen(&SPEC.more) & MORE_FREEZE == 0 || c & FAULT_FLAG_WRITE == 0 {
        return 0;
    }
    // SAFETY: `task` is a live map value.
    if unsafe { (*task).seq } & frozen(&LAYOUT.freeze_mask) != 0 {
        return 0;
    }
    // Through memory: where the path fails the compiler would leave a register without a value, which
    // the verifier refuses to see read, whatever becomes of it.
    let mut flags = 0u64;
    if let Some(value) = payload!(args, second, 0) {
        // SAFETY: a local; likewise below.
        unsafe { write_volatile(&raw mut flags, value) }
    }
    u8::from(unsafe { read_volatile(&raw const flags) } & VM_SHARED != 0)
}

/// `FLAG_FREEZE_*` where they matter.
#[inline(always)]
fn freeze(task: *mut Task, inode: u64, look: Look) -> u8 {
    if frozen(&SPEC.more) & MORE_FREEZE == 0 {
        return 0;
    }
    // SAFETY: `task` is a live map value.
    match unsafe { (*task).writes } {
        0 => 0,
        _ => freeze_protection(inode, look),
    }
}

/// Keeps the sum over held locks, of kind `kind` this one, and takes a stack when the state is new.
#[inline(always)]
fn first_stack(args: &impl Args, task: *mut Task, kind: u64) -> i32 {
    let mark = (kind as u32).wrapping_mul(0x9e37_79b1) | 1;
    let taking = frozen(&SPEC.more) & MORE_FIRST != 0;
    if !taking {
        if frozen(&SPEC.hold) == Hold::Drop as u8 {
            // SAFETY: `task` is a live map value that only this task changes; likewise below.
            unsafe { (*task).held = (*task).held.wrapping_sub(mark) }
        }
        return sampled_stack(args, task);
    }
    let (held, operation) = unsafe { ((*task).held, (*task).operation) };
    unsafe { (*task).held = held.wrapping_add(mark) }
    let state = (u64::from(held) << 32 | u64::from(mark))
        ^ (u64::from(operation) << 48)
        ^ (u64::from(frozen(&SPEC.id)) << 16);
    // SAFETY: only asked whether it is there.
    if unsafe { SEEN.get(state) }.is_some() {
        return sampled_stack(args, task);
    }
    // A full table only means that no more stacks are taken for their novelty.
    if SEEN.insert(state, &1, 0).is_err() {
        return sampled_stack(args, task);
    }
    stack(args)
}

#[inline(always)]
fn resource(args: &impl Args) -> Option<()> {
    let task = known()?;
    // SAFETY: `task` is a live map value.
    if unsafe { (*task).depth } == 0 || !succeeded(args) {
        return None;
    }
    let c = payload!(args, payload, 2).unwrap_or(0);
    if !passes_guard(c) {
        return None;
    }
    let a = payload!(args, payload, 0)?;
    // Offsets of inodes' locks are smaller.
    let stack = first_stack(args, task, 0x1_0000 + u64::from(frozen(&SPEC.pair)));
    emit(
        task,
        &Payload {
            inode: 0,
            a,
            b: payload!(args, payload, 1).unwrap_or(0),
            c,
            size: 0,
            flags: 0,
            stack,
        },
    );
    None
}

#[inline(always)]
fn arm(task: *mut Task, inode: u64, a: u64) {
    // SAFETY: `task` is a live map value that only this task changes.
    unsafe {
        (*task).armed = frozen(&SPEC.pair).wrapping_add(1);
        (*task).armed_inode = inode;
        (*task).armed_a = a;
    }
}

#[inline(always)]
fn sleep(args: &impl Args) -> Option<()> {
    let task = known()?;
    // SAFETY: `task` is a live map value.
    let (armed, depth, inode, a) = unsafe {
        (
            (*task).armed,
            (*task).depth,
            (*task).armed_inode,
            (*task).armed_a,
        )
    };
    if armed == 0 || depth == 0 {
        return None;
    }
    let stack = stack(args);
    emit_as(
        task,
        armed - 1,
        &Payload {
            inode,
            a,
            b: 0,
            c: 0,
            size: 0,
            flags: 0,
            stack,
        },
    );
    None
}

#[inline(always)]
fn act(args: &impl Args) -> Option<()> {
    let task = if frozen(&SPEC.flags) & SPEC_UNSCOPED != 0 {
        let inode = payload!(args, inodes, 0)?;
        let (device, _) = watched(inode)?;
        if frozen(&SPEC.flags) & SPEC_KNOWN != 0 && !introduced(inode) {
            return None;
        }
        let task = known_or_new()?;
        introduce(task, inode, device);
        task
    } else {
        let task = known()?;
        // SAFETY: `task` is a live map value.
        if unsafe { (*task).depth } == 0 {
            return None;
        }
        if frozen(&SPEC.flags) & SPEC_WITHIN != 0 && innermost(task)? != frozen(&SPEC.pair) {
            return None;
        }
        task
    };
    if !succeeded(args) {
        return None;
    }
    let c = payload!(args, payload, 2).unwrap_or(0);
    if !passes_guard(c) {
        return None;
    }
    let inode = if frozen(&SPEC.flags) & SPEC_OWN != 0 {
        own(task)?
    } else {
        payload!(args, inodes, 0)?
    };
    let held = match holds(task, inode) {
        Some(held) => held,
        None if frozen(&SPEC.flags) & SPEC_UNSCOPED != 0 => 0,
        None => {
            let (device, _) = watched(inode)?;
            introduce(task, inode, device);
            0
        }
    };
    if frozen(&SPEC.more) & MORE_HELD != 0 && held == 0 {
        return None;
    }
    if frozen(&SPEC.more) & MORE_QUIET != 0 {
        arm(task, inode, payload!(args, payload, 0).unwrap_or(0));
        return None;
    }
    let unguarded = held < u32::from(frozen(&SPEC.needs));
    let stack = if unguarded {
        stack(args)
    } else {
        sampled_stack(args, task)
    };
    emit(
        task,
        &Payload {
            inode,
            a: payload!(args, payload, 0).unwrap_or(0),
            b: payload!(args, payload, 1).unwrap_or(0),
            c,
            size: sized(inode),
            flags: if unguarded { FLAG_UNGUARDED } else { 0 }
                | state(inode)
                | freeze(task, inode, Look::Twice),
            stack,
        },
    );
    if frozen(&SPEC.more) & MORE_ARMS != 0 && c != 0 {
        arm(task, inode, 0);
    }
    pause();
    None
}

/// What else the spec asks for about the file.
#[inline(always)]
fn state(inode: u64) -> u8 {
    if frozen(&SPEC.flags) & SPEC_STATE == 0 {
        return 0;
    }
    let cached = if pages(inode) != 0 { FLAG_CACHED } else { 0 };
    let direct = if direct_io(inode) != 0 {
        FLAG_DIRECT
    } else {
        0
    };
    cached | direct
}

#[inline(always)]
fn exit() -> Option<()> {
    // Fails for the many tasks that never entered an operation.
    let _ = TASKS.remove(current());
    None
}

const _: () = assert!(size_of::<HookSpec>() == 48 + 8 * size_of::<tracer_ebpf::Path>());
const _: () = assert!(size_of::<tracer_ebpf::Path>() == 24);
