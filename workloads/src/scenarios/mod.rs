//! Workloads that race page faults against extent manipulation, with an oracle.
//!
//! A scenario makes files in a directory of its own, lets fault threads touch their pages through
//! mappings, and has one or more actors change the extents below. [`ledger`] says what a load may
//! return, and why a right kernel raises no alarm. The same seed gives each thread the same
//! choices.

mod aio;
mod aligned;
mod behind_eof;
mod block;
mod children;
mod crew;
mod error;
mod extents;
mod faulter;
mod flight;
mod kernel;
mod kernel_log;
mod known;
pub mod ledger;
mod map_format;
mod mapping;
mod marks;
mod memory;
mod mounted;
mod oplog;
mod pages;
mod rng;
mod run;
mod sandbox;
mod scene;
mod setup;
mod sharing;
mod shift;
mod shrink;
mod signals;
mod stage;
mod target;
mod uring;

mod collapse_vs_fault;
mod copy_vs_fault;
mod cow_direct_writers;
mod cow_write_vs_fault;
mod dax_flag_vs_fault;
mod dedupe_vs_fault;
mod dio_vs_mmap;
mod direct_append;
mod exchange_mixed;
mod exchange_vs_fault;
mod ext4_move_extent;
mod flight_vs_fallocate;
mod fork_vs_punch;
mod freeze_vs_fault;
mod fsync_vs_fault;
mod hole_fault;
mod insert_vs_fault;
mod journal_mode;
mod mix;
mod mkwrite_vs_punch;
mod pinned_vs_lending;
mod pinned_vs_truncate;
mod pmd_vs_pte;
mod private_cow;
mod punch_vs_fault;
mod reflink_vs_fault;
mod refused;
mod remap_vs_punch;
mod remount_vs_fault;
mod same_file;
mod setattr_error;
mod shared_source;
mod swap_boot;
mod swap_vs_fault;
mod trim_vs_fault;
mod truncate_vs_fault;
mod unlink_mapped;
mod unshare_vs_fault;
mod unwritten_vs_fault;
mod write_vs_fault;
mod write_vs_writeback;
mod zero_vs_fault;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tracer::judge::annotations::Version;

pub use error::Error;
pub use ledger::Wrong;
pub use oplog::{Log, Recipe, Script, Step};
pub use shrink::{Shrunk, again, shrink};
pub use stage::Violation;

use block::{Key, MAX_PAGES};
use crew::Crew;
use extents::Operation;
use faulter::Faulter;
use mounted::Mounted;
use pages::PAGE;
use run::Run;
use sandbox::Sandbox;
use scene::Scene;
use setup::{Cast, Setup};
use signals::Handlers;
use stage::Stage;
use target::Target;

/// What a scenario does not do by design, so that a run without it has shown all that it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacks {
    /// Operations move extents under page faults.
    Nothing,
    /// No operation moves extents of which translations are torn down.
    Windows,
    /// The same, where the filesystem has no shared extents and data are copied.
    WindowsUnlessShared,
    /// Nothing is mapped.
    Faults,
    /// Through the page cache no page becomes writable, and readers' faults go past the filesystem.
    FaultsOfPages,
}

impl Lacks {
    /// True if no window opens on a filesystem with or without shared extents.
    pub fn windows(self, shared: bool) -> bool {
        match self {
            Self::Windows => true,
            Self::WindowsUnlessShared => !shared,
            Self::Nothing | Self::Faults | Self::FaultsOfPages => false,
        }
    }

    /// True if no fault installs a translation, with or without DAX.
    pub fn faults(self, dax: bool) -> bool {
        match self {
            Self::Faults => true,
            Self::FaultsOfPages => !dax,
            Self::Nothing | Self::Windows | Self::WindowsUnlessShared => false,
        }
    }
}

