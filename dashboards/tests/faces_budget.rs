//! What the faces may cost, on a synthetic run of a million events a second or what half a core correlates: the
//! screen's processor time beside the correlator's, the time from a key to the screen, memory over an hour of
//! trace. And ends of every kind, which a terminal that goes away must be.

mod on_terminal;

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use on_terminal::{OnTerminal, spawn};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_faultline");
const BROKEN: &str = "tests/traces/xfs-punch-unlocked.flt";

/// Events a second, if the machine correlates so many in half a core.
const PACE: u64 = if cfg!(debug_assertions) {
    20_000
} else {
    1_000_000
};
/// What model and screen may take, as a part of what the correlator takes for the same events. Where
/// a million events are correlated in 0.4 s, that is a tenth of a core.
const SHARE: f64 = if cfg!(debug_assertions) { 2.0 } else { 0.25 };
/// From a key to the screen.
const PROMPT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 250 } else { 50 });
/// What cannot hang for ever must not hang for long.
const PATIENCE: Duration = Duration::from_secs(20);

fn figures(said: &str) -> Value {
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(BINARY)
        .args(["bench", "screen"])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    figures(&said)
}

fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().unwrap()
}

#[test]
fn the_screen_costs_little_and_answers_at_once() {
    let bare = bench(&["--bare", "--time", "4s"]);
    let each = |what: &str| number(&bare, what) / number(&bare, "events");
    let correlating = each("story_seconds");
    let rate = (PACE as f64).min(0.5 / correlating).floor();

    let paced = rate.to_string();
    let mut session = OnTerminal::start(BINARY, &["bench", "screen", "--rate", &paced], PATIENCE);
    session.until("Overview");
    let views = [
        ("2", "locks by class"),
        ("1", "hooks attached"),
        ("4", "waits"),
        ("?", "show or hide this help"),
        ("?", "holds"),
    ];
    let started = Instant::now();
    let mut delays = Vec::new();
    while started.elapsed() < Duration::from_secs(4) {
        for (key, words) in views {
            session.press(key);
            delays.push(session.until(words));
            // As a user would look, and so that the screen's cost is that of looking, not of keys.
            thread::sleep(Duration::from_millis(150));
        }
    }
    session.press("q");
    let (status, said, _) = session.ended();
    assert!(status.success(), "{said}");
    let screen = figures(&said);

    // What the model does more than the correlator, by turns on the same events, and all that is not telling:
    // no difference of two runs, of which a busy machine may slow one.
    let hearing = (each("model_seconds") - correlating) * rate;
    let drawing = (number(&screen, "cpu_seconds") - number(&screen, "told_seconds"))
        / number(&screen, "wall_seconds");
    let share = (hearing + drawing) / (correlating * rate);
    delays.sort_unstable();
    let median = delays[delays.len() / 2];
    println!(
        "correlator {:.3} s a million events; {:.1} % of a core for the model at {rate} a second, {:.1} % for the screen: {share:.3} of the correlator; {} keys: median {median:?}, longest {:?}",
        correlating * 1e6,
        hearing * 100.0,
        drawing * 100.0,
        delays.len(),
        delays[delays.len() - 1],
    );
    assert!(share < SHARE, "{share} of what the correlator takes");
    assert!(median < PROMPT, "{median:?} from a key to the screen");
    let reached = number(&screen, "events") / number(&screen, "wall_seconds");
    assert!(
        reached > rate * 0.5,
        "only {reached} events a second were told"
    );
}

#[test]
fn memory_stays_as_it_is_over_an_hour() {
    let figures = bench(&["--hurry", "1h", "--rate", "4000"]);
    assert_eq!(number(&figures, "trace_seconds"), 3600.0);
    let growth = number(&figures, "resident_late") / number(&figures, "resident_early");
    println!("{figures}: {growth:.2} times after the hour what it was after ten minutes");
    assert!(growth < 1.25, "{growth} times as much memory");
}

#[test]
fn it_ends_in_every_way() {
    for end in ["q", "\u{3}", "term", "int", "hup", "gone"] {
        let mut session = OnTerminal::start(BINARY, &["replay", BROKEN], PATIENCE);
        session.until("Overview");
        match end {
            "term" => session.signal(Signal::SIGTERM),
            "int" => session.signal(Signal::SIGINT),
            "hup" => session.signal(Signal::SIGHUP),
            "gone" => {
                session.leave();
                session.signal(Signal::SIGHUP);
            }
            key => session.press(key),
        }
        let (status, said, took) = session.ended();
        assert!(status.success(), "{end:?}: {status} {said}");
        assert!(took < Duration::from_secs(3), "{end:?} took {took:?}");
    }
}

/// What is written to a terminal that nobody reads waits for ever; the signal must not.
#[test]
fn a_stuck_terminal_holds_nobody() {
    let rate = PACE.to_string();
    let (mut child, terminal) = spawn(BINARY, &["bench", "screen", "--rate", &rate], Stdio::null());
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/wchan", child.id()));
        stat.unwrap_or_default()
    };
    let started = Instant::now();
    while !state().contains("write") && started.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(50));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it is still there");
        }
        thread::sleep(Duration::from_millis(50));
    }
    drop(terminal);
}
