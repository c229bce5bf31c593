//! `faultline analyze`

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tracer::{analyze::analyze, judge::text, trace::Trace};

use super::exit_code;
use crate::{
    cli::{Analyze, Format},
    output,
};

/// Judges a trace and prints the report.
pub fn run(arguments: &Analyze) -> Result<ExitCode> {
    let trace = Trace::open(&arguments.trace)?;
    let report = analyze(&trace);
    match arguments.format {
        Format::Text => {
            output::page(&text::render(&report))?;
            if !report.findings.is_empty() {
                let trace = arguments.trace.display();
                output::hint(&format!(
                    "`faultline report {trace}` draws it, `faultline replay {trace}` shows it here"
                ));
            }
        }
        Format::Json => {
            let text =
                serde_json::to_string_pretty(&report).context("cannot write the report as JSON")?;
            output::print(format!("{text}\n").as_bytes())?;
        }
    }
    Ok(exit_code(report.verdict))
}
