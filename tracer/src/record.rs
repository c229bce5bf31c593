//! Records a trace: attaches, runs the command under test, drains the rings into the file.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsString,
    fs, io,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use tracer_ebpf::{
    Event, InodeRecord, TaskRecord,
    event::{NAME_DEPTH, NAME_LEN},
};

use crate::{
    attach::{AttachError, Health, Limits, Mounted, Record, Session},
    hang::HangWatch,
    hooks::FILESYSTEMS,
    kernel::{
        symbols::Symbols,
        types::{KernelTypes, TypesError},
    },
    marks::Receiver,
    plan::{Delay, Extent, Plan, Prefer},
    trace::{Footer, Header, Inode, Loss, Mark, Mount, Stack, Task, TraceError, Writer},
    units::{Device, Ino, InodeAddress, Nanos, Pid, StackId, Tid},
};

/// A ring is looked at no less often than this.
const DRAIN_EVERY: Duration = Duration::from_millis(20);
/// Losses are asked for and the file is brought up to date this often.
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// How long a command that was told to end may take.
const GRACE: Duration = Duration::from_secs(5);

/// include/linux/fs.h: S_DAX
const S_DAX: u32 = 1 << 13;

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
    /// From attach to detach.
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
    let mut plan = Plan::resolve(&types, &symbols, &kinds, delay)?;
    plan.limit(extent);
    Ok(plan)
}

