//! A recorder in miniature: scripts of what tasks do, as the kernel side would report them.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;

use tracer::{
    hooks::{
        Effect, Entry, EntryAction, FilesystemKind, Fresh, Install, LockAction, LockClass,
        LockPlace, Mode, Span, Teardown,
    },
    judge::{Judge, Report},
    trace::meta::{Header, Inode, Mechanism, Mount, PlannedHook, Stack, Task},
    units::{Device, HookId, Ino, InodeAddress, Nanos, Pid, StackId, Tid},
};
use tracer_ebpf::{
    Event,
    event::{FLAG_CACHED, FLAG_DIRECT, FLAG_SECOND_INODE, Head},
};

/// Addresses of inodes.
pub const A: u64 = 0xffff_8880_0100_0000;
pub const B: u64 = 0xffff_8880_0200_0000;
/// Files.
pub const PUNCH: u64 = 0x03;
pub const ZERO: u64 = 0x10;
pub const COLLAPSE: u64 = 0x08;
pub const INSERT: u64 = 0x20;
pub const NOPAGE: u64 = 0x100;
pub const LOCKED: u64 = 0x200;
pub const KIB: u64 = 1024;
/// Size of files unless said otherwise.
pub const SIZE: u64 = 1024 * KIB;
pub const XFS: Device = Device(1 << 20);
pub const EXT4: Device = Device(2 << 20);
pub const VIRTIOFS: Device = Device(3 << 20);
const LOCKS: [(LockClass, i64); 4] = [
    (LockClass::IRwsem, 0x98),
    (LockClass::InvalidateLock, 0x180),
    (LockClass::IMmapRwsem, 0x1b0),
    (LockClass::Ilock, -0x80),
];
pub use LockClass::{IRwsem, Ilock, InvalidateLock};
pub use Mode::{Excl, Shared};

