//! True findings of stock kernels, each with its argument and the kernels that have it.

use crate::{
    hooks::{FilesystemKind, LockClass},
    judge::{
        operations::Operation,
        rules::{Kind, Observed},
    },
};

/// A kernel's version: `6.12.95`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Reads the version at the beginning of `text`; missing parts are 0.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let mut parts = text[..end].split('.').map(|part| part.parse::<u32>().ok());
        let major = parts.next()??;
        Some(Self(
            major,
            parts.next().flatten().unwrap_or(0),
            parts.next().flatten().unwrap_or(0),
        ))
    }

    /// The version of a running kernel. Debian's `uname -r` is an ABI name (`6.1.0-50-amd64`); the
    /// version stands in `uname -v` (`#1 SMP Debian 6.1.176-1 (2026-01-01)`).
    pub fn of_kernel(release: &str, build: &str) -> Option<Self> {
        build
            .split_once("Debian ")
            .and_then(|(_, rest)| Self::parse(rest))
            .or_else(|| Self::parse(release))
    }
}

/// A known finding.
#[derive(Clone, Copy, Debug)]
pub struct Annotation {
    /// The rule.
    pub kind: Kind,
    /// Where.
    pub filesystem: FilesystemKind,
    /// In what; in anything if none.
    pub operation: Option<Operation>,
    /// About which lock.
    pub class: LockClass,
    /// The hook that sees it; any if none.
    pub target: Option<&'static str>,
    /// How it is found; any way if none.
    pub how: Option<Observed>,
    /// The first kernel that has it.
    pub from: Version,
    /// The first later one that has not.
    pub before: Option<Version>,
    /// Why it is true, and known.
    pub argument: &'static str,
}

const ENTRIES_DROPPED: Annotation = Annotation {
    kind: Kind::OpUnprotected,
    filesystem: FilesystemKind::Virtiofs,
    operation: Some(Operation::Open),
    class: LockClass::InvalidateLock,
    target: None,
    how: Some(Observed::Unheld),
    from: Version(5, 15, 0),
    before: None,
    argument: "fs/fuse/file.c:fuse_open drops a file's clean DAX entries (FOPEN_KEEP_CACHE not set), fs/fuse/inode.c:\
               fuse_change_attributes_i all entries when size or time have changed on the server: neither holds \
               invalidate_lock, nor looks for pins. fs/fuse/dax.c:fuse_dax_break_layouts, by which the memory is taken \
               back, looks at entries, finds none, and lends a pinned page to another file. Seen on 6.12.117 \
               and 7.3.4, in pinned-vs-lending: DMA read the other file's data.",
};

const WRITABLE_EDGE: Annotation = Annotation {
    kind: Kind::MissingInvalidate,
    filesystem: FilesystemKind::Ext4,
    operation: None,
    class: LockClass::InvalidateLock,
    target: None,
    how: Some(Observed::WritableKept),
    from: Version(6, 0, 0),
    before: Some(Version(6, 12, 0)),
    argument: "fs/ext4/inode.c:ext4_punch_hole and extents.c:ext4_zero_range unmap whole pages only. Where a page \
               has several blocks, one of which part goes stays writable in mappings: a store to it asks for no \
               block again, and is lost. Fixed by commit 17207d0bb209 (6.14, stable kernels of 6.12).",
};

const COW_MAPPING: Annotation = Annotation {
    kind: Kind::StaleAfterRelock,
    filesystem: FilesystemKind::Xfs,
    operation: Some(Operation::DirectWrite),
    class: LockClass::Ilock,
    target: Some("xfs_reflink_allocate_cow"),
    how: None,
    from: Version(6, 0, 0),
    before: None,
    argument: "fs/xfs/xfs_reflink.c:xfs_reflink_fill_cow_hole and _fill_delalloc drop the ILOCK to \
               reserve log space and then use the data-fork mapping read before. A racing direct \
               write, which like this one holds i_rwsem only shared, can complete its own copy in \
               the gap; the old block is then no longer seen as shared and is written in place, \
               though another file owns it. Fixed by commit 2f4acd0fcd86 (7.2, 6.12.96), which \
               reads the mapping again if the fork changed.",
};

