//! One workload on one kernel, and how it went: what is kept on disk, merged and told.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracer::judge::{
    NO_INSTALL, NO_WINDOW,
    annotations::{self, Version},
    finding::Strength,
    report::Annotated,
};
use workloads::{lab::console, scenarios};

use crate::campaign::{self, TrialOutcome, Trouble, Workload};

/// Name and version of a cell's file.
pub const SCHEMA: &str = "faultline.ci.cell/1";

/// Which kernel of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The one under test.
    Candidate,
    /// The one it is compared with.
    Baseline,
}

impl Side {
    /// The name in file names and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Baseline => "baseline",
        }
    }
}

/// What a cell amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Everything was seen, and nothing was wrong.
    Clean,
    /// Something was wrong.
    Findings,
    /// Nothing wrong was seen, but not everything was seen.
    Inconclusive,
    /// It hung, or died, on what is known to be wrong with its kernel and was seen in it; until then nothing else was
    /// wrong.
    Hung,
    /// It could not be run or not to its end.
    Failed,
}

impl Status {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Findings => "findings",
            Self::Inconclusive => "inconclusive",
            Self::Hung => "hung",
            Self::Failed => "failed",
        }
    }
}

/// A finding of the judge, of the guest's console or of the workload's own check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Kind: of a rule, `kernel-splat` or `corruption`.
    pub kind: String,
    /// `predicted`, `observed` or `proven`.
    pub strength: String,
    /// Filesystem.
    pub filesystem: String,
    /// Operation; empty if it belongs to none.
    pub operation: String,
    /// Lock that was to be held; empty if the finding is about none.
    pub lock: String,
    /// The hook that saw the act; empty if none did.
    pub target: String,
    /// What to tell a maintainer.
    pub sentence: String,
    /// All that the report says of it.
    pub report: Value,
}

impl Found {
    /// One that no rule made.
    pub fn plain(kind: &str, filesystem: &str, target: &str, sentence: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            strength: "proven".to_owned(),
            filesystem: filesystem.to_owned(),
            operation: String::new(),
            lock: String::new(),
            target: target.to_owned(),
            sentence: sentence.to_owned(),
            report: Value::Null,
        }
    }

    /// What makes it the same as one of another run (docs/report.md, "A finding is new").
    pub fn key(&self) -> [&str; 5] {
        [
            &self.kind,
            &self.filesystem,
            &self.operation,
            &self.lock,
            &self.target,
        ]
    }
}

/// One pair of an operation and a kind of fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Filesystem.
    pub filesystem: String,
    /// Operation that opened windows.
    pub operation: String,
    /// Kind of fault.
    pub fault: String,
    /// Windows opened.
    pub windows: u64,
    /// Faults in flight while one was open.
    pub met: u64,
    /// Of those, faults that the lock held off.
    pub held_off: u64,
}

/// How a cell went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// [`SCHEMA`].
    pub schema: String,
    /// Which kernel of the two.
    pub side: Side,
    /// The workload's name.
    pub name: String,
    /// What was tested, as it was given.
    pub subject: String,
    /// `uname -r`.
    pub kernel: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// What it amounts to.
    pub status: Status,
    /// Why, if it is neither clean nor findings.
    pub reasons: Vec<String>,
    /// What was wrong.
    pub findings: Vec<Found>,
    /// What is known to be wrong with this kernel.
    pub annotated: usize,
    /// Events judged.
    pub events: u64,
    /// Events lost.
    pub lost: u64,
    /// Which windows met which faults.
    pub coverage: Vec<Pair>,
    /// Seconds in the guest.
    pub seconds: f64,
    /// The trace, if there is one.
    pub trace: Option<PathBuf>,
    /// The same as a page with pictures, if anything was found in it.
    #[serde(default)]
    pub page: Option<PathBuf>,
}

