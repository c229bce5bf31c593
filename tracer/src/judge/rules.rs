//! The rules: what must hold at each act, and the kind of finding when it does not.

use serde::Serialize;

use crate::{
    hooks::{Effect, Entry, LockAction, LockClass, Mode},
    judge::lockset::Hold,
};

/// A finding's stable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Extents inside EOF changed with the exclusion lock not held at all.
    OpUnprotected,
    /// A translation installed without the exclusion lock.
    FaultUnprotected,
    /// The right lock in a mode that does not keep faults out.
    WrongMode,
    /// The exclusion lock of another inode of the operation only.
    PartialLock,
    /// Taken after the invalidation, or dropped before the change.
    ScopeGap,
    /// Released and retaken between invalidation and change.
    StaleAfterRelock,
    /// Still held when the operation returned, or released in another mode.
    LockLeak,
    /// Taken against a documented order, or on a cycle that tasks of this run can close.
    LockOrder,
    /// A journal handle or transaction, and a lock, in the wrong order.
    TxnOrder,
    /// The exclusion lock taken before freeze protection.
    FreezeOrder,
    /// A write fault without freeze protection.
    FreezeMissing,
    /// Asleep until others let go, with a lock that they need for it.
    WaitHoldingLock,
    /// A page that an operation sleeps for is mapped again, which counts as use.
    WaitRemapped,
    /// A lock that the task holds already, in a combination that can block.
    RecursiveLock,
    /// Tasks that wait for each other.
    Deadlock,
    /// A wait that nobody will end.
    Stall,
    /// Extents changed whose pages, DAX entries or translations were not torn down.
    MissingInvalidate,
    /// They were torn down only after the extents had changed.
    UnmapOrder,
    /// Extents of a DAX file changed without a look for pinned pages.
    LayoutUnbroken,
    /// Extents changed without waiting for direct I/O.
    DioUndrained,
    /// A block became visible before it was zeroed.
    StaleData,
    /// A size was published before the data that it covers.
    SizeOrder,
    /// A translation outlived the window that should have removed it.
    StaleTranslation,
    /// The workload read data that no order of its operations allows.
    Corruption,
}

/// What a rule says and why.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The kind of finding.
    pub kind: Kind,
    /// Its name in findings.
    pub name: &'static str,
    /// What is wrong, in a sentence.
    pub summary: &'static str,
    /// Where the kernel says so.
    pub source: &'static str,
    /// What it asks for, where that is no lock of the finding's class.
    pub asks: Option<&'static str>,
}

