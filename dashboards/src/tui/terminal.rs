//! The terminal: taken, used and given back, whatever way it ends.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Stdout},
    os::fd::{AsFd, OwnedFd},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use crossterm::{
    event::{self, DisableMouseCapture, EnableMouseCapture},
    execute,
    style::force_color_output,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use ratatui::{Terminal, backend::CrosstermBackend};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::{Feed, Model, Outcome, Palette, State, draw};

/// The story is told for no longer than this before keys are looked at.
const BUDGET: Duration = Duration::from_millis(15);
/// Without a key, the screen is drawn no more often than this.
pub const FRAME: Duration = Duration::from_millis(125);

/// The terminal while it is ours.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

fn restore() {
    // Nothing is left to be done if this fails.
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), DisableMouseCapture, LeaveAlternateScreen);
}

impl Screen {
    fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            previous(panic);
        }));
        execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture)?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        Ok(Self { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.terminal.show_cursor();
        restore();
    }
}

/// Refuses to start where there is no terminal to draw on.
///
/// # Errors
/// When stdout is none.
pub fn require() -> Result<()> {
    if io::stdout().is_terminal() {
        return Ok(());
    }
    bail!("stdout is no terminal to draw on: run this in one, or use `faultline stats` or `report`")
}

/// The terminal that keys come from: stdin, or whatever controls this process.
fn keyboard() -> io::Result<OwnedFd> {
    if io::stdin().is_terminal() {
        io::stdin().as_fd().try_clone_to_owned()
    } else {
        Ok(File::open("/dev/tty")?.into())
    }
}

/// What comes next from the terminal.
enum Next {
    /// A key, or a new size.
    Input,
    /// Nothing within the time.
    Silence,
    /// Nobody is there any more.
    Gone,
}

/// Waits for the terminal. Crossterm alone would read the end of it over and over.
fn next(keyboard: &OwnedFd, limit: Duration) -> Result<Next> {
    let mut wanted = [PollFd::new(keyboard.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    match poll(&mut wanted, limit) {
        // A signal may be a new size, of which crossterm knows.
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error).context("cannot wait for the terminal"),
    }
    let lost = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    if wanted[0]
        .revents()
        .is_some_and(|events| events.intersects(lost))
    {
        return Ok(Next::Gone);
    }
    match event::poll(Duration::ZERO).context("cannot read the terminal")? {
        true => Ok(Next::Input),
        false => Ok(Next::Silence),
    }
}

/// After a signal, what is on its way to the terminal has this long to arrive.
const GRACE: Duration = Duration::from_secs(2);

/// Sets `stop` on a signal, and ends the process if the screen is not given up then, as while nobody reads
/// what is written to it. Whatever is attached goes with the process.
fn heed_signals(stop: Arc<AtomicBool>, given_up: mpsc::Receiver<()>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        for _ in signals.forever() {
            stop.store(true, Ordering::Relaxed);
            if given_up.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
                // Not the screen, whose writer is stuck.
                let _ = disable_raw_mode();
                process::exit(2);
            }
        }
    });
    Ok(())
}

/// Shows the story until the user leaves, a signal ends it, or the terminal goes away.
///
/// # Errors
/// When the terminal or the story's source fails.
pub fn run(feed: &mut dyn Feed, model: &mut Model, palette: Palette) -> Result<()> {
    // By itself it would heed NO_COLOR even where colours were asked for.
    force_color_output(palette.coloured());
    let stop = Arc::new(AtomicBool::new(false));
    let (_screen_in_use, given_up) = mpsc::channel();
    heed_signals(Arc::clone(&stop), given_up).context("cannot catch signals")?;
    let keyboard = keyboard().context("cannot find a terminal to take keys from")?;
    let mut screen =
        Screen::take().context("cannot use the terminal: run this in an interactive one")?;
    let mut state = State::default();
    let mut drawn: Option<Instant> = None;
    let mut redraw = true;
    while !stop.load(Ordering::Relaxed) {
        let pause = feed.advance(model, BUDGET)?;
        model.refresh();
        let due = drawn.is_none_or(|at| at.elapsed() >= FRAME);
        if redraw || due {
            let position = feed.position();
            let drawn_now = screen
                .terminal
                .draw(|frame| draw(frame, model, &mut state, position.as_ref(), palette));
            if let Err(error) = drawn_now {
                return match next(&keyboard, Duration::ZERO)? {
                    Next::Gone => Ok(()),
                    _ => Err(error).context("cannot draw"),
                };
            }
            drawn = Some(Instant::now());
            redraw = false;
        }
        let mut wait = pause;
        loop {
            match next(&keyboard, wait)? {
                Next::Gone => return Ok(()),
                Next::Silence => break,
                Next::Input => {}
            }
            let input = event::read().context("cannot read the terminal")?;
            match state.input(&input, model, feed) {
                Outcome::Nothing => {}
                Outcome::Redraw => redraw = true,
                Outcome::Quit => return Ok(()),
            }
            wait = Duration::ZERO;
        }
    }
    Ok(())
}
