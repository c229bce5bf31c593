//! `faultline selftest`: the detector tested by breaking the kernel.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tracer::judge::{Verdict, annotations::Version, finding::Finding};
use workloads::{
    lab::{Cache, FilesystemKind, Kernel, KernelSeries, Mutation, host, modules, mutations},
    scenarios,
};

use crate::{
    campaign::{
        self, Complaint, Extent, Judged, Site, Trial, TrialOutcome, Trouble, Workload, own_binary,
    },
    ci::{
        cell, machine,
        matrix::{self, Config, Suite},
    },
    cli::{Selftest, TableFormat},
    progress::Line,
};

/// The name that stands for the unmodified kernel.
const STOCK: &str = "stock";

/// One of each kind that a few seconds suffice for; what continuous integration runs.
const FAST: &[&str] = &[
    STOCK,
    "xfs-punch-unlocked",
    "ext4-collapse-unlocked",
    "ext4-mkwrite-unlocked",
    "xfs-read-fault-unlocked",
    "xfs-truncate-shared",
    "xfs-swapext-one-inode",
    "ext4-collapse-flush-unlocked",
    "xfs-insert-lock-cycled",
];

/// What is printed and serialised.
#[derive(Debug, Serialize)]
struct Scoreboard {
    schema: &'static str,
    kernel: String,
    seconds: f64,
    found: usize,
    mutations: Vec<Row>,
    stock: Vec<StockRow>,
}

/// A broken module.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    filesystem: &'static str,
    class: &'static str,
    expected_kind: &'static str,
    expected_operation: &'static str,
    found: Option<Found>,
    /// Other findings, each once.
    other: BTreeSet<String>,
    /// What went wrong beside the verdict: the damage itself, or why there is none.
    trouble: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Found {
    kind: &'static str,
    operation: &'static str,
    strength: &'static str,
    /// From the start of the recording.
    seconds: f64,
}

/// A workload on the unmodified kernel.
#[derive(Debug, Serialize)]
struct StockRow {
    workload: String,
    verdict: &'static str,
    events: u64,
    lost: u64,
    windows: u64,
    met: u64,
    false_alarms: BTreeSet<String>,
    annotated: usize,
    trouble: Vec<String>,
}

/// Breaks the kernel in every way known, and prints what was noticed. 0: everything, and nothing
/// on the unmodified kernel; 1: not so.
pub fn run(arguments: &Selftest) -> Result<ExitCode> {
    let started = Instant::now();
    host::require(&host::vm_tools())?;
    host::require(&host::build_tools(None))?;
    let cache = Cache::open()?;
    let chosen = choose(arguments)?;
    let binary = own_binary()?;
    let mut line = Line::new();
    let mut say = |step| line.step(&step);
    let series = KernelSeries(arguments.kernel.clone());
    let kernel = Kernel::obtain(&cache, &series, &mut say)?;
    if arguments.lockdep {
        drop(line);
        return super::lockdep::run(arguments, &cache, &kernel, chosen.mutations);
    }
    if arguments.build {
        return build(&cache, &kernel, &chosen.mutations, line);
    }
    let directory = match &arguments.result {
        Some(directory) => directory.clone(),
        None => cache.root().join("selftest"),
    };
    campaign::empty(&directory)?;
    let extent = Extent::Time(arguments.time);
    let mut trials = Vec::new();
    let mut unknown = Vec::new();
    for mutation in chosen.mutations {
        match scenarios::find(mutation.scenario) {
            Ok(_) => trials.push(Trial::broken(mutation, extent)),
            // A row without a run is a row that was not found, never one left out.
            Err(error) => {
                let mut outcome = TrialOutcome::new(Trial::broken(mutation, extent));
                let complaint = Complaint::new(Trouble::Untried, error.to_string());
                outcome.trouble.push(complaint);
                unknown.push(outcome);
            }
        }
    }
    if chosen.stock {
        trials.extend(stock(arguments.fast, &kernel, extent)?);
    }
    let site = Site {
        binary: &binary,
        cache: &cache,
        kernel: &kernel,
        directory: &directory,
        confirm: arguments.confirm,
    };
    let (jobs, note) = machine::guests_for(arguments.jobs, 1);
    if let Some(note) = note {
        line.say(&note, true);
    }
    let mut outcomes = run_in(jobs, trials, site, line)?;
    outcomes.extend(unknown);
    let board = Scoreboard::new(&kernel, started.elapsed(), &outcomes);
    let text = match arguments.format {
        TableFormat::Text => board.text(),
        TableFormat::Markdown => board.markdown(),
        TableFormat::Json => serde_json::to_string_pretty(&board)? + "\n",
    };
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .context("cannot print the scoreboard")?;
    Ok(ExitCode::from(u8::from(!board.perfect())))
}