/// Every rule.
pub const RULES: [Rule; 24] = [
    Rule {
        kind: Kind::OpUnprotected,
        name: "op-unprotected",
        summary: "Extents inside EOF are removed, moved or converted without the exclusion lock; or the \
                  extent map is changed without its own, or grows, or bytes go beside the page cache, \
                  without i_rwsem. On virtiofs, DAX entries are dropped without the exclusion lock.",
        source: "mm/filemap.c head comment (i_rwsem, invalidate_lock); fs/xfs/xfs_file.c above \
                 __xfs_filemap_fault; Documentation/filesystems/locking.rst, invalidate_lock; \
                 fs/xfs/xfs_inode.c above xfs_ilock; fs/ext4/extents.c above ext4_ext_map_blocks",
        asks: None,
    },
    Rule {
        kind: Kind::FaultUnprotected,
        name: "fault-unprotected",
        summary: "A translation is installed without the exclusion lock, at least shared.",
        source: "fs/ext4/file.c:ext4_dax_huge_fault; fs/xfs/xfs_file.c:xfs_dax_read_fault, \
                 xfs_write_fault; fs/ext4/inode.c:ext4_page_mkwrite",
        asks: None,
    },
    Rule {
        kind: Kind::WrongMode,
        name: "wrong-mode",
        summary: "The exclusion lock is held shared where extents change, or come to be shared; faults \
                  hold it shared too. Or the extent map's own lock is, as those hold it who look it up.",
        source: "fs/xfs/xfs_inode.c above xfs_ilock; fs/xfs/xfs_iops.c:xfs_setattr_size asserts \
                 XFS_MMAPLOCK_EXCL; fs/xfs/xfs_inode.h above XFS_IREMAPPING",
        asks: None,
    },
    Rule {
        kind: Kind::PartialLock,
        name: "partial-lock",
        summary: "Of an operation's two inodes only one is locked against page faults.",
        source: "fs/xfs/xfs_bmap_util.c:xfs_swap_extents; mm/filemap.c:filemap_invalidate_lock_two",
        asks: None,
    },
    Rule {
        kind: Kind::ScopeGap,
        name: "scope-gap",
        summary: "The exclusion lock is taken after the invalidation or dropped before the change.",
        source: "fs/ext4/extents.c:ext4_collapse_range, comment above the page-cache drop",
        asks: None,
    },
    Rule {
        kind: Kind::StaleAfterRelock,
        name: "stale-after-relock",
        summary: "The exclusion lock is released and retaken between invalidation and change; or the \
                  extent map's own between two changes that are one step, or between the look-up that \
                  finds nothing and the reservation of blocks there.",
        source: "fs/dax.c:dax_layout_busy_page_range: whoever drops the lock must scan again; \
                 fs/xfs/xfs_bmap_util.c:xfs_insert_file_space joins one hold to all of its transactions; \
                 fs/ext4/inode.c:ext4_da_map_blocks, comment above the second look-up",
        asks: None,
    },
    Rule {
        kind: Kind::LockLeak,
        name: "lock-leak",
        summary: "An operation returns with a lock that it took, releases it in another mode, or releases \
                  one that it does not hold; or a write fault does not end its freeze protection.",
        source: "kernel/locking/rwsem.c: up_read and up_write pair with their acquisitions; \
                 include/linux/fs.h: sb_start_pagefault and sb_end_pagefault do",
        asks: None,
    },
    Rule {
        kind: Kind::LockOrder,
        name: "lock-order",
        summary: "Two resources are taken in an order that another path, or the kernel's own \
                  documentation, reverses.",
        source: "mm/filemap.c, fs/xfs/xfs_inode.c, fs/ext4/super.c: comments on lock ordering; \
                 kernel/locking/rwsem.c: a queued writer holds off readers",
        asks: None,
    },
    Rule {
        kind: Kind::TxnOrder,
        name: "txn-order",
        summary: "A journal handle or transaction and a lock are taken in the wrong order.",
        source: "fs/ext4/super.c, \"Lock ordering\"; fs/xfs/xfs_trans.c:xfs_trans_alloc_inode",
        asks: None,
    },
    Rule {
        kind: Kind::FreezeOrder,
        name: "freeze-order",
        summary: "A write fault takes the exclusion lock before freeze protection.",
        source: "fs/xfs/xfs_file.c above the fault handlers: mmap_lock, sb_start_pagefault, \
                 invalidate_lock; fs/ext4/super.c, \"Lock ordering\"",
        asks: None,
    },
    Rule {
        kind: Kind::FreezeMissing,
        name: "freeze-missing",
        summary: "A write fault makes a page writable without freeze protection.",
        source: "include/linux/fs.h above sb_start_pagefault",
        asks: None,
    },
    Rule {
        kind: Kind::WaitHoldingLock,
        name: "wait-holding-lock",
        summary: "A task sleeps until page pins go, holding the lock that a pin's holder may need.",
        source: "fs/xfs/xfs_inode.c:xfs_wait_dax_page, fs/ext4/inode.c:ext4_wait_dax_page drop it",
        asks: None,
    },
    Rule {
        kind: Kind::WaitRemapped,
        name: "wait-remapped",
        summary: "A page that an operation sleeps for until it is idle is mapped again: it never will be.",
        source: "fs/dax.c:dax_busy_page leaves mappings out of the count (from 6.15), \
                 include/linux/dax.h:dax_page_is_idle, for which wait_page_idle sleeps, does not",
        asks: None,
    },
    Rule {
        kind: Kind::RecursiveLock,
        name: "recursive-lock",
        summary: "A task takes a lock that it holds; rwsems do not nest, not even for readers.",
        source: "kernel/locking/rwsem.c: a reader waits behind a queued writer",
        asks: None,
    },
    Rule {
        kind: Kind::Deadlock,
        name: "deadlock",
        summary: "Tasks wait for each other in a cycle.",
        source: "seen",
        asks: None,
    },
    Rule {
        kind: Kind::Stall,
        name: "stall",
        summary: "A task waits for something that nobody will let go.",
        source: "seen",
        asks: None,
    },
    Rule {
        kind: Kind::MissingInvalidate,
        name: "missing-invalidate",
        summary: "Extents change whose translations, pages or DAX entries were not torn down before, or \
                  whose copies were not given up; or a write to a DAX file fills a hole and leaves what \
                  showed it.",
        source: "fs/xfs/xfs_bmap_util.c:xfs_flush_unmap_range; \
                 fs/ext4/inode.c:ext4_truncate_page_cache_block_range; fs/dax.c: an entry outlives \
                 its block unless it is deleted; fs/dax.c:dax_iomap_iter at IOMAP_F_NEW; \
                 fs/xfs/xfs_bmap_util.c:xfs_prepare_shift",
        asks: Some("-"),
    },
    Rule {
        kind: Kind::UnmapOrder,
        name: "unmap-order",
        summary: "Translations, pages or DAX entries are torn down only after the extents changed.",
        source: "mm/truncate.c:truncate_pagecache; fs/ext4/inode.c:ext4_punch_hole drops pages first",
        asks: Some("-"),
    },
    Rule {
        kind: Kind::LayoutUnbroken,
        name: "layout-unbroken",
        summary: "Extents of a DAX file change, or on virtiofs its entries are dropped, without a look for \
                  pinned pages under the same hold.",
        source: "fs/dax.c:dax_layout_busy_page_range; fs/xfs/xfs_file.c:xfs_break_layouts; \
                 fs/ext4/inode.c:ext4_break_layouts; fs/fuse/dax.c:fuse_dax_break_layouts",
        asks: None,
    },
    Rule {
        kind: Kind::DioUndrained,
        name: "dio-undrained",
        summary: "Extents change, or a write zeroes around its data, without waiting for direct I/O that \
                  is in flight.",
        source: "fs/inode.c:inode_dio_wait; fs/xfs/xfs_file.c:xfs_file_fallocate, comment above the \
                 wait, xfs_file_dio_write_unaligned, xfs_file_write_zero_eof; \
                 fs/ext4/file.c:ext4_dio_write_checks",
        asks: Some("i_dio_count"),
    },
    Rule {
        kind: Kind::StaleData,
        name: "stale-data",
        summary: "New blocks inside EOF become a DAX file's, or a direct write's, as written ones \
                  without having been zeroed.",
        source: "fs/xfs/xfs_iomap.c:xfs_iomap_write_direct (XFS_BMAPI_ZERO); \
                 fs/ext4/inode.c:ext4_iomap_alloc (EXT4_GET_BLOCKS_CREATE_ZERO)",
        asks: Some("-"),
    },
    Rule {
        kind: Kind::SizeOrder,
        name: "size-order",
        summary: "A size is raised before the data or blocks that it covers are there; or it is not raised, \
                  or nothing given to undo a write beyond it, before it is too late.",
        source: "fs/xfs/xfs_file.c:xfs_dio_write_end_io, comment above the conversion; \
                 fs/ext4/file.c:ext4_dio_write_iter, ext4_dax_write_iter raise it afterwards; \
                 fs/xfs/xfs_aops.c:xfs_end_ioend; fs/ext4/inode.c above ext4_update_disksize_before_punch",
        asks: Some("data before i_size"),
    },
    Rule {
        kind: Kind::StaleTranslation,
        name: "stale-translation",
        summary: "A translation names a block that is no longer the file's, or a hole's zero page where \
                  data was written.",
        source: "fs/dax.c: nothing re-checks a translation once it is installed",
        asks: Some("-"),
    },
    Rule {
        kind: Kind::Corruption,
        name: "corruption",
        summary: "The workload read data that no order of its operations allows.",
        source: "seen",
        asks: Some("-"),
    },
];

