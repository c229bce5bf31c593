//! The subcommands.

mod analyze;
mod bench;
mod ci;
mod confirm;
mod demo;
mod diff;
mod doctor;
mod export;
mod infer;
mod lockdep;
mod orders;
mod pages;
mod record;
mod report;
mod rules;
mod selftest;
mod stats;
mod top;
mod vm;
mod watch;
mod work;

use std::{
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracer::judge::Verdict;

use crate::cli::{Cli, Command};

/// Exit status of what failed, could not judge, or did not come to its end; 1 is kept for findings.
pub const FAILED: u8 = 2;

/// Carries out a command line.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Record(arguments) => record::run(&arguments),
        Command::Analyze(arguments) => analyze::run(&arguments),
        Command::Work(arguments) => work::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Top(arguments) => top::top(&arguments),
        Command::Replay(arguments) => top::replay(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Stats(arguments) => stats::run(&arguments),
        Command::Confirm(arguments) => confirm::run(&arguments),
        Command::Infer(arguments) => infer::run(&arguments),
        Command::Rules(arguments) => rules::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Completions(arguments) => pages::completions(&arguments),
        Command::Man(arguments) => pages::man(&arguments),
        Command::Selftest(arguments) => selftest::run(&arguments),
        Command::Ci(arguments) => ci::run(&arguments),
        Command::Merge(arguments) => ci::merge(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Orders => orders::run(),
    }
}

/// True once SIGINT or SIGTERM has come.
fn stopped_by_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot catch signals")?;
    }
    Ok(stop)
}

/// 0 clean, 1 findings, 2 inconclusive.
pub(crate) fn exit_code(verdict: Verdict) -> ExitCode {
    ExitCode::from(match verdict {
        Verdict::Clean => 0,
        Verdict::Findings => 1,
        Verdict::Inconclusive => 2,
    })
}
