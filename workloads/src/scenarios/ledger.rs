//! The oracle: what a load from a page may return, whatever the schedule, if the kernel is right.
//!
//! # The rule
//!
//! Fault threads store stamps to pages and load them; actors change the extents. A page's two cells
//! (its first and last word) and its body (all words between) are judged one by one. A load in page
//! P is wrong in these cases only:
//!
//! - **garbage / foreign.** The word is neither zero nor a stamp that may be in P: nobody ever
//!   stored it there. Nothing can excuse it but a copy or an in-place zeroing in flight, which need
//!   not move whole words; so this is judged only when no such change touched P from before the
//!   load until after it. Such changes are made under [`Exclusive`] only, since a store amid the
//!   copy could leave a mixed word for good.
//! - **resurrected.** The word's generation is below P's discard floor as read *before* the load. The
//!   floor rises, under [`Exclusive`], after a change returned: each generation issued till then was
//!   stored, in full, before the change began, and the change discarded it. A newer generation is
//!   issued only after `Exclusive` is given up. So no order of the operations lets an older one be
//!   seen by a load that began after the floor rose.
//! - **stale.** The word's generation is below the cell's overwrite floor as read before the load.
//!   A store raises it to its own generation when it has completed, provided that no other store to
//!   P was in flight at some moment after its generation was issued: then every lower generation
//!   had completed before this store began, and a load that begins after this store has completed
//!   cannot be ordered before it. This is the register condition of linearisability (Gibbons and
//!   Korach 1997, unique values) as far as it can be told without a history.
//! - **lost.** The word is zero, though a store to that cell had completed within P's present epoch
//!   before the load began, and the epoch is the same after the load. An epoch ends when a change
//!   begins and the next starts when it has returned; a store counts for an epoch only if that was
//!   current, with no change in flight, both before and after it. So nothing but the kernel can
//!   have zeroed the cell.
//! - **body.** Mapped stores never touch it, so it is what the last change left: zero after a
//!   discard, one stamp throughout after a whole-block write. It is judged only where that is known
//!   and in an epoch without a change in flight.
//!
//! A load that overlaps a store, a punch or a truncation is never wrong for returning the old, the
//! new or zero. Pages whose content moves ([`Family`]) have no floor.
//!
//! Under [`Exclusive`] nothing stores and nobody else changes, so the actor compares its pages for
//! equality with what its change must leave.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use serde::{Deserialize, Serialize};

use super::block::{Cell, Content, FileId, Generation, Key, Stamp};
use super::memory::Shared;
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
    /// Those of any page of this file or the other: one is read into a mapping of the other.
    Mixed(FileId),
}

/// What was wrong with a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    /// Data that no one in this run wrote.
    Garbage,
    /// A stamp of another file or page.
    Foreign,
    /// Data that a completed store or write had replaced.
    Stale,
    /// Data that a completed change had discarded.
    Resurrected,
    /// Zero where a completed store must be seen.
    Lost,
    /// A block of which one part is right and another is not.
    Torn,
    /// SIGBUS within the file, with space left and no truncation in flight.
    Bus,
    /// An operation that cannot fail did, half done for all one knows.
    Failed,
}

impl Wrong {
    /// In words, as a maintainer would say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Foreign => "foreign data",
            Self::Stale => "stale data",
            Self::Resurrected => "resurrected data",
            Self::Lost => "lost store",
            Self::Torn => "torn block",
            Self::Bus => "SIGBUS",
            Self::Failed => "failed operation",
        }
    }
}

/// Nothing stores and nobody else changes.
const EXCLUSIVE: u32 = 1 << 31;
/// Nothing stores.
const SEALED: u32 = 1 << 30;
/// One store in flight.
const STORING: u32 = 1;
const STORES: u32 = 0x7fff;
/// One shared change in flight.
const SHARING: u32 = 0x8000;
const SHARED: u32 = 0x7fff * SHARING;
/// One change in flight; the count is the lowest byte.
const CHANGING: u64 = 1;
/// One that copies or zeroes bytes in place; the count is the second byte.
const BYTES: u64 = 1 << 8;
const EPOCH: u64 = 1 << 16;
const IN_FLIGHT: u64 = 0xff;
const BYTES_IN_FLIGHT: u64 = 0xff00;
/// No stamp: its file number would be all ones, which none has.
const UNKNOWN: u64 = u64::MAX;