fn plan() -> Vec<(&'static str, &'static str, Effect)> {
    use Effect::{ChangeExtents, Enter, Invalidate, LayoutScan, Leave, Lock, TaskExit};
    let mut plan = vec![
        ("vfs_fallocate", "op/fallocate", Enter(Entry::Fallocate)),
        ("vfs_fallocate", "op/fallocate-end", Leave(Entry::Fallocate)),
        ("notify_change", "op/setattr", Enter(Entry::SetSize)),
        ("notify_change", "op/setattr-end", Leave(Entry::SetSize)),
        ("xfs_file_remap_range", "xfs/reflink", Enter(Entry::Reflink)),
        (
            "xfs_file_remap_range",
            "xfs/reflink-end",
            Leave(Entry::Reflink),
        ),
        ("xfs_swap_extents", "xfs/swapext", Enter(Entry::SwapExtents)),
        (
            "xfs_swap_extents",
            "xfs/swapext-end",
            Leave(Entry::SwapExtents),
        ),
        (
            "xfs_exchange_range",
            "xfs/exchange",
            Enter(Entry::ExchangeRange),
        ),
        (
            "xfs_exchange_range",
            "xfs/exchange-end",
            Leave(Entry::ExchangeRange),
        ),
        ("vm_fault", "fs/fault", Enter(Entry::Fault)),
        ("vm_fault", "fs/fault-end", Leave(Entry::Fault)),
        ("page_mkwrite", "fs/page-mkwrite", Enter(Entry::PageMkwrite)),
        (
            "page_mkwrite",
            "fs/page-mkwrite-end",
            Leave(Entry::PageMkwrite),
        ),
        ("pfn_mkwrite", "fs/pfn-mkwrite", Enter(Entry::PfnMkwrite)),
        (
            "pfn_mkwrite",
            "fs/pfn-mkwrite-end",
            Leave(Entry::PfnMkwrite),
        ),
        (
            "truncate_pagecache",
            "invalidate/truncate",
            Invalidate(Span::FromByte, Teardown::Both),
        ),
        (
            "truncate_pagecache_range",
            "invalidate/range",
            Invalidate(Span::Bytes, Teardown::Both),
        ),
        (
            "dax_layout_busy_page_range",
            "layout/scan",
            LayoutScan(Span::Whole),
        ),
        ("__xfs_bunmapi", "xfs/bunmapi", ChangeExtents(Span::Bytes)),
        (
            "xfs_bmap_collapse_extents",
            "xfs/collapse",
            ChangeExtents(Span::FromBlock),
        ),
        (
            "xfs_bmap_insert_extents",
            "xfs/insert",
            ChangeExtents(Span::Whole),
        ),
        (
            "vmf_insert_mixed",
            "install/pte-read",
            Effect::Install(Install::PteRead),
        ),
        (
            "vmf_insert_mixed_mkwrite",
            "install/pte-write",
            Effect::Install(Install::PteWrite),
        ),
        (
            "vmf_insert_pfn_pmd",
            "install/pmd",
            Effect::Install(Install::Pmd),
        ),
        (
            "iomap_page_mkwrite",
            "install/mkwrite",
            Effect::Install(Install::Mkwrite),
        ),
        (
            "unmap_mapping_range",
            "invalidate/unmap",
            Invalidate(Span::Bytes, Teardown::Unmap),
        ),
        (
            "truncate_inode_pages_range",
            "invalidate/drop",
            Invalidate(Span::Bytes, Teardown::Drop),
        ),
        ("inode_dio_wait", "dio/wait", Effect::DrainDirect),
        ("vfs_fsync_range", "sync/range", Effect::Sync),
        ("dax_iomap_rw", "dax/transfer", Effect::DaxTransfer),
        ("__iomap_dio_rw", "dio/transfer", Effect::DirectTransfer),
        ("generic_fadvise", "advice/taken", Effect::Advice),
        ("xfs_file_fadvise", "xfs/advise", Enter(Entry::Advise)),
        ("xfs_file_fadvise", "xfs/advise-end", Leave(Entry::Advise)),
        ("filemap_read", "user/read", Effect::UserMemory),
        ("fiemap_fill_next_extent", "user/fiemap", Effect::UserMemory),
        ("xfs_vn_fiemap", "xfs/fiemap", Enter(Entry::Fiemap)),
        ("xfs_vn_fiemap", "xfs/fiemap-end", Leave(Entry::Fiemap)),
        (
            "xfs_inode_free_cowblocks",
            "xfs/trim-copies",
            Enter(Entry::TrimCopies),
        ),
        (
            "xfs_inode_free_cowblocks",
            "xfs/trim-copies-end",
            Leave(Entry::TrimCopies),
        ),
        (
            "xfs_reflink_cancel_cow_range",
            "xfs/trim-copies-now",
            Effect::Switch(Entry::TrimCopies),
        ),
        (
            "iomap_write_delalloc_release",
            "xfs/take-back",
            Effect::UnderExclusion(Span::BytesUntil),
        ),
        (
            "ext4_change_inode_journal_flag",
            "ext4/journal-mode",
            Enter(Entry::JournalMode),
        ),
        (
            "ext4_change_inode_journal_flag",
            "ext4/journal-mode-end",
            Leave(Entry::JournalMode),
        ),
        (
            "jbd2_journal_lock_updates",
            "ext4/journal-mode-switch",
            Effect::Switch(Entry::JournalMode),
        ),
        (
            "ext4_ext_migrate",
            "ext4/to-extents",
            Enter(Entry::MapFormat),
        ),
        (
            "ext4_ext_migrate",
            "ext4/to-extents-end",
            Leave(Entry::MapFormat),
        ),
        (
            "jbd2_handle_start",
            "ext4/to-extents-now",
            Effect::Switch(Entry::MapFormat),
        ),
        ("xfs_file_read_iter", "xfs/read", Enter(Entry::Read)),
        ("xfs_file_read_iter", "xfs/read-end", Leave(Entry::Read)),
        ("xfs_file_write_iter", "xfs/write", Enter(Entry::Write)),
        ("xfs_file_write_iter", "xfs/write-end", Leave(Entry::Write)),
        (
            "xfs_iomap_write_direct",
            "xfs/allocate",
            Effect::Allocate(Span::Bytes, Fresh::IfMapped),
        ),
        (
            "xfs_iomap_write_unwritten",
            "xfs/convert-unwritten",
            Effect::WriteExtents(Span::Bytes),
        ),
        ("xfs_iext_insert", "xfs/map-insert", Effect::MapExtent),
        ("blkdev_issue_zeroout", "blocks/zero", Effect::Zero),
        (
            "xfs_reflink_allocate_cow",
            "xfs/cow",
            Enter(Entry::CopyOnWrite),
        ),
        (
            "xfs_reflink_allocate_cow",
            "xfs/cow-end",
            Leave(Entry::CopyOnWrite),
        ),
        (
            "xfs_bmapi_read",
            "xfs/look-up",
            Effect::LookUp(Entry::CopyOnWrite),
        ),
        (
            "xfs_fs_commit_blocks",
            "xfs/layout-commit",
            Enter(Entry::LayoutCommit),
        ),
        (
            "xfs_fs_commit_blocks",
            "xfs/layout-commit-end",
            Leave(Entry::LayoutCommit),
        ),
        ("xfs_end_io", "xfs/written-back", Enter(Entry::WrittenBack)),
        (
            "xfs_end_io",
            "xfs/written-back-end",
            Leave(Entry::WrittenBack),
        ),
        (
            "xfs_setfilesize",
            "xfs/disk-size",
            Effect::DiskSize(Span::Bytes),
        ),
        ("xfs_flush_unmap_range", "xfs/copies-left", Effect::Copies),
        ("folio_mkclean", "page/protect", Effect::Protect),
        (
            "xfs_reflink_cancel_cow_blocks",
            "xfs/copies-dropped",
            Effect::CopiesDropped,
        ),
        (
            "xfs_reflink_remap_blocks",
            "xfs/remap-unannounced",
            Effect::Unannounced,
        ),
        (
            "ext4_da_get_block_prep",
            "ext4/reserve-blocks",
            Enter(Entry::Reserve),
        ),
        (
            "ext4_da_get_block_prep",
            "ext4/reserve-blocks-end",
            Leave(Entry::Reserve),
        ),
        (
            "ext4_es_lookup_extent",
            "ext4/look-up",
            Effect::LookUp(Entry::Reserve),
        ),
        (
            "ext4_es_insert_delayed_extent",
            "ext4/reserve",
            Effect::Reserve(Span::Blocks),
        ),
        ("ext4_orphan_add", "ext4/orphan", Effect::Orphan),
        ("xfs_iomap_valid", "xfs/write-mapping", Effect::Validate),
        (
            "xfs_iomap_valid",
            "xfs/write-mapping-used",
            Effect::Validated,
        ),
        ("truncate_inode_pages_final", "inode/evict", Effect::Evict),
        ("fuse_open", "virtiofs/open", Enter(Entry::Open)),
        ("fuse_open", "virtiofs/open-end", Leave(Entry::Open)),
        (
            "fuse_change_attributes_i",
            "virtiofs/attributes",
            Enter(Entry::Attributes),
        ),
        (
            "fuse_change_attributes_i",
            "virtiofs/attributes-end",
            Leave(Entry::Attributes),
        ),
        (
            "fuse_send_removemapping",
            "virtiofs/withdraw",
            Effect::Withdraw,
        ),
        ("sched_process_exit", "task/exit", TaskExit),
        (
            "contention_begin",
            "rwsem/contention",
            Lock(LockAction::Wait),
        ),
        (
            "downgrade_write",
            "rwsem/downgrade_write",
            Lock(LockAction::Downgrade),
        ),
    ];
    for (mode, acquire, release) in [
        (Shared, "down_read", "up_read"),
        (Excl, "down_write", "up_write"),
    ] {
        plan.push((acquire, acquire, Lock(LockAction::Acquire(mode))));
        plan.push((release, release, Lock(LockAction::Release(mode))));
        let trylock = match mode {
            Shared => "down_read_trylock",
            Excl => "down_write_trylock",
        };
        plan.push((trylock, trylock, Lock(LockAction::TryAcquire(mode))));
    }
    for class in [LockClass::Handle, LockClass::Transaction] {
        for action in [
            LockAction::Wait,
            LockAction::Acquire(Shared),
            LockAction::Release(Shared),
        ] {
            plan.push((class.name(), class.name(), Effect::Resource(class, action)));
        }
    }
    for action in [LockAction::Acquire(Excl), LockAction::Release(Excl)] {
        let class = LockClass::Writepages;
        plan.push((class.name(), class.name(), Effect::Resource(class, action)));
    }
    for action in [
        EntryAction::Wait,
        EntryAction::Acquire,
        EntryAction::Release,
    ] {
        plan.push(("dax_entry", "dax-entry", Effect::EntryLock(action)));
    }
    plan.push(("schedule", "task/sleep", Effect::LayoutWait));
    plan
}

