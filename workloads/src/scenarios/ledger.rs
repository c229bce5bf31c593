//! The oracle: what a load from a page may return, whatever the schedule, if the kernel is right.
//!
//! # The rule
//!
//! Fault threads store stamps to pages and load them; one manipulator changes the extents. A page's
//! two cells are judged one by one. A load of a cell in page P is wrong in these cases only:
//!
//! - **garbage / foreign.** The word is neither zero nor a stamp that may be in P: nobody ever
//!   stored it there. Nothing can excuse it but a copy or an in-place zeroing in flight, which need
//!   not move whole words; so this is judged only when no such change touched P from before the
//!   load until after it. Such changes are made under [`Exclusive`] only, since a store amid the
//!   copy could leave a mixed word for good.
//! - **stale.** The word's generation is below P's floor as read *before* the load. The floor
//!   rises, under [`Exclusive`], after a change returned: each generation issued till then was
//!   stored, in full, before the change began, and the change discarded it. A newer generation is
//!   issued only after `Exclusive` is given up. So no order of the operations lets an older one be
//!   seen by a load that began after the floor rose.
//! - **lost.** The word is zero, though a store to that cell had completed within P's present epoch
//!   before the load began, and the epoch is the same after the load. An epoch ends when a change
//!   begins and the next starts when it has returned; a store counts for an epoch only if that was
//!   current, with no change in flight, both before and after it. So nothing but the kernel can
//!   have zeroed the cell.
//!
//! A load that overlaps a store, a punch or a truncation is never wrong for returning the old, the
//! new or zero. Pages whose content moves ([`Family`]) have no floor.
//!
//! Under [`Exclusive`] nothing stores, so the manipulator compares its pages for equality with what
//! its change must leave.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use serde::{Deserialize, Serialize};

use super::block::{Cell, Content, FileId, Generation, Key, Stamp};
use super::pages::{Page, PageRange};

/// Whose stamps a page of the file may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Those stored to this very page.
    Fixed,
    /// Those of any page of the file: its extents shift.
    Shifted,
    /// Those of the same page in this file or the other: they exchange or share extents.
    Exchanged(FileId),
}

/// What was wrong with a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    /// Data that no one in this run wrote.
    Garbage,
    /// A stamp of another file or page.
    Foreign,
    /// Data that a completed change had discarded or overwritten.
    Stale,
    /// Zero where a completed store must be seen.
    Lost,
    /// SIGBUS within the file, with space left and no truncation in flight.
    Bus,
}

const EXCLUSIVE: u32 = 1 << 31;
/// A change is in flight.
const CHANGING: u32 = 1;
/// It copies or zeroes bytes in place.
const BYTES: u32 = 2;
const EPOCH: u32 = 4;

/// A page's state, on a cache line of its own.
#[repr(align(64))]
struct Entry {
    /// Stores in flight, and [`EXCLUSIVE`].
    stores: AtomicU32,
    /// The last generation handed out.
    issued: AtomicU32,
    /// The least generation that a load may return.
    floor: AtomicU32,
    /// Advances by [`EPOCH`] with each change; the low bits tell what is in flight.
    epoch: AtomicU32,
    /// For each cell an epoch in which a store to it completed.
    stored: [AtomicU32; 2],
}

/// The states of a file's pages.
pub struct Ledger {
    file: FileId,
    family: Family,
    key: Key,
    entries: Box<[Entry]>,
}

/// What was known about a cell before it was loaded.
#[derive(Clone, Copy)]
pub struct Before {
    floor: u32,
    epoch: u32,
    stored: u32,
}

/// Leave to store to a page; holds off [`Exclusive`] until dropped.
pub struct Store<'a> {
    entry: &'a Entry,
    epoch: u32,
    /// The word to store.
    pub word: u64,
}

impl Ledger {
    /// For a file whose every cell holds [`Ledger::first`] now.
    pub fn new(file: FileId, family: Family, key: Key, pages: u32) -> Self {
        let entry = || Entry {
            stores: AtomicU32::new(0),
            issued: AtomicU32::new(1),
            floor: AtomicU32::new(0),
            epoch: AtomicU32::new(0),
            stored: [AtomicU32::new(0), AtomicU32::new(0)],
        };
        Self {
            file,
            family,
            key,
            entries: (0..pages).map(|_| entry()).collect(),
        }
    }

