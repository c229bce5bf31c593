//! XFS: entry points of fs/xfs/xfs_file.c, extent changes of fs/xfs/libxfs/xfs_bmap.c.

use super::{
    Effect, Entry, Filesystem, FilesystemKind, Hook, LockClass, Mode, Side, Span, Stacks, Step,
    Target, Way, arg, arg32,
    generic::{fault_enter, fault_leave},
};

const FILE: &[Step] = &[Step::Deref("file", "f_inode")];

const fn xfs_inode(index: u8) -> Way {
    arg(index, IP)
}
const IP: &[Step] = &[Step::Into("xfs_inode", "i_vnode")];

/// fs/xfs/libxfs/xfs_bmap.h: XFS_BMAPI_ATTRFORK | XFS_BMAPI_COWFORK; neither fork is visible to faults.
const OTHER_FORKS: u64 = 1 << 2 | 1 << 8;
/// include/linux/fs.h: REMAP_FILE_DEDUP
const DEDUP: u64 = 1;

const fn changes(target: Target, span: Span, group: &'static str) -> Hook {
    Hook::new(target, Effect::ChangeExtents(span), group).stacks(Stacks::Always, Some(Mode::Excl))
}

const fn entry(function: &'static str) -> Target {
    Target::Function(function, Side::Entry)
}

const fn exit(function: &'static str) -> Target {
    Target::Function(function, Side::Return)
}

const fn remap_enter(at: Entry, group: &'static str) -> Hook {
    // xfs_file_remap_range(file_in, pos_in, file_out, pos_out, len, remap_flags)
    Hook::new(entry("xfs_file_remap_range"), Effect::Enter(at), group)
        .inode(arg(0, FILE))
        .payload(Some(arg(1, &[])), Some(arg(4, &[])), Some(arg32(5)))
        .second(
            arg(2, FILE),
            [Some(arg(3, &[])), Some(arg(4, &[])), Some(arg32(5))],
        )
}

/// XFS's own tracepoints: an acquisition is seen before it waits, a release after it is done.
const fn note(tracepoint: &'static str, group: &'static str) -> Hook {
    Hook::new(Target::Tracepoint(tracepoint), Effect::Note, group)
        .inode(xfs_inode(0))
        .stands_in_for("xfs/fault")
}

/// See the module.
pub const TABLE: Filesystem = Filesystem {
    kind: FilesystemKind::Xfs,
    module: "xfs",
    inode: ("xfs_inode", "i_vnode"),
    locks: &[(LockClass::Ilock, "xfs_inode", "i_lock")],
    hooks: &[
        fault_enter("xfs_filemap_fault", Entry::Fault, "xfs/fault"),
        fault_leave("xfs_filemap_fault", Entry::Fault, "xfs/fault-end"),
        fault_enter("xfs_filemap_huge_fault", Entry::Fault, "xfs/huge-fault"),
        fault_leave("xfs_filemap_huge_fault", Entry::Fault, "xfs/huge-fault-end"),
        fault_enter(
            "xfs_filemap_page_mkwrite",
            Entry::PageMkwrite,
            "xfs/page-mkwrite",
        ),
        fault_leave(
            "xfs_filemap_page_mkwrite",
            Entry::PageMkwrite,
            "xfs/page-mkwrite-end",
        ),
        fault_enter(
            "xfs_filemap_pfn_mkwrite",
            Entry::PfnMkwrite,
            "xfs/pfn-mkwrite",
        ),
        fault_leave(
            "xfs_filemap_pfn_mkwrite",
            Entry::PfnMkwrite,
            "xfs/pfn-mkwrite-end",
        ),
        remap_enter(Entry::Reflink, "xfs/reflink").without(DEDUP),
        Hook::new(
            exit("xfs_file_remap_range"),
            Effect::Leave(Entry::Reflink),
            "xfs/reflink-end",
        ),
        remap_enter(Entry::Dedupe, "xfs/dedupe").guard(DEDUP),
        Hook::new(
            exit("xfs_file_remap_range"),
            Effect::Leave(Entry::Dedupe),
            "xfs/dedupe-end",
        ),
        Hook::new(
            entry("xfs_swap_extents"),
            Effect::Enter(Entry::SwapExtents),
            "xfs/swapext",
        )
        .inode(xfs_inode(0))
        .second(xfs_inode(1), [None; 3]),
        Hook::new(
            exit("xfs_swap_extents"),
            Effect::Leave(Entry::SwapExtents),
            "xfs/swapext-end",
        ),
        changes(entry("__xfs_bunmapi"), Span::Blocks, "xfs/bunmapi")
            .inode(xfs_inode(1))
            .payload(
                Some(arg(2, &[])),
                Some(arg(3, &[Step::Value(8)])),
                Some(arg32(4)),
            )
            .without(OTHER_FORKS),
        changes(
            entry("xfs_bmap_collapse_extents"),
            Span::Whole,
            "xfs/collapse",
        )
        .inode(xfs_inode(1)),
        changes(entry("xfs_bmap_insert_extents"), Span::Whole, "xfs/insert").inode(xfs_inode(1)),
        // Both forks' owners hold their ILOCKs here; the swap itself may be inlined.
        changes(
            Target::Tracepoint("xfs_swap_extent_before"),
            Span::Whole,
            "xfs/swap-forks",
        )
        .inode(xfs_inode(0)),
        // (ip, lock_flags, caller_ip)
        note("xfs_ilock", "xfs/note-ilock").payload(Some(arg32(1)), Some(arg(2, &[])), None),
        note("xfs_iunlock", "xfs/note-iunlock").payload(Some(arg32(1)), Some(arg(2, &[])), None),
        // (ip, order); before 6.18 (ip, order, write)
        note("xfs_write_fault", "xfs/note-fault").payload(Some(arg32(1)), None, None),
        note("xfs_read_fault", "xfs/note-fault").payload(Some(arg32(1)), None, None),
        note("xfs_filemap_fault", "xfs/note-fault").payload(Some(arg32(1)), Some(arg32(2)), None),
    ],
};