/// A page's state, on a cache line of its own.
#[repr(align(64))]
struct Entry {
    /// Counts stores and shared changes in flight; [`EXCLUSIVE`] and [`SEALED`].
    holders: AtomicU32,
    /// The last generation handed out.
    issued: AtomicU32,
    /// The least generation that no change has discarded.
    discarded: AtomicU32,
    /// For each cell the least generation that no completed store has replaced.
    replaced: [AtomicU32; 2],
    /// Advances by [`EPOCH`] with each change; the low bits count those in flight.
    epoch: AtomicU64,
    /// For each cell an epoch in which a store to it completed.
    stored: [AtomicU64; 2],
    /// The word that the body is made of, or [`UNKNOWN`]. Set only while a change is in flight.
    body: AtomicU64,
    /// What it was when it was known last.
    former: AtomicU64,
}

/// The states of a file's pages, the same for all processes of a run.
pub struct Ledger {
    file: FileId,
    family: Family,
    key: Key,
    entries: Shared<Entry>,
}

/// What was known about a cell before it was loaded.
#[derive(Clone, Copy)]
pub struct Before {
    discarded: u32,
    replaced: u32,
    epoch: u64,
    stored: u64,
    body: u64,
}

/// Leave to store to a page; holds off [`Exclusive`] until dropped.
pub struct Store<'a> {
    entry: &'a Entry,
    epoch: u64,
    generation: u32,
    alone: bool,
    /// The word to store.
    pub word: u64,
}

impl Ledger {
    /// For a file whose every word is [`Ledger::first`] now.
    /// The errors of mmap(2).
    pub fn new(file: FileId, family: Family, key: Key, pages: u32) -> io::Result<Self> {
        let first = |page| {
            key.seal(Stamp {
                file,
                page,
                generation: Generation(1),
            })
        };
        let entry = |page| Entry {
            holders: AtomicU32::new(0),
            issued: AtomicU32::new(1),
            discarded: AtomicU32::new(0),
            replaced: [AtomicU32::new(0), AtomicU32::new(0)],
            epoch: AtomicU64::new(0),
            stored: [AtomicU64::new(0), AtomicU64::new(0)],
            body: AtomicU64::new(first(page)),
            former: AtomicU64::new(first(page)),
        };
        Ok(Self {
            file,
            family,
            key,
            entries: Shared::new(pages as usize, |page| entry(Page(page as u32)))?,
        })
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
        // SeqCst, as in `take`: either this thread sees the bit or the actor sees the count.
        if entry.holders.fetch_add(STORING, Ordering::SeqCst) & (EXCLUSIVE | SEALED) != 0
            || entry.issued.load(Ordering::Relaxed) >= self.key.last_generation().0 - 1024
        {
            entry.holders.fetch_sub(STORING, Ordering::SeqCst);
            return None;
        }
        let epoch = entry.epoch.load(Ordering::SeqCst);
        let generation = entry.issued.fetch_add(1, Ordering::SeqCst) + 1;
        // Whoever has a lower generation counted itself before it was issued. Where only this
        // store is counted after ours was, all those are over.
        let alone = entry.holders.load(Ordering::SeqCst) & STORES == STORING;
        Some(Store {
            entry,
            epoch,
            generation,
            alone,
            word: self.word(page, generation),
        })
    }

    /// To be called before a load.
    pub fn before(&self, page: Page, cell: Cell) -> Before {
        let entry = self.entry(page);
        Before {
            discarded: entry.discarded.load(Ordering::Acquire),
            replaced: entry.replaced[cell as usize].load(Ordering::Acquire),
            stored: entry.stored[cell as usize].load(Ordering::Acquire),
            epoch: entry.epoch.load(Ordering::Acquire),
            body: entry.body.load(Ordering::Acquire),
        }
    }

    /// A moment without a store in flight, to be shown to [`Ledger::still_quiet`]: for loads that need
    /// not be of whole words, such as read(2).
    pub fn quiet(&self, page: Page) -> Option<u32> {
        let entry = self.entry(page);
        let issued = entry.issued.load(Ordering::SeqCst);
        // A store counts itself, takes a generation, and only then stores.
        (entry.holders.load(Ordering::SeqCst) & STORES == 0).then_some(issued)
    }

