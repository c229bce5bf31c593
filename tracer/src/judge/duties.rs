//! What each operation owes to page faults, direct I/O and pinned pages before it may change extents.

use crate::{hooks::FilesystemKind, judge::operations::Operation};

/// On which files something is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    /// On none.
    Never,
    /// On DAX files: pages of the page cache stay valid whatever becomes of the blocks below.
    OnDax,
    /// On all.
    Always,
}

impl Owed {
    /// True on a file that is a DAX file or not.
    pub fn on(self, dax: bool) -> bool {
        match self {
            Self::Never => false,
            Self::OnDax => dax,
            Self::Always => true,
        }
    }
}

/// Which changes of the extent map are one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OneStep {
    /// All.
    Changes,
    /// Shifts: what is cut out before or off at the end comes in steps of its own.
    Shifts,
}

/// What else an operation owes on one filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// These changes come under one hold of the extent map's own lock, from the first after the last
    /// invalidation on: nobody may look the map up in between.
    InOne(OneStep),
    /// What is torn down before a shift begins a block before it: writeback that completes there would merge
    /// with what moves.
    Edge,
    /// Where extents shift or are swapped, no copies are left that wait to replace blocks: they would do so
    /// elsewhere.
    NoCopies,
    /// Where pages over EOF are dropped, the on-disk size reaches as far: nobody will write them back.
    DiskSize,
    /// The on-disk size is raised only when what it covers is written.
    DiskSizeLast,
    /// The on-disk size has followed when a write that moved EOF returns. Not of direct writes: one may fall back to the
    /// page cache (fs/xfs/xfs_file.c:xfs_file_write_iter), which leaves it to writeback.
    DiskSizeRaised,
    /// Direct I/O is waited for.
    Drained,
    /// Nobody writes pages of the filesystem back meanwhile.
    WritebackHeldOff,
    /// Where it drops DAX entries it holds `invalidate_lock` EXCL and has found no pinned page: entries are all that
    /// tells who takes the memory back that somebody uses it.
    Entries,
    /// Before data goes beyond EOF the file is on the list of those whose blocks there a crash gives back.
    Orphan,
}

/// What an operation must have done, and must hold, where it changes extents inside EOF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duties {
    /// Hold `invalidate_lock` EXCL from the last invalidation to the last change.
    pub exclusion: bool,
    /// Hold `i_rwsem` EXCL.
    pub rwsem: bool,
    /// Have translations torn down, and pages and DAX entries dropped.
    pub teardown: Owed,
    /// Have found no pinned page, under the hold of `invalidate_lock` that it has.
    pub layouts: Owed,
    /// Have waited for direct I/O, under the hold of `i_rwsem` that it has.
    pub drain: bool,
    /// Owe `i_rwsem`, and the wait for direct I/O, wherever the map changes.
    pub grows: bool,
    /// What else, on which filesystem.
    pub more: &'static [(FilesystemKind, Duty)],
    /// Where the kernel says so.
    pub source: &'static str,
}

const ALL: Duties = Duties {
    exclusion: true,
    rwsem: true,
    teardown: Owed::Always,
    layouts: Owed::OnDax,
    drain: true,
    grows: false,
    more: &[],
    source: "fs/xfs/xfs_file.c:xfs_file_fallocate; fs/ext4/extents.c:ext4_fallocate",
};

impl Duties {
    /// Nothing.
    pub const NONE: Self = Self {
        exclusion: false,
        rwsem: false,
        teardown: Owed::Never,
        layouts: Owed::Never,
        drain: false,
        grows: false,
        more: &[],
        source: "changes no extents inside EOF that a fault may have found",
    };

    /// True if this is owed on a filesystem.
    pub fn owe(&self, filesystem: FilesystemKind, duty: Duty) -> bool {
        self.more.contains(&(filesystem, duty))
    }

