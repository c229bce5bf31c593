//! What the threads of a run share: counters, the stop flag, what was done and what was found.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use tracer::units::Tid;

use super::block::Content;
use super::crew::Relay;
use super::error::Error;
use super::extents::Operation;
use super::kernel_log;
use super::known::{self, Facts};
use super::ledger::{Family, Wrong};
use super::marks::{self, Corruption, Inode};
use super::memory::Shared;
use super::oplog::{Done, Script, Step, now};
use super::pages::Page;
use super::target::Target;

/// Data that no order of the operations allows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// What was wrong.
    pub wrong: Wrong,
    /// The file's name in the working directory.
    pub file: String,
    /// Byte offset of the word.
    pub offset: u64,
    /// What was read, and what should have been.
    pub detail: String,
    /// Seconds since the start.
    pub at: f64,
}

/// Wrong data at a word.
pub struct Wronged<'a> {
    /// Byte offset of the word in its page.
    pub offset: u64,
    /// What is wrong.
    pub wrong: Wrong,
    /// What was read.
    pub word: u64,
    /// How it was read.
    pub sight: Sight,
    /// Why it cannot be right.
    pub why: &'a str,
    /// Who read it, if not the thread that tells.
    pub by: Option<Tid>,
}

/// How data was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sight {
    /// Through a shared mapping.
    Mapping,
    /// By read(2), or from a private copy.
    Other,
    /// Out of a pipe that holds the page itself.
    Pipe,
}

/// The most violations kept with their details.
const KEPT: usize = 64;
/// The most operations kept: what an actor did long before a violation seldom explains it.
const LOGGED: usize = 1 << 16;

/// One thread's counters, on a cache line of its own.
#[repr(align(64))]
#[derive(Default)]
pub struct Counters {
    /// Page faults, as the kernel counts them for the thread.
    pub faults: AtomicU64,
    /// Cells loaded.
    pub loads: AtomicU64,
    /// Cells stored.
    pub stores: AtomicU64,
    /// SIGBUS recovered.
    pub bus: AtomicU64,
}

impl Counters {
    /// Sets the fault count from the calling thread's usage.
    pub fn sample_faults(&self) {
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) {
            let faults = usage.minor_page_faults() + usage.major_page_faults();
            self.faults.store(faults as u64, Ordering::Relaxed);
        }
    }
}

/// Set once, for all processes of the run; everything ends soon after.
pub struct Stop(Shared<AtomicBool>);

impl Deref for Stop {
    type Target = AtomicBool;

    fn deref(&self) -> &AtomicBool {
        &self.0[0]
    }
}

/// Shared by all threads of a run; between its processes only [`Stop`] and the counters.
pub struct Stage {
    /// The end of the run.
    pub stop: Arc<Stop>,
    /// For the fault threads, then for the actors.
    pub counters: Shared<Counters>,
    /// Completed operations, by [`Operation`].
    pub done: [AtomicU64; Operation::ALL.len()],
    /// Operations that the kernel refused as busy.
    pub refused: [AtomicU64; Operation::ALL.len()],
    /// Bytes of extents changed.
    pub bytes: AtomicU64,
    /// Threads not yet back.
    pub running: AtomicU32,
    /// The first file is accessed without page cache.
    pub dax: AtomicBool,
    doing: AtomicU8,
    began: OnceLock<Instant>,
    /// The same by the clock of the operations.
    start: AtomicU64,
    rounds: Vec<AtomicU64>,
    violations: Mutex<Vec<Violation>>,
    violation_count: AtomicU64,
    known: Mutex<BTreeMap<&'static str, u64>>,
    filesystem: String,
    log: Mutex<VecDeque<Done>>,
    left_out: Mutex<BTreeSet<&'static str>>,
    files: Mutex<BTreeMap<u8, Inode>>,
    failure: Mutex<Option<Error>>,
    relay: OnceLock<Relay>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// For so many fault threads and actors, on the filesystem of that name.
    pub fn new(faulters: usize, actors: usize, filesystem: String) -> Result<Self, Error> {
        let shared = |source| Error::call("mmap", source);
        let stop = Shared::new(1, |_| AtomicBool::new(false)).map_err(shared)?;
        let counters = Shared::new(faulters + actors, |_| Counters::default());
        Ok(Self {
            stop: Arc::new(Stop(stop)),
            counters: counters.map_err(shared)?,
            done: [const { AtomicU64::new(0) }; Operation::ALL.len()],
            refused: [const { AtomicU64::new(0) }; Operation::ALL.len()],
            bytes: AtomicU64::new(0),
            running: AtomicU32::new(0),
            dax: AtomicBool::new(false),
            doing: AtomicU8::new(0),
            began: OnceLock::new(),
            start: AtomicU64::new(0),
            rounds: (0..actors).map(|_| AtomicU64::new(0)).collect(),
            violations: Mutex::default(),
            violation_count: AtomicU64::new(0),
            known: Mutex::default(),
            filesystem,
            log: Mutex::default(),
            left_out: Mutex::default(),
            files: Mutex::default(),
            failure: Mutex::default(),
            relay: OnceLock::new(),
        })
    }

