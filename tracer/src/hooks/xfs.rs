//! XFS: entry points of fs/xfs/xfs_file.c, extent changes of fs/xfs/libxfs/xfs_bmap.c.

use super::{
    Effect, Entry, Filesystem, FilesystemKind, Fresh, Hook, LockAction, LockClass, Mode, Side,
    Span, Stacks, Step, Success, Target, Way, arg, arg32,
    generic::{MAPPING, fault_enter, fiemap_enter, leave, transfer_enter},
    ret,
};

const FILE: &[Step] = &[Step::Deref("file", "f_inode")];

const fn xfs_inode(index: u8) -> Way {
    arg(index, IP)
}
const FILE1: &[Step] = &[
    Step::Deref("xfs_exchrange", "file1"),
    Step::Deref("file", "f_inode"),
];
const FILE2: &[Step] = &[
    Step::Deref("xfs_exchrange", "file2"),
    Step::Deref("file", "f_inode"),
];
const IP: &[Step] = &[Step::Into("xfs_inode", "i_vnode")];
/// Memory of the copy-on-write fork; without one, nothing.
const COPIES: &[Step] = &[
    Step::Deref("xfs_inode", "i_cowfp"),
    Step::Read("xfs_ifork", "if_bytes"),
];
/// XFS's own marks on the file.
const FLAGS: &[Step] = &[Step::Read("xfs_inode", "i_flags")];
/// Which marks pages of the file have.
const MARKS: &[Step] = &[
    Step::Into("xfs_inode", "i_vnode"),
    Step::Read("inode", "i_data.i_pages.xa_flags"),
];

/// fs/xfs/libxfs/xfs_bmap.h: XFS_BMAPI_ATTRFORK | XFS_BMAPI_COWFORK; neither fork is visible to faults.
const OTHER_FORKS: u64 = 1 << 2 | 1 << 8;
/// The same two as BMAP_ATTRFORK | BMAP_COWFORK of the in-core extent tracepoints.
const OTHER_FORKS_STATE: u64 = 1 << 8 | 1 << 9;
/// fs/xfs/libxfs/xfs_types.h: XFS_EXT_UNWRITTEN
const UNWRITTEN: u64 = 1;
/// fs/xfs/xfs_inode.h: XFS_IREMAPPING, the same from 6.1 to 7.3
const REMAPPING: u64 = 1 << 15;
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

/// From the page's inode to the number that its data fork's map has now.
const FORK_SEQ: &[Step] = &[
    Step::Out("xfs_inode", "i_vnode"),
    Step::Read("xfs_inode", "i_df.if_seq"),
];
/// The number that it had when writeback took its mapping.
const WRITEPAGE_SEQ: &[Step] = &[
    Step::Out("xfs_writepage_ctx", "ctx"),
    Step::Read("xfs_writepage_ctx", "data_seq"),
];
/// include/linux/iomap.h: IOMAP_F_SHARED
const IOMAP_F_SHARED: u64 = 1 << 2;

const fn maps_blocks(side: Side, effect: Effect, group: &'static str) -> Hook {
    Hook::new(Target::Function("xfs_map_blocks", side), effect, group)
        .only_with("iomap_writeback_ops", "map_blocks")
        .inode(arg(1, &[]))
}

const fn maps(tracepoint: &'static str, group: &'static str) -> Hook {
    // (ip, cursor, state, caller_ip)
    Hook::new(Target::Tracepoint(tracepoint), Effect::MapExtent, group)
        .stacks(Stacks::Always, None)
        .inode(xfs_inode(0))
        .payload(None, None, Some(arg32(2)))
        .without(OTHER_FORKS_STATE)
}

const fn unannounced(target: Target, group: &'static str) -> Hook {
    Hook::new(target, Effect::Unannounced, group)
        .inode(xfs_inode(0))
        .without(REMAPPING)
        .stacks(Stacks::Always, None)
}

/// XFS's own tracepoints: an acquisition is seen before it waits, a release after it is done.
const fn note(tracepoint: &'static str, group: &'static str) -> Hook {
    Hook::new(Target::Tracepoint(tracepoint), Effect::Note, group)
        .inode(xfs_inode(0))
        .stands_in_for("xfs/fault")
}

