//! What the faces may cost, on a synthetic run of a million events a second: the screen's processor time, the
//! time from a key to the screen, memory over an hour of trace. And ends of every kind, which a terminal
//! that goes away must be.
//!
//! Unoptimised, the model cannot follow such a rate; the rate is lower then and the share of the screen larger.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    num::NonZero,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_faultline");
const BROKEN: &str = "tests/traces/xfs-punch-unlocked.flt";
const SIZE: (u16, u16) = (60, 250);

/// Events a second, and the share of a core that the screen may take beyond the model.
const PACE: (u64, f64) = if cfg!(debug_assertions) {
    (20_000, 0.8)
} else {
    (1_000_000, 0.1)
};
/// From a key to the screen.
const PROMPT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 250 } else { 50 });
/// What cannot hang for ever must not hang for long.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program on a terminal of its own.
struct OnTerminal {
    child: Child,
    keys: Option<File>,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
}

fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).unwrap()
}

/// The program on a new terminal, and the terminal's other end.
fn spawn(arguments: &[&str], stderr: Stdio) -> (Child, File) {
    let size = Winsize {
        ws_row: SIZE.0,
        ws_col: SIZE.1,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
    let child = Command::new(BINARY)
        .args(arguments)
        .env("TERM", "xterm-256color")
        .stdin(slave.try_clone().unwrap())
        .stdout(slave)
        .stderr(stderr)
        .spawn()
        .unwrap();
    (child, File::from(master))
}

impl OnTerminal {
    fn start(arguments: &[&str]) -> Self {
        let (child, keys) = spawn(arguments, Stdio::piped());
        let mut master = keys.try_clone().unwrap();
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 1 << 16];
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            keys: Some(keys),
            output,
            screen: vt100::Parser::new(cells(SIZE.0), cells(SIZE.1), 0),
        }
    }

    fn press(&mut self, keys: &str) {
        let terminal = self.keys.as_mut().unwrap();
        terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen has these words; how long that took.
    fn until(&mut self, words: &str) -> Duration {
        let started = Instant::now();
        loop {
            if self.screen.screen().contents().contains(words) {
                return started.elapsed();
            }
            let left = PATIENCE.checked_sub(started.elapsed());
            let bytes = left.and_then(|left| self.output.recv_timeout(left).ok());
            let Some(bytes) = bytes else {
                let shown = self.screen.screen().contents();
                panic!("no {words:?} on the screen within {PATIENCE:?}:\n{shown}");
            };
            self.screen.process(&bytes);
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for the end; what it said on stderr, and how long it took to end.
    fn ended(mut self) -> (ExitStatus, String, Duration) {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            // A screen that nobody reads fills up.
            let _ = self.output.recv_timeout(Duration::from_millis(5));
        };
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (status, said, started.elapsed())
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
    let (rate, limit) = PACE;
    let rate = rate.to_string();
    let bare = bench(&["--bare", "--rate", &rate, "--time", "4s"]);

    let mut session = OnTerminal::start(&["bench", "screen", "--rate", &rate]);
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

    // Per event, so that a machine that is busy with other things compares like with like.
    let each = |of: &Value| number(of, "cpu_seconds") / number(of, "events");
    let share = (each(&screen) - each(&bare)) * PACE.0 as f64;
    delays.sort_unstable();
    let median = delays[delays.len() / 2];
    println!(
        "model {:.3} s a million events, screen {:.1} % of a core at {rate} a second, {} keys: median {median:?}, longest {:?}",
        each(&bare) * 1e6,
        share * 100.0,
        delays.len(),
        delays[delays.len() - 1],
    );
    assert!(share < limit, "{share} of a core");
    assert!(median < PROMPT, "{median:?} from a key to the screen");
    let reached = number(&screen, "events") / number(&screen, "wall_seconds");
    assert!(
        reached > PACE.0 as f64 * 0.5,
        "only {reached} events a second were told"
    );
}

#[test]
fn memory_stays_as_it_is_over_an_hour() {
    let rate = if cfg!(debug_assertions) {
        "300"
    } else {
        "4000"
    };
    let figures = bench(&["--hurry", "1h", "--rate", rate]);
    assert_eq!(number(&figures, "trace_seconds"), 3600.0);
    let growth = number(&figures, "resident_late") / number(&figures, "resident_early");
    println!("{figures}: {growth:.2} times after the hour what it was after ten minutes");
    assert!(growth < 1.25, "{growth} times as much memory");
}

#[test]
fn it_ends_in_every_way() {
    for end in ["q", "\u{3}", "term", "int", "hup", "gone"] {
        let mut session = OnTerminal::start(&["replay", BROKEN]);
        session.until("Overview");
        match end {
            "term" => session.signal(Signal::SIGTERM),
            "int" => session.signal(Signal::SIGINT),
            "hup" => session.signal(Signal::SIGHUP),
            "gone" => {
                // The reader's copy goes with the first thing that it is sent, or at once.
                session.keys = None;
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
    let (rate, _) = PACE;
    let rate = rate.to_string();
    let (mut child, terminal) = spawn(&["bench", "screen", "--rate", &rate], Stdio::null());
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
