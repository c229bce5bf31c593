//! What the guest does as process 1: everything up to power-off.

mod command;
mod recorder;
mod superblock;
mod system;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use self::recorder::Recorder;
use super::job::{
    CONSOLE_PREFIX, DMESG_NAME, FilesystemJob, GuestStage, JOB_PATH, Job, ModuleJob, MountOutcome,
    OUTCOME_NAME, Outcome, RESULT_DIR, Round, RoundOutcome, round_log,
};

/// A filesystem whose unmount hangs must not keep the machine on.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(20);
const DEVICE_LIMIT: Duration = Duration::from_secs(15);
const MKFS_LIMIT: Duration = Duration::from_secs(60);
const DMESG_TAIL: usize = 60;

/// Whether this process is the guest's init: pid 1, and a job is there.
pub fn is_guest() -> bool {
    std::process::id() == 1 && Path::new(JOB_PATH).exists()
}

/// Does the job and powers the machine off; call it first thing when [`is_guest`].
pub fn run() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("error: {panic}"));
        system::power_off();
    }));
    let mut guest = Guest::default();
    if let Err(error) = guest.work() {
        let error = format!("{error:#}");
        say(&format!("error: {error}"));
        guest.outcome.error = Some(error);
    }
    guest.finish();
    system::power_off()
}

/// Prints a line on the console.
fn say(message: &str) {
    // Standard error may be gone before the console is there; nothing else could be told.
    let _ = system::console_line(&format!("{CONSOLE_PREFIX}{message}"));
}

#[derive(Default)]
struct Guest {
    outcome: Outcome,
    shared: bool,
    /// Those of the rounds that are loaded.
    modules: Vec<ModuleJob>,
    recorder: Option<Recorder>,
}

impl Guest {
    fn work(&mut self) -> Result<()> {
        command::watch_children()?;
        self.outcome.warnings = system::mount_pseudo_filesystems()?;
        if let Err(error) = system::lengthen_slices() {
            self.outcome.warnings.push(format!("{error:#}"));
        }
        self.outcome.boot_seconds = system::uptime();
        self.outcome.release = system::release();
        self.stage(GuestStage::Boot);
        let text = fs::read(JOB_PATH).with_context(|| format!("cannot read {JOB_PATH}"))?;
        let job: Job = serde_json::from_slice(&text).context("the job is damaged")?;

        self.stage(GuestStage::Modules);
        for module in &job.modules {
            system::load_module(module, "")?;
        }
        system::mount_share().context("the result directory cannot be mounted")?;
        self.shared = true;
        if let Err(error) = system::raise_loopback() {
            self.outcome.warnings.push(format!("{error:#}"));
        }

        self.stage(GuestStage::Devices);
        let devices: BTreeSet<&str> = job
            .rounds
            .iter()
            .flat_map(|round| &round.filesystems)
            .filter(|filesystem| filesystem.kind.is_on_disk())
            .map(|filesystem| filesystem.device.as_str())
            .collect();
        for device in devices {
            system::wait_for(Path::new(device), DEVICE_LIMIT)?;
        }
        self.stage(GuestStage::Rounds);
        for (number, round) in job.rounds.iter().enumerate() {
            say(&format!("stage round {}", round.name));
            let validated = system::lock_validator();
            self.outcome.rounds.push(RoundOutcome {
                name: round.name.clone(),
                validated,
                ..RoundOutcome::default()
            });
            let worked = self.round(round);
            self.take_down(round, job.rounds.get(number + 1), worked)?;
            // It is silent from its first report to the next boot, which is for the host to give.
            if validated == Some(true) && system::lock_validator() == Some(false) {
                break;
            }
        }
        Ok(())
    }

    fn current(&mut self) -> &mut RoundOutcome {
        // A round was entered before anything is said of it.
        if self.outcome.rounds.is_empty() {
            self.outcome.rounds.push(RoundOutcome::default());
        }
        let last = self.outcome.rounds.len() - 1;
        &mut self.outcome.rounds[last]
    }