    /// Whether no store has begun since.
    pub fn still_quiet(&self, page: Page, quiet: u32) -> bool {
        fence(Ordering::SeqCst);
        self.entry(page).issued.load(Ordering::SeqCst) == quiet
    }

    /// Whether no change that copies or zeroes bytes in place can have been in flight since `before`.
    pub fn still_words(&self, page: Page, before: Before) -> bool {
        fence(Ordering::SeqCst);
        let epoch = self.entry(page).epoch.load(Ordering::SeqCst);
        before.epoch / EPOCH == epoch / EPOCH && (before.epoch | epoch) & BYTES_IN_FLIGHT == 0
    }

    /// Whether no change began, ended or was in flight since `before`.
    pub fn undisturbed(&self, page: Page, before: Before) -> bool {
        fence(Ordering::Acquire);
        before.epoch & IN_FLIGHT == 0
            && self.entry(page).epoch.load(Ordering::Relaxed) == before.epoch
    }

    /// Judges a word loaded from a cell by the rule at the module's head.
    pub fn judge(&self, page: Page, before: Before, word: u64) -> Option<Wrong> {
        fence(Ordering::Acquire);
        let epoch = self.entry(page).epoch.load(Ordering::Relaxed);
        if epoch != before.epoch || epoch & BYTES_IN_FLIGHT != 0 {
            return None;
        }
        let wrong = match self.key.open(word) {
            Content::Zero => (
                before.stored == epoch && epoch & IN_FLIGHT == 0,
                Wrong::Lost,
            ),
            Content::Garbage(_) => (true, Wrong::Garbage),
            Content::Stamp(stamp) if !self.admits(page, stamp) => (true, Wrong::Foreign),
            Content::Stamp(stamp) if self.family == Family::Fixed => {
                let generation = stamp.generation.0;
                if generation < before.discarded {
                    (true, Wrong::Resurrected)
                } else {
                    (generation < before.replaced, Wrong::Stale)
                }
            }
            Content::Stamp(_) => return None,
        };
        wrong.0.then_some(wrong.1)
    }

    /// Judges a word loaded from the body.
    pub fn judge_body(&self, page: Page, before: Before, word: u64) -> Option<Wrong> {
        if before.body == UNKNOWN || !self.undisturbed(page, before) {
            return None;
        }
        self.compare(page, before.body, word)
    }

    fn admits(&self, page: Page, stamp: Stamp) -> bool {
        match self.family {
            Family::Fixed => stamp.file == self.file && stamp.page == page,
            Family::Shifted => stamp.file == self.file,
            Family::Exchanged(other) => {
                (stamp.file == self.file || stamp.file == other) && stamp.page == page
            }
            Family::Mixed(other) => stamp.file == self.file || stamp.file == other,
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
            Content::Stamp(_) if expected == 0 => Wrong::Resurrected,
            Content::Stamp(_) => Wrong::Stale,
        })
    }

    /// What the page's body is made of, if that is known.
    pub fn body(&self, page: Page) -> Option<u64> {
        let word = self.entry(page).body.load(Ordering::SeqCst);
        (word != UNKNOWN).then_some(word)
    }

    /// The same, or what it was before a change that is in flight.
    pub fn last_body(&self, page: Page) -> u64 {
        let former = || self.entry(page).former.load(Ordering::SeqCst);
        self.body(page).unwrap_or_else(former)
    }

    /// Marks a change of the range's extents as in flight until dropped; other changes and stores may
    /// go on at the same time. Only for what moves or discards whole blocks. Waits while the range
    /// is held exclusively; None if `stop` came first.
    pub fn change(&self, range: PageRange, stop: &AtomicBool) -> Option<Change<'_>> {
        let entries = self.range(range);
        for (n, entry) in entries.iter().enumerate() {
            while entry.holders.fetch_add(SHARING, Ordering::SeqCst) & EXCLUSIVE != 0 {
                entry.holders.fetch_sub(SHARING, Ordering::SeqCst);
                if stop.load(Ordering::Relaxed) {
                    for entry in &entries[..n] {
                        entry.holders.fetch_sub(SHARING, Ordering::SeqCst);
                    }
                    return None;
                }
                std::thread::yield_now();
            }
        }
        Some(Change::begin(self, range, 0, true))
    }

    /// Keeps stores and other changes off the range until dropped; waits for those in flight. None if
    /// `stop` came first. Whoever holds one range may wait for another only if that has a higher
    /// file number, or higher pages of the same file.
    pub fn exclude(&self, range: PageRange, stop: &AtomicBool) -> Option<Exclusive<'_>> {
        let taken = self.take(range, EXCLUSIVE, STORES | SHARED, stop)?;
        Some(Exclusive(taken))
    }

    /// Keeps stores off the range until dropped, but not the changes of others. Else as
    /// [`Ledger::exclude`].
    pub fn seal(&self, range: PageRange, stop: &AtomicBool) -> Option<Sealed<'_>> {
        let taken = self.take(range, SEALED, STORES, stop)?;
        Some(Sealed(taken))
    }

    /// Sets `bit` on each page, once it is neither held nor sealed, and waits until it is free of
    /// `others`.
    fn take(
        &self,
        range: PageRange,
        bit: u32,
        others: u32,
        stop: &AtomicBool,
    ) -> Option<Taken<'_>> {
        let mut taken = Taken {
            ledger: self,
            range,
            bit,
            count: 0,
        };
        for entry in self.range(range) {
            let free = |held: u32| (held & (EXCLUSIVE | SEALED) == 0).then_some(held | bit);
            while entry
                .holders
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, free)
                .is_err()
            {
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
                std::thread::yield_now();
            }
            taken.count += 1;
            while entry.holders.load(Ordering::SeqCst) & others != 0 {
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
                std::thread::yield_now();
            }
        }
        Some(taken)
    }
}

