//! What the rings hold, as one stream by time, for those who look on instead of recording.

use std::{
    collections::{HashSet, VecDeque},
    io,
    time::{Duration, Instant},
};

use tracer_ebpf::Event;

use crate::{
    attach::{Health, Limits, LossWatch, Record, Session},
    kernel::symbols::Symbols,
    plan::{Extent, Prefer},
    record::{self, RecordError},
    trace::{Header, Inode, Loss, Mount, Stack, Task},
    units::{Nanos, StackId},
};

/// Events are given out when they are this old: what other CPUs recorded before has arrived by then.
const HOLD_BACK_NS: u64 = 20_000_000;
/// Losses are asked for this often, nanoseconds.
const CHECK_EVERY: u64 = 500_000_000;
/// Events taken from the rings and not given out, beyond which the rings are left alone: what does not fit
/// there is lost, and counted.
const BACKLOG: usize = 1 << 20;
/// Events between two looks at the clock.
const BATCH: usize = 1024;

/// One thing from the rings.
#[derive(Debug)]
pub enum Item<'a> {
    /// Something a task did, on a CPU.
    Event(u32, &'a Event),
    /// A file, before its first event.
    Inode(Inode),
    /// A task, before its first event.
    Task(Task),
    /// A stack, not after its event.
    Stack(Stack),
    /// Events that are missing.
    Loss(Loss),
    /// Time has come to this.
    Now(Nanos),
}

/// Hooks in place, and what they deliver. Dropping it detaches everything.
pub struct Live {
    session: Session,
    header: Header,
    symbols: Symbols,
    stacks: HashSet<i32>,
    /// Not old enough to be given out.
    waiting: Vec<(u32, Event)>,
    /// To be given out next.
    ready: VecDeque<(u32, Event)>,
    losses: LossWatch,
}

impl Live {
    /// Attaches to `mounts`.
    ///
    /// # Errors
    /// As of [`record::Attachment::record`].
    pub fn attach(mounts: &[Mount], limits: Limits, extent: Extent) -> Result<Self, RecordError> {
        let mut plan = record::resolve_plan(mounts, extent, None)?;
        plan.prefer(Prefer::Trampolines);
        let session = record::attach(&plan, mounts, limits)?;
        let mut header = record::header(&[], mounts, &plan, extent);
        header.hooks = session.hooks().to_vec();
        header.cpus = session.cpus();
        Ok(Self {
            session,
            // After the attach: the programs and trampolines have symbols by now.
            symbols: Symbols::load().map_err(RecordError::Symbols)?,
            stacks: HashSet::new(),
            waiting: Vec::new(),
            ready: VecDeque::new(),
            losses: LossWatch::new(Health::default(), header.started),
            header,
        })
    }

    /// What is attached where.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Waits until there is something in the rings, at most this long.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        self.session.wait(limit)
    }

    /// Takes what the rings hold, and gives out what is old enough, for about as long as `budget`; returns
    /// whether there is more to give.
    pub fn drain(&mut self, budget: Duration, mut visit: impl FnMut(Item<'_>)) -> bool {
        let until = Instant::now() + budget;
        let before = record::now();
        let old = before.0.saturating_sub(HOLD_BACK_NS);
        if self.ready.len() + self.waiting.len() < BACKLOG {
            self.collect(&mut visit);
        }
        // Stable: events of one CPU keep their ring's order.
        self.waiting.sort_by_key(|(_, event)| event.head.time);
        let ready = self
            .waiting
            .partition_point(|(_, event)| event.head.time <= old);
        self.ready.extend(self.waiting.drain(..ready));
        while !self.ready.is_empty() && Instant::now() < until {
            let batch = self.ready.len().min(BATCH);
            for (cpu, event) in self.ready.drain(..batch) {
                visit(Item::Event(cpu, &event));
            }
        }
        if before.0.saturating_sub(self.losses.checked().0) >= CHECK_EVERY {
            self.check(before, &mut visit);
            let told = self.ready.front().map_or(old, |(_, event)| event.head.time);
            visit(Item::Now(Nanos(told)));
        }
        !self.ready.is_empty()
    }

    /// Takes what the rings hold.
    fn collect(&mut self, visit: &mut impl FnMut(Item<'_>)) {
        let Self {
            session,
            waiting,
            stacks,
            symbols,
            ..
        } = self;
        let mut new_stacks = Vec::new();
        session.drain(|cpu, record| {
            let event = match record {
                Record::Event(event) => {
                    if event.head.stack >= 0 && stacks.insert(event.head.stack) {
                        new_stacks.push(event.head.stack);
                    }
                    *event
                }
                // Kept as events too: they count in their task's sequence.
                Record::Inode(record) => {
                    visit(Item::Inode(record::inode(record)));
                    Event {
                        head: record.head,
                        inode: record.inode,
                        ..Event::default()
                    }
                }
                Record::Task(record) => {
                    visit(Item::Task(record::task(record)));
                    Event {
                        head: record.head,
                        ..Event::default()
                    }
                }
            };
            waiting.push((cpu, event));
        });
        for id in new_stacks {
            let id = StackId(id as u32);
            if let Some(frames) = session.stack(id) {
                let frames = symbols.stack(&frames);
                visit(Item::Stack(Stack { id, frames }));
            }
        }
    }

    fn check(&mut self, to: Nanos, visit: &mut impl FnMut(Item<'_>)) {
        for loss in self.losses.news(&mut self.session, || to) {
            visit(Item::Loss(loss));
        }
    }
}
