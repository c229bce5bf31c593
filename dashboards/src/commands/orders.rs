//! `faultline orders`, the standing recorder of a VM: recordings one after the other, with hooks that stay in place.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use nix::unistd::{dup2_stderr, dup2_stdout};
use tracer::record::Attachment;
use workloads::lab::{Answer, Order};

use super::{FAILED, confirm, record};
use crate::cli::{Cli, Command};

/// Carries out orders until stdin ends. What one prints goes where it says.
pub fn run() -> Result<ExitCode> {
    let stop = super::stopped_by_signals()?;
    let mut answers = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut attachment = None;
    for line in io::stdin().lines() {
        let order: Order = serde_json::from_str(&line?).context("this is no order")?;
        dup2_stdout(open(&order.stdout)?).context("cannot redirect stdout")?;
        dup2_stderr(open(&order.stderr)?).context("cannot redirect stderr")?;
        let status = carry_out(&order, &mut attachment, &stop).unwrap_or_else(|error| {
            note!("{error:#}");
            FAILED
        });
        let mut answer = serde_json::to_vec(&Answer { status })?;
        answer.push(b'\n');
        answers.write_all(&answer).context("nobody wants answers")?;
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> Result<File> {
    let file = File::options().append(true).create(true).open(path);
    file.with_context(|| format!("cannot write {}", path.display()))
}

fn carry_out(order: &Order, attachment: &mut Option<Attachment>, stop: &AtomicBool) -> Result<u8> {
    match Cli::try_parse_from(&order.argv)?.command {
        Command::Record(arguments) => record::once(&arguments, attachment, stop),
        Command::Confirm(arguments) => confirm::all(&arguments, attachment, stop),
        _ => bail!("`{}` makes no recording", order.argv.join(" ")),
    }
}
