//! The command line.

use std::{ffi::OsString, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use workloads::lab::FilesystemKind;

use crate::ci::{
    matrix::{Shard, Suite},
    subject::Subject,
};

const FIRST_STEPS: &str = "\
First steps:
  faultline demo                            a stock kernel and three broken ones, in a VM, without root
  faultline record -o run.flt -- COMMAND    what COMMAND does on this machine, as root
  faultline analyze run.flt                 is anything wrong, and what
  faultline report run.flt -o run.html      the same with a picture of each finding
  faultline replay run.flt                  a walk through the run; ? shows the keys";

/// Are page faults locked out while extents move? Watches XFS and ext4 on persistent memory, judges
/// recorded traces, and tries patched kernels in a VM.
#[derive(Debug, Parser)]
#[command(name = "faultline", version, max_term_width = 100, after_help = FIRST_STEPS)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what this kernel offers: privileges, BTF, DAX mounts, and which hook attaches how
    Doctor(Doctor),
    /// Record a trace of faults, locks and extent changes while a command runs
    Record(Record),
    /// Judge a trace. Exit status: 0 clean, 1 findings, 2 failed or inconclusive
    Analyze(Analyze),
    /// Watch live: windows, faults and locks as they happen, and what breaks a rule
    Top(Top),
    /// Look through a trace as `top` shows the present, with a time bar
    Replay(Replay),
    /// Write a trace's report as one HTML file, with pictures. Exit status as of `analyze`
    Report(HtmlReport),
    /// Print how locks, operations, faults and windows went, by count and time
    Stats(Stats),
    /// Repeat a trace's run, holding tasks up where its predictions say, until they have been seen.
    /// Exit status: 0 seen, 1 not, 2 failed
    Confirm(Confirm),
    /// State which locks a run held at each phase of each operation, and how consistently
    Infer(Infer),
    /// Print what is judged: rules, what each operation owes, and what stock kernels are known for
    Rules(Rules),
    /// Compare two traces, before and after a patch. Exit status: 0 no finding gained, 1 gained, 2 failed or inconclusive
    Diff(Diff),
    /// Convert a trace for Perfetto, DuckDB, Polars, spreadsheets or flame graphs
    Export(Export),
    /// Serve OpenMetrics of this machine for Prometheus, until stopped
    Watch(Watch),
    /// Race page faults against extent manipulation in a directory
    Work(Work),
    /// Run a command in a VM with XFS and ext4 on emulated persistent memory
    Vm(Vm),
    /// Show the whole thing: a stock kernel judged clean, broken modules found out
    Demo(Demo),
    /// Break the kernel in every way known and see what is noticed. Exit status: 0 all of it, and
    /// nothing on the stock kernel; 1 not so; 2 failed
    Selftest(Selftest),
    /// Test a filesystem patch, module, or kernel in the VM, against another if there is one. Exit
    /// status: 0 nothing new is wrong; 1 something is; 2 it could not be judged
    Ci(Ci),
    /// Put the results of `ci --shard` together. Exit status: as `ci`
    Merge(Merge),
    /// Print recorder, decoder and analysis figures of this machine
    Bench(Bench),
    /// Make the recordings that stdin asks for, a line of JSON each, with hooks that stay in place
    #[command(hide = true)]
    Orders,
    /// Print the completions of a shell
    Completions(Completions),
    /// Write man pages
    Man(Man),
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Boot this kernel series in the VM and examine it instead, e.g. 6.12
    #[arg(long, value_name = "SERIES")]
    pub kernel: Option<String>,
    /// Watch these mount points; default: every XFS, ext4 and virtiofs mounted with DAX
    #[arg(value_name = "MOUNT")]
    pub mounts: Vec<PathBuf>,
}

/// Arguments of `record`.
#[derive(Debug, Args)]
pub struct Record {
    /// Trace to write
    #[arg(short, long, value_name = "FILE", default_value = "faultline.flt")]
    pub output: PathBuf,
    /// Watch the filesystem at this path; default: every XFS, ext4 and virtiofs mounted with DAX
    #[arg(short, long, value_name = "PATH")]
    pub mount: Vec<PathBuf>,
    /// Stop after this long
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub time: Option<Duration>,
    /// Ring buffer a CPU, in MiB; a power of two
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    pub ring: u32,
    /// Cost less: record one fault in 16, no sampled stacks, no waits for pins, DAX entries and folios
    #[arg(long)]
    pub light: bool,
    /// Attach by kprobe and kretprobe where they can do the job, as where trampolines do not work
    #[arg(long)]
    pub probes: bool,
    /// Command to run; recording ends with it
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For reading and mailing
    Text,
    /// One object; its schema is in docs/report.md
    Json,
}

