//! `faultline stats`

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tracer::{
    story::{Story, Timeline},
    trace::Trace,
};

use crate::{
    cli::{Format, Stats},
    output, stats,
};

/// Counts a trace and prints the figures.
pub fn run(arguments: &Stats) -> Result<ExitCode> {
    let trace = Trace::open(&arguments.trace)?;
    let told = Story::of(&trace, Timeline::recent(), |_, _| {});
    let mut figures = told.story.figures();
    figures.resolve(trace.stacks());
    let text = match arguments.format {
        Format::Text => stats::render(&figures, arguments.sort, arguments.rows),
        Format::Json => {
            serde_json::to_string_pretty(&figures).context("cannot write the figures as JSON")?
                + "\n"
        }
    };
    output::page(&text)?;
    Ok(ExitCode::SUCCESS)
}
