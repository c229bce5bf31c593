//! Fault threads in processes of their own: the same files through other address spaces. They share
//! the ledger, the counters and the end of the run; what they find goes through a pipe to the run's
//! own process, which tells of it.

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid, gettid};
use serde::{Deserialize, Serialize};
use tracer::units::Tid;

use super::block::FileId;
use super::children::close_all_but;
use super::error::Error;
use super::faulter::{Faulter, rule};
use super::ledger::Wrong;
use super::pages::Page;
use super::pin_to_cpu;
use super::scene::Scene;
use super::stage::{Sight, Stage, Wronged};
use super::target::Target;

/// What a worker process has to say; a line of JSON, short enough for a pipe to take it whole.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// It read wrong data.
    Wrong {
        file: FileId,
        page: Page,
        offset: u64,
        wrong: Wrong,
        word: u64,
        sight: Sight,
        tid: u32,
    },
    /// It cannot go on.
    Failed(String),
}

/// A worker's end of its pipe.
pub struct Relay(PipeWriter);

impl Relay {
    /// Tells of wrong data. If the run's process is gone there is nobody to tell.
    pub fn report(&self, target: &Target, page: Page, what: &Wronged<'_>) {
        self.send(&Word::Wrong {
            file: target.id,
            page,
            offset: what.offset,
            wrong: what.wrong,
            word: what.word,
            sight: what.sight,
            tid: gettid().as_raw() as u32,
        });
    }

    /// Tells of an error, with its causes.
    pub fn fail(&self, error: &Error) {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        self.send(&Word::Failed(text));
    }

    fn send(&self, word: &Word) {
        if let Ok(mut line) = serde_json::to_vec(word) {
            line.push(b'\n');
            let _ = (&self.0).write_all(&line);
        }
    }
}

/// A worker process, in the hands of the one who listens to it.
pub struct Crew {
    pid: Pid,
    words: PipeReader,
}

impl Crew {
    /// Forks it, with fault threads `first..first + threads` of the run.
    pub fn start(scene: &Arc<Scene>, targets: &[Arc<Target>], first: usize) -> Result<Self, Error> {
        let failed = |source| Error::call("fork", source);
        let (words, relay) = io::pipe().map_err(failed)?;
        let parent = getpid();
        // SAFETY: the child goes on in Rust, with the one thread that called. It takes no lock that
        // another thread may have held: glibc has its own in order after a fork, and of the run's
        // it uses atomics alone. It ends by _exit.
        match unsafe { fork() }.map_err(|error| failed(error.into()))? {
            ForkResult::Parent { child } => Ok(Self { pid: child, words }),
            ForkResult::Child => {
                let body = || serve(scene, targets, first, relay, parent);
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
                // SAFETY: ends the child, without anything of the parent's being dropped.
                unsafe { libc::_exit(if ended.is_ok() { 0 } else { 101 }) }
            }
        }
    }

    /// Tells of what it says, until it is gone; how that came is an error unless the run had ended.
    pub fn listen(self, stage: &Stage, targets: &[Arc<Target>]) {
        for line in BufReader::new(self.words).lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(Word::Wrong {
                    file,
                    page,
                    offset,
                    wrong,
                    word,
                    sight,
                    tid,
                }) => {
                    let what = Wronged {
                        offset,
                        wrong,
                        word,
                        sight,
                        why: rule(wrong),
                        by: Some(Tid(tid)),
                    };
                    if let Some(target) = targets.iter().find(|target| target.id == file) {
                        stage.report(target, page, &what);
                    }
                }
                Ok(Word::Failed(why)) => stage.fail(Error::Worker { why }),
                // Half a line: it was killed amid it.
                Err(_) => {}
            }
        }
        let killed = match waitpid(self.pid, None) {
            Ok(WaitStatus::Signaled(_, signal, _)) => signal.to_string(),
            Ok(WaitStatus::Exited(_, code)) if code != 0 => format!("exit code {code}"),
            _ if stage.stopped() => return,
            _ => "itself".into(),
        };
        stage.fail(Error::Killed {
            pid: self.pid.as_raw(),
            by: killed,
        });
    }
}

/// A worker's life.
fn serve(
    scene: &Arc<Scene>,
    targets: &[Arc<Target>],
    first: usize,
    relay: PipeWriter,
    parent: Pid,
) {
    let mut keep: Vec<_> = targets.iter().map(|t| t.file.as_raw_fd()).collect();
    keep.push(relay.as_raw_fd());
    // Others' pipes, which would not end while this process has them open.
    close_all_but(&keep);
    // It is gone when the run's process is, killed or not.
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if getppid() != parent {
        return;
    }
    // The parent decides when a signal from the terminal ends the run.
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
        // SAFETY: to ignore a signal runs no code.
        unsafe { libc::signal(signal as libc::c_int, libc::SIG_IGN) };
    }
    let stage = &scene.stage;
    stage.relay(Relay(relay));
    std::thread::scope(|scope| {
        for n in 0..scene.options.threads {
            let faulter = Faulter::new(scene.clone(), targets, first + n);
            let name = format!("fault-{}", first + n);
            let started = std::thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, move || {
                    if scene.options.pin_cpus {
                        pin_to_cpu(first + n);
                    }
                    faulter.work()
                });
            if let Err(source) = started {
                stage.fail(Error::call("thread start", source));
            }
        }
    });
}
