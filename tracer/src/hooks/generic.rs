//! The VFS, fs/dax.c, mm/memory.c and mm/truncate.c.

use super::{
    Effect, Entry, EntryAction, Hook, Install, Mode, Side, Span, Stacks, Step, Success, Target,
    Teardown, Way, arg, arg32, ret,
};

const FILE: &[Step] = &[Step::Deref("file", "f_inode")];
const DENTRY: &[Step] = &[Step::Deref("dentry", "d_inode")];
pub(super) const MAPPING: &[Step] = &[Step::Deref("address_space", "host")];
const KIOCB: &[Step] = &[
    Step::Deref("kiocb", "ki_filp"),
    Step::Deref("file", "f_inode"),
];
pub(super) const VMA: &[Step] = &[
    Step::Deref("vm_area_struct", "vm_file"),
    Step::Deref("file", "f_inode"),
];
/// From `struct vm_fault` to the faulted file's inode.
pub(super) const VMF: &[Step] = &[
    Step::Deref("vm_fault", "vma"),
    Step::Deref("vm_area_struct", "vm_file"),
    Step::Deref("file", "f_inode"),
];
const VMF_ADDRESS: Way = arg(0, &[Step::Read("vm_fault", "address")]);

/// From `struct xa_state` to the inode whose `i_mapping->i_pages` it walks.
const XAS: &[Step] = &[
    Step::Deref("xa_state", "xa"),
    Step::Out("address_space", "i_pages"),
    Step::Deref("address_space", "host"),
];
pub(super) const XAS_INDEX: Way = arg(0, &[Step::Read("xa_state", "xa_index")]);

/// include/linux/fs.h: ATTR_SIZE
const ATTR_SIZE: u64 = 1 << 3;

const fn entry(function: &'static str) -> Target {
    Target::Function(function, Side::Entry)
}

const fn exit(function: &'static str) -> Target {
    Target::Function(function, Side::Return)
}

const fn installs(function: &'static str, kind: Install, group: &'static str, inode: Way) -> Hook {
    Hook::new(exit(function), Effect::Install(kind), group)
        .inode(inode)
        .stacks(Stacks::Sampled, Some(Mode::Shared))
}

/// `vm_ops` entry points: `fn(struct vm_fault *, ...)`.
pub(super) const fn fault_enter(function: &'static str, at: Entry, group: &'static str) -> Hook {
    Hook::new(entry(function), Effect::Enter(at), group)
        .inode(arg(0, VMF))
        .payload(
            Some(arg(0, &[Step::Read("vm_fault", "pgoff")])),
            Some(VMF_ADDRESS),
            Some(arg(0, &[Step::Read("vm_fault", "flags")])),
        )
        .vm_flags(arg(
            0,
            &[
                Step::Deref("vm_fault", "vma"),
                Step::Read("vm_area_struct", "vm_flags"),
            ],
        ))
}

/// `file_operations.read_iter` and `.write_iter`: `fn(struct kiocb *, struct iov_iter *)`.
pub(super) const fn transfer_enter(function: &'static str, at: Entry, group: &'static str) -> Hook {
    Hook::new(entry(function), Effect::Enter(at), group)
        .inode(arg(0, KIOCB))
        .payload(
            Some(arg(0, &[Step::Read("kiocb", "ki_pos")])),
            Some(arg(1, &[Step::Read("iov_iter", "count")])),
            Some(arg(0, &[Step::Read("kiocb", "ki_flags")])),
        )
}

/// `inode_operations.fiemap`: `fn(struct inode *, struct fiemap_extent_info *, u64 start, u64 len)`.
pub(super) const fn fiemap_enter(function: &'static str, group: &'static str) -> Hook {
    Hook::new(entry(function), Effect::Enter(Entry::Fiemap), group)
        .inode(arg(0, &[]))
        .payload(Some(arg(2, &[])), Some(arg(3, &[])), None)
}

/// The end of what one of these began.
pub(super) const fn leave(function: &'static str, at: Entry, group: &'static str) -> Hook {
    Hook::new(exit(function), Effect::Leave(at), group)
}