const MAPPED_AGAIN: Annotation = Annotation {
    kind: Kind::WaitRemapped,
    filesystem: FilesystemKind::Xfs,
    operation: None,
    class: LockClass::InvalidateLock,
    target: None,
    how: None,
    from: Version(6, 15, 0),
    before: None,
    argument: "fs/dax.c:dax_busy_page calls a folio busy whose references are more than its mappings; \
               wait_page_idle then sleeps, invalidate_lock dropped, until it has no reference at all. A \
               fault that maps it again meanwhile keeps it from that after its pin is gone: the operation \
               sleeps on with i_rwsem held until somebody happens to unmap the page, and with it whoever \
               wants i_rwsem. On XFS a mapping of another file that shares the block does the same. \
               Seen on 7.3.4, without any tracing too.",
};

const JOURNAL_OFF: Annotation = Annotation {
    kind: Kind::OpUnprotected,
    filesystem: FilesystemKind::Ext4,
    operation: Some(Operation::JournalModeOff),
    class: LockClass::InvalidateLock,
    target: None,
    how: None,
    from: Version(5, 15, 0),
    before: Some(Version(7, 3, 0)),
    argument: "fs/ext4/inode.c:ext4_change_inode_journal_flag takes invalidate_lock only where it switches \
               journalling on. ext4_page_mkwrite asks for the mode twice: of a journalled file it goes straight to \
               its transaction, which waits for the switch; then, of one that is no longer, it calls \
               block_page_mkwrite with a get_block that was never set. The kernel oopses in \
               __block_write_begin_int (6.12.117, page cache, nodelalloc, chattr -j of a mapped file; without any \
               tracing too). 7.3 takes the lock for both, and sets get_block.",
};