/// Arguments of `analyze`.
#[derive(Debug, Args)]
pub struct Analyze {
    /// Trace to judge
    #[arg(value_name = "FILE", default_value = "faultline.flt")]
    pub trace: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Arguments of `confirm`.
#[derive(Debug, Args)]
pub struct Confirm {
    /// Trace with the findings
    #[arg(value_name = "FILE", default_value = "faultline.flt")]
    pub trace: PathBuf,
    /// Only this one, as `analyze` numbers them; default: all that are merely predicted and not known
    #[arg(long, value_name = "N")]
    pub finding: Option<usize>,
    /// Give up after this many tries
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub tries: u32,
    /// Hold a task up for no longer than this at a time
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "8ms")]
    pub delay: Duration,
    /// End each try after this long; default: with the command
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub time: Option<Duration>,
    /// Keep the last try's trace here
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Command that repeats the run; default: the trace's own
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Arguments of `infer`.
#[derive(Debug, Args)]
pub struct Infer {
    /// Trace to look at
    #[arg(value_name = "FILE", default_value = "faultline.flt")]
    pub trace: PathBuf,
    /// Leave out what was seen less often
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub acts: u64,
    /// Leave out what fewer of the acts agree with, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub confidence: f64,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Arguments of `rules`.
#[derive(Debug, Args)]
pub struct Rules {
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Ring buffer a CPU, in MiB; a power of two
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    pub ring: u32,
    /// Cost less: record one fault in 16, no sampled stacks, no waits for pins, DAX entries and folios
    #[arg(long)]
    pub light: bool,
    /// How to colour
    #[arg(long, value_enum, default_value_t)]
    pub color: Color,
    /// Watch these mount points; default: every XFS, ext4 and virtiofs mounted with DAX
    #[arg(value_name = "MOUNT")]
    pub mounts: Vec<PathBuf>,
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// Trace to look through
    #[arg(value_name = "FILE", default_value = "faultline.flt")]
    pub trace: PathBuf,
    /// How to colour
    #[arg(long, value_enum, default_value_t)]
    pub color: Color,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct HtmlReport {
    /// Trace to report on
    #[arg(value_name = "FILE", default_value = "faultline.flt")]
    pub trace: PathBuf,
    /// File to write; `-` is stdout
    #[arg(short, long, value_name = "FILE", default_value = "faultline.html")]
    pub output: PathBuf,
}

/// Arguments of `stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Trace to count
    #[arg(value_name = "FILE", default_value = "faultline.flt")]
    pub trace: PathBuf,
    /// How to print; the schema of JSON is in docs/stats.md
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Order of the tables of locks
    #[arg(long, value_enum, default_value_t)]
    pub sort: SortBy,
    /// Rows of each table that may be long
    #[arg(short = 'n', long, value_name = "N", default_value_t = 12)]
    pub rows: usize,
}

/// Order of a table of locks, the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// Time waited, all together
    #[default]
    Wait,
    /// Waits
    Contended,
    /// Time held, all together
    Hold,
    /// Acquisitions
    Acquired,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// Trace of the state before
    #[arg(value_name = "BEFORE")]
    pub before: PathBuf,
    /// Trace of the state after
    #[arg(value_name = "AFTER")]
    pub after: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// What to convert a trace into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Perfetto's protobuf, for ui.perfetto.dev and trace_processor
    Perfetto,
    /// Chrome's JSON trace events, for chrome://tracing and Perfetto
    ChromeJson,
    /// A directory of Parquet files, one a table
    Parquet,
    /// A directory of CSV files, one a table
    Csv,
    /// Report and figures as one JSON object
    Json,
    /// Folded stacks of lock waits, weighted by nanoseconds, for flame graphs
    Folded,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Trace to convert
    #[arg(value_name = "FILE", default_value = "faultline.flt")]
    pub trace: PathBuf,
    /// What to convert it into
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// File to write (`-` is stdout), or directory for parquet and csv
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Tables of parquet and csv: events, faults, findings, locks, operations, windows; default: all
    #[arg(long, value_name = "NAME")]
    pub table: Vec<String>,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Serve http://ADDRESS/metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9817")]
    pub listen: std::net::SocketAddr,
    /// Stop after this long
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub time: Option<Duration>,
    /// Ring buffer a CPU, in MiB; a power of two
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    pub ring: u32,
    /// Cost less: record one fault in 16, no sampled stacks, no waits for pins, DAX entries and folios
    #[arg(long, conflicts_with = "trace")]
    pub light: bool,
    /// Serve the figures of this trace instead of this machine's
    #[arg(long, value_name = "FILE", conflicts_with = "mounts")]
    pub trace: Option<PathBuf>,
    /// Watch these mount points; default: every XFS, ext4 and virtiofs mounted with DAX
    #[arg(value_name = "MOUNT")]
    pub mounts: Vec<PathBuf>,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Directory to write faultline.1 and a page for each command into
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Arguments of `work`.
#[derive(Debug, Args)]
pub struct Work {
    /// Scenario, or `list`, or `replay` or `shrink` with the log of a failing run
    #[arg(value_name = "SCENARIO")]
    pub scenario: String,
    /// Directory on the filesystem to exercise; after the log with `replay` and `shrink`
    #[arg(value_name = "[LOG] DIR", num_args = 0..=2)]
    pub paths: Vec<PathBuf>,
    /// Run for this long; `shrink`: search for this long
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub time: Duration,
    /// Run for this many operations of the actors instead
    #[arg(long, value_name = "N", conflicts_with = "time")]
    pub ops: Option<u64>,
    /// What all random choices follow from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Fault threads beside the actors, in each process
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub threads: usize,
    /// Processes with fault threads, which map the same files
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub processes: usize,
    /// Size of each file in KiB
    #[arg(long, value_name = "KIB", default_value_t = 4096)]
    pub size: u64,
    /// Bind each thread to a CPU
    #[arg(long)]
    pub pin: bool,
    /// Where to write what was done, if data was wrong [default: faultline-SCENARIO-SEED.log]
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How to print the summary
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Arguments of `vm`.
#[derive(Debug, Args)]
pub struct Vm {
    /// Kernel series of the distribution's mirror
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    pub kernel: String,
    /// Break a filesystem module with one of the mutations that Faultline carries
    #[arg(long, value_name = "NAME", conflicts_with = "patch")]
    pub mutation: Option<String>,
    /// Apply this patch to the filesystem module named by --module
    #[arg(long, value_name = "FILE", requires = "module")]
    pub patch: Option<PathBuf>,
    /// Filesystem module that --patch changes
    #[arg(long, value_name = "xfs|ext4")]
    pub module: Option<String>,
    /// Mount through the page cache instead of DAX
    #[arg(long)]
    pub page_cache: bool,
    /// Make a filesystem with these arguments, e.g. xfs="-m reflink=1" or
    /// ext4="-b 4096 -O ^has_journal"; default: xfs="-m reflink=0", ext4="-b 4096"
    #[arg(long, value_name = "FS=ARGUMENTS", value_parser = per_filesystem)]
    pub mkfs: Vec<(FilesystemKind, String)>,
    /// Mount a filesystem with these options, e.g. xfs=dax=inode; default: dax=always
    #[arg(long, value_name = "FS=OPTIONS", value_parser = per_filesystem)]
    pub options: Vec<(FilesystemKind, String)>,
    /// Take this program of the host along, with its libraries; for a COMMAND that runs several
    #[arg(long, value_name = "PROGRAM")]
    pub program: Vec<String>,
    /// Keep the guest's /result here
    #[arg(long, value_name = "DIR")]
    pub result: Option<PathBuf>,
    /// Kill the VM after this long
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "180s")]
    pub timeout: Duration,
    /// Show the guest's console
    #[arg(short, long)]
    pub verbose: bool,
    /// Command to run in the guest; /mnt/xfs and /mnt/ext4 are mounted, /result reaches the host
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Kernel series of the distribution's mirror
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    pub kernel: String,
    /// How long each workload runs
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "15s")]
    pub time: Duration,
    /// Keep traces, consoles and reports here
    #[arg(long, value_name = "DIR")]
    pub result: Option<PathBuf>,
    /// Only these mutations, and `stock`
    #[arg(value_name = "RUN")]
    pub only: Vec<String>,
}