/// A header with every hook attached.
pub fn header() -> Header {
    let mount = |path: &str, filesystem, device| Mount {
        path: path.to_owned(),
        filesystem,
        device,
        source: "/dev/pmem0".to_owned(),
        options: "dax=always".to_owned(),
    };
    Header {
        kernel: "6.12.95".to_owned(),
        build: String::new(),
        host: "test".to_owned(),
        cpus: 2,
        recorder: "0".to_owned(),
        command: Vec::new(),
        realtime_offset: 0,
        started: Nanos(0),
        mounts: vec![
            mount("/mnt/xfs", FilesystemKind::Xfs, XFS),
            mount("/mnt/ext4", FilesystemKind::Ext4, EXT4),
            mount("/mnt/virtiofs", FilesystemKind::Virtiofs, VIRTIOFS),
        ],
        hooks: plan()
            .into_iter()
            .enumerate()
            .map(|(id, (target, group, effect))| PlannedHook {
                id: HookId(id as u16),
                target: target.to_owned(),
                group: group.to_owned(),
                filesystem: None,
                effect,
                attached: Ok(Mechanism::Fentry),
            })
            .collect(),
        locks: FilesystemKind::ALL
            .into_iter()
            .flat_map(|filesystem| {
                LOCKS.map(|(class, offset)| LockPlace {
                    filesystem,
                    class: match (filesystem, class) {
                        (FilesystemKind::Ext4, Ilock) => LockClass::IDataSem,
                        _ => class,
                    },
                    offset,
                })
            })
            .collect(),
        left_out: 0,
    }
}

