//! `faultline completions` and `faultline man`: both made from the command line's own table.

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use crate::{
    cli::{Cli, Completions, Man},
    output,
};

/// Prints a shell's completions.
pub fn completions(arguments: &Completions) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "faultline", &mut text);
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the man pages.
pub fn man(arguments: &Man) -> Result<ExitCode> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    clap_mangen::generate_to(Cli::command(), directory)
        .with_context(|| format!("cannot write man pages into {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
