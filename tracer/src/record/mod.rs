//! Records a trace: attaches, runs the command under test, drains the rings into the file.

mod attachment;
mod command;
mod drain;
mod identity;

use std::{
    collections::BTreeSet, ffi::OsString, fs, io, path::PathBuf, process::ExitStatus,
    time::Duration,
};

pub use attachment::Attachment;
pub(crate) use identity::{inode, task};

use crate::{
    attach::{AttachError, Limits, Mounted, Session},
    hooks::FILESYSTEMS,
    kernel::{
        symbols::Symbols,
        types::{KernelTypes, TypesError},
    },
    plan::{Delay, Extent, Plan, Prefer},
    trace::{Header, Mount, TraceError},
    units::Nanos,
};

/// What to record.
#[derive(Clone, Debug)]
pub struct Options {
    /// The trace to write.
    pub output: PathBuf,
    /// Filesystems to watch.
    pub mounts: Vec<Mount>,
    /// Command to run; recording ends with it. Empty: until told to stop.
    pub command: Vec<OsString>,
    /// What the command prints goes where our errors go, since standard output is for something else.
    pub aside: bool,
    /// Ends the recording, and the command, after this long.
    pub limit: Option<Duration>,
    /// Sizes.
    pub limits: Limits,
    /// Which way to attach is tried first.
    pub prefer: Prefer,
    /// How much is recorded.
    pub extent: Extent,
    /// Tasks are held up.
    pub delay: Option<Delay>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Events written.
    pub events: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Losses of any kind.
    pub lost: u64,
    /// Hits for which the kernel skipped a hook's program and that its relief took.
    pub made_up: u64,
    /// How the command ended.
    pub status: Option<ExitStatus>,
    /// The command could not be ended: it is stuck in the kernel.
    pub stuck: bool,
    /// From the last hook in place to the end.
    pub elapsed: Duration,
}

/// How far it is.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Reading the kernel's types and attaching hooks.
    Attaching,
    /// Hooks are in place.
    Attached {
        /// Rows attached.
        hooks: usize,
        /// Rows that this kernel does not offer.
        missing: usize,
    },
    /// Events so far.
    Recording {
        /// Written.
        events: u64,
        /// Lost.
        lost: u64,
    },
    /// Tasks do not go on: a sentence of a finding.
    Hang(String),
}

/// Why recording failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Types of the running kernel.
    #[error(transparent)]
    Types(#[from] TypesError),
    /// Attaching.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The trace file.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Kernel symbols.
    #[error("cannot read /proc/kallsyms")]
    Symbols(#[source] io::Error),
    /// The command under test.
    #[error("cannot run {command}")]
    Command {
        /// Its name.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// Waiting for events.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
    /// No hook could be attached at all.
    #[error("no hook could be attached; the first of {count} says: {reason}")]
    NoHooks {
        /// Rows tried.
        count: usize,
        /// The first row's error.
        reason: String,
    },
}

/// What the running kernel offers, as the plan sees it.
pub fn resolve_plan(
    mounts: &[Mount],
    extent: Extent,
    delay: Option<Delay>,
) -> Result<Plan, RecordError> {
    let kinds: BTreeSet<_> = mounts.iter().map(|mount| mount.filesystem).collect();
    let modules: Vec<&str> = FILESYSTEMS
        .iter()
        .filter(|table| kinds.contains(&table.kind))
        .map(|table| table.module)
        .collect();
    let types = KernelTypes::load(&modules)?;
    let symbols = Symbols::load().map_err(RecordError::Symbols)?;
    let mut plan = Plan::resolve(&types, &symbols, &kinds, small_blocks(mounts), delay)?;
    plan.limit(extent);
    Ok(plan)
}

/// Attaches the plan to `mounts`.
pub fn attach(plan: &Plan, mounts: &[Mount], limits: Limits) -> Result<Session, RecordError> {
    let session = Session::attach(plan, &watched(mounts), limits)?;
    if session.hooks().iter().all(|hook| hook.attached.is_err()) {
        return Err(RecordError::NoHooks {
            count: session.hooks().len(),
            reason: session
                .hooks()
                .iter()
                .find_map(|hook| hook.attached.clone().err())
                .unwrap_or_default(),
        });
    }
    Ok(session)
}

/// Whether a page of some file has several blocks.
fn small_blocks(mounts: &[Mount]) -> bool {
    const PAGE: u64 = 4096;
    mounts.iter().any(|mount| {
        let found = nix::sys::statvfs::statvfs(mount.path.as_str());
        found.is_ok_and(|found| found.block_size() < PAGE)
    })
}

fn watched(mounts: &[Mount]) -> Vec<Mounted> {
    mounts
        .iter()
        .map(|mount| Mounted {
            filesystem: mount.filesystem,
            device: mount.device,
        })
        .collect()
}

pub(crate) fn now() -> Nanos {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(Duration::ZERO, Duration::from);
    Nanos(time.as_nanos() as u64)
}

fn realtime_offset() -> i64 {
    let real = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)
        .map_or(Duration::ZERO, Duration::from);
    real.as_nanos() as i64 - now().0 as i64
}

pub(crate) fn header(
    command: &[OsString],
    mounts: &[Mount],
    plan: &Plan,
    extent: Extent,
) -> Header {
    let read = |file: &str| {
        fs::read_to_string(format!("/proc/sys/kernel/{file}"))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    Header {
        kernel: read("osrelease"),
        build: read("version"),
        host: read("hostname"),
        cpus: 0,
        recorder: env!("CARGO_PKG_VERSION").to_owned(),
        command: command
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        realtime_offset: realtime_offset(),
        started: now(),
        mounts: mounts.to_vec(),
        hooks: Vec::new(),
        locks: plan.locks.clone(),
        left_out: extent.left_out(),
    }
}
