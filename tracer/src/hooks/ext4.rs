//! ext4: entry points of fs/ext4/{file,inode}.c, extent changes of fs/ext4/{extents,indirect,ioctl}.c.

use super::{
    Effect, Entry, Filesystem, FilesystemKind, Hook, LockClass, Mode, Side, Span, Stacks, Step,
    Target, arg, arg32,
    generic::{fault_enter, fault_leave},
};

/// fs/ext4/ext4.h: EXT4_GET_BLOCKS_CONVERT_UNWRITTEN, written blocks become unwritten.
const CONVERT_UNWRITTEN: u64 = 0x100;

const fn changes(function: &'static str, span: Span, group: &'static str) -> Hook {
    Hook::new(
        Target::Function(function, Side::Entry),
        Effect::ChangeExtents(span),
        group,
    )
    .stacks(Stacks::Always, Some(Mode::Excl))
}

/// See the module.
pub const TABLE: Filesystem = Filesystem {
    kind: FilesystemKind::Ext4,
    module: "ext4",
    inode: ("ext4_inode_info", "vfs_inode"),
    locks: &[
        (LockClass::IDataSem, "ext4_inode_info", "i_data_sem"),
        (LockClass::XattrSem, "ext4_inode_info", "xattr_sem"),
    ],
    hooks: &[
        // Serves fault, page_mkwrite and pfn_mkwrite of a DAX file; the lock is in ext4_dax_huge_fault.
        fault_enter("ext4_dax_fault", Entry::Fault, "ext4/fault"),
        fault_leave("ext4_dax_fault", Entry::Fault, "ext4/fault-end"),
        fault_enter("ext4_dax_huge_fault", Entry::Fault, "ext4/huge-fault"),
        fault_leave("ext4_dax_huge_fault", Entry::Fault, "ext4/huge-fault-end"),
        fault_enter("ext4_page_mkwrite", Entry::PageMkwrite, "ext4/page-mkwrite"),
        fault_leave(
            "ext4_page_mkwrite",
            Entry::PageMkwrite,
            "ext4/page-mkwrite-end",
        ),
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
            Span::FromBlock,
            "ext4/ind-remove-space",
        )
        .inode(arg(1, &[]))
        .payload(Some(arg32(2)), Some(arg32(3)), None),
        // ext4_ext_shift_extents(inode, handle, start, shift, direction)
        changes("ext4_ext_shift_extents", Span::FromBlock, "ext4/shift")
            .inode(arg(0, &[]))
            .payload(Some(arg32(2)), Some(arg32(3)), None),
        // ext4_map_blocks(handle, inode, map, flags)
        changes("ext4_map_blocks", Span::Blocks, "ext4/convert-unwritten")
            .inode(arg(1, &[]))
            .payload(
                Some(arg(2, &[Step::Read("ext4_map_blocks", "m_lblk")])),
                Some(arg(2, &[Step::Read("ext4_map_blocks", "m_len")])),
                Some(arg32(3)),
            )
            .guard(CONVERT_UNWRITTEN),
    ],
};