impl Kind {
    /// The rule.
    pub fn rule(self) -> &'static Rule {
        &RULES[self as usize]
    }

    /// The name in findings.
    pub fn name(self) -> &'static str {
        self.rule().name
    }

    /// True if it is about what tasks take and wait for, not about the bytes of a file.
    pub fn is_about_order(self) -> bool {
        (Self::LockOrder..=Self::Stall).contains(&self)
    }
}

/// How the exclusion lock was found, in place of how it should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Observed {
    /// Not held.
    Unheld,
    /// Held shared.
    Shared,
    /// Held shared, and by one who writes to the file too.
    SharedWithWriter,
    /// Held shared, and those who write to the file, who hold it shared too, are not told.
    SharedUnannounced,
    /// Held shared, as by one who shares the file's blocks and says so.
    SharedWithSharer,
    /// Not held, but another inode's is.
    OtherInode,
    /// Mapped while it was waited for.
    Remapped,
    /// Not held on the file that blocks are taken from, but on the one that they go to.
    SourceUnheld,
    /// Held now, not at the invalidation before.
    TakenAfterInvalidation,
    /// Held before, not now.
    DroppedBefore,
    /// Held now and before, not in between.
    Retaken,
    /// Still held in this mode at the end.
    StillHeld(Mode),
    /// Still held, shared, by one of several faults that have ended.
    LeftByOne,
    /// Held in the first mode, released in the second.
    ReleasedAs(Mode, Mode),
    /// Released in this mode though it was not held.
    ReleasedUnheld(Mode),
    /// Taken while this was held.
    Holding(LockClass, Mode),
    /// Held in this mode while the task waited for that.
    Waiting(LockClass, Mode),
    /// So many tasks wait for each other.
    Cycle(u8),
    /// Its holder went back to user space with it, in this mode.
    Abandoned(Mode),
    /// Waited for longer than anything explains.
    NoProgress,
    /// Neither translations nor pages or DAX entries were torn down.
    NotTornDown,
    /// Translations were torn down, pages or DAX entries kept.
    NotDropped,
    /// Pages or DAX entries were dropped, translations kept.
    NotUnmapped,
    /// Torn down after the change.
    TornDownLater,
    /// Blocks took a hole's place; what showed the hole was not torn down afterwards.
    HoleKept,
    /// Data was written where a translation still shows a hole's zero page.
    HoleShown,
    /// Nobody looked for pinned pages under this hold.
    NotScanned,
    /// The same, of an operation whose other file does not use DAX.
    NotScannedMixed,
    /// The last look found a pinned page.
    Pinned,
    /// Nobody waited for direct I/O under this hold.
    NotDrained,
    /// Nothing was zeroed.
    NotZeroed,
    /// Released and retaken between two changes that are one step.
    Interrupted,
    /// Taken under an earlier hold, changed by another task since, and not taken again.
    NotReread,
    /// Taken before the map changed, and taken for what it still is.
    Outdated,
    /// Looked up before this hold, and not again under it.
    NotLookedUp,
    /// A page of which a part changes is not written to through its mapping without the filesystem being asked.
    WritableKept,
    /// Torn down from where the change begins on, not from the block before it.
    EdgeKept,
    /// Copies wait to replace blocks of what has moved.
    CopiesKept,
    /// Copies were given up that dirty pages needed.
    CopiesDropped,
    /// The on-disk size may end before pages that were dropped.
    DiskSizeBehind,
    /// The on-disk size was left where it was.
    DiskSizeLeft,
    /// The on-disk size was raised first.
    DiskSizeFirst,
    /// Nothing says that blocks beyond EOF are to be given back after a crash.
    NotOrphaned,
    /// It was synced before the size covered it.
    SyncedFirst,
    /// `i_size` covers it already.
    Published,
    /// Another file maps the same page frame.
    TwoOwners,
}

