//! The orders that the kernel documents, as a table: what must be taken before what.

use crate::{
    hooks::{FilesystemKind, LockClass},
    judge::rules::Kind,
    trace::meta::Inode,
};

/// One documented order.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// On which filesystem; all if none.
    pub filesystem: Option<FilesystemKind>,
    /// Taken first, if both are held.
    pub outer: LockClass,
    /// Taken within.
    pub inner: LockClass,
    /// What the other way round is.
    pub kind: Kind,
    /// Where the kernel says so.
    pub source: &'static str,
}

const fn order(
    filesystem: Option<FilesystemKind>,
    outer: LockClass,
    inner: LockClass,
    kind: Kind,
    source: &'static str,
) -> Order {
    Order {
        filesystem,
        outer,
        inner,
        kind,
        source,
    }
}

const ANY: Option<FilesystemKind> = None;
const EXT4: Option<FilesystemKind> = Some(FilesystemKind::Ext4);
const XFS: Option<FilesystemKind> = Some(FilesystemKind::Xfs);
const VIRTIOFS: Option<FilesystemKind> = Some(FilesystemKind::Virtiofs);

const FILEMAP: &str = "mm/filemap.c, head comment \"Lock ordering\"";
const FUSE_DAX: &str = "fs/fuse/dax.c:__fuse_dax_fault";
const XFS_INODE: &str = "fs/xfs/xfs_inode.c, above xfs_ilock";
const EXT4_SUPER: &str = "fs/ext4/super.c, head comment \"Lock ordering\"";
const XFS_FILE: &str = "fs/xfs/xfs_file.c, above the fault handlers";
const XFS_TRANS: &str = "fs/xfs/xfs_trans.c:xfs_trans_alloc_inode reserves log space, then locks";
const DAX: &str = "fs/dax.c: entries are locked in the fault and in writeback, within the \
                   filesystem's locks; dax_writeback_one takes i_mmap_rwsem within";

/// Every documented order that can be seen. An act against one of them is wrong even if nobody met it
/// the right way round in this run.
pub const ORDERS: &[Order] = {
    use Kind::{FreezeOrder, LockOrder, TxnOrder};
    use LockClass::{
        DaxEntry, FolioLock, FreezePagefault, Handle, IDataSem, IMmapRwsem, IRwsem, Ilock,
        InvalidateLock, MmapLock, Transaction,
    };
    &[
        order(ANY, IRwsem, InvalidateLock, LockOrder, FILEMAP),
        order(ANY, IRwsem, MmapLock, LockOrder, FILEMAP),
        order(ANY, MmapLock, InvalidateLock, LockOrder, FILEMAP),
        order(ANY, InvalidateLock, IMmapRwsem, LockOrder, FILEMAP),
        order(ANY, MmapLock, IMmapRwsem, LockOrder, FILEMAP),
        order(ANY, IRwsem, IMmapRwsem, LockOrder, FILEMAP),
        order(ANY, MmapLock, DaxEntry, LockOrder, DAX),
        order(ANY, InvalidateLock, DaxEntry, LockOrder, DAX),
        order(ANY, DaxEntry, IMmapRwsem, LockOrder, DAX),
        order(XFS, FreezePagefault, InvalidateLock, FreezeOrder, XFS_FILE),
        order(
            EXT4,
            FreezePagefault,
            InvalidateLock,
            FreezeOrder,
            EXT4_SUPER,
        ),
        order(
            VIRTIOFS,
            FreezePagefault,
            InvalidateLock,
            FreezeOrder,
            FUSE_DAX,
        ),
        order(XFS, IRwsem, Ilock, LockOrder, XFS_INODE),
        order(XFS, InvalidateLock, Ilock, LockOrder, XFS_INODE),
        order(XFS, MmapLock, Ilock, LockOrder, XFS_INODE),
        order(XFS, FolioLock, Ilock, LockOrder, XFS_INODE),
        order(XFS, DaxEntry, Ilock, LockOrder, XFS_FILE),
        order(XFS, IRwsem, Transaction, TxnOrder, XFS_TRANS),
        order(XFS, InvalidateLock, Transaction, TxnOrder, XFS_TRANS),
        order(XFS, MmapLock, Transaction, TxnOrder, XFS_TRANS),
        order(XFS, DaxEntry, Transaction, TxnOrder, XFS_TRANS),
        order(XFS, Transaction, Ilock, TxnOrder, XFS_TRANS),
        order(EXT4, IRwsem, IDataSem, LockOrder, EXT4_SUPER),
        order(EXT4, InvalidateLock, IDataSem, LockOrder, EXT4_SUPER),
        order(EXT4, MmapLock, IDataSem, LockOrder, EXT4_SUPER),
        order(EXT4, FolioLock, IDataSem, LockOrder, EXT4_SUPER),
        order(EXT4, DaxEntry, IDataSem, LockOrder, EXT4_SUPER),
        order(EXT4, IRwsem, Handle, TxnOrder, EXT4_SUPER),
        order(EXT4, InvalidateLock, Handle, TxnOrder, EXT4_SUPER),
        order(EXT4, MmapLock, Handle, TxnOrder, EXT4_SUPER),
        order(EXT4, Handle, DaxEntry, TxnOrder, EXT4_SUPER),
        order(EXT4, Handle, IDataSem, TxnOrder, EXT4_SUPER),
    ]
};