/// Every known finding.
pub const ANNOTATIONS: &[Annotation] = &[
    ENTRIES_DROPPED,
    Annotation {
        operation: Some(Operation::Attributes),
        argument: "As for open(2): what stat(2) finds changed on the server is dropped without invalidate_lock, and \
                   without a look for pins.",
        ..ENTRIES_DROPPED
    },
    JOURNAL_OFF,
    MAPPED_AGAIN,
    Annotation {
        filesystem: FilesystemKind::Virtiofs,
        ..MAPPED_AGAIN
    },
    Annotation {
        filesystem: FilesystemKind::Ext4,
        ..MAPPED_AGAIN
    },
    Annotation {
        kind: Kind::OpUnprotected,
        filesystem: FilesystemKind::Xfs,
        operation: Some(Operation::DaxWrite),
        class: LockClass::InvalidateLock,
        target: Some("__xfs_bunmapi"),
        how: None,
        from: Version(6, 0, 0),
        before: None,
        argument: "A write(2) to shared blocks of a DAX file copies them: fs/dax.c:dax_iomap_iter \
                   invalidates the range, then xfs_reflink_end_cow puts the new block into the data \
                   fork, both under i_rwsem alone, which page faults do not take. A load in between \
                   maps the old, shared block, and nothing tears that translation down: the mapping \
                   goes on showing the old data while read(2) returns the new.",
    },
    Annotation {
        before: Some(Version(6, 12, 96)),
        ..COW_MAPPING
    },
    Annotation {
        from: Version(6, 13, 0),
        before: Some(Version(7, 2, 0)),
        ..COW_MAPPING
    },
    WRITABLE_EDGE,
    Annotation {
        from: Version(6, 13, 0),
        before: Some(Version(6, 14, 0)),
        ..WRITABLE_EDGE
    },
    Annotation {
        kind: Kind::MissingInvalidate,
        filesystem: FilesystemKind::Xfs,
        operation: Some(Operation::UnshareRange),
        class: LockClass::InvalidateLock,
        target: Some("xfs_reflink_cancel_cow_blocks"),
        how: Some(Observed::CopiesDropped),
        from: Version(6, 0, 0),
        before: Some(Version(6, 12, 0)),
        argument: "fs/xfs/xfs_reflink.c:xfs_reflink_clear_inode_flag gives up all copies when an unshare \
                   has left no block shared, after it has written back its own range only: other pages \
                   of the file may be dirty and count on theirs. Fixed by commit 4390f019ad78 (6.12).",
    },
    Annotation {
        kind: Kind::OpUnprotected,
        filesystem: FilesystemKind::Xfs,
        operation: Some(Operation::LayoutCommit),
        class: LockClass::InvalidateLock,
        target: Some("xfs_iomap_write_unwritten"),
        how: None,
        from: Version(6, 0, 0),
        before: None,
        argument: "fs/xfs/xfs_pnfs.c:xfs_fs_commit_blocks drops the pages of what a pNFS client has written, \
                   then makes its blocks written ones, both under i_rwsem alone, which page faults do not take. \
                   A load in between finds them unwritten and maps or caches zeroes, which nothing tears down: \
                   with DAX the mapping goes on showing them while read(2) returns the client's data, and \
                   through the page cache read(2) returns them too. Both seen on 6.12.117 and 7.3.4, \
                   where a module called what nfsd calls.",
    },
    Annotation {
        kind: Kind::LayoutUnbroken,
        filesystem: FilesystemKind::Xfs,
        operation: Some(Operation::SwapExtents),
        class: LockClass::InvalidateLock,
        target: Some("xfs_swap_extent_before"),
        how: None,
        from: Version(6, 0, 0),
        before: None,
        argument: "fs/xfs/xfs_bmap_util.c:xfs_swap_extents drops the page cache of both files under \
                   their locks, but never looks for pinned pages (no xfs_break_layouts): DMA into a \
                   page pinned before goes on into a block that has become the other file's.",
    },
    Annotation {
        kind: Kind::DioUndrained,
        filesystem: FilesystemKind::Xfs,
        operation: Some(Operation::SwapExtents),
        class: LockClass::IRwsem,
        target: Some("xfs_swap_extent_before"),
        how: None,
        from: Version(6, 0, 0),
        before: None,
        argument: "fs/xfs/xfs_bmap_util.c:xfs_swap_extents takes both i_rwsem, but does not call \
                   inode_dio_wait as every other extent manipulation of XFS does: asynchronous \
                   direct I/O that was submitted before may still reach blocks that have become the \
                   other file's.",
    },
    Annotation {
        kind: Kind::LayoutUnbroken,
        filesystem: FilesystemKind::Xfs,
        operation: Some(Operation::ExchangeRange),
        class: LockClass::InvalidateLock,
        target: None,
        how: Some(Observed::NotScannedMixed),
        from: Version(6, 10, 0),
        before: None,
        argument: "fs/xfs/xfs_inode.c:xfs_ilock2_io_mmap breaks layouts only if both files use DAX, and \
                   xfs_exchange_range refuses no mixed pair: of a DAX file and one in the page cache \
                   (mounted with dax=inode) the DAX one's pinned pages are not waited for, and DMA into \
                   them goes on into blocks that have become the other file's.",
    },
    Annotation {
        kind: Kind::LayoutUnbroken,
        filesystem: FilesystemKind::Ext4,
        operation: Some(Operation::SwapBoot),
        class: LockClass::InvalidateLock,
        target: Some("swap_inode_data"),
        how: None,
        from: Version(6, 0, 0),
        before: None,
        argument: "fs/ext4/ioctl.c:swap_inode_boot_loader accepts DAX inodes and never calls \
                   ext4_break_layouts: DMA into a pinned page goes on into the boot loader's block.",
    },
    Annotation {
        kind: Kind::MissingInvalidate,
        filesystem: FilesystemKind::Ext4,
        operation: Some(Operation::SwapBoot),
        class: LockClass::InvalidateLock,
        target: Some("swap_inode_data"),
        how: None,
        from: Version(6, 0, 0),
        before: None,
        argument: "fs/ext4/ioctl.c:swap_inode_boot_loader calls truncate_inode_pages, which drops \
                   DAX entries but does not unmap them (mm/truncate.c): a mapping goes on showing \
                   blocks that have become the boot loader inode's.",
    },
    Annotation {
        kind: Kind::StaleTranslation,
        filesystem: FilesystemKind::Ext4,
        operation: Some(Operation::DaxWrite),
        class: LockClass::InvalidateLock,
        target: None,
        how: Some(Observed::HoleShown),
        from: Version(6, 0, 0),
        before: None,
        argument: "fs/ext4/extents.c:ext4_ext_convert_to_initialized makes one unwritten block written and \
                   zeroes its neighbours out with it. A later write(2) finds those written, gets no \
                   IOMAP_F_NEW, and so fs/dax.c:dax_iomap_iter tears nothing down: a zero page that was \
                   mapped there while the block was unwritten stays, and the mapping goes on reading as \
                   zeroes while read(2) returns the data.",
    },
    Annotation {
        kind: Kind::Corruption,
        filesystem: FilesystemKind::Ext4,
        operation: Some(Operation::SwapBoot),
        class: LockClass::InvalidateLock,
        target: None,
        how: None,
        from: Version(6, 0, 0),
        before: None,
        argument: "What follows from fs/ext4/ioctl.c:swap_inode_boot_loader tearing down too little: a \
                   mapping goes on showing what was there between two swaps, while read(2) shows \
                   the data. Seen on 6.1.192 with DAX, and on 6.12.117 through the page cache.",
    },
];

