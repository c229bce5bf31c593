//! `faultline report`

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use tracer::trace::Trace;

use super::exit_code;
use crate::{cli::HtmlReport, html, output};

/// Writes the report of a trace.
pub fn run(arguments: &HtmlReport) -> Result<ExitCode> {
    let trace = Trace::open(&arguments.trace)?;
    let (page, report) = html::render(&trace);
    output::to(&arguments.output, |out| Ok(out.write_all(page.as_bytes())?))?;
    if arguments.output != Path::new("-") {
        note!(
            "{}, {} KiB in {}",
            report.verdict.name(),
            page.len().div_ceil(1024),
            arguments.output.display()
        );
    }
    Ok(exit_code(report.verdict))
}