impl Observed {
    /// The words in findings.
    pub fn text(self) -> String {
        match self {
            Self::Unheld => "none".to_owned(),
            Self::Shared => "SHARED".to_owned(),
            Self::SharedWithWriter => "SHARED, by one who writes to the source too".to_owned(),
            Self::SharedUnannounced => {
                "SHARED, and those who write to the source not told".to_owned()
            }
            Self::SharedWithSharer => "SHARED, by one who shares the file's blocks too".to_owned(),
            Self::OtherInode => "EXCL on the other inode only".to_owned(),
            Self::Remapped => "mapped again while it was waited for".to_owned(),
            Self::SourceUnheld => "none on the source, held on the destination".to_owned(),
            Self::TakenAfterInvalidation => "taken after the invalidation".to_owned(),
            Self::DroppedBefore => "released before the act".to_owned(),
            Self::Retaken => "released and retaken after the invalidation".to_owned(),
            Self::StillHeld(mode) => format!("{} still held", mode.name()),
            Self::LeftByOne => "SHARED still held by one of several faults like this".to_owned(),
            Self::ReleasedAs(held, released) => {
                format!("held {}, released {}", held.name(), released.name())
            }
            Self::ReleasedUnheld(mode) => format!("not held, released {}", mode.name()),
            Self::Holding(class, mode) => {
                format!("taken while holding {} {}", class.name(), mode.name())
            }
            Self::Waiting(class, mode) => {
                format!("held {} while waiting for {}", mode.name(), class.name())
            }
            Self::Cycle(1) => "waited for by the task that holds it".to_owned(),
            Self::Cycle(tasks) => format!("waited for in a cycle of {tasks} tasks"),
            Self::Abandoned(mode) => format!("left {} by a task that has returned", mode.name()),
            Self::NoProgress => "waited for without end".to_owned(),
            Self::NotTornDown => "neither unmapped nor dropped".to_owned(),
            Self::NotDropped => "unmapped, but pages or DAX entries kept".to_owned(),
            Self::NotUnmapped => "pages or DAX entries dropped, but not unmapped".to_owned(),
            Self::TornDownLater => "torn down after the change".to_owned(),
            Self::HoleKept => "the hole's zero page not torn down".to_owned(),
            Self::HoleShown => "the hole's zero page still mapped".to_owned(),
            Self::NotScanned => "no look for pinned pages under this hold".to_owned(),
            Self::NotScannedMixed => {
                "no look for pinned pages under this hold; the other file uses no DAX".to_owned()
            }
            Self::Pinned => "a pinned page, and no other look after it".to_owned(),
            Self::NotDrained => "none".to_owned(),
            Self::NotZeroed => "not zeroed".to_owned(),
            Self::Interrupted => "released and retaken between two changes".to_owned(),
            Self::NotReread => "retaken; the change not read".to_owned(),
            Self::Outdated => "free meanwhile; the mapping is older than the map".to_owned(),
            Self::NotLookedUp => "retaken; the extent not looked up again".to_owned(),
            Self::WritableKept => "a page at the edge kept writable".to_owned(),
            Self::EdgeKept => "torn down, but not the block before".to_owned(),
            Self::CopiesKept => "copies that wait to replace blocks kept".to_owned(),
            Self::CopiesDropped => "copies given up with pages dirty".to_owned(),
            Self::DiskSizeBehind => "on-disk size not brought up to it".to_owned(),
            Self::DiskSizeLeft => "the on-disk size not raised".to_owned(),
            Self::DiskSizeFirst => "on-disk size first".to_owned(),
            Self::SyncedFirst => "synced first".to_owned(),
            Self::NotOrphaned => "not on the list of orphans".to_owned(),
            Self::Published => "i_size first".to_owned(),
            Self::TwoOwners => "mapped writable by one file and by another".to_owned(),
        }
    }
}