/// Runs trials in so many guests at a time; outcomes are in the order of the trials.
fn run_in(
    jobs: usize,
    trials: Vec<Trial>,
    site: Site<'_>,
    line: Line,
) -> Result<Vec<TrialOutcome>> {
    let line = Mutex::new(line);
    let numbered: Vec<(usize, Trial)> = trials.into_iter().enumerate().collect();
    let mut outcomes = std::thread::scope(|scope| {
        let workers: Vec<_> = matrix::split(numbered, jobs)
            .into_iter()
            .map(|part| {
                let line = &line;
                scope.spawn(move || {
                    let (numbers, trials): (Vec<usize>, Vec<Trial>) = part.into_iter().unzip();
                    let mut say = |step| {
                        line.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .step(&step);
                    };
                    let outcomes = campaign::run_all(trials, site, &mut say)?;
                    Ok(numbers.into_iter().zip(outcomes).collect::<Vec<_>>())
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect::<Result<Vec<_>>>()
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    outcomes.sort_by_key(|(number, _)| *number);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// Builds the broken modules and stops there.
pub(super) fn build(
    cache: &Cache,
    kernel: &Kernel,
    mutations: &[Mutation<'static>],
    mut line: Line,
) -> Result<ExitCode> {
    for mutation in mutations {
        let mut say = |step| line.step(&step);
        let (filesystem, patch) = (mutation.filesystem, mutation.patch);
        modules::build(cache, kernel, filesystem, patch, &mut say)
            .with_context(|| mutation.name.to_owned())?;
    }
    drop(line);
    say!("{} modules built for {}", mutations.len(), kernel.release)?;
    Ok(ExitCode::SUCCESS)
}

struct Chosen {
    mutations: Vec<Mutation<'static>>,
    stock: bool,
}

fn choose(arguments: &Selftest) -> Result<Chosen> {
    let all = mutations::all()?;
    let named = |name: &str| {
        (arguments.only.is_empty() && arguments.class.is_empty())
            || arguments.only.iter().any(|only| only == name)
    };
    for name in &arguments.only {
        if name != STOCK {
            mutations::find(name)?;
        }
    }
    for class in &arguments.class {
        if !all.iter().any(|mutation| mutation.class == class) {
            bail!("there is no mutation of class {class}");
        }
    }
    let wanted = |name: &str, class: Option<&str>| {
        let fast = !arguments.fast || FAST.contains(&name);
        let classed = class.is_some_and(|class| arguments.class.iter().any(|of| of == class));
        fast && (named(name) || classed)
    };
    Ok(Chosen {
        stock: wanted(STOCK, None),
        mutations: all
            .into_iter()
            .filter(|mutation| wanted(mutation.name, Some(mutation.class)))
            .collect(),
    })
}

/// All that `ci --suite full` runs; when in haste, one on both filesystems.
fn stock(fast: bool, kernel: &Kernel, extent: Extent) -> Result<Vec<Trial>> {
    if fast {
        return Ok(vec![Trial::stock(extent)]);
    }
    let both = [FilesystemKind::Xfs, FilesystemKind::Ext4];
    let mut workloads = matrix::workloads(Suite::Full, &Config::default(), &both, &[], None)?;
    // What else a run of this kernel is too old for is no row that could be missed.
    matrix::fit(&mut workloads, Version::parse(&kernel.release));
    let trial = |workload| Trial {
        name: STOCK.to_owned(),
        mutation: None,
        overrides: Vec::new(),
        workloads: vec![Workload { extent, ..workload }],
    };
    Ok(workloads.into_iter().map(trial).collect())
}

pub(super) fn told(finding: &Finding) -> String {
    format!(
        "{} {} ({})",
        finding.kind.name(),
        finding.operation.name(),
        finding.strength.name()
    )
}

impl Scoreboard {
    fn new(kernel: &Kernel, time: Duration, outcomes: &[TrialOutcome]) -> Self {
        let mutations: Vec<Row> = outcomes.iter().filter_map(Row::new).collect();
        Self {
            schema: "faultline.selftest/1",
            kernel: kernel.release.clone(),
            seconds: time.as_secs_f64(),
            found: mutations.iter().filter(|row| row.found.is_some()).count(),
            mutations,
            stock: outcomes
                .iter()
                .filter(|outcome| outcome.trial.mutation.is_none())
                .flat_map(stock_rows)
                .collect(),
        }
    }

    fn perfect(&self) -> bool {
        self.found == self.mutations.len()
            && self
                .stock
                .iter()
                .all(|row| row.verdict == Verdict::Clean.name())
    }

    fn false_alarms(&self) -> usize {
        self.stock.iter().map(|row| row.false_alarms.len()).sum()
    }

    /// The last line, and the first thing to look at.
    fn summary(&self) -> String {
        let mut text = format!("{} of {} found", self.found, self.mutations.len());
        if !self.stock.is_empty() {
            let events: u64 = self.stock.iter().map(|row| row.events).sum();
            text.push_str(&format!(
                "; {} false alarms in {} stock runs, {events} events",
                self.false_alarms(),
                self.stock.len()
            ));
        }
        format!("{text}; {}, {:.0} s", self.kernel, self.seconds)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.mutations.is_empty() {
            text.push_str(&format!(
                "{:30} {:5} {:48} {:10} {:>7}  other\n",
                "mutation", "class", "found", "strength", "after"
            ));
        }
        for row in &self.mutations {
            let (found, strength, after) = match &row.found {
                Some(found) => (
                    format!("{} {}", found.kind, found.operation),
                    found.strength,
                    format!("{:.1} s", found.seconds),
                ),
                None => (
                    format!(
                        "NOT FOUND: {} {}",
                        row.expected_kind, row.expected_operation
                    ),
                    "-",
                    "-".to_owned(),
                ),
            };
            let line = format!(
                "{:30} {:5} {found:48} {strength:10} {after:>7}  {}",
                row.name,
                row.class,
                joined(&row.other)
            );
            text.push_str(line.trim_end());
            text.push('\n');
            if row.found.is_none() {
                for trouble in &row.trouble {
                    text.push_str(&format!("    {trouble}\n"));
                }
            }
        }
        if !self.stock.is_empty() {
            text.push_str(&format!(
                "\n{:48} {:13} {:>9} {:>6} {:>8} {:>8}  false alarms\n",
                "stock", "verdict", "events", "lost", "windows", "met"
            ));
        }
        for row in &self.stock {
            text.push_str(&format!(
                "{:48} {:13} {:>9} {:>6} {:>8} {:>8}  {}\n",
                row.workload,
                row.verdict,
                row.events,
                row.lost,
                row.windows,
                row.met,
                joined(&row.false_alarms)
            ));
            for trouble in &row.trouble {
                text.push_str(&format!("    {trouble}\n"));
            }
        }
        text.push_str(&format!("\n{}\n", self.summary()));
        text
    }

    fn markdown(&self) -> String {
        let mut text = format!("{}.\n\n", self.summary());
        text.push_str("| broken module | class | expected | found | strength | after | other |\n");
        text.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
        for row in &self.mutations {
            let operation = row.expected_operation.replace(',', ", ");
            let (found, strength, after) = match &row.found {
                Some(found) => (
                    format!("`{}` {}", found.kind, found.operation),
                    found.strength,
                    format!("{:.1} s", found.seconds),
                ),
                None => ("**not found**".to_owned(), "", String::new()),
            };
            text.push_str(&format!(
                "| {} | {} | `{}` {operation} | {found} | {strength} | {after} | {} |\n",
                row.name,
                row.class,
                row.expected_kind,
                joined(&row.other)
            ));
        }
        let clean = |row: &&StockRow| row.verdict == Verdict::Clean.name();
        if !self.stock.is_empty() {
            text.push_str(&format!(
                "\nThe stock kernel: {} workloads, {} events, {} lost; {} clean.\n",
                self.stock.len(),
                self.stock.iter().map(|row| row.events).sum::<u64>(),
                self.stock.iter().map(|row| row.lost).sum::<u64>(),
                self.stock.iter().filter(clean).count(),
            ));
        }
        let mut others = self.stock.iter().filter(|row| !clean(row)).peekable();
        if others.peek().is_some() {
            text.push_str("\n| stock kernel | verdict | events | lost | false alarms |\n");
            text.push_str("| --- | --- | --- | --- | --- |\n");
        }
        for row in others {
            text.push_str(&format!(
                "| {} | {} | {} | {} | {} |\n",
                row.workload,
                row.verdict,
                row.events,
                row.lost,
                joined(&row.false_alarms)
            ));
        }
        text
    }
}

/// `-` for none.
fn joined(words: &BTreeSet<String>) -> String {
    if words.is_empty() {
        return "-".to_owned();
    }
    words.iter().cloned().collect::<Vec<_>>().join("; ")
}

impl Row {
    /// `None` for the unmodified kernel.
    fn new(outcome: &TrialOutcome) -> Option<Self> {
        let mutation = outcome.trial.mutation.as_ref()?;
        let (expected, other) = outcome.sorted();
        Some(Self {
            name: mutation.name,
            filesystem: mutation.filesystem.module(),
            class: mutation.class,
            expected_kind: mutation.expect.kind,
            expected_operation: mutation.expect.operation,
            found: strongest(&expected).map(|finding| Found {
                kind: finding.kind.name(),
                operation: finding.operation.name(),
                strength: finding.strength.name(),
                seconds: outcome.found_after(finding).as_secs_f64(),
            }),
            other: other.into_iter().map(told).collect(),
            trouble: told_of(outcome),
        })
    }
}

fn told_of(outcome: &TrialOutcome) -> Vec<String> {
    outcome.trouble.iter().map(ToString::to_string).collect()
}

pub(super) fn strongest<'a>(findings: &[&'a Finding]) -> Option<&'a Finding> {
    findings
        .iter()
        .copied()
        .max_by_key(|finding| finding.strength)
}

fn stock_rows(outcome: &TrialOutcome) -> Vec<StockRow> {
    let mut rows: Vec<StockRow> = outcome
        .judged
        .iter()
        .map(|judged| StockRow {
            workload: judged.workload.name(),
            verdict: verdict(judged).name(),
            events: judged.report.events,
            lost: judged.report.lost,
            windows: judged.report.totals.windows,
            met: judged.report.totals.met,
            false_alarms: judged.report.findings.iter().map(told).collect(),
            annotated: judged.report.annotated.len(),
            trouble: Vec::new(),
        })
        .collect();
    // What left no trace is told with the last that did.
    if let Some(last) = rows.last_mut() {
        last.trouble = told_of(outcome);
    }
    rows
}

/// Clean, too, if the run lacks nothing but what the workload does not do by design.
fn verdict(judged: &Judged) -> Verdict {
    let expected = cell::expected(&judged.workload);
    let by_design = |reason: &String| expected.contains(&reason.as_str());
    match judged.report.verdict {
        Verdict::Inconclusive if judged.report.reasons.iter().all(by_design) => Verdict::Clean,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use workloads::lab::mutations::Mode;

    #[test]
    fn every_mutation_has_a_workload_that_can_meet_it() {
        for mutation in mutations::all().unwrap() {
            let scenario = scenarios::find(mutation.scenario).unwrap();
            assert!(
                campaign::runs_on(
                    scenario,
                    mutation.filesystem,
                    mutation.mode == Mode::Dax,
                    mutation.mkfs
                ),
                "{}",
                mutation.name
            );
        }
    }

    #[test]
    fn what_is_run_in_haste_exists() {
        for name in FAST.iter().filter(|name| **name != STOCK) {
            mutations::find(name).unwrap();
        }
    }
}
