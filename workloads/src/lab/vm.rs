//! One run of the guest: from a specification to what came out of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::cache::Cache;
use super::console::{self, Line};
use super::job::{DMESG_NAME, OUTCOME_NAME, Outcome, RESULT_TAG, round_log};
use super::lockdep;
use super::packages::tail;
use super::progress::{Progress, ProgressFn};
use super::qemu::{self, Accelerator, Guarded, Machine};
use super::spec::VmSpec;
use super::starvation::{self, Starvation};

/// Name of the console's log in the result directory.
const CONSOLE_NAME: &str = "console.log";

/// Boots of a guest that the emulator goes on spoiling: about one in ten on an idle host.
const BOOTS: u32 = 5;
/// How the kernel reports a breakpoint that nobody set.
const LOST_BREAKPOINT: &str = "Oops: int3";

/// A console that printed this much says nothing more; with it the disk would fill up.
const CONSOLE_LIMIT: usize = 8 << 20;
/// Longest piece of the console that is looked at as a line.
const LINE_LIMIT: u64 = 16 << 10;
/// Lines that may wait to be looked at; then the guest's console blocks.
const LINES_WAITING: usize = 4096;

/// How the guest came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// It powered itself off.
    PoweredOff,
    /// Its kernel panicked.
    Panicked,
    /// Its user space was not up when the time for booting was over.
    NeverBooted,
    /// It was not done when its time was over.
    TimedOut,
    /// It printed more than anybody could want to read.
    FloodedConsole,
    /// It ended without a word, as for lack of an init or by a triple fault.
    Died,
}

impl Ending {
    /// In words, for a report.
    pub fn words(self) -> &'static str {
        match self {
            Self::PoweredOff => "powered itself off",
            Self::Panicked => "panicked",
            Self::NeverBooted => "did not boot in time",
            Self::TimedOut => "hung until its time was over",
            Self::FloodedConsole => "flooded its console",
            Self::Died => "ended without a word",
        }
    }
}

/// What a run left behind.
#[derive(Debug)]
pub struct VmOutcome {
    /// The guest's answer; `None` if it did not come so far as to write one.
    pub outcome: Option<Outcome>,
    /// The kernel's complaints on the console and in its log.
    pub splats: Vec<String>,
    /// Errors the guest program printed on the console.
    pub errors: Vec<String>,
    /// The console's log.
    pub console: PathBuf,
    /// Output of the commands and whatever they wrote to `/result`.
    pub result_dir: PathBuf,
    /// From starting QEMU to its end.
    pub wall: Duration,
    /// How the guest was executed.
    pub accel: Accelerator,
    /// How it ended.
    pub ending: Ending,
    /// Percent of some 20 s in which the host kept it waiting for a processor, if so much
    /// that a stall of its kernel says nothing of that kernel.
    pub starved: Option<u32>,
}

impl VmOutcome {
    /// Whether the guest did all it was asked, every command succeeded and the kernel
    /// did not complain.
    pub fn succeeded(&self) -> bool {
        self.ending == Ending::PoweredOff
            && self.splats.is_empty()
            && self.outcome.as_ref().is_some_and(Outcome::succeeded)
    }

    /// The kernel's complaints during one round: from its own log, or from the console if
    /// the guest died in it.
    pub fn splats_of(&self, round: &str) -> Vec<String> {
        console::splats(&self.log_of(round))
    }

    /// What the kernel's lock validator said during one round.
    pub fn lockdep_of(&self, round: &str) -> Vec<lockdep::Report> {
        lockdep::reports(&self.log_of(round))
    }

    /// Whether the kernel killed a process for want of memory during one round.
    pub fn ran_out_of_memory(&self, round: &str) -> bool {
        console::ran_out_of_memory(&self.log_of(round))
    }

    fn log_of(&self, round: &str) -> String {
        let log = fs::read(self.result_dir.join(round_log(round))).unwrap_or_else(|_| {
            let console = fs::read(&self.console).unwrap_or_default();
            console::part_of(&console, round).to_vec()
        });
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Why the run says nothing about the guest, if it was the emulator that ended it.
    pub fn spoiled(&self) -> Option<&'static str> {
        let emulated = self.accel == Accelerator::Tcg;
        // Patching code goes through a breakpoint (arch/x86/kernel/alternative.c:
        // text_poke_bp_batch). QEMU before 8.1 may translate a page while another virtual
        // processor writes to it, and so run a breakpoint that was taken away already: the
        // kernel dies of one that nobody set.
        if emulated
            && self
                .splats
                .iter()
                .any(|splat| splat.contains(LOST_BREAKPOINT))
        {
            return Some("the emulator ran a breakpoint that the kernel had taken away");
        }
        // Seen once, with 6.1 under TCG on a loaded host; cause unknown.
        let hung = self.ending == Ending::NeverBooted && self.splats.is_empty();
        (emulated && hung).then_some("the guest hung while booting")
    }