/// A file record.
pub fn file(address: u64, ino: u64, device: Device, dax: bool, path: &str) -> Inode {
    Inode {
        since: Nanos(0),
        address: InodeAddress(address),
        ino: Ino(ino),
        generation: 1,
        device,
        block_bits: 12,
        dax,
        path: path.to_owned(),
    }
}

/// What one task does, without its time.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub effect: Effect,
    pub inode: u64,
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub size: u64,
    pub flags: u8,
    pub stack: i32,
    /// Time of the step after the one before, nanoseconds.
    pub after: u64,
}

impl Step {
    fn new(effect: Effect, inode: u64) -> Self {
        Self {
            effect,
            inode,
            a: 0,
            b: 0,
            c: 0,
            size: SIZE,
            flags: 0,
            stack: -1,
            after: 10_000,
        }
    }

    pub fn a(mut self, a: u64) -> Self {
        self.a = a;
        self
    }

    pub fn b(mut self, b: u64) -> Self {
        self.b = b;
        self
    }

    pub fn c(mut self, c: u64) -> Self {
        self.c = c;
        self
    }

    pub fn size(mut self, size: u64) -> Self {
        self.size = size;
        self
    }

    pub fn stack(mut self, stack: i32) -> Self {
        self.stack = stack;
        self
    }

    pub fn flags(mut self, flags: u8) -> Self {
        self.flags |= flags;
        self
    }

    /// Time of this step after the one before, nanoseconds.
    pub fn after(mut self, after: u64) -> Self {
        self.after = after;
        self
    }

    /// The file has pages or DAX entries.
    pub fn cached(mut self) -> Self {
        self.flags |= FLAG_CACHED;
        self
    }

    /// Direct I/O is in flight.
    pub fn direct(mut self) -> Self {
        self.flags |= FLAG_DIRECT;
        self
    }

    pub fn second(mut self) -> Self {
        self.flags |= FLAG_SECOND_INODE;
        self
    }
}

pub fn enter(entry: Entry, inode: u64) -> Step {
    Step::new(Effect::Enter(entry), inode)
}

pub fn leave(entry: Entry, inode: u64) -> Step {
    Step::new(Effect::Leave(entry), inode)
}

fn lock(action: LockAction, inode: u64, class: LockClass) -> Step {
    let offset = LOCKS.iter().find(|(known, _)| *known == class).unwrap().1;
    Step::new(Effect::Lock(action), inode)
        .a(offset as u64)
        .b(inode.wrapping_add_signed(offset))
        .size(0)
}

pub fn acquire(inode: u64, class: LockClass, mode: Mode) -> Step {
    lock(LockAction::Acquire(mode), inode, class)
}

pub fn release(inode: u64, class: LockClass, mode: Mode) -> Step {
    lock(LockAction::Release(mode), inode, class)
}

