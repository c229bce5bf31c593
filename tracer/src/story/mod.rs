//! The model behind every face: one pass of the judge, with statistics and a timeline beside it.
//!
//! `top` feeds it from the rings, everything else from a file; the faces cannot tell which.

mod figures;
mod statistics;
mod timeline;
mod waits;

use tracer_ebpf::Event;

use crate::{
    hooks::FilesystemKind,
    judge::{Judge, Owner, Report, facts::Fact},
    live::Item,
    trace::{Item as Recorded, Trace, meta},
    units::{Ino, Nanos, Tid},
};

pub use crate::judge::{FindingIndex, InodeIndex, ScopeId, TaskId};
pub use figures::{
    CallerFigures, ClassFigures, FaultFigures, Figures, InstanceFigures, LockFigures,
    OperationFigures, Outcomes, SCHEMA, Spread, WaitStack,
};
pub use statistics::{Holder, Locked, Rates, Series, Spans, Statistics, Use, Waiter};
pub use timeline::{Moment, OpenWindow, Timeline, Window};
pub use waits::Waits;

/// A file, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileName {
    /// Its filesystem, if it is watched.
    pub filesystem: Option<FilesystemKind>,
    /// `i_ino`.
    pub ino: Ino,
    /// Empty if its names were not known.
    pub path: String,
}

impl FileName {
    /// The path's last part, or the number.
    pub fn short(&self) -> String {
        match self.path.rsplit('/').next() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => format!("inode {}", self.ino),
        }
    }
}

/// A run as far as it has been told.
#[derive(Debug)]
pub struct Story {
    judge: Judge,
    statistics: Statistics,
    timeline: Timeline,
    facts: Vec<Fact>,
    lost: u64,
    left_out: u16,
}

impl Story {
    /// Nothing has happened yet. The timeline keeps what is recent.
    pub fn new(header: &meta::Header) -> Self {
        Self::with_timeline(header, Timeline::recent())
    }

    /// Nothing has happened yet.
    pub fn with_timeline(header: &meta::Header, timeline: Timeline) -> Self {
        let mut judge = Judge::new(header);
        judge.want_facts();
        Self {
            judge,
            statistics: Statistics::new(header.started),
            timeline,
            facts: Vec::new(),
            lost: 0,
            left_out: header.left_out,
        }
    }

    /// Tells a whole trace, giving every fact to `listen` once it is in the model.
    pub fn of(trace: &Trace, timeline: Timeline, mut listen: impl FnMut(&Self, &Fact)) -> Told {
        let mut story = Self::with_timeline(trace.header(), timeline);
        story.tables(trace);
        for item in trace.events() {
            match item {
                Recorded::Event { cpu, event } => story.event(cpu, &event, &mut listen),
                Recorded::Loss(loss) => story.loss(&loss),
            }
        }
        story.judge.close(trace.footer());
        story.settle(&mut listen);
        let report = story.report(Some(trace));
        Told { story, report }
    }

    /// Everything that a trace knows besides its events and losses.
    pub fn tables(&mut self, trace: &Trace) {
        for inode in trace.inodes() {
            self.judge.inode(inode);
        }
        for task in trace.tasks() {
            self.judge.task(task);
        }
        for mark in trace.marks() {
            self.judge.mark(mark);
        }
    }

    /// A file.
    pub fn inode(&mut self, inode: &meta::Inode) {
        self.judge.inode(inode);
    }

    /// A task.
    pub fn task(&mut self, task: &meta::Task) {
        self.judge.task(task);
    }

    /// A loss.
    pub fn loss(&mut self, loss: &meta::Loss) {
        self.lost += loss.count;
        self.judge.loss(loss);
    }

    /// The next event, of either kind.
    pub fn event(&mut self, cpu: u32, event: &Event, listen: &mut impl FnMut(&Self, &Fact)) {
        let before = self.judge.events();
        self.judge.record(cpu, event);
        if self.judge.events() > before {
            self.statistics.event(Nanos(event.head.time));
        }
        self.settle(listen);
    }

    /// The next thing from the rings.
    pub fn hear(&mut self, item: Item<'_>) {
        match item {
            Item::Event(cpu, event) => self.event(cpu, event, &mut |_, _| {}),
            Item::Inode(inode) => self.inode(&inode),
            Item::Task(task) => self.task(&task),
            Item::Loss(loss) => self.loss(&loss),
            Item::Now(now) => self.tick(now),
            Item::Stack(_) => {}
        }
    }

    /// Time has come to `now`, though there may be no event that says so.
    pub fn tick(&mut self, now: Nanos) {
        self.judge.tick(now);
    }

    /// Looks for what only the whole run so far can tell.
    pub fn predict(&mut self) {
        self.judge.predict();
    }

    fn settle(&mut self, listen: &mut impl FnMut(&Self, &Fact)) {
        let mut facts = std::mem::take(&mut self.facts);
        self.judge.facts(&mut facts);
        for fact in &facts {
            let filesystem = |inode| self.judge.filesystem(inode);
            self.statistics.fact(fact, filesystem);
            self.timeline.fact(fact);
            listen(self, fact);
        }
        self.facts = facts;
    }

    /// The verdict so far; with the trace's stacks and ending, if it is one of a trace.
    pub fn report(&self, trace: Option<&Trace>) -> Report {
        let Some(trace) = trace else {
            return self.judge.report(None, None);
        };
        let mut report = self
            .judge
            .report(trace.footer(), crate::analyze::why_incomplete(trace));
        report.resolve(trace.stacks());
        report
    }

    /// Counts and distributions so far.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The same in the form in which faces print it.
    pub fn figures(&self) -> Figures {
        Figures::of(self)
    }

    /// Windows and faults.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// What a hook's events mean.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// Faults left out for each that was recorded: not 0 in a light recording.
    pub fn left_out(&self) -> u16 {
        self.left_out
    }

    /// Events known to be lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whose a resource is, for people.
    pub fn owner_name(&self, owner: Owner) -> String {
        match owner {
            Owner::Inode(inode) => self.file(inode).short(),
            Owner::Page(inode, page) => format!("page {page} of {}", self.file(inode).short()),
            Owner::Filesystem(_) => "the filesystem".to_owned(),
            Owner::Process(pid) => format!("process {pid}"),
        }
    }

    /// A file.
    pub fn file(&self, index: InodeIndex) -> FileName {
        let (filesystem, ino, path) = self.judge.file(index);
        FileName {
            filesystem,
            ino,
            path,
        }
    }

    /// `comm/tid`, or the tid alone.
    pub fn task_name(&self, task: TaskId) -> String {
        let Tid(tid) = task.tid;
        match self.judge.who(task) {
            Some(who) if !who.name.is_empty() => format!("{}/{tid}", who.name),
            _ => format!("task {tid}"),
        }
    }
}

/// A run that is over.
#[derive(Debug)]
pub struct Told {
    /// The model.
    pub story: Story,
    /// The verdict, stacks resolved.
    pub report: Report,
}
