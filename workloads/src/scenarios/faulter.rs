//! A fault thread: drops its translations of the ranges under change and touches their pages again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::block::Cell;
use super::error::Error;
use super::ledger::{Before, Wrong};
use super::mapping::{Lost, Mapping};
use super::pages::{Page, PageRange};
use super::rng::Rng;
use super::stage::Stage;
use super::target::Target;

/// What fault threads do in a scenario.
#[derive(Clone, Copy)]
pub struct Habit {
    /// Passes in eight that drop the translations first. In the others the changes alone make pages
    /// fault.
    pub forget: u32,
    /// Stores in eight accesses.
    pub stores: u32,
}

impl Default for Habit {
    fn default() -> Self {
        Self {
            forget: 8,
            stores: 4,
        }
    }
}

/// How often the fault count is taken from the kernel, in passes.
const SAMPLE: u32 = 32;

/// One thread over its mapping of each target.
pub struct Faulter {
    stage: Arc<Stage>,
    targets: Vec<Arc<Target>>,
    thread: usize,
    habit: Habit,
    rng: Rng,
    loads: u64,
    stores: u64,
    bus: u64,
}

impl Faulter {
    /// The `thread`-th. Its choices depend on seed and thread only; which range "the latest" is, on
    /// the schedule.
    pub fn new(stage: Arc<Stage>, targets: Vec<Arc<Target>>, thread: usize, habit: Habit) -> Self {
        let rng = Rng::stream(stage.seed, 1 + thread as u64);
        Self {
            stage,
            targets,
            thread,
            habit,
            rng,
            loads: 0,
            stores: 0,
            bus: 0,
        }
    }

    /// Until the run ends.
    pub fn work(mut self) {
        let targets = self.targets.clone();
        let mut pass = 0u32;
        while !self.stage.stopped() {
            let target = &*targets[self.rng.below(targets.len() as u32) as usize];
            let range = match self.rng.one_in(8) {
                true => target.whole().choose(&mut self.rng, 8, 16),
                false => target.hot.pick(&mut self.rng),
            };
            if let Err(error) = self.pass(target, range) {
                self.stage.fail(error);
            }
            if pass.is_multiple_of(SAMPLE) {
                self.publish();
            }
            pass = pass.wrapping_add(1);
        }
        self.publish();
    }

    fn publish(&self) {
        let counters = &self.stage.counters[self.thread];
        counters.sample_faults();
        counters.loads.store(self.loads, Ordering::Relaxed);
        counters.stores.store(self.stores, Ordering::Relaxed);
        counters.bus.store(self.bus, Ordering::Relaxed);
    }

    fn pass(&mut self, target: &Target, range: PageRange) -> Result<(), Error> {
        let mapping = &target.mappings[self.thread];
        if self.rng.below(8) < self.habit.forget {
            mapping.forget(range).map_err(|source| Error::Operation {
                operation: "madvise",
                source,
            })?;
        }
        // A generator of its own, since the length of the pass depends on the schedule and later
        // choices must not.
        let mut rng = Rng::stream(self.rng.bits(), 0);
        let start = rng.below(range.count());
        for n in 0..range.count() {
            let page = range.nth(start + n);
            let bits = rng.bits();
            let cell = Cell::BOTH[(bits & 1) as usize];
            // A load first makes two faults of a store: one to map, one to make writable.
            if bits & 2 != 0 {
                self.load(target, mapping, page, cell)?;
            }
            if (bits >> 2 & 7) < u64::from(self.habit.stores) {
                self.store(target, mapping, page, cell, bits & 32 != 0)?;
            } else if bits & 2 == 0 {
                self.load(target, mapping, page, cell)?;
            }
            if self.stage.stopped() {
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
                if let Some(wrong) = target.ledger.judge(page, before, word) {
                    self.stage
                        .report(target, page, cell, wrong, word, rule(wrong));
                }
                Ok(())
            }
            Err(lost) => self.lost(target, page, cell, before, lost),
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
                return self.lost(target, page, cell, before, lost);
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
        cell: Cell,
        before: Before,
        lost: Lost,
    ) -> Result<(), Error> {
        self.bus += 1;
        if let Lost::Broken(source) = lost {
            return Err(Error::Operation {
                operation: "mmap",
                source,
            });
        }
        if target.out_of_space() && !self.stage.truncates.load(Ordering::Relaxed) {
            return Err(Error::NoSpace {
                operation: "page fault",
            });
        }
        // With truncation about, only a page that none touched meanwhile is sure to lie within the
        // file.
        if !self.stage.truncates.load(Ordering::Relaxed) || target.ledger.undisturbed(page, before)
        {
            if target.out_of_space() {
                return Err(Error::NoSpace {
                    operation: "page fault",
                });
            }
            self.stage
                .report(target, page, cell, Wrong::Bus, 0, rule(Wrong::Bus));
        }
        Ok(())
    }
}

fn rule(wrong: Wrong) -> &'static str {
    match wrong {
        Wrong::Garbage | Wrong::Foreign => "no store of this run can have put it",
        Wrong::Stale => "a completed operation had discarded or overwritten it",
        Wrong::Lost => "a completed store must be seen and nothing changed the page since",
        Wrong::Bus => "the page lies within the file and space is left",
    }
}
