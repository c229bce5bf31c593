//! A program on a terminal of its own, seen and used as its user would.
#![allow(dead_code, reason = "each test file uses a part of it")]

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

/// Rows and columns.
const SIZE: (u16, u16) = (60, 250);

/// The program, and what is on its screen.
pub struct OnTerminal {
    child: Child,
    keys: Option<File>,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    /// What cannot hang for ever must not hang for longer.
    patience: Duration,
}

fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).unwrap()
}

/// The program on a new terminal, and the terminal's other end.
pub fn spawn(program: &str, arguments: &[&str], stderr: Stdio) -> (Child, File) {
    let size = Winsize {
        ws_row: SIZE.0,
        ws_col: SIZE.1,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
    let child = Command::new(program)
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
    pub fn start(program: &str, arguments: &[&str], patience: Duration) -> Self {
        let (child, keys) = spawn(program, arguments, Stdio::piped());
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
            patience,
        }
    }

    pub fn press(&mut self, keys: &str) {
        let terminal = self.keys.as_mut().unwrap();
        terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen has these words; how long that took.
    pub fn until(&mut self, words: &str) -> Duration {
        let started = Instant::now();
        self.look(words, |screen| screen.contains(words).then_some(()));
        started.elapsed()
    }

    /// Waits until what is sought is on the screen.
    pub fn look<T>(&mut self, sought: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = find(&self.screen.screen().contents()) {
                return found;
            }
            let left = self.patience.checked_sub(started.elapsed());
            let bytes = left.and_then(|left| self.output.recv_timeout(left).ok());
            let Some(bytes) = bytes else {
                let shown = self.screen.screen().contents();
                let patience = self.patience;
                let (status, said) = match self.child.try_wait().unwrap() {
                    Some(status) => (status.to_string(), self.said()),
                    None => ("still running".to_owned(), String::new()),
                };
                panic!("no {sought:?} on the screen within {patience:?}; {status} {said}\n{shown}");
            };
            self.screen.process(&bytes);
        }
    }

    /// Whether anything on the screen has a colour of its own.
    pub fn has_colours(&self) -> bool {
        let screen = self.screen.screen();
        let coloured = |row, column| {
            let cell = screen.cell(row, column)?;
            Some(cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default)
        };
        (0..SIZE.0).any(|row| (0..SIZE.1).any(|column| coloured(row, column) == Some(true)))
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// The terminal goes away; the reader's copy with the first thing that it is sent, or at once.
    pub fn leave(&mut self) {
        self.keys = None;
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        said
    }

    /// Waits for the end; what it said on stderr, and how long it took to end.
    pub fn ended(mut self) -> (ExitStatus, String, Duration) {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < self.patience, "it does not end");
            // A screen that nobody reads fills up.
            let _ = self.output.recv_timeout(Duration::from_millis(5));
        };
        (status, self.said(), started.elapsed())
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
