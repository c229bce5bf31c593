//! virtiofs with DAX: fs/fuse/{dax,dir,file,inode}.c.
//!
//! The extent map is the server's. What the kernel has is a window of memory, pieces of which show pieces of files, and
//! are lent to others when memory is short (fs/fuse/dax.c:fuse_dax_free_mem_worker). That a page is in use shows in
//! its DAX entry only: who drops entries must have faults locked out, and have looked for pins.

use super::{
    Effect, Entry, Filesystem, FilesystemKind, Hook, Mode, Side, Span, Stacks, Step, Target,
    Teardown, arg,
    generic::{MAPPING, fault_enter, leave, transfer_enter},
};

const DENTRY: &[Step] = &[Step::Deref("dentry", "d_inode")];

/// A function whose first argument is the inode.
const fn of_inode(function: &'static str, effect: Effect, group: &'static str) -> Hook {
    Hook::new(Target::Function(function, Side::Entry), effect, group).inode(arg(0, &[]))
}

/// See the module.
pub const TABLE: Filesystem = Filesystem {
    kind: FilesystemKind::Virtiofs,
    module: "fuse",
    inode: ("fuse_inode", "inode"),
    extent_lock: None,
    dax_only: true,
    // fuse_inode.dax.sem is behind a pointer.
    locks: &[],
    hooks: &[
        fault_enter("fuse_dax_fault", Entry::Fault, "virtiofs/fault"),
        leave("fuse_dax_fault", Entry::Fault, "virtiofs/fault-end"),
        fault_enter("fuse_dax_huge_fault", Entry::Fault, "virtiofs/huge-fault"),
        leave(
            "fuse_dax_huge_fault",
            Entry::Fault,
            "virtiofs/huge-fault-end",
        ),
        fault_enter(
            "fuse_dax_page_mkwrite",
            Entry::PageMkwrite,
            "virtiofs/page-mkwrite",
        ),
        leave(
            "fuse_dax_page_mkwrite",
            Entry::PageMkwrite,
            "virtiofs/page-mkwrite-end",
        ),
        fault_enter(
            "fuse_dax_pfn_mkwrite",
            Entry::PfnMkwrite,
            "virtiofs/pfn-mkwrite",
        ),
        leave(
            "fuse_dax_pfn_mkwrite",
            Entry::PfnMkwrite,
            "virtiofs/pfn-mkwrite-end",
        ),
        transfer_enter("fuse_file_read_iter", Entry::Read, "virtiofs/read"),
        leave("fuse_file_read_iter", Entry::Read, "virtiofs/read-end"),
        transfer_enter("fuse_file_write_iter", Entry::Write, "virtiofs/write"),
        leave("fuse_file_write_iter", Entry::Write, "virtiofs/write-end"),
        // fuse_open(inode, file)
        of_inode("fuse_open", Effect::Enter(Entry::Open), "virtiofs/open").payload(
            None,
            None,
            Some(arg(1, &[Step::Read("file", "f_flags")])),
        ),
        leave("fuse_open", Entry::Open, "virtiofs/open-end"),
        // fuse_setattr(idmap, dentry, attr): a change of size is notify_change's, of which this is a part then
        Hook::new(
            Target::Function("fuse_setattr", Side::Entry),
            Effect::Enter(Entry::Attributes),
            "virtiofs/setattr",
        )
        .inode(arg(1, DENTRY)),
        leave("fuse_setattr", Entry::Attributes, "virtiofs/setattr-end"),
        // (inode, attr, ...); from 6.12 on the first is a part of the second, where it is not called directly
        of_inode(
            "fuse_change_attributes_i",
            Effect::Enter(Entry::Attributes),
            "virtiofs/attributes",
        ),
        leave(
            "fuse_change_attributes_i",
            Entry::Attributes,
            "virtiofs/attributes-end",
        ),
        of_inode(
            "fuse_change_attributes",
            Effect::Enter(Entry::Attributes),
            "virtiofs/attributes",
        ),
        leave(
            "fuse_change_attributes",
            Entry::Attributes,
            "virtiofs/attributes-end",
        ),
        // mm/truncate.c; what it calls has no stack
        Hook::new(
            Target::Function("invalidate_inode_pages2", Side::Entry),
            Effect::Invalidate(Span::Whole, Teardown::Both),
            "virtiofs/invalidate",
        )
        .inode(arg(0, MAPPING))
        .stacks(Stacks::Sampled, Some(Mode::Excl)),
        // fuse_send_removemapping(inode, ...), mostly by a worker
        of_inode(
            "fuse_send_removemapping",
            Effect::Withdraw,
            "virtiofs/withdraw",
        ),
    ],
};