pub fn try_acquire(inode: u64, class: LockClass, mode: Mode) -> Step {
    lock(LockAction::TryAcquire(mode), inode, class)
}

/// Begins to wait for the lock in `mode`.
pub fn wait_for(inode: u64, class: LockClass, mode: Mode) -> Step {
    lock(LockAction::Wait, inode, class).c(if mode == Excl { 4 } else { 2 })
}

/// mmap_lock of the task's address space.
pub fn mmap(action: LockAction) -> Step {
    Step::new(Effect::Lock(action), 0).size(0)
}

/// A handle or a transaction of the only journal.
pub fn resource(class: LockClass, action: LockAction) -> Step {
    Step::new(Effect::Resource(class, action), 0).a(0x77)
}

/// The lock of the DAX entry at a page offset.
pub fn entry(action: EntryAction, inode: u64, page: u64) -> Step {
    Step::new(Effect::EntryLock(action), inode).a(page)
}

/// Sleeps until the file's pages are no longer pinned.
pub fn sleep_for_pins(inode: u64) -> Step {
    Step::new(Effect::LayoutWait, inode)
}

pub fn downgrade(inode: u64, class: LockClass) -> Step {
    lock(LockAction::Downgrade, inode, class)
}

pub fn wait(inode: u64, class: LockClass) -> Step {
    lock(LockAction::Wait, inode, class)
}

/// `truncate_pagecache_range`
pub fn drop_range(inode: u64, offset: u64, length: u64) -> Step {
    Step::new(Effect::Invalidate(Span::Bytes, Teardown::Both), inode)
        .a(offset)
        .b(length)
}

/// `truncate_pagecache`
pub fn drop_from(inode: u64, offset: u64) -> Step {
    Step::new(Effect::Invalidate(Span::FromByte, Teardown::Both), inode).a(offset)
}

/// `dax_layout_busy_page`: `page` is 0 if nothing is pinned.
pub fn scan(inode: u64, page: u64) -> Step {
    Step::new(Effect::LayoutScan(Span::Whole), inode).c(page)
}

/// `unmap_mapping_range`
pub fn unmap(inode: u64, offset: u64, length: u64) -> Step {
    Step::new(Effect::Invalidate(Span::Bytes, Teardown::Unmap), inode)
        .a(offset)
        .b(length)
}

/// `truncate_inode_pages_range`
pub fn drop_entries(inode: u64, offset: u64, length: u64) -> Step {
    Step::new(Effect::Invalidate(Span::Bytes, Teardown::Drop), inode)
        .a(offset)
        .b(length)
}

/// `inode_dio_wait`
pub fn drain(inode: u64) -> Step {
    Step::new(Effect::DrainDirect, inode)
}

/// `__iomap_dio_rw`
pub fn direct_transfer(inode: u64, offset: u64, length: u64) -> Step {
    Step::new(Effect::DirectTransfer, inode).a(offset).b(length)
}

/// `generic_fadvise`
pub fn advice(inode: u64, offset: u64, length: u64, advice: u64) -> Step {
    Step::new(Effect::Advice, inode)
        .a(offset)
        .b(length)
        .c(advice)
}

/// `dax_iomap_rw`
pub fn dax_write(inode: u64, offset: u64, length: u64) -> Step {
    Step::new(Effect::DaxTransfer, inode).a(offset).b(length)
}

/// `iomap_write_delalloc_release`
pub fn take_back(inode: u64, start: u64, end: u64) -> Step {
    Step::new(Effect::UnderExclusion(Span::BytesUntil), inode)
        .a(start)
        .b(end)
}

/// `jbd2_journal_lock_updates` inside `ext4_change_inode_journal_flag`, `xfs_reflink_cancel_cow_range` inside
/// `xfs_inode_free_cowblocks`
pub fn switch(entry: Entry, inode: u64) -> Step {
    Step::new(Effect::Switch(entry), inode)
}

/// `filemap_read`, which copies to user memory
pub fn read_pages(inode: u64) -> Step {
    Step::new(Effect::UserMemory, inode)
}

/// `blkdev_issue_zeroout`
pub fn zero(inode: u64) -> Step {
    Step::new(Effect::Zero, inode)
}

/// `xfs_bmapi_read` inside `xfs_reflink_allocate_cow`
pub fn look_up(inode: u64) -> Step {
    Step::new(Effect::LookUp(Entry::CopyOnWrite), inode)
}