    /// The last lines of the console.
    pub fn console_tail(&self, lines: usize) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        tail(&String::from_utf8_lossy(&bytes), lines)
    }
}

/// A running guest; killed when dropped.
#[derive(Debug)]
pub struct Vm {
    child: Guarded,
    lines: Receiver<Heard>,
    console: PathBuf,
    result_dir: PathBuf,
    accelerator: Accelerator,
    started: Instant,
    timeout: Duration,
    boot_timeout: Duration,
    step_timeout: Duration,
    // Holds the initramfs until QEMU has it.
    scratch: Option<TempDir>,
}

impl Vm {
    /// Boots, waits for the end and collects the results; again, if the emulation and not
    /// the guest spoiled the run. What an earlier run left in the result directory is
    /// overwritten.
    ///
    /// # Errors
    /// The guest could not be put together or QEMU could not be started. A guest that
    /// fails or hangs is no error: [`VmOutcome`] says so.
    pub fn run(cache: &Cache, spec: &VmSpec, progress: &mut ProgressFn) -> Result<VmOutcome> {
        let mut outcome = Self::start(cache, spec, progress)?.wait(progress)?;
        for _ in 1..BOOTS {
            let Some(reason) = outcome.spoiled() else {
                break;
            };
            progress(Progress::Note(format!("{reason}; starting it again")));
            outcome = Self::start(cache, spec, progress)?.wait(progress)?;
        }
        Ok(outcome)
    }

    /// Puts the guest together and starts QEMU.
    ///
    /// The calling thread must live until the guest has ended: the kernel kills QEMU
    /// with the thread that started it.
    ///
    /// # Errors
    /// See [`Vm::run`].
    pub fn start(cache: &Cache, spec: &VmSpec, progress: &mut ProgressFn) -> Result<Self> {
        spec.check_regions()?;
        let scratch = tempfile::Builder::new().prefix("faultline-vm-").tempdir()?;
        let initramfs = scratch.path().join("initramfs");
        spec.archive()
            .context("cannot put the guest's root together")?
            .write(&initramfs)?;
        let result_dir = result_dir(spec)?;
        let accelerator = spec
            .accelerator
            .unwrap_or_else(|| qemu::accelerator(spec.kernel));
        let image = qemu::boot_image(cache, spec.kernel);
        let mut command = Machine {
            accelerator,
            image: &image,
            initramfs: Some(&initramfs),
            command_line: &spec.command_line(),
            memory_mib: spec.memory_mib,
            cpus: spec.cpus,
            share: Some((&result_dir, RESULT_TAG)),
        }
        .command()?;
        let console = result_dir.join(CONSOLE_NAME);
        let log = create_log(&console)?;
        // What QEMU itself has to say belongs with the console.
        command.stderr(Stdio::from(log.try_clone()?));
        progress(Progress::Booting {
            release: spec.kernel.release.clone(),
            accelerator,
        });
        let started = Instant::now();
        let mut child = Guarded(command.spawn().with_context(qemu::missing_program)?);
        let stdout = child
            .0
            .stdout
            .take()
            .ok_or_else(|| anyhow!("QEMU has no stdout"))?;
        let lines = follow(stdout, log);
        Ok(Self {
            child,
            lines,
            console,
            result_dir,
            accelerator,
            started,
            timeout: spec.timeout,
            boot_timeout: spec.boot_timeout.min(spec.timeout),
            step_timeout: spec.step_timeout,
            scratch: Some(scratch),
        })
    }