impl Cell {
    /// From what a campaign's trial with this one workload came to.
    pub fn new(
        side: Side,
        subject: &str,
        kernel: &str,
        accelerator: &str,
        workload: &Workload,
        outcome: &TrialOutcome,
    ) -> Self {
        let mut cell = Self {
            schema: SCHEMA.to_owned(),
            side,
            name: workload.name(),
            subject: subject.to_owned(),
            kernel: kernel.to_owned(),
            accelerator: accelerator.to_owned(),
            status: Status::Failed,
            reasons: Vec::new(),
            findings: Vec::new(),
            annotated: 0,
            events: 0,
            lost: 0,
            coverage: Vec::new(),
            seconds: 0.0,
            trace: None,
            page: None,
        };
        let mut version = None;
        let judged = outcome.judged.first();
        if let Some(judged) = judged {
            let report = &judged.report;
            version = Version::parse(&report.kernel);
            let expected = expected(workload);
            cell.reasons.extend(
                report
                    .reasons
                    .iter()
                    .filter(|reason| !expected.contains(&reason.as_str()))
                    .cloned(),
            );
            cell.findings
                .extend(report.findings.iter().map(|finding| Found {
                    kind: finding.kind.name().to_owned(),
                    strength: finding.strength.name().to_owned(),
                    filesystem: finding.filesystem.name().to_owned(),
                    operation: finding.operation.name().to_owned(),
                    lock: finding.expected.class.to_owned(),
                    target: finding.target.clone(),
                    sentence: finding.sentence.clone(),
                    report: serde_json::to_value(finding).unwrap_or_default(),
                }));
            cell.annotated = report.annotated.len();
            cell.events = report.events;
            cell.lost = report.lost;
            cell.coverage = report
                .coverage
                .iter()
                .filter_map(|row| serde_json::to_value(row).ok())
                .filter_map(|row| serde_json::from_value(row).ok())
                .collect();
            cell.seconds = judged.guest_time.as_secs_f64();
            cell.trace = Some(judged.trace.clone());
        }
        let (mut failed, mut hung) = (false, false);
        let mut struck = None;
        for complaint in &outcome.trouble {
            let filesystem = workload.filesystem.module();
            match complaint.trouble {
                Trouble::Splat
                    if version.is_some_and(|version| {
                        annotations::known_splat(&complaint.text, version).is_some()
                    }) =>
                {
                    cell.annotated += 1;
                    struck = struck.or_else(|| fatal(&complaint.text));
                }
                Trouble::Splat => cell.findings.push(splat(filesystem, &complaint.text)),
                // The run was judged, so it did not fail; but a clean verdict has no reasons.
                Trouble::Starved => cell.reasons.push(complaint.text.clone()),
                // Said better by what joined it to its operation.
                Trouble::WrongData
                    if cell.findings.iter().any(|found| found.kind == "corruption") => {}
                Trouble::WrongData => {
                    cell.findings
                        .push(Found::plain("corruption", filesystem, "", &complaint.text))
                }
                trouble => {
                    hung |= trouble == Trouble::Hung;
                    failed |= trouble != Trouble::Hung;
                    cell.reasons.push(complaint.text.clone());
                }
            }
        }
        let mut known: Vec<String> = judged.map_or(Vec::new(), |judged| {
            judged
                .report
                .annotated
                .iter()
                .filter_map(why_it_hangs)
                .collect()
        });
        failed |= judged.is_none() || hung && known.is_empty();
        let died = struck.is_some() && judged.is_some() && (failed || hung);
        known.extend(struck);
        cell.status = if !cell.findings.is_empty() {
            Status::Findings
        } else if died {
            Status::Hung
        } else if failed {
            Status::Failed
        } else if cell.reasons.len() > usize::from(hung) {
            // The verdict may be inconclusive, but for nothing that the workload is for.
            Status::Inconclusive
        } else if hung {
            Status::Hung
        } else {
            Status::Clean
        };
        if failed || hung {
            cell.reasons.extend(known);
        }
        cell
    }

    /// Name of its file.
    pub fn file(side: Side, name: &str) -> String {
        format!("{}.{name}.json", side.name())
    }

    /// Draws what was found in the trace, beside it.
    ///
    /// # Errors
    /// The trace cannot be read any more, or the page not be written.
    pub fn draw(&mut self) -> Result<()> {
        let Some(trace) = &self.trace else {
            return Ok(());
        };
        if self.status == Status::Findings {
            let path = trace.with_extension("html");
            let (page, _) = crate::html::render(&tracer::trace::Trace::open(trace)?);
            fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
            self.page = Some(path);
        }
        Ok(())
    }

    /// Keeps it.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        campaign::keep(&directory.join(Self::file(self.side, &self.name)), self)
    }

    /// Reads one that was kept.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no cell of a run", path.display()))
    }
}

/// Why a run that did not come to its end is no failure.
const KNOWN_AND_SEEN: &str = "known of this kernel and seen in this run";

/// What a known finding says of a run that did not come to its end: tasks may wait for good.
fn why_it_hangs(known: &Annotated) -> Option<String> {
    let finding = &known.finding;
    let came_true = finding.kind.is_about_order() && finding.strength != Strength::Predicted;
    came_true.then(|| {
        format!(
            "{KNOWN_AND_SEEN}: {} {} ({})",
            finding.kind.name(),
            finding.operation.name(),
            finding.strength.name()
        )
    })
}

