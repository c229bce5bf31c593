//! What recording adds to a page fault: the same loop with nothing attached, under `faultline
//! record` and under `perf record`, in turns.

use std::{
    fs::File,
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tempfile::TempDir;
use tracer::{
    attach::{Limits, Runs},
    mounts,
    plan::Extent,
    record::{attach, resolve_plan},
    trace::{Mount, PlannedHook, Trace},
};

use super::{
    faultloop::{self, Looped, PAGES},
    machine,
    perf::{self, Peer},
    spread::Spread,
};
use crate::{campaign::own_binary, cli::BenchFault, progress::Line};

/// Rows of the table of hooks.
const TOP: usize = 12;
/// The budget: ours to perf's, for the same facts.
const BUDGET: f64 = 0.2;

/// What a batch is timed by.
#[derive(Clone, Copy)]
enum Clock {
    /// CLOCK_MONOTONIC.
    Wall,
    /// The faulting thread's own, which a busy machine disturbs less.
    Cpu,
}

/// One kind of run, over all rounds.
#[derive(Default)]
struct Kind {
    rounds: Vec<Round>,
}

struct Round {
    looped: Looped,
    events: u64,
    bytes: u64,
    lost: u64,
}

impl Round {
    fn bare(looped: Looped) -> Self {
        Self {
            looped,
            events: 0,
            bytes: 0,
            lost: 0,
        }
    }

    /// Nanoseconds a fault, of each batch.
    fn batches(&self, clock: Clock) -> impl Iterator<Item = f64> {
        let batches = match clock {
            Clock::Wall => &self.looped.batches,
            Clock::Cpu => &self.looped.cpu,
        };
        batches
            .iter()
            .map(|&nanoseconds| nanoseconds as f64 / PAGES as f64)
    }

    fn median(&self, clock: Clock) -> Option<f64> {
        Spread::of(self.batches(clock)).map(|spread| spread.median)
    }
}

impl Kind {
    fn total(&self, figure: impl Fn(&Round) -> u64) -> u64 {
        self.rounds.iter().map(figure).sum()
    }

    fn cost(&self) -> Option<Spread> {
        Spread::of(
            self.rounds
                .iter()
                .flat_map(|round| round.batches(Clock::Wall)),
        )
    }

    /// Nanoseconds added to a fault, round by round.
    fn added(&self, bare: &Self, clock: Clock) -> Option<Spread> {
        let rounds = self.rounds.iter().zip(&bare.rounds);
        Spread::of(
            rounds.filter_map(|(round, bare)| Some(round.median(clock)? - bare.median(clock)?)),
        )
    }
}

/// What is measured, and where its files are.
struct Bench {
    mount: Mount,
    directory: TempDir,
    scratch: TempDir,
    faults: u64,
}

/// Measures, and prints.
pub fn run(arguments: &BenchFault) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("measuring needs root: it loads eBPF programs");
    }
    let bench = Bench::prepare(arguments)?;
    say!("{}", machine::describe())?;
    let on = &bench.mount;
    say!(
        "faults    stores to written blocks on {} ({}), one thread, {} runs of {} faults each, in turns",
        on.filesystem.name(),
        on.options,
        arguments.rounds,
        arguments.faults.div_ceil(PAGES).max(1) * PAGES,
    )?;
    say!("traces    written to {}", bench.place())?;

    let mut peer = Peer::find(on.filesystem);
    let (mut bare, mut ours) = (Kind::default(), Kind::default());
    let (mut light, mut theirs) = (Kind::default(), Kind::default());
    let mut hooks = Vec::new();
    let mut line = Line::new();
    for number in 1..=arguments.rounds {
        line.say(&format!("round {number} of {}", arguments.rounds), true);
        bare.rounds.push(Round::bare(bench.bare()?));
        let (round, attached) = bench.faultline(&[])?;
        ours.rounds.push(round);
        hooks = attached;
        light.rounds.push(bench.faultline(&["--light"])?.0);
        if let Ok(perf) = &peer {
            match bench.perf(perf) {
                Ok(round) => theirs.rounds.push(round),
                Err(error) => peer = Err(error),
            }
        }
    }
    line.say("one run more, with programs timed", true);
    let programs = bench.programs();
    drop(line);
    say!("faultline {}", mechanisms(&hooks))?;
    match &peer {
        Ok(perf) => say!("peer      {}: {}", perf.version, perf.events.join(", "))?,
        Err(error) => {
            theirs.rounds.clear();
            say!("peer      no figure: {error:#}")?;
        }
    }
    table(&bare, &ours, &light, &theirs)?;
    match programs {
        Ok(programs) => print_programs(&programs),
        Err(error) => say!("\nper hook: no figures: {error:#}"),
    }
}