/// How to print a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// For a terminal
    Text,
    /// For a web page or a mail
    Markdown,
    /// One object
    Json,
}

/// Arguments of `selftest`.
#[derive(Debug, Args)]
pub struct Selftest {
    /// Only these mutations; `stock` is the unmodified kernel. Default: all of them
    #[arg(value_name = "NAME")]
    pub only: Vec<String>,
    /// Only mutations of these classes
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    pub class: Vec<String>,
    /// Only a few that take little time
    #[arg(long)]
    pub fast: bool,
    /// Kernel series of the distribution's mirror
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    pub kernel: String,
    /// Run each workload for this long
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    pub time: Duration,
    /// Keep traces and consoles here instead of in the cache
    #[arg(long, value_name = "DIR")]
    pub result: Option<PathBuf>,
    /// Repeat a workload whose findings are merely predicted, up to N times, and hold tasks up meanwhile
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    pub confirm: Option<u32>,
    /// Run this many guests at a time; default: as many as processors and memory bear
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Build the modules and stop there
    #[arg(long)]
    pub build: bool,
    /// Run on a small kernel with the lock validator, which is built once from the series' source package, and say
    /// beside each other what Faultline and what lockdep noticed
    #[arg(long, conflicts_with = "fast")]
    pub lockdep: bool,
    /// With --lockdep, keep the rows of an earlier run and do the others
    #[arg(long, requires = "lockdep")]
    pub resume: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t = TableFormat::Text)]
    pub format: TableFormat,
}

