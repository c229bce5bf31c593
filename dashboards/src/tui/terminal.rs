//! The terminal: taken, used and given back, whatever way it ends.

use std::{
    io::{self, Stdout},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use crossterm::{
    event::{self, DisableMouseCapture, EnableMouseCapture},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use ratatui::{Terminal, backend::CrosstermBackend};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

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

/// Shows the story until the user leaves or a signal ends it.
///
/// # Errors
/// When the terminal or the story's source fails.
pub fn run(feed: &mut dyn Feed, model: &mut Model, palette: Palette) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot catch signals")?;
    }
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
            screen
                .terminal
                .draw(|frame| draw(frame, model, &mut state, feed.position().as_ref(), palette))
                .context("cannot draw")?;
            drawn = Some(Instant::now());
            redraw = false;
        }
        let mut wait = pause;
        while event::poll(wait).context("cannot read the terminal")? {
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
