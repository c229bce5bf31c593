//! The `faultline` command; as pid 1 of a VM, its guest.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use dashboards::{FAILED, cli::Cli, output::ReaderLeft};
use workloads::lab::guest;

/// A shell's word for a program that SIGPIPE ended, as it ends those that print into a closed pipe.
const BROKEN_PIPE: u8 = 128 + 13;

fn main() -> ExitCode {
    if guest::is_guest() {
        guest::run();
    }
    match dashboards::run(Cli::parse()) {
        Ok(status) => status,
        Err(error) if error.is::<ReaderLeft>() => ExitCode::from(BROKEN_PIPE),
        Err(error) => {
            // Nobody may be there to read it, and that is no reason to panic.
            let _ = writeln!(io::stderr(), "faultline: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