/// `xfs_reflink_remap_blocks` without XFS_IREMAPPING
pub fn unannounced(inode: u64, offset: u64, length: u64) -> Step {
    Step::new(Effect::Unannounced, inode).a(offset).b(length)
}

/// `xfs_iext_insert`
pub fn map_extent(inode: u64) -> Step {
    Step::new(Effect::MapExtent, inode)
}

/// `xfs_iomap_write_direct` returned a written extent.
pub fn allocate(inode: u64, offset: u64, length: u64) -> Step {
    Step::new(Effect::Allocate(Span::Bytes, Fresh::IfMapped), inode)
        .a(offset)
        .b(length)
}

/// `xfs_iomap_write_unwritten`
pub fn convert(inode: u64, offset: u64, length: u64) -> Step {
    Step::new(Effect::WriteExtents(Span::Bytes), inode)
        .a(offset)
        .b(length)
        .direct()
}

/// `vfs_fsync_range`
pub fn sync(inode: u64) -> Step {
    Step::new(Effect::Sync, inode)
}

/// `xfs_setfilesize`, `ext4_update_disksize_before_punch`
pub fn disk_size(inode: u64, offset: u64, length: u64) -> Step {
    Step::new(Effect::DiskSize(Span::Bytes), inode)
        .a(offset)
        .b(length)
}

/// `xfs_flush_unmap_range` has returned, with so many bytes of copies left.
pub fn copies(inode: u64, left: u64) -> Step {
    Step::new(Effect::Copies, inode).c(left)
}

/// `xfs_reflink_cancel_cow_blocks` of blocks from here to there, while pages are dirty
pub fn copies_dropped(inode: u64, from: u64, to: u64) -> Step {
    Step::new(Effect::CopiesDropped, inode)
        .a(from)
        .b(to)
        .stack(9)
}

/// `folio_mkclean`
pub fn protect(inode: u64, page: u64) -> Step {
    Step::new(Effect::Protect, inode).a(page)
}

/// `ext4_es_lookup_extent` inside `ext4_da_get_block_prep`
pub fn look_up_extent(inode: u64) -> Step {
    Step::new(Effect::LookUp(Entry::Reserve), inode)
}

/// `ext4_es_insert_delayed_extent`
pub fn reserve(inode: u64, block: u64) -> Step {
    Step::new(Effect::Reserve(Span::Blocks), inode)
        .a(block)
        .b(1)
}

/// `xfs_iomap_valid` is asked about a mapping of number `then`; the map's is `now`.
pub fn validate(inode: u64, then: u64, now: u64) -> Step {
    Step::new(Effect::Validate, inode).a(then).b(now)
}

/// It has said yes, about a mapping that names blocks.
pub fn validated(inode: u64, then: u64) -> Step {
    Step::new(Effect::Validated, inode).a(then).b(2)
}

/// `ext4_orphan_add`
pub fn orphan(inode: u64) -> Step {
    Step::new(Effect::Orphan, inode)
}

/// `truncate_inode_pages_final`
pub fn evict(inode: u64) -> Step {
    Step::new(Effect::Evict, inode)
}

/// `fuse_send_removemapping`
pub fn withdraw(inode: u64) -> Step {
    Step::new(Effect::Withdraw, inode)
}

pub fn change(inode: u64, offset: u64, length: u64) -> Step {
    Step::new(Effect::ChangeExtents(Span::Bytes), inode)
        .a(offset)
        .b(length)
}

/// `xfs_bmap_collapse_extents`: from this block on
pub fn shift(inode: u64, block: u64) -> Step {
    Step::new(Effect::ChangeExtents(Span::FromBlock), inode).a(block)
}

pub fn change_all(inode: u64) -> Step {
    Step::new(Effect::ChangeExtents(Span::Whole), inode)
}

pub fn install(inode: u64, how: Install) -> Step {
    let done = if how == Install::Mkwrite {
        LOCKED
    } else {
        NOPAGE
    };
    Step::new(Effect::Install(how), inode).c(done)
}

pub fn exit() -> Step {
    Step::new(Effect::TaskExit, 0)
}

/// The page frame behind a page, as `pfn_t` with PFN_DEV; no two pages share one.
pub fn frame(inode: u64, page: u64) -> u64 {
    1 << 61 | (inode >> 8 & 0xffff_ffff) | page
}