    /// The word that a new file is filled with.
    pub fn first(&self, page: Page) -> u64 {
        self.word(page, 1)
    }

    fn word(&self, page: Page, generation: u32) -> u64 {
        self.key.seal(Stamp {
            file: self.file,
            page,
            generation: Generation(generation),
        })
    }

    fn entry(&self, page: Page) -> &Entry {
        &self.entries[page.0 as usize]
    }

    fn range(&self, range: PageRange) -> &[Entry] {
        &self.entries[range.first().0 as usize..range.end().0 as usize]
    }

    /// What a word is.
    pub fn open(&self, word: u64) -> Content {
        self.key.open(word)
    }

    /// Leave to store to `page`, unless it is held exclusively or has run out of generations.
    pub fn store(&self, page: Page) -> Option<Store<'_>> {
        let entry = self.entry(page);
        // SeqCst, as in `exclude`: either this thread sees the bit or the manipulator sees the
        // count.
        if entry.stores.fetch_add(1, Ordering::SeqCst) & EXCLUSIVE != 0
            || entry.issued.load(Ordering::Relaxed) >= Generation::MAX.0 - 1024
        {
            entry.stores.fetch_sub(1, Ordering::Release);
            return None;
        }
        let epoch = entry.epoch.load(Ordering::SeqCst);
        let generation = entry.issued.fetch_add(1, Ordering::Relaxed) + 1;
        Some(Store {
            entry,
            epoch,
            word: self.word(page, generation),
        })
    }

    /// To be called before a load.
    pub fn before(&self, page: Page, cell: Cell) -> Before {
        let entry = self.entry(page);
        let floor = entry.floor.load(Ordering::Acquire);
        let stored = entry.stored[cell as usize].load(Ordering::Acquire);
        Before {
            floor,
            stored,
            epoch: entry.epoch.load(Ordering::Acquire),
        }
    }

    /// Whether no change began, ended or was in flight since `before`.
    pub fn undisturbed(&self, page: Page, before: Before) -> bool {
        fence(Ordering::Acquire);
        before.epoch & CHANGING == 0
            && self.entry(page).epoch.load(Ordering::Relaxed) == before.epoch
    }

    /// Judges a loaded word by the rule at the module's head.
    pub fn judge(&self, page: Page, before: Before, word: u64) -> Option<Wrong> {
        fence(Ordering::Acquire);
        let epoch = self.entry(page).epoch.load(Ordering::Relaxed);
        if epoch != before.epoch || epoch & BYTES != 0 {
            return None;
        }
        match self.key.open(word) {
            Content::Zero => {
                (before.stored == epoch && epoch & CHANGING == 0).then_some(Wrong::Lost)
            }
            Content::Garbage(_) => Some(Wrong::Garbage),
            Content::Stamp(stamp) if !self.admits(page, stamp) => Some(Wrong::Foreign),
            Content::Stamp(stamp) => (stamp.generation.0 < before.floor).then_some(Wrong::Stale),
        }
    }

    fn admits(&self, page: Page, stamp: Stamp) -> bool {
        match self.family {
            Family::Fixed => stamp.file == self.file && stamp.page == page,
            Family::Shifted => stamp.file == self.file,
            Family::Exchanged(other) => {
                (stamp.file == self.file || stamp.file == other) && stamp.page == page
            }
        }
    }

    /// Names what is wrong with `word` where `expected` must stand.
    pub fn compare(&self, page: Page, expected: u64, word: u64) -> Option<Wrong> {
        if word == expected {
            return None;
        }
        Some(match self.key.open(word) {
            Content::Zero => Wrong::Lost,
            Content::Garbage(_) => Wrong::Garbage,
            Content::Stamp(stamp) if !self.admits(page, stamp) => Wrong::Foreign,
            Content::Stamp(_) => Wrong::Stale,
        })
    }

    /// Marks a change of the range's extents as in flight until dropped. Only for what moves or
    /// discards whole blocks.
    pub fn change(&self, range: PageRange) -> Change<'_> {
        Change::begin(self.range(range), 0)
    }

    /// Keeps stores off the range until dropped; waits for those in flight. None if `stop` came
    /// first.
    pub fn exclude(&self, range: PageRange, stop: &AtomicBool) -> Option<Exclusive<'_>> {
        let held = Exclusive {
            ledger: self,
            range,
        };
        for entry in self.range(range) {
            entry.stores.fetch_or(EXCLUSIVE, Ordering::SeqCst);
        }
        for entry in self.range(range) {
            while entry.stores.load(Ordering::SeqCst) != EXCLUSIVE {
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
                std::thread::yield_now();
            }
        }
        Some(held)
    }
}