const fn trans_end(function: &'static str, group: &'static str) -> Hook {
    Hook::new(
        entry(function),
        Effect::Resource(LockClass::Transaction, LockAction::Release(Mode::Shared)),
        group,
    )
    .payload(
        Some(arg(0, &[Step::Read("xfs_trans", "t_mountp")])),
        None,
        None,
    )
}

/// See the module.
pub const TABLE: Filesystem = Filesystem {
    kind: FilesystemKind::Xfs,
    module: "xfs",
    inode: ("xfs_inode", "i_vnode"),
    extent_lock: Some(LockClass::Ilock),
    dax_only: false,
    locks: &[(LockClass::Ilock, "xfs_inode", "i_lock")],
    hooks: &[
        fault_enter("xfs_filemap_fault", Entry::Fault, "xfs/fault"),
        leave("xfs_filemap_fault", Entry::Fault, "xfs/fault-end"),
        fault_enter("xfs_filemap_huge_fault", Entry::Fault, "xfs/huge-fault"),
        leave("xfs_filemap_huge_fault", Entry::Fault, "xfs/huge-fault-end"),
        fault_enter(
            "xfs_filemap_page_mkwrite",
            Entry::PageMkwrite,
            "xfs/page-mkwrite",
        ),
        leave(
            "xfs_filemap_page_mkwrite",
            Entry::PageMkwrite,
            "xfs/page-mkwrite-end",
        ),
        fault_enter(
            "xfs_filemap_pfn_mkwrite",
            Entry::PfnMkwrite,
            "xfs/pfn-mkwrite",
        ),
        leave(
            "xfs_filemap_pfn_mkwrite",
            Entry::PfnMkwrite,
            "xfs/pfn-mkwrite-end",
        ),
        transfer_enter("xfs_file_read_iter", Entry::Read, "xfs/read"),
        leave("xfs_file_read_iter", Entry::Read, "xfs/read-end"),
        transfer_enter("xfs_file_write_iter", Entry::Write, "xfs/write"),
        leave("xfs_file_write_iter", Entry::Write, "xfs/write-end"),
        fiemap_enter("xfs_vn_fiemap", "xfs/fiemap"),
        leave("xfs_vn_fiemap", Entry::Fiemap, "xfs/fiemap-end"),
        // xfs_file_fadvise(file, start, end, advice), whose end is a length
        Hook::new(
            entry("xfs_file_fadvise"),
            Effect::Enter(Entry::Advise),
            "xfs/advise",
        )
        .inode(arg(0, FILE))
        .payload(Some(arg(1, &[])), Some(arg(2, &[])), Some(arg(3, &[]))),
        leave("xfs_file_fadvise", Entry::Advise, "xfs/advise-end"),
        // xfs_vm_writepages(mapping, wbc)
        Hook::new(
            entry("xfs_vm_writepages"),
            Effect::Enter(Entry::Writeback),
            "xfs/writeback",
        )
        .inode(arg(0, MAPPING)),
        leave("xfs_vm_writepages", Entry::Writeback, "xfs/writeback-end"),
        // xfs_map_blocks(wpc, inode, offset, len): goes on with the mapping that it has, if that is still what
        // it was. Copies are looked at alone.
        maps_blocks(Side::Entry, Effect::Validate, "xfs/wb-mapping").payload(
            Some(arg(0, WRITEPAGE_SEQ)),
            Some(arg(1, FORK_SEQ)),
            None,
        ),
        maps_blocks(Side::Return, Effect::Validated, "xfs/wb-mapping-used")
            .payload(
                Some(arg(0, WRITEPAGE_SEQ)),
                Some(arg(0, &[Step::Read("iomap_writepage_ctx", "iomap.type")])),
                Some(arg(0, &[Step::Read("iomap_writepage_ctx", "iomap.flags")])),
            )
            .without(IOMAP_F_SHARED)
            .success(Success::Zero)
            .stacks(Stacks::Sampled, None),
        // xfs_iomap_valid(inode, iomap), which says so
        Hook::new(
            entry("xfs_iomap_valid"),
            Effect::Validate,
            "xfs/write-mapping",
        )
        .inode(arg(0, &[]))
        .payload(
            Some(arg(1, &[Step::Read("iomap", "validity_cookie")])),
            Some(arg(0, FORK_SEQ)),
            None,
        ),
        Hook::new(
            exit("xfs_iomap_valid"),
            Effect::Validated,
            "xfs/write-mapping-used",
        )
        .inode(arg(0, &[]))
        .payload(
            Some(arg(1, &[Step::Read("iomap", "validity_cookie")])),
            Some(arg(1, &[Step::Read("iomap", "type")])),
            Some(ret()),
        )
        // What a bool leaves in the rest of the register means nothing.
        .guard(1)
        .stacks(Stacks::Sampled, None),
        // xfs_end_io(work): what was written back in one go
        Hook::new(
            entry("xfs_end_io"),
            Effect::Enter(Entry::WrittenBack),
            "xfs/written-back",
        )
        .inode(arg(
            0,
            &[
                Step::Out("xfs_inode", "i_ioend_work"),
                Step::Into("xfs_inode", "i_vnode"),
            ],
        )),
        leave("xfs_end_io", Entry::WrittenBack, "xfs/written-back-end"),
        // xfs_setfilesize(ip, offset, size)
        Hook::new(
            entry("xfs_setfilesize"),
            Effect::DiskSize(Span::Bytes),
            "xfs/disk-size",
        )
        .inode(xfs_inode(0))
        .payload(Some(arg(1, &[])), Some(arg(2, &[])), None),
        // xfs_fs_map_blocks(inode, offset, length, ...), for fs/nfsd/blocklayout.c
        Hook::new(
            entry("xfs_fs_map_blocks"),
            Effect::Enter(Entry::LayoutGet),
            "xfs/layout-get",
        )
        .inode(arg(0, &[]))
        .payload(Some(arg(1, &[])), Some(arg(2, &[])), None),
        leave("xfs_fs_map_blocks", Entry::LayoutGet, "xfs/layout-get-end"),
        // xfs_fs_commit_blocks(inode, maps, nr_maps, ...)
        Hook::new(
            entry("xfs_fs_commit_blocks"),
            Effect::Enter(Entry::LayoutCommit),
            "xfs/layout-commit",
        )
        .inode(arg(0, &[])),
        leave(
            "xfs_fs_commit_blocks",
            Entry::LayoutCommit,
            "xfs/layout-commit-end",
        ),
        // xfs_flush_unmap_range(ip, ...): whether copies are left is looked at when it is over.
        Hook::new(
            exit("xfs_flush_unmap_range"),
            Effect::Copies,
            "xfs/copies-left",
        )
        .inode(xfs_inode(0))
        .payload(None, None, Some(arg(0, COPIES))),
        // xfs_reflink_cancel_cow_range(ip, ...)
        Hook::new(
            exit("xfs_reflink_cancel_cow_range"),
            Effect::Copies,
            "xfs/copies-cancelled",
        )
        .inode(xfs_inode(0)),
        // xfs_reflink_cancel_cow_blocks(ip, tpp, offset_fsb, end_fsb, cancel_real)
        Hook::new(
            entry("xfs_reflink_cancel_cow_blocks"),
            Effect::CopiesDropped,
            "xfs/copies-dropped",
        )
        .inode(xfs_inode(0))
        .payload(Some(arg(2, &[])), Some(arg(3, &[])), Some(arg(0, MARKS)))
        .dirty()
        .stacks(Stacks::Always, None),
        // xfs_inode_free_cowblocks(ip, icw, lockflags)
        Hook::new(
            entry("xfs_inode_free_cowblocks"),
            Effect::Enter(Entry::TrimCopies),
            "xfs/trim-copies",
        )
        .inode(xfs_inode(0)),
        leave(
            "xfs_inode_free_cowblocks",
            Entry::TrimCopies,
            "xfs/trim-copies-end",
        ),
        Hook::new(
            entry("xfs_reflink_cancel_cow_range"),
            Effect::Switch(Entry::TrimCopies),
            "xfs/trim-copies-now",
        )
        .stacks(Stacks::Always, Some(Mode::Excl)),
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
        // xfs_ilock_demote(ip, lock_flags): that of a remap's source comes after the mark.
        unannounced(exit("xfs_ilock_demote"), "xfs/demote-unannounced").payload(
            None,
            None,
            Some(arg(0, FLAGS)),
        ),
        // xfs_reflink_remap_blocks(src, pos_in, dest, pos_out, remap_len, remapped)
        unannounced(entry("xfs_reflink_remap_blocks"), "xfs/remap-unannounced").payload(
            Some(arg(1, &[])),
            Some(arg(4, &[])),
            Some(arg(0, FLAGS)),
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
        // xfs_reflink_allocate_cow(ip, imap, cmap, shared, lockmode, convert_now) cycles the ILOCK to
        // allocate; whether it then takes the data fork's mapping again is the question.
        Hook::new(
            entry("xfs_reflink_allocate_cow"),
            Effect::Enter(Entry::CopyOnWrite),
            "xfs/cow",
        )
        .inode(xfs_inode(0))
        .payload(
            Some(arg(1, &[Step::Read("xfs_bmbt_irec", "br_startoff")])),
            Some(arg(1, &[Step::Read("xfs_bmbt_irec", "br_blockcount")])),
            None,
        ),
        Hook::new(
            exit("xfs_reflink_allocate_cow"),
            Effect::Leave(Entry::CopyOnWrite),
            "xfs/cow-end",
        )
        .stacks(Stacks::Always, None),
        // xfs_bmapi_read(ip, bno, len, mval, nmap, flags)
        Hook::new(
            entry("xfs_bmapi_read"),
            Effect::LookUp(Entry::CopyOnWrite),
            "xfs/look-up",
        )
        .inode(xfs_inode(0))
        .payload(Some(arg(1, &[])), Some(arg(2, &[])), Some(arg32(5)))
        .without(OTHER_FORKS),
        // xfs_trans_alloc(mp, resp, ...): one that reserves no log space waits for nothing.
        Hook::new(
            exit("xfs_trans_alloc"),
            Effect::Resource(LockClass::Transaction, LockAction::Acquire(Mode::Shared)),
            "xfs/trans-alloc",
        )
        .payload(
            Some(arg(0, &[])),
            None,
            Some(arg(1, &[Step::Read("xfs_trans_res", "tr_logres")])),
        )
        .guard(u64::MAX)
        .success(Success::Zero),
        trans_end("xfs_trans_commit", "xfs/trans-commit"),
        trans_end("xfs_trans_cancel", "xfs/trans-cancel"),
        // (log, ticket): fs/xfs/xfs_log.c:xlog_grant_head_wait
        Hook::new(
            Target::Tracepoint("xfs_log_grant_sleep"),
            Effect::Resource(LockClass::Transaction, LockAction::Wait),
            "xfs/log-wait",
        )
        .payload(Some(arg(0, &[Step::Read("xlog", "l_mp")])), None, None)
        .stacks(Stacks::Always, None),
        // xfs_exchange_range(fxr), from 6.10 on; also XFS_IOC_COMMIT_RANGE
        Hook::new(
            entry("xfs_exchange_range"),
            Effect::Enter(Entry::ExchangeRange),
            "xfs/exchange",
        )
        .inode(arg(0, FILE1))
        .payload(
            Some(arg(0, &[Step::Read("xfs_exchrange", "file1_offset")])),
            Some(arg(0, &[Step::Read("xfs_exchrange", "length")])),
            None,
        )
        .second(
            arg(0, FILE2),
            [
                Some(arg(0, &[Step::Read("xfs_exchrange", "file2_offset")])),
                Some(arg(0, &[Step::Read("xfs_exchrange", "length")])),
                None,
            ],
        ),
        Hook::new(
            exit("xfs_exchange_range"),
            Effect::Leave(Entry::ExchangeRange),
            "xfs/exchange-end",
        ),
        // xfs_iomap_write_direct(ip, offset_fsb, count_fsb, flags, imap, seq): DAX faults and writes,
        // direct writes; an unwritten extent exposes nothing. What it gives may be less than asked for:
        // the rest was written before.
        Hook::new(
            exit("xfs_iomap_write_direct"),
            Effect::Allocate(Span::Blocks, Fresh::IfMapped),
            "xfs/allocate",
        )
        .inode(xfs_inode(0))
        .payload(
            Some(arg(4, &[Step::Read("xfs_bmbt_irec", "br_startoff")])),
            Some(arg(4, &[Step::Read("xfs_bmbt_irec", "br_blockcount")])),
            Some(arg(4, &[Step::Read("xfs_bmbt_irec", "br_state")])),
        )
        .without(UNWRITTEN)
        .success(Success::Zero),
        // A write that came up short gives back what it had reserved: (inode, start, end, ...). From 6.12 on
        // a function of its own.
        Hook::new(
            entry("iomap_write_delalloc_release"),
            Effect::UnderExclusion(Span::BytesUntil),
            "xfs/take-back",
        )
        .stacks(Stacks::Always, Some(Mode::Excl))
        .inode(arg(0, &[]))
        .payload(Some(arg(1, &[])), Some(arg(2, &[])), None),
        // xfs_iomap_write_unwritten(ip, offset, count, update_isize)
        Hook::new(
            entry("xfs_iomap_write_unwritten"),
            Effect::WriteExtents(Span::Bytes),
            "xfs/convert-unwritten",
        )
        .stacks(Stacks::Always, Some(Mode::Excl))
        .inode(xfs_inode(0))
        .payload(Some(arg(1, &[])), Some(arg(2, &[])), None),
        maps("xfs_iext_insert", "xfs/map-insert"),
        maps("xfs_bmap_post_update", "xfs/map-update"),
        changes(entry("__xfs_bunmapi"), Span::Blocks, "xfs/bunmapi")
            .inode(xfs_inode(1))
            .payload(
                Some(arg(2, &[])),
                Some(arg(3, &[Step::Value(8)])),
                Some(arg32(4)),
            )
            .without(OTHER_FORKS),
        // xfs_bmap_collapse_extents(tp, ip, next_fsb, shift, done): from *next_fsb on
        changes(
            entry("xfs_bmap_collapse_extents"),
            Span::FromBlock,
            "xfs/collapse",
        )
        .inode(xfs_inode(1))
        .payload(Some(arg(2, &[Step::Value(8)])), None, Some(arg(1, COPIES))),
        // xfs_bmap_insert_extents(tp, ip, next_fsb, shift, done, stop_fsb): down to stop_fsb
        changes(
            entry("xfs_bmap_insert_extents"),
            Span::FromBlock,
            "xfs/insert",
        )
        .inode(xfs_inode(1))
        .payload(Some(arg(5, &[])), None, Some(arg(1, COPIES))),
        // (ip, which): both forks' owners hold their ILOCKs here; the swap itself may be inlined.
        changes(
            Target::Tracepoint("xfs_swap_extent_before"),
            Span::Whole,
            "xfs/swap-forks",
        )
        .inode(xfs_inode(0))
        .payload(Some(arg32(1)), None, Some(arg(0, COPIES))),
        // (ip, lock_flags, caller_ip)
        note("xfs_ilock", "xfs/note-ilock").payload(Some(arg32(1)), Some(arg(2, &[])), None),
        note("xfs_iunlock", "xfs/note-iunlock").payload(Some(arg32(1)), Some(arg(2, &[])), None),
        // (ip, order); before 6.18 (ip, order, write)
        note("xfs_write_fault", "xfs/note-fault").payload(Some(arg32(1)), None, None),
        note("xfs_read_fault", "xfs/note-fault").payload(Some(arg32(1)), None, None),
        note("xfs_filemap_fault", "xfs/note-fault").payload(Some(arg32(1)), Some(arg32(2)), None),
    ],
};
