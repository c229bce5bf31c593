//! What the views show: the story as far as it is told, and what is derived from it now and then.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use tracer::{
    judge::Report,
    live::Item,
    story::{Figures, Story},
    trace::{Header, Stack},
    units::StackId,
};
use tracer_ebpf::Event;

/// Raw events kept.
const EVENTS: usize = 4096;
/// Figures and report are made anew this often, at most.
pub const REFRESH: Duration = Duration::from_millis(400);

/// Everything that is shown.
pub struct Model {
    /// What was attached where.
    pub header: Header,
    /// The run so far.
    pub story: Story,
    /// Its verdict, a moment ago.
    pub report: Report,
    /// Its figures, a moment ago.
    pub figures: Figures,
    /// The last events, oldest first.
    pub events: VecDeque<(u32, Event)>,
    stacks: HashMap<StackId, Vec<String>>,
    refreshed: Instant,
    stale: bool,
}

impl Model {
    /// Of a run that has not begun.
    pub fn new(header: &Header) -> Self {
        let story = Story::new(header);
        Self {
            header: header.clone(),
            report: story.report(None),
            figures: story.figures(),
            story,
            events: VecDeque::with_capacity(EVENTS),
            stacks: HashMap::new(),
            refreshed: Instant::now(),
            stale: false,
        }
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.story = Story::new(&self.header);
        self.events.clear();
        self.stale = true;
    }

    /// The next event.
    pub fn event(&mut self, cpu: u32, event: &Event) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((cpu, *event));
        self.story.event(cpu, event, &mut |_, _| {});
        self.stale = true;
    }

    /// The next thing from the rings.
    pub fn hear(&mut self, item: Item<'_>) {
        match item {
            Item::Event(cpu, event) => self.event(cpu, event),
            Item::Stack(stack) => self.stack(&stack),
            other => self.story.hear(other),
        }
    }

    /// A stack's names.
    pub fn stack(&mut self, stack: &Stack) {
        self.stacks.insert(stack.id, stack.frames.clone());
    }

    /// Makes figures and report anew if that is due; true if it was.
    pub fn refresh(&mut self) -> bool {
        let due = self.stale && self.refreshed.elapsed() >= REFRESH;
        if due {
            self.refresh_now();
        }
        due
    }

    /// Makes figures and report anew.
    pub fn refresh_now(&mut self) {
        self.story.predict();
        self.report = self.story.report(None);
        let annotated = self
            .report
            .annotated
            .iter_mut()
            .map(|known| &mut known.finding);
        for finding in self.report.findings.iter_mut().chain(annotated) {
            for stack in &mut finding.stacks {
                if let Some(frames) = self.stacks.get(&stack.id) {
                    stack.frames.clone_from(frames);
                }
            }
        }
        self.figures = self.story.figures();
        self.refreshed = Instant::now();
        self.stale = false;
    }

    /// The function of a hook.
    pub fn hook(&self, id: u16) -> &str {
        match id {
            tracer_ebpf::event::HOOK_INODE => "(file)",
            tracer_ebpf::event::HOOK_TASK => "(task)",
            id => self
                .header
                .hooks
                .iter()
                .find(|hook| hook.id.0 == id)
                .map_or("?", |hook| hook.target.as_str()),
        }
    }
}