/// What the task's own program order says about the exclusion lock around a change of extents.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChangeFacts {
    /// The hold at the change.
    pub now: Option<Hold>,
    /// The hold at the last invalidation that overlaps it, if there was such an invalidation.
    pub invalidation: Option<Option<Hold>>,
    /// An earlier change of the operation on this inode came under an exclusive hold.
    pub changed_exclusively: bool,
    /// The lock of another inode of the operation is held exclusively.
    pub other_inode: bool,
}

/// Judges a change of extents inside EOF.
pub fn change(facts: ChangeFacts) -> Option<(Kind, Observed)> {
    let invalidated_under = facts.invalidation.flatten().filter(|hold| hold.excludes());
    match (facts.now, facts.invalidation) {
        (Some(now), Some(_)) if now.excludes() => match invalidated_under {
            Some(then) if then.number == now.number => None,
            Some(_) => Some((Kind::StaleAfterRelock, Observed::Retaken)),
            None => Some((Kind::ScopeGap, Observed::TakenAfterInvalidation)),
        },
        (Some(now), None) if now.excludes() => None,
        (Some(_), _) => Some((Kind::WrongMode, Observed::Shared)),
        (None, _) if invalidated_under.is_some() || facts.changed_exclusively => {
            Some((Kind::ScopeGap, Observed::DroppedBefore))
        }
        (None, _) if facts.other_inode => Some((Kind::PartialLock, Observed::OtherInode)),
        (None, _) => Some((Kind::OpUnprotected, Observed::Unheld)),
    }
}

