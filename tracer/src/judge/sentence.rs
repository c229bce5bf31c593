//! The sentence that a maintainer pastes into a mail.

use crate::{
    hooks::{LockClass, Mode},
    judge::{
        finding::{Act, Key, Range, Strength},
        order::{broken, twins},
        rules::{Kind, Observed},
        text::{bytes, duration, span},
    },
};

/// What a sentence is made of.
pub struct Facts<'a> {
    /// Which finding.
    pub key: Key,
    /// What was done.
    pub act: Act,
    /// To which bytes.
    pub range: Range,
    /// `i_ino`, and the path if it is known: `131 (/mnt/xfs/a)`.
    pub inode: &'a str,
    /// The inode that has the block now, as `inode`.
    pub owner: Option<&'a str>,
    /// The other side, if it was seen to overlap: `mmap/712, dax-write-fault`.
    pub met: Option<&'a str>,
    /// Who else takes part, and how: `mmap/712 (dax-write-fault, takes ...)`.
    pub others: &'a [String],
    /// How much was seen.
    pub strength: Strength,
}

impl Facts<'_> {
    /// The sentence.
    pub fn sentence(&self) -> String {
        let filesystem = self.key.filesystem.name();
        let operation = self.key.operation.name();
        let what = match self.key.kind {
            Kind::LockLeak => self.leak(),
            Kind::FaultUnprotected => self.fault(),
            Kind::LockOrder | Kind::TxnOrder | Kind::FreezeOrder => return self.order(),
            Kind::FreezeMissing => return self.unprotected(),
            Kind::WaitHoldingLock => return self.waiting(),
            Kind::WaitRemapped => self.awaiting(),
            Kind::RecursiveLock => return self.recursion(),
            Kind::Deadlock => return self.deadlock(),
            Kind::Stall => return self.stall(),
            Kind::MissingInvalidate | Kind::UnmapOrder => self.teardown(),
            Kind::LayoutUnbroken => self.layouts(),
            Kind::DioUndrained => self.direct(),
            Kind::StaleData => self.stale(),
            Kind::SizeOrder => self.published(),
            Kind::StaleTranslation => self.outlived(),
            Kind::StaleAfterRelock if self.key.observed == Observed::Outdated => self.outdated(),
            Kind::StaleAfterRelock if self.act == Act::Reuse => self.reused(),
            Kind::StaleAfterRelock if self.act == Act::Reserve => self.reserved(),
            _ => self.change(),
        };
        let met = match (self.met, self.key.operation.is_fault()) {
            (None, _) => String::new(),
            (Some(who), _) if self.key.observed == Observed::HoleShown => {
                format!(" The page was mapped by {who}.")
            }
            (Some(who), _) if self.key.kind == Kind::WaitRemapped => {
                format!(" It was mapped again by {who}.")
            }
            (Some(who), _) if self.key.kind == Kind::StaleTranslation => format!(" By {who}."),
            (Some(who), _) if self.act == Act::Reuse => format!(" It was changed by {who}."),
            (Some(who), _)
                if matches!(
                    self.key.observed,
                    Observed::SharedWithWriter | Observed::SharedWithSharer
                ) =>
            {
                format!(" The other was {who}.")
            }
            (Some(who), false) => format!(" One did map such a page meanwhile: {who}."),
            (Some(who), true) => format!(" Such a change was under way: {who}."),
        };
        format!("{filesystem}: {operation} {what}.{met}")
    }

    fn span(&self) -> String {
        span(self.range.offset, self.range.length)
    }

    fn lock(&self) -> &'static str {
        self.key.class.name()
    }

    fn awaiting(&self) -> String {
        format!(
            "sleeps until the page at {} of inode {} is idle, which it is not while it is mapped, and nobody \
             will unmap it for this",
            self.span(),
            self.inode
        )
    }

    fn change(&self) -> String {
        let lock = self.lock();
        let Self { inode, .. } = self;
        if self.key.observed == Observed::SharedWithWriter {
            return format!(
                "shared blocks of inode {inode} with its {lock} held SHARED, while {} of it was {} under the same; \
                 data may reach a block that both files own by then",
                self.span(),
                match self.key.class {
                    LockClass::IRwsem => "written",
                    _ => "made writable",
                }
            );
        }
        if self.key.observed == Observed::SharedUnannounced {
            return format!(
                "shared blocks of inode {inode} with its locks held SHARED, and no mark on it (XFS_IREMAPPING) that \
                 has write faults and direct writes take them EXCL; what they write may reach a block that both \
                 files own by then"
            );
        }
        if self.key.observed == Observed::SharedWithSharer {
            let span = self.span();
            let did = match self.key.class {
                LockClass::IRwsem => format!("wrote {span} of inode {inode}"),
                _ => format!("made {span} of inode {inode} writable"),
            };
            return format!(
                "{did} with its {lock} held SHARED, while the file's blocks were being shared under the same and it \
                 was marked so (XFS_IREMAPPING); data may reach a block that both files own by then"
            );
        }
        if self.key.observed == Observed::SourceUnheld {
            return format!(
                "shared blocks of inode {inode} without its {lock}, holding only the destination's; a write \
                 fault may make {} of it writable in place, and a store reach a block that both files own \
                 by then",
                self.span()
            );
        }
        let did = match self.act {
            Act::SizeChanged { from, to } => {
                let moved = if to > from { "raised" } else { "lowered" };
                format!(
                    "{moved} i_size of inode {inode} from {} to {}",
                    bytes(from),
                    bytes(to)
                )
            }
            Act::Data => format!("wrote {} of inode {inode}", self.span()),
            Act::TakeBack => format!(
                "gave back blocks that it had reserved for {} of inode {inode}",
                self.span()
            ),
            Act::Drop => format!("dropped DAX entries of {} of inode {inode}", self.span()),
            Act::Map => format!("changed the extent map of inode {inode}"),
            Act::Transfer => format!(
                "transferred {} of inode {inode} beside the page cache",
                self.span()
            ),
            Act::Reserve => format!("reserved blocks for {} of inode {inode}", self.span()),
            Act::Convert if self.key.class == LockClass::IRwsem => {
                format!(
                    "made unwritten blocks of {} of inode {inode} written",
                    self.span()
                )
            }
            _ => self.did(),
        };
        let how = match self.key.observed {
            Observed::Unheld => format!("without {lock}"),
            Observed::Shared if self.key.class == LockClass::InvalidateLock => {
                format!("with {lock} held SHARED, as page faults hold it, not EXCL")
            }
            Observed::Shared => format!("with {lock} held SHARED, not EXCL"),
            Observed::OtherInode => {
                format!("without {lock} of that inode, holding only the other inode's")
            }
            Observed::TakenAfterInvalidation if matches!(self.act, Act::SizeChanged { .. }) => {
                format!("with {lock} taken only afterwards")
            }
            Observed::TakenAfterInvalidation => {
                format!("with {lock} taken only after the range was invalidated")
            }
            Observed::DroppedBefore => {
                format!("after {lock}, held earlier in the operation, had been released")
            }
            Observed::Retaken => format!(
                "with {lock} released and retaken since the range was invalidated, without \
                 invalidating it again"
            ),
            Observed::Interrupted => {
                format!("with {lock} released and retaken since an earlier change of the same step")
            }
            _ => String::new(),
        };
        let risk = match self.key.class {
            LockClass::IRwsem => {
                "another operation or direct I/O may run on the file meanwhile".to_owned()
            }
            LockClass::Ilock | LockClass::IDataSem => {
                "a look-up may see the extent map half changed".to_owned()
            }
            LockClass::Writepages => {
                "writeback, which asks twice how to write it back, may be told both".to_owned()
            }
            _ if matches!(self.act, Act::SizeChanged { from, to } if to > from) => {
                "a page fault may store behind the old EOF, where all was zeroed, and have it shown"
                    .to_owned()
            }
            _ if self.act == Act::TakeBack => {
                "a page fault may dirty pages that lose their blocks".to_owned()
            }
            _ if self.act == Act::Drop => {
                "whoever takes the memory back does not see that one of these pages is pinned, and lends it to \
                 another file while DMA goes on"
                    .to_owned()
            }
            _ => format!("a page fault may map {}", self.key.operation.fate()),
        };
        format!("{did} {how}; {risk}")
    }

    fn did(&self) -> String {
        format!(
            "{} {} of inode {}",
            self.key.operation.did(),
            self.span(),
            self.inode
        )
    }

    fn teardown(&self) -> String {
        if self.key.observed == Observed::HoleKept {
            return format!(
                "was given blocks for {} of inode {} and did not tear down what showed the hole there; \
                 a page that was mapped before goes on reading as zeroes",
                self.span(),
                self.inode
            );
        }
        if self.key.observed == Observed::CopiesDropped {
            return format!(
                "gave up the copies that were to replace shared blocks of inode {}, while pages that may need them \
                 were dirty or being written back; such a page goes into a block that another file owns",
                self.inode
            );
        }
        if self.key.observed == Observed::CopiesKept {
            return format!(
                "{} and kept the copies that were to replace blocks there; they replace what has moved \
                 there since",
                self.did()
            );
        }
        let how = match self.key.observed {
            Observed::EdgeKept => {
                return format!(
                    "{} with translations, pages and DAX entries torn down from there on, but not of the \
                     block before; what writeback completes there is merged with what moves",
                    self.did()
                );
            }
            Observed::WritableKept => {
                return format!(
                    "{} and kept a page at the edge writable, of which only some blocks went; a store to the others \
                     asks nobody for the blocks that are gone",
                    self.did()
                );
            }
            Observed::TornDownLater => {
                "before it tore down their translations, pages and DAX entries"
            }
            Observed::NotDropped => "with translations unmapped, but pages or DAX entries kept",
            Observed::NotUnmapped => "with pages or DAX entries dropped, but translations kept",
            _ => "without tearing down their translations, pages and DAX entries",
        };
        format!(
            "{} {how}; what is mapped or cached names {}",
            self.did(),
            self.key.operation.fate()
        )
    }

    fn layouts(&self) -> String {
        let how = match self.key.observed {
            Observed::Pinned => "though the last look found a pinned page",
            _ => "without a look for pinned pages under its hold of invalidate_lock",
        };
        format!(
            "{} {how}; DMA may still reach {}",
            self.did(),
            self.key.operation.fate()
        )
    }

    fn direct(&self) -> String {
        let zeroed = match self.act {
            Act::ZeroTail => Some((
                "wrote beyond EOF, and zeroed what lies between,",
                "I/O in flight may move EOF meanwhile, and zeroes overwrite its data",
            )),
            Act::Convert => Some((
                "made unwritten blocks written, and zeroed around its part of them,",
                "zeroes may overwrite what I/O in flight has written there",
            )),
            _ => None,
        };
        if let Some((did, risk)) = zeroed {
            return format!(
                "{did} at {} of inode {} without waiting for direct I/O (inode_dio_wait) under its hold \
                 of i_rwsem; {risk}",
                self.span(),
                self.inode
            );
        }
        format!(
            "{} without waiting for direct I/O (inode_dio_wait) under its hold of i_rwsem; I/O in \
             flight may reach {}",
            self.did(),
            self.key.operation.fate()
        )
    }

    fn stale(&self) -> String {
        format!(
            "allocated {} of inode {} as written blocks that nobody had zeroed; a reader sees what \
             they held before",
            self.span(),
            self.inode
        )
    }

    fn published(&self) -> String {
        let Self { inode, .. } = self;
        let span = self.span();
        match self.key.observed {
            Observed::DiskSizeBehind => {
                return format!(
                    "dropped pages of inode {inode} over EOF, {span}, without bringing the on-disk size up to it \
                     (ext4_update_disksize_before_punch); nothing else will, and blocks that are allocated \
                     there later lie beyond it"
                );
            }
            Observed::DiskSizeLeft => {
                return format!(
                    "raised i_size of inode {inode} over {span}, which it had written, and returned without raising the \
                     on-disk size (xfs_setfilesize); nothing else will, and what was written is gone once the inode is \
                     read anew"
                );
            }
            Observed::DiskSizeFirst => {
                return format!(
                    "raised the on-disk size of inode {inode} over {span} before the blocks there were \
                     made written ones; after a crash meanwhile the file has zeroes where it had data"
                );
            }
            Observed::SyncedFirst => {
                return format!(
                    "synced inode {inode} before its size covered {span}, which it had written; a crash loses what \
                     write(2) with O_SYNC said had reached the medium"
                );
            }
            Observed::NotOrphaned => {
                return format!(
                    "writes {span} of inode {inode}, beyond EOF, without having put it on the list of \
                     orphans (ext4_orphan_add); after a crash meanwhile the blocks there stay allocated \
                     beyond EOF"
                );
            }
            _ => {}
        }
        format!(
            "raised i_size of inode {} over {} before what it wrote there was in place; a reader or \
             a crash meanwhile finds other data inside the file",
            self.inode,
            self.span()
        )
    }

    fn reused(&self) -> String {
        let lock = self.lock();
        format!(
            "used a mapping of {} of inode {} that it had taken before it released and retook {lock}, \
             though another task had changed it meanwhile, and did not take it again; it may write \
             to blocks that are no longer the file's",
            self.span(),
            self.inode
        )
    }

    fn outdated(&self) -> String {
        format!(
            "went on with a mapping of inode {} though the extent map has changed since it was taken under \
             {}; it may write to blocks that are no longer the file's, or as if they were not written",
            self.inode,
            self.lock()
        )
    }

    fn reserved(&self) -> String {
        let lock = self.lock();
        format!(
            "reserved blocks for {} of inode {} where it had found none before it took {lock} EXCL, and did \
             not look again under it; another task may have allocated them meanwhile",
            self.span(),
            self.inode
        )
    }

    fn outlived(&self) -> String {
        let Act::Outlived { frame, .. } = self.act else {
            return String::new();
        };
        if self.key.observed == Observed::HoleShown {
            return format!(
                "wrote {} of inode {} and left a translation to the hole's zero page (frame {:#x}) in \
                 place; the mapping goes on reading as zeroes",
                self.span(),
                self.inode,
                frame.number()
            );
        }
        let whose = match self.owner {
            Some(owner) => format!("inode {owner} maps the same frame now"),
            None => "the block is no longer the file's".to_owned(),
        };
        format!(
            "left a translation of {} of inode {} to page frame {:#x} in place; {whose}",
            self.span(),
            self.inode,
            frame.number()
        )
    }

    fn fault(&self) -> String {
        let lock = self.lock();
        let how = match self.key.observed {
            Observed::DroppedBefore => format!("after it had dropped {lock}"),
            _ => format!("without {lock}"),
        };
        let risk = match self.act == Act::Mkwrite {
            true => "an operation may free or move the blocks behind the page",
            false => {
                "an operation may free or move the blocks between their look-up and the mapping"
            }
        };
        let did = match self.act {
            Act::LookUp => "looked up blocks for",
            _ => self.key.operation.did(),
        };
        format!(
            "{did} {} of inode {} {how}; {risk}",
            self.span(),
            self.inode
        )
    }

    fn who(&self) -> String {
        format!(
            "{}: {} of inode {}",
            self.key.filesystem.name(),
            self.key.operation.name(),
            self.inode
        )
    }

    /// `EXCL`, or nothing for what has no modes.
    fn mode(class: LockClass, mode: Mode) -> String {
        match class {
            LockClass::FreezePagefault
            | LockClass::Handle
            | LockClass::Transaction
            | LockClass::DaxEntry
            | LockClass::FolioLock
            | LockClass::PagePin
            | LockClass::VmaLock => class.name().to_owned(),
            _ => format!("{} {}", class.name(), mode.name()),
        }
    }

    fn order(&self) -> String {
        let (Observed::Holding(held, held_mode), Act::Take { mode, .. }) =
            (self.key.observed, self.act)
        else {
            return self.who();
        };
        let (taken, held_name) = (self.key.class, held.name());
        let documented = match broken(self.key.filesystem, held, taken) {
            Some(order) => format!(
                "; the documented order is {} before {held_name} ({})",
                taken.name(),
                order.source
            ),
            None => match twins(self.key.filesystem, taken) {
                Some(twins) if taken == held => {
                    format!(
                        "; of two, the {} is taken first ({})",
                        twins.of_first(),
                        twins.source
                    )
                }
                _ => String::new(),
            },
        };
        let inverse = match (self.strength, self.others) {
            (_, []) => ".".to_owned(),
            (Strength::Predicted, others) => format!(
                ". The other way round: {}; no schedule of this run closes the cycle, another may.",
                others.join("; ")
            ),
            (_, others) => format!(
                ". The other way round: {}; some schedule of this very run deadlocks.",
                others.join("; ")
            ),
        };
        format!(
            "{} takes {} while holding {}{documented}{inverse}",
            self.who(),
            Self::mode(taken, mode),
            Self::mode(held, held_mode)
        )
    }

    fn unprotected(&self) -> String {
        format!(
            "{} goes on without freeze protection (sb_start_pagefault); a frozen filesystem changes \
             under its snapshot.",
            self.who()
        )
    }

    fn waiting(&self) -> String {
        let mode = match self.key.observed {
            Observed::Waiting(_, mode) => mode.name(),
            _ => "",
        };
        format!(
            "{} sleeps until pages of the file are no longer pinned and holds {} {mode} meanwhile; if \
             whoever has them pinned faults on the file, neither goes on.",
            self.who(),
            self.lock()
        )
    }

    fn recursion(&self) -> String {
        let (Observed::Holding(class, held), Act::Take { mode, .. }) =
            (self.key.observed, self.act)
        else {
            return self.who();
        };
        let fate = match (held, mode) {
            (Mode::Shared, Mode::Shared) => {
                "a writer that queues in between blocks the second acquisition, and the first blocks \
                 the writer"
            }
            _ => "it waits for itself",
        };
        format!(
            "{} takes {} though it holds {} already; {fate}.",
            self.who(),
            Self::mode(class, mode),
            Self::mode(class, held)
        )
    }

    fn blocked(&self) -> String {
        match self.act {
            Act::Blocked { mode, for_ns } => format!(
                "{} has waited for {} for {}",
                self.who(),
                Self::mode(self.key.class, mode),
                duration(for_ns)
            ),
            _ => self.who(),
        }
    }

    fn deadlock(&self) -> String {
        match self.others {
            [] => format!("{}, which it holds itself.", self.blocked()),
            others => format!(
                "{}, in a cycle of tasks that wait for each other: {}.",
                self.blocked(),
                others.join("; ")
            ),
        }
    }

    fn stall(&self) -> String {
        let blocked = self.blocked();
        let others = self.others.join("; ");
        match (self.key.observed, self.key.class) {
            (Observed::NoProgress, LockClass::PagePin) if others.is_empty() => {
                format!("{blocked}; who has pinned its pages was not seen, and has not let go.")
            }
            (Observed::NoProgress, LockClass::PagePin) => format!(
                "{blocked}; who has pinned its pages was not seen: if it is one of those that wait \
                 for this task, none will ever go on: {others}."
            ),
            (Observed::NoProgress, _) if others.is_empty() => {
                format!("{blocked}; no task that was seen holds it.")
            }
            (Observed::NoProgress, _) => format!("{blocked}; {others}."),
            _ => format!("{blocked}; nobody will release it: {others}."),
        }
    }

    fn leak(&self) -> String {
        let (lock, inode) = (self.lock(), self.inode);
        if self.key.class == LockClass::FreezePagefault {
            let who = match self.key.observed {
                Observed::LeftByOne => ", or one of those before it,",
                _ => "",
            };
            return format!(
                "of {} of inode {inode}{who} did not end its freeze protection ({lock}): from then on the \
                 filesystem's count of protected faults was not zero though none was under way; a \
                 freeze waits for ever",
                self.span()
            );
        }
        let blocked = match (self.key.class, self.key.observed) {
            (_, Observed::ReleasedAs(..) | Observed::ReleasedUnheld(_)) => {
                "the lock's state is corrupt from here on"
            }
            (LockClass::InvalidateLock, Observed::StillHeld(Mode::Excl)) => {
                "every later page fault or truncate of that file blocks"
            }
            (_, Observed::StillHeld(Mode::Excl)) => "every later user of that lock blocks",
            _ => "every later writer of that lock blocks",
        };
        let what = match self.key.observed {
            Observed::ReleasedAs(held, released) => format!(
                "released {lock} of inode {inode} as {} though it was held {}",
                released.name(),
                held.name()
            ),
            Observed::ReleasedUnheld(mode) => format!(
                "released {lock} of inode {inode} as {} though it did not hold it",
                mode.name()
            ),
            Observed::StillHeld(mode) => {
                format!(
                    "returned with {lock} of inode {inode} still held {}",
                    mode.name()
                )
            }
            _ => format!("left {lock} of inode {inode} in a wrong state"),
        };
        format!("{what}; {blocked}")
    }
}
