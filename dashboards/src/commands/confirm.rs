//! `faultline confirm`

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tracer::{
    analyze::analyze,
    attach::Limits,
    confirm::{found_again, pauses_for},
    judge::{
        Report,
        finding::{Finding, Strength},
    },
    mounts,
    plan::{Delay, Extent, Prefer},
    record::{Attachment, Options},
    trace::{Mount, Trace},
};

use crate::{
    cli::{Confirm, Format},
    confirmation::{Confirmation, Confirmations, HeldUp},
};

/// The first try's delay; each later one doubles it.
const FIRST: Duration = Duration::from_micros(500);

/// Repeats a trace's run with tasks held up, until its predictions have been seen.
pub fn run(arguments: &Confirm) -> Result<ExitCode> {
    let stop = super::stopped_by_signals()?;
    Ok(ExitCode::from(all(arguments, &mut None, &stop)?))
}

/// Confirms, with hooks that are in place if they fit. Returns the exit status.
pub(super) fn all(
    arguments: &Confirm,
    attachment: &mut Option<Attachment>,
    stop: &AtomicBool,
) -> Result<u8> {
    let trace = Trace::open(&arguments.trace)?;
    let report = analyze(&trace);
    let wanted = wanted(&report, arguments)?;
    if wanted.is_empty() {
        note!(
            "{} has no unknown finding that is merely predicted; name another one with --finding",
            arguments.trace.display()
        );
        return conclude(arguments.format, Vec::new());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("confirming needs root: it records the run again, as `faultline record` does");
    }
    let command: Vec<OsString> = if arguments.command.is_empty() {
        trace.header().command.iter().map(OsString::from).collect()
    } else {
        arguments.command.clone()
    };
    if command.is_empty() {
        bail!(
            "{} was recorded without a command; say after -- what repeats the run",
            arguments.trace.display()
        );
    }
    let mounts = trace
        .header()
        .mounts
        .iter()
        .map(|mount| mounts::containing(Path::new(&mount.path)))
        .collect::<Result<Vec<_>, _>>()
        .context("the trace's filesystems must be mounted where they were")?;
    let scratch = tempfile::tempdir().context("cannot make a directory for the tries' traces")?;
    let output = arguments
        .output
        .clone()
        .unwrap_or_else(|| scratch.path().join("try.flt"));
    let mut tries = Tries {
        arguments,
        command,
        mounts,
        output,
        attachment,
        stop,
    };
    let mut outcomes = Vec::new();
    for (number, finding) in wanted {
        let outcome = tries.confirm(number, finding)?;
        if arguments.format == Format::Text {
            say!("{}", outcome.line())?;
        }
        outcomes.push(outcome);
    }
    conclude(arguments.format, outcomes)
}

/// Prints what came of all, for programs, and makes the status.
fn conclude(format: Format, outcomes: Vec<Confirmation>) -> Result<u8> {
    let all = outcomes.iter().all(Confirmation::seen);
    if format == Format::Json {
        let told = Confirmations::new(outcomes);
        say!("{}", serde_json::to_string_pretty(&told)?)?;
    }
    Ok(u8::from(!all))
}

/// The findings to confirm, with their numbers in the report.
fn wanted<'a>(report: &'a Report, arguments: &Confirm) -> Result<Vec<(usize, &'a Finding)>> {
    let known = report.annotated.iter().map(|known| &known.finding);
    let all: Vec<_> = report
        .findings
        .iter()
        .chain(known)
        .enumerate()
        .map(|(index, finding)| (index + 1, finding))
        .collect();
    if let Some(number) = arguments.finding {
        let Some(&found) = all.get(number.wrapping_sub(1)) else {
            bail!(
                "{} has {} findings, no number {number}; `faultline analyze` numbers them",
                arguments.trace.display(),
                all.len()
            );
        };
        return Ok(vec![found]);
    }
    // Known ones are true, whatever a try shows.
    Ok(all
        .into_iter()
        .take(report.findings.len())
        .filter(|(_, finding)| finding.strength == Strength::Predicted)
        .collect())
}

struct Tries<'a> {
    arguments: &'a Confirm,
    command: Vec<OsString>,
    mounts: Vec<Mount>,
    output: PathBuf,
    attachment: &'a mut Option<Attachment>,
    stop: &'a AtomicBool,
}

impl Tries<'_> {
    /// Tries until the finding is more than predicted.
    fn confirm(&mut self, number: usize, finding: &Finding) -> Result<Confirmation> {
        let mut outcome = Confirmation::untried(number, finding);
        let places = pauses_for(finding);
        if places.is_empty() {
            return Ok(outcome);
        }
        let mut delay = FIRST;
        for (round, &at) in (1..=self.arguments.tries).zip(places.iter().cycle()) {
            delay = delay.min(self.arguments.delay);
            note!(
                "try {round} of {}, holding tasks up for {delay:?} {}",
                self.arguments.tries,
                at.name()
            );
            let report = self.once(Delay {
                at,
                ns: delay.as_nanos() as u64,
            })?;
            outcome.tries = round;
            match found_again(finding, &report) {
                Some(strength) if strength > Strength::Predicted => {
                    outcome.strength = strength;
                    outcome.held_up = Some(HeldUp {
                        place: at.name().to_owned(),
                        ns: delay.as_nanos() as u64,
                    });
                    return Ok(outcome);
                }
                Some(_) => outcome.predicted_again += 1,
                None => {}
            }
            if self.stop.load(Ordering::Relaxed) {
                bail!("interrupted in try {round}");
            }
            if (round as usize).is_multiple_of(places.len()) {
                delay *= 2;
            }
        }
        Ok(outcome)
    }

    fn once(&mut self, delay: Delay) -> Result<Report> {
        let options = Options {
            output: self.output.clone(),
            mounts: self.mounts.clone(),
            command: self.command.clone(),
            aside: true,
            limit: self.arguments.time,
            prefer: Prefer::default(),
            extent: Extent::Full,
            delay: Some(delay),
            limits: Limits::default(),
        };
        Attachment::record(self.attachment, &options, self.stop, &mut |_| {})?;
        let trace = Trace::open(&self.output)?;
        Ok(analyze(&trace))
    }
}