impl Bench {
    fn prepare(arguments: &BenchFault) -> Result<Self> {
        let mount = mounts::containing(&arguments.directory)?;
        let directory = tempfile::Builder::new()
            .prefix("faultline-bench-")
            .tempdir_in(&arguments.directory)
            .with_context(|| format!("cannot write to {}", arguments.directory.display()))?;
        let mut file = File::create(directory.path().join("faults"))
            .context("cannot make the file to fault on")?;
        faultloop::prepare(&mut file).context("cannot fill the file to fault on")?;
        let memory = Path::new("/dev/shm");
        let scratch = if memory.is_dir() {
            TempDir::new_in(memory)
        } else {
            TempDir::new()
        };
        Ok(Self {
            mount,
            directory,
            scratch: scratch.context("cannot make a temporary directory")?,
            faults: arguments.faults,
        })
    }

    /// Where traces are written to.
    fn place(&self) -> String {
        let path = self.scratch.path();
        let kind = match statfs(path) {
            Ok(found) if found.filesystem_type() == TMPFS_MAGIC => "memory (tmpfs)".to_owned(),
            Ok(found) => format!("a filesystem of type {:#x}", found.filesystem_type().0),
            Err(_) => "an unknown filesystem".to_owned(),
        };
        let around = path.parent().unwrap_or(path);
        format!("{}, {kind}", around.display())
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(own_binary()?);
        command
            .args(["bench", "loop"])
            .arg(self.directory.path().join("faults"))
            .args(["--faults", &self.faults.to_string()]);
        Ok(command)
    }

    fn bare(&self) -> Result<Looped> {
        outcome("the fault loop", &mut self.command()?)
    }

    fn faultline(&self, options: &[&str]) -> Result<(Round, Vec<PlannedHook>)> {
        let output = self.scratch.path().join("faultline.flt");
        let inner = self.command()?;
        let mut command = Command::new(own_binary()?);
        command
            .args(["record", "-o"])
            .arg(&output)
            .args(options)
            .arg("--mount")
            .arg(self.directory.path())
            .arg("--")
            .arg(inner.get_program())
            .args(inner.get_args());
        let looped = outcome("faultline record", &mut command)?;
        let trace = Trace::open(&output)?;
        let round = Round {
            looped,
            events: trace.event_count(),
            bytes: trace.bytes(),
            lost: trace.losses().iter().map(|loss| loss.count).sum(),
        };
        Ok((round, trace.header().hooks.clone()))
    }

    fn perf(&self, perf: &Peer) -> Result<Round> {
        let output = self.scratch.path().join("perf.data");
        let looped = outcome("perf record", &mut perf.record(&output, &self.command()?))?;
        let found = perf::contents(&output)?;
        std::fs::remove_file(&output)?;
        Ok(Round {
            looped,
            events: found.samples,
            bytes: found.bytes,
            lost: found.lost,
        })
    }

    /// Runs the loop once more with the kernel timing every program.
    fn programs(&self) -> Result<Programs> {
        let mounts = std::slice::from_ref(&self.mount);
        let plan = resolve_plan(mounts, Extent::Full, None)?;
        let mut session = attach(&plan, mounts, Limits::default())?;
        session
            .count_runs()
            .context("the kernel does not time programs")?;
        let mut command = self.command()?;
        let looping = thread::spawn(move || outcome("the fault loop", &mut command));
        while !looping.is_finished() {
            session.wait(Duration::from_millis(20))?;
            session.drain(|_, _| {});
        }
        let Ok(looped) = looping.join() else {
            bail!("the fault loop's thread panicked")
        };
        Ok(Programs {
            hooks: session.hooks().to_vec(),
            runs: session.runs()?,
            looped: looped?,
        })
    }
}

/// Where the time goes in the kernel.
struct Programs {
    hooks: Vec<PlannedHook>,
    runs: Vec<Runs>,
    looped: Looped,
}

/// Runs `command`, whose standard output is a loop's.
fn outcome(name: &str, command: &mut Command) -> Result<Looped> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        let words = String::from_utf8_lossy(&stderr);
        bail!("{name} ended with {status}: {}", words.trim());
    }
    serde_json::from_slice(&stdout).with_context(|| format!("{name} gave no figures"))
}

/// `40 of 50 hooks: 3 fentry, …`; few are named.
fn mechanisms(hooks: &[PlannedHook]) -> String {
    let mut counts = std::collections::BTreeMap::<_, u32>::new();
    for mechanism in hooks.iter().filter_map(|hook| hook.attached.as_ref().ok()) {
        *counts.entry(mechanism).or_default() += 1;
    }
    let attached: u32 = counts.values().sum();
    let parts: Vec<String> = counts
        .iter()
        .map(|(mechanism, count)| format!("{count} {}", mechanism.name()))
        .collect();
    let mut text = format!("{attached} of {} hooks: {}", hooks.len(), parts.join(", "));
    if attached as usize <= TOP {
        let names = hooks.iter().filter(|hook| hook.attached.is_ok());
        let names: Vec<&str> = names.map(|hook| hook.target.as_str()).collect();
        text.push_str(&format!(" ({})", names.join(", ")));
    }
    text
}

