//! What the guest does as process 1: everything up to power-off.

mod command;
mod system;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::job::{
    CONSOLE_PREFIX, DMESG_NAME, FilesystemJob, GuestStage, JOB_PATH, Job, MountOutcome,
    OUTCOME_NAME, Outcome, RESULT_DIR,
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
    targets: Vec<String>,
}

impl Guest {
    fn work(&mut self) -> Result<()> {
        self.outcome.warnings = system::mount_pseudo_filesystems()?;
        self.outcome.boot_seconds = system::uptime();
        self.outcome.release = system::release();
        self.stage(GuestStage::Boot);
        let text = fs::read(JOB_PATH).with_context(|| format!("cannot read {JOB_PATH}"))?;
        let job: Job = serde_json::from_slice(&text).context("the job is damaged")?;

        self.stage(GuestStage::Modules);
        for module in &job.modules {
            system::load_module(module)?;
        }
        system::mount_share().context("the result directory cannot be mounted")?;
        self.shared = true;
        if let Err(error) = system::raise_loopback() {
            self.outcome.warnings.push(format!("{error:#}"));
        }

        self.stage(GuestStage::Devices);
        for filesystem in &job.filesystems {
            system::wait_for(Path::new(&filesystem.device), DEVICE_LIMIT)?;
        }
        self.stage(GuestStage::Filesystems);
        for filesystem in &job.filesystems {
            self.mount(filesystem).with_context(|| {
                format!(
                    "{} on {} with `{}`",
                    filesystem.kind.module(),
                    filesystem.device,
                    filesystem.options
                )
            })?;
        }
        self.stage(GuestStage::Commands);
        self.outcome.ready_seconds = Some(system::uptime());
        for command in &job.commands {
            say(&format!("stage command {}", command.name));
            let result = command::run(command, Path::new(RESULT_DIR));
            self.outcome.commands.push(result);
            self.report();
        }
        Ok(())
    }

    fn mount(&mut self, filesystem: &FilesystemJob) -> Result<()> {
        command::mkfs(filesystem, MKFS_LIMIT)?;
        system::mount_filesystem(filesystem)?;
        self.targets.push(filesystem.target.clone());
        let mounted = system::mount_line(&filesystem.target).unwrap_or_default();
        self.outcome.mounts.push(MountOutcome {
            target: filesystem.target.clone(),
            mounted,
        });
        Ok(())
    }

    fn stage(&mut self, stage: GuestStage) {
        self.outcome.stage = stage;
        say(&format!("stage {}", format!("{stage:?}").to_lowercase()));
        self.report();
    }

    /// Unmounts what can be unmounted in time and writes the last report.
    fn finish(&mut self) {
        let failed = self.outcome.error.is_some()
            || self
                .outcome
                .commands
                .iter()
                .any(|command| !command.succeeded());
        let done = self.outcome.error.is_none();
        if done {
            self.stage(GuestStage::Unmount);
        }
        command::kill_everything();
        let targets = std::mem::take(&mut self.targets);
        let hung = system::unmount_within(targets, UNMOUNT_LIMIT);
        if let Err(error) = &hung {
            self.outcome.warnings.push(format!("{error:#}"));
        }
        let log = system::kernel_log();
        if failed || hung.is_err() {
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(DMESG_TAIL)..];
            self.outcome.dmesg_tail = tail.iter().map(|line| (*line).to_owned()).collect();
        }
        if self.shared
            && let Err(error) = fs::write(Path::new(RESULT_DIR).join(DMESG_NAME), &log)
        {
            say(&format!("error: cannot write {DMESG_NAME}: {error}"));
        }
        if done {
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
