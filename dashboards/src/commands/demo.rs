//! `faultline demo`

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use tracer::judge::{Verdict, text};
use workloads::lab::{Cache, Kernel, KernelSeries, host, mutations};

use crate::{
    campaign::{Extent, Site, Trial, TrialOutcome, empty, own_binary, run_all},
    cli::Demo,
    output,
    progress::Line,
};

/// The run that is not of a mutation.
const STOCK: &str = "stock";
/// What is shown unless something else is asked for.
const SHOWN: [&str; 4] = [
    STOCK,
    "xfs-punch-unlocked",
    "ext4-mkwrite-unlocked",
    "xfs-truncate-shared",
];

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
    let extent = Extent::Time(arguments.time);
    let chosen: Vec<&str> = if arguments.only.is_empty() {
        SHOWN.to_vec()
    } else {
        arguments.only.iter().map(String::as_str).collect()
    };
    let trials = chosen
        .into_iter()
        .map(|name| match name {
            STOCK => Ok(Trial::stock(extent)),
            broken => Ok(Trial::broken(mutations::find(broken)?, extent)),
        })
        .collect::<Result<Vec<_>>>()?;
    let binary = own_binary()?;
    let mut line = Line::new();
    let mut say = |step| line.step(&step);
    let series = KernelSeries(arguments.kernel.clone());
    let kernel = Kernel::obtain(&cache, &series, &mut say)?;
    empty(&directory)?;
    let site = Site {
        binary: &binary,
        cache: &cache,
        kernel: &kernel,
        directory: &directory,
        confirm: None,
    };
    let outcomes = run_all(trials, site, &mut say)?;
    drop(line);
    let mut rows = Vec::new();
    let mut as_expected = true;
    for outcome in &outcomes {
        print(outcome)?;
        let (row, expected) = summarise(outcome);
        as_expected &= expected;
        rows.push(row);
    }
    say!(
        "{:24} {:13} {:>9} {:>8} {:>7}  found",
        "run",
        "verdict",
        "events",
        "windows",
        "met"
    )?;
    for row in rows {
        say!("{row}")?;
    }
    say!(
        "\n{} on {}, {:.0} s; traces in {}",
        if as_expected {
            "all as expected"
        } else {
            "NOT as expected"
        },
        kernel.release,
        started.elapsed().as_secs_f64(),
        directory.display()
    )?;
    let judged = outcomes.iter().flat_map(|outcome| &outcome.judged);
    if let Some(judged) = judged
        .into_iter()
        .find(|judged| !judged.report.findings.is_empty())
    {
        let trace = judged.trace.display();
        output::hint(&format!(
            "`faultline report {trace} -o run.html` draws its finding, `faultline replay {trace}` shows it here"
        ));
    }
    Ok(ExitCode::from(u8::from(!as_expected)))
}

fn print(outcome: &TrialOutcome) -> Result<()> {
    say!("== {} ==", outcome.trial.name)?;
    if let Some(mutation) = &outcome.trial.mutation {
        say!("{}", mutation.description)?;
    }
    for judged in &outcome.judged {
        say!("\n{}", text::render(&judged.report))?;
    }
    if !outcome.trouble.is_empty() {
        // A broken kernel may well notice its own damage; a stock one must not.
        let whose = if outcome.trial.mutation.is_some() {
            "the damage itself"
        } else {
            "trouble in the VM"
        };
        say!("{whose}: {}\n", outcome.told())?;
    }
    Ok(())
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
            clean && outcome.trouble.is_empty()
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