    fn round(&mut self, round: &Round) -> Result<()> {
        // A warning that a kernel prints once must be there for every round.
        let _ = fs::write("/sys/kernel/debug/clear_warn_once", "1");
        for module in &round.modules {
            if !self.modules.contains(module) {
                system::load_module(&module.file, &module.parameters)?;
                self.modules.push(module.clone());
            }
        }
        for filesystem in &round.filesystems {
            self.mount(filesystem).with_context(|| {
                format!(
                    "{} on {} with `{}`",
                    filesystem.kind.module(),
                    filesystem.device,
                    filesystem.options
                )
            })?;
        }
        if self.outcome.ready_seconds.is_none() {
            self.outcome.ready_seconds = Some(system::uptime());
        }
        for command in &round.commands {
            say(&format!("stage command {}", command.name));
            self.report();
            let result = command::run(command, Path::new(RESULT_DIR), &mut self.recorder);
            self.outcome.commands.push(result);
            self.report();
        }
        Ok(())
    }

    fn mount(&mut self, filesystem: &FilesystemJob) -> Result<()> {
        if filesystem.kind.is_on_disk() {
            command::mkfs(filesystem, MKFS_LIMIT)?;
        }
        if filesystem.exchange {
            superblock::allow_exchange(Path::new(&filesystem.device))?;
        }
        system::mount_filesystem(filesystem)?;
        let mounted = system::mount_line(&filesystem.target).unwrap_or_default();
        self.current().mounts.push(MountOutcome {
            target: filesystem.target.clone(),
            mounted,
        });
        Ok(())
    }

    /// Unmounts, removes the round's modules unless the next one has the same, and writes its kernel
    /// log. A round that cannot be taken down would spoil the next, so it ends the job; one that merely
    /// failed does not.
    fn take_down(&mut self, round: &Round, next: Option<&Round>, worked: Result<()>) -> Result<()> {
        command::kill_everything(self.recorder.as_ref().map(Recorder::pid));
        let targets = self
            .current()
            .mounts
            .iter()
            .map(|mount| mount.target.clone())
            .collect();
        let mut clear = system::unmount_within(targets, UNMOUNT_LIMIT);
        if next.is_none_or(|next| next.modules != round.modules) {
            clear = clear.and_then(|()| Recorder::dismiss(&mut self.recorder));
            for module in std::mem::take(&mut self.modules).iter().rev() {
                clear =
                    clear.and_then(|()| system::remove_module_within(&module.name, UNMOUNT_LIMIT));
            }
        }
        let log = system::take_kernel_log();
        if worked.is_err() || clear.is_err() || self.failed() {
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(DMESG_TAIL)..];
            self.outcome.dmesg_tail = tail.iter().map(|line| (*line).to_owned()).collect();
        }
        write_log(&round_log(&round.name), &log);
        let error = worked
            .err()
            .or(clear.as_ref().err().map(|error| anyhow!("{error:#}")));
        if let Some(error) = error {
            let error = format!("{error:#}");
            say(&format!("error: {error}"));
            self.current().error = Some(error);
        }
        self.current().over = true;
        self.report();
        clear.with_context(|| format!("round {} cannot be taken down", round.name))
    }

    fn failed(&self) -> bool {
        self.outcome
            .commands
            .iter()
            .any(|command| !command.succeeded())
    }

    fn stage(&mut self, stage: GuestStage) {
        self.outcome.stage = stage;
        say(&format!("stage {}", format!("{stage:?}").to_lowercase()));
        self.report();
    }

    /// Writes the last report.
    fn finish(&mut self) {
        if self.shared {
            write_log(DMESG_NAME, &system::take_kernel_log());
        }
        if self.outcome.error.is_none() {
            self.stage(GuestStage::Done);
        } else {
            self.report();
        }
        if self.shared {
            let _ = system::unmount_within(vec![RESULT_DIR.to_owned()], UNMOUNT_LIMIT);
        }
    }

    /// Replaces the answer in one step, so that the host never reads half of one.
    fn report(&self) {
        if !self.shared {
            return;
        }
        let directory = Path::new(RESULT_DIR);
        let partial = directory.join(".outcome.partial");
        let written = serde_json::to_vec_pretty(&self.outcome)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(fs::write(&partial, text)?))
            .and_then(|()| Ok(fs::rename(&partial, directory.join(OUTCOME_NAME))?));
        if let Err(error) = written {
            say(&format!("error: cannot write {OUTCOME_NAME}: {error:#}"));
        }
    }
}

fn write_log(name: &str, log: &str) {
    if let Err(error) = fs::write(Path::new(RESULT_DIR).join(name), log) {
        say(&format!("error: cannot write {name}: {error}"));
    }
}
