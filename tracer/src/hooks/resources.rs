//! What tasks wait for besides read-write semaphores: page pins, DAX entries, folios.

use super::{
    Effect, EntryAction, Hook, LockAction, LockClass, Side, Stacks, Step, Target, arg,
    generic::{MAPPING, XAS_INDEX},
};

const fn entry(function: &'static str) -> Target {
    Target::Function(function, Side::Entry)
}

/// Contended path only; the holder is not to be seen.
const fn folio(function: &'static str) -> Hook {
    Hook::new(
        entry(function),
        Effect::Resource(LockClass::FolioLock, LockAction::Wait),
        "folio/lock",
    )
    .payload(
        Some(arg(
            0,
            &[
                Step::Deref("folio", "mapping"),
                Step::Read("address_space", "host"),
            ],
        )),
        Some(arg(0, &[Step::Read("folio", "index")])),
        None,
    )
    .stacks(Stacks::Always, None)
}

/// A sleep is reported only where another row says that the next one matters.
pub const HOOKS: &[Hook] = &[
    // After dax_layout_busy_page found a pin, ___wait_var_event (<= 6.14: in the filesystem, later
    // fs/dax.c:wait_page_idle) sleeps here; kernel/sched/core.c.
    Hook::new(entry("schedule"), Effect::LayoutWait, "layout/wait").stacks(Stacks::Always, None),
    // Its own sleep is in get_unlocked_entry: a hashed wait queue and a lock bit, neither of which
    // lockdep knows. It is the sleep that is reported.
    Hook::new(
        entry("grab_mapping_entry"),
        Effect::EntryLock(EntryAction::Wait),
        "dax-entry/wait",
    )
    .inode(arg(1, MAPPING))
    .payload(Some(XAS_INDEX), None, None),
    // mm/filemap.c
    folio("__folio_lock"),
    folio("__folio_lock_killable"),
];
