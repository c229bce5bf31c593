//! A fault thread: drops its translations of the ranges under change and touches their pages again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::block::Cell;
use super::error::Error;
use super::ledger::{Before, Wrong};
use super::mapping::{Lost, Mapping};
use super::pages::{PAGE, Page, PageRange};
use super::rng::Rng;
use super::scene::Scene;
use super::stage::{Sight, Wronged};
use super::target::Target;

/// What fault threads do to a file.
#[derive(Clone, Copy, PartialEq)]
pub struct Habit {
    /// Passes in eight that drop the translations first. In the others the changes alone make pages
    /// fault.
    pub forget: u32,
    /// Stores in eight accesses.
    pub stores: u32,
    /// Passes in eight that begin with another system call on the mapping: mprotect, mremap,
    /// MADV_POPULATE_READ, MADV_POPULATE_WRITE.
    pub fiddle: u32,
}

impl Habit {
    /// Only loads: of blocks that a store would copy before a write(2) does, and of pages that, once
    /// dirty, would be written over what direct I/O wrote.
    pub const LOADS: Self = Self {
        forget: 4,
        stores: 0,
        fiddle: 0,
    };
}

impl Default for Habit {
    fn default() -> Self {
        Self {
            forget: 8,
            stores: 4,
            fiddle: 0,
        }
    }
}

/// How often the fault count is taken from the kernel, in passes.
const SAMPLE: u32 = 32;
/// Loads in so many are read(2).
const READ: u64 = 64;

/// One thread over its mapping of each target.
pub struct Faulter {
    scene: Arc<Scene>,
    targets: Vec<Arc<Target>>,
    /// Of all fault threads of the run.
    number: usize,
    rng: Rng,
    loads: u64,
    stores: u64,
    bus: u64,
}

impl Faulter {
    /// The `number`-th of the run. Its choices depend on seed and thread only; which range "the latest" is, on
    /// the schedule.
    pub fn new(scene: Arc<Scene>, targets: &[Arc<Target>], number: usize) -> Self {
        let rng = Rng::stream(scene.options.seed, 1 + number as u64);
        let touched = targets.iter().filter(|target| target.habit.is_some());
        Self {
            scene,
            targets: touched.cloned().collect(),
            number,
            rng,
            loads: 0,
            stores: 0,
            bus: 0,
        }
    }

    /// Until the run ends.
    pub fn work(mut self) {
        let targets = self.targets.clone();
        let scene = self.scene.clone();
        let mut pass = 0u32;
        while !scene.stage.stopped() && !targets.is_empty() {
            let target = &*targets[self.rng.below(targets.len() as u32) as usize];
            let range = match self.rng.one_in(8) {
                true => target.whole().choose(&mut self.rng, 8, 16),
                false => target.hot.pick(&mut self.rng),
            };
            let habit = target.habit.unwrap_or_default();
            if let Err(error) = self.pass(target, habit, range) {
                scene.stage.fail(error);
            }
            if pass.is_multiple_of(SAMPLE) {
                self.publish();
            }
            pass = pass.wrapping_add(1);
        }
        self.publish();
    }

    fn publish(&self) {
        let counters = &self.scene.stage.counters[self.number];
        counters.sample_faults();
        counters.loads.store(self.loads, Ordering::Relaxed);
        counters.stores.store(self.stores, Ordering::Relaxed);
        counters.bus.store(self.bus, Ordering::Relaxed);
    }

    fn pass(&mut self, target: &Target, habit: Habit, range: PageRange) -> Result<(), Error> {
        // The same address in each process, and page tables of its own.
        let mapping = &target.mappings[self.number % self.scene.options.threads];
        if self.rng.below(8) < habit.forget {
            let forgotten = mapping.forget(range);
            forgotten.map_err(|source| Error::call("madvise", source))?;
        }
        // A generator of its own, since the length of the pass depends on the schedule and later
        // choices must not.
        let mut rng = Rng::stream(self.rng.bits(), 0);
        if rng.below(8) < habit.fiddle {
            fiddle(mapping, range, &mut rng)?;
        }
        let start = rng.below(range.count());
        for n in 0..range.count() {
            let page = range.nth(start + n);
            let bits = rng.bits();
            let cell = Cell::BOTH[(bits & 1) as usize];
            // A load first makes two faults of a store: one to map, one to make writable.
            if bits & 2 != 0 {
                self.load(target, mapping, page, cell)?;
            }
            if (bits >> 2 & 7) < u64::from(habit.stores) {
                self.store(target, mapping, page, cell, bits & 32 != 0)?;
            } else if bits & 2 == 0 {
                self.load(target, mapping, page, cell)?;
            }
            if (bits >> 8).is_multiple_of(4) {
                self.load_body(target, mapping, page, bits >> 10)?;
            }
            if (bits >> 20).is_multiple_of(READ) {
                self.read(target, &target.file, page, cell)?;
            }
            if self.scene.stage.stopped() {
                break;
            }
        }
        Ok(())
    }