    /// Process id of QEMU.
    pub fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// Waits for the end, or kills QEMU when the time is up.
    ///
    /// # Errors
    /// QEMU cannot be waited for.
    pub fn wait(mut self, progress: &mut ProgressFn) -> Result<VmOutcome> {
        let mut errors = Vec::new();
        let mut step: Option<Instant> = None;
        let mut panicked = false;
        let mut starvation = Starvation::of(self.id());
        let ending = loop {
            starvation.look();
            let (limit, over) = match step {
                Some(_) => (self.timeout, Ending::TimedOut),
                None => (self.boot_timeout, Ending::NeverBooted),
            };
            let of_step = step.map_or(Duration::MAX, |step| {
                self.step_timeout.saturating_sub(step.elapsed())
            });
            let left = limit.saturating_sub(self.started.elapsed()).min(of_step);
            // A console that never falls silent must not keep the clock from being looked at.
            if left.is_zero() {
                break over;
            }
            match self.lines.recv_timeout(left.min(starvation::PERIOD)) {
                Ok(Heard::TooMuch) => break Ending::FloodedConsole,
                Ok(Heard::Line(line)) => {
                    // QEMU has read what is in it, or has it mapped: whoever kills this process leaves nothing behind.
                    self.scratch = None;
                    match console::classify(&line) {
                        Line::Stage(stage) => {
                            step = Some(Instant::now());
                            progress(Progress::Stage(stage));
                        }
                        Line::Error(error) => {
                            progress(Progress::Console(format!("error: {error}")));
                            errors.push(error);
                        }
                        Line::Other(line) => {
                            panicked |= console::is_panic(&line);
                            progress(Progress::Console(line));
                        }
                    }
                }
                Err(RecvTimeoutError::Disconnected) if panicked => break Ending::Panicked,
                Err(RecvTimeoutError::Disconnected) => break Ending::PoweredOff,
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        if ending != Ending::PoweredOff {
            // It may have ended by itself meanwhile.
            let _ = self.child.0.kill();
        }
        self.child.0.wait().context("cannot wait for QEMU")?;
        let wall = self.started.elapsed();
        let outcome = read_outcome(&self.result_dir)?;
        let ending = match (ending, &outcome) {
            (Ending::PoweredOff, Some(answer)) if answer.ended() => ending,
            (Ending::PoweredOff, _) if !errors.is_empty() => ending,
            (Ending::PoweredOff, _) => Ending::Died,
            _ => ending,
        };
        let mut log = fs::read(&self.console).unwrap_or_default();
        log.push(b'\n');
        log.extend(fs::read(self.result_dir.join(DMESG_NAME)).unwrap_or_default());
        for round in outcome.iter().flat_map(|outcome| &outcome.rounds) {
            log.push(b'\n');
            let file = self.result_dir.join(round_log(&round.name));
            log.extend(fs::read(file).unwrap_or_default());
        }
        Ok(VmOutcome {
            outcome,
            splats: console::splats(&String::from_utf8_lossy(&log)),
            errors,
            console: self.console.clone(),
            result_dir: self.result_dir.clone(),
            wall,
            accel: self.accelerator,
            ending,
            starved: starvation.suspect(),
        })
    }
}

fn create_log(path: &Path) -> Result<File> {
    // Two writers share it, so each write must append.
    File::create(path)
        .and_then(|_| File::options().append(true).open(path))
        .with_context(|| format!("cannot create {}", path.display()))
}

fn result_dir(spec: &VmSpec) -> Result<PathBuf> {
    let Some(directory) = &spec.result_dir else {
        return Ok(tempfile::Builder::new()
            .prefix("faultline-result-")
            .tempdir()?
            .keep());
    };
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    // An answer of an earlier run must not be taken for this one's.
    for name in [OUTCOME_NAME, DMESG_NAME] {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the old {name}"));
            }
            _ => {}
        }
    }
    directory
        .canonicalize()
        .context("cannot resolve the result directory")
}

/// What was heard from the console.
enum Heard {
    Line(String),
    TooMuch,
}

/// Copies the console to its log and hands on its lines.
fn follow(stdout: ChildStdout, mut log: File) -> Receiver<Heard> {
    let (sender, receiver) = mpsc::sync_channel(LINES_WAITING);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        let mut heard = 0;
        while let Ok(length @ 1..) = reader
            .by_ref()
            .take(LINE_LIMIT)
            .read_until(b'\n', &mut line)
        {
            heard += length;
            if heard > CONSOLE_LIMIT {
                // The receiver is gone if QEMU was given up.
                let _ = sender.send(Heard::TooMuch);
                return;
            }
            // A full disk must not stop the guest; its console is then cut short.
            let _ = log.write_all(&line);
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(Heard::Line(text)).is_err() {
                break;
            }
            line.clear();
        }
    });
    receiver
}

fn read_outcome(directory: &Path) -> Result<Option<Outcome>> {
    let path = directory.join(OUTCOME_NAME);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::kernel;
    use super::*;

    #[test]
    fn an_old_answer_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(OUTCOME_NAME), "{}").unwrap();
        let kernel = kernel();
        let spec = VmSpec {
            result_dir: Some(dir.path().to_owned()),
            ..VmSpec::new(&kernel, "/init", Vec::new())
        };
        result_dir(&spec).unwrap();
        assert_eq!(read_outcome(dir.path()).unwrap(), None);
        fs::write(dir.path().join(OUTCOME_NAME), "{").unwrap();
        assert!(read_outcome(dir.path()).is_err());
    }
}
