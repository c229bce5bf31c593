//! `faultline ci` and `faultline merge`

use std::{
    collections::BTreeSet,
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use workloads::lab::{Accelerator, Cache, KernelSeries, host, qemu};

use crate::{
    campaign::{self, Site, Trial, Workload, own_binary},
    ci::{
        cell::{Cell, Side, Status},
        config,
        inside::{self, Inside},
        matrix::{self, Config, Suite},
        output,
        subject::{Prepared, Subject},
        verdict::{Decision, Summary, first_line},
    },
    cli::{Ci, Merge},
    progress::{self, Line},
};

/// The file that is read if none is named.
const CONFIG_NAME: &str = "faultline.toml";
/// Where the cells of a run are kept in its directory.
const CELLS: &str = "cells";

/// Tests a change. 0: nothing new is wrong, and enough was seen; 1: something is; 2: cannot say.
pub fn run(arguments: &Ci) -> Result<ExitCode> {
    let started = Instant::now();
    let config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None if Path::new(CONFIG_NAME).is_file() => Config::read(Path::new(CONFIG_NAME))?,
        None => Config::default(),
    };
    if !arguments.resume {
        campaign::empty(&arguments.output)?;
    }
    let suite = arguments.suite.or(config.suite).unwrap_or(Suite::Smoke);
    match &arguments.subject {
        Some(subject) => in_vms(arguments, &config, suite, subject)?,
        None => on_this_machine(arguments, &config, suite)?,
    }
    let wanted = arguments.min_coverage.or(config.min_coverage).unwrap_or(0);
    conclude(
        &arguments.output,
        std::slice::from_ref(&arguments.output),
        wanted,
        Some(started),
    )
}

/// Runs the matrix in VMs, on one kernel or two.
fn in_vms(arguments: &Ci, config: &Config, suite: Suite, subject: &Subject) -> Result<()> {
    host::require(&host::vm_tools())?;
    let cache = Cache::open()?;
    let base = arguments
        .kernel
        .clone()
        .or_else(|| config.kernel.clone())
        .unwrap_or_else(|| "6.12".to_owned());
    let run = Run {
        arguments,
        config,
        base: KernelSeries(base),
        cache: &cache,
        binary: own_binary()?,
        suite,
    };
    let mut line = Line::new();
    run.side(Side::Candidate, subject, None, &mut line)?;
    if let Some(baseline) = &arguments.baseline {
        // The same workloads, whatever the change is about.
        run.side(Side::Baseline, baseline, Some(subject), &mut line)?;
    }
    Ok(())
}

/// Runs the matrix, or xfstests, on the mounts of this machine.
fn on_this_machine(arguments: &Ci, config: &Config, suite: Suite) -> Result<()> {
    let mounts = super::record::watched(&arguments.mount)?;
    for path in &arguments.mount {
        let path =
            fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))?;
        if mounts.iter().all(|mount| Path::new(&mount.path) != path) {
            bail!(
                "nothing is mounted on {}: mount the filesystem that is to be worked on there first",
                path.display()
            );
        }
    }
    let cells = arguments.output.join(CELLS);
    let directory = arguments.output.join(Side::Candidate.name());
    let mut line = Line::new();
    let mut inside = Inside::new(mounts, directory, arguments.confirm)?;
    if let Some(tests) = &arguments.xfstests {
        line.say(&format!("xfstests on {}", inside.kernel()), true);
        let mut cell = inside.xfstests(tests, &arguments.arguments)?;
        cell.draw()?;
        cell.write(&cells)?;
        line.keep(&row(&cell));
        return Ok(());
    }
    let mut workloads = Vec::new();
    for mount in &inside.mounts {
        let (filesystem, dax) = inside::kind(mount)?;
        if !arguments.filesystem.is_empty() && !arguments.filesystem.contains(&filesystem) {
            continue;
        }
        let of_suite = matrix::workloads(
            suite,
            config,
            &[filesystem],
            &arguments.scenario,
            arguments.time,
        )?;
        // It is mounted already, as it was made.
        let mut fit: Vec<Workload> = of_suite
            .into_iter()
            .filter(|workload| workload.dax == dax)
            .map(|workload| Workload {
                mkfs: None,
                ..workload
            })
            .collect();
        fit.retain(|workload| {
            workloads
                .iter()
                .all(|other: &Workload| other.name() != workload.name())
        });
        fit.dedup_by_key(|workload| workload.name());
        workloads.extend(fit);
    }
    if let Some(shard) = arguments.shard {
        workloads = shard.of(workloads);
    }
    workloads.retain(|workload| {
        let file = Cell::file(Side::Candidate, &workload.name());
        !cells.join(file).exists()
    });
    for workload in &workloads {
        line.say(&format!("{} on {}", workload.name(), inside.kernel()), true);
        let mut cell = inside.workload(workload)?;
        cell.draw()?;
        cell.write(&cells)?;
        line.keep(&row(&cell));
    }
    Ok(())
}

/// Puts the results of several machines together.
pub fn merge(arguments: &Merge) -> Result<ExitCode> {
    conclude(
        &arguments.output,
        &arguments.parts,
        arguments.min_coverage,
        None,
    )
}

struct Run<'a> {
    arguments: &'a Ci,
    config: &'a Config,
    base: KernelSeries,
    cache: &'a Cache,
    binary: PathBuf,
    suite: Suite,
}