/// What a scenario needs of the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// Any filesystem; its bugs show with and without DAX.
    Any,
    /// Any filesystem, but the interesting paths are those of DAX.
    DaxBest,
    /// Any filesystem mounted with DAX.
    Dax,
    /// Any filesystem through the page cache.
    PageCache,
    /// XFS: the operation is its own.
    Xfs,
    /// XFS, on a kernel that forgets what mappings stored behind EOF when the file grows over it. What those before
    /// do through the page cache shows with any workload.
    XfsTail,
    /// ext4: the operation is its own.
    Ext4,
    /// ext4 through the page cache.
    Ext4PageCache,
    /// virtiofs with DAX.
    Virtiofs,
    /// Shared extents, which XFS has with `mkfs.xfs -m reflink=1`.
    Reflink,
    /// The same, through the page cache: direct I/O of a DAX file is none.
    ReflinkPageCache,
    /// XFS with `mkfs.xfs -i exchange=1`.
    Exchange,
    /// The same, with files that use DAX and files that do not, which `dax=inode` offers.
    ExchangeMixed,
}

impl Needs {
    /// In a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::DaxBest => "best with DAX",
            Self::Dax => "DAX",
            Self::PageCache => "page cache",
            Self::Xfs => "XFS",
            Self::XfsTail => "XFS, kernel 6.12",
            Self::Ext4 => "ext4",
            Self::Ext4PageCache => "ext4, page cache",
            Self::Virtiofs => "virtiofs, DAX",
            Self::Reflink => "reflink",
            Self::ReflinkPageCache => "reflink, page cache",
            Self::Exchange => "XFS, exchange",
            Self::ExchangeMixed => "XFS, exchange, dax=inode",
        }
    }

    /// Whether a filesystem of that name is of the right kind. Of features that depend on how it was
    /// made only the scenario itself can tell.
    pub fn met(self, filesystem: &str, dax: bool) -> bool {
        match self {
            Self::Any | Self::DaxBest | Self::Reflink => true,
            Self::Dax => dax,
            Self::PageCache | Self::ReflinkPageCache => !dax,
            Self::Xfs | Self::XfsTail | Self::Exchange | Self::ExchangeMixed => filesystem == "xfs",
            Self::Ext4 => filesystem == "ext4",
            Self::Ext4PageCache => filesystem == "ext4" && !dax,
            Self::Virtiofs => filesystem == "virtiofs" && dax,
        }
    }

    /// The same, on the running kernel.
    fn met_here(self, filesystem: &str, dax: bool) -> bool {
        let old = self.since().zip(kernel::version());
        self.met(filesystem, dax) && old.is_none_or(|(since, running)| running >= since)
    }

    /// The first kernel that has what it needs; none if every one has that Faultline knows.
    pub fn since(self) -> Option<Version> {
        match self {
            // fs/xfs/xfs_exchrange.c came with it.
            Self::Exchange | Self::ExchangeMixed => Some(Version(6, 10, 0)),
            // fs/iomap/buffered-io.c:iomap_zero_range passes over dirty pages of unwritten blocks before.
            Self::XfsTail => Some(Version(6, 12, 0)),
            _ => None,
        }
    }

    fn hint(self) -> Option<&'static str> {
        match self {
            Self::Any | Self::DaxBest | Self::Reflink => None,
            Self::Dax => Some("needs DAX, as mount -o dax=always gives on persistent memory"),
            Self::PageCache | Self::ReflinkPageCache => Some("needs the page cache, not DAX"),
            Self::Xfs | Self::Exchange => Some("XFS only"),
            Self::XfsTail => Some("XFS only, and a kernel from 6.12 on"),
            Self::ExchangeMixed => Some("XFS only, mounted with dax=inode on persistent memory"),
            Self::Ext4 => Some("ext4 only"),
            Self::Ext4PageCache => Some("ext4 only, through the page cache"),
            Self::Virtiofs => Some("virtiofs only, mounted with dax=always"),
        }
    }
}

/// A named workload.
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Where it makes sense.
    pub needs: Needs,
    /// What it is not for.
    pub lacks: Lacks,
    cast: fn(&mut Setup) -> Result<Cast, Error>,
}

