//! `faultline work`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use workloads::scenarios::{self, Limit, Log, Options, SCENARIOS, Step, Summary};

use crate::{
    cli::{Format, Work},
    output,
    progress::{self, Line},
};

/// Exit status of a run whose threads did not come back from the kernel.
const HUNG: u8 = 3;

/// Runs a scenario; 0 if its data was right, 1 if not.
pub fn run(arguments: &Work) -> Result<ExitCode> {
    match (arguments.scenario.as_str(), &arguments.paths[..]) {
        ("list", []) => list(),
        ("replay", [log, directory]) => replay(arguments, log, directory),
        ("shrink", [log, directory]) => shrink(arguments, log, directory),
        ("list", _) => bail!("list takes no directory: faultline work list"),
        (command @ ("replay" | "shrink"), _) => {
            bail!("name a log and a directory: faultline work {command} LOG DIR")
        }
        (name, paths) => {
            let scenario = scenarios::find(name)?;
            let [directory] = paths else {
                bail!("name one directory on the filesystem to exercise: faultline work {name} DIR")
            };
            finish(arguments, scenario, &options(arguments, directory), None)
        }
    }
}

fn options(arguments: &Work, directory: &Path) -> Options {
    Options {
        seed: arguments.seed,
        threads: arguments.threads,
        processes: arguments.processes,
        limit: arguments
            .ops
            .map_or(Limit::Time(arguments.time), Limit::Operations),
        file_size: arguments.size << 10,
        pin_cpus: arguments.pin,
        ..Options::new(directory)
    }
}

fn finish(
    arguments: &Work,
    scenario: &scenarios::Scenario,
    options: &Options,
    from: Option<&Path>,
) -> Result<ExitCode> {
    let mut display = progress::working();
    let ran = scenarios::run(scenario, options, &mut |progress| display(progress));
    drop(display);
    let summary = match ran {
        Err(hung @ scenarios::Error::Stuck { .. }) => {
            note!("{hung}");
            return Ok(ExitCode::from(HUNG));
        }
        ran => ran?,
    };
    print(arguments, &summary)?;
    if let Some(log) = &summary.log {
        let path = arguments.log.clone().unwrap_or_else(|| {
            PathBuf::from(format!("faultline-{}-{}.log", scenario.name, options.seed))
        });
        // A replay that fails again has its log already.
        if from.is_none() || arguments.log.is_some() {
            log.write(&path)
                .context("cannot write down what was done")?;
            note!("what was done is in {}", path.display());
        }
        let log = from.unwrap_or(&path).display();
        let directory = options.directory.display();
        let limit = match options.limit {
            Limit::Operations(count) => format!("--ops {count}"),
            Limit::Time(time) => format!("--time {}ms", time.as_millis()),
        };
        let pin = if options.pin_cpus { " --pin" } else { "" };
        note!(
            "again:   faultline work {} {directory} --seed {} --threads {} --processes {} --size {} {limit}{pin}",
            scenario.name,
            options.seed,
            options.threads,
            options.processes,
            options.file_size >> 10,
        );
        note!("smaller: faultline work shrink {log} {directory} --time 2m");
    }
    Ok(ExitCode::from(u8::from(summary.violation_count > 0)))
}

fn print(arguments: &Work, summary: &Summary) -> Result<()> {
    match arguments.format {
        Format::Text => say!("{summary}"),
        Format::Json => say!("{}", serde_json::to_string_pretty(summary)?),
    }
}

/// Makes the rounds of a failing run again, over and over, until they fail.
fn replay(arguments: &Work, path: &Path, directory: &Path) -> Result<ExitCode> {
    let log = Log::read(path)?;
    let scenario = scenarios::find(&log.recipe.scenario)?;
    let options = scenarios::again(&log, &Options::new(directory));
    finish(arguments, scenario, &options, Some(path))
}

/// Makes a failing run smaller.
fn shrink(arguments: &Work, path: &Path, directory: &Path) -> Result<ExitCode> {
    let log = Log::read(path)?;
    let mut line = Line::new();
    let mut tell = |runs: u32, rounds: usize| {
        line.say(&format!("run {runs}, of {rounds} rounds"), false);
    };
    let options = Options::new(directory);
    let shrunk = scenarios::shrink(&log, &options, arguments.time, &mut tell)?;
    drop(line);
    let Some(least) = shrunk.log else {
        bail!(
            "the run of {} did not fail again, in {} runs: give it more time (--time), or the machine as it was",
            path.display(),
            shrunk.runs
        )
    };
    let output = arguments.log.clone().unwrap_or_else(|| {
        let mut name = path.as_os_str().to_owned();
        name.push(".min");
        name.into()
    });
    least.write(&output)?;
    let mut text = format!(
        "{} rounds of {}, in {} runs; {} fault thread{}\n",
        least.recipe.rounds.len(),
        shrunk.before,
        shrunk.runs,
        least.recipe.threads,
        if least.recipe.threads == 1 { "" } else { "s" }
    );
    for (actor, rounds) in least.recipe.rounds.0.iter().enumerate() {
        for round in rounds {
            text.push_str(&format!("  actor {actor}, round {round}\n"));
            // It was made over and over; once is enough to see.
            let mine = |step: &&Step| step.actor == actor && step.round == *round;
            let turn = least.steps.iter().find(mine).map(|step| step.turn);
            for step in least.steps.iter().filter(mine) {
                if Some(step.turn) == turn {
                    let end = step.offset + step.length;
                    let (operation, file, start) = (&step.operation, &step.file, step.offset);
                    text.push_str(&format!("    {operation} {file} {start}..{end}\n"));
                }
            }
        }
    }
    say!("{text}  {}", least.recipe.violation)?;
    note!("it is in {}", output.display());
    note!(
        "again: faultline work replay {} {}",
        output.display(),
        directory.display()
    );
    Ok(ExitCode::from(1))
}

fn list() -> Result<ExitCode> {
    let lines = SCENARIOS.iter().map(|scenario| {
        format!(
            "{:20} {:19} {}\n",
            scenario.name,
            scenario.needs.name(),
            scenario.summary
        )
    });
    output::page(&lines.collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}