/// What an annotation is looked up by.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The rule.
    pub kind: Kind,
    /// Where.
    pub filesystem: FilesystemKind,
    /// In what.
    pub operation: Operation,
    /// About which lock.
    pub class: LockClass,
    /// The hook that saw it.
    pub target: &'a str,
    /// How it was found.
    pub how: Observed,
    /// On which kernel; a kernel of unknown version has no known findings.
    pub kernel: Option<Version>,
}

/// The annotation of a finding, if it is a known one.
pub fn find<'a>(table: &'a [Annotation], subject: Subject<'_>) -> Option<&'a Annotation> {
    let kernel = subject.kernel?;
    table.iter().find(|known| {
        (known.kind, known.filesystem, known.class)
            == (subject.kind, subject.filesystem, subject.class)
            && known
                .operation
                .is_none_or(|operation| operation == subject.operation)
            && known.target.is_none_or(|target| target == subject.target)
            && known.how.is_none_or(|how| how == subject.how)
            && known.from <= kernel
            && known.before.is_none_or(|before| kernel < before)
    })
}

/// A complaint that a stock kernel makes of itself.
#[derive(Clone, Copy, Debug)]
pub struct KnownSplat {
    /// The function that complains.
    pub function: &'static str,
    /// One that it was called by.
    pub caller: &'static str,
    /// The first kernel that was seen to.
    pub from: Version,
    /// The first later one that does not.
    pub before: Option<Version>,
    /// Why it is true, and known.
    pub argument: &'static str,
}

const SHARED_ON_DAX: KnownSplat = KnownSplat {
    function: "dax_insert_entry",
    caller: "dax_fault_iter",
    from: Version(6, 1, 0),
    before: Some(Version(6, 2, 0)),
    argument: "A fault maps a shared block of a DAX file, which another file has mapped already: \
               fs/dax.c:dax_associate_entry of 6.1 takes a page for one file's, unless the fault is to copy it.",
};

const IN_USE_ON_VIRTIOFS: KnownSplat = KnownSplat {
    function: "dax_disassociate_entry",
    caller: "fuse_change_attributes_i",
    from: Version(6, 1, 0),
    before: None,
    argument: "open(2), and stat(2) of a file that has changed on the server, drop DAX entries of pages that are in use: \
               pinned ones, and from 6.15 on mapped ones, which mm/truncate.c:invalidate_inode_pages2_range unmaps only \
               afterwards. Nobody holds invalidate_lock or has looked for pins. Seen on 6.12.117 and 7.3.4.",
};

