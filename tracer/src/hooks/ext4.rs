//! ext4: entry points of fs/ext4/{file,inode}.c, extent changes of fs/ext4/{extents,indirect,ioctl}.c.

use super::{
    Effect, Entry, Filesystem, FilesystemKind, Fresh, Hook, Install, LockAction, LockClass, Mode,
    Side, Span, Stacks, Step, Target, Way, arg, arg32,
    generic::{fault_enter, fiemap_enter, leave, transfer_enter},
    ret,
};

/// fs/ext4/ext4.h: EXT4_GET_BLOCKS_CONVERT_UNWRITTEN, written blocks become unwritten.
const CONVERT_UNWRITTEN: u64 = 0x100;
/// fs/ext4/ext4.h: EXT4_GET_BLOCKS_CONVERT, unwritten blocks become written (fs/ext4/extents.c:
/// ext4_convert_unwritten_extents).
const CONVERT_WRITTEN: u64 = 0x10;

/// fs/ext4/ext4.h: EXT4_GET_BLOCKS_CREATE; whatever changes the map has it.
const CREATE: u64 = 0x1;

/// fs/ext4/ext4.h: EXT4_MAP_NEW, EXT4_MAP_UNWRITTEN (include/linux/buffer_head.h: BH_New, BH_Unwritten)
const MAP_NEW: u64 = 1 << 5;
const MAP_UNWRITTEN: u64 = 1 << 11;
/// include/uapi/linux/ext4.h: EXT4_IOC_SWAP_BOOT, `_IO('f', 17)`
const SWAP_BOOT: u64 = 0x6611;
/// fs/ext4/ext4_jbd2.h: EXT4_HT_MIGRATE
const HANDLE_MIGRATE: u64 = 8;
const FILE: &[Step] = &[Step::Deref("file", "f_inode")];

const FOLIO: &[Step] = &[
    Step::Deref("folio", "mapping"),
    Step::Deref("address_space", "host"),
];
const PAGE: &[Step] = &[
    Step::Deref("page", "mapping"),
    Step::Deref("address_space", "host"),
];

/// Inside page_mkwrite, what gives the page blocks.
const fn makes_writable(function: &'static str, inode: Way) -> Hook {
    Hook::new(
        Target::Function(function, Side::Return),
        Effect::Install(Install::Mkwrite),
        "ext4/mkwrite-begin",
    )
    .inode(inode)
    .payload(None, None, Some(ret()))
    .stacks(Stacks::Sampled, Some(Mode::Shared))
    .within("ext4/page-mkwrite")
}

const fn changes(function: &'static str, span: Span, group: &'static str) -> Hook {
    Hook::new(
        Target::Function(function, Side::Entry),
        Effect::ChangeExtents(span),
        group,
    )
    .stacks(Stacks::Always, Some(Mode::Excl))
}

const fn handle_wait(function: &'static str) -> Hook {
    Hook::new(
        Target::Function(function, Side::Entry),
        Effect::Resource(LockClass::Handle, LockAction::Wait),
        "ext4/handle-wait",
    )
    .payload(
        Some(arg(
            0,
            &[
                Step::Deref("journal_s", "j_fs_dev"),
                Step::Read("block_device", "bd_dev"),
            ],
        )),
        None,
        None,
    )
    .stacks(Stacks::Always, None)
}

/// Looks blocks up to change what is there: "need to be called with down_write" (fs/ext4/extents.c above
/// ext4_ext_map_blocks). (handle, inode, map, flags)
const fn maps(function: &'static str, group: &'static str) -> Hook {
    Hook::new(
        Target::Function(function, Side::Entry),
        Effect::MapExtent,
        group,
    )
    .stacks(Stacks::Always, None)
    .inode(arg(1, &[]))
    .payload(None, None, Some(arg32(3)))
    .guard(CREATE)
}

/// A function with the arguments (handle, inode, map, flags).
const fn converts(target: Target, effect: Effect, how: u64, group: &'static str) -> Hook {
    Hook::new(target, effect, group)
        .stacks(Stacks::Always, Some(Mode::Excl))
        .inode(arg(1, &[]))
        .payload(
            Some(arg(2, &[Step::Read("ext4_map_blocks", "m_lblk")])),
            Some(arg(2, &[Step::Read("ext4_map_blocks", "m_len")])),
            Some(arg32(3)),
        )
        .guard(how)
}