/// Operations, invalidation, layout breaks and installs that every filesystem goes through.
pub const HOOKS: &[Hook] = &[
    Hook::new(
        entry("vfs_fallocate"),
        Effect::Enter(Entry::Fallocate),
        "op/fallocate",
    )
    .inode(arg(0, FILE))
    .payload(Some(arg(2, &[])), Some(arg(3, &[])), Some(arg32(1))),
    Hook::new(
        exit("vfs_fallocate"),
        Effect::Leave(Entry::Fallocate),
        "op/fallocate-end",
    )
    .inode(arg(0, FILE)),
    Hook::new(
        entry("notify_change"),
        Effect::Enter(Entry::SetSize),
        "op/setattr",
    )
    .inode(arg(1, DENTRY))
    .payload(
        Some(arg(2, &[Step::Read("iattr", "ia_size")])),
        None,
        Some(arg(2, &[Step::Read("iattr", "ia_valid")])),
    )
    .guard(ATTR_SIZE),
    Hook::new(
        exit("notify_change"),
        Effect::Leave(Entry::SetSize),
        "op/setattr-end",
    )
    .inode(arg(1, DENTRY)),
    Hook::new(
        entry("truncate_pagecache"),
        Effect::Invalidate(Span::FromByte, Teardown::Both),
        "invalidate/truncate",
    )
    .inode(arg(0, &[]))
    .payload(Some(arg(1, &[])), None, None)
    .stacks(Stacks::Sampled, Some(Mode::Excl)),
    Hook::new(
        entry("truncate_pagecache_range"),
        Effect::Invalidate(Span::BytesInclusive, Teardown::Both),
        "invalidate/range",
    )
    .inode(arg(0, &[]))
    .payload(Some(arg(1, &[])), Some(arg(2, &[])), None)
    .stacks(Stacks::Sampled, Some(Mode::Excl)),
    Hook::new(
        entry("invalidate_inode_pages2_range"),
        Effect::Invalidate(Span::PagesInclusive, Teardown::Both),
        "invalidate/pages2",
    )
    .inode(arg(0, MAPPING))
    .payload(Some(arg(1, &[])), Some(arg(2, &[])), None),
    // DAX writes to shared blocks go on for long between this and the change.
    Hook::new(
        exit("invalidate_inode_pages2_range"),
        Effect::Invalidated,
        "invalidate/pages2-end",
    ),
    Hook::new(
        entry("unmap_mapping_range"),
        Effect::Invalidate(Span::BytesZeroToEnd, Teardown::Unmap),
        "invalidate/unmap",
    )
    .inode(arg(0, MAPPING))
    .payload(Some(arg(1, &[])), Some(arg(2, &[])), None),
    Hook::new(
        entry("unmap_mapping_pages"),
        Effect::Invalidate(Span::Pages, Teardown::Unmap),
        "invalidate/unmap-pages",
    )
    .inode(arg(0, MAPPING))
    .payload(Some(arg(1, &[])), Some(arg(2, &[])), None),
    Hook::new(
        entry("truncate_inode_pages_range"),
        Effect::Invalidate(Span::BytesInclusive, Teardown::Drop),
        "invalidate/drop",
    )
    .inode(arg(0, MAPPING))
    .payload(Some(arg(1, &[])), Some(arg(2, &[])), None),
    // From 6.15 on; breaking layouts then deletes the entries (fs/dax.c:dax_break_layout).
    Hook::new(
        entry("dax_delete_mapping_range"),
        Effect::Invalidate(Span::BytesInclusive, Teardown::Drop),
        "invalidate/drop",
    )
    .inode(arg(0, MAPPING))
    .payload(Some(arg(1, &[])), Some(arg(2, &[])), None),
    Hook::new(
        entry("truncate_inode_pages_final"),
        Effect::Evict,
        "inode/evict",
    )
    .inode(arg(0, MAPPING)),
    // mm/rmap.c; before a page is written back, or loses some of its blocks.
    Hook::new(entry("folio_mkclean"), Effect::Protect, "page/protect")
        .inode(arg(
            0,
            &[
                Step::Deref("folio", "mapping"),
                Step::Read("address_space", "host"),
            ],
        ))
        .payload(Some(arg(0, &[Step::Read("folio", "index")])), None, None)
        .small_blocks(),
    // fs/sync.c:vfs_fsync_range, by generic_write_sync where a file is written with O_SYNC or O_DSYNC
    Hook::new(entry("vfs_fsync_range"), Effect::Sync, "sync/range").stacks(Stacks::Always, None),
    // What comes after it in the task comes after the wait.
    Hook::new(entry("inode_dio_wait"), Effect::DrainDirect, "dio/wait").inode(arg(0, &[])),
    // fs/dax.c:dax_iomap_rw(iocb, iter, ops)
    Hook::new(entry("dax_iomap_rw"), Effect::DaxTransfer, "dax/transfer")
        .inode(arg(0, KIOCB))
        .payload(
            Some(arg(0, &[Step::Read("kiocb", "ki_pos")])),
            Some(arg(1, &[Step::Read("iov_iter", "count")])),
            None,
        ),
    // filemap_read(iocb, iter, already_read), fault_in_readable(address, bytes): buffered writes make what they
    // copy resident first (mm/filemap.c:generic_perform_write, fs/iomap/buffered-io.c:iomap_write_iter).
    Hook::new(entry("filemap_read"), Effect::UserMemory, "user/read"),
    Hook::new(entry("fault_in_readable"), Effect::UserMemory, "user/write"),
    // fs/ioctl.c: copies each extent to the caller of FS_IOC_FIEMAP as it is found.
    Hook::new(
        entry("fiemap_fill_next_extent"),
        Effect::UserMemory,
        "user/fiemap",
    ),
    // __iomap_dio_rw(iocb, iter, ...), whatever the filesystem
    Hook::new(
        entry("__iomap_dio_rw"),
        Effect::DirectTransfer,
        "dio/transfer",
    )
    .stacks(Stacks::Sampled, None)
    .inode(arg(0, KIOCB))
    .payload(
        Some(arg(0, &[Step::Read("kiocb", "ki_pos")])),
        Some(arg(1, &[Step::Read("iov_iter", "count")])),
        None,
    ),
    // generic_fadvise(file, offset, len, advice)
    Hook::new(entry("generic_fadvise"), Effect::Advice, "advice/taken")
        .stacks(Stacks::Sampled, None)
        .inode(arg(0, FILE))
        .payload(Some(arg(1, &[])), Some(arg(2, &[])), Some(arg(3, &[]))),
    // Zeroes for blocks that a filesystem hands out as written ones (XFS_BMAPI_ZERO,
    // EXT4_GET_BLOCKS_ZERO); the block device does not say whose they are.
    Hook::new(entry("blkdev_issue_zeroout"), Effect::Zero, "blocks/zero"),
    Hook::new(
        exit("dax_layout_busy_page_range"),
        Effect::LayoutScan(Span::BytesInclusive),
        "layout/scan-range",
    )
    .inode(arg(0, MAPPING))
    .payload(Some(arg(1, &[])), Some(arg(2, &[])), Some(ret())),
    Hook::new(
        exit("dax_layout_busy_page"),
        Effect::LayoutScan(Span::Whole),
        "layout/scan",
    )
    .inode(arg(0, MAPPING))
    .payload(None, None, Some(ret())),
    // grab_mapping_entry(xas, mapping, order), dax_unlock_entry(xas, entry): static, but never inlined
    // so far. A failed grab returns an internal entry in `c`.
    Hook::new(
        exit("grab_mapping_entry"),
        Effect::EntryLock(EntryAction::Acquire),
        "dax-entry/grab",
    )
    .inode(arg(1, MAPPING))
    .payload(Some(XAS_INDEX), None, Some(ret())),
    Hook::new(
        entry("dax_unlock_entry"),
        Effect::EntryLock(EntryAction::Release),
        "dax-entry/unlock",
    )
    .inode(arg(0, XAS))
    .payload(Some(XAS_INDEX), None, None),
    // Up to 6.14; later DAX pages are ordinary folios and go through vmf_insert_page_mkwrite.
    installs(
        "vmf_insert_mixed",
        Install::PteRead,
        "install/pte-read",
        arg(0, VMA),
    )
    .payload(Some(arg(2, &[])), Some(arg(1, &[])), Some(ret())),
    installs(
        "vmf_insert_mixed_mkwrite",
        Install::PteWrite,
        "install/pte-write",
        arg(0, VMA),
    )
    .payload(Some(arg(2, &[])), Some(arg(1, &[])), Some(ret())),
    installs(
        "vmf_insert_page_mkwrite",
        Install::PteWrite,
        "install/pte-write",
        arg(0, VMF),
    )
    .payload(Some(arg(1, &[])), Some(VMF_ADDRESS), Some(ret())),
    installs(
        "vmf_insert_pfn_pmd",
        Install::Pmd,
        "install/pmd",
        arg(0, VMF),
    )
    .payload(Some(arg(1, &[])), Some(VMF_ADDRESS), Some(ret())),
    installs(
        "vmf_insert_pfn_pmd_prot",
        Install::Pmd,
        "install/pmd",
        arg(0, VMF),
    )
    .payload(Some(arg(1, &[])), Some(VMF_ADDRESS), Some(ret())),
    installs(
        "vmf_insert_folio_pmd",
        Install::Pmd,
        "install/pmd",
        arg(0, VMF),
    )
    .payload(Some(arg(1, &[])), Some(VMF_ADDRESS), Some(ret())),
    // fs/iomap/buffered-io.c: vm_fault_t; fs/buffer.c: 0 or a negative errno.
    installs(
        "iomap_page_mkwrite",
        Install::Mkwrite,
        "install/mkwrite-iomap",
        arg(0, VMF),
    )
    .payload(None, Some(VMF_ADDRESS), Some(ret())),
    installs(
        "block_page_mkwrite",
        Install::Mkwrite,
        "install/mkwrite-buffer",
        arg(1, VMF),
    )
    .payload(
        None,
        Some(arg(1, &[Step::Read("vm_fault", "address")])),
        Some(ret()),
    ),
    Hook::new(
        Target::Tracepoint("sched_process_exit"),
        Effect::TaskExit,
        "task/exit",
    )
    .success(Success::Always),
    // What a task that oopsed takes on its way out is no part of what it was doing.
    Hook::new(
        Target::Function("make_task_dead", Side::Entry),
        Effect::TaskExit,
        "task/dead",
    )
    .success(Success::Always),
];