/// All scenarios.
pub static SCENARIOS: &[Scenario] = &[
    punch_vs_fault::SCENARIO,
    truncate_vs_fault::SCENARIO,
    behind_eof::SCENARIO,
    mkwrite_vs_punch::SCENARIO,
    zero_vs_fault::SCENARIO,
    collapse_vs_fault::SCENARIO,
    insert_vs_fault::SCENARIO,
    unwritten_vs_fault::SCENARIO,
    write_vs_fault::SCENARIO,
    write_vs_writeback::SCENARIO,
    fsync_vs_fault::SCENARIO,
    pmd_vs_pte::SCENARIO,
    hole_fault::SCENARIO,
    private_cow::SCENARIO,
    fork_vs_punch::SCENARIO,
    remap_vs_punch::SCENARIO,
    unlink_mapped::SCENARIO,
    pinned_vs_truncate::SCENARIO,
    pinned_vs_lending::SCENARIO,
    pinned_vs_lending::OWN,
    dio_vs_mmap::SCENARIO,
    direct_append::SCENARIO,
    flight_vs_fallocate::AIO,
    flight_vs_fallocate::URING,
    copy_vs_fault::SCENARIO,
    reflink_vs_fault::SCENARIO,
    shared_source::SCENARIO,
    same_file::CLONE,
    cow_write_vs_fault::SCENARIO,
    cow_direct_writers::SCENARIO,
    dedupe_vs_fault::SCENARIO,
    unshare_vs_fault::SCENARIO,
    trim_vs_fault::SCENARIO,
    swap_vs_fault::SCENARIO,
    exchange_vs_fault::SCENARIO,
    same_file::EXCHANGE,
    exchange_mixed::SCENARIO,
    ext4_move_extent::SCENARIO,
    swap_boot::SCENARIO,
    freeze_vs_fault::SCENARIO,
    remount_vs_fault::SCENARIO,
    dax_flag_vs_fault::SCENARIO,
    journal_mode::SCENARIO,
    map_format::SCENARIO,
    setattr_error::SCENARIO,
    refused::SCENARIO,
    mix::SCENARIO,
];

/// Names that scenarios had before.
const FORMER: [(&str, &str); 1] = [("swapext", "swap-vs-fault")];

/// The scenario of that name.
pub fn find(name: &str) -> Result<&'static Scenario, Error> {
    let former = FORMER.iter().find(|(former, _)| *former == name);
    let now = former.map_or(name, |(_, now)| now);
    SCENARIOS
        .iter()
        .find(|scenario| scenario.name == now)
        .ok_or_else(|| Error::Unknown(name.into()))
}

/// When a run ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After so much time.
    Time(Duration),
    /// After so many operations of the actors.
    Operations(u64),
}

/// How to run a scenario.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where; the run makes its own directory in it.
    pub directory: PathBuf,
    /// What all random choices follow from.
    pub seed: u64,
    /// Fault threads of each process, beside the actors.
    pub threads: usize,
    /// Processes with fault threads; the actors are in the first. 16 fault threads at most in all.
    pub processes: usize,
    /// When to end.
    pub limit: Limit,
    /// Bytes of each file, rounded up to pages; 4 KiB to 256 GiB.
    pub file_size: u64,
    /// Give each thread a CPU, counted round.
    pub pin_cpus: bool,
    /// Make these rounds only, over and over.
    pub script: Option<Arc<Script>>,
    /// End at the first wrong data.
    pub stop_at_first: bool,
}

impl Options {
    /// Two fault threads for ten seconds on files of 4 MiB, seed 1.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            seed: 1,
            threads: 2,
            processes: 1,
            limit: Limit::Time(Duration::from_secs(10)),
            file_size: 4 << 20,
            pin_cpus: false,
            script: None,
            stop_at_first: false,
        }
    }

    /// Fault threads of all processes.
    fn faulters(&self) -> usize {
        self.processes * self.threads
    }

    fn pages(&self) -> u32 {
        self.file_size.div_ceil(PAGE).min(u64::from(MAX_PAGES)) as u32
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |text: &str| Err(Error::Option(text.into()));
        if self.threads.min(self.processes) < 1
            || self.threads.saturating_mul(self.processes) > MAX_FAULTERS
        {
            return wrong("1 to 16 fault threads are possible, those of all processes together");
        }
        if !(PAGE..=u64::from(MAX_PAGES) * PAGE).contains(&self.file_size) {
            return wrong("the file size must lie between 4 KiB and 256 GiB");
        }
        if nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            != Ok(Some(PAGE as libc::c_long))
        {
            return wrong("only a base page size of 4 KiB is supported");
        }
        Ok(())
    }
}