/// A fault of `entry` on a page, with its locks and install.
pub fn fault(inode: u64, page: u64, how: Install) -> Vec<Step> {
    let write = u64::from(how != Install::PteRead);
    vec![
        enter(Entry::Fault, inode).a(page).c(write),
        acquire(inode, InvalidateLock, Shared),
        install(inode, how).a(frame(inode, page)).stack(7),
        release(inode, InvalidateLock, Shared),
        leave(Entry::Fault, inode).a(NOPAGE),
    ]
}

/// FICLONERANGE of A into B that demotes the locks of A, as XFS does it from 6.7 on.
pub fn remap_of_demoted() -> Vec<Step> {
    vec![
        enter(Entry::Reflink, A),
        enter(Entry::Reflink, B).second(),
        acquire(A, IRwsem, Excl),
        acquire(B, IRwsem, Excl),
        acquire(A, InvalidateLock, Excl),
        acquire(B, InvalidateLock, Excl),
        scan(A, 0),
        scan(B, 0),
        drain(A),
        drain(B),
        drop_range(B, 64 * KIB, 64 * KIB),
        downgrade(A, IRwsem),
        downgrade(A, InvalidateLock),
        acquire(B, Ilock, Excl),
        change(B, 64 * KIB, 64 * KIB).cached(),
        change(B, 64 * KIB, 64 * KIB).cached(),
        release(B, Ilock, Excl),
        release(A, InvalidateLock, Shared),
        release(B, InvalidateLock, Excl),
        release(A, IRwsem, Shared),
        release(B, IRwsem, Excl),
        leave(Entry::Reflink, A),
    ]
}

/// An operation through vfs_fallocate that follows the rules.
pub fn fallocate(inode: u64, mode: u64, offset: u64, length: u64) -> Vec<Step> {
    vec![
        enter(Entry::Fallocate, inode).a(offset).b(length).c(mode),
        acquire(inode, IRwsem, Excl),
        acquire(inode, InvalidateLock, Excl),
        scan(inode, 0),
        drop_range(inode, offset, length),
        acquire(inode, Ilock, Excl),
        drain(inode),
        change(inode, offset, length).stack(9).cached(),
        release(inode, Ilock, Excl),
        release(inode, InvalidateLock, Excl),
        release(inode, IRwsem, Excl),
        leave(Entry::Fallocate, inode),
    ]
}

/// A truncate to `size` that follows the rules.
pub fn truncate(inode: u64, from: u64, size: u64) -> Vec<Step> {
    vec![
        enter(Entry::SetSize, inode).a(size).c(8).size(from),
        acquire(inode, InvalidateLock, Excl),
        scan(inode, 0).size(from),
        drop_from(inode, size).size(size),
        acquire(inode, Ilock, Excl),
        drain(inode).size(size),
        change(inode, size, u64::MAX).size(size).cached(),
        release(inode, Ilock, Excl),
        release(inode, InvalidateLock, Excl),
        leave(Entry::SetSize, inode).size(size),
    ]
}

/// A swap of A's and B's extents that follows the rules.
pub fn swap() -> Vec<Step> {
    vec![
        enter(Entry::SwapExtents, A),
        enter(Entry::SwapExtents, B).second(),
        acquire(A, IRwsem, Excl),
        acquire(B, IRwsem, Excl),
        acquire(A, InvalidateLock, Excl),
        acquire(B, InvalidateLock, Excl),
        scan(A, 0),
        scan(B, 0),
        drain(A),
        drain(B),
        drop_range(A, 0, u64::MAX),
        drop_range(B, 0, u64::MAX),
        acquire(A, Ilock, Excl),
        acquire(B, Ilock, Excl),
        change_all(A).cached(),
        change_all(B).cached(),
        release(A, Ilock, Excl),
        release(B, Ilock, Excl),
        release(A, InvalidateLock, Excl),
        release(B, InvalidateLock, Excl),
        release(A, IRwsem, Excl),
        release(B, IRwsem, Excl),
        leave(Entry::SwapExtents, A),
    ]
}

/// Steps without those that `unwanted` names.
pub fn without(steps: Vec<Step>, unwanted: impl Fn(&Step) -> bool) -> Vec<Step> {
    steps.into_iter().filter(|step| !unwanted(step)).collect()
}

/// True for every event of that lock.
pub fn is_lock(step: &Step, inode: u64, class: LockClass) -> bool {
    let offset = LOCKS.iter().find(|(known, _)| *known == class).unwrap().1 as u64;
    matches!(step.effect, Effect::Lock(_)) && step.inode == inode && step.a == offset
}

