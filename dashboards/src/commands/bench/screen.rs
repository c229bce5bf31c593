//! The screen of `top` over a synthetic run at a chosen rate, or the model alone: what the screen costs, how
//! soon a key shows, and whether memory stays as it is.

use std::{
    collections::VecDeque,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::resource::{UsageWho, getrusage},
    time::{ClockId, clock_gettime},
};
use tracer::{
    live::Item,
    story::Story,
    trace::{
        Header,
        meta::{Inode, Task},
    },
};
use tracer_ebpf::Event;

use super::synthetic::Synthetic;
use crate::{
    cli::{BenchScreen, Color},
    output,
    tui::{self, Feed, Model, Palette, Position, Transport},
};

/// Without events to tell, the source is asked again after this.
const PAUSE: Duration = Duration::from_millis(10);
/// Bytes of each file: few enough that all their pages are soon met.
const FILE_SIZE: u64 = 64 << 20;
/// Events between two looks at the clock.
const BATCH: usize = 1024;

/// Measures, and prints one object.
pub fn run(arguments: &BenchScreen) -> Result<()> {
    let started = Instant::now();
    let mut source = Source::new(arguments.rate)?;
    let told = if let Some(hurry) = arguments.hurry {
        in_a_hurry(&mut source, hurry)?
    } else if arguments.bare {
        bare(&mut source, arguments.time)?
    } else {
        on_screen(source, arguments.time)?
    };
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("cannot tell the time used")?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let figures = serde_json::json!({
        "events": told.events,
        "wall_seconds": started.elapsed().as_secs_f64(),
        "cpu_seconds": seconds(usage.user_time()) + seconds(usage.system_time()),
        "told_seconds": told.told.as_secs_f64(),
        "story_seconds": told.story.as_secs_f64(),
        "model_seconds": told.model.as_secs_f64(),
        "trace_seconds": told.trace_seconds,
        "resident_early": told.resident_early,
        "resident_late": told.resident_late,
    });
    // The screen was on stdout.
    output::pass_on(&format!("{figures}\n"));
    Ok(())
}

#[derive(Default)]
struct Told {
    events: u64,
    trace_seconds: f64,
    /// Processor time: of making events and telling them to the model behind a screen,
    told: Duration,
    /// of the story without a model, and of the model around one, over the same events.
    story: Duration,
    model: Duration,
    /// Bytes, when a sixth was told.
    resident_early: u64,
    resident_late: u64,
}

/// A run whose events come at a steady rate.
struct Source {
    run: Synthetic,
    next: VecDeque<(u32, Event)>,
    rate: u64,
    told: u64,
}

impl Source {
    fn new(rate: u64) -> Result<Self> {
        Ok(Self {
            run: Synthetic::new(FILE_SIZE)?,
            next: VecDeque::new(),
            rate,
            told: 0,
        })
    }

    fn header(&self) -> &Header {
        self.run.header()
    }

