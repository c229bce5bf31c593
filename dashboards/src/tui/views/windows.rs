//! Windows and faults of one file: time to the right, offset downwards.

use std::collections::BTreeMap;

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
};
use tracer::{
    judge::{
        facts::{FaultSeen, Outcome},
        text::{bytes, duration},
    },
    story::{InodeIndex, Window},
    units::{ByteRange, Nanos},
};

use super::Canvas;
use crate::tui::{
    State,
    palette::{Role, mark},
};

/// Columns for the offsets.
const LABELS: u16 = 12;
/// Windows that the lens takes in by itself.
const RECENT: usize = 6;

struct Scene<'a> {
    file: InodeIndex,
    from: Nanos,
    to: Nanos,
    range: ByteRange,
    windows: Vec<&'a Window>,
    open: Vec<Nanos>,
    faults: Vec<&'a FaultSeen>,
}

pub fn draw(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>, state: &mut State) {
    let [head, plot, legend] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_legend(frame, legend, canvas);
    state.places.files = files(canvas);
    let Some(scene) = scene(canvas, state) else {
        frame.render_widget(canvas.head(" no window and no fault yet"), head);
        return;
    };
    state.places.shown = Some((scene.file, scene.from, scene.to));
    draw_head(frame, head, canvas, &scene, state);
    draw_plot(frame.buffer_mut(), plot, canvas, &scene);
}

/// Files with windows, and then those with faults only; the busiest first.
fn files(canvas: &Canvas<'_>) -> Vec<InodeIndex> {
    let timeline = canvas.model.story.timeline();
    let mut counts: BTreeMap<InodeIndex, (usize, usize)> = BTreeMap::new();
    for window in timeline.windows() {
        counts.entry(window.seen.inode).or_default().0 += 1;
    }
    for fault in timeline.faults() {
        counts.entry(fault.inode).or_default().1 += 1;
    }
    let mut files: Vec<_> = counts.into_iter().collect();
    files.sort_by_key(|&(file, count)| (std::cmp::Reverse(count), file));
    files.into_iter().map(|(file, _)| file).collect()
}

fn scene<'a>(canvas: &Canvas<'a>, state: &State) -> Option<Scene<'a>> {
    let story = &canvas.model.story;
    let timeline = story.timeline();
    let file = state
        .lens
        .file
        .or_else(|| state.places.files.first().copied())?;
    let mine: Vec<&Window> = timeline
        .windows()
        .filter(|window| window.seen.inode == file)
        .collect();
    let latest = mine
        .last()
        .map(|window| window.seen.to)
        .or_else(|| {
            timeline
                .faults()
                .rev()
                .find(|fault| fault.inode == file)
                .map(|fault| fault.to)
        })
        .unwrap_or(story.statistics().now());
    let to = state.lens.end.unwrap_or(latest);
    let width = state.lens.width.unwrap_or_else(|| {
        let first = mine.get(mine.len().saturating_sub(RECENT));
        let span = first.map_or(10_000_000, |first| to.0.saturating_sub(first.seen.from.0));
        (span + span / 20).max(100_000)
    });
    let from = Nanos(to.0.saturating_sub(width));
    let within = |start: Nanos, end: Nanos| start <= to && from <= end;
    let windows: Vec<&Window> = mine
        .into_iter()
        .filter(|window| within(window.seen.from, window.seen.to))
        .collect();
    let faults: Vec<&FaultSeen> = timeline
        .faults()
        .filter(|fault| fault.inode == file && within(fault.from, fault.to))
        .collect();
    let end = faults.iter().map(|fault| fault.range.end).max();
    let mut range = ByteRange { start: 0, end: 0 };
    for fault in &faults {
        range = range.union(fault.range);
    }
    for window in &windows {
        if let Some(bytes) = window.seen.range {
            // To the end of the file stands for as far as anybody faulted.
            let bytes = if bytes.end > 1 << 60 {
                bytes.below(end.unwrap_or(bytes.start + 4096).max(bytes.start + 4096))
            } else {
                bytes
            };
            range = range.union(bytes);
        }
    }
    if let Some(bytes) = state.lens.bytes {
        range = bytes;
    }
    if range.is_empty() {
        range = ByteRange {
            start: 0,
            end: 4096,
        };
    }
    Some(Scene {
        file,
        from,
        to,
        range,
        windows,
        open: timeline
            .open()
            .iter()
            .filter(|open| open.inode == file && open.from <= to)
            .map(|open| open.from)
            .collect(),
        faults,
    })
}

fn draw_head(
    frame: &mut Frame<'_>,
    area: Rect,
    canvas: &Canvas<'_>,
    scene: &Scene<'_>,
    state: &State,
) {
    let file = canvas.model.story.file(scene.file);
    let breached = scene
        .windows
        .iter()
        .filter(|window| window.seen.breached)
        .count();
    let inside = scene
        .faults
        .iter()
        .filter(|fault| fault.outcome == Outcome::Inside)
        .count();
    let place = state
        .places
        .files
        .iter()
        .position(|&file| file == scene.file)
        .map_or(0, |place| place + 1);
    let mut line = Line::from(vec![
        canvas.styled(
            format!(
                " {} {} (inode {})",
                file.filesystem.map_or("", |kind| kind.name()),
                file.short(),
                file.ino
            ),
            Role::Accent,
        ),
        Span::raw(format!(
            "  {} windows, {} faults",
            scene.windows.len() + scene.open.len(),
            scene.faults.len()
        )),
    ]);
    if breached + inside > 0 {
        let told = format!("  {breached} breached, {inside} faults inside");
        line.push_span(canvas.styled(told, Role::Bad));
    }
    let place = canvas.dim(format!(
        "  file {place} of {}, {} across",
        state.places.files.len(),
        duration(scene.to.0 - scene.from.0)
    ));
    // Half of it would say less than nothing.
    if line.width() + place.width() <= usize::from(area.width) {
        line.push_span(place);
    }
    frame.render_widget(line, area);
}