impl Store<'_> {
    /// Records that the store to `cell` has completed.
    pub fn completed(&self, cell: Cell) {
        // The store must not pass the second look at the epoch; on x86 the syscall or fault in
        // between orders it anyway.
        fence(Ordering::SeqCst);
        if self.alone {
            self.entry.replaced[cell as usize].fetch_max(self.generation, Ordering::SeqCst);
        }
        if self.epoch & IN_FLIGHT == 0 && self.entry.epoch.load(Ordering::SeqCst) == self.epoch {
            self.entry.stored[cell as usize].store(self.epoch, Ordering::Release);
        }
    }
}

impl Drop for Store<'_> {
    fn drop(&mut self) {
        self.entry.holders.fetch_sub(STORING, Ordering::SeqCst);
    }
}

/// A change in flight; over when dropped.
pub struct Change<'a> {
    ledger: &'a Ledger,
    range: PageRange,
    flags: u64,
    shared: bool,
}

impl<'a> Change<'a> {
    fn begin(ledger: &'a Ledger, range: PageRange, extra: u64, shared: bool) -> Self {
        let flags = CHANGING | extra;
        for entry in ledger.range(range) {
            entry.epoch.fetch_add(flags, Ordering::SeqCst);
            let former = entry.body.swap(UNKNOWN, Ordering::SeqCst);
            if former != UNKNOWN {
                entry.former.store(former, Ordering::SeqCst);
            }
        }
        Self {
            ledger,
            range,
            flags,
            shared,
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        for entry in self.ledger.range(self.range) {
            entry.epoch.fetch_add(EPOCH - self.flags, Ordering::SeqCst);
            if self.shared {
                entry.holders.fetch_sub(SHARING, Ordering::SeqCst);
            }
        }
    }
}

/// Pages marked by [`Ledger::take`], until dropped.
struct Taken<'a> {
    ledger: &'a Ledger,
    range: PageRange,
    bit: u32,
    count: u32,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for entry in &self.ledger.range(self.range)[..self.count as usize] {
            entry.holders.fetch_and(!self.bit, Ordering::SeqCst);
        }
    }
}

/// Pages that nothing stores to until this is dropped. Loads and changes go on.
pub struct Sealed<'a>(Taken<'a>);

impl Sealed<'_> {
    /// Marks what copies bytes from or to the pages as in flight.
    pub fn change_bytes(&self) -> Change<'_> {
        Change::begin(self.0.ledger, self.0.range, BYTES, false)
    }
}

/// Pages that nothing stores to, and nobody else changes, until this is dropped. Loads go on.
pub struct Exclusive<'a>(Taken<'a>);

/// A change under [`Exclusive`], whose result is known when it has returned.
pub struct OwnChange<'a>(Change<'a>);

impl<'a> Exclusive<'a> {
    /// The pages held.
    pub fn range(&self) -> PageRange {
        self.0.range
    }