/// Attaches the plan to `mounts`.
pub fn attach(plan: &Plan, mounts: &[Mount], limits: Limits) -> Result<Session, RecordError> {
    let watched: Vec<Mounted> = mounts
        .iter()
        .map(|mount| Mounted {
            filesystem: mount.filesystem,
            device: mount.device,
        })
        .collect();
    let session = Session::attach(plan, &watched, limits)?;
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

/// Records until the command ends, the limit is over, or `stop` is set.
pub fn record(
    options: &Options,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, RecordError> {
    progress(Progress::Attaching);
    let mut plan = resolve_plan(&options.mounts, options.extent, options.delay)?;
    plan.prefer(options.prefer);
    // The file first: a full disk or a bad path must not cost an attach.
    let mut header = header(&options.command, &options.mounts, &plan, options.extent);
    drop(Writer::create(&options.output, &header)?);
    let mut session = attach(&plan, &options.mounts, options.limits)?;
    header.hooks = session.hooks().to_vec();
    header.cpus = session.cpus();
    // What began before the last hook was in place is not judged.
    header.started = now();
    let started = Instant::now();
    let mut recorder = Recorder {
        writer: Writer::create(&options.output, &header)?,
        // After the attach: the programs and trampolines have symbols by now.
        symbols: Symbols::load().map_err(RecordError::Symbols)?,
        stacks: HashSet::new(),
        batch: Vec::with_capacity(1 << 16),
        events: 0,
        health: Health::default(),
        checked: now(),
        lost: 0,
        marks: None,
        said: Vec::new(),
        hang: HangWatch::new(&header.hooks, &options.output),
    };
    let attached = header
        .hooks
        .iter()
        .filter(|hook| hook.attached.is_ok())
        .count();
    progress(Progress::Attached {
        hooks: attached,
        missing: header.hooks.len() - attached,
    });

    let (mut child, marks) = spawn(&options.command, options.aside)?;
    recorder.marks = marks;
    let outcome = recorder.follow(&mut session, child.as_mut(), options.limit, stop, progress);
    let (status, stuck) = match (outcome, child) {
        (Ok(Ended::Not), _) => (None, false),
        (Ok(Ended::Command(status)), _) => (Some(status), false),
        (Ok(Ended::Stuck), _) => (None, true),
        (Err(error), child) => {
            // The command must not outlive the recorder that it ran under.
            if let Some(mut child) = child {
                end(&mut child).map_err(RecordError::Wait)?;
            }
            return Err(error);
        }
    };
    let (lost, made_up) = (recorder.lost, session.made_up());
    let footer = Footer {
        ended: now(),
        command_status: status.map(|status| {
            status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
        }),
        // Counting would cost every program two clock reads.
        runs: Vec::new(),
    };
    let written = recorder.writer.finish(&footer)?;
    drop(session);
    Ok(Summary {
        events: written.events,
        bytes: written.bytes,
        lost,
        made_up,
        status,
        stuck,
        elapsed: started.elapsed(),
    })
}

struct Recorder {
    writer: Writer,
    symbols: Symbols,
    stacks: HashSet<i32>,
    batch: Vec<Event>,
    events: u64,
    health: Health,
    checked: Nanos,
    lost: u64,
    marks: Option<Receiver>,
    said: Vec<Mark>,
    hang: HangWatch,
}

/// How the command under test ended.
enum Ended {
    /// There is none.
    Not,
    /// By itself, or as it was told.
    Command(ExitStatus),
    /// Not even SIGKILL ends it.
    Stuck,
}

impl Recorder {
    fn follow(
        &mut self,
        session: &mut Session,
        mut child: Option<&mut Child>,
        limit: Option<Duration>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Ended, RecordError> {
        let started = Instant::now();
        let mut flushed = Instant::now();
        let mut gone: Option<Instant> = None;
        loop {
            session.wait(DRAIN_EVERY).map_err(RecordError::Wait)?;
            self.take(session)?;
            self.listen()?;
            if flushed.elapsed() >= FLUSH_EVERY {
                self.check(session);
                self.look_for_hangs()?;
                self.writer.flush()?;
                self.hang.judge();
                flushed = Instant::now();
                let left = child.as_deref().is_some_and(|child| !goes_on(child));
                gone = left.then(|| gone.unwrap_or(flushed));
                progress(Progress::Recording {
                    events: self.events,
                    lost: self.lost,
                });
            }
            for sentence in self.hang.news() {
                progress(Progress::Hang(sentence));
            }
            let over = stop.load(Ordering::Relaxed)
                || limit.is_some_and(|limit| started.elapsed() >= limit);
            let stuck = gone.is_some_and(|since| since.elapsed() >= GRACE);
            let ended = match child.as_deref_mut() {
                Some(_) if stuck => Ended::Stuck,
                Some(child) if over => end(child).map_err(RecordError::Wait)?,
                Some(child) => match child.try_wait().map_err(RecordError::Wait)? {
                    Some(status) => Ended::Command(status),
                    None => continue,
                },
                None if over => Ended::Not,
                None => continue,
            };
            while self.take(session)? > 0 {}
            self.listen()?;
            self.check(session);
            self.look_for_hangs()?;
            progress(Progress::Recording {
                events: self.events,
                lost: self.lost,
            });
            return Ok(ended);
        }
    }

    /// Writes down what tasks that do not go on are in the middle of.
    fn look_for_hangs(&mut self) -> Result<(), RecordError> {
        let (events, stacks) = self.hang.look(now());
        self.writer.stacks(&stacks);
        Ok(self.writer.events(0, &events)?)
    }

    /// Moves what the workload said into the file.
    fn listen(&mut self) -> Result<(), RecordError> {
        if let Some(marks) = &mut self.marks {
            marks.take(&mut self.said).map_err(RecordError::Wait)?;
            self.writer.marks(&mut self.said);
        }
        Ok(())
    }

    /// Moves what the rings hold into the file.
    fn take(&mut self, session: &mut Session) -> Result<u64, RecordError> {
        let mut current = 0;
        let mut outcome = Ok(());
        let mut new_stacks = Vec::new();
        let Self {
            writer,
            batch,
            stacks,
            hang,
            ..
        } = self;
        let count = session.drain(|cpu, record| {
            if cpu != current {
                by_time(batch);
                if outcome.is_ok() {
                    outcome = writer.events(current, batch);
                }
                batch.clear();
                current = cpu;
            }
            match record {
                Record::Event(event) => {
                    if event.head.stack >= 0 && stacks.insert(event.head.stack) {
                        new_stacks.push(event.head.stack);
                    }
                    hang.event(event);
                    batch.push(*event);
                }
                // Kept as events too: they count in their task's sequence.
                Record::Inode(record) => {
                    writer.inodes(&[inode(record)]);
                    batch.push(Event {
                        head: record.head,
                        inode: record.inode,
                        ..Event::default()
                    });
                }
                Record::Task(record) => {
                    hang.task(record.head.task);
                    writer.tasks(&[task(record)]);
                    batch.push(Event {
                        head: record.head,
                        ..Event::default()
                    });
                }
            }
        });
        outcome?;
        by_time(&mut self.batch);
        self.writer.events(current, &self.batch)?;
        self.batch.clear();
        self.events += count;
        if !new_stacks.is_empty() {
            let resolved: Vec<Stack> = new_stacks
                .into_iter()
                .filter_map(|id| {
                    let id = StackId(id as u32);
                    let frames = session.stack(id)?;
                    Some(Stack {
                        id,
                        frames: self.symbols.stack(&frames),
                    })
                })
                .collect();
            self.writer.stacks(&resolved);
        }
        Ok(count)
    }

    /// Writes down what was lost since the last time.
    fn check(&mut self, session: &mut Session) {
        let health = session.health();
        let (from, to) = (self.checked, now());
        for (cpu, count, cause) in health.since(&self.health) {
            self.lost += count;
            self.writer.loss(&Loss {
                cpu,
                from,
                to,
                count,
                cause,
            });
        }
        self.health = health;
        self.checked = to;
    }
}

/// A task that loses the CPU between reserving its record and looking at the clock has its record in
/// front of earlier ones, which wait for it in the ring.
fn by_time(batch: &mut [Event]) {
    if !batch.is_sorted_by_key(|event| event.head.time) {
        batch.sort_by_key(|event| event.head.time);
    }
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

fn spawn(
    command: &[OsString],
    aside: bool,
) -> Result<(Option<Child>, Option<Receiver>), RecordError> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok((None, None));
    };
    let failed = |source| RecordError::Command {
        command: program.to_string_lossy().into_owned(),
        source,
    };
    let mut command = Command::new(program);
    command.args(arguments);
    if aside {
        command.stdout(io::stderr());
    }
    let mut marks = Receiver::attach(&mut command).map_err(failed)?;
    let child = command.spawn().map_err(failed)?;
    marks.started();
    Ok((Some(child), Some(marks)))
}

/// Asks the command to end, kills it if it does not, and gives up if that does not help: a task that is
/// stuck in the kernel cannot be waited for, and the trace of it is what matters.
fn end(child: &mut Child) -> io::Result<Ended> {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    // It may have ended by itself meanwhile.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    if let Some(status) = wait_for(child)? {
        return Ok(Ended::Command(status));
    }
    child.kill()?;
    Ok(wait_for(child)?.map_or(Ended::Stuck, Ended::Command))
}

/// False for a command whose main thread is at its end, which nobody learns of while another of its threads is stuck
/// in the kernel.
fn goes_on(child: &Child) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    // (proc_pid_stat(5)) the name, in parentheses, may hold any byte.
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    !state.is_some_and(|state| state.starts_with(['Z', 'X']))
}