/// Which of two files' locks of one class is taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// Of the file with the lower inode number.
    LowerNumber,
    /// Of the one whose `struct inode` has the lower address.
    LowerAddress,
}

impl First {
    /// By what, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::LowerNumber => "inode number",
            Self::LowerAddress => "inode address",
        }
    }
}

/// A documented order of two locks of one class.
#[derive(Clone, Copy, Debug)]
pub struct Twins {
    /// On which filesystem.
    pub filesystem: FilesystemKind,
    /// Of which class.
    pub class: LockClass,
    /// Which one.
    pub first: First,
    /// Where the kernel says so.
    pub source: &'static str,
}

/// Every documented order of two locks of one class. That another lock, held around both, keeps a deadlock away
/// makes the wrong one no better; `i_rwsem` and `invalidate_lock` have two right ones and are not here.
pub const TWINS: &[Twins] = &[
    Twins {
        filesystem: FilesystemKind::Xfs,
        class: LockClass::Ilock,
        first: First::LowerNumber,
        source: "fs/xfs/xfs_inode.c:xfs_lock_two_inodes, xfs_lock_inodes",
    },
    Twins {
        filesystem: FilesystemKind::Ext4,
        class: LockClass::IDataSem,
        first: First::LowerAddress,
        source: "fs/ext4/move_extent.c:ext4_double_down_write_data_sem",
    },
];

/// The order of two locks of a class, if it is a documented one.
pub fn twins(filesystem: FilesystemKind, class: LockClass) -> Option<&'static Twins> {
    TWINS
        .iter()
        .find(|twins| twins.filesystem == filesystem && twins.class == class)
}

impl Twins {
    /// The one taken first, in words.
    pub fn of_first(&self) -> String {
        format!("{} of the lower {}", self.class.name(), self.first.name())
    }

    /// The other one.
    pub fn of_other(&self) -> String {
        format!("{} of the higher {}", self.class.name(), self.first.name())
    }

    /// True if taking `taken`'s while `held`'s is held is the wrong way round.
    pub fn inverted(&self, held: &Inode, taken: &Inode) -> bool {
        match self.first {
            First::LowerNumber => taken.ino < held.ino,
            First::LowerAddress => taken.address < held.address,
        }
    }
}

const CLASSES: usize = LockClass::ALL.len();
const FILESYSTEMS: usize = FilesystemKind::ALL.len();