/// Every known complaint.
pub const SPLATS: &[KnownSplat] = &[
    SHARED_ON_DAX,
    IN_USE_ON_VIRTIOFS,
    KnownSplat {
        caller: "fuse_open",
        ..IN_USE_ON_VIRTIOFS
    },
    KnownSplat {
        function: "dax_insert_entry",
        caller: "__fuse_dax_fault",
        argument: "What follows from it when the page is mapped again: it is still the file's that it was taken from.",
        ..IN_USE_ON_VIRTIOFS
    },
    KnownSplat {
        function: "dax_disassociate_entry",
        caller: "dax_insert_entry",
        ..SHARED_ON_DAX
    },
    KnownSplat {
        function: "dax_disassociate_entry",
        caller: "dax_delete_mapping_entry",
        argument: "What follows from it when the file is torn down that the page was not taken for.",
        ..SHARED_ON_DAX
    },
    KnownSplat {
        function: "__block_write_begin_int",
        caller: "ext4_page_mkwrite",
        from: Version(5, 15, 0),
        before: Some(Version(7, 3, 0)),
        argument: "What follows from a file's journalling that ends while a fault is under way \
                   (fs/ext4/inode.c:ext4_change_inode_journal_flag without invalidate_lock).",
    },
    KnownSplat {
        function: "insert_pfn",
        caller: "__xfs_filemap_fault",
        from: Version(6, 1, 0),
        before: Some(Version(7, 3, 0)),
        argument: "What follows from a write(2) to a shared block of a DAX file that a fault came between: the \
                   mapping still shows the old block when the next write fault brings the new one \
                   (mm/memory.c:insert_pfn, WARN_ON_ONCE). Seen once on 6.1.192, in reflink-vs-fault.",
    },
    KnownSplat {
        function: "dax_disassociate_entry",
        caller: "dax_iomap_rw",
        from: Version(7, 3, 0),
        before: None,
        argument: "A write(2) into a hole of a DAX file allocates, then fs/dax.c:dax_iomap_iter drops what \
                   the page cache has there, under i_rwsem alone. A fault in between has mapped the new \
                   block, and mm/truncate.c:invalidate_inode_pages2_range drops a file's DAX entries \
                   before it unmaps them: the folio is still in use. XFS and ext4.",
    },
    KnownSplat {
        function: "dax_disassociate_entry",
        caller: "dax_insert_entry",
        from: Version(7, 3, 0),
        before: None,
        argument: "A fault on a shared block of a DAX file that has an entry unmaps the page and puts the entry \
                   there anew (fs/dax.c:dax_insert_entry). A task that took the page from its own page table \
                   just then (MADV_DONTNEED, munmap) gives up its reference after the TLB is flushed \
                   (mm/mmu_gather.c:tlb_batch_pages_flush): the folio is still in use. Seen once on 7.3.4, in \
                   copy-vs-fault.",
    },
    KnownSplat {
        function: "dax_insert_entry",
        caller: "__xfs_filemap_fault",
        from: Version(6, 2, 0),
        before: Some(Version(7, 3, 0)),
        argument: "What follows from a write(2) to a shared block of a DAX file that a fault came between: the \
                   writer's mapping still shows the block, whose page is still the writer's, when the file whose \
                   alone it is now maps it (fs/dax.c:dax_associate_entry, WARN_ON_ONCE(page->mapping)). Seen once \
                   on 6.12.117, in dedupe-vs-fault.",
    },
    KnownSplat {
        function: "dax_insert_entry",
        caller: "dax_fault_iter",
        from: Version(7, 3, 0),
        before: None,
        argument: "What follows from it where the block was shared: the folio is still the writer's when the \
                   other file, whose alone the block is now, maps it (fs/dax.c:dax_associate_entry, \
                   WARN_ON_ONCE(folio->mapping)).",
    },
    KnownSplat {
        function: "truncate_folio_batch_exceptionals",
        caller: "xfs_swap_extents",
        from: Version(7, 3, 0),
        before: None,
        argument: "The kernel's own word for the layouts that fs/xfs/xfs_bmap_util.c:xfs_swap_extents does \
                   not break: it drops the page cache of both files without dax_break_layout, which \
                   should have left no DAX entry.",
    },
    KnownSplat {
        function: "dax_disassociate_entry",
        caller: "xfs_swap_extents",
        from: Version(7, 3, 0),
        before: None,
        argument: "What follows from it where a fault was installing the page: it is in use.",
    },
    KnownSplat {
        function: "truncate_folio_batch_exceptionals",
        caller: "xfs_exchrange_prep",
        from: Version(7, 3, 0),
        before: None,
        argument: "The same of XFS_IOC_EXCHANGE_RANGE where only one of the files uses DAX: \
                   fs/xfs/xfs_inode.c:xfs_ilock2_io_mmap breaks layouts if both do, and \
                   fs/xfs/xfs_exchrange.c:xfs_exchrange_prep drops the page cache of either.",
    },
    KnownSplat {
        function: "dax_disassociate_entry",
        caller: "xfs_exchrange_prep",
        from: Version(7, 3, 0),
        before: None,
        argument: "What follows from it: the block that is about to become the other file's is in use.",
    },
    KnownSplat {
        function: "truncate_folio_batch_exceptionals",
        caller: "__ext4_ioctl",
        from: Version(7, 3, 0),
        before: None,
        argument: "The same of EXT4_IOC_SWAP_BOOT: fs/ext4/ioctl.c:swap_inode_boot_loader drops the page \
                   cache of a DAX file whose layouts it has not broken.",
    },
    KnownSplat {
        function: "dax_disassociate_entry",
        caller: "__ext4_ioctl",
        from: Version(7, 3, 0),
        before: None,
        argument: "What follows from it: the block that is about to become the boot loader's is still mapped.",
    },
];

