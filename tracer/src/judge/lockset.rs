//! The locks that one task holds, as far as its own events show.

use crate::{
    hooks::{LockClass, Mode},
    judge::inode::InodeIndex,
    units::{Nanos, StackId},
};

/// One uninterrupted hold of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Tells this hold from every other one of the same task.
    pub number: u32,
    /// How it is held now.
    pub mode: Mode,
    /// Return of the acquisition.
    pub since: Nanos,
}

impl Hold {
    /// True if page faults (read holds) are kept out.
    pub fn excludes(self) -> bool {
        self.mode == Mode::Excl
    }
}

/// A held lock.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Whose lock.
    pub inode: InodeIndex,
    /// Which of its locks.
    pub class: LockClass,
    /// Since when and how.
    pub hold: Hold,
    /// The caller held it when the operation began: the operation released it and took it back, so
    /// it is the caller's to release (`xfs_break_leased_layouts` does this with the VFS's i_rwsem).
    pub inherited: bool,
    /// Where it was taken.
    pub stack: Option<StackId>,
}

/// What a release turned out to be.
#[derive(Clone, Copy, Debug)]
pub enum Released {
    /// The hold ended in the mode in which it was held.
    Matched(Held),
    /// It was held in another mode than the one released.
    OtherMode(Held),
    /// Taken before the operation's hook, hence never seen.
    Unseen,
}

/// The locks of one task.
#[derive(Clone, Debug, Default)]
pub struct LockSet {
    held: Vec<Held>,
    borrowed: Vec<(InodeIndex, LockClass)>,
    holds: u32,
}

impl LockSet {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.held.clear();
        self.borrowed.clear();
    }

    /// True if no lock is known to be held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Every held lock, in the order of acquisition.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.held.iter()
    }

    /// Takes a lock.
    pub fn acquire(
        &mut self,
        inode: InodeIndex,
        class: LockClass,
        mode: Mode,
        since: Nanos,
        stack: Option<StackId>,
    ) {
        let owed = self
            .borrowed
            .iter()
            .position(|&lock| lock == (inode, class));
        if let Some(position) = owed {
            self.borrowed.swap_remove(position);
        }
        self.holds = self.holds.wrapping_add(1);
        let hold = Hold {
            number: self.holds,
            mode,
            since,
        };
        self.held.push(Held {
            inode,
            class,
            hold,
            inherited: owed.is_some(),
            stack,
        });
    }

    /// Ends the youngest hold of a lock, preferably one in `mode`.
    pub fn release(&mut self, inode: InodeIndex, class: LockClass, mode: Mode) -> Released {
        let same = |held: &Held| held.inode == inode && held.class == class;
        if let Some(at) = self
            .held
            .iter()
            .rposition(|held| same(held) && held.hold.mode == mode)
        {
            return Released::Matched(self.held.remove(at));
        }
        if let Some(at) = self.held.iter().rposition(same) {
            return Released::OtherMode(self.held.remove(at));
        }
        self.borrowed.push((inode, class));
        Released::Unseen
    }

    /// Turns an exclusive hold into a shared one; it stays the same hold.
    pub fn downgrade(&mut self, inode: InodeIndex, class: LockClass, now: Nanos) {
        let exclusive = self
            .held
            .iter_mut()
            .rev()
            .find(|held| held.inode == inode && held.class == class && held.hold.excludes());
        if let Some(held) = exclusive {
            held.hold.mode = Mode::Shared;
            return;
        }
        self.holds = self.holds.wrapping_add(1);
        let hold = Hold {
            number: self.holds,
            mode: Mode::Shared,
            since: now,
        };
        self.held.push(Held {
            inode,
            class,
            hold,
            inherited: true,
            stack: None,
        });
    }

    /// The strongest hold of a lock.
    pub fn find(&self, inode: InodeIndex, class: LockClass) -> Option<Hold> {
        self.held
            .iter()
            .filter(|held| held.inode == inode && held.class == class)
            .map(|held| held.hold)
            .max_by_key(|hold| hold.mode)
    }

    /// Removes every lock that `leaves` names and hands over those that the task itself took.
    pub fn take_leaked(&mut self, mut leaves: impl FnMut(InodeIndex) -> bool) -> Vec<Held> {
        let mut leaked = Vec::new();
        self.held.retain(|held| {
            let goes = leaves(held.inode);
            if goes && !held.inherited {
                leaked.push(*held);
            }
            !goes
        });
        self.borrowed.retain(|&(inode, _)| !leaves(inode));
        leaked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INODE: InodeIndex = InodeIndex(0);
    const CLASS: LockClass = LockClass::IRwsem;

    fn taken(locks: &mut LockSet, mode: Mode) {
        locks.acquire(INODE, CLASS, mode, Nanos(1), None);
    }

    #[test]
    fn a_release_never_seen_acquired_makes_the_next_hold_the_callers() {
        let mut locks = LockSet::default();
        assert!(matches!(
            locks.release(INODE, CLASS, Mode::Excl),
            Released::Unseen
        ));
        taken(&mut locks, Mode::Excl);
        assert!(locks.take_leaked(|_| true).is_empty());
        taken(&mut locks, Mode::Excl);
        assert_eq!(locks.take_leaked(|_| true).len(), 1);
    }

    #[test]
    fn each_hold_has_its_own_number_and_a_downgrade_keeps_it() {
        let mut locks = LockSet::default();
        taken(&mut locks, Mode::Excl);
        let first = locks.find(INODE, CLASS).unwrap();
        locks.downgrade(INODE, CLASS, Nanos(2));
        let shared = locks.find(INODE, CLASS).unwrap();
        assert_eq!((shared.number, shared.mode), (first.number, Mode::Shared));
        locks.release(INODE, CLASS, Mode::Shared);
        taken(&mut locks, Mode::Excl);
        assert_ne!(locks.find(INODE, CLASS).unwrap().number, first.number);
    }

    #[test]
    fn recursive_holds_are_released_one_by_one() {
        let mut locks = LockSet::default();
        taken(&mut locks, Mode::Shared);
        taken(&mut locks, Mode::Shared);
        assert!(matches!(
            locks.release(INODE, CLASS, Mode::Shared),
            Released::Matched(_)
        ));
        assert!(locks.find(INODE, CLASS).is_some());
        assert!(matches!(
            locks.release(INODE, CLASS, Mode::Excl),
            Released::OtherMode(_)
        ));
        assert!(locks.is_empty());
    }
}