/// The class whose place in the orders another one takes: faults run under either
/// (mm/memory.c:lock_vma_under_rcu).
fn place(class: LockClass) -> LockClass {
    match class {
        LockClass::VmaLock => LockClass::MmapLock,
        other => other,
    }
}

/// The order that taking `taken` while `held` is held breaks, if it is a documented one.
pub fn broken(
    filesystem: FilesystemKind,
    held: LockClass,
    taken: LockClass,
) -> Option<&'static Order> {
    ORDERS.iter().find(|order| {
        (order.outer, order.inner) == (place(taken), place(held))
            && order.filesystem.is_none_or(|only| only == filesystem)
    })
}

/// [`ORDERS`] by what is held and what is taken.
#[derive(Debug)]
pub struct Orders {
    /// Index into [`ORDERS`] plus 1; 0 if the pair breaks none.
    broken: [[[u8; CLASSES]; CLASSES]; FILESYSTEMS],
}

impl Default for Orders {
    fn default() -> Self {
        let mut broken = [[[0; CLASSES]; CLASSES]; FILESYSTEMS];
        for kind in FilesystemKind::ALL {
            for held in LockClass::ALL {
                for taken in LockClass::ALL {
                    let order = ORDERS.iter().position(|order| {
                        (order.outer, order.inner) == (place(taken), place(held))
                            && order.filesystem.is_none_or(|only| only == kind)
                    });
                    broken[kind as usize][held as usize][taken as usize] =
                        order.map_or(0, |index| index as u8 + 1);
                }
            }
        }
        Self { broken }
    }
}

impl Orders {
    /// The order that is broken by taking `taken` while `held` is held.
    #[inline]
    pub fn broken(
        &self,
        filesystem: FilesystemKind,
        held: LockClass,
        taken: LockClass,
    ) -> Option<&'static Order> {
        let index = self.broken[filesystem as usize][held as usize][taken as usize];
        (index > 0).then(|| &ORDERS[usize::from(index) - 1])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use petgraph::{algo::is_cyclic_directed, graphmap::DiGraphMap};

    use super::*;

    #[test]
    fn the_documented_orders_contradict_neither_themselves_nor_each_other() {
        for filesystem in FilesystemKind::ALL {
            let mut graph = DiGraphMap::<usize, ()>::new();
            let mut pairs = BTreeSet::new();
            for order in ORDERS
                .iter()
                .filter(|order| order.filesystem.is_none_or(|only| only == filesystem))
            {
                graph.add_edge(order.outer as usize, order.inner as usize, ());
                assert!(pairs.insert((order.outer, order.inner)), "{order:?}");
            }
            assert!(!is_cyclic_directed(&graph), "{}", filesystem.name());
        }
    }

    #[test]
    fn the_chains_that_the_kernel_writes_down() {
        use LockClass::*;
        let orders = Orders::default();
        let xfs = [
            vec![IRwsem, MmapLock, InvalidateLock, IMmapRwsem],
            vec![IRwsem, InvalidateLock, Transaction, Ilock],
            vec![MmapLock, InvalidateLock, DaxEntry, Transaction, Ilock],
        ];
        let ext4 = [
            vec![IRwsem, MmapLock, InvalidateLock, Handle, IDataSem],
            vec![MmapLock, InvalidateLock, Handle, DaxEntry, IDataSem],
        ];
        let chains = xfs
            .iter()
            .map(|chain| (FilesystemKind::Xfs, chain))
            .chain(ext4.iter().map(|chain| (FilesystemKind::Ext4, chain)));
        for (filesystem, chain) in chains {
            for (at, &outer) in chain.iter().enumerate() {
                for &inner in &chain[at + 1..] {
                    assert!(orders.broken(filesystem, outer, inner).is_none());
                    assert!(
                        orders.broken(filesystem, inner, outer).is_some(),
                        "{} in {}",
                        outer.name(),
                        inner.name()
                    );
                }
            }
        }
    }
}
