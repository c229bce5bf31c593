//! Where the story comes from: a file, or the rings.

use std::time::{Duration, Instant};

use anyhow::Result;
use tracer::{
    live::Live,
    trace::{Events, Item, Trace},
    units::Nanos,
};

use super::Model;

/// Where in time the story is, for those that have a beginning and an end.
#[derive(Clone, Debug, PartialEq)]
pub struct Position {
    /// The first event.
    pub from: Nanos,
    /// The last event.
    pub to: Nanos,
    /// Told up to here.
    pub at: Nanos,
    /// Going on by itself.
    pub playing: bool,
    /// How fast, 1 for as fast as it was.
    pub speed: f64,
    /// Moments of findings, as far as they are known.
    pub findings: Vec<Nanos>,
    /// On the way to another place.
    pub seeking: bool,
}

/// What can be asked of a story that has a beginning and an end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transport {
    /// Stop, or go on.
    Toggle,
    /// Twice as fast.
    Faster,
    /// Half as fast.
    Slower,
    /// To a moment.
    Seek(Nanos),
    /// To this share of the whole.
    SeekShare(f64),
    /// By this share of the whole.
    Step(f64),
    /// To the next finding.
    NextFinding,
    /// To the one before.
    PreviousFinding,
}

/// A source of the story.
pub trait Feed {
    /// Brings the story on, for no longer than about `budget`; tells how long it has nothing more to say.
    ///
    /// # Errors
    /// When the source fails.
    fn advance(&mut self, model: &mut Model, budget: Duration) -> Result<Duration>;

    /// Where in time it is; none if there is only the present.
    fn position(&self) -> Option<Position>;

    /// Does what was asked, if it can.
    fn transport(&mut self, model: &mut Model, what: Transport);
}

/// Nothing to say until asked.
const IDLE: Duration = Duration::from_millis(500);
/// Rings are looked at this often.
const POLL: Duration = Duration::from_millis(20);
/// Events between two looks at the clock.
const BATCH: usize = 2048;

/// A trace.
pub struct FileFeed<'t> {
    trace: &'t Trace,
    events: Events<'t>,
    /// Read, and not told yet.
    next: Option<Item>,
    from: Nanos,
    to: Nanos,
    at: Nanos,
    target: Nanos,
    playing: bool,
    speed: f64,
    ticked: Instant,
    findings: Vec<Nanos>,
}

impl<'t> FileFeed<'t> {
    /// A trace and the model of it; it is told to its end at once.
    pub fn new(trace: &'t Trace) -> (Self, Model) {
        let (from, to) = trace
            .time_range()
            .unwrap_or((trace.header().started, trace.header().started));
        let mut model = Model::new(trace.header());
        model.story.tables(trace);
        for stack in trace.stacks() {
            model.stack(stack);
        }
        let feed = Self {
            trace,
            events: trace.events(),
            next: None,
            from,
            to,
            at: from,
            target: to,
            playing: false,
            speed: 1.0,
            ticked: Instant::now(),
            findings: Vec::new(),
        };
        (feed, model)
    }

    /// Tells everything up to where it is going.
    pub fn finish(&mut self, model: &mut Model) {
        while self.at < self.target {
            self.tell(model, Instant::now() + IDLE);
        }
        model.refresh_now();
    }

    fn go(&mut self, model: &mut Model, to: Nanos) {
        let to = to.clamp(self.from, self.to);
        if to < self.at {
            model.reset();
            model.story.tables(self.trace);
            self.events = self.trace.events();
            self.next = None;
            self.at = self.from;
        }
        self.target = to;
        self.ticked = Instant::now();
    }

