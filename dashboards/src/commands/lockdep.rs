//! `faultline selftest --lockdep`: what the kernel's lock validator says of each broken module, beside
//! what Faultline says.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use workloads::lab::{Cache, Kernel, Mutation, debug_kernel, lockdep};

use super::selftest::strongest;
use crate::{
    campaign::{self, Extent, Site, Trial, TrialOutcome, Trouble, Validator, own_binary},
    ci::verdict::first_line,
    cli::{Selftest, TableFormat},
    output,
    progress::Line,
};

/// What of the result directory is kept for `--resume`.
const ROWS: &str = "rows";
/// Name and version of a row's file.
const SCHEMA: &str = "faultline.lockdep/1";

/// One workload, on a broken module or on the kernel's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    schema: String,
    /// Of the mutation; the workload's for the kernel's own module.
    name: String,
    workload: String,
    broken: Option<Broken>,
    /// Findings that the mutation does not explain, each once.
    other: BTreeSet<String>,
    lockdep: Heard,
    /// What else the kernel complained of.
    complaints: Vec<String>,
    /// What kept it from being judged, if anything.
    trouble: Vec<String>,
}

/// How the module is broken, and whether Faultline said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Broken {
    class: String,
    kind: String,
    operation: String,
    /// `op-unprotected fallocate/PUNCH_HOLE (observed)`.
    found: Option<String>,
}

/// What was heard of the validator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Heard {
    /// It was on; its reports.
    Said(Vec<String>),
    /// It was off before the workload began, or the guest did not come so far.
    Nothing,
}

/// Runs the mutations, and their workloads on the kernel's own modules, on a kernel with the validator.
/// 0: Faultline found every one; 1: not so.
pub(super) fn run(
    arguments: &Selftest,
    cache: &Cache,
    packaged: &Kernel,
    mutations: Vec<Mutation<'static>>,
) -> Result<ExitCode> {
    let mut line = Line::new();
    let mut say = |step| line.step(&step);
    let kernel = debug_kernel::build(cache, packaged, &mut say)?;
    if arguments.build {
        return super::selftest::build(cache, &kernel, &mutations, line);
    }
    let directory = match &arguments.result {
        Some(directory) => directory.clone(),
        None => cache.root().join("lockdep"),
    };
    if !arguments.resume {
        campaign::empty(&directory)?;
    }
    let rows = Rows::at(directory.join(ROWS));
    let all = trials(mutations, Extent::Time(arguments.time));
    let missing: Vec<Trial> = all
        .iter()
        .filter(|trial| !rows.has(trial))
        .cloned()
        .collect();
    if !missing.is_empty() {
        let site = Site {
            binary: &own_binary()?,
            cache,
            kernel: &kernel,
            directory: &directory,
            confirm: arguments.confirm,
        };
        campaign::run_each(missing, site, &mut say, &mut |_, outcome| {
            rows.keep(&Row::new(outcome))
        })?;
    }
    drop(line);
    let board = Board {
        kernel: kernel.release,
        rows: all
            .iter()
            .map(|trial| rows.read(trial))
            .collect::<Result<_>>()?,
    };
    let text = match arguments.format {
        TableFormat::Text => board.text(),
        TableFormat::Markdown => board.markdown(),
        TableFormat::Json => serde_json::to_string_pretty(&board.rows)? + "\n",
    };
    output::print(text.as_bytes())?;
    Ok(ExitCode::from(u8::from(!board.all_found())))
}

/// The mutations, and each of their workloads on the kernel's own module.
fn trials(mutations: Vec<Mutation<'static>>, extent: Extent) -> Vec<Trial> {
    let broken: Vec<Trial> = mutations
        .into_iter()
        .map(|mutation| Trial::broken(mutation, extent))
        .collect();
    let mut seen = BTreeSet::new();
    let controls: Vec<Trial> = broken
        .iter()
        .flat_map(|trial| &trial.workloads)
        .filter(|workload| seen.insert(workload.name()))
        .map(|workload| Trial {
            name: "stock".to_owned(),
            mutation: None,
            overrides: Vec::new(),
            workloads: vec![workload.clone()],
        })
        .collect();
    broken.into_iter().chain(controls).collect()
}

/// The rows that were had, each in a file.
struct Rows {
    directory: PathBuf,
}

impl Rows {
    fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    fn has(&self, trial: &Trial) -> bool {
        self.path(&name(trial)).exists()
    }

    fn keep(&self, row: &Row) -> Result<()> {
        campaign::keep(&self.path(&row.name), row)
    }