    /// Gives the next event, at the time that its number and the rate give it, after who comes with it.
    fn next(&mut self, take: &mut impl FnMut(Item<'_>)) -> Result<()> {
        if self.next.is_empty() {
            if self.told == 0 {
                self.run
                    .inodes()
                    .into_iter()
                    .for_each(|inode| take(Item::Inode(inode)));
                self.run
                    .tasks()
                    .into_iter()
                    .for_each(|task| take(Item::Task(task)));
            } else {
                self.run.turn_over(take);
            }
            let mut round = Vec::new();
            self.run.round(|cpu, events| {
                round.extend(events.iter().map(|event| (cpu, *event)));
                Ok(())
            })?;
            // Stable: events of one CPU keep their order.
            round.sort_by_key(|(_, event)| event.head.time);
            self.next.extend(round);
        }
        if let Some((cpu, mut event)) = self.next.pop_front() {
            let since = u128::from(self.told) * 1_000_000_000 / u128::from(self.rate);
            event.head.time = self.header().started.0 + since as u64;
            self.told += 1;
            take(Item::Event(cpu, &event));
        }
        Ok(())
    }

    /// Gives what is due `since` the beginning, for no longer than `budget`; true if more is due.
    fn tell(
        &mut self,
        since: Duration,
        budget: Duration,
        mut take: impl FnMut(Item<'_>),
    ) -> Result<bool> {
        let due = (since.as_secs_f64() * self.rate as f64) as u64;
        let until = Instant::now() + budget;
        while self.told < due {
            for _ in 0..BATCH {
                self.next(&mut take)?;
            }
            if Instant::now() >= until {
                return Ok(self.told < due);
            }
        }
        Ok(false)
    }

    fn trace_seconds(&self) -> f64 {
        self.told as f64 / self.rate as f64
    }
}

/// What a source gives, to be told twice.
enum Kept {
    Event(u32, Event),
    Inode(Inode),
    Task(Task),
}

impl Kept {
    fn of(item: Item<'_>) -> Option<Self> {
        match item {
            Item::Event(cpu, event) => Some(Self::Event(cpu, *event)),
            Item::Inode(inode) => Some(Self::Inode(inode)),
            Item::Task(task) => Some(Self::Task(task)),
            _ => None,
        }
    }

    fn item(&self) -> Item<'_> {
        match self {
            Self::Event(cpu, event) => Item::Event(*cpu, event),
            Self::Inode(inode) => Item::Inode(inode.clone()),
            Self::Task(task) => Item::Task(task.clone()),
        }
    }
}

/// The story alone and the model around one, by turns over the same events, so that a machine whose
/// speed changes slows both.
fn bare(source: &mut Source, time: Duration) -> Result<Told> {
    let mut story = Story::new(source.header());
    let mut model = Model::new(source.header());
    let mut spent = [Duration::ZERO; 2];
    let mut kept = Vec::new();
    let mut turn = 0;
    let started = Instant::now();
    while started.elapsed() < time {
        kept.clear();
        for _ in 0..BATCH {
            source.next(&mut |item| kept.extend(Kept::of(item)))?;
        }
        // Whoever comes second finds the events in the cache.
        for side in [turn % 2, (turn + 1) % 2] {
            let before = processor_time()?;
            for one in &kept {
                match side {
                    0 => story.hear(one.item()),
                    _ => model.hear(one.item()),
                }
            }
            spent[side] += processor_time()?.saturating_sub(before);
        }
        turn += 1;
    }
    let [of_story, of_model] = spent;
    Ok(Told {
        events: story.judge().events(),
        trace_seconds: source.trace_seconds(),
        story: of_story,
        model: of_model,
        ..Told::default()
    })
}

/// What this thread has used.
fn processor_time() -> Result<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .context("cannot tell the time used")
}

/// Everything behind the screen, as fast as it goes, for `time` of the run's own time.
fn in_a_hurry(source: &mut Source, time: Duration) -> Result<Told> {
    let mut model = Model::new(source.header());
    let events = (time.as_secs_f64() * source.rate as f64) as u64;
    let mut early = 0;
    while source.told < events {
        source.next(&mut |item| model.hear(item))?;
        if source.told.is_multiple_of(BATCH as u64) {
            model.refresh();
        }
        if source.told == events / 6 {
            early = resident()?;
        }
    }
    model.refresh_now();
    Ok(Told {
        events: model.story.judge().events(),
        trace_seconds: source.trace_seconds(),
        resident_early: early,
        resident_late: resident()?,
        ..Told::default()
    })
}

/// On a terminal, until the user leaves or the time is over.
fn on_screen(source: Source, time: Duration) -> Result<Told> {
    tui::require_terminal()?;
    let mut model = Model::new(source.header());
    let mut feed = Paced {
        source,
        started: Instant::now(),
        limit: time,
        told: Duration::ZERO,
    };
    tui::run(&mut feed, &mut model, Palette::chosen(Color::Auto))?;
    Ok(Told {
        events: model.story.judge().events(),
        trace_seconds: feed.source.trace_seconds(),
        told: feed.told,
        ..Told::default()
    })
}

/// Events at the pace of the clock, as rings would deliver them.
struct Paced {
    source: Source,
    started: Instant,
    /// From then on there are no more.
    limit: Duration,
    /// Processor time of telling.
    told: Duration,
}

impl Feed for Paced {
    fn advance(&mut self, model: &mut Model, budget: Duration) -> Result<Duration> {
        let since = self.started.elapsed().min(self.limit);
        let before = processor_time()?;
        let more = self.source.tell(since, budget, |item| model.hear(item))?;
        self.told += processor_time()?.saturating_sub(before);
        Ok(if more { Duration::ZERO } else { PAUSE })
    }

    fn position(&self) -> Option<Position> {
        None
    }

    fn transport(&mut self, _model: &mut Model, _what: Transport) {}
}

/// Bytes resident now.
fn resident() -> Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm").context("cannot read /proc/self/statm")?;
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
    Ok(pages.context("/proc/self/statm has another form than expected")? * page as u64)
}