fn table(bare: &Kind, ours: &Kind, light: &Kind, theirs: &Kind) -> Result<()> {
    say!(
        "\n{:18} {:>26} {:>26} {:>8} {:>8} {:>8} {:>7}",
        "",
        "ns a fault, by batch",
        "added ns, by round",
        "CPU ns",
        "events/",
        "bytes/",
        ""
    )?;
    say!(
        "{:18} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7}",
        "",
        "min",
        "median",
        "max",
        "min",
        "median",
        "max",
        "added",
        "fault",
        "event",
        "lost"
    )?;
    row("nothing attached", bare, None)?;
    row("faultline record", ours, Some(bare))?;
    row("the same, --light", light, Some(bare))?;
    row("perf record", theirs, Some(bare))?;
    let stores = bare.total(|round| round.looped.stores) as f64;
    let faults = bare.total(|round| round.looped.faults) as f64;
    say!("the kernel counted {:.3} faults a store", faults / stores)?;
    compare(bare, ours, theirs)?;
    compare_light(bare, ours, light)
}

fn row(name: &str, kind: &Kind, bare: Option<&Kind>) -> Result<()> {
    let Some(cost) = kind.cost() else {
        return Ok(());
    };
    let mut text = format!(
        "{name:18} {:8.0} {:8.0} {:8.0}",
        cost.min, cost.median, cost.max
    );
    let added = |clock| bare.and_then(|bare| kind.added(bare, clock));
    if let (Some(wall), Some(cpu)) = (added(Clock::Wall), added(Clock::Cpu)) {
        let events = kind.total(|round| round.events);
        let bytes = kind.total(|round| round.bytes);
        let each = if events == 0 {
            "-".to_owned()
        } else {
            format!("{:.2}", bytes as f64 / events as f64)
        };
        text.push_str(&format!(
            " {:8.0} {:8.0} {:8.0} {:8.0} {:8.2} {each:>8} {:7}",
            wall.min,
            wall.median,
            wall.max,
            cpu.median,
            events as f64 / kind.total(|round| round.looped.stores) as f64,
            kind.total(|round| round.lost),
        ));
    }
    say!("{text}")
}

fn compare(bare: &Kind, ours: &Kind, theirs: &Kind) -> Result<()> {
    let events = |kind: &Kind| {
        kind.total(|round| round.events) as f64 / kind.total(|round| round.looped.stores) as f64
    };
    let (own_events, peer_events) = (events(ours), events(theirs));
    for (clock, name) in [(Clock::Wall, "time"), (Clock::Cpu, "CPU time")] {
        let (Some(own), Some(peer)) = (ours.added(bare, clock), theirs.added(bare, clock)) else {
            return Ok(());
        };
        let (own, peer) = (own.median, peer.median);
        if own <= 0.0 || peer <= 0.0 || own_events == 0.0 || peer_events == 0.0 {
            say!("ours/perf by {name}: no ratio, one of them shows no cost or no event")?;
            continue;
        }
        say!(
            "ours/perf by {name}: {:.2} a fault, budget {BUDGET}; {:.2} an event, {:.0} and {:.0} ns",
            own / peer,
            (own / own_events) / (peer / peer_events),
            own / own_events,
            peer / peer_events,
        )?;
    }
    if peer_events < own_events * 0.9 {
        say!(
            "perf saw less, {peer_events:.2} of {own_events:.2} events a fault: this filesystem has \
             no tracepoints for the rest"
        )?;
    }
    Ok(())
}

fn compare_light(bare: &Kind, ours: &Kind, light: &Kind) -> Result<()> {
    for (clock, name) in [(Clock::Wall, "time"), (Clock::Cpu, "CPU time")] {
        if let (Some(full), Some(light)) = (ours.added(bare, clock), light.added(bare, clock))
            && full.median > 0.0
        {
            say!(
                "light/full by {name}: {:.2} a fault",
                light.median / full.median
            )?;
        }
    }
    Ok(())
}

fn print_programs(programs: &Programs) -> Result<()> {
    let stores = programs.looped.stores as f64;
    let mut runs = programs.runs.clone();
    runs.retain(|run| run.count > 0);
    runs.sort_by_key(|run| std::cmp::Reverse(run.time));
    let total: u64 = runs.iter().map(|run| run.time).sum();
    say!(
        "\n{:30} {:15} {:>10} {:>10} {:>11}",
        "per hook, one run more",
        "",
        "runs/fault",
        "ns a run",
        "ns a fault"
    )?;
    for run in runs.iter().take(TOP) {
        let Some(hook) = programs.hooks.iter().find(|hook| hook.id == run.hook) else {
            continue;
        };
        say!(
            "{:30} {:15} {:10.2} {:10.0} {:11.0}",
            hook.target,
            hook.attached.as_ref().map_or("", |how| how.name()),
            run.count as f64 / stores,
            run.time as f64 / run.count as f64,
            run.time as f64 / stores,
        )?;
    }
    say!(
        "all programs: {:.0} ns a fault by the kernel's own clock, which costs time too; entry and exit \
         of each are not in it",
        total as f64 / stores
    )
}