/// What a known complaint of the kernel says of a run that did not come to its end, if tasks do not survive it.
fn fatal(text: &str) -> Option<String> {
    let message = text.lines().next()?;
    console::is_fatal(message).then(|| format!("{KNOWN_AND_SEEN}: {message}"))
}

/// A complaint of the kernel; two are the same if they say the same but for numbers.
fn splat(filesystem: &str, text: &str) -> Found {
    let mut target = String::new();
    // How it came about may differ.
    for word in text.lines().next().unwrap_or_default().split_whitespace() {
        // Addresses, processors, process ids, offsets.
        let place = word.split_once('+').map_or(word, |(symbol, _)| symbol);
        if !place.starts_with(|first: char| first.is_ascii_digit()) && !place.starts_with("0x") {
            if !target.is_empty() {
                target.push(' ');
            }
            target.push_str(
                place.trim_end_matches(|last: char| last.is_ascii_digit() || last == ':'),
            );
        }
    }
    Found::plain("kernel-splat", filesystem, &target, text)
}

/// The share of operation and fault pairs that ever met, over all cells, in percent.
pub fn coverage<'a>(cells: impl Iterator<Item = &'a Cell>) -> u8 {
    let mut pairs: BTreeMap<[&str; 3], bool> = BTreeMap::new();
    for pair in cells.flat_map(|cell| &cell.coverage) {
        let key = [
            pair.filesystem.as_str(),
            pair.operation.as_str(),
            pair.fault.as_str(),
        ];
        *pairs.entry(key).or_default() |= pair.met > 0;
    }
    let met = pairs.values().filter(|met| **met).count();
    u8::try_from((met * 100).checked_div(pairs.len()).unwrap_or(0)).unwrap_or(100)
}

/// Reasons of a verdict that say nothing of a workload, as it does not do this by design.
pub fn expected(workload: &Workload) -> Vec<&'static str> {
    let Ok(scenario) = scenarios::find(&workload.scenario) else {
        return Vec::new();
    };
    let shared = campaign::made_with(workload.mkfs.as_deref(), campaign::SHARED);
    let windows = scenario.lacks.windows(shared).then_some(NO_WINDOW);
    let faults = scenario.lacks.faults(workload.dax).then_some(NO_INSTALL);
    windows.into_iter().chain(faults).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::Extent;
    use workloads::lab::FilesystemKind;

    #[test]
    fn a_workload_is_not_blamed_for_what_it_is_not_for() {
        let workload = |scenario: &str, dax, mkfs: Option<&str>| Workload {
            filesystem: FilesystemKind::Xfs,
            dax,
            mkfs: mkfs.map(str::to_owned),
            options: None,
            scenario: scenario.to_owned(),
            extent: Extent::Time(std::time::Duration::from_secs(1)),
            seed: 1,
        };
        let none: [&str; 0] = [];
        assert_eq!(expected(&workload("punch-vs-fault", false, None)), none);
        assert_eq!(
            expected(&workload("fsync-vs-fault", true, None)),
            [NO_WINDOW]
        );
        assert_eq!(
            expected(&workload("aio-vs-fallocate", false, None)),
            [NO_INSTALL]
        );
        assert_eq!(
            expected(&workload("copy-vs-fault", false, None)),
            [NO_WINDOW]
        );
        let shared = Some("-m reflink=1");
        assert_eq!(expected(&workload("copy-vs-fault", false, shared)), none);
        assert_eq!(expected(&workload("swap-boot", true, None)), none);
    }

    #[test]
    fn tasks_do_not_survive_an_oops() {
        let oops =
            "BUG: kernel NULL pointer dereference, address: 20 at f+0x1/0x2\n    called by g";
        let told = fatal(oops).unwrap();
        assert!(told.ends_with("at f+0x1/0x2"), "{told}");
        assert_eq!(
            fatal("WARNING: CPU: 1 PID: 88 at fs/dax.c:452 f+0x7a/0xc0"),
            None
        );
    }

    #[test]
    fn splats_are_the_same_but_for_numbers() {
        let one = splat(
            "xfs",
            "WARNING: CPU: 1 PID: 88 at fs/dax.c:452 dax_disassociate_entry+0x7a/0xc0",
        );
        let two = splat(
            "xfs",
            "WARNING: CPU: 0 PID: 120 at fs/dax.c:460 dax_disassociate_entry+0x7b/0xc0\n    called by f < g",
        );
        assert_eq!(one.key(), two.key());
        let other = splat(
            "xfs",
            "WARNING: CPU: 0 PID: 120 at fs/dax.c:460 dax_insert_entry+0x7b/0xc0",
        );
        assert_ne!(one.key(), other.key());
    }
}
