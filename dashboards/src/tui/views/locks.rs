//! Locks by class, caller or owner; and who holds or wants one now.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::Paragraph,
};
use tracer::{judge::text::duration, story::LockFigures};

use super::{Canvas, below_head, list, list::cell};
use crate::{
    cli::SortBy,
    stats::sorted,
    tables::time,
    tui::{State, palette::Role, state::Group},
};

/// A column: its head, and what it shows.
type Column = (&'static str, fn(&LockFigures) -> String);

/// Columns from the most to the least telling, so that a narrow screen loses the least.
const COLUMNS: [Column; 15] = [
    ("taken", |f| f.acquisitions().to_string()),
    ("waits", |f| f.waits.to_string()),
    ("wait avg", |f| time(f.wait.mean_ns())),
    ("p99", |f| time(f.wait.p99_ns)),
    ("total", |f| time(f.wait.total_ns)),
    ("hold avg", |f| time(f.hold.mean_ns())),
    ("p99", |f| time(f.hold.p99_ns)),
    ("wait max", |f| time(f.wait.max_ns)),
    ("hold max", |f| time(f.hold.max_ns)),
    ("shared", |f| f.shared.to_string()),
    ("excl", |f| f.exclusive.to_string()),
    ("wait p50", |f| time(f.wait.p50_ns)),
    ("p90", |f| time(f.wait.p90_ns)),
    ("hold p50", |f| time(f.hold.p50_ns)),
    ("p90", |f| time(f.hold.p90_ns)),
];
const WIDTH: i32 = -9;

pub fn draw(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>, state: &mut State) {
    let now = (area.height / 3).clamp(3, 14);
    let [table, below] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(now)]).areas(area);
    draw_table(frame, table, canvas, state);
    draw_now(frame, below, canvas);
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>, state: &mut State) {
    let figures = &canvas.model.figures;
    let name_width = (i32::from(area.width) / 3).clamp(20, 52);
    let room = (i32::from(area.width) - name_width - 2).max(0) / (WIDTH.abs() + 1);
    let columns = &COLUMNS[..COLUMNS.len().min(room as usize)];
    let rows: Vec<(String, LockFigures)> = match state.group {
        Group::Class => sorted(&figures.locks, state.sort, |row| &row.figures)
            .into_iter()
            .map(|row| {
                (
                    format!("{} {}", row.filesystem.name(), row.class),
                    row.figures,
                )
            })
            .collect(),
        Group::Caller => sorted(&figures.callers, state.sort, |row| &row.figures)
            .into_iter()
            .map(|row| {
                (
                    format!(
                        "{} {} in {}",
                        row.filesystem.name(),
                        row.class,
                        row.operation.name()
                    ),
                    row.figures,
                )
            })
            .collect(),
        Group::Owner => sorted(&figures.instances, state.sort, |row| &row.figures)
            .into_iter()
            .map(|row| {
                let name = format!("{} of {}", row.class, row.owner());
                (name, row.figures)
            })
            .collect(),
    };
    let by = match state.group {
        Group::Class => "class",
        Group::Caller => "caller",
        Group::Owner => "owner",
    };
    let order = match state.sort {
        SortBy::Wait => "time waited",
        SortBy::Contended => "waits",
        SortBy::Hold => "time held",
        SortBy::Acquired => "acquisitions",
    };
    let (head, body) = below_head(area);
    let title = format!("locks by {by}, most {order} first");
    let mut line = vec![canvas.styled(format!(" {}", cell(&title, name_width)), Role::Head)];
    for (name, _) in columns {
        line.push(canvas.dim(format!(" {}", cell(name, WIDTH))));
    }
    frame.render_widget(Line::from(line), head);
    let rows = rows
        .into_iter()
        .filter(|(name, _)| state.passes(name))
        .map(|(name, figures)| {
            let mut line = format!(" {}", cell(&name, name_width));
            for (_, value) in columns {
                line.push(' ');
                line.push_str(&cell(&value(&figures), WIDTH));
            }
            Line::from(line)
        })
        .collect();
    list::draw(frame, body, canvas, state, rows);
}

fn draw_now(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>) {
    let story = &canvas.model.story;
    let statistics = story.statistics();
    let now = statistics.now().0;
    let mut lines = vec![canvas.head(format!(
        " held or wanted now: {} locks",
        statistics.locked.len()
    ))];
    let mut locked: Vec<_> = statistics.locked.iter().collect();
    locked.sort_by_key(|(lock, locked)| (std::cmp::Reverse(locked.waiters.len()), **lock));
    for (lock, locked) in locked {
        let owner = story.owner_name(lock.owner);
        let name = format!(" {} of {owner}", lock.class.name());
        let mut spans = vec![Span::raw(cell(&name, 34))];
        for holder in &locked.holders {
            spans.push(Span::raw(format!(
                " {} {} {}",
                story.task_name(holder.task),
                holder.mode.name(),
                duration(now.saturating_sub(holder.since.0))
            )));
        }
        for waiter in &locked.waiters {
            spans.push(canvas.styled(
                format!(
                    " <- {} waits {}",
                    story.task_name(waiter.task),
                    duration(now.saturating_sub(waiter.since.0))
                ),
                Role::Unsure,
            ));
        }
        lines.push(Line::from(spans));
    }
    frame.render_widget(Paragraph::new(lines), area);
}
