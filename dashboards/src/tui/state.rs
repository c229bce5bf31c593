//! What is looked at: views, selections, filters. No figure is kept here.

use crossterm::event::{Event, KeyCode, KeyEventKind, MouseButton, MouseEventKind};
use ratatui::layout::Rect;
use tracer::{
    story::InodeIndex,
    units::{ByteRange, Nanos},
};

use super::{
    Feed, Model, Position, Transport,
    keys::{self, Action},
};
use crate::cli::SortBy;

/// A view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// Rates, coverage, findings by strength, health.
    #[default]
    Overview,
    /// Locks.
    Locks,
    /// Windows and faults of a file.
    Windows,
    /// Who waits for whom.
    WaitFor,
    /// Findings.
    Findings,
    /// Raw events.
    Events,
}

impl View {
    /// Every view, in the order of the tabs.
    pub const ALL: [Self; 6] = [
        Self::Overview,
        Self::Locks,
        Self::Windows,
        Self::WaitFor,
        Self::Findings,
        Self::Events,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Locks => "Locks",
            Self::Windows => "Windows",
            Self::WaitFor => "Wait-for",
            Self::Findings => "Findings",
            Self::Events => "Events",
        }
    }
}

/// By what locks are grouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Group {
    /// Class
    #[default]
    Class,
    /// Class, and what the task was doing
    Caller,
    /// Owner: a file, an address space, or the filesystem
    Owner,
}

/// The stretch of time that Windows shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lens {
    /// The file; none is the one with the latest window.
    pub file: Option<InodeIndex>,
    /// How much, nanoseconds; none is what fits the latest windows.
    pub width: Option<u64>,
    /// Up to here; none is the latest.
    pub end: Option<Nanos>,
    /// Which bytes; none is all that are concerned.
    pub bytes: Option<ByteRange>,
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It changed nothing.
    Nothing,
    /// Draw again.
    Redraw,
    /// Leave.
    Quit,
}

/// Where things were drawn, for the mouse.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The tabs.
    pub tabs: Vec<(Rect, View)>,
    /// The time bar.
    pub bar: Rect,
    /// The list, its first row.
    pub list: Rect,
    /// The first row shown of the list.
    pub offset: usize,
    /// Rows of the list.
    pub rows: usize,
    /// What Windows showed: the file, from, to.
    pub shown: Option<(InodeIndex, Nanos, Nanos)>,
    /// Files that Windows can show.
    pub files: Vec<InodeIndex>,
}

/// Something that is being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typing {
    /// The filter of the view on top.
    Filter,
    /// A time to go to.
    Time(String),
}

/// The moment that a time stands for: seconds since the beginning (`3.5`), the clock's seconds as the views
/// show them (`75.4s`), or a share of the whole (`40%`).
fn moment(text: &str, position: &Position) -> Option<Nanos> {
    let text = text.trim();
    let nanos = |seconds: &str| {
        let seconds: f64 = seconds.trim().parse().ok()?;
        (seconds >= 0.0).then_some((seconds * 1e9) as u64)
    };
    if let Some(share) = text.strip_suffix('%') {
        let span = (position.to.0 - position.from.0) as f64;
        let share: f64 = share.trim().parse().ok()?;
        return Some(Nanos(
            position.from.0 + (span * share / 100.0).max(0.0) as u64,
        ));
    }
    match text.strip_suffix('s') {
        Some(clock) => Some(Nanos(nanos(clock)?)),
        None => Some(Nanos(position.from.0.saturating_add(nanos(text)?))),
    }
}

/// What is looked at.
#[derive(Clone, Debug)]
pub struct State {
    /// The view on top.
    pub view: View,
    /// The selected row of each view's list.
    pub selected: [usize; View::ALL.len()],
    /// What each view's list is filtered by.
    pub filters: [String; View::ALL.len()],
    /// What is being typed, if anything.
    pub typing: Option<Typing>,
    /// The help is open.
    pub help: bool,
    /// The order of locks.
    pub sort: SortBy,
    /// The grouping of locks.
    pub group: Group,
    /// What Windows shows.
    pub lens: Lens,
    /// Filled in by the drawing.
    pub places: Places,
}

