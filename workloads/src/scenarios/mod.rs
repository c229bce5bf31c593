//! Workloads that race page faults against extent manipulation, with an oracle.
//!
//! A scenario makes files in a directory of its own, lets threads fault their pages through shared
//! mappings, and has one manipulator change the extents below. [`ledger`] says what a load may
//! return, and why a right kernel raises no alarm. The same seed gives each thread the same
//! choices.

mod block;
mod error;
mod extents;
mod faulter;
mod kernel;
pub mod ledger;
mod mapping;
mod pages;
mod rng;
mod run;
mod sandbox;
mod signals;
mod stage;
mod target;

mod collapse_vs_fault;
mod insert_vs_fault;
mod mkwrite_vs_punch;
mod punch_vs_fault;
mod reflink_vs_fault;
mod setattr_error;
mod swapext;
mod truncate_vs_fault;
mod unwritten_vs_fault;
mod zero_vs_fault;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};
use serde::{Deserialize, Serialize};

pub use error::Error;
pub use ledger::Wrong;
pub use stage::Violation;

use block::{Key, MAX_PAGES};
use extents::Operation;
use pages::PAGE;
use run::Run;
use sandbox::Sandbox;
use signals::Handlers;
use stage::Stage;

/// Where a scenario is worth running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// Any filesystem; its bugs show with and without DAX.
    PageCacheOk,
    /// Any filesystem, but the interesting paths are those of DAX.
    DaxPreferred,
    /// The operation is XFS's own.
    XfsOnly,
}

/// A named workload.
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Where it makes sense.
    pub needs: Needs,
    run: fn(&mut Run) -> Result<(), Error>,
}

/// All scenarios.
pub static SCENARIOS: &[Scenario] = &[
    punch_vs_fault::SCENARIO,
    truncate_vs_fault::SCENARIO,
    mkwrite_vs_punch::SCENARIO,
    zero_vs_fault::SCENARIO,
    collapse_vs_fault::SCENARIO,
    insert_vs_fault::SCENARIO,
    unwritten_vs_fault::SCENARIO,
    setattr_error::SCENARIO,
    swapext::SCENARIO,
    reflink_vs_fault::SCENARIO,
];

/// The scenario of that name.
pub fn find(name: &str) -> Result<&'static Scenario, Error> {
    SCENARIOS
        .iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| Error::Unknown(name.into()))
}

/// When a run ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After so much time.
    Time(Duration),
    /// After so many operations of the manipulator.
    Operations(u64),
}

/// How to run a scenario.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where; the run makes its own directory in it.
    pub directory: PathBuf,
    /// What all random choices follow from.
    pub seed: u64,
    /// Fault threads, 1 to 16, beside the one manipulator.
    pub threads: usize,
    /// When to end.
    pub limit: Limit,
    /// Bytes of each file, rounded up to pages; 256 KiB to 4 GiB.
    pub file_size: u64,
    /// Give each thread a CPU, counted round.
    pub pin_cpus: bool,
}

impl Options {
    /// Two fault threads for ten seconds on files of 4 MiB, seed 1.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            seed: 1,
            threads: 2,
            limit: Limit::Time(Duration::from_secs(10)),
            file_size: 4 << 20,
            pin_cpus: false,
        }
    }

    fn pages(&self) -> u32 {
        self.file_size.div_ceil(PAGE).min(u64::from(MAX_PAGES)) as u32
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |text: &str| Err(Error::Option(text.into()));
        if !(1..=16).contains(&self.threads) {
            return wrong("1 to 16 fault threads are possible");
        }
        if !(64 * PAGE..=u64::from(MAX_PAGES) * PAGE).contains(&self.file_size) {
            return wrong("the file size must lie between 256 KiB and 4 GiB");
        }
        if nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            != Ok(Some(PAGE as libc::c_long))
        {
            return wrong("only a base page size of 4 KiB is supported");
        }
        Ok(())
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Since the start, in seconds.
    pub seconds: f64,
    /// Page faults of all threads.
    pub faults: u64,
    /// Operations of the manipulator.
    pub operations: u64,
    /// Violations so far.
    pub violations: u64,
}

