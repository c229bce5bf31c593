//! Runs a command with a time limit, its output in files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::recorder::{Made, Recorder};
use crate::lab::job::{CommandJob, CommandOutcome, FilesystemJob};

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// A task stuck in the kernel does not die of SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Background children may keep a pipe open.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Runs a command of the job, or has `recorder` make it if it is a recording; every failure is part of the outcome.
pub(super) fn run(
    job: &CommandJob,
    directory: &Path,
    recorder: &mut Option<Recorder>,
) -> CommandOutcome {
    let started = Instant::now();
    let mut outcome = CommandOutcome {
        name: job.name.clone(),
        status: None,
        signal: None,
        timed_out: false,
        seconds: 0.0,
        error: None,
    };
    let end = if job.standing {
        Recorder::run(recorder, job, directory)
    } else {
        // It may attach hooks of its own.
        Recorder::dismiss(recorder).and_then(|()| execute(job, directory).map(Made::Ended))
    };
    match end {
        Ok(Made::Answered(answer)) => outcome.status = Some(answer.status.into()),
        Ok(Made::Ended(End::Exited(status))) => {
            outcome.status = status.code();
            outcome.signal = status.signal();
        }
        Ok(Made::Ended(End::Killed { status, waiting })) => {
            outcome.timed_out = true;
            outcome.signal = status.and_then(|status| status.signal());
            outcome.error = Some(format!(
                "killed after {} s{}; its tasks were in:\n{waiting}",
                job.timeout_seconds,
                if status.is_none() {
                    " and did not die"
                } else {
                    ""
                }
            ));
        }
        Err(error) => outcome.error = Some(format!("{error:#}")),
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    reap_orphans();
    outcome
}

/// Makes a filesystem.
///
/// # Errors
/// mkfs fails; the message has its output.
pub(super) fn mkfs(filesystem: &FilesystemJob, limit: Duration) -> Result<()> {
    let program = format!("mkfs.{}", filesystem.kind.module());
    let log_path = Path::new("/tmp").join(&program);
    let log = File::create(&log_path)?;
    let mut command = prepare(&program);
    command.args(&filesystem.mkfs).arg(&filesystem.device);
    command.stdout(log.try_clone()?).stderr(log);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    match wait(&mut child, limit)? {
        End::Exited(status) if status.success() => Ok(()),
        End::Exited(status) => {
            let text = fs::read_to_string(&log_path).unwrap_or_default();
            bail!("{program} failed ({status}): {}", text.trim())
        }
        End::Killed { waiting, .. } => {
            bail!(
                "{program} killed after {} s; it was in:\n{waiting}",
                limit.as_secs()
            )
        }
    }
}

pub(super) enum End {
    Exited(ExitStatus),
    Killed {
        /// `None` if it did not even die.
        status: Option<ExitStatus>,
        /// Kernel stacks of its tasks before the kill.
        waiting: String,
    },
}

/// A program of the job, with the environment that programs get, in a process group of its own.
pub(super) fn prepare(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("PATH", PATH)
        .env("HOME", "/root")
        .current_dir("/")
        .stdin(Stdio::null())
        .process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this makes one,
    // sigprocmask(2) on a set of its own.
    unsafe { command.pre_exec(|| Ok(children().thread_unblock()?)) };
    command
}

/// # Errors
/// The command's name cannot name files.
pub(super) fn check_name(job: &CommandJob) -> Result<()> {
    if job.name.contains('/') || job.name.is_empty() {
        bail!("`{}` cannot name a file", job.name);
    }
    Ok(())
}

fn execute(job: &CommandJob, directory: &Path) -> Result<End> {
    let (program, arguments) = job.argv.split_first().context("the command is empty")?;
    check_name(job)?;
    // Found here, since the lookup of Command uses the parent's PATH.
    let program = locate(program).with_context(|| format!("no program {program} in the guest"))?;
    let mut command = prepare(&program);
    command.args(arguments).envs(&job.env);
    let stdout = File::create(directory.join(format!("{}.stdout", job.name)))?;
    let stderr = File::create(directory.join(format!("{}.stderr", job.name)))?;
    if !job.console {
        command.stdout(stdout).stderr(stderr);
        return wait(
            &mut spawn(&mut command)?,
            Duration::from_secs(job.timeout_seconds),
        );
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&mut command)?;
    let (sender, done) = mpsc::channel();
    let pipes: [(Option<Box<dyn Read + Send>>, File); 2] = [
        (child.stdout.take().map(|pipe| Box::new(pipe) as _), stdout),
        (child.stderr.take().map(|pipe| Box::new(pipe) as _), stderr),
    ];
    for (pipe, file) in pipes {
        if let Some(pipe) = pipe {
            let sender = sender.clone();
            std::thread::spawn(move || {
                tee(pipe, file);
                // The receiver is gone if the command was given up.
                let _ = sender.send(());
            });
        }
    }
    drop(sender);
    let end = wait(&mut child, Duration::from_secs(job.timeout_seconds));
    let deadline = Instant::now() + DRAIN_LIMIT;
    while done
        .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        .is_ok()
    {}
    end
}

pub(super) fn spawn(command: &mut Command) -> Result<Child> {
    command
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))
}

fn locate(program: &str) -> Option<String> {
    if program.contains('/') {
        return Some(program.to_owned());
    }
    PATH.split(':')
        .map(|directory| format!("{directory}/{program}"))
        .find(|path| Path::new(path).exists())
}