impl Store<'_> {
    /// Records that the store to `cell` has completed.
    pub fn completed(&self, cell: Cell) {
        // The store must not pass the second look at the epoch; on x86 the syscall or fault in
        // between orders it anyway.
        fence(Ordering::SeqCst);
        if self.epoch & CHANGING == 0 && self.entry.epoch.load(Ordering::SeqCst) == self.epoch {
            self.entry.stored[cell as usize].store(self.epoch, Ordering::Release);
        }
    }
}

impl Drop for Store<'_> {
    fn drop(&mut self) {
        self.entry.stores.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A change in flight; over when dropped.
pub struct Change<'a> {
    entries: &'a [Entry],
    flags: u32,
}

impl<'a> Change<'a> {
    fn begin(entries: &'a [Entry], extra: u32) -> Self {
        let flags = CHANGING | extra;
        for entry in entries {
            entry.epoch.fetch_add(flags, Ordering::SeqCst);
        }
        Self { entries, flags }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        for entry in self.entries {
            entry.epoch.fetch_add(EPOCH - self.flags, Ordering::SeqCst);
        }
    }
}

/// Pages that nothing stores to until this is dropped. Loads go on.
pub struct Exclusive<'a> {
    ledger: &'a Ledger,
    range: PageRange,
}

impl Exclusive<'_> {
    /// The pages held.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// As [`Ledger::change`], for what copies or zeroes bytes in place too.
    pub fn change_bytes(&self) -> Change<'_> {
        Change::begin(self.ledger.range(self.range), BYTES)
    }

    /// After a change that discarded `pages`: no store up to now may be seen again.
    pub fn discarded(&self, pages: PageRange) {
        for entry in self.ledger.range(pages) {
            entry
                .floor
                .store(entry.issued.load(Ordering::Relaxed) + 1, Ordering::SeqCst);
        }
    }

    /// A new word for `page`, to be written by the manipulator itself.
    pub fn fresh(&self, page: Page) -> u64 {
        let generation = self
            .ledger
            .entry(page)
            .issued
            .fetch_add(1, Ordering::Relaxed)
            + 1;
        self.ledger.word(page, generation.min(Generation::MAX.0))
    }

    /// After the words last taken from [`Exclusive::fresh`] were written to every page held.
    pub fn rewritten(&self) {
        for entry in self.ledger.range(self.range) {
            if self.ledger.family == Family::Fixed {
                entry.floor.store(
                    entry.issued.load(Ordering::Relaxed).min(Generation::MAX.0),
                    Ordering::SeqCst,
                );
            }
            let epoch = entry.epoch.load(Ordering::SeqCst);
            for stored in &entry.stored {
                stored.store(epoch, Ordering::Release);
            }
        }
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        for entry in self.ledger.range(self.range) {
            entry.stores.fetch_and(!EXCLUSIVE, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Page = Page(3);

    fn ledger(family: Family) -> (Ledger, PageRange) {
        (
            Ledger::new(FileId(1), family, Key(9), 8),
            PageRange::new(PAGE, 1),
        )
    }

    #[test]
    fn zero_is_lost_only_after_a_store_in_the_same_epoch() {
        let (ledger, range) = ledger(Family::Fixed);
        let before = ledger.before(PAGE, Cell::Head);
        assert_eq!(ledger.judge(PAGE, before, 0), Some(Wrong::Lost));
        let change = ledger.change(range);
        assert_eq!(ledger.judge(PAGE, before, 0), None, "change began");
        assert_eq!(
            ledger.judge(PAGE, ledger.before(PAGE, Cell::Head), 0),
            None,
            "change in flight"
        );
        drop(change);
        let before = ledger.before(PAGE, Cell::Head);
        assert_eq!(ledger.judge(PAGE, before, 0), None, "nothing stored since");
        let store = ledger.store(PAGE).unwrap();
        store.completed(Cell::Head);
        assert_eq!(
            ledger.judge(PAGE, before, 0),
            None,
            "store after the load began"
        );
        assert_eq!(
            ledger.judge(PAGE, ledger.before(PAGE, Cell::Head), 0),
            Some(Wrong::Lost)
        );
        assert_eq!(
            ledger.judge(PAGE, ledger.before(PAGE, Cell::Tail), 0),
            None,
            "other cell"
        );
    }

    #[test]
    fn a_store_that_met_a_change_proves_nothing() {
        let (ledger, range) = ledger(Family::Fixed);
        drop(ledger.change(range));
        let store = ledger.store(PAGE).unwrap();
        drop(ledger.change(range));
        store.completed(Cell::Head);
        assert_eq!(ledger.judge(PAGE, ledger.before(PAGE, Cell::Head), 0), None);
    }

    #[test]
    fn generations_below_the_floor_are_stale() {
        let (ledger, range) = ledger(Family::Fixed);
        let old = ledger.store(PAGE).unwrap().word;
        let early = ledger.before(PAGE, Cell::Head);
        let held = ledger.exclude(range, &AtomicBool::new(false)).unwrap();
        assert!(ledger.store(PAGE).is_none());
        held.discarded(range);
        drop(held);
        assert_eq!(
            ledger.judge(PAGE, early, old),
            None,
            "load began before the floor rose"
        );
        assert_eq!(
            ledger.judge(PAGE, ledger.before(PAGE, Cell::Head), old),
            Some(Wrong::Stale)
        );
        let new = ledger.store(PAGE).unwrap().word;
        assert_eq!(
            ledger.judge(PAGE, ledger.before(PAGE, Cell::Head), new),
            None
        );
    }

    #[test]
    fn families_admit_their_own() {
        let (fixed, _) = ledger(Family::Fixed);
        let (shifted, _) = ledger(Family::Shifted);
        let (exchanged, _) = ledger(Family::Exchanged(FileId(2)));
        let judge = |ledger: &Ledger, file, page| {
            let word = Key(9).seal(Stamp {
                file: FileId(file),
                page: Page(page),
                generation: Generation(1),
            });
            ledger.judge(PAGE, ledger.before(PAGE, Cell::Head), word)
        };
        assert_eq!(judge(&fixed, 1, 3), None);
        assert_eq!(judge(&fixed, 1, 4), Some(Wrong::Foreign));
        assert_eq!(judge(&fixed, 2, 3), Some(Wrong::Foreign));
        assert_eq!(judge(&shifted, 1, 4), None);
        assert_eq!(judge(&shifted, 2, 4), Some(Wrong::Foreign));
        assert_eq!(judge(&exchanged, 2, 3), None);
        assert_eq!(judge(&exchanged, 3, 3), Some(Wrong::Foreign));
        assert_eq!(
            fixed.judge(PAGE, fixed.before(PAGE, Cell::Head), 0x1234),
            Some(Wrong::Garbage)
        );
    }

    #[test]
    fn copies_in_flight_excuse_torn_words() {
        let (ledger, range) = ledger(Family::Fixed);
        let held = ledger.exclude(range, &AtomicBool::new(false)).unwrap();
        let change = held.change_bytes();
        assert_eq!(
            ledger.judge(PAGE, ledger.before(PAGE, Cell::Head), 0x1234),
            None
        );
        drop(change);
        assert_eq!(
            ledger.judge(PAGE, ledger.before(PAGE, Cell::Head), 0x1234),
            Some(Wrong::Garbage)
        );
    }

    #[test]
    fn exclusion_waits_for_stores_until_stopped() {
        let (ledger, range) = ledger(Family::Fixed);
        let store = ledger.store(PAGE);
        assert!(ledger.exclude(range, &AtomicBool::new(true)).is_none());
        drop(store);
        assert!(ledger.exclude(range, &AtomicBool::new(true)).is_some());
        assert!(ledger.store(PAGE).is_some(), "given up again");
    }
}