/// The most fault threads of all processes.
const MAX_FAULTERS: usize = 16;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Since the start, in seconds.
    pub seconds: f64,
    /// Page faults of all threads.
    pub faults: u64,
    /// Operations of the actors.
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
    /// What the filesystem cannot do and the mix went without.
    pub left_out: Vec<String>,
    /// Bytes of extents that the operations went over.
    pub bytes: u64,
    /// Duration, without set-up and removal.
    pub seconds: f64,
    /// The signal that ended the run early.
    pub interrupted: Option<String>,
    /// Wrong data that is known of unmodified kernels, by name, and how often it was read.
    pub known: BTreeMap<String, u64>,
    /// How many loads were wrong.
    pub violation_count: u64,
    /// The first of them.
    pub violations: Vec<Violation>,
    /// What to make the run again with, if it failed.
    #[serde(skip)]
    pub log: Option<Log>,
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
        if !self.left_out.is_empty() {
            writeln!(f, "  not possible here: {}", self.left_out.join(", "))?;
        }
        if let Some(signal) = &self.interrupted {
            writeln!(f, "  ended early by {signal}")?;
        }
        for (name, count) in &self.known {
            writeln!(f, "  {count:>10} wrong as is known: {name}")?;
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
/// How long the actors may go without completing an operation.
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
    marks::connect();
    let handlers = Handlers::install().map_err(|source| Error::call("sigaction", source))?;
    let sandbox = Arc::new(Sandbox::create(&options.directory)?);
    let filesystem = filesystem(sandbox.path())?;
    let dax = kernel::is_dax(&sandbox.probe()?).unwrap_or(false);
    let stage = Arc::new(Stage::new(options.faulters(), ACTORS, filesystem.clone())?);
    let scene = Arc::new(Scene {
        options: options.clone(),
        actors: ACTORS,
        stage: stage.clone(),
        sandbox: sandbox.clone(),
        filesystem: filesystem.clone(),
        dax,
        mixed: AtomicBool::new(false),
        // Not from the seed: the same seed run twice must not take the first run's leftovers for
        // its own.
        key: Key::new(
            rng::mix(u64::from(std::process::id()) ^ unix_nanoseconds()),
            options.pages(),
        ),
    });
    if !scenario.needs.met_here(&filesystem, dax) {
        return Err(scene.unsupported(scenario.name, scenario.needs.hint()));
    }
    let director = direct(scene, scenario)?;

    let (mut told, mut ended) = (Instant::now(), None);
    let (mut operations, mut moved) = (0, Instant::now());
    while !director.is_finished() {
        std::thread::sleep(TICK);
        let late = matches!(options.limit, Limit::Time(limit) if stage.elapsed() >= limit);
        if std::mem::replace(&mut operations, stage.operations()) != operations {
            moved = Instant::now();
        }
        // A limit of operations would never be reached by an actor that hangs.
        let hung = operations > 0 && moved.elapsed() > STALL;
        let enough = options.stop_at_first && stage.violation_count() > 0;
        if late || hung || enough || handlers.stop_request().is_some() {
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
                found: stage.violations_told(),
            });
        }
    }
    let seconds = director
        .join()
        .map_err(|panic| Error::Panicked(panic_text(&*panic)))?;
    let removed = Arc::try_unwrap(sandbox).map_or(Ok(()), Sandbox::remove);
    if let Some(error) = stage.failure() {
        return Err(error.at(&options.directory));
    }
    removed?;
    progress(&look(&stage));
    let violations = stage.take_violations();
    let log = violations.first().map(|first| Log {
        recipe: Recipe {
            version: Recipe::VERSION,
            scenario: scenario.name.into(),
            filesystem: filesystem.clone(),
            seed: options.seed,
            threads: options.threads,
            processes: options.processes,
            file_size: options.file_size,
            pin_cpus: options.pin_cpus,
            milliseconds: (first.at * 1e3).ceil() as u64,
            violation: first.detail.clone(),
            rounds: stage.script(),
        },
        steps: stage.steps(),
    });
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
        left_out: stage.left_out(),
        bytes: stage.bytes.load(Ordering::Relaxed),
        seconds,
        interrupted: handlers.stop_request().map(|signal| signal.to_string()),
        known: stage.known(),
        violation_count: stage.violation_count(),
        violations,
        log,
    })
}

/// The most actors of a scenario.
const ACTORS: usize = 2;

