//! The `faultline` command; as pid 1 of a VM, its guest.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use dashboards::cli::Cli;
use workloads::lab::guest;

/// Exit status of a run that failed or could not judge; 1 is kept for findings.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    if guest::is_guest() {
        guest::run();
    }
    match dashboards::run(Cli::parse()) {
        Ok(status) => status,
        Err(error) => {
            // Nobody may be there to read it, and that is no reason to panic.
            let _ = writeln!(io::stderr(), "faultline: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
