//! The sentence that a maintainer pastes into a mail.

use crate::{
    hooks::{LockClass, Mode},
    judge::{
        finding::{Act, Key, Range},
        rules::{Kind, Observed},
        text::{bytes, span},
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
    /// The other side, if it was seen to overlap: `mmap/712, dax-write-fault`.
    pub met: Option<&'a str>,
}

impl Facts<'_> {
    /// The sentence.
    pub fn sentence(&self) -> String {
        let filesystem = self.key.filesystem.name();
        let operation = self.key.operation.name();
        let what = match self.key.kind {
            Kind::LockLeak => self.leak(),
            Kind::FaultUnprotected => self.fault(),
            _ => self.change(),
        };
        let met = match (self.met, self.key.operation.is_fault()) {
            (None, _) => String::new(),
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

    fn change(&self) -> String {
        let lock = self.lock();
        let Self { inode, .. } = self;
        let did = match self.act {
            Act::SizeLowered { from, to } => {
                format!(
                    "lowered i_size of inode {inode} from {} to {}",
                    bytes(from),
                    bytes(to)
                )
            }
            _ => format!(
                "{} {} of inode {inode}",
                self.key.operation.did(),
                self.span()
            ),
        };
        let how = match self.key.observed {
            Observed::Unheld => format!("without {lock}"),
            Observed::Shared => {
                format!("with {lock} held SHARED, as page faults hold it, not EXCL")
            }
            Observed::OtherInode => {
                format!("without {lock} of that inode, holding only the other inode's")
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
            Observed::StillHeld(_) | Observed::ReleasedAs(..) => String::new(),
        };
        format!(
            "{did} {how}; a page fault may map {}",
            self.key.operation.fate()
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
        let did = self.key.operation.did();
        format!(
            "{did} {} of inode {} {how}; {risk}",
            self.span(),
            self.inode
        )
    }

    fn leak(&self) -> String {
        let (lock, inode) = (self.lock(), self.inode);
        let blocked = match (self.key.class, self.key.observed) {
            (_, Observed::ReleasedAs(..)) => "the lock's state is corrupt from here on",
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
