//! Judges a recorded trace.

use crate::{
    judge::{Judge, Report, mining::Hypothesis},
    trace::{Item, Trace},
};

/// Runs every rule over the whole trace, in one pass.
pub fn analyze(trace: &Trace) -> Report {
    let judge = Judge::new(trace.header());
    let mut report = run(judge, trace).finish(trace.footer(), why_incomplete(trace));
    report.resolve(trace.stacks());
    report
}

/// States which locks were in fact held where.
pub fn infer(trace: &Trace) -> Vec<Hypothesis> {
    let mut judge = Judge::new(trace.header());
    judge.mine();
    let mut found = run(judge, trace).hypotheses();
    for exception in found.iter_mut().flat_map(|found| &mut found.exceptions) {
        let stack = trace
            .stacks()
            .iter()
            .find(|stack| Some(stack.id) == exception.stack);
        exception.frames = stack.map(|stack| stack.frames.clone()).unwrap_or_default();
    }
    found
}

/// Feeds the whole trace.
fn run(mut judge: Judge, trace: &Trace) -> Judge {
    for inode in trace.inodes() {
        judge.inode(inode);
    }
    for task in trace.tasks() {
        judge.task(task);
    }
    for mark in trace.marks() {
        judge.mark(mark);
    }
    for item in trace.events() {
        match item {
            Item::Event { cpu, event } => judge.record(cpu, &event),
            Item::Loss(loss) => judge.loss(&loss),
        }
    }
    judge
}

/// Why a trace ends early, if it does.
pub(crate) fn why_incomplete(trace: &Trace) -> Option<String> {
    trace.incomplete().map(|torn| {
        let unread = match torn.bytes_unread {
            0 => String::new(),
            bytes => format!("; {bytes} bytes at its end cannot be read"),
        };
        format!(
            "{}{unread}; it is judged up to {:.3} s, where the events of every CPU are there",
            torn.reason,
            torn.whole_until.0 as f64 / 1e9
        )
    })
}