/// What is known of a complaint that says `called by`, its callers one after the other.
pub fn known_splat(text: &str, kernel: Version) -> Option<&'static KnownSplat> {
    let (message, callers) = text.split_once("called by ")?;
    let names = |text: &str, function: &str| {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .any(|word| word == function)
    };
    SPLATS.iter().find(|known| {
        names(message, known.function)
            && names(callers, known.caller)
            && known.from <= kernel
            && known.before.is_none_or(|before| kernel < before)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_known_by_its_caller_too() {
        let text = |callers: &str| {
            format!(
                "WARNING: fs/dax.c:452 at dax_disassociate_entry.isra.0+0x9c/0xc0, CPU#0{callers}"
            )
        };
        let kernel = Version(7, 3, 4);
        let write = "\n    called by __dax_invalidate_entry < dax_iomap_rw < xfs_file_dax_write";
        let known = known_splat(&text(write), kernel).map(|known| known.caller);
        assert_eq!(known, Some("dax_iomap_rw"));
        assert!(known_splat(&text(write), Version(6, 12, 95)).is_none());
        assert!(known_splat(&text(""), kernel).is_none());
        let truncate = "\n    called by dax_delete_mapping_entry < xfs_setattr_size";
        assert!(known_splat(&text(truncate), kernel).is_none());
        let again = "\n    called by dax_insert_entry < dax_fault_iter < xfs_dax_read_fault";
        assert!(known_splat(&text(again), kernel).is_some());
        let stale = "WARNING: CPU: 1 PID: 577 at mm/memory.c:2166 insert_pfn+0x120/0x180\n    called by \
                     __vm_insert_mixed < dax_fault_iter < __xfs_filemap_fault < xfs_filemap_pfn_mkwrite";
        assert!(known_splat(stale, Version(6, 1, 192)).is_some());
        assert!(known_splat(&stale.replace("xfs", "ext4"), Version(6, 1, 192)).is_none());
        // Two kernels complain alike, for reasons of their own.
        let fault =
            "WARNING: fs/dax.c:498 at dax_insert_entry+0x3c5/0x3d0\n    called by dax_fault_iter";
        let from = |kernel| known_splat(fault, kernel).map(|known| known.from);
        assert_eq!(from(kernel), Some(Version(7, 3, 0)));
        assert_eq!(from(Version(6, 1, 192)), Some(Version(6, 1, 0)));
        assert_eq!(from(Version(6, 12, 117)), None);
    }

    #[test]
    fn versions_are_read_from_either_name() {
        assert_eq!(
            Version::of_kernel(
                "6.1.0-50-amd64",
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-01-01)"
            ),
            Some(Version(6, 1, 176))
        );
        assert_eq!(
            Version::of_kernel("6.18.44", "#1 SMP"),
            Some(Version(6, 18, 44))
        );
        assert_eq!(Version::of_kernel("7.3-rc1", ""), Some(Version(7, 3, 0)));
        assert_eq!(Version::parse("linux"), None);
    }

    #[test]
    fn an_annotation_holds_for_its_kernels_only() {
        let table = [Annotation {
            kind: Kind::PartialLock,
            filesystem: FilesystemKind::Ext4,
            operation: Some(Operation::SwapBoot),
            class: LockClass::InvalidateLock,
            target: None,
            how: None,
            from: Version(6, 1, 0),
            before: Some(Version(6, 12, 96)),
            argument: "for the test",
        }];
        let at = |version| {
            let subject = Subject {
                kind: Kind::PartialLock,
                filesystem: FilesystemKind::Ext4,
                operation: Operation::SwapBoot,
                class: LockClass::InvalidateLock,
                target: "swap_inode_data",
                how: Observed::Unheld,
                kernel: version,
            };
            find(&table, subject).is_some()
        };
        assert!(at(Some(Version(6, 1, 0))));
        assert!(at(Some(Version(6, 12, 95))));
        assert!(!at(Some(Version(6, 12, 96))));
        assert!(!at(None));
    }
}
