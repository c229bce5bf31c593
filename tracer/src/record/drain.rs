//! Moves what the rings hold into the file while the command runs.

use std::{
    collections::HashSet,
    process::Child,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use tracer_ebpf::Event;

use super::{
    Options, Progress, RecordError,
    command::{self, Ended, GRACE},
    identity, now,
};
use crate::{
    attach::{Health, LossWatch, Record, Session},
    hang::HangWatch,
    kernel::symbols::Symbols,
    marks::Receiver,
    trace::{Footer, Header, LATE_NS, Mark, Stack, TraceError, WriteSummary, Writer},
    units::{Nanos, StackId},
};

/// A ring is looked at no less often than this.
const DRAIN_EVERY: Duration = Duration::from_millis(20);
/// Losses are asked for and the file is brought up to date this often.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// A recording into one file.
pub(super) struct Recording<'a> {
    session: &'a mut Session,
    symbols: &'a Symbols,
    writer: Writer,
    stacks: HashSet<i32>,
    batch: Vec<Event>,
    events: u64,
    losses: LossWatch,
    lost: u64,
    pub(super) marks: Option<Receiver>,
    said: Vec<Mark>,
    hang: HangWatch,
}

impl<'a> Recording<'a> {
    /// Begins the file; what the session had lost before, `health`, is not this one's.
    pub(super) fn new(
        session: &'a mut Session,
        symbols: &'a Symbols,
        header: &Header,
        options: &Options,
        health: Health,
    ) -> Result<Self, TraceError> {
        Ok(Self {
            writer: Writer::create(&options.output, header)?,
            symbols,
            stacks: HashSet::new(),
            batch: Vec::with_capacity(1 << 16),
            events: 0,
            losses: LossWatch::new(health, header.started),
            lost: 0,
            marks: None,
            said: Vec::new(),
            hang: HangWatch::new(&header.hooks, &options.output),
            session,
        })
    }

    /// Ends the file. Returns how much was lost, too.
    pub(super) fn finish(self, footer: &Footer) -> Result<(WriteSummary, u64), TraceError> {
        Ok((self.writer.finish(footer)?, self.lost))
    }

    /// Records for as long as the command runs, or until it is told to end.
    pub(super) fn follow(
        &mut self,
        mut child: Option<&mut Child>,
        limit: Option<Duration>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Ended, RecordError> {
        let started = Instant::now();
        let mut flushed = Instant::now();
        let mut gone: Option<Instant> = None;
        loop {
            self.session.wait(DRAIN_EVERY).map_err(RecordError::Wait)?;
            self.take()?;
            self.listen()?;
            if flushed.elapsed() >= FLUSH_EVERY {
                self.check();
                let swept = self.look_for_hangs()?;
                self.writer.whole(Nanos(swept.0.saturating_sub(LATE_NS)))?;
                self.hang.judge();
                flushed = Instant::now();
                let left = child
                    .as_deref()
                    .is_some_and(|child| !command::goes_on(child));
                gone = left.then(|| gone.unwrap_or(flushed));
                progress(Progress::Recording {
                    events: self.events,
                    lost: self.lost,
                });
            }
            for sentence in self.hang.news() {
                progress(Progress::Hang(sentence));
            }
            let over = stop.load(Ordering::Relaxed)
                || limit.is_some_and(|limit| started.elapsed() >= limit);
            let stuck = gone.is_some_and(|since| since.elapsed() >= GRACE);
            let ended = match child.as_deref_mut() {
                Some(_) if stuck => Ended::Stuck,
                Some(child) if over => command::end(child).map_err(RecordError::Wait)?,
                Some(child) => match child.try_wait().map_err(RecordError::Wait)? {
                    Some(status) => Ended::Command(status),
                    None => continue,
                },
                None if over => Ended::Not,
                None => continue,
            };
            while self.take()? > 0 {}
            self.listen()?;
            self.check();
            self.look_for_hangs()?;
            progress(Progress::Recording {
                events: self.events,
                lost: self.lost,
            });
            return Ok(ended);
        }
    }

    /// Writes down what tasks that do not go on are in the middle of. Returns when the rings were emptied.
    fn look_for_hangs(&mut self) -> Result<Nanos, RecordError> {
        let at = now();
        // What is older goes into the file first. Events of one CPU keep their order when all are merged by time:
        // behind one of a later time the others of that CPU would come too late.
        self.take()?;
        let (events, stacks) = self.hang.look(at);
        self.writer.stacks(&stacks);
        self.writer.events(0, &events)?;
        Ok(at)
    }

    /// Moves what the workload said into the file.
    fn listen(&mut self) -> Result<(), RecordError> {
        if let Some(marks) = &mut self.marks {
            marks.take(&mut self.said).map_err(RecordError::Wait)?;
            self.writer.marks(&mut self.said);
        }
        Ok(())
    }

    /// Moves what the rings hold into the file.
    fn take(&mut self) -> Result<u64, RecordError> {
        let mut current = 0;
        let mut outcome = Ok(());
        let mut new_stacks = Vec::new();
        let Self {
            session,
            writer,
            batch,
            stacks,
            hang,
            ..
        } = self;
        let count = session.drain(|cpu, record| {
            if cpu != current {
                by_time(batch);
                if outcome.is_ok() {
                    outcome = writer.events(current, batch);
                }
                batch.clear();
                current = cpu;
            }
            match record {
                Record::Event(event) => {
                    if event.head.stack >= 0 && stacks.insert(event.head.stack) {
                        new_stacks.push(event.head.stack);
                    }
                    hang.event(event);
                    batch.push(*event);
                }
                // Kept as events too: they count in their task's sequence.
                Record::Inode(record) => {
                    writer.inodes(&[identity::inode(record)]);
                    batch.push(Event {
                        head: record.head,
                        inode: record.inode,
                        ..Event::default()
                    });
                }
                Record::Task(record) => {
                    hang.task(record.head.task);
                    writer.tasks(&[identity::task(record)]);
                    batch.push(Event {
                        head: record.head,
                        ..Event::default()
                    });
                }
            }
        });
        outcome?;
        by_time(&mut self.batch);
        self.writer.events(current, &self.batch)?;
        self.batch.clear();
        self.events += count;
        if !new_stacks.is_empty() {
            let resolved: Vec<Stack> = new_stacks
                .into_iter()
                .filter_map(|id| {
                    let id = StackId(id as u32);
                    let frames = self.session.stack(id)?;
                    Some(Stack {
                        id,
                        frames: self.symbols.stack(&frames),
                    })
                })
                .collect();
            self.writer.stacks(&resolved);
        }
        Ok(count)
    }

    /// Writes down what was lost since the last time.
    fn check(&mut self) {
        for loss in self.losses.news(self.session, now) {
            self.lost += loss.count;
            self.writer.loss(&loss);
        }
    }
}

/// A task that loses the CPU between reserving its record and looking at the clock has its record in
/// front of earlier ones, which wait for it in the ring.
fn by_time(batch: &mut [Event]) {
    if !batch.is_sorted_by_key(|event| event.head.time) {
        batch.sort_by_key(|event| event.head.time);
    }
}
