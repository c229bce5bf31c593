//! The subcommands.

mod analyze;
mod bench;
mod demo;
mod doctor;
mod record;
mod vm;
mod work;

use std::process::ExitCode;

use anyhow::Result;
use tracer::judge::Verdict;

use crate::cli::{Cli, Command};

/// Carries out a command line.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Record(arguments) => record::run(&arguments),
        Command::Analyze(arguments) => analyze::run(&arguments),
        Command::Work(arguments) => work::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    }
}

/// 0 clean, 1 findings, 2 inconclusive.
pub(crate) fn exit_code(verdict: Verdict) -> ExitCode {
    ExitCode::from(match verdict {
        Verdict::Clean => 0,
        Verdict::Findings => 1,
        Verdict::Inconclusive => 2,
    })
}
