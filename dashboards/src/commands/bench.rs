//! `faultline bench`: figures, never verdicts.

mod analysis;
mod fault;
mod faultloop;
mod machine;
mod perf;
mod screen;
mod spread;
mod synthetic;
mod vm;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Bench, Measure};

/// Prints figures.
pub fn run(arguments: &Bench) -> Result<ExitCode> {
    match &arguments.what {
        Measure::Analysis(arguments) => analysis::run(arguments)?,
        Measure::Screen(arguments) => screen::run(arguments)?,
        Measure::Fault(arguments) => fault::run(arguments)?,
        Measure::Vm(arguments) => return vm::run(arguments),
        Measure::Loop(arguments) => faultloop::run(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
