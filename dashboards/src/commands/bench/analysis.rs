//! How fast a trace is decoded and judged.

use std::{
    fs,
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use ratatui::{Terminal, backend::TestBackend};
use tracer::{
    analyze::analyze,
    story::{Story, Timeline},
    trace::Trace,
};

use super::{machine, spread::Spread, synthetic};
use crate::{
    cli::BenchAnalysis,
    tui::{self, Feed as _, FileFeed, Palette, State, View, draw},
};

/// Of the passes of one kind.
struct Passes {
    wall: Spread,
    cpu: Spread,
    peak: Option<u64>,
}

/// Measures, and prints.
pub fn run(arguments: &BenchAnalysis) -> Result<()> {
    say!("{}", machine::describe())?;
    match &arguments.trace {
        Some(path) => measure(path, &path.display().to_string(), arguments.passes),
        None => {
            let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
            let path = directory.path().join("synthetic.flt");
            synthetic::write(&path, arguments.events)?;
            measure(&path, synthetic::DESCRIPTION, arguments.passes)
        }
    }
}

fn measure(path: &Path, name: &str, passes: u32) -> Result<()> {
    let trace = Trace::open(path)?;
    let (events, bytes) = (trace.event_count(), trace.bytes());
    say!("trace     {name}")?;
    say!(
        "size      {events} events, {bytes} bytes, {:.2} bytes an event",
        bytes as f64 / events.max(1) as f64
    )?;
    let decode = repeat(passes, || {
        let mut sum = 0_u64;
        let damage = trace.for_each(|_, event| sum = sum.wrapping_add(event.a ^ event.head.time));
        black_box((sum, damage));
    })?;
    let mut report = None;
    let judge = repeat(passes, || report = Some(analyze(&trace)))?;
    let model = repeat(passes, || {
        black_box(Story::of(&trace, Timeline::recent(), |_, _| {}));
    })?;
    if let Some(report) = report {
        say!(
            "judged    {}: {} findings, {} faults, {} windows, {} meetings",
            report.verdict.name(),
            report.findings.len(),
            report.totals.faults,
            report.totals.windows,
            report.totals.met
        )?;
    }
    say!(
        "\nM events/s, one thread, whole passes ({passes} each)\n\
         {:16} {:>8} {:>8} {:>8} {:>14} {:>10}",
        "",
        "best",
        "median",
        "worst",
        "best, CPU time",
        "peak RSS"
    )?;
    let rate = |seconds: f64| events as f64 / seconds / 1e6;
    for (name, passes) in [
        ("decode", &decode),
        ("decode + judge", &judge),
        ("and the model", &model),
    ] {
        let peak = passes.peak.map_or("unknown".to_owned(), |bytes| {
            format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
        });
        say!(
            "{name:16} {:8.2} {:8.2} {:8.2} {:14.2} {peak:>10}",
            rate(passes.wall.min),
            rate(passes.wall.median),
            rate(passes.wall.max),
            rate(passes.cpu.min),
        )?;
    }
    screen(&trace)
}

/// What `top` and `replay` cost beside the model: figures made anew and the screen drawn, as often as they are.
fn screen(trace: &Trace) -> Result<()> {
    const SIZE: (u16, u16) = (250, 60);
    let (mut feed, mut model) = FileFeed::new(trace);
    feed.finish(&mut model);
    let mut terminal = Terminal::new(TestBackend::new(SIZE.0, SIZE.1))
        .context("cannot make a screen in memory")?;
    say!("\nscreen of {} x {}, the model at its end", SIZE.0, SIZE.1)?;
    let refresh = cpu_of(20, || {
        model.refresh_now();
        Ok(())
    })?;
    for view in View::ALL {
        let mut state = State {
            view,
            ..State::default()
        };
        let drawn = cpu_of(20, || {
            let position = feed.position();
            terminal
                .draw(|frame| {
                    draw(
                        frame,
                        &model,
                        &mut state,
                        position.as_ref(),
                        Palette::new(true),
                    );
                })
                .context("cannot draw")?;
            Ok(())
        })?;
        let share = drawn / tui::FRAME.as_secs_f64() + refresh / tui::REFRESH.as_secs_f64();
        say!(
            "{:16} {:6.2} ms a frame, {:6.2} ms for the figures: {:.1} % of a core",
            view.name(),
            drawn * 1e3,
            refresh * 1e3,
            share * 100.0
        )?;
    }
    Ok(())
}

/// Seconds of processor time that one of `count` repetitions takes.
fn cpu_of(count: u32, mut what: impl FnMut() -> Result<()>) -> Result<f64> {
    let before = cpu_time()?;
    for _ in 0..count {
        what()?;
    }
    Ok((cpu_time()? - before).as_secs_f64() / f64::from(count))
}

fn repeat(passes: u32, mut pass: impl FnMut()) -> Result<Passes> {
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    forget_peak();
    for _ in 0..passes {
        let (started, before) = (Instant::now(), cpu_time()?);
        pass();
        wall.push(started.elapsed().as_secs_f64());
        cpu.push((cpu_time()? - before).as_secs_f64());
    }
    let spread = |figures: Vec<f64>| Spread::of(figures).context("no passes");
    Ok(Passes {
        wall: spread(wall)?,
        cpu: spread(cpu)?,
        peak: peak(),
    })
}

fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Sets the peak back to what is resident now; kernels without that keep the old one, which is
/// larger, not smaller.
fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Most bytes that were ever resident, pages of the mapped file included.
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib << 10)
}