/// What a run did and found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The scenario's name.
    pub scenario: String,
    /// The filesystem's name.
    pub filesystem: String,
    /// Whether its files are accessed without page cache.
    pub dax: bool,
    /// The seed.
    pub seed: u64,
    /// Page faults of the run's threads, counted by the kernel (`RUSAGE_THREAD`).
    pub faults: u64,
    /// Words loaded by fault threads.
    pub loads: u64,
    /// Words stored by them.
    pub stores: u64,
    /// SIGBUS met and recovered, as truncation makes them.
    pub bus_errors: u64,
    /// Completed operations by name.
    pub operations: BTreeMap<String, u64>,
    /// Operations that the kernel refused as busy, by name.
    pub refused: BTreeMap<String, u64>,
    /// Bytes of extents that the operations went over.
    pub bytes: u64,
    /// Duration, without set-up and removal.
    pub seconds: f64,
    /// The signal that ended the run early.
    pub interrupted: Option<String>,
    /// How many loads were wrong.
    pub violation_count: u64,
    /// The first of them.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.dax { "DAX" } else { "page cache" };
        writeln!(
            f,
            "{} on {} ({mode}), seed {}, {:.1} s",
            self.scenario, self.filesystem, self.seed, self.seconds
        )?;
        let rate = self.faults as f64 / self.seconds.max(1e-3);
        writeln!(f, "  {:>10} faults ({rate:.0}/s)", self.faults)?;
        writeln!(
            f,
            "  {:>10} loads, {} stores, {} bus errors",
            self.loads, self.stores, self.bus_errors
        )?;
        for (name, count) in &self.operations {
            writeln!(f, "  {count:>10} {name}")?;
        }
        for (name, count) in &self.refused {
            writeln!(f, "  {count:>10} {name} refused as busy")?;
        }
        if let Some(signal) = &self.interrupted {
            writeln!(f, "  ended early by {signal}")?;
        }
        write!(f, "  {:>10} violations", self.violation_count)?;
        for violation in &self.violations {
            write!(f, "\n    {:9.3} s  {}", violation.at, violation.detail)?;
        }
        Ok(())
    }
}

/// How long to wait for threads after the end, before they count as stuck.
const GRACE: Duration = Duration::from_secs(10);
/// How long the manipulator may go without completing an operation.
const STALL: Duration = Duration::from_secs(60);
/// How often the run is looked at.
const TICK: Duration = Duration::from_millis(20);
/// How often progress is told.
const TELL: Duration = Duration::from_millis(250);

/// Runs a scenario; `progress` is called four times a second.
///
/// One run at a time in a process, since signals are the process's: SIGINT, SIGTERM and SIGHUP end
/// the run in order, SIGBUS is recovered. Their former handlers are back when it returns. Errors
/// are those of [`Error`]; violations are no error.
pub fn run(
    scenario: &Scenario,
    options: &Options,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Summary, Error> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    options.check()?;
    let handlers = Handlers::install().map_err(|source| Error::Operation {
        operation: "sigaction",
        source,
    })?;
    let sandbox = Arc::new(Sandbox::create(&options.directory)?);
    let filesystem = filesystem(sandbox.path())?;
    if scenario.needs == Needs::XfsOnly && filesystem != "xfs" {
        return Err(Error::Unsupported {
            filesystem,
            operation: scenario.name,
            hint: Some("XFS only"),
        });
    }
    let stage = Arc::new(Stage::new(options.seed, options.threads));
    // Not from the seed: the same seed run twice must not take the first run's leftovers for its
    // own.
    let key = Key(rng::mix(u64::from(std::process::id()) ^ unix_nanoseconds()));
    let manipulator = {
        let mut run = Run::new(
            options.clone(),
            stage.clone(),
            sandbox.clone(),
            filesystem.clone(),
            key,
        );
        let (stage, body) = (stage.clone(), scenario.run);
        stage.running.fetch_add(1, Ordering::SeqCst);
        let spawned = std::thread::Builder::new()
            .name("manipulator".into())
            .spawn(move || {
                if let Err(error) = body(&mut run) {
                    stage.fail(error);
                }
                let seconds = stage.seconds();
                run.finish();
                stage.running.fetch_sub(1, Ordering::SeqCst);
                seconds
            });
        spawned.map_err(|source| Error::Operation {
            operation: "thread start",
            source,
        })?
    };

    let (began, mut told, mut ended) = (Instant::now(), Instant::now(), None);
    let (mut operations, mut moved) = (0, Instant::now());
    while !manipulator.is_finished() {
        std::thread::sleep(TICK);
        let late = matches!(options.limit, Limit::Time(limit) if began.elapsed() >= limit);
        if std::mem::replace(&mut operations, stage.operations()) != operations {
            moved = Instant::now();
        }
        // A limit of operations would never be reached by a manipulator that hangs.
        let hung = operations > 0 && moved.elapsed() > STALL;
        if late || hung || handlers.stop_request().is_some() {
            stage.end();
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            progress(&look(&stage));
        }
        if stage.stopped() && ended.get_or_insert_with(Instant::now).elapsed() > GRACE {
            return Err(Error::Stuck {
                threads: stage.running.load(Ordering::SeqCst) as usize,
                seconds: GRACE.as_secs(),
                operation: stage.last_operation(),
                path: sandbox.path().into(),
            });
        }
    }
    let seconds = manipulator
        .join()
        .map_err(|panic| Error::Panicked(panic_text(&*panic)))?;
    let removed = Arc::try_unwrap(sandbox).map_or(Ok(()), Sandbox::remove);
    if let Some(error) = stage.failure() {
        return Err(error);
    }
    removed?;
    progress(&look(&stage));
    Ok(Summary {
        scenario: scenario.name.into(),
        filesystem,
        dax: stage.dax.load(Ordering::Relaxed),
        seed: options.seed,
        faults: stage.sum(|counters| &counters.faults),
        loads: stage.sum(|counters| &counters.loads),
        stores: stage.sum(|counters| &counters.stores),
        bus_errors: stage.sum(|counters| &counters.bus),
        operations: by_name(&stage.done),
        refused: by_name(&stage.refused),
        bytes: stage.bytes.load(Ordering::Relaxed),
        seconds,
        interrupted: handlers.stop_request().map(|signal| signal.to_string()),
        violation_count: stage.violation_count(),
        violations: stage.take_violations(),
    })
}

