//! One HTML file that says everything a trace says: no network, no script needed, light and dark.

mod chart;
mod graph;
mod page;
mod picture;
mod style;

use tracer::{
    hooks::{LockClass, Mode},
    judge::{Owner, Report, facts::Fact, finding::Finding, operations::Operation},
    story::{Figures, InodeIndex, Moment, Story, TaskId, Timeline, Waits},
    trace::Trace,
    units::Nanos,
};

/// Around a finding at least this much is shown, nanoseconds.
const MARGIN: u64 = 20_000;

/// What a task did, or held, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// An operation or a fault.
    Operation(Operation),
    /// Waiting for a lock.
    Wait(LockClass),
    /// Holding a lock.
    Hold(LockClass, Mode),
}

/// A stretch of a task's time.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// Whose.
    pub task: TaskId,
    /// What.
    pub doing: Doing,
    /// From.
    pub from: Nanos,
    /// To.
    pub to: Nanos,
}

/// Everything that the report shows.
pub struct Material<'a> {
    /// The trace.
    pub trace: &'a Trace,
    /// The verdict.
    pub report: &'a Report,
    /// Counts.
    pub figures: &'a Figures,
    /// The model, whose timeline surrounds the findings.
    pub story: &'a Story,
    /// What tasks did around the findings.
    pub stretches: &'a [Stretch],
}

/// The moment that a finding's picture is of.
pub fn moment(finding: &Finding) -> Moment {
    let (entered, time) = (finding.entered.0, finding.time_ns.0);
    let span = time.saturating_sub(entered).max(MARGIN);
    Moment {
        inode: finding.file,
        from: Nanos(entered.saturating_sub(span / 4)),
        to: Nanos(time.saturating_add(span * 2)),
    }
}

/// Renders the report on a trace; also gives its verdict.
pub fn render(trace: &Trace) -> (String, Report) {
    let first = Story::of(trace, Timeline::around(Vec::new()), |_, _| {});
    let mut figures = first.story.figures();
    figures.resolve(trace.stacks());
    let report = first.report;
    drop(first.story);
    // Where to look is known only now.
    let known = report.annotated.iter().map(|known| &known.finding);
    let moments: Vec<Moment> = report.findings.iter().chain(known).map(moment).collect();
    let mut watcher = Watcher {
        moments: moments.clone(),
        ..Watcher::default()
    };
    let told = Story::of(trace, Timeline::around(moments), |_, fact| {
        watcher.fact(fact)
    });
    let page = page::render(&Material {
        trace,
        report: &report,
        figures: &figures,
        story: &told.story,
        stretches: &watcher.stretches,
    });
    (page, report)
}

/// Collects what tasks did around the findings.
#[derive(Default)]
struct Watcher {
    moments: Vec<Moment>,
    waits: Waits,
    stretches: Vec<Stretch>,
}

impl Watcher {
    fn keep(&mut self, inode: InodeIndex, task: TaskId, doing: Doing, from: Nanos, to: Nanos) {
        let near = self
            .moments
            .iter()
            .any(|moment| moment.inode == inode && from <= moment.to && moment.from <= to);
        if near {
            self.stretches.push(Stretch {
                task,
                doing,
                from,
                to,
            });
        }
    }

    fn fact(&mut self, fact: &Fact) {
        match *fact {
            Fact::Operation(seen) => {
                let doing = Doing::Operation(seen.operation);
                self.keep(seen.inode, seen.task, doing, seen.from, seen.to);
            }
            Fact::Fault(seen) => {
                let doing = Doing::Operation(seen.operation);
                self.keep(seen.inode, seen.task, doing, seen.from, seen.to);
            }
            Fact::Wait {
                task, resource, at, ..
            } => self.waits.begin(task, resource, at),
            Fact::Acquire {
                task, resource, at, ..
            } => {
                if let Some(from) = self.waits.end(task, resource)
                    && let Some(inode) = resource.owner.inode()
                {
                    self.keep(inode, task, Doing::Wait(resource.class), from, at);
                }
            }
            Fact::Release {
                task,
                resource,
                mode,
                since,
                at,
            } => {
                // Of pages there would be as many as the fault touched.
                if let Owner::Inode(inode) = resource.owner {
                    self.keep(inode, task, Doing::Hold(resource.class, mode), since, at);
                }
            }
            Fact::Forget { task } => self.waits.forget(task),
            _ => {}
        }
    }
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}