/// A function that gives a file's map another format, and the transaction in which it does.
const fn reformats(function: &'static str, groups: [&'static str; 3]) -> [Hook; 3] {
    let [begin, end, transaction] = groups;
    [
        Hook::new(
            Target::Function(function, Side::Entry),
            Effect::Enter(Entry::MapFormat),
            begin,
        )
        .inode(arg(0, &[])),
        leave(function, Entry::MapFormat, end),
        // (dev, tid, type, ...)
        Hook::new(
            Target::Tracepoint("jbd2_handle_start"),
            Effect::Switch(Entry::MapFormat),
            transaction,
        )
        .payload(None, None, Some(arg32(2)))
        .exactly(HANDLE_MIGRATE)
        .stacks(Stacks::Always, None)
        .within(begin),
    ]
}

const TO_EXTENTS: [Hook; 3] = reformats(
    "ext4_ext_migrate",
    [
        "ext4/to-extents",
        "ext4/to-extents-end",
        "ext4/to-extents-now",
    ],
);
const TO_BLOCKS: [Hook; 3] = reformats(
    "ext4_ind_migrate",
    ["ext4/to-blocks", "ext4/to-blocks-end", "ext4/to-blocks-now"],
);

/// See the module.
pub const TABLE: Filesystem = Filesystem {
    kind: FilesystemKind::Ext4,
    module: "ext4",
    inode: ("ext4_inode_info", "vfs_inode"),
    extent_lock: Some(LockClass::IDataSem),
    dax_only: false,
    locks: &[
        (LockClass::IDataSem, "ext4_inode_info", "i_data_sem"),
        (LockClass::XattrSem, "ext4_inode_info", "xattr_sem"),
    ],
    hooks: &[
        // Serves fault, page_mkwrite and pfn_mkwrite of a DAX file; the lock is in ext4_dax_huge_fault.
        fault_enter("ext4_dax_fault", Entry::Fault, "ext4/fault"),
        leave("ext4_dax_fault", Entry::Fault, "ext4/fault-end"),
        fault_enter("ext4_dax_huge_fault", Entry::Fault, "ext4/huge-fault"),
        leave("ext4_dax_huge_fault", Entry::Fault, "ext4/huge-fault-end"),
        fault_enter("ext4_page_mkwrite", Entry::PageMkwrite, "ext4/page-mkwrite"),
        leave(
            "ext4_page_mkwrite",
            Entry::PageMkwrite,
            "ext4/page-mkwrite-end",
        ),
        // A file whose data are journalled, and from 7.3 on one without delayed allocation:
        // (handle, folio, pos, len, get_block); before 6.12 (page, pos, len, get_block)
        makes_writable("ext4_block_write_begin", arg(1, FOLIO)),
        makes_writable("__block_write_begin", arg(0, PAGE)),
        transfer_enter("ext4_file_read_iter", Entry::Read, "ext4/read"),
        leave("ext4_file_read_iter", Entry::Read, "ext4/read-end"),
        transfer_enter("ext4_file_write_iter", Entry::Write, "ext4/write"),
        leave("ext4_file_write_iter", Entry::Write, "ext4/write-end"),
        fiemap_enter("ext4_fiemap", "ext4/fiemap"),
        leave("ext4_fiemap", Entry::Fiemap, "ext4/fiemap-end"),
        // ext4_da_get_block_prep(inode, iblock, bh, create), and what it looks up directly
        Hook::new(
            Target::Function("ext4_da_get_block_prep", Side::Entry),
            Effect::Enter(Entry::Reserve),
            "ext4/reserve-blocks",
        )
        .inode(arg(0, &[]))
        .payload(Some(arg(1, &[])), None, None),
        leave(
            "ext4_da_get_block_prep",
            Entry::Reserve,
            "ext4/reserve-blocks-end",
        ),
        Hook::new(
            Target::Function("ext4_es_lookup_extent", Side::Entry),
            Effect::LookUp(Entry::Reserve),
            "ext4/look-up",
        )
        .inode(arg(0, &[])),
        // (inode, lblk, len, ...)
        Hook::new(
            Target::Function("ext4_es_insert_delayed_extent", Side::Entry),
            Effect::Reserve(Span::Blocks),
            "ext4/reserve",
        )
        .stacks(Stacks::Always, None)
        .inode(arg(0, &[]))
        .payload(Some(arg32(1)), Some(arg32(2)), None),
        // Before 6.9 (inode, lblk, allocated), one block
        Hook::new(
            Target::Function("ext4_es_insert_delayed_block", Side::Entry),
            Effect::Reserve(Span::BlocksInclusive),
            "ext4/reserve",
        )
        .stacks(Stacks::Always, None)
        .inode(arg(0, &[]))
        .payload(Some(arg32(1)), Some(arg32(1)), None),
        // ext4_update_disksize_before_punch(inode, offset, len)
        Hook::new(
            Target::Function("ext4_update_disksize_before_punch", Side::Entry),
            Effect::DiskSize(Span::Bytes),
            "ext4/disk-size",
        )
        .inode(arg(0, &[]))
        .payload(Some(arg(1, &[])), Some(arg(2, &[])), None),
        // ext4_orphan_add(handle, inode)
        Hook::new(
            Target::Function("ext4_orphan_add", Side::Entry),
            Effect::Orphan,
            "ext4/orphan",
        )
        .inode(arg(1, &[])),
        // (dev, tid, ...): the outermost handle of a task only; a restart keeps it (fs/jbd2/transaction.c).
        Hook::new(
            Target::Tracepoint("jbd2_handle_start"),
            Effect::Resource(LockClass::Handle, LockAction::Acquire(Mode::Shared)),
            "ext4/handle-start",
        )
        .payload(Some(arg32(0)), None, None),
        Hook::new(
            Target::Tracepoint("jbd2_handle_stats"),
            Effect::Resource(LockClass::Handle, LockAction::Release(Mode::Shared)),
            "ext4/handle-stop",
        )
        .payload(Some(arg32(0)), None, None),
        // Until the running transaction has committed, or the log has room again.
        handle_wait("wait_transaction_locked"),
        handle_wait("wait_transaction_switching"),
        handle_wait("__jbd2_log_wait_for_space"),
        // ext4_ioctl(filp, cmd, arg); swap_inode_boot_loader is inlined
        Hook::new(
            Target::Function("ext4_ioctl", Side::Entry),
            Effect::Enter(Entry::SwapBoot),
            "ext4/swap-boot",
        )
        .inode(arg(0, FILE))
        .payload(None, None, Some(arg32(1)))
        .exactly(SWAP_BOOT),
        Hook::new(
            Target::Function("ext4_ioctl", Side::Return),
            Effect::Leave(Entry::SwapBoot),
            "ext4/swap-boot-end",
        ),
        // ext4_change_inode_journal_flag(inode, val): data that is flushed as what it was must not be
        // dirtied again before it is something else, and no fault begin by one mode and end by the other
        Hook::new(
            Target::Function("ext4_change_inode_journal_flag", Side::Entry),
            Effect::Enter(Entry::JournalMode),
            "ext4/journal-mode",
        )
        .inode(arg(0, &[]))
        .payload(None, None, Some(arg32(1))),
        Hook::new(
            Target::Function("ext4_change_inode_journal_flag", Side::Return),
            Effect::Leave(Entry::JournalMode),
            "ext4/journal-mode-end",
        ),
        Hook::new(
            Target::Function("jbd2_journal_lock_updates", Side::Entry),
            Effect::Switch(Entry::JournalMode),
            "ext4/journal-mode-switch",
        )
        .stacks(Stacks::Always, Some(Mode::Excl)),
        TO_EXTENTS[0],
        TO_EXTENTS[1],
        TO_EXTENTS[2],
        TO_BLOCKS[0],
        TO_BLOCKS[1],
        TO_BLOCKS[2],
        // ext4_writepages_down_write, inlined; writeback itself takes it shared without a call.
        Hook::new(
            Target::Function("percpu_down_write", Side::Return),
            Effect::Resource(LockClass::Writepages, LockAction::Acquire(Mode::Excl)),
            "ext4/writepages-lock",
        )
        .payload(Some(arg(0, &[])), None, None),
        Hook::new(
            Target::Function("percpu_up_write", Side::Entry),
            Effect::Resource(LockClass::Writepages, LockAction::Release(Mode::Excl)),
            "ext4/writepages-unlock",
        )
        .payload(Some(arg(0, &[])), None, None),
        // ext4_move_extents(o_filp, d_filp, orig_blk, donor_blk, len, moved_len)
        Hook::new(
            Target::Function("ext4_move_extents", Side::Entry),
            Effect::Enter(Entry::MoveExtents),
            "ext4/move-extents",
        )
        .inode(arg(0, FILE))
        .payload(Some(arg(2, &[])), Some(arg(4, &[])), None)
        .second(arg(1, FILE), [Some(arg(3, &[])), Some(arg(4, &[])), None]),
        Hook::new(
            Target::Function("ext4_move_extents", Side::Return),
            Effect::Leave(Entry::MoveExtents),
            "ext4/move-extents-end",
        ),
        // swap_inode_data(inode1, inode2): both whole block maps
        changes("swap_inode_data", Span::Whole, "ext4/swap-data").inode(arg(0, &[])),
        // ext4_swap_extents(handle, inode1, inode2, lblk1, lblk2, count, unwritten, erp)
        changes("ext4_swap_extents", Span::Blocks, "ext4/swap-extents")
            .inode(arg(1, &[]))
            .payload(Some(arg32(3)), Some(arg32(5)), None),
        // ext4_map_blocks(handle, inode, map, flags)
        Hook::new(
            Target::Function("ext4_map_blocks", Side::Return),
            Effect::Allocate(Span::Blocks, Fresh::Said),
            "ext4/allocate",
        )
        .inode(arg(1, &[]))
        .payload(
            Some(arg(2, &[Step::Read("ext4_map_blocks", "m_lblk")])),
            Some(arg(2, &[Step::Read("ext4_map_blocks", "m_len")])),
            Some(arg(2, &[Step::Read("ext4_map_blocks", "m_flags")])),
        )
        .guard(MAP_NEW)
        .without(MAP_UNWRITTEN),
        maps("ext4_ext_map_blocks", "ext4/map"),
        maps("ext4_ind_map_blocks", "ext4/ind-map"),
        // ext4_ext_remove_space(inode, start, end), last block included
        changes(
            "ext4_ext_remove_space",
            Span::BlocksInclusive,
            "ext4/remove-space",
        )
        .inode(arg(0, &[]))
        .payload(Some(arg32(1)), Some(arg32(2)), None),
        // ext4_ind_remove_space(handle, inode, start, end), last block excluded
        changes(
            "ext4_ind_remove_space",
            Span::BlocksUntil,
            "ext4/ind-remove-space",
        )
        .inode(arg(1, &[]))
        .payload(Some(arg32(2)), Some(arg32(3)), None),
        // ext4_ind_truncate(handle, inode): what lies behind i_size
        changes(
            "ext4_ind_truncate",
            Span::FromBlockBehind,
            "ext4/ind-truncate",
        )
        .inode(arg(1, &[]))
        .payload(Some(arg(1, &[Step::Read("inode", "i_size")])), None, None),
        // ext4_truncate(inode), by which a write that came up short gives back what lies behind i_size
        Hook::new(
            Target::Function("ext4_truncate", Side::Entry),
            Effect::UnderExclusion(Span::FromByte),
            "ext4/take-back",
        )
        .stacks(Stacks::Always, Some(Mode::Excl))
        .inode(arg(0, &[]))
        .payload(Some(arg(0, &[Step::Read("inode", "i_size")])), None, None),
        // ext4_ext_shift_extents(inode, handle, start, shift, direction)
        changes("ext4_ext_shift_extents", Span::FromBlock, "ext4/shift")
            .inode(arg(0, &[]))
            .payload(Some(arg32(2)), Some(arg32(3)), None),
        converts(
            Target::Function("ext4_map_blocks", Side::Entry),
            Effect::ConvertExtents(Span::Blocks),
            CONVERT_UNWRITTEN,
            "ext4/convert-unwritten",
        ),
        // At the end of a direct write: what was allocated as unwritten is written now. Not called for
        // blocks that are written already; how many it was shows when it returns.
        converts(
            Target::Function("ext4_ext_map_blocks", Side::Return),
            Effect::WriteExtents(Span::Blocks),
            CONVERT_WRITTEN,
            "ext4/convert-written",
        ),
    ],
};
