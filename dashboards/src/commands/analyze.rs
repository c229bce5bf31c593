//! `faultline analyze`

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use tracer::{analyze::analyze, judge::text, trace::Trace};

use super::exit_code;
use crate::cli::{Analyze, Format};

/// Judges a trace and prints the report.
pub fn run(arguments: &Analyze) -> Result<ExitCode> {
    let trace = Trace::open(&arguments.trace)?;
    let report = analyze(&trace);
    let mut out = std::io::stdout().lock();
    match arguments.format {
        Format::Text => out.write_all(text::render(&report).as_bytes()),
        Format::Json => serde_json::to_writer_pretty(&mut out, &report)
            .map_err(std::io::Error::from)
            .and_then(|()| out.write_all(b"\n")),
    }
    .context("cannot print the report")?;
    Ok(exit_code(report.verdict))
}