/// Arguments of `ci`.
#[derive(Debug, Args)]
pub struct Ci {
    /// What to test: a patch to fs/xfs or fs/ext4, the source of one of them, a built kernel tree,
    /// image:IMAGE,MODULES, installed:RELEASE, or a series or release of Debian's (6.12, 7, 6.12.95)
    #[arg(value_name = "SUBJECT", required_unless_present = "inside")]
    pub subject: Option<Subject>,
    /// Judge the running kernel, on this machine: for a VM that was booted already, as by vng. Needs root
    #[arg(long, conflicts_with_all = ["subject", "baseline", "kernel"])]
    pub inside: bool,
    /// With --inside, work on this mount; default: every XFS, ext4 and virtiofs mounted with DAX
    #[arg(long, value_name = "PATH", requires = "inside")]
    pub mount: Vec<PathBuf>,
    /// With --inside, run `check` of xfstests built in DIR instead, with the arguments after --; the mounts are
    /// TEST_DIR and SCRATCH_MNT, both mounted
    #[arg(long, value_name = "DIR", requires = "inside")]
    pub xfstests: Option<PathBuf>,
    /// Compare with this: only what is new counts
    #[arg(long, value_name = "SUBJECT")]
    pub baseline: Option<Subject>,
    /// Packaged kernel that a patch or a module is for; default: 6.12
    #[arg(long, value_name = "SERIES")]
    pub kernel: Option<String>,
    /// How thorough; default: smoke
    #[arg(long, value_enum)]
    pub suite: Option<Suite>,
    /// Only this filesystem
    #[arg(long, value_name = "xfs|ext4|virtiofs", value_parser = filesystem)]
    pub filesystem: Vec<FilesystemKind>,
    /// Only this scenario; `faultline work list` has them
    #[arg(long, value_name = "NAME")]
    pub scenario: Vec<String>,
    /// Run each workload for this long instead of the suite's time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub time: Option<Duration>,
    /// Percentage of the pairs of an operation and a kind of fault that must have met
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub min_coverage: Option<u8>,
    /// Repeat a workload whose findings are merely predicted, up to N times, and hold tasks up until the race
    /// is seen
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    pub confirm: Option<u32>,
    /// Run only this part of the matrix, e.g. 2/4
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Run this many guests at a time; default: as many as processors and memory bear, two processors and 3.25 GiB each, and one for each kernel
    #[arg(long, value_name = "N", conflicts_with = "inside")]
    pub jobs: Option<NonZeroUsize>,
    /// Go on where an earlier run into the same directory was stopped
    #[arg(long)]
    pub resume: bool,
    /// Read this instead of faultline.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where results go: junit.xml, faultline.sarif, summary.md, summary.json, traces; emptied first
    #[arg(short, long, value_name = "DIR", default_value = "faultline-ci")]
    pub output: PathBuf,
    /// Arguments of xfstests' `check`
    #[arg(last = true, value_name = "ARGUMENTS", requires = "xfstests")]
    pub arguments: Vec<OsString>,
}