    /// In a worker process: from now on all findings and errors go through its pipe.
    pub fn relay(&self, relay: Relay) {
        self.relay.get_or_init(|| relay);
    }

    /// Whether the run is over.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends the run.
    pub fn end(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Ends the run with an error, unless it has one.
    pub fn fail(&self, error: Error) {
        if let Some(relay) = self.relay.get() {
            relay.fail(&error);
            return self.end();
        }
        lock(&self.failure).get_or_insert(error);
        self.end();
    }

    /// The error that ended the run.
    pub fn failure(&self) -> Option<Error> {
        lock(&self.failure).take()
    }

    /// The scenario is set up, and starts.
    pub fn begin(&self) {
        self.began.get_or_init(Instant::now);
        self.start.store(now(), Ordering::Relaxed);
    }

    /// Since the start; none before it.
    pub fn elapsed(&self) -> Duration {
        self.began.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// The same, in seconds.
    pub fn seconds(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }

    /// Notes what an actor is about to do.
    pub fn doing(&self, operation: Operation) {
        self.doing.store(operation as u8, Ordering::Relaxed);
    }

    /// The name of the operation that began last.
    pub fn last_operation(&self) -> &'static str {
        Operation::ALL[usize::from(self.doing.load(Ordering::Relaxed))].name()
    }

    /// Whether an operation of that kind has completed.
    pub fn has_done(&self, operation: Operation) -> bool {
        self.done[operation as usize].load(Ordering::Relaxed) > 0
    }

    /// Operations completed, of all kinds.
    pub fn operations(&self) -> u64 {
        self.done
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// One of the counters, over all threads.
    pub fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters
            .iter()
            .map(|thread| counter(thread).load(Ordering::Relaxed))
            .sum()
    }

    /// Keeps an operation for the log, and marks it in the trace.
    pub fn note(&self, done: Done, target: &Target) {
        marks::operation(&done, target.inode);
        let mut log = lock(&self.log);
        if log.len() == LOGGED {
            log.pop_front();
        }
        log.push_back(done);
    }

    /// Notes which inode a file of the run is.
    pub fn file(&self, target: &Target) {
        lock(&self.files).insert(target.id.0, target.inode);
    }

    /// Notes what cannot be done here.
    pub fn leave_out(&self, what: &'static str) {
        lock(&self.left_out).insert(what);
    }

    /// What could not be done.
    pub fn left_out(&self) -> Vec<String> {
        lock(&self.left_out)
            .iter()
            .map(|&name| name.to_owned())
            .collect()
    }

    /// The last operations, in the order of their ends.
    pub fn steps(&self) -> Vec<Step> {
        let start = self.start.load(Ordering::Relaxed);
        lock(&self.log)
            .iter()
            .map(|done| done.step(start))
            .collect()
    }

    /// Notes that an actor has begun another round.
    pub fn round(&self, actor: usize, round: u64) {
        self.rounds[actor].store(round, Ordering::Relaxed);
    }

    /// All rounds that the actors have made, from their first.
    pub fn script(&self) -> Script {
        let rounds = self.rounds.iter();
        Script(
            rounds
                .map(|last| (1..=last.load(Ordering::Relaxed)).collect())
                .collect(),
        )
    }

    /// Records wrong data; the word's meaning is spelled out, and read(2) is asked whether the medium
    /// is wrong or only the translation.
    pub fn report(&self, target: &Target, page: Page, what: &Wronged<'_>) {
        if let Some(relay) = self.relay.get() {
            return relay.report(target, page, what);
        }
        let opened = target.ledger.open(what.word);
        let found = match opened {
            _ if matches!(what.wrong, Wrong::Bus | Wrong::Failed) => String::new(),
            Content::Zero => "zero, ".into(),
            Content::Garbage(word) => format!("{word:#018x}, which this run never wrote, "),
            Content::Stamp(stamp) => format!(
                "block {} of data.{}, generation {}, ",
                stamp.page.0, stamp.file.0, stamp.generation.0
            ),
        };
        let origin = match opened {
            Content::Stamp(stamp) => {
                let file = lock(&self.files).get(&stamp.file.0).copied();
                file.map(|inode| (inode, stamp.page))
            }
            _ => None,
        };
        let stale_translation = what.sight == Sight::Mapping
            && what.wrong != Wrong::Bus
            && target
                .word(page, what.offset)
                .is_some_and(|word| word != what.word);
        let besides = match (what.sight, stale_translation) {
            (Sight::Mapping, true) => "; read(2) shows other data: the translation is stale",
            (Sight::Mapping, false) if what.wrong != Wrong::Bus => "; read(2) shows the same",
            _ => "",
        };
        let detail = format!(
            "{} in block {} of data.{}: {found}where {}{besides}",
            what.wrong.name(),
            page.0,
            target.id.0,
            what.why
        );
        let known = known::find(&Facts {
            filesystem: &self.filesystem,
            dax: self.dax.load(Ordering::Relaxed),
            wrong: what.wrong,
            stale_translation,
            exchanged: matches!(target.shape().family, Family::Exchanged(_)),
            written: target.ledger.last_body(page) != 0,
            swapped_with_boot: target.goes_to_boot(),
            in_pipe: what.sight == Sight::Pipe,
            // Wrong data is rare, and so is a look into the log.
            taken_in_use: what.wrong == Wrong::Bus
                && kernel_log::mentions("dax_disassociate_entry"),
        });
        let mark = || {
            marks::corruption(&Corruption {
                inode: target.inode,
                path: &target.path,
                page,
                wrong: what.wrong.name(),
                story: &detail,
                by: what.by,
                origin: origin.filter(|&at| at != (target.inode, page)),
                known: known.map(|known| known.argument),
            });
        };
        if let Some(known) = known {
            let mut counts = lock(&self.known);
            let count = counts.entry(known.name).or_insert(0);
            *count += 1;
            if *count <= KEPT as u64 {
                mark();
            }
            return;
        }
        self.violation_count.fetch_add(1, Ordering::Relaxed);
        let mut violations = lock(&self.violations);
        if violations.len() < KEPT {
            mark();
            violations.push(Violation {
                wrong: what.wrong,
                file: format!("data.{}", target.id.0),
                offset: page.offset() + what.offset,
                detail,
                at: self.seconds(),
            });
        }
    }

    /// Wrong data that is known of this kernel's filesystem, by name, and how often it was read.
    pub fn known(&self) -> BTreeMap<String, u64> {
        let known = lock(&self.known);
        known
            .iter()
            .map(|(&name, &count)| (name.to_owned(), count))
            .collect()
    }

    /// How many violations there were.
    pub fn violation_count(&self) -> u64 {
        self.violation_count.load(Ordering::Relaxed)
    }

    /// How many there were and what the first was, as the end of a sentence; empty if none was.
    pub fn violations_told(&self) -> String {
        match lock(&self.violations).first() {
            None => String::new(),
            Some(first) => format!(
                "; before that, wrong data {} times, first: {}",
                self.violation_count(),
                first.detail
            ),
        }
    }

    /// The first of them.
    pub fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut lock(&self.violations))
    }
}