/// What the task's own program order says about a lock other than the exclusion lock.
///
/// `i_rwsem` keeps other operations and direct I/O out, the extent lock (XFS: ILOCK, ext4: i_data_sem) keeps
/// readers of the map out.
pub fn held_exclusively(mode: Option<Mode>) -> Option<(Kind, Observed)> {
    match mode {
        Some(Mode::Excl) => None,
        Some(Mode::Shared) => Some((Kind::WrongMode, Observed::Shared)),
        None => Some((Kind::OpUnprotected, Observed::Unheld)),
    }
}

/// What is known of a write beside the page cache where its blocks or data become visible.
#[derive(Clone, Copy, Debug)]
pub struct DirectFacts {
    /// How `i_rwsem` is held.
    pub mode: Option<Mode>,
    /// It begins or ends inside a block that was not written yet, of which the rest is zeroed.
    pub zeroes: bool,
    /// It extends the file, on a filesystem where only one may do so at a time.
    pub extends: bool,
    /// Direct I/O was waited for under its hold of `i_rwsem`.
    pub drained: bool,
}

/// Judges the lock of a direct write that makes unwritten blocks written ones: zeroing around it, or
/// the size, would be another writer's loss.
pub fn direct_write(facts: DirectFacts) -> Option<(Kind, Observed)> {
    match facts.mode {
        None => Some((Kind::OpUnprotected, Observed::Unheld)),
        Some(Mode::Shared) if facts.zeroes || facts.extends => {
            Some((Kind::WrongMode, Observed::Shared))
        }
        Some(Mode::Excl) if facts.zeroes && !facts.drained => {
            Some((Kind::DioUndrained, Observed::NotDrained))
        }
        Some(_) => None,
    }
}

/// What the task's own program order says about an extent change under the exclusion lock.
#[derive(Clone, Copy, Debug)]
pub struct TornFacts {
    /// The range's translations were torn down under this hold.
    pub unmapped: bool,
    /// The range's pages and DAX entries were dropped under this hold.
    pub dropped: bool,
    /// So were those of the block before it, if that is due.
    pub edge: bool,
    /// The file had pages or DAX entries at the change.
    pub cached: bool,
}