    /// Which changes of the extent map are one step on a filesystem.
    pub fn one_step(&self, filesystem: FilesystemKind) -> Option<OneStep> {
        self.more.iter().find_map(|&(on, duty)| match duty {
            Duty::InOne(step) if on == filesystem => Some(step),
            _ => None,
        })
    }
}

impl Operation {
    /// What the operation owes.
    pub fn duties(self) -> Duties {
        match self {
            Self::PunchHole | Self::ZeroRange => Duties {
                more: &[
                    (FilesystemKind::Ext4, Duty::DiskSize),
                    (FilesystemKind::Virtiofs, Duty::Entries),
                ],
                source: "fs/xfs/xfs_file.c:xfs_file_fallocate; fs/ext4/extents.c:ext4_fallocate; \
                         fs/ext4/inode.c above ext4_update_disksize_before_punch; \
                         fs/fuse/file.c:fuse_file_fallocate",
                ..ALL
            },
            Self::WriteZeroes => ALL,
            Self::CollapseRange => Duties {
                more: &[
                    (FilesystemKind::Xfs, Duty::InOne(OneStep::Shifts)),
                    (FilesystemKind::Xfs, Duty::Edge),
                    (FilesystemKind::Xfs, Duty::NoCopies),
                ],
                source: "fs/xfs/xfs_bmap_util.c:xfs_collapse_file_space, xfs_prepare_shift; \
                         fs/ext4/extents.c:ext4_fallocate",
                ..ALL
            },
            Self::InsertRange => Duties {
                more: &[
                    (FilesystemKind::Xfs, Duty::InOne(OneStep::Changes)),
                    (FilesystemKind::Xfs, Duty::Edge),
                    (FilesystemKind::Xfs, Duty::NoCopies),
                ],
                source: "fs/xfs/xfs_bmap_util.c:xfs_insert_file_space, xfs_prepare_shift; \
                         fs/ext4/extents.c:ext4_fallocate",
                ..ALL
            },
            Self::UnshareRange => Duties {
                teardown: Owed::OnDax,
                source: "fs/xfs/xfs_reflink.c:xfs_reflink_unshare; fs/dax.c:dax_unshare_iter",
                ..ALL
            },
            Self::Truncate => Duties {
                more: &[(FilesystemKind::Virtiofs, Duty::Entries)],
                source: "fs/xfs/xfs_iops.c:xfs_setattr_size; fs/ext4/inode.c:ext4_setattr; \
                         fs/fuse/dir.c:fuse_do_setattr",
                ..ALL
            },
            Self::SwapExtents => Duties {
                more: &[
                    (FilesystemKind::Xfs, Duty::InOne(OneStep::Changes)),
                    (FilesystemKind::Xfs, Duty::NoCopies),
                ],
                source: "fs/xfs/xfs_bmap_util.c:xfs_swap_extents",
                ..ALL
            },
            Self::ExchangeRange => Duties {
                more: &[(FilesystemKind::Xfs, Duty::InOne(OneStep::Changes))],
                source: "fs/xfs/xfs_exchrange.c:xfs_exchange_contents, xfs_exchrange_prep",
                ..ALL
            },
            Self::Reflink | Self::Dedupe => Duties {
                source: "fs/xfs/xfs_reflink.c:xfs_reflink_remap_prep; \
                         fs/remap_range.c:__generic_remap_file_range_prep",
                ..ALL
            },
            Self::SwapBoot => Duties {
                source: "fs/ext4/ioctl.c:swap_inode_boot_loader",
                ..ALL
            },
            // Not on DAX files; folio locks keep page faults out (fs/ext4/move_extent.c).
            Self::MoveExtents => Duties {
                rwsem: true,
                drain: true,
                source: "fs/ext4/move_extent.c:ext4_move_extents",
                ..Duties::NONE
            },
            // Copy-on-write replaces blocks that faults may have found.
            Self::DaxWrite => Duties {
                exclusion: true,
                rwsem: true,
                more: &[
                    (FilesystemKind::Ext4, Duty::Orphan),
                    (FilesystemKind::Xfs, Duty::DiskSizeRaised),
                ],
                source: "fs/xfs/xfs_file.c:xfs_file_dax_write; fs/dax.c:dax_iomap_rw; \
                         fs/ext4/file.c:ext4_dax_write_iter",
                ..Duties::NONE
            },
            Self::Preallocate => Duties {
                rwsem: true,
                drain: true,
                grows: true,
                source: "fs/xfs/xfs_file.c:xfs_file_fallocate; fs/ext4/extents.c:ext4_fallocate",
                ..Duties::NONE
            },
            Self::BufferedWrite => Duties {
                rwsem: true,
                grows: true,
                more: &[(FilesystemKind::Ext4, Duty::Drained)],
                source: "fs/xfs/xfs_file.c:xfs_file_buffered_write; \
                         fs/ext4/file.c:ext4_buffered_write_iter",
                ..Duties::NONE
            },
            Self::DirectWrite => Duties {
                more: &[(FilesystemKind::Ext4, Duty::Orphan)],
                source: "fs/ext4/file.c:ext4_dio_write_iter",
                ..Duties::NONE
            },
            // Nobody may dirty pages meanwhile, nor write any back.
            Self::JournalMode => Duties {
                exclusion: true,
                more: &[(FilesystemKind::Ext4, Duty::WritebackHeldOff)],
                source: "fs/ext4/inode.c:ext4_change_inode_journal_flag",
                ..Duties::NONE
            },
            // A fault asks for the mode more than once.
            Self::JournalModeOff => Duties {
                source: "fs/ext4/inode.c:ext4_change_inode_journal_flag, ext4_page_mkwrite",
                ..Self::JournalMode.duties()
            },
            // Its caller took i_rwsem; faults that allocate make it start again.
            Self::MapFormat => Duties {
                more: &[(FilesystemKind::Ext4, Duty::WritebackHeldOff)],
                source: "fs/ext4/migrate.c:ext4_ext_migrate, ext4_ind_migrate",
                ..Duties::NONE
            },
            // The IOLOCK may have been taken before, with what lies beyond EOF.
            Self::TrimCopies => Duties {
                exclusion: true,
                source: "fs/xfs/xfs_icache.c:xfs_inode_free_cowblocks",
                ..Duties::NONE
            },
            Self::LayoutGet => Duties {
                rwsem: true,
                grows: true,
                source: "fs/xfs/xfs_pnfs.c:xfs_fs_map_blocks",
                ..Duties::NONE
            },
            // Whoever maps an unwritten block maps zeroes.
            Self::LayoutCommit => Duties {
                exclusion: true,
                rwsem: true,
                teardown: Owed::Always,
                source: "fs/xfs/xfs_pnfs.c:xfs_fs_commit_blocks",
                ..Duties::NONE
            },
            Self::Open => Duties {
                more: &[(FilesystemKind::Virtiofs, Duty::Entries)],
                source: "fs/fuse/file.c:fuse_open with O_TRUNC; fs/fuse/dax.c:lookup_and_reclaim_dmap",
                ..Duties::NONE
            },
            Self::Attributes => Duties {
                more: &[(FilesystemKind::Virtiofs, Duty::Entries)],
                source: "fs/fuse/dir.c:fuse_do_setattr; fs/fuse/dax.c:lookup_and_reclaim_dmap",
                ..Duties::NONE
            },
            Self::WrittenBack => Duties {
                more: &[(FilesystemKind::Xfs, Duty::DiskSizeLast)],
                source: "fs/xfs/xfs_aops.c:xfs_end_ioend; from 7.3 on fs/xfs/xfs_ioend.c:xfs_end_ioend_write",
                ..Duties::NONE
            },
            _ => Duties::NONE,
        }
    }
}
