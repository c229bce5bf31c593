//! What the threads of a run share: counters, the stop flag, what was found.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use super::block::{Cell, Content};
use super::error::Error;
use super::extents::Operation;
use super::ledger::Wrong;
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

/// The most violations kept with their details.
const KEPT: usize = 64;

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

/// Shared by all threads of a run.
pub struct Stage {
    /// Set once; everything ends soon after.
    pub stop: AtomicBool,
    /// The seed of the run.
    pub seed: u64,
    /// For the fault threads and, last, the manipulator.
    pub counters: Vec<Counters>,
    /// Completed operations, by [`Operation`].
    pub done: [AtomicU64; Operation::ALL.len()],
    /// Operations that the kernel refused as busy.
    pub refused: [AtomicU64; Operation::ALL.len()],
    /// Bytes of extents changed.
    pub bytes: AtomicU64,
    /// Threads not yet back.
    pub running: AtomicU32,
    /// Whether SIGBUS is part of the game: the scenario truncates mapped pages.
    pub truncates: AtomicBool,
    /// The first file is accessed without page cache.
    pub dax: AtomicBool,
    doing: AtomicU8,
    began: Instant,
    violations: Mutex<Vec<Violation>>,
    violation_count: AtomicU64,
    failure: Mutex<Option<Error>>,
}

impl Stage {
    /// For `threads` fault threads.
    pub fn new(seed: u64, threads: usize) -> Self {
        Self {
            stop: AtomicBool::new(false),
            seed,
            counters: (0..=threads).map(|_| Counters::default()).collect(),
            done: Default::default(),
            refused: Default::default(),
            bytes: AtomicU64::new(0),
            running: AtomicU32::new(0),
            truncates: AtomicBool::new(false),
            dax: AtomicBool::new(false),
            doing: AtomicU8::new(0),
            began: Instant::now(),
            violations: Mutex::default(),
            violation_count: AtomicU64::new(0),
            failure: Mutex::default(),
        }
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
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.end();
    }

    /// The error that ended the run.
    pub fn failure(&self) -> Option<Error> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Since the start, in seconds.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Notes what the manipulator is about to do.
    pub fn doing(&self, operation: Operation) {
        self.doing.store(operation as u8, Ordering::Relaxed);
    }

    /// The name of its last operation.
    pub fn last_operation(&self) -> &'static str {
        Operation::ALL[usize::from(self.doing.load(Ordering::Relaxed))].name()
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

    /// Records a violation; the word's meaning is spelled out.
    pub fn report(
        &self,
        target: &Target,
        page: Page,
        cell: Cell,
        wrong: Wrong,
        word: u64,
        expected: &str,
    ) {
        let found = match target.ledger.open(word) {
            _ if wrong == Wrong::Bus => "SIGBUS".into(),
            Content::Zero => "zero".into(),
            Content::Garbage(word) => format!("{word:#018x}, which this run never wrote"),
            Content::Stamp(stamp) => {
                format!(
                    "store {} to page {} of data.{}",
                    stamp.generation.0, stamp.page.0, stamp.file.0
                )
            }
        };
        let detail = format!(
            "page {} of data.{}: {found}, where {expected}",
            page.0, target.id.0
        );
        self.violation_count.fetch_add(1, Ordering::Relaxed);
        let mut violations = self
            .violations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if violations.len() < KEPT {
            violations.push(Violation {
                wrong,
                file: format!("data.{}", target.id.0),
                offset: page.offset() + cell.offset(),
                detail,
                at: self.seconds(),
            });
        }
    }

    /// How many violations there were.
    pub fn violation_count(&self) -> u64 {
        self.violation_count.load(Ordering::Relaxed)
    }

    /// The first of them.
    pub fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(
            &mut self
                .violations
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}