    fn read(&self, trial: &Trial) -> Result<Row> {
        let path = self.path(&name(trial));
        read(&path).with_context(|| format!("{} is no row of a run", path.display()))
    }
}

fn read(path: &Path) -> Result<Row> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// A control goes by its workload.
fn name(trial: &Trial) -> String {
    match &trial.mutation {
        Some(mutation) => mutation.name.to_owned(),
        None => format!("stock.{}", workload(trial)),
    }
}

fn workload(trial: &Trial) -> String {
    trial
        .workloads
        .first()
        .map(campaign::Workload::name)
        .unwrap_or_default()
}

impl Row {
    fn new(outcome: &TrialOutcome) -> Self {
        let (expected, other) = outcome.sorted();
        let told = super::selftest::told;
        let (splats, trouble): (Vec<_>, Vec<_>) = outcome
            .trouble
            .iter()
            .partition(|complaint| complaint.trouble == Trouble::Splat);
        Self {
            schema: SCHEMA.to_owned(),
            name: name(&outcome.trial),
            workload: workload(&outcome.trial),
            broken: outcome.trial.mutation.as_ref().map(|mutation| Broken {
                class: mutation.class.to_owned(),
                kind: mutation.expect.kind.to_owned(),
                operation: mutation.expect.operation.to_owned(),
                found: strongest(&expected).map(told),
            }),
            other: other.into_iter().map(told).collect(),
            lockdep: match &outcome.validator {
                Validator::On(reports) => {
                    Heard::Said(reports.iter().map(ToString::to_string).collect())
                }
                Validator::Off | Validator::Absent => Heard::Nothing,
            },
            complaints: splats
                .into_iter()
                .filter(|complaint| !lockdep::is_report(&complaint.text))
                .map(|complaint| complaint.text.clone())
                .collect(),
            trouble: trouble
                .into_iter()
                .map(|complaint| first_line(&complaint.text).to_owned())
                .collect(),
        }
    }
}

struct Board {
    kernel: String,
    rows: Vec<Row>,
}

impl Board {
    fn broken(&self) -> impl Iterator<Item = (&Row, &Broken)> {
        self.rows
            .iter()
            .filter_map(|row| Some((row, row.broken.as_ref()?)))
    }

    fn controls(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.broken.is_none())
    }

    fn all_found(&self) -> bool {
        self.broken().all(|(_, broken)| broken.found.is_some())
    }

    /// What the validator says of the kernel's own module under a broken one's workload.
    fn of_stock(&self, row: &Row) -> &[String] {
        let control = self
            .controls()
            .find(|control| row.broken.is_some() && control.workload == row.workload);
        match control.map(|control| &control.lockdep) {
            Some(Heard::Said(known)) => known,
            Some(Heard::Nothing) | None => &[],
        }
    }

    /// In a cell of the table. A report that the kernel's own module draws as well is not about the bug.
    fn said(&self, row: &Row) -> String {
        let Heard::Said(reports) = &row.lockdep else {
            return "not heard".to_owned();
        };
        if reports.is_empty() {
            return "-".to_owned();
        }
        let stock = self.of_stock(row);
        let told: Vec<String> = reports
            .iter()
            .map(|report| match stock.contains(report) {
                true => format!("{report} (of the stock module too)"),
                false => report.clone(),
            })
            .collect();
        told.join("; ")
    }

    /// Whether the validator said something that it does not say of the kernel's own module.
    fn noticed(&self, row: &Row) -> bool {
        let stock = self.of_stock(row);
        match &row.lockdep {
            Heard::Said(reports) => reports.iter().any(|report| !stock.contains(report)),
            Heard::Nothing => false,
        }
    }

    fn summary(&self) -> String {
        let total = self.broken().count();
        let found = self
            .broken()
            .filter(|(_, broken)| broken.found.is_some())
            .count();
        let noticed = self.broken().filter(|(row, _)| self.noticed(row)).count();
        let asserted = self
            .broken()
            .filter(|(row, _)| !self.noticed(row) && !row.complaints.is_empty())
            .count();
        let controls = self.controls().count();
        let alarms = self
            .controls()
            .filter(|row| matches!(&row.lockdep, Heard::Said(reports) if !reports.is_empty()))
            .count();
        format!(
            "of {total} broken modules Faultline found {found}, lockdep {noticed}; {asserted} more drew another \
             complaint of the kernel; of {controls} workloads on stock modules lockdep reported {alarms}; {}",
            self.kernel
        )
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{:30} {:5} {:60} {:50} other complaints\n",
            "module", "class", "Faultline", "lockdep"
        );
        for row in &self.rows {
            let [class, faultline, complaints] = row.cells();
            let line = format!(
                "{:30} {class:5} {faultline:60} {:50} {complaints}",
                row.name,
                self.said(row)
            );
            text.push_str(line.trim_end());
            text.push('\n');
            for trouble in &row.trouble {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "    {trouble}");
            }
        }
        let _ = write!(text, "\n{}\n", self.summary());
        text
    }

    fn markdown(&self) -> String {
        let mut text = format!("{}.\n\n", self.summary());
        text.push_str("| module | class | expected | Faultline said | lockdep said | other complaints of the kernel |\n");
        text.push_str("| --- | --- | --- | --- | --- | --- |\n");
        for row in &self.rows {
            let [class, faultline, complaints] = row.cells();
            let expected = row
                .broken
                .as_ref()
                .map_or("-", |broken| broken.kind.as_str());
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(
                text,
                "| {} | {class} | {expected} | {} | {} | {} |",
                row.name,
                cell(&faultline),
                cell(&self.said(row)),
                cell(&complaints)
            );
        }
        text
    }
}

