//! `faultline demo`

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail};
use tracer::judge::{Verdict, text};
use workloads::lab::{Cache, Kernel, KernelSeries, host};

use crate::{
    campaign::{Extent, Trial, TrialOutcome, own_binary},
    cli::Demo,
    progress::{self, Line},
};

/// Runs the stock kernel and the broken modules, prints each report, and ends with a table.
pub fn run(arguments: &Demo) -> Result<ExitCode> {
    let started = Instant::now();
    host::require(&host::vm_tools())?;
    host::require(&host::build_tools(None))?;
    let cache = Cache::open()?;
    let directory = match &arguments.result {
        Some(directory) => directory.clone(),
        None => cache.root().join("demo"),
    };
    let mut trials = Trial::all(Extent::Time(arguments.time))?;
    if !arguments.only.is_empty() {
        if let Some(unknown) = arguments
            .only
            .iter()
            .find(|name| trials.iter().all(|trial| trial.name != **name))
        {
            let names: Vec<&str> = trials.iter().map(|trial| trial.name.as_str()).collect();
            bail!("there is no run {unknown}; there are {}", names.join(", "));
        }
        trials.retain(|trial| arguments.only.contains(&trial.name));
    }
    let binary = own_binary()?;
    let mut line = Line::new();
    let series = KernelSeries(arguments.kernel.clone());
    let kernel = Kernel::obtain(&cache, &series, &mut |step| {
        let (words, lasting) = progress::lab_step(&step);
        line.say(&words, lasting);
    })?;
    let count = trials.len();
    let mut rows = Vec::new();
    let mut as_expected = true;
    for (index, trial) in trials.into_iter().enumerate() {
        let name = trial.name.clone();
        let place: PathBuf = directory.join(&name);
        if place.exists() {
            fs::remove_dir_all(&place)
                .with_context(|| format!("cannot empty {}", place.display()))?;
        }
        let outcome = trial.run(&binary, &cache, &kernel, &place, &mut |step| {
            let (words, lasting) = progress::lab_step(&step);
            line.say(&format!("[{}/{count}] {name}: {words}", index + 1), lasting);
        })?;
        line.keep(&format!(
            "[{}/{count}] {name}: {:.0} s",
            index + 1,
            outcome.vm.wall.as_secs_f64()
        ));
        print(&outcome);
        let (row, expected) = summarise(&outcome);
        as_expected &= expected;
        rows.push(row);
    }
    drop(line);
    println!(
        "{:24} {:13} {:>9} {:>8} {:>7}  found",
        "run", "verdict", "events", "windows", "met"
    );
    for row in rows {
        println!("{row}");
    }
    println!(
        "\n{} on {}, {:.0} s; traces in {}",
        if as_expected {
            "all as expected"
        } else {
            "NOT as expected"
        },
        kernel.release,
        started.elapsed().as_secs_f64(),
        directory.display()
    );
    Ok(ExitCode::from(u8::from(!as_expected)))
}

fn print(outcome: &TrialOutcome) {
    println!("== {} ==", outcome.trial.name);
    if let Some(mutation) = &outcome.trial.mutation {
        println!("{}", mutation.description);
    }
    for judged in &outcome.judged {
        println!("\n{}", text::render(&judged.report));
    }
    if let Some(trouble) = outcome.trouble() {
        // A broken kernel may well notice its own damage; a stock one must not.
        let whose = if outcome.trial.mutation.is_some() {
            "the damage itself"
        } else {
            "trouble in the VM"
        };
        println!("{whose}: {trouble}\n");
    }
}

/// A row of the table, and whether the trial ended as it should.
fn summarise(outcome: &TrialOutcome) -> (String, bool) {
    let (expected, unexpected) = outcome.sorted();
    let broken = outcome.trial.mutation.is_some();
    let verdicts: Vec<&str> = outcome
        .judged
        .iter()
        .map(|judged| judged.report.verdict.name())
        .collect();
    let total = |figure: fn(&tracer::judge::Report) -> u64| -> u64 {
        outcome
            .judged
            .iter()
            .map(|judged| figure(&judged.report))
            .sum()
    };
    let clean = outcome
        .judged
        .iter()
        .all(|judged| judged.report.verdict == Verdict::Clean);
    let mut found: Vec<String> = expected
        .iter()
        .map(|finding| {
            format!(
                "{} {} ({})",
                finding.kind.name(),
                finding.operation.name(),
                finding.strength.name()
            )
        })
        .collect();
    found.extend(unexpected.iter().map(|finding| {
        format!(
            "UNEXPECTED {} {}",
            finding.kind.name(),
            finding.operation.name()
        )
    }));
    if broken && expected.is_empty() {
        found.push("NOT FOUND".to_owned());
    }
    let good = unexpected.is_empty()
        && if broken {
            !expected.is_empty()
        } else {
            clean && outcome.trouble().is_none()
        };
    let mut verdict = verdicts.clone();
    verdict.dedup();
    let row = format!(
        "{:24} {:13} {:>9} {:>8} {:>7}  {}",
        outcome.trial.name,
        verdict.join("/"),
        total(|report| report.events),
        total(|report| report.totals.windows),
        total(|report| report.totals.met),
        if found.is_empty() {
            "-".to_owned()
        } else {
            found.join("; ")
        },
    );
    (row, good)
}