impl Run<'_> {
    /// Runs what is to be run on one of the two kernels, and keeps every cell.
    fn side(
        &self,
        side: Side,
        subject: &Subject,
        about: Option<&Subject>,
        line: &mut Line,
    ) -> Result<()> {
        let arguments = self.arguments;
        let mut say = |step| {
            let (words, lasting) = progress::lab_step(&step);
            line.say(&format!("{}: {words}", side.name()), lasting);
        };
        let prepared = subject
            .prepare(&self.base, self.cache, &mut say)
            .with_context(|| format!("{} {subject} cannot be tested", side.name()))?;
        self.check(&prepared)?;
        let mut filesystems = match about {
            None => prepared.filesystems.clone(),
            Some(about) => about.prepare(&self.base, self.cache, &mut say)?.filesystems,
        };
        if !arguments.filesystem.is_empty() {
            filesystems.retain(|kind| arguments.filesystem.contains(kind));
        }
        let mut workloads = matrix::workloads(
            self.suite,
            self.config,
            &filesystems,
            &arguments.scenario,
            arguments.time,
        )?;
        if let Some(shard) = arguments.shard {
            workloads = shard.of(workloads);
        }
        let cells = arguments.output.join(CELLS);
        workloads.retain(|workload| !cells.join(Cell::file(side, &workload.name())).exists());
        if workloads.is_empty() {
            return Ok(());
        }
        let accelerator = qemu::accelerator(&prepared.kernel);
        let directory = arguments.output.join(side.name());
        let site = Site {
            binary: &self.binary,
            cache: self.cache,
            kernel: &prepared.kernel,
            directory: &directory,
            confirm: arguments.confirm,
        };
        // The emulator runs the guest's processors by turns; with KVM they are the host's.
        let accelerator_name = match accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        };
        let trials: Vec<Trial> = workloads
            .iter()
            .map(|workload| trial(side, workload, &prepared))
            .collect();
        let outcomes = campaign::run_all(trials, site, &mut say)?;
        for (workload, outcome) in workloads.iter().zip(&outcomes) {
            let mut cell = Cell::new(
                side,
                &subject.to_string(),
                &prepared.kernel.release,
                accelerator_name,
                workload,
                outcome,
            );
            cell.draw()?;
            cell.write(&cells)?;
            line.keep(&row(&cell));
        }
        Ok(())
    }

    fn check(&self, prepared: &Prepared) -> Result<()> {
        let lacking = config::lacking(&prepared.kernel.config).unwrap_or_default();
        if !lacking.is_empty() {
            bail!(
                "kernel {} cannot be judged; add to its configuration:\n  {}",
                prepared.kernel.release,
                lacking.join("\n  ")
            );
        }
        Ok(())
    }
}

fn trial(side: Side, workload: &Workload, prepared: &Prepared) -> Trial {
    Trial {
        name: side.name().to_owned(),
        mutation: None,
        overrides: prepared
            .overrides
            .iter()
            .filter(|module| module.name == workload.filesystem.module())
            .cloned()
            .collect(),
        workloads: vec![workload.clone()],
    }
}

/// A line of the progress table.
fn row(cell: &Cell) -> String {
    let mut told: Vec<String> = cell
        .findings
        .iter()
        .map(|found| format!("{} {} ({})", found.kind, found.operation, found.strength))
        .collect();
    if matches!(cell.status, Status::Failed | Status::Inconclusive) {
        told.extend(
            cell.reasons
                .iter()
                .map(|reason| first_line(reason).to_owned()),
        );
    }
    let line = format!(
        "{:10} {:40} {:13} {:>8} events {:4.0} s  {}",
        cell.side.name(),
        cell.name,
        cell.status.name(),
        cell.events,
        cell.seconds,
        told.join("; ")
    );
    line.trim_end().to_owned()
}

/// Reads the cells of every part, writes all forms, prints the verdict.
fn conclude(
    output: &Path,
    parts: &[PathBuf],
    wanted: u8,
    started: Option<Instant>,
) -> Result<ExitCode> {
    let mut cells = Vec::new();
    let mut seen = BTreeSet::new();
    for part in parts {
        let directory = part.join(CELLS);
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("{} holds no results", part.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let cell = Cell::read(&path)?;
            if seen.insert((cell.side, cell.name.clone())) {
                cells.push(cell);
            }
        }
    }
    let summary = Summary::new(cells, wanted);
    output::write(&summary, output)?;
    // A job's own page, where the runner offers one.
    if let Some(page) = std::env::var_os("GITHUB_STEP_SUMMARY") {
        let written = fs::File::options()
            .create(true)
            .append(true)
            .open(&page)
            .and_then(|mut file| file.write_all(output::markdown(&summary).as_bytes()));
        written.with_context(|| format!("cannot write {}", page.display()))?;
    }
    let decision = summary.decision();
    let text = if std::io::stdout().is_terminal() {
        terminal(&summary)
    } else {
        output::markdown(&summary)
    };
    crate::output::print(text.as_bytes())?;
    let time = started.map_or(String::new(), |started| {
        format!("{:.0} s, ", started.elapsed().as_secs_f64())
    });
    note!(
        "{}; {time}results in {}",
        match &decision {
            Decision::Good => "nothing new is wrong",
            Decision::Bad => "something is wrong",
            Decision::Unknown(_) => "cannot say",
        },
        output.display()
    );
    Ok(ExitCode::from(decision.status()))
}

fn terminal(summary: &Summary) -> String {
    let mut text = String::new();
    for cell in &summary.cells {
        text.push_str(&row(cell));
        text.push('\n');
    }
    for cell in summary.candidate() {
        for found in summary.news(cell) {
            text.push_str(&format!("\n{}: {}\n", cell.name, found.sentence));
        }
    }
    if let Decision::Unknown(reasons) = summary.decision() {
        for reason in reasons {
            text.push_str(&format!("\n{reason}"));
        }
        text.push('\n');
    }
    text.push_str(&format!("\nrace coverage {} %\n", summary.coverage));
    text
}