#[derive(Default)]
struct TaskState {
    seq: u32,
    depth: u8,
}

/// Feeds a judge and keeps what it fed.
pub struct Recorder {
    pub header: Header,
    pub time: u64,
    pub events: Vec<(u32, Event)>,
    judge: Judge,
    tasks: BTreeMap<u32, TaskState>,
}

impl Recorder {
    /// Files: A and B on XFS with DAX.
    pub fn new() -> Self {
        let mut recorder = Self::with(header());
        recorder.judge.inode(&file(A, 131, XFS, true, "a"));
        recorder.judge.inode(&file(B, 132, XFS, true, "dir/b"));
        recorder
    }

    /// No files.
    pub fn with(header: Header) -> Self {
        Self {
            judge: Judge::new(&header),
            header,
            time: 1_000_000,
            events: Vec::new(),
            tasks: BTreeMap::new(),
        }
    }

    pub fn judge(&mut self) -> &mut Judge {
        &mut self.judge
    }

    /// Names a new task, as its first record does.
    pub fn introduce(&mut self, tid: u32, name: &str) {
        self.judge.task(&Task {
            tid: Tid(tid),
            pid: Pid(tid),
            name: name.to_owned(),
        });
        self.tasks.insert(tid, TaskState { seq: 1, depth: 0 });
        self.judge.skip(tid, 0);
    }

    /// The task loses records.
    pub fn lose(&mut self, tid: u32, count: u32) {
        self.tasks.entry(tid).or_default().seq += count;
    }

    /// One step of a task.
    pub fn step(&mut self, tid: u32, step: Step) {
        let id = plan()
            .iter()
            .position(|(.., effect)| *effect == step.effect)
            .unwrap();
        let state = self.tasks.entry(tid).or_default();
        if step.flags & FLAG_SECOND_INODE == 0 {
            match step.effect {
                Effect::Enter(_) => state.depth += 1,
                Effect::Leave(_) => state.depth -= 1,
                _ => {}
            }
        }
        self.time += step.after;
        let event = Event {
            head: Head {
                time: self.time,
                task: tid,
                seq: state.seq,
                hook: id as u16,
                depth: state.depth,
                flags: step.flags,
                stack: step.stack,
            },
            inode: step.inode,
            a: step.a,
            b: step.b,
            c: step.c,
            size: step.size,
        };
        state.seq += 1;
        if step.effect == Effect::TaskExit {
            self.tasks.remove(&tid);
        }
        self.events.push((tid % 2, event));
        self.judge.event(tid % 2, &event);
    }

    /// Several steps of a task.
    pub fn run(&mut self, tid: u32, steps: impl IntoIterator<Item = Step>) -> &mut Self {
        for step in steps {
            self.step(tid, step);
        }
        self
    }

    /// The report, with stacks 7 (a fault) and 9 (an operation) resolved.
    pub fn finish(self) -> Report {
        let mut report = self.judge.finish(None, None);
        let frames = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        report.resolve(&[
            Stack {
                id: StackId(7),
                frames: frames(&[
                    "vmf_insert_mixed+0x0",
                    "dax_iomap_pte_fault+0x3a2",
                    "xfs_filemap_fault+0x71 [xfs]",
                ]),
            },
            Stack {
                id: StackId(9),
                frames: frames(&[
                    "__xfs_bunmapi+0x0 [xfs]",
                    "xfs_free_file_space+0x1f0 [xfs]",
                    "vfs_fallocate+0x17c",
                ]),
            },
        ]);
        report
    }
}

/// `kind strength operation` of each finding, known ones last.
pub fn found(report: &Report) -> Vec<String> {
    let known = report.annotated.iter().map(|known| &known.finding);
    report
        .findings
        .iter()
        .chain(known)
        .map(|f| {
            format!(
                "{} {} {}",
                f.kind.name(),
                f.strength.name(),
                f.operation.name()
            )
        })
        .collect()
}

/// Runs one task's steps after a fault, and says what was found.
pub fn judged(steps: impl IntoIterator<Item = Step>) -> Vec<String> {
    let mut recorder = Recorder::new();
    recorder.run(2, fault(B, 3, Install::PteRead));
    recorder.run(1, steps);
    found(&recorder.finish())
}