/// Copies to the file and to the console; a console that fails loses its copy only.
fn tee(mut pipe: impl Read, mut file: File) {
    let mut console = File::options().write(true).open("/dev/console").ok();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = pipe.read(&mut buffer) {
        if file.write_all(&buffer[..length]).is_err() {
            return;
        }
        if let Some(console) = &mut console {
            let _ = console.write_all(&buffer[..length]);
        }
    }
}

fn wait(child: &mut Child, limit: Duration) -> Result<End> {
    if ends_within(child, limit)? {
        return Ok(End::Exited(child.wait()?));
    }
    end_group(child)
}

/// Kills a command that took too long, with all that it started.
///
/// # Errors
/// The kernel does not let it be waited for.
pub(super) fn end_group(child: &mut Child) -> Result<End> {
    let waiting = stacks(child.id());
    // What blocks goes into the kernel log too, with every task of the machine.
    let _ = fs::write("/proc/sysrq-trigger", "w");
    // A group that is gone needs no signal.
    let _ = killpg(group_of(child)?, Signal::SIGKILL);
    let status = if ends_within(child, KILL_LIMIT)? {
        Some(child.wait()?)
    } else {
        None
    };
    Ok(End::Killed { status, waiting })
}

fn group_of(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

/// Keeps SIGCHLD for [`ends_within`], in this thread and those it starts. Programs, which would
/// inherit the mask, get it back in [`prepare`]: a shell's `wait` would never return.
///
/// # Errors
/// The kernel refuses, which it never does.
pub(super) fn watch_children() -> Result<()> {
    children()
        .thread_block()
        .context("cannot hold SIGCHLD back")
}

fn children() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set
}

/// Whether a process ends in time; it is not reaped.
pub(super) fn ends_within(child: &Child, limit: Duration) -> Result<bool> {
    Ok(first_of(child, None, limit)? == First::End)
}

/// What came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// The process is over.
    End,
    /// It said something.
    Word,
    /// The time was up.
    Limit,
}

/// Waits for the end of a process without reaping it, or for what it says. Orphans, whom pid 1
/// inherits, are reaped as they end: a daemon that waits for its grandchild to be gone would wait
/// for ever.
///
/// # Errors
/// The kernel does not let it be waited for.
pub(super) fn first_of(
    child: &Child,
    words: Option<BorrowedFd<'_>>,
    limit: Duration,
) -> Result<First> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let ends = SignalFd::with_flags(&children(), flags).context("cannot watch the command")?;
    let deadline = Instant::now() + limit;
    loop {
        if reap_others(pid)? {
            return Ok(First::End);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) {
            return Ok(First::Limit);
        }
        let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let watched = [Some(ends.as_fd()), words].into_iter().flatten();
        let mut watched: Vec<PollFd> = watched
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut watched, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the command"),
        }
        let said = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
        if watched.get(1).is_some_and(said) {
            return Ok(First::Word);
        }
        // One signal may stand for many ends; all are looked for above.
        while ends.read_signal().is_ok_and(|signal| signal.is_some()) {}
    }
}

/// Reaps every ended child but this one; says whether this one has ended.
fn reap_others(child: Pid) -> Result<bool> {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    if waitid(Id::Pid(child), peek).context("cannot wait for the command")?
        != WaitStatus::StillAlive
    {
        return Ok(true);
    }
    loop {
        match waitid(Id::All, peek) {
            // Ended since it was asked for above.
            Ok(status) if status.pid() == Some(child) => return Ok(true),
            Ok(WaitStatus::StillAlive) | Err(_) => return Ok(false),
            Ok(status) => {
                if let Some(orphan) = status.pid() {
                    // It has ended, so this does not wait, and pid 1 is its only parent.
                    let _ = waitpid(orphan, None);
                }
            }
        }
    }
}

/// Kernel stacks of the tasks in the command's process group.
fn stacks(group: u32) -> String {
    let mut text = String::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let Ok(stat) = fs::read_to_string(path.join("stat")) else {
            continue;
        };
        // Name in parentheses, then state, parent, group.
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        if fields.split(' ').nth(2) != Some(group.to_string().as_str()) {
            continue;
        }
        for task in fs::read_dir(path.join("task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let task_name = task.file_name();
            text.push_str(&format!(
                "{} {}\n",
                task_name.display(),
                read("comm").trim()
            ));
            text.push_str(&read("stack"));
        }
    }
    text
}

/// Kills what the commands left running; it would keep the filesystems busy. The standing recorder, `spared`,
/// stays.
pub(super) fn kill_everything(spared: Option<u32>) {
    let deadline = Instant::now() + KILL_LIMIT;
    // What does not die of it hangs in the kernel, and unmounting has a limit.
    while Instant::now() < deadline {
        reap_orphans();
        let mut left = false;
        for process in processes() {
            if process != std::process::id() && Some(process) != spared {
                let pid = Pid::from_raw(process.cast_signed());
                // It may be gone by now.
                left |= kill(pid, Signal::SIGKILL).is_ok();
            }
        }
        if !left {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Processes that run a program: not the kernel's own threads, nor what has ended.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(") ").map_or("Z", |(_, fields)| fields);
            if fields.starts_with(['Z', 'X']) {
                return false;
            }
            // (proc_pid_stat(5)) field 9: flags; include/linux/sched.h: PF_KTHREAD.
            let flags = fields.split(' ').nth(6).and_then(|word| word.parse().ok());
            flags.is_some_and(|flags: u32| flags & 0x0020_0000 == 0)
        })
}

/// Collects children whose parents are gone; pid 1 inherits them.
fn reap_orphans() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