/// Judges the teardown before a change. A file without pages or entries has nothing to tear down.
pub fn torn_down(facts: TornFacts) -> Option<Observed> {
    match (facts.unmapped, facts.dropped, facts.cached) {
        (true, true, true) if !facts.edge => Some(Observed::EdgeKept),
        (true, true, _) | (_, _, false) => None,
        (false, false, true) => Some(Observed::NotTornDown),
        (true, false, true) => Some(Observed::NotDropped),
        (false, true, true) => Some(Observed::NotUnmapped),
    }
}

/// What the task's own program order says about pinned pages before a change.
#[derive(Clone, Copy, Debug)]
pub struct LayoutFacts {
    /// A look over all of the range found no pinned page under this hold.
    pub scanned: bool,
    /// The last look found one.
    pub pinned: bool,
    /// The operation's other file does not use DAX.
    pub mixed: bool,
}

/// Judges the look for pinned pages before a change of a DAX file.
pub fn layouts(facts: LayoutFacts) -> Option<Observed> {
    match facts {
        LayoutFacts { pinned: true, .. } => Some(Observed::Pinned),
        LayoutFacts {
            scanned: false,
            mixed: true,
            ..
        } => Some(Observed::NotScannedMixed),
        LayoutFacts { scanned: false, .. } => Some(Observed::NotScanned),
        LayoutFacts { .. } => None,
    }
}

/// At which event a lowered `i_size` was first seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenAt {
    /// At the teardown that follows it at once (mm/truncate.c:truncate_setsize): what is held here
    /// was held when it happened.
    Teardown,
    /// At any other event: it may have happened under any lock held since the last one.
    Later,
}

/// What the task's own program order says about the exclusion lock around a lowered `i_size`.
#[derive(Clone, Copy, Debug)]
pub struct SizeFacts {
    /// Where it was seen.
    pub seen: SeenAt,
    /// The hold where it was seen.
    pub now: Option<Hold>,
    /// The strongest mode in which the lock was held since the last event with the old size.
    pub since: Option<Mode>,
    /// The cut-off bytes were torn down under an exclusive hold earlier in the operation.
    pub torn_down: bool,
    /// The lock of another inode of the operation is held exclusively.
    pub other_inode: bool,
}

/// Judges a lowered `i_size`: faults check it under the lock, so it must fall under the lock. One that is raised too,
/// so that nobody stores behind EOF between the zeroing there and this (fs/xfs/xfs_iops.c:xfs_setattr_size,
/// fs/ext4/inode.c:ext4_setattr).
pub fn size_changed(facts: SizeFacts) -> Option<(Kind, Observed)> {
    let mode = match facts.seen {
        SeenAt::Teardown => facts.now.map(|hold| hold.mode),
        SeenAt::Later => facts.now.map(|hold| hold.mode).max(facts.since),
    };
    match mode {
        Some(Mode::Excl) => None,
        Some(Mode::Shared) => Some((Kind::WrongMode, Observed::Shared)),
        None if facts.torn_down => Some((Kind::ScopeGap, Observed::DroppedBefore)),
        None if facts.other_inode => Some((Kind::PartialLock, Observed::OtherInode)),
        None => Some((Kind::OpUnprotected, Observed::Unheld)),
    }
}

/// Judges the install of a translation.
pub fn install(now: Option<Hold>, held_earlier: bool) -> Option<(Kind, Observed)> {
    match now {
        Some(_) => None,
        None if held_earlier => Some((Kind::FaultUnprotected, Observed::DroppedBefore)),
        None => Some((Kind::FaultUnprotected, Observed::Unheld)),
    }
}