impl Row {
    /// Class, what Faultline said, what else the kernel complained of.
    fn cells(&self) -> [String; 3] {
        let listed = |words: &mut dyn Iterator<Item = &String>| {
            let words: Vec<&str> = words.map(String::as_str).collect();
            if words.is_empty() {
                "-".to_owned()
            } else {
                words.join("; ")
            }
        };
        let (class, faultline) = match &self.broken {
            Some(broken) => (
                broken.class.clone(),
                broken
                    .found
                    .clone()
                    .unwrap_or_else(|| format!("NOT FOUND: {} {}", broken.kind, broken.operation)),
            ),
            None => ("-".to_owned(), listed(&mut self.other.iter())),
        };
        [class, faultline, listed(&mut self.complaints.iter())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, broken: bool, reports: &[&str]) -> Row {
        Row {
            schema: SCHEMA.to_owned(),
            name: name.to_owned(),
            workload: "xfs-punch-vs-fault".to_owned(),
            broken: broken.then(|| Broken {
                class: "A".to_owned(),
                kind: "op-unprotected".to_owned(),
                operation: "fallocate/PUNCH_HOLE".to_owned(),
                found: Some("op-unprotected fallocate/PUNCH_HOLE (observed)".to_owned()),
            }),
            other: BTreeSet::new(),
            lockdep: Heard::Said(reports.iter().map(|text| (*text).to_owned()).collect()),
            complaints: Vec::new(),
            trouble: Vec::new(),
        }
    }

    fn board(rows: Vec<Row>) -> Board {
        Board {
            kernel: "6.12.117-lockdep".to_owned(),
            rows,
        }
    }

    #[test]
    fn a_report_that_stock_draws_too_is_not_credited() {
        let board = board(vec![
            row("silent", true, &[]),
            row("known", true, &["possible recursive locking: a under b"]),
            row("new", true, &["bad unlock balance: a"]),
            row(
                "stock.xfs-punch-vs-fault",
                false,
                &["possible recursive locking: a under b"],
            ),
        ]);
        let summary = board.summary();
        assert!(
            summary.contains("Faultline found 3, lockdep 1;"),
            "{summary}"
        );
        assert!(summary.contains("of 1 workloads on stock modules lockdep reported 1"));
        assert!(
            board
                .said(&board.rows[1])
                .ends_with("(of the stock module too)")
        );
        assert_eq!(board.said(&board.rows[0]), "-");
    }

    #[test]
    fn what_was_not_heard_is_no_silence() {
        let mut deaf = row("deaf", true, &[]);
        deaf.lockdep = Heard::Nothing;
        let board = board(vec![deaf]);
        assert_eq!(board.said(&board.rows[0]), "not heard");
    }

    #[test]
    fn every_mutation_has_its_workload_on_the_stock_module() {
        let mutations = workloads::lab::mutations::all().unwrap();
        let count = mutations.len();
        let trials = trials(mutations, Extent::Operations(1));
        let controls: BTreeSet<String> = trials[count..].iter().map(workload).collect();
        assert_eq!(controls.len(), trials.len() - count);
        for trial in &trials[..count] {
            assert!(controls.contains(&workload(trial)), "{}", trial.name);
        }
    }
}
