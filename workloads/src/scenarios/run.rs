//! The manipulator's side of a run: what a scenario is written in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::block::{Cell, FileId, Key};
use super::error::Error;
use super::extents::Operation;
use super::faulter::{Faulter, Habit};
use super::kernel;
use super::ledger::{Exclusive, Family};
use super::mapping::Lost;
use super::pages::{PAGE, Page, PageRange};
use super::rng::Rng;
use super::sandbox::Sandbox;
use super::stage::Stage;
use super::target::{Shape, Target, stamp};
use super::{Limit, Options};

/// The most pages that [`Run::rewrite`] writes in one call.
const BUFFER: u32 = 64;
/// Pages looked at after most checked rounds; all of them after the others.
const SAMPLE: u32 = 6;

/// What a checked round must leave in the pages it held.
#[derive(Clone, Copy)]
pub enum Expect<'a> {
    /// Zero in each.
    Zero,
    /// Word `n` in page `n` of the range, in both cells.
    Words(&'a [u64]),
}

/// A run in progress, in the manipulator's hands.
pub struct Run {
    options: Options,
    stage: Arc<Stage>,
    sandbox: Arc<Sandbox>,
    filesystem: String,
    key: Key,
    rng: Rng,
    /// For what is looked at; apart, so that an operation's outcome does not shift later choices.
    checks: Rng,
    targets: Vec<Arc<Target>>,
    threads: Vec<JoinHandle<()>>,
    buffer: Vec<u8>,
    words: Vec<u64>,
    rounds: u32,
}

impl Run {
    pub(super) fn new(
        options: Options,
        stage: Arc<Stage>,
        sandbox: Arc<Sandbox>,
        filesystem: String,
        key: Key,
    ) -> Self {
        let (rng, checks) = (
            Rng::stream(options.seed, 0),
            Rng::stream(options.seed, u64::MAX),
        );
        Self {
            options,
            stage,
            sandbox,
            filesystem,
            key,
            rng,
            checks,
            targets: Vec::new(),
            threads: Vec::new(),
            buffer: vec![0; BUFFER as usize * PAGE as usize],
            words: Vec::with_capacity(BUFFER as usize),
            rounds: 0,
        }
    }

    /// The manipulator's random numbers.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// A new file of the size asked for, filled, mapped by each fault thread; `slack` pages more
    /// lie behind.
    pub fn file(&mut self, family: Family, slack: u32) -> Result<Arc<Target>, Error> {
        let id = FileId(self.targets.len() as u8 + 1);
        let shape = Shape {
            pages: self.options.pages(),
            slack,
            family,
        };
        let made = self.sandbox.file(id.0)?;
        let target = Arc::new(Target::new(
            made,
            id,
            shape,
            self.key,
            self.options.threads,
            &mut self.rng,
        )?);
        if kernel::is_dax(&target.file).unwrap_or(false) {
            self.stage.dax.store(true, Ordering::Relaxed);
        }
        self.targets.push(target.clone());
        Ok(target)
    }

    /// Says that mapped pages will lie beyond EOF at times.
    pub fn truncates(&self) {
        self.stage.truncates.store(true, Ordering::Relaxed);
    }

    /// Starts the fault threads on all files made so far.
    pub fn start(&mut self, habit: Habit) -> Result<(), Error> {
        for thread in 0..self.options.threads {
            let faulter = Faulter::new(self.stage.clone(), self.targets.clone(), thread, habit);
            let (stage, pin) = (self.stage.clone(), self.options.pin_cpus);
            stage.running.fetch_add(1, Ordering::SeqCst);
            let started = std::thread::Builder::new()
                .name(format!("fault-{thread}"))
                .spawn(move || {
                    if pin {
                        pin_to_cpu(thread);
                    }
                    faulter.work();
                    stage.running.fetch_sub(1, Ordering::SeqCst);
                });
            match started {
                Ok(handle) => self.threads.push(handle),
                Err(source) => {
                    self.stage.running.fetch_sub(1, Ordering::SeqCst);
                    return Err(Error::Operation {
                        operation: "thread start",
                        source,
                    });
                }
            }
        }
        if self.options.pin_cpus {
            pin_to_cpu(self.options.threads);
        }
        Ok(())
    }

