//! `faultline export`

use std::{path::Path, process::ExitCode};

use anyhow::{Result, bail};
use serde_json::json;
use tracer::{
    story::{Story, Timeline},
    trace::Trace,
};

use crate::{
    cli::{Export, ExportFormat},
    export::{
        self,
        tables::{self, Encoding},
    },
    output,
};

/// Converts a trace.
pub fn run(arguments: &Export) -> Result<ExitCode> {
    let trace = Trace::open(&arguments.trace)?;
    let path = &arguments.output;
    let tabular = match arguments.format {
        ExportFormat::Parquet => Some(Encoding::Parquet),
        ExportFormat::Csv => Some(Encoding::Csv),
        _ => None,
    };
    if let Some(encoding) = tabular {
        if path == Path::new("-") {
            bail!("tables go into a directory: name one with -o");
        }
        tables::write(&trace, path, encoding, &arguments.table)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.table.is_empty() {
        bail!("--table goes with --format parquet or csv");
    }
    output::to(path, |out| match arguments.format {
        ExportFormat::Perfetto => export::perfetto(&trace, out),
        ExportFormat::ChromeJson => export::chrome_json(&trace, out),
        ExportFormat::Folded => {
            let told = Story::of(&trace, Timeline::recent(), |_, _| {});
            let mut figures = told.story.figures();
            figures.resolve(trace.stacks());
            Ok(out.write_all(export::folded(&figures).as_bytes())?)
        }
        ExportFormat::Json | ExportFormat::Parquet | ExportFormat::Csv => {
            let told = Story::of(&trace, Timeline::recent(), |_, _| {});
            let mut figures = told.story.figures();
            figures.resolve(trace.stacks());
            let both = json!({"report": told.report, "stats": figures});
            serde_json::to_writer_pretty(&mut *out, &both)?;
            Ok(out.write_all(b"\n")?)
        }
    })?;
    if arguments.format == ExportFormat::Perfetto && path != Path::new("-") {
        output::hint(&format!(
            "https://ui.perfetto.dev opens {}; it stays in the browser",
            path.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}
