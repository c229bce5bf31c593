//! What tasks hold and wait for, inode locks and all else alike.

use crate::{
    hooks::{LockClass, Mode},
    judge::{inode::InodeIndex, lockset::LockSet, operations::Operation},
    units::{HookId, Nanos, StackId},
};

/// Whose a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A file's.
    Inode(InodeIndex),
    /// A page's of a file: the DAX entry or the folio at this page offset.
    Page(InodeIndex, u64),
    /// A filesystem's: its journal, its log. The device, or the address of the mount.
    Filesystem(u64),
    /// An address space's: the process.
    Process(u32),
}

impl Owner {
    /// The file, if it is one's.
    pub fn inode(self) -> Option<InodeIndex> {
        match self {
            Self::Inode(inode) | Self::Page(inode, _) => Some(inode),
            Self::Filesystem(_) | Self::Process(_) => None,
        }
    }
}

/// One lock, or one thing that is waited for as if it were a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// Which kind.
    pub class: LockClass,
    /// Whose.
    pub owner: Owner,
}

/// Two holders, or a holder and a waiter, in these modes keep each other out.
pub fn excludes(one: Mode, other: Mode) -> bool {
    one == Mode::Excl || other == Mode::Excl
}

/// A resource as a task holds it.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// Which.
    pub resource: Resource,
    /// How.
    pub mode: Mode,
    /// Since when.
    pub since: Nanos,
    /// Where it was taken, if a stack was.
    pub stack: Option<StackId>,
}

/// A wait of a task, as long as the task shows no later event.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// For what.
    pub resource: Resource,
    /// In which mode.
    pub mode: Mode,
    /// Since when.
    pub since: Nanos,
    /// In what.
    pub operation: Operation,
    /// On which file.
    pub inode: InodeIndex,
    /// When the operation began.
    pub entered: Nanos,
    /// What saw it.
    pub hook: HookId,
    /// Where.
    pub stack: Option<StackId>,
}

/// Acquisitions that a task's [`Recent`] remembers.
const RECENT: usize = 32;

/// When a task last took each of some resources. Bounded: what was forgotten was taken no later than
/// the horizon.
#[derive(Clone, Debug)]
pub struct Recent {
    slots: Box<[(Option<Resource>, Nanos); RECENT]>,
    horizon: Nanos,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            slots: Box::new([(None, Nanos(0)); RECENT]),
            horizon: Nanos(0),
        }
    }
}

impl Recent {
    fn slot(resource: Resource) -> usize {
        let (kind, number) = match resource.owner {
            Owner::Inode(inode) => (0, u64::from(inode.0)),
            Owner::Page(inode, page) => (1, u64::from(inode.0).wrapping_mul(31).wrapping_add(page)),
            Owner::Filesystem(number) => (2, number),
            Owner::Process(number) => (3, u64::from(number)),
        };
        let mixed = (number.wrapping_mul(4).wrapping_add(kind))
            .wrapping_mul(16)
            .wrapping_add(resource.class as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 59) as usize % RECENT
    }

    /// Remembers an acquisition.
    pub fn took(&mut self, resource: Resource, time: Nanos) {
        let slot = &mut self.slots[Self::slot(resource)];
        if slot.0.is_some_and(|known| known != resource) {
            self.horizon = self.horizon.max(slot.1);
        }
        *slot = (Some(resource), time);
    }

    /// No later than this did the task take `resource`, so far.
    pub fn last(&self, resource: Resource) -> Nanos {
        match self.slots[Self::slot(resource)] {
            (Some(known), time) if known == resource => time,
            _ => self.horizon,
        }
    }
}

/// A task's part in the order of resources.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// What it holds besides locks of inodes.
    pub others: Vec<Hold>,
    /// What it waits for.
    pub waiting: Option<Wait>,
    /// When it took what.
    pub recent: Recent,
    /// Its process, once it is known.
    pub process: Option<u32>,
    /// What it is in the middle of, seen from user space while it did not go on.
    pub blocked: Option<Blocked>,
}

/// What the recorder read of a task that did not go on.
#[derive(Clone, Copy, Debug)]
pub struct Blocked {
    /// When.
    pub time: Nanos,
    /// /proc/TID/stat: `R`, `S`, `D` ...
    pub state: char,
    /// /proc/TID/stack.
    pub stack: Option<StackId>,
}

impl Account {
    /// Forgets everything but who it is.
    pub fn clear(&mut self) {
        self.others.clear();
        self.waiting = None;
        self.blocked = None;
    }

    /// Ends the youngest hold of a resource.
    pub fn release(&mut self, resource: Resource) -> Option<Hold> {
        let of = |held: &Hold| held.resource == resource;
        let at = self.others.iter().rposition(of)?;
        Some(self.others.remove(at))
    }

    /// Ends every hold of a class.
    pub fn release_class(&mut self, class: LockClass) -> Vec<Hold> {
        let of = |held: &mut Hold| held.resource.class == class;
        self.others.extract_if(.., of).collect()
    }

    /// Turns the youngest exclusive hold of a resource into a shared one.
    pub fn downgrade(&mut self, resource: Resource) {
        let exclusive = |held: &&mut Hold| held.resource == resource && held.mode == Mode::Excl;
        if let Some(held) = self.others.iter_mut().rev().find(exclusive) {
            held.mode = Mode::Shared;
        }
    }

    /// Everything that the task holds.
    pub fn held<'a>(&'a self, locks: &'a LockSet) -> impl Iterator<Item = Hold> + 'a {
        locks
            .iter()
            .map(|held| Hold {
                resource: Resource {
                    class: held.class,
                    owner: Owner::Inode(held.inode),
                },
                mode: held.hold.mode,
                since: held.hold.since,
                stack: held.stack,
            })
            .chain(self.others.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_was_taken_no_later_than_the_horizon() {
        let mut recent = Recent::default();
        let resource = |number| Resource {
            class: LockClass::IRwsem,
            owner: Owner::Inode(InodeIndex(number)),
        };
        for number in 0..1000 {
            recent.took(resource(number), Nanos(u64::from(number) + 1));
        }
        for number in 0..1000 {
            assert!(recent.last(resource(number)) >= Nanos(u64::from(number) + 1));
        }
        assert_eq!(recent.last(resource(999)), Nanos(1000));
    }
}