    /// Whether there is time for another round.
    pub fn again(&mut self) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(64)
            && let Some(counters) = self.stage.counters.last()
        {
            counters.sample_faults();
        }
        match self.options.limit {
            Limit::Operations(most) if self.stage.operations() >= most => false,
            _ => !self.stage.stopped(),
        }
    }

    /// The next range to change, known to the fault threads from now on.
    pub fn aim(&mut self, target: &Target) -> PageRange {
        self.aim_within(target, target.whole())
    }

    /// The same, inside `within`.
    pub fn aim_within(&mut self, target: &Target, within: PageRange) -> PageRange {
        target.hot.aim(within, &mut self.rng)
    }

    /// Does `call`, counts it and sorts its errors: false if the kernel was busy, `Err` if the run
    /// cannot go on.
    pub fn apply(
        &self,
        operation: Operation,
        bytes: u64,
        mut call: impl FnMut() -> io::Result<()>,
    ) -> Result<bool, Error> {
        self.stage.doing(operation);
        let Err(source) = call() else {
            self.stage.done[operation as usize].fetch_add(1, Ordering::Relaxed);
            self.stage.bytes.fetch_add(bytes, Ordering::Relaxed);
            return Ok(true);
        };
        match source.raw_os_error().unwrap_or(0) {
            libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETXTBSY => {
                self.stage.refused[operation as usize].fetch_add(1, Ordering::Relaxed);
                Ok(false)
            }
            libc::ENOSPC | libc::EDQUOT => Err(Error::NoSpace {
                operation: operation.name(),
            }),
            libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS => {
                Err(self.unsupported(operation, None))
            }
            libc::EROFS => Err(Error::ReadOnly(self.sandbox.path().into())),
            _ => Err(Error::Operation {
                operation: operation.name(),
                source,
            }),
        }
    }

    /// The error for what this filesystem cannot do.
    pub fn unsupported(&self, operation: Operation, hint: Option<&'static str>) -> Error {
        Error::Unsupported {
            filesystem: self.filesystem.clone(),
            operation: operation.name(),
            hint,
        }
    }

    /// A round that discards the range's data. Half of the rounds hold off stores and then look
    /// whether all is zero.
    pub fn discard(
        &mut self,
        target: &Target,
        range: PageRange,
        operation: Operation,
        call: impl FnMut() -> io::Result<()>,
    ) -> Result<(), Error> {
        if self.rng.one_in(2) {
            let _change = target.ledger.change(range);
            return self.apply(operation, range.bytes(), call).map(drop);
        }
        let Some(held) = target.ledger.exclude(range, &self.stage.stop) else {
            return Ok(());
        };
        let change = target.ledger.change(range);
        let done = self.apply(operation, range.bytes(), call)?;
        drop(change);
        if done {
            held.discarded(range);
            self.expect(target, range, Expect::Zero)?;
        }
        Ok(())
    }

    /// Holds off stores to the range. None when the run ends meanwhile.
    pub fn exclude<'a>(&self, target: &'a Target, range: PageRange) -> Option<Exclusive<'a>> {
        target.ledger.exclude(range, &self.stage.stop)
    }

    /// Writes new stamps over the pages held with write(2), and looks whether all mappings show
    /// them.
    pub fn rewrite(&mut self, target: &Target, held: &Exclusive<'_>) -> Result<(), Error> {
        let range = PageRange::new(held.range().first(), held.range().count().min(BUFFER));
        let mut words = std::mem::take(&mut self.words);
        words.clear();
        words.extend(range.pages().map(|page| held.fresh(page)));
        for (block, &word) in self.buffer.chunks_mut(PAGE as usize).zip(&words) {
            stamp(block, word);
        }
        let data = &self.buffer[..range.bytes() as usize];
        let change = held.change_bytes();
        let done = self.apply(Operation::Write, range.bytes(), || {
            target.file.write_all_at(data, range.offset())
        });
        drop(change);
        let outcome = match done {
            Ok(true) if range == held.range() => {
                held.rewritten();
                self.expect(target, range, Expect::Words(&words))
            }
            Ok(true) => self.expect(target, range, Expect::Words(&words)),
            other => other.map(drop),
        };
        self.words = words;
        outcome
    }

    /// Compares pages that nothing stores to with what they must hold: through each mapping, and
    /// one of them through read(2).
    pub fn expect(
        &mut self,
        target: &Target,
        range: PageRange,
        expect: Expect<'_>,
    ) -> Result<(), Error> {
        let count = if self.checks.one_in(8) {
            range.count()
        } else {
            SAMPLE.min(range.count())
        };
        let start = self.checks.below(range.count());
        for n in 0..count {
            let page = range.nth(start + n);
            let word = match expect {
                Expect::Zero => 0,
                Expect::Words(words) => words[(page.0 - range.first().0) as usize],
            };
            let cell = Cell::BOTH[self.checks.below(2) as usize];
            self.look(target, page, cell, word)?;
        }
        Ok(())
    }

    /// Compares one cell that nothing stores to with what it must hold.
    pub fn look(
        &mut self,
        target: &Target,
        page: Page,
        cell: Cell,
        expected: u64,
    ) -> Result<(), Error> {
        for mapping in &target.mappings {
            match mapping.load(page, cell) {
                Ok(word) => self.compare(
                    target,
                    page,
                    cell,
                    expected,
                    word,
                    "a mapping must show what the operation left",
                ),
                Err(Lost::Broken(source)) => {
                    return Err(Error::Operation {
                        operation: "mmap",
                        source,
                    });
                }
                Err(Lost::Bus) if target.out_of_space() => {
                    return Err(Error::NoSpace {
                        operation: "page fault",
                    });
                }
                Err(Lost::Bus) => {
                    self.stage.report(
                        target,
                        page,
                        cell,
                        super::ledger::Wrong::Bus,
                        0,
                        "the page lies within the file",
                    );
                }
            }
        }
        if self.checks.one_in(4) {
            let word = read_word(&target.file, page, cell).map_err(|source| Error::Operation {
                operation: "read",
                source,
            })?;
            self.compare(
                target,
                page,
                cell,
                expected,
                word,
                "read(2) must show what the operation left",
            );
        }
        Ok(())
    }

    fn compare(
        &self,
        target: &Target,
        page: Page,
        cell: Cell,
        expected: u64,
        word: u64,
        why: &str,
    ) {
        if let Some(wrong) = target.ledger.compare(page, expected, word) {
            self.stage.report(target, page, cell, wrong, word, why);
        }
    }

    /// What a cell that nothing stores to holds now, as the first mapping shows it; None on SIGBUS.
    pub fn peek(&self, target: &Target, page: Page, cell: Cell) -> Option<u64> {
        target.mappings.first()?.load(page, cell).ok()
    }

    /// Waits for the fault threads.
    pub(super) fn finish(mut self) {
        self.stage.end();
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                self.stage.running.fetch_sub(1, Ordering::SeqCst);
                self.stage.fail(Error::Panicked(super::panic_text(&*panic)));
            }
        }
        if let Some(counters) = self.stage.counters.last() {
            counters.sample_faults();
        }
    }
}

fn read_word(file: &File, page: Page, cell: Cell) -> io::Result<u64> {
    let mut word = [0; 8];
    file.read_exact_at(&mut word, page.offset() + cell.offset())?;
    Ok(u64::from_ne_bytes(word))
}

/// The `n`-th of the CPUs, counted round. A failure only loses the pinning.
fn pin_to_cpu(n: usize) {
    let Ok(cpus) = std::thread::available_parallelism() else {
        return;
    };
    let mut set = CpuSet::new();
    if set.set(n % cpus.get()).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}