/// Sets the scenario up and sees it through, in a thread of its own; yields the seconds it took.
fn direct(scene: Arc<Scene>, scenario: &Scenario) -> Result<std::thread::JoinHandle<f64>, Error> {
    let cast = scenario.cast;
    let stage = scene.stage.clone();
    thread(&stage.clone(), "director".into(), None, move || {
        let mut setup = Setup::new(scene.clone());
        match cast(&mut setup) {
            Ok(cast) => play(&scene, cast, &setup.into_targets()),
            Err(error) => stage.fail(error),
        }
        stage.seconds()
    })
}

/// Runs fault threads and actors until the end.
fn play(scene: &Arc<Scene>, mut cast: Cast, targets: &[Arc<Target>]) {
    let stage = &scene.stage;
    let threads = scene.options.threads;
    stage.begin();
    // Forked first: the fewer threads there are, the less they can be amidst.
    let crews: Vec<_> = (1..scene.options.processes)
        .map_while(|process| {
            let crew = Crew::start(scene, targets, process * threads);
            crew.map_err(|error| stage.fail(error)).ok()
        })
        .collect();
    let pin = |n| scene.options.pin_cpus.then_some(n);
    let mut actors = Vec::new();
    let mut others = Vec::new();
    let start = |at: &mut Vec<_>, started: Result<_, Error>| match started {
        Ok(handle) => at.push(handle),
        Err(error) => stage.fail(error),
    };
    for (n, crew) in crews.into_iter().enumerate() {
        let (inner, targets) = (stage.clone(), targets.to_vec());
        let work = move || crew.listen(&inner, &targets);
        start(&mut others, thread(stage, format!("crew-{n}"), None, work));
    }
    for n in 0..threads {
        let faulter = Faulter::new(scene.clone(), targets, n);
        let work = move || faulter.work();
        start(
            &mut others,
            thread(stage, format!("fault-{n}"), pin(n), work),
        );
    }
    // Acts are dealt out in turn, so that those of one scenario run at the same time.
    let mut hands: Vec<Cast> = (0..cast.len().min(scene.actors))
        .map(|_| Vec::new())
        .collect();
    let count = hands.len();
    for (n, act) in cast.drain(..).enumerate() {
        hands[n % count].push(act);
    }
    for (n, hand) in hands.into_iter().enumerate() {
        let run = Run::new(scene.clone(), n, count);
        let inner = stage.clone();
        let work = move || {
            if let Err(error) = run.perform(hand) {
                inner.fail(error);
            }
        };
        start(
            &mut actors,
            thread(
                stage,
                format!("actor-{n}"),
                pin(scene.options.faulters() + n),
                work,
            ),
        );
    }
    for handle in actors {
        join(stage, handle);
    }
    stage.end();
    for handle in others {
        join(stage, handle);
    }
}

/// Starts a thread that counts as running until it returns.
fn thread<T: Send + 'static>(
    stage: &Arc<Stage>,
    name: String,
    cpu: Option<usize>,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<std::thread::JoinHandle<T>, Error> {
    stage.running.fetch_add(1, Ordering::SeqCst);
    let inner = stage.clone();
    let started = std::thread::Builder::new().name(name).spawn(move || {
        if let Some(cpu) = cpu {
            pin_to_cpu(cpu);
        }
        let _running = Running(inner);
        body()
    });
    started.map_err(|source| {
        stage.running.fetch_sub(1, Ordering::SeqCst);
        Error::call("thread start", source)
    })
}

/// Counts a thread out, also when it panics.
struct Running(Arc<Stage>);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn join(stage: &Stage, handle: std::thread::JoinHandle<()>) {
    if let Err(panic) = handle.join() {
        stage.fail(Error::Panicked(panic_text(&*panic)));
    }
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
    // ext2 and ext3 have the number of ext4, and its driver as a rule.
    if kind == EXT4_SUPER_MAGIC
        && let Ok(mounted) = Mounted::of(path)
        && mounted.kind.starts_with("ext")
    {
        return Ok(mounted.kind);
    }
    if kind == FUSE_SUPER_MAGIC
        && let Ok(mounted) = Mounted::of(path)
    {
        return Ok(mounted.kind);
    }
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
                file_size: 2048,
                ..base.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            Options {
                file_size: 257 << 30,
                ..base
            }
            .check()
            .is_err()
        );
    }
}