fn draw_legend(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>) {
    let mut spans = vec![
        canvas.styled(" ░ window ", Role::Window),
        canvas.styled(" ▒ breached ", Role::Breach),
    ];
    for outcome in Outcome::ALL.into_iter().rev() {
        spans.push(canvas.styled(
            format!(" {} {} ", mark(outcome), outcome.name()),
            Role::Fault(outcome),
        ));
    }
    spans.push(canvas.dim(" ─ its wait"));
    frame.render_widget(Line::from(spans), area);
}

struct Grid {
    area: Rect,
    from: u64,
    time: u64,
    start: u64,
    bytes: u64,
}

impl Grid {
    fn column(&self, time: u64) -> u16 {
        let share = time.saturating_sub(self.from) as f64 / self.time as f64;
        let last = f64::from(self.area.width.saturating_sub(1));
        self.area.x + (share * f64::from(self.area.width)).floor().min(last) as u16
    }

    fn row(&self, offset: u64) -> u16 {
        let share = offset.saturating_sub(self.start) as f64 / self.bytes as f64;
        let last = f64::from(self.area.height.saturating_sub(1));
        self.area.y + (share * f64::from(self.area.height)).floor().min(last) as u16
    }
}

fn put(buffer: &mut Buffer, x: u16, y: u16, symbol: &str, style: Style) {
    if let Some(cell) = buffer.cell_mut((x, y)) {
        cell.set_symbol(symbol).set_style(style);
    }
}

fn draw_plot(buffer: &mut Buffer, area: Rect, canvas: &Canvas<'_>, scene: &Scene<'_>) {
    if area.width <= LABELS + 4 || area.height < 3 {
        return;
    }
    let grid = Grid {
        area: Rect::new(
            area.x + LABELS,
            area.y,
            area.width - LABELS,
            area.height - 1,
        ),
        from: scene.from.0,
        time: (scene.to.0 - scene.from.0).max(1),
        start: scene.range.start,
        bytes: (scene.range.end - scene.range.start).max(1),
    };
    axes(buffer, area, canvas, &grid);
    for window in &scene.windows {
        let seen = &window.seen;
        let Some(bytes) = seen.range.filter(|bytes| bytes.overlaps(scene.range)) else {
            continue;
        };
        let (symbol, role) = if seen.breached {
            ("▒", Role::Breach)
        } else {
            ("░", Role::Window)
        };
        let style = canvas.palette.style(role);
        let last = grid.row(bytes.end.saturating_sub(1).min(scene.range.end - 1));
        for y in grid.row(bytes.start)..=last {
            for x in grid.column(seen.from.0)..=grid.column(seen.to.0) {
                put(buffer, x, y, symbol, style);
            }
        }
    }
    for &from in &scene.open {
        let style = canvas.palette.style(Role::Window);
        for y in grid.area.y..grid.area.bottom() {
            put(buffer, grid.column(from.0), y, "│", style);
        }
    }
    // The most telling last, on top.
    let mut faults = scene.faults.clone();
    faults.retain(|fault| fault.range.overlaps(scene.range));
    faults.sort_by_key(|fault| fault.outcome);
    for fault in &faults {
        let style = canvas.palette.style(Role::Fault(fault.outcome));
        let y = grid.row(fault.range.start);
        if let Some((from, to)) = fault.waited {
            for x in grid.column(from.0)..=grid.column(to.0) {
                put(buffer, x, y, "─", style);
            }
        }
        let at = fault.installed.unwrap_or(fault.to);
        put(buffer, grid.column(at.0), y, mark(fault.outcome), style);
    }
}

fn axes(buffer: &mut Buffer, area: Rect, canvas: &Canvas<'_>, grid: &Grid) {
    let dim = canvas.palette.style(Role::Dim);
    let rows = grid.area.height;
    let mut y = 0;
    while y < rows {
        let offset = grid.start + grid.bytes / u64::from(rows) * u64::from(y);
        let label = bytes(offset / 4096 * 4096);
        let text = format!("{label:>width$} ", width = usize::from(LABELS) - 1);
        buffer.set_stringn(area.x, grid.area.y + y, text, usize::from(LABELS), dim);
        y += 4;
    }
    let bottom = area.bottom() - 1;
    let mut x = 0;
    while x + 10 <= grid.area.width {
        let time = grid.time / u64::from(grid.area.width) * u64::from(x);
        let label = if x == 0 {
            format!("{:.6} s", grid.from as f64 / 1e9)
        } else {
            format!("+{}", duration(time))
        };
        buffer.set_stringn(grid.area.x + x, bottom, format!("╵{label}"), 18, dim);
        x += 20;
    }
}
