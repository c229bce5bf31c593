//! `faultline record`

use std::{process::ExitCode, sync::atomic::AtomicBool};

use anyhow::{Result, bail};
use tracer::{
    attach::Limits,
    mounts,
    plan::{Extent, Prefer},
    record::{Attachment, Options},
    trace::Mount,
};

use super::FAILED;
use crate::{campaign::COMMAND_IS_STUCK, cli::Record, output, progress};

/// Records until the command ends, the time is up, or SIGINT or SIGTERM arrives.
pub fn run(arguments: &Record) -> Result<ExitCode> {
    let stop = super::stopped_by_signals()?;
    Ok(ExitCode::from(once(arguments, &mut None, &stop)?))
}

/// One recording, with hooks that are in place if they fit. Returns the exit status.
pub(super) fn once(
    arguments: &Record,
    attachment: &mut Option<Attachment>,
    stop: &AtomicBool,
) -> Result<u8> {
    if !arguments.ring.is_power_of_two() || !(1..=1024).contains(&arguments.ring) {
        bail!(
            "--ring {} does not fit: give a power of two from 1 to 1024 (MiB)",
            arguments.ring
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("recording needs root: it loads eBPF programs (CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN)");
    }
    let options = Options {
        aside: false,
        output: arguments.output.clone(),
        mounts: watched(&arguments.mount)?,
        command: arguments.command.clone(),
        limit: arguments.time,
        prefer: if arguments.probes {
            Prefer::Probes
        } else {
            Prefer::Trampolines
        },
        extent: extent(arguments.light),
        delay: None,
        limits: Limits {
            ring_bytes: arguments.ring << 20,
        },
    };
    let mut display = progress::recording(options.command.is_empty());
    let summary = Attachment::record(attachment, &options, stop, &mut |progress| {
        display(progress);
    })?;
    let made_up = match summary.made_up {
        0 => String::new(),
        hits => format!(" ({hits} more skipped by the kernel and made up for)"),
    };
    note!(
        "{} events, {} lost{made_up}, {:.1} s, {} bytes ({:.1} an event) in {}",
        summary.events,
        summary.lost,
        summary.elapsed.as_secs_f64(),
        summary.bytes,
        summary.bytes as f64 / summary.events.max(1) as f64,
        options.output.display(),
    );
    if summary.stuck {
        note!(
            "{COMMAND_IS_STUCK} and cannot be killed; faultline analyze {} says in what",
            options.output.display()
        );
        return Ok(FAILED);
    }
    output::hint(&format!(
        "`faultline analyze {}` judges it",
        options.output.display()
    ));
    match summary.status {
        Some(status) if !status.success() => {
            note!("the command ended with {status}");
            Ok(FAILED)
        }
        _ => Ok(0),
    }
}

/// What `--light` stands for.
pub(super) fn extent(light: bool) -> Extent {
    if light { Extent::Light } else { Extent::Full }
}

/// The mounts that were named, or every one that uses DAX.
pub(super) fn watched(named: &[std::path::PathBuf]) -> Result<Vec<Mount>> {
    if named.is_empty() {
        return Ok(mounts::with_dax()?);
    }
    let mut found: Vec<Mount> = Vec::new();
    for path in named {
        let mount = mounts::containing(path)?;
        if found.iter().all(|known| known.device != mount.device) {
            found.push(mount);
        }
    }
    Ok(found)
}