    /// As [`Ledger::change`].
    pub fn change(&self) -> OwnChange<'a> {
        OwnChange(Change::begin(self.0.ledger, self.0.range, 0, false))
    }

    /// The same, for what copies or zeroes bytes in place too.
    pub fn change_bytes(&self) -> OwnChange<'a> {
        OwnChange(Change::begin(self.0.ledger, self.0.range, BYTES, false))
    }

    /// A new word for `page`, to be written by the actor itself.
    pub fn fresh(&self, page: Page) -> u64 {
        let entry = self.0.ledger.entry(page);
        let generation = entry.issued.fetch_add(1, Ordering::SeqCst) + 1;
        self.0
            .ledger
            .word(page, generation.min(self.0.ledger.key.last_generation().0))
    }
}

impl OwnChange<'_> {
    /// The change has returned and discarded `pages`: no store up to now may be seen again.
    pub fn discarded(&self, pages: PageRange) {
        for entry in self.0.ledger.range(pages) {
            let next = entry.issued.load(Ordering::SeqCst) + 1;
            entry.discarded.store(next, Ordering::SeqCst);
            entry.body.store(0, Ordering::SeqCst);
        }
    }

    /// The change has returned and filled `page` with `word`.
    pub fn filled(&self, page: Page, word: u64) {
        let entry = self.0.ledger.entry(page);
        entry.body.store(word, Ordering::SeqCst);
        if let Content::Stamp(stamp) = self.0.ledger.open(word)
            && stamp.file == self.0.ledger.file
            && stamp.page == page
        {
            for replaced in &entry.replaced {
                replaced.fetch_max(stamp.generation.0, Ordering::SeqCst);
            }
        }
        if word == 0 {
            return;
        }
        // The epoch that begins when this change ends; nobody else can end one meanwhile.
        let epoch = entry.epoch.load(Ordering::SeqCst) + (EPOCH - self.0.flags);
        for stored in &entry.stored {
            stored.store(epoch, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Page = Page(3);
    static GO: AtomicBool = AtomicBool::new(false);

    fn ledger(family: Family) -> (Ledger, PageRange) {
        (
            Ledger::new(FileId(1), family, Key::new(9, 8), 8).unwrap(),
            PageRange::new(PAGE, 1),
        )
    }

    #[test]
    fn zero_is_lost_only_after_a_store_in_the_same_epoch() {
        let (ledger, range) = ledger(Family::Fixed);
        let before = ledger.before(PAGE, Cell::Head);
        assert_eq!(ledger.judge(PAGE, before, 0), Some(Wrong::Lost));
        let change = ledger.change(range, &GO).unwrap();
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
    fn what_a_page_was_last_is_known_while_it_changes() {
        let (ledger, range) = ledger(Family::Fixed);
        let held = ledger.exclude(range, &GO).unwrap();
        let change = held.change_bytes();
        change.filled(PAGE, 77);
        drop(change);
        let change = held.change_bytes();
        assert_eq!((ledger.body(PAGE), ledger.last_body(PAGE)), (None, 77));
        change.discarded(range);
        assert_eq!((ledger.body(PAGE), ledger.last_body(PAGE)), (Some(0), 0));
    }

    #[test]
    fn a_store_that_met_a_change_proves_nothing() {
        let (ledger, range) = ledger(Family::Fixed);
        drop(ledger.change(range, &GO));
        let store = ledger.store(PAGE).unwrap();
        drop(ledger.change(range, &GO));
        store.completed(Cell::Head);
        assert_eq!(ledger.judge(PAGE, ledger.before(PAGE, Cell::Head), 0), None);
    }

    #[test]
    fn generations_below_the_floor_are_stale() {
        let (ledger, range) = ledger(Family::Fixed);
        let old = ledger.store(PAGE).unwrap().word;
        let early = ledger.before(PAGE, Cell::Head);
        let held = ledger.exclude(range, &GO).unwrap();
        assert!(ledger.store(PAGE).is_none());
        held.change().discarded(range);
        drop(held);
        assert_eq!(
            ledger.judge(PAGE, early, old),
            None,
            "load began before the floor rose"
        );
        assert_eq!(
            ledger.judge(PAGE, ledger.before(PAGE, Cell::Head), old),
            Some(Wrong::Resurrected)
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
            let word = Key::new(9, 8).seal(Stamp {
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
        let held = ledger.exclude(range, &GO).unwrap();
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