fn look(stage: &Stage) -> Progress {
    Progress {
        seconds: stage.seconds(),
        faults: stage.sum(|counters| &counters.faults),
        operations: stage.operations(),
        violations: stage.violation_count(),
    }
}

fn by_name(counts: &[std::sync::atomic::AtomicU64]) -> BTreeMap<String, u64> {
    let counts = Operation::ALL.iter().zip(counts);
    counts
        .map(|(operation, count)| (operation.name().to_owned(), count.load(Ordering::Relaxed)))
        .filter(|&(_, count)| count > 0)
        .collect()
}

fn filesystem(path: &Path) -> Result<String, Error> {
    const NAMES: [(FsType, &str); 6] = [
        (XFS_SUPER_MAGIC, "xfs"),
        (EXT4_SUPER_MAGIC, "ext4"),
        (BTRFS_SUPER_MAGIC, "btrfs"),
        (TMPFS_MAGIC, "tmpfs"),
        (OVERLAYFS_SUPER_MAGIC, "overlayfs"),
        (FUSE_SUPER_MAGIC, "fuse"),
    ];
    let kind = statfs(path)
        .map_err(|e| Error::path(path, e.into()))?
        .filesystem_type();
    let known = NAMES.iter().find(|(magic, _)| *magic == kind);
    Ok(known.map_or_else(
        || format!("filesystem {:#x}", kind.0),
        |(_, name)| (*name).into(),
    ))
}

fn unix_nanoseconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).into()))
        .unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for scenario in SCENARIOS {
            assert!(std::ptr::eq(find(scenario.name).unwrap(), scenario));
        }
        assert!(matches!(find("nonsense"), Err(Error::Unknown(_))));
    }

    #[test]
    fn a_seed_fixes_the_operations() {
        let directory = tempfile::tempdir().unwrap();
        let go = |seed| {
            let limit = Limit::Operations(200);
            let options = Options {
                seed,
                limit,
                ..Options::new(directory.path())
            };
            run(find("punch-vs-fault").unwrap(), &options, &mut |_| {})
        };
        let first = match go(1) {
            // Not every filesystem that holds temporary files can punch.
            Err(Error::Unsupported { .. }) => return,
            other => other.unwrap(),
        };
        let again = go(1).unwrap();
        assert_eq!(
            (&first.operations, first.bytes),
            (&again.operations, again.bytes)
        );
        assert_ne!(first.bytes, go(2).unwrap().bytes);
        assert_eq!((first.violation_count, again.violation_count), (0, 0));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn options_out_of_bounds_are_refused() {
        let base = Options::new("/nonexistent");
        assert!(base.check().is_ok());
        assert!(
            Options {
                threads: 0,
                ..base.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            Options {
                file_size: 4096,
                ..base.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            Options {
                file_size: 5 << 30,
                ..base
            }
            .check()
            .is_err()
        );
    }
}
