//! Progress on stderr: a live line on a terminal, plain lines elsewhere.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use tracer::record::Progress as Recording;
use workloads::{lab, scenarios};

use crate::output;

/// A line that is redrawn on a terminal and printed once per change elsewhere.
pub struct Line {
    bar: Option<ProgressBar>,
    last: String,
}

impl Line {
    /// An empty line.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            last: String::new(),
        }
    }

    /// Says what is going on now; `lasting` tells steps from mere figures.
    pub fn say(&mut self, text: &str, lasting: bool) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if lasting && text != self.last => note!("{text}"),
            None => {}
        }
        if lasting {
            text.clone_into(&mut self.last);
        }
    }

    /// Says what the lab is doing.
    pub fn step(&mut self, step: &lab::Progress) {
        let (words, lasting) = lab_step(step);
        self.say(&words, lasting);
    }

    /// Prints a line that stays, above the live one.
    pub fn keep(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => output::pass_on(&format!("{text}\n")),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows a recording.
pub fn recording(open_end: bool) -> impl FnMut(Recording) {
    let mut line = Line::new();
    move |progress| match progress {
        Recording::Attaching => line.say("reading the kernel's types, attaching hooks", true),
        Recording::Attached { hooks, missing } => {
            let how = if open_end {
                "; Ctrl-C ends the recording"
            } else {
                ""
            };
            line.say(
                &format!("{hooks} hooks attached, {missing} not offered by this kernel{how}"),
                true,
            );
        }
        Recording::Recording { events, lost } => {
            line.say(&format!("recording: {events} events, {lost} lost"), false);
        }
        Recording::Hang(sentence) => line.say(&sentence, true),
    }
}

/// Shows a workload.
pub fn working() -> impl FnMut(&scenarios::Progress) {
    let mut line = Line::new();
    move |progress| {
        line.say(
            &format!(
                "{:.0} s: {} faults, {} operations, {} violations",
                progress.seconds, progress.faults, progress.operations, progress.violations
            ),
            false,
        );
    }
}

/// One lab step in words, and whether it is worth a line of its own.
pub fn lab_step(progress: &lab::Progress) -> (String, bool) {
    match progress {
        lab::Progress::Downloading(what) => (format!("downloading {what}"), true),
        lab::Progress::BuildingModule(what) => (format!("building {what}"), true),
        lab::Progress::BuildingKernel(what) => (format!("building a kernel, {what}"), true),
        lab::Progress::Booting {
            release,
            accelerator,
        } => {
            let how = match accelerator {
                lab::Accelerator::Kvm => "KVM",
                lab::Accelerator::Tcg => "emulated, no KVM",
            };
            (format!("booting {release} ({how})"), true)
        }
        lab::Progress::Stage(stage) => (format!("guest: {stage}"), false),
        lab::Progress::Console(text) => (format!("console: {text}"), false),
        lab::Progress::Note(text) => (text.clone(), true),
    }
}