    fn load(
        &mut self,
        target: &Target,
        mapping: &Mapping,
        page: Page,
        cell: Cell,
    ) -> Result<(), Error> {
        let before = target.ledger.before(page, cell);
        self.loads += 1;
        match mapping.load(page, cell) {
            Ok(word) => {
                let wrong = target.ledger.judge(page, before, word);
                self.report(target, page, cell.offset(), wrong, word);
                Ok(())
            }
            Err(lost) => self.lost(target, page, cell.offset(), before, lost),
        }
    }

    /// Loads a word between the cells, which no store of a fault thread reaches.
    fn load_body(
        &mut self,
        target: &Target,
        mapping: &Mapping,
        page: Page,
        bits: u64,
    ) -> Result<(), Error> {
        let offset = 8 * (1 + bits % (PAGE / 8 - 2));
        let before = target.ledger.before(page, Cell::Head);
        self.loads += 1;
        match mapping.load_at(page, offset) {
            Ok(word) => {
                let wrong = target.ledger.judge_body(page, before, word);
                self.report(target, page, offset, wrong, word);
                Ok(())
            }
            Err(lost) => self.lost(target, page, offset, before, lost),
        }
    }

    /// Loads a cell with read(2).
    fn read(&mut self, target: &Target, file: &File, page: Page, cell: Cell) -> Result<(), Error> {
        let before = target.ledger.before(page, cell);
        // The kernel copies bytes, not words: a store at the same time may tear it.
        let Some(quiet) = target.ledger.quiet(page) else {
            return Ok(());
        };
        let mut word = [0; 8];
        // Short beyond EOF, which says nothing of the data.
        let read = file.read_at(&mut word, page.offset() + cell.offset());
        if read.map_err(|source| Error::call("read", source))? == word.len() {
            let word = u64::from_ne_bytes(word);
            self.loads += 1;
            if target.ledger.still_quiet(page, quiet) {
                let wrong = target.ledger.judge(page, before, word);
                self.tell(target, page, cell.offset(), wrong, word, Sight::Other);
            }
        }
        Ok(())
    }

    fn report(&self, target: &Target, page: Page, offset: u64, wrong: Option<Wrong>, word: u64) {
        self.tell(target, page, offset, wrong, word, Sight::Mapping);
    }

    fn tell(
        &self,
        target: &Target,
        page: Page,
        offset: u64,
        wrong: Option<Wrong>,
        word: u64,
        sight: Sight,
    ) {
        if let Some(wrong) = wrong {
            let what = Wronged {
                offset,
                wrong,
                word,
                sight,
                why: rule(wrong),
                by: None,
            };
            self.scene.stage.report(target, page, &what);
        }
    }

    /// Stores one cell or both, and looks at what it stored.
    fn store(
        &mut self,
        target: &Target,
        mapping: &Mapping,
        page: Page,
        cell: Cell,
        both: bool,
    ) -> Result<(), Error> {
        let before = target.ledger.before(page, cell);
        let Some(store) = target.ledger.store(page) else {
            return self.load(target, mapping, page, cell);
        };
        for cell in Cell::BOTH.into_iter().filter(|&this| both || this == cell) {
            self.stores += 1;
            if let Err(lost) = mapping.store(page, cell, store.word) {
                return self.lost(target, page, cell.offset(), before, lost);
            }
            store.completed(cell);
        }
        drop(store);
        self.load(target, mapping, page, cell)
    }

    fn lost(
        &mut self,
        target: &Target,
        page: Page,
        offset: u64,
        before: Before,
        lost: Lost,
    ) -> Result<(), Error> {
        self.bus += 1;
        if let Lost::Broken(source) = lost {
            return Err(Error::call("mmap", source));
        }
        // With truncation about, only a page that none touched meanwhile is sure to lie within the
        // file.
        if !target.truncates() || target.ledger.undisturbed(page, before) {
            target.blame()?;
            self.report(target, page, offset, Some(Wrong::Bus), 0);
        }
        Ok(())
    }
}

/// A call that rebuilds the range's translations without changing what they show.
fn fiddle(mapping: &Mapping, range: PageRange, rng: &mut Rng) -> Result<(), Error> {
    let (call, done) = match rng.below(4) {
        0 => ("mprotect", mapping.reprotect(range)),
        1 => ("mremap", mapping.travel(range)),
        2 => ("MADV_POPULATE_WRITE", mapping.populate_writable(range)),
        _ => ("MADV_POPULATE_READ", mapping.populate(range)),
    };
    match done {
        // Beyond EOF or without space, where an access would get SIGBUS; or an older kernel.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EFAULT | libc::EINVAL | libc::ENOMEM)
            ) =>
        {
            Ok(())
        }
        done => done.map_err(|source| Error::call(call, source)),
    }
}

/// Why wrong data that a fault thread read cannot be right.
pub fn rule(wrong: Wrong) -> &'static str {
    match wrong {
        Wrong::Garbage | Wrong::Foreign => "no store of this run can have put it",
        Wrong::Stale => "a completed store or write had replaced it",
        Wrong::Resurrected => "a completed operation had discarded it",
        Wrong::Lost => "a completed store must be seen and nothing changed the page since",
        Wrong::Torn => "the block was written as a whole",
        Wrong::Failed => "its arguments are right",
        Wrong::Bus => "the page lies within the file and space is left",
    }
}
