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
    /// On this filesystem, have these come under one hold of the extent map's own lock, from the first
    /// after the last invalidation on: nobody may look the map up in between.
    pub in_one: Option<(FilesystemKind, OneStep)>,
    /// Where the kernel says so.
    pub source: &'static str,
}

const NONE: Duties = Duties {
    exclusion: false,
    rwsem: false,
    teardown: Owed::Never,
    layouts: Owed::Never,
    drain: false,
    in_one: None,
    source: "changes no extents inside EOF that a fault may have found",
};

const ALL: Duties = Duties {
    exclusion: true,
    rwsem: true,
    teardown: Owed::Always,
    layouts: Owed::OnDax,
    drain: true,
    in_one: None,
    source: "fs/xfs/xfs_file.c:xfs_file_fallocate; fs/ext4/extents.c:ext4_fallocate",
};

impl Operation {
    /// What the operation owes.
    pub fn duties(self) -> Duties {
        match self {
            Self::PunchHole | Self::ZeroRange | Self::WriteZeroes => ALL,
            Self::CollapseRange => Duties {
                in_one: Some((FilesystemKind::Xfs, OneStep::Shifts)),
                source: "fs/xfs/xfs_bmap_util.c:xfs_collapse_file_space; \
                         fs/ext4/extents.c:ext4_fallocate",
                ..ALL
            },
            Self::InsertRange => Duties {
                in_one: Some((FilesystemKind::Xfs, OneStep::Changes)),
                source: "fs/xfs/xfs_bmap_util.c:xfs_insert_file_space; \
                         fs/ext4/extents.c:ext4_fallocate",
                ..ALL
            },
            Self::UnshareRange => Duties {
                teardown: Owed::OnDax,
                source: "fs/xfs/xfs_reflink.c:xfs_reflink_unshare; fs/dax.c:dax_unshare_iter",
                ..ALL
            },
            Self::Truncate => Duties {
                source: "fs/xfs/xfs_iops.c:xfs_setattr_size; fs/ext4/inode.c:ext4_setattr",
                ..ALL
            },
            Self::SwapExtents => Duties {
                in_one: Some((FilesystemKind::Xfs, OneStep::Changes)),
                source: "fs/xfs/xfs_bmap_util.c:xfs_swap_extents",
                ..ALL
            },
            Self::ExchangeRange => Duties {
                in_one: Some((FilesystemKind::Xfs, OneStep::Changes)),
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
                ..NONE
            },
            // Copy-on-write replaces blocks that faults may have found.
            Self::DaxWrite => Duties {
                exclusion: true,
                rwsem: true,
                source: "fs/xfs/xfs_file.c:xfs_file_dax_write; fs/dax.c:dax_iomap_rw",
                ..NONE
            },
            _ => NONE,
        }
    }
}