impl Default for State {
    fn default() -> Self {
        Self {
            view: View::default(),
            selected: [0; View::ALL.len()],
            filters: Default::default(),
            typing: None,
            help: false,
            sort: SortBy::default(),
            group: Group::default(),
            lens: Lens {
                file: None,
                width: None,
                end: None,
                bytes: None,
            },
            places: Places::default(),
        }
    }
}

impl State {
    /// The selected row of the view on top.
    pub fn row(&self) -> usize {
        self.selected[self.view as usize]
    }

    fn select(&mut self, row: usize) {
        self.selected[self.view as usize] = row.min(self.places.rows.saturating_sub(1));
    }

    /// What the list on top is filtered by.
    pub fn filter(&self) -> &str {
        &self.filters[self.view as usize]
    }

    /// True if a line passes the filter of the view on top: every word of it occurs.
    pub fn passes(&self, line: &str) -> bool {
        let line = line.to_lowercase();
        self.filter()
            .split_whitespace()
            .all(|word| line.contains(&word.to_lowercase()))
    }

    /// Takes an input.
    pub fn input(&mut self, event: &Event, model: &mut Model, feed: &mut dyn Feed) -> Outcome {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                if self.typing.is_some() {
                    return self.type_in(key.code, model, feed);
                }
                match keys::action(*key, self.view, feed.position().is_some()) {
                    Some(action) => self.act(action, model, feed),
                    None => Outcome::Nothing,
                }
            }
            Event::Mouse(mouse) => {
                let at = (mouse.column, mouse.row).into();
                match mouse.kind {
                    MouseEventKind::ScrollDown => self.act(self.wheel(false), model, feed),
                    MouseEventKind::ScrollUp => self.act(self.wheel(true), model, feed),
                    MouseEventKind::Down(MouseButton::Left)
                    | MouseEventKind::Drag(MouseButton::Left) => {
                        if let Some(&(_, view)) =
                            self.places.tabs.iter().find(|(area, _)| area.contains(at))
                        {
                            return self.act(Action::Show(view), model, feed);
                        }
                        if self.places.bar.contains(at) {
                            let bar = self.places.bar;
                            let share = f64::from(mouse.column - bar.x)
                                / f64::from(bar.width.saturating_sub(1).max(1));
                            let seek = Transport::SeekShare(share);
                            return self.act(Action::Transport(seek), model, feed);
                        }
                        if self.places.list.contains(at) {
                            let row = usize::from(mouse.row - self.places.list.y);
                            self.select(row + self.places.offset);
                            return Outcome::Redraw;
                        }
                        Outcome::Nothing
                    }
                    _ => Outcome::Nothing,
                }
            }
            Event::Resize(..) | Event::FocusGained => Outcome::Redraw,
            _ => Outcome::Nothing,
        }
    }

    /// What the wheel does: it moves in a list, and zooms a plot.
    fn wheel(&self, up: bool) -> Action {
        match (self.view, up) {
            (View::Windows, true) => Action::ZoomIn,
            (View::Windows, false) => Action::ZoomOut,
            (_, true) => Action::Up(3),
            (_, false) => Action::Down(3),
        }
    }

    fn type_in(&mut self, key: KeyCode, model: &mut Model, feed: &mut dyn Feed) -> Outcome {
        let text = match &mut self.typing {
            Some(Typing::Time(text)) => text,
            _ => {
                self.selected[self.view as usize] = 0;
                &mut self.filters[self.view as usize]
            }
        };
        match key {
            KeyCode::Char(character) => text.push(character),
            KeyCode::Backspace => {
                text.pop();
            }
            KeyCode::Enter => {
                if let Some(Typing::Time(text)) = self.typing.take()
                    && let Some(to) = feed.position().and_then(|at| moment(&text, &at))
                {
                    return self.act(Action::Transport(Transport::Seek(to)), model, feed);
                }
            }
            KeyCode::Esc => {
                text.clear();
                self.typing = None;
            }
            _ => return Outcome::Nothing,
        }
        Outcome::Redraw
    }

    /// Does what a key stands for.
    pub fn act(&mut self, action: Action, model: &mut Model, feed: &mut dyn Feed) -> Outcome {
        let views = View::ALL.len();
        match action {
            Action::Quit => return Outcome::Quit,
            Action::Help => self.help = !self.help,
            Action::Show(view) => self.view = view,
            Action::NextView => self.view = View::ALL[(self.view as usize + 1) % views],
            Action::PreviousView => {
                self.view = View::ALL[(self.view as usize + views - 1) % views];
            }
            Action::Down(rows) => self.select(self.row().saturating_add(rows)),
            Action::Up(rows) => self.select(self.row().saturating_sub(rows)),
            Action::First => self.select(0),
            Action::Last => self.select(usize::MAX),
            Action::Filter => self.typing = Some(Typing::Filter),
            Action::GoTo => self.typing = Some(Typing::Time(String::new())),
            Action::Escape => {
                self.help = false;
                self.filters[self.view as usize].clear();
            }
            Action::Sort => {
                self.sort = match self.sort {
                    SortBy::Wait => SortBy::Contended,
                    SortBy::Contended => SortBy::Hold,
                    SortBy::Hold => SortBy::Acquired,
                    SortBy::Acquired => SortBy::Wait,
                }
            }
            Action::Group => {
                self.group = match self.group {
                    Group::Class => Group::Caller,
                    Group::Caller => Group::Owner,
                    Group::Owner => Group::Class,
                };
                self.select(0);
            }
            Action::NextFile => self.turn(1),
            Action::PreviousFile => self.turn(-1),
            Action::ZoomIn => self.zoom(0.5),
            Action::ZoomOut => self.zoom(2.0),
            Action::PanLeft => self.pan(-0.25),
            Action::PanRight => self.pan(0.25),
            Action::Follow => {
                self.lens.end = None;
                self.lens.width = None;
                self.lens.bytes = None;
            }
            Action::Jump => self.jump(model, feed),
            Action::Transport(what) => {
                feed.transport(model, what);
                self.lens.end = None;
                self.lens.bytes = None;
            }
        }
        Outcome::Redraw
    }

    fn turn(&mut self, by: isize) {
        let files = &self.places.files;
        let Some((shown, ..)) = self.places.shown else {
            return;
        };
        let at = files.iter().position(|&file| file == shown).unwrap_or(0);
        let next = (at as isize + by).rem_euclid(files.len().max(1) as isize) as usize;
        if let Some(&file) = files.get(next) {
            self.lens.file = Some(file);
            self.lens.end = None;
            self.lens.bytes = None;
        }
    }

    fn zoom(&mut self, by: f64) {
        if let Some((_, from, to)) = self.places.shown {
            let width = (to.0 - from.0).max(1) as f64;
            let next = (width * by).clamp(1_000.0, 1e12);
            // What is in the middle stays there, unless the latest is followed.
            if let Some(end) = self.lens.end {
                let middle = end.0 as f64 - width / 2.0;
                self.lens.end = Some(Nanos((middle + next / 2.0) as u64));
            }
            self.lens.width = Some(next as u64);
        }
    }

    fn pan(&mut self, by: f64) {
        if let Some((_, from, to)) = self.places.shown {
            let width = to.0 - from.0;
            let end = to.0 as f64 + width as f64 * by;
            self.lens.width = Some(width);
            self.lens.end = Some(Nanos(end.max(0.0) as u64));
        }
    }

    fn jump(&mut self, model: &mut Model, feed: &mut dyn Feed) {
        let findings = super::views::visible_findings(model, self);
        let Some(&(finding, _)) = findings.get(self.row()) else {
            return;
        };
        let moment = crate::html::moment(finding);
        let file = finding.file;
        let length = finding.range.length.min(1 << 30);
        let end = finding.range.offset.saturating_add(length);
        let margin = (length / 4).max(4096) / 4096 * 4096;
        self.view = View::Windows;
        self.lens = Lens {
            file: Some(file),
            width: Some(moment.to.0 - moment.from.0),
            end: Some(moment.to),
            bytes: Some(ByteRange {
                start: finding.range.offset.saturating_sub(margin),
                end: end.saturating_add(margin),
            }),
        };
        // A story that is over may have forgotten what was there then.
        feed.transport(model, Transport::Seek(moment.to));
    }
}