/// Arguments of `merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// Directories that `ci --shard` wrote
    #[arg(value_name = "DIR", required = true)]
    pub parts: Vec<PathBuf>,
    /// Where the results go
    #[arg(short, long, value_name = "DIR", default_value = "faultline-ci")]
    pub output: PathBuf,
    /// Percentage of the pairs of an operation and a kind of fault that must have met
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    pub min_coverage: u8,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure.
    #[command(subcommand)]
    pub what: Measure,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Measure {
    /// Decode and judge a trace: events a second, bytes an event, peak memory
    Analysis(BenchAnalysis),
    /// The screen of `top` over a synthetic run: leave with q, and see what it cost
    Screen(BenchScreen),
    /// What recording adds to a page fault, beside `perf record` where that is installed
    Fault(BenchFault),
    /// The same in a VM, on XFS and ext4 with DAX
    Vm(BenchVm),
    /// The fault loop that `fault` times
    #[command(hide = true)]
    Loop(BenchLoop),
}

/// Arguments of `bench analysis`.
#[derive(Debug, Args)]
pub struct BenchAnalysis {
    /// Trace to read; default: a synthetic one
    #[arg(value_name = "TRACE")]
    pub trace: Option<PathBuf>,
    /// Passes of each kind
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub passes: u32,
    /// Events of the synthetic trace
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4_000_000,
        conflicts_with = "trace"
    )]
    pub events: u64,
}

/// Arguments of `bench screen`.
#[derive(Debug, Args)]
pub struct BenchScreen {
    /// Events a second
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// The run stands still after this
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1h")]
    pub time: Duration,
    /// Only the model, and what it is made around, without a screen, for the time
    #[arg(long)]
    pub bare: bool,
    /// Only the model and its figures: this much of the run's time as fast as it goes, with memory used early and late
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "bare")]
    pub hurry: Option<Duration>,
}

/// Arguments of `bench fault`.
#[derive(Debug, Args)]
pub struct BenchFault {
    /// Directory on the filesystem to fault on
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Faults a run
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub faults: u64,
    /// Runs of each kind
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

/// Arguments of `bench vm`.
#[derive(Debug, Args)]
pub struct BenchVm {
    /// Kernel series of the distribution's mirror
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    pub kernel: String,
    /// Faults a run
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub faults: u64,
    /// Runs of each kind
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Kill the VM after this long
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m")]
    pub timeout: Duration,
}

/// Arguments of the fault loop.
#[derive(Debug, Args)]
pub struct BenchLoop {
    /// File to map
    pub file: PathBuf,
    /// Faults
    #[arg(long)]
    pub faults: u64,
}

/// `xfs`, `ext4` or `virtiofs`.
fn filesystem(text: &str) -> Result<FilesystemKind, String> {
    FilesystemKind::parse(text)
        .ok_or_else(|| format!("{text} is neither xfs nor ext4 nor virtiofs"))
}

/// `xfs=-m reflink=1`.
fn per_filesystem(text: &str) -> Result<(FilesystemKind, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text} names no filesystem; write xfs=… or ext4=…"))?;
    let kind = FilesystemKind::parse(name)
        .filter(|kind| kind.is_on_disk())
        .ok_or_else(|| format!("{name} is no filesystem of the VM; there are xfs and ext4"))?;
    Ok((kind, value.to_owned()))
}

/// `90`, `90s`, `2m`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text} is no time; try 90s or 2m"))?;
    match unit {
        "" | "s" => Ok(Duration::from_secs(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(format!("{unit} is no unit of time; use ms, s, m or h")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn reads_what_is_said_of_one_filesystem() {
        assert_eq!(
            per_filesystem("xfs=-m reflink=1"),
            Ok((FilesystemKind::Xfs, "-m reflink=1".to_owned()))
        );
        assert!(per_filesystem("-m reflink=1").is_err() && per_filesystem("xfs").is_err());
    }

    #[test]
    fn reads_times() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("soon").is_err() && duration("3d").is_err());
    }
}
