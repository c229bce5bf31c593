//! `faultline work`

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use workloads::scenarios::{self, Limit, Needs, Options, SCENARIOS};

use crate::{
    cli::{Format, Work},
    progress,
};

/// Runs a scenario; 0 if its data was right, 1 if not.
pub fn run(arguments: &Work) -> Result<ExitCode> {
    if arguments.scenario == "list" {
        return list();
    }
    let scenario = scenarios::find(&arguments.scenario)?;
    let directory = arguments
        .directory
        .clone()
        .context("name a directory on the filesystem to exercise: faultline work SCENARIO DIR")?;
    let options = Options {
        seed: arguments.seed,
        threads: arguments.threads,
        limit: arguments
            .ops
            .map_or(Limit::Time(arguments.time), Limit::Operations),
        file_size: arguments.size << 10,
        pin_cpus: arguments.pin,
        ..Options::new(directory)
    };
    let mut display = progress::working();
    let summary = scenarios::run(scenario, &options, &mut |progress| display(progress))?;
    let mut out = std::io::stdout().lock();
    match arguments.format {
        Format::Text => writeln!(out, "{summary}"),
        Format::Json => serde_json::to_writer_pretty(&mut out, &summary)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(out)),
    }
    .context("cannot print the summary")?;
    Ok(ExitCode::from(u8::from(summary.violation_count > 0)))
}

fn list() -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for scenario in SCENARIOS {
        let needs = match scenario.needs {
            Needs::PageCacheOk => "any",
            Needs::DaxPreferred => "best with DAX",
            Needs::XfsOnly => "XFS only",
        };
        writeln!(
            out,
            "{:20} {:14} {}",
            scenario.name, needs, scenario.summary
        )
        .context("cannot print the list")?;
    }
    Ok(ExitCode::SUCCESS)
}