/// True if a verdict needs hooks with this effect.
///
/// Operations that some kernels lack, the contended path and the end of a task are no loss: what
/// they would have shown cannot happen, or only counts.
pub fn needed(effect: Effect) -> bool {
    match effect {
        Effect::Enter(entry) | Effect::Leave(entry) => !matches!(
            entry,
            Entry::ExchangeRange
                | Entry::SwapBoot
                | Entry::MoveExtents
                | Entry::JournalMode
                | Entry::MapFormat
                | Entry::LayoutGet
                | Entry::LayoutCommit
                | Entry::CopyOnWrite
                | Entry::Fiemap
                | Entry::Advise
                | Entry::TrimCopies
                | Entry::Writeback
                | Entry::WrittenBack
                | Entry::Reserve
        ),
        Effect::Lock(LockAction::Wait)
        | Effect::EntryLock(_)
        | Effect::Resource(..)
        | Effect::LayoutWait
        | Effect::TaskExit
        | Effect::Evict
        | Effect::Protect
        | Effect::Invalidated
        | Effect::LookUp(_)
        | Effect::DirectTransfer
        | Effect::Advice
        | Effect::Validate
        | Effect::Validated
        | Effect::Reserve(_)
        | Effect::DiskSize(_)
        | Effect::Orphan
        | Effect::Sync
        | Effect::Copies
        | Effect::CopiesDropped
        | Effect::Unannounced
        | Effect::UserMemory
        | Effect::UnderExclusion(_)
        | Effect::Switch(_)
        | Effect::Pause
        | Effect::PauseUnlocked
        | Effect::Note => false,
        Effect::Lock(_)
        | Effect::Invalidate(..)
        | Effect::LayoutScan(_)
        | Effect::DrainDirect
        | Effect::DaxTransfer
        | Effect::Allocate(..)
        | Effect::MapExtent
        | Effect::Zero
        | Effect::ChangeExtents(_)
        | Effect::ConvertExtents(_)
        | Effect::WriteExtents(_)
        | Effect::Withdraw
        | Effect::Install(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Nanos;

    fn hold(number: u32, mode: Mode) -> Hold {
        Hold {
            number,
            mode,
            since: Nanos(0),
        }
    }

    #[test]
    fn the_table_of_rules_is_in_enum_order() {
        for (index, rule) in RULES.iter().enumerate() {
            assert_eq!(rule.kind as usize, index);
            assert_eq!(serde_json::to_value(rule.kind).unwrap(), rule.name);
        }
    }

    #[test]
    fn a_change_is_judged_by_the_last_invalidation() {
        let excl = |number| Some(hold(number, Mode::Excl));
        let judge = |now, invalidation| {
            change(ChangeFacts {
                now,
                invalidation,
                ..ChangeFacts::default()
            })
            .map(|(kind, _)| kind)
        };
        assert_eq!(judge(excl(1), Some(excl(1))), None);
        assert_eq!(judge(excl(1), None), None);
        assert_eq!(judge(excl(2), Some(excl(1))), Some(Kind::StaleAfterRelock));
        assert_eq!(judge(excl(2), Some(None)), Some(Kind::ScopeGap));
        assert_eq!(judge(None, Some(excl(1))), Some(Kind::ScopeGap));
        assert_eq!(judge(None, Some(None)), Some(Kind::OpUnprotected));
        assert_eq!(judge(None, None), Some(Kind::OpUnprotected));
        assert_eq!(
            judge(Some(hold(1, Mode::Shared)), Some(excl(1))),
            Some(Kind::WrongMode)
        );
    }

    #[test]
    fn the_other_inodes_lock_makes_it_partial_only_if_this_one_was_never_held() {
        let facts = ChangeFacts {
            other_inode: true,
            ..ChangeFacts::default()
        };
        assert_eq!(change(facts).map(|found| found.0), Some(Kind::PartialLock));
        let facts = ChangeFacts {
            changed_exclusively: true,
            ..facts
        };
        assert_eq!(change(facts).map(|found| found.0), Some(Kind::ScopeGap));
    }

    #[test]
    fn a_size_seen_lower_only_later_may_have_fallen_under_a_released_lock() {
        let facts = SizeFacts {
            seen: SeenAt::Later,
            now: None,
            since: Some(Mode::Excl),
            torn_down: false,
            other_inode: false,
        };
        assert_eq!(size_changed(facts), None);
        let facts = SizeFacts {
            seen: SeenAt::Teardown,
            ..facts
        };
        assert_eq!(
            size_changed(facts).map(|found| found.0),
            Some(Kind::OpUnprotected)
        );
    }
}