fn wait_for(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(None)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

pub(crate) fn task(record: &TaskRecord) -> Task {
    Task {
        tid: Tid(record.head.task),
        pid: Pid(record.process),
        name: text(&record.name),
    }
}

pub(crate) fn inode(record: &InodeRecord) -> Inode {
    Inode {
        since: Nanos(record.head.time),
        address: InodeAddress(record.inode),
        ino: Ino(record.number),
        generation: record.generation,
        device: Device(record.device),
        block_bits: record.block_bits,
        dax: record.flags & S_DAX != 0,
        path: path(&record.names),
    }
}

/// Joins leaf-first names, below the mount point; what lies above the last known one is shown as `…`.
fn path(names: &[[u8; NAME_LEN]; NAME_DEPTH]) -> String {
    let mut parts: Vec<String> = names
        .iter()
        .map(|name| text(name))
        .take_while(|name| !name.is_empty())
        .collect();
    match parts.last_mut() {
        None => return String::new(),
        Some(root) if root == "/" => {
            parts.pop();
        }
        Some(_) => parts.push("…".to_owned()),
    }
    parts.reverse();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> [[u8; NAME_LEN]; NAME_DEPTH] {
        let mut names = [[0; NAME_LEN]; NAME_DEPTH];
        for (slot, word) in names.iter_mut().zip(words) {
            slot[..word.len()].copy_from_slice(word.as_bytes());
        }
        names
    }

    #[test]
    fn joins_names_leaf_first() {
        assert_eq!(path(&names(&["a", "dir", "/"])), "dir/a");
        assert_eq!(path(&names(&["a", "/"])), "a");
        assert_eq!(path(&names(&["d", "c", "b", "a"])), "…/a/b/c/d");
        assert_eq!(path(&names(&[])), "");
    }
}
