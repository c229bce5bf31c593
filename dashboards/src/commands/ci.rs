//! `faultline ci` and `faultline merge`

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use tracer::judge::annotations::Version;
use workloads::lab::{Accelerator, Cache, KernelSeries, host, qemu};

use crate::{
    campaign::{self, Site, Trial, Workload, own_binary},
    ci::{
        cell::{Cell, Side, Status},
        config,
        inside::{self, Inside},
        machine,
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
    let line = Mutex::new(Line::new());
    let mut benches = vec![run.bench(Side::Candidate, subject, None, &line)?];
    if let Some(baseline) = &arguments.baseline {
        // The same workloads, whatever the change is about.
        benches.push(run.bench(Side::Baseline, baseline, Some(subject), &line)?);
    }
    benches.retain(|bench| !bench.workloads.is_empty());
    let (jobs, note) = machine::guests_for(arguments.jobs, benches.len());
    if let Some(note) = note {
        said(&line).say(&note, true);
    }
    run.all(&benches, jobs, &line)
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
            // Only who made the filesystem knows whether it has these.
            .filter(|workload| {
                let named = arguments.scenario.contains(&workload.scenario);
                named || !campaign::made_with(workload.mkfs.as_deref(), campaign::EXCHANGE)
            })
            .map(|workload| Workload {
                mkfs: None,
                options: None,
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

/// One of the two kernels, ready, and what is to be run on it.
struct Bench<'a> {
    side: Side,
    subject: &'a Subject,
    prepared: Prepared,
    workloads: Vec<Workload>,
}

/// A part of a bench's workloads, which one guest after the other runs.
struct Share<'a> {
    bench: &'a Bench<'a>,
    workloads: Vec<Workload>,
}

/// The progress line, of which a thread that panicked has spoiled nothing.
fn said<'a>(line: &'a Mutex<Line>) -> MutexGuard<'a, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run<'_> {
    /// Gets or builds one of the two kernels, and says what is left to be run on it.
    fn bench<'a>(
        &self,
        side: Side,
        subject: &'a Subject,
        about: Option<&Subject>,
        line: &Mutex<Line>,
    ) -> Result<Bench<'a>> {
        let arguments = self.arguments;
        let mut say = |step| {
            let (words, lasting) = progress::lab_step(&step);
            said(line).say(&format!("{}: {words}", side.name()), lasting);
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
        } else if self.config.filesystem.is_empty() {
            filesystems.retain(|kind| kind.is_on_disk());
        }
        let mut workloads = matrix::workloads(
            self.suite,
            self.config,
            &filesystems,
            &arguments.scenario,
            arguments.time,
        )?;
        let release = &prepared.kernel.release;
        let unfit = matrix::fit(&mut workloads, Version::parse(release));
        if !unfit.is_empty() {
            let names: Vec<String> = unfit.into_iter().collect();
            let names = names.join(", ");
            said(line).keep(&format!("{} is too old for {names}: left out", release));
        }
        if let Some(shard) = arguments.shard {
            workloads = shard.of(workloads);
        }
        let cells = arguments.output.join(CELLS);
        workloads.retain(|workload| !cells.join(Cell::file(side, &workload.name())).exists());
        Ok(Bench {
            side,
            subject,
            prepared,
            workloads,
        })
    }

    /// Runs all workloads of the benches in so many guests at a time.
    fn all(&self, benches: &[Bench<'_>], jobs: usize, line: &Mutex<Line>) -> Result<()> {
        let parts = jobs.div_ceil(benches.len().max(1));
        let queue: Mutex<VecDeque<Share<'_>>> = Mutex::new(
            benches
                .iter()
                .flat_map(|bench| {
                    matrix::split(bench.workloads.clone(), parts)
                        .into_iter()
                        .map(move |workloads| Share { bench, workloads })
                })
                .collect(),
        );
        let next = || {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.pop_front()
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (1..=jobs)
                .map(|number| {
                    scope.spawn(move || {
                        while let Some(share) = next() {
                            let mark = match jobs {
                                1 => share.bench.side.name().to_owned(),
                                _ => format!("{} [{number}]", share.bench.side.name()),
                            };
                            if let Err(error) = self.share(&share, &mark, line) {
                                // The others' guests go on to their end; none is begun any more.
                                while next().is_some() {}
                                return Err(error);
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    /// Runs a part of a bench's workloads and keeps every cell.
    fn share(&self, share: &Share<'_>, mark: &str, line: &Mutex<Line>) -> Result<()> {
        let Bench {
            side,
            subject,
            prepared,
            ..
        } = share.bench;
        let directory = self.arguments.output.join(side.name());
        let cells = self.arguments.output.join(CELLS);
        let site = Site {
            binary: &self.binary,
            cache: self.cache,
            kernel: &prepared.kernel,
            directory: &directory,
            confirm: self.arguments.confirm,
        };
        let accelerator = match qemu::accelerator(&prepared.kernel) {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        };
        let trials: Vec<Trial> = share
            .workloads
            .iter()
            .map(|workload| trial(*side, workload, prepared))
            .collect();
        let mut say = |step| {
            let (words, lasting) = progress::lab_step(&step);
            said(line).say(&format!("{mark}: {words}"), lasting);
        };
        campaign::run_each(trials, site, &mut say, &mut |number, outcome| {
            let mut cell = Cell::new(
                *side,
                &subject.to_string(),
                &prepared.kernel.release,
                accelerator,
                &share.workloads[number],
                outcome,
            );
            cell.draw()?;
            cell.write(&cells)?;
            said(line).keep(&row(&cell));
            Ok(())
        })?;
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
    if matches!(
        cell.status,
        Status::Failed | Status::Inconclusive | Status::Hung
    ) {
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