    fn tell(&mut self, model: &mut Model, until: Instant) {
        loop {
            for _ in 0..BATCH {
                let Some(item) = self.next.take().or_else(|| self.events.next()) else {
                    self.at = self.target;
                    self.ended(model);
                    return;
                };
                let time = match &item {
                    Item::Event { event, .. } => Nanos(event.head.time),
                    // One that begins behind the last event belongs to the end.
                    Item::Loss(loss) => loss.from.min(self.to),
                };
                if time > self.target {
                    self.next = Some(item);
                    self.at = self.target;
                    return;
                }
                // It is there once everything up to then is told.
                let short = Nanos(self.target.0.saturating_sub(1));
                self.at = self.at.max(time.min(short));
                match item {
                    Item::Event { cpu, event } => model.event(cpu, &event),
                    Item::Loss(loss) => model.story.loss(&loss),
                }
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// What the whole trace has is known now.
    fn ended(&mut self, model: &mut Model) {
        model.refresh_now();
        let known = model.report.annotated.iter().map(|known| &known.finding);
        self.findings = model
            .report
            .findings
            .iter()
            .chain(known)
            .map(|finding| finding.time_ns)
            .collect();
        self.findings.sort_unstable();
    }

    fn span(&self) -> u64 {
        self.to.0 - self.from.0
    }
}

impl Feed for FileFeed<'_> {
    fn advance(&mut self, model: &mut Model, budget: Duration) -> Result<Duration> {
        if self.playing && self.at >= self.target {
            let passed = self.ticked.elapsed().as_nanos() as f64 * self.speed;
            self.target = Nanos(self.target.0.saturating_add(passed as u64)).min(self.to);
            if self.target == self.to {
                self.playing = false;
            }
        }
        self.ticked = Instant::now();
        if self.at >= self.target {
            return Ok(if self.playing {
                Duration::from_millis(15)
            } else {
                IDLE
            });
        }
        self.tell(model, Instant::now() + budget);
        if self.at >= self.target && !self.playing {
            model.refresh_now();
        }
        Ok(if self.at < self.target {
            Duration::ZERO
        } else {
            Duration::from_millis(15)
        })
    }

    fn position(&self) -> Option<Position> {
        Some(Position {
            from: self.from,
            to: self.to,
            at: self.at,
            playing: self.playing,
            speed: self.speed,
            findings: self.findings.clone(),
            seeking: !self.playing && self.at < self.target,
        })
    }

    fn transport(&mut self, model: &mut Model, what: Transport) {
        let span = self.span() as f64;
        match what {
            Transport::Toggle => {
                if !self.playing && self.at >= self.to {
                    self.go(model, self.from);
                }
                self.playing = !self.playing;
                self.ticked = Instant::now();
            }
            Transport::Faster => self.speed = (self.speed * 2.0).min(1024.0),
            Transport::Slower => self.speed = (self.speed / 2.0).max(1.0 / 4096.0),
            Transport::Seek(to) => self.go(model, to),
            Transport::SeekShare(share) => {
                let to = self.from.0 + (span * share.clamp(0.0, 1.0)) as u64;
                self.go(model, Nanos(to));
            }
            Transport::Step(share) => {
                let to = self.target.0 as f64 + span * share;
                self.go(model, Nanos(to.max(0.0) as u64));
            }
            Transport::NextFinding => {
                if let Some(&to) = self.findings.iter().find(|&&time| time > self.target) {
                    self.go(model, to);
                }
            }
            Transport::PreviousFinding => {
                if let Some(&to) = self.findings.iter().rfind(|&&time| time < self.target) {
                    self.go(model, to);
                }
            }
        }
    }
}

/// The rings of this machine.
pub struct RingFeed {
    live: Live,
    /// It has more to give at once.
    more: bool,
}

impl RingFeed {
    /// Hooks that are in place, and the model of what they deliver.
    pub fn new(live: Live) -> (Self, Model) {
        let model = Model::new(live.header());
        (Self { live, more: false }, model)
    }
}

impl Feed for RingFeed {
    fn advance(&mut self, model: &mut Model, budget: Duration) -> Result<Duration> {
        self.more = self.live.drain(budget, |item| model.hear(item));
        Ok(if self.more { Duration::ZERO } else { POLL })
    }

    fn position(&self) -> Option<Position> {
        None
    }

    fn transport(&mut self, _model: &mut Model, _what: Transport) {}
}
