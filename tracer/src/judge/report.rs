//! The outcome of a run, as scripts read it. `schema` changes when a field changes its meaning.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;

use crate::{
    judge::{
        coverage::{CoverageRow, LockCount},
        finding::Finding,
    },
    trace::meta,
    units::HookId,
};

/// Name and version of the format.
pub const SCHEMA: &str = "faultline.report/1";

/// Why a trace in which nothing raced shows nothing: no extents moved.
pub const NO_WINDOW: &str = "no operation opened a window";
/// Why a trace in which nothing raced shows nothing: no page was mapped.
pub const NO_INSTALL: &str = "no page fault installed a translation";

/// What a run amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything was seen, and nothing was wrong.
    Clean,
    /// Something was wrong.
    Findings,
    /// Nothing wrong was seen, but not everything was seen.
    Inconclusive,
}

impl Verdict {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Findings => "findings",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// A hook, how it was attached and how often it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookReport {
    /// Number in the plan.
    #[serde(skip)]
    pub id: HookId,
    /// Function or tracepoint.
    pub target: String,
    /// Rows of one group are alternatives.
    pub group: String,
    /// How it was attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<&'static str>,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Hits by the kernel's own counters, if they were counted.
    pub runs: Option<u64>,
}

/// What was seen, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Tasks that entered an operation or a fault.
    pub tasks: u64,
    /// Files.
    pub inodes: u64,
    /// Of those, files that map the medium itself.
    pub dax_inodes: u64,
    /// Faults that returned.
    pub faults: u64,
    /// Of those, faults that installed a translation.
    pub installs: u64,
    /// Windows opened.
    pub windows: u64,
    /// Meetings of a fault with a window.
    pub met: u64,
    /// Of those, faults that the lock held off.
    pub held_off: u64,
    /// Lock acquisitions within operations and faults.
    pub locks: Vec<LockCount>,
    /// DAX entries locked within operations and faults.
    pub entry_locks: u64,
}

/// A finding that is known and true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Annotated {
    /// The finding.
    #[serde(flatten)]
    pub finding: Finding,
    /// Why it is true, and known.
    pub argument: Cow<'static, str>,
}

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// What it amounts to.
    pub verdict: Verdict,
    /// Why it is not clean though nothing was found; also given beside findings.
    pub reasons: Vec<String>,
    /// The kernel: `uname -r`.
    pub kernel: String,
    /// Events judged.
    pub events: u64,
    /// Events lost.
    pub lost: u64,
    /// Why the trace ends early, if it does.
    pub incomplete: Option<String>,
    /// Acts that could not be judged.
    pub unjudged: u64,
    /// The plan.
    pub hooks: Vec<HookReport>,
    /// Which windows met which faults.
    pub coverage: Vec<CoverageRow>,
    /// What was seen, in numbers.
    pub totals: Totals,
    /// What was wrong.
    pub findings: Vec<Finding>,
    /// What is wrong with this kernel, and known.
    pub annotated: Vec<Annotated>,
}

impl Report {
    /// Puts the trace's stacks into the findings.
    pub fn resolve(&mut self, stacks: &[meta::Stack]) {
        let by_id: BTreeMap<_, _> = stacks
            .iter()
            .map(|stack| (stack.id, &stack.frames))
            .collect();
        let annotated = self.annotated.iter_mut().map(|known| &mut known.finding);
        for finding in self.findings.iter_mut().chain(annotated) {
            for stack in &mut finding.stacks {
                if let Some(frames) = by_id.get(&stack.id) {
                    stack.frames.clone_from(frames);
                }
            }
        }
    }
}
