//! Read-write semaphores (kernel/locking/rwsem.c). Filesystems lock through inline wrappers, so these
//! out-of-line functions see every use; the `_nested` forms are functions of their own with lockdep
//! (CONFIG_DEBUG_LOCK_ALLOC), and macros over the plain ones without.

use super::{Effect, Hook, LockAction, Mode, Side, Stacks, Success, Target, arg, arg32};

const fn acquire(
    function: &'static str,
    mode: Mode,
    success: Success,
    group: &'static str,
) -> Hook {
    Hook::new(
        Target::Function(function, Side::Return),
        Effect::Lock(LockAction::Acquire(mode)),
        group,
    )
    .inode(arg(0, &[]))
    .success(success)
}

const fn trylock(function: &'static str, mode: Mode, group: &'static str) -> Hook {
    Hook::new(
        Target::Function(function, Side::Return),
        Effect::Lock(LockAction::TryAcquire(mode)),
        group,
    )
    .inode(arg(0, &[]))
    .success(Success::NonZero)
}

const fn release(function: &'static str, mode: Mode, group: &'static str) -> Hook {
    Hook::new(
        Target::Function(function, Side::Entry),
        Effect::Lock(LockAction::Release(mode)),
        group,
    )
    .inode(arg(0, &[]))
}

/// A lock counts as held from the return of its acquisition to the entry of its release.
pub const HOOKS: &[Hook] = &[
    acquire(
        "down_read",
        Mode::Shared,
        Success::Always,
        "rwsem/down_read",
    ),
    acquire(
        "down_read_nested",
        Mode::Shared,
        Success::Always,
        "rwsem/down_read",
    ),
    acquire(
        "down_read_killable",
        Mode::Shared,
        Success::Zero,
        "rwsem/down_read_killable",
    ),
    acquire(
        "down_read_killable_nested",
        Mode::Shared,
        Success::Zero,
        "rwsem/down_read_killable",
    ),
    acquire(
        "down_read_interruptible",
        Mode::Shared,
        Success::Zero,
        "rwsem/down_read_interruptible",
    ),
    trylock("down_read_trylock", Mode::Shared, "rwsem/down_read_trylock"),
    acquire(
        "down_write",
        Mode::Excl,
        Success::Always,
        "rwsem/down_write",
    ),
    acquire(
        "down_write_nested",
        Mode::Excl,
        Success::Always,
        "rwsem/down_write",
    ),
    acquire(
        "_down_write_nest_lock",
        Mode::Excl,
        Success::Always,
        "rwsem/down_write",
    ),
    acquire(
        "down_write_killable",
        Mode::Excl,
        Success::Zero,
        "rwsem/down_write_killable",
    ),
    acquire(
        "down_write_killable_nested",
        Mode::Excl,
        Success::Zero,
        "rwsem/down_write_killable",
    ),
    trylock("down_write_trylock", Mode::Excl, "rwsem/down_write_trylock"),
    release("up_read", Mode::Shared, "rwsem/up_read"),
    release("up_write", Mode::Excl, "rwsem/up_write"),
    Hook::new(
        Target::Function("downgrade_write", Side::Entry),
        Effect::Lock(LockAction::Downgrade),
        "rwsem/downgrade_write",
    )
    .inode(arg(0, &[])),
    // Slow path only (kernel/locking/rwsem.c: rwsem_down_*_slowpath); flags say read or write.
    Hook::new(
        Target::Tracepoint("contention_begin"),
        Effect::Lock(LockAction::Wait),
        "rwsem/contention",
    )
    .inode(arg(0, &[]))
    .payload(None, None, Some(arg32(1)))
    // A wait costs far more than its stack.
    .stacks(Stacks::Always, None),
];
