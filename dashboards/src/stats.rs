//! The figures as tables, in the manner of `perf lock report`.

use std::{cmp::Reverse, fmt::Write as _};

use tracer::{
    judge::text::duration,
    story::{Figures, LockFigures, OperationFigures, Spread},
};

use crate::{
    cli::SortBy,
    tables::{Table, time},
};

/// What a table of locks is sorted by.
fn weight(by: SortBy, figures: &LockFigures) -> u64 {
    match by {
        SortBy::Wait => figures.wait.total_ns,
        SortBy::Contended => figures.waits,
        SortBy::Hold => figures.hold.total_ns,
        SortBy::Acquired => figures.acquisitions(),
    }
}

/// The greatest first; those that weigh the same by acquisitions, then as they were.
pub fn sorted<T>(rows: &[T], by: SortBy, figures: impl Fn(&T) -> &LockFigures) -> Vec<&T> {
    let mut rows: Vec<&T> = rows.iter().collect();
    rows.sort_by_key(|row| {
        let figures = figures(row);
        Reverse((weight(by, figures), figures.acquisitions()))
    });
    rows
}

const LOCK_HEADS: [&str; 10] = [
    "shared",
    "excl",
    "contended",
    "avg wait",
    "p99 wait",
    "max wait",
    "total wait",
    "avg hold",
    "p99 hold",
    "max hold",
];

fn lock_cells(figures: &LockFigures) -> Vec<String> {
    vec![
        figures.shared.to_string(),
        figures.exclusive.to_string(),
        figures.waits.to_string(),
        time(figures.wait.mean_ns()),
        time(figures.wait.p99_ns),
        time(figures.wait.max_ns),
        time(figures.wait.total_ns),
        time(figures.hold.mean_ns()),
        time(figures.hold.p99_ns),
        time(figures.hold.max_ns),
    ]
}

fn locks(first: &[&'static str]) -> Table {
    Table::new(&[first, &LOCK_HEADS[..]].concat())
}

fn section(out: &mut String, title: &str, table: &Table, left_out: usize) {
    if table.is_empty() {
        return;
    }
    let _ = write!(out, "\n{title}\n{}", table.render());
    if left_out > 0 {
        let _ = writeln!(out, "  {left_out} more; --rows shows them");
    }
}

fn spread_cells(spread: &Spread) -> Vec<String> {
    vec![
        spread.count.to_string(),
        time(spread.mean_ns()),
        time(spread.p50_ns),
        time(spread.p90_ns),
        time(spread.p99_ns),
        time(spread.max_ns),
        time(spread.total_ns),
    ]
}

const SPREAD_HEADS: [&str; 7] = ["count", "avg", "p50", "p90", "p99", "max", "total"];

fn operations(name: &'static str, rows: &[OperationFigures]) -> Table {
    let mut table = Table::new(&[&["<fs", name], &SPREAD_HEADS[..]].concat());
    for row in rows {
        let mut cells = vec![
            row.filesystem.name().to_owned(),
            row.operation.name().to_owned(),
        ];
        cells.extend(spread_cells(&row.spread));
        table.row(cells);
    }
    table
}

/// All tables; those that may be long are cut after `limit` rows.
pub fn render(figures: &Figures, by: SortBy, limit: usize) -> String {
    let mut out = String::new();
    let outcomes = &figures.outcomes;
    let seconds = figures.elapsed_ns as f64 / 1e9;
    let _ = writeln!(
        out,
        "{} events in {}, {:.0} a second",
        figures.events,
        duration(figures.elapsed_ns),
        figures.events as f64 / seconds.max(1e-9),
    );
    if figures.left_out > 0 {
        let _ = writeln!(
            out,
            "a light recording: of {} faults one was recorded",
            figures.left_out + 1
        );
    }
    let _ = writeln!(
        out,
        "faults: {} met no window, {} were beside one, {} were held off by the lock, {} came inside one",
        outcomes.clear, outcomes.beside, outcomes.held_off, outcomes.inside
    );

    let mut table = locks(&["<fs", "<class"]);
    for row in sorted(&figures.locks, by, |row| &row.figures) {
        let mut cells = vec![row.filesystem.name().to_owned(), row.class.to_owned()];
        cells.extend(lock_cells(&row.figures));
        table.row(cells);
    }
    section(&mut out, "locks by class", &table, 0);

    let mut table = locks(&["<fs", "<class", "<within"]);
    let rows = sorted(&figures.callers, by, |row| &row.figures);
    for row in rows.iter().take(limit) {
        let mut cells = vec![
            row.filesystem.name().to_owned(),
            row.class.to_owned(),
            row.operation.name().to_owned(),
        ];
        cells.extend(lock_cells(&row.figures));
        table.row(cells);
    }
    let left_out = rows.len().saturating_sub(limit);
    section(&mut out, "locks by class and caller", &table, left_out);

    let mut table = locks(&["<fs", "<class", "<owner"]);
    let rows = sorted(&figures.instances, by, |row| &row.figures);
    for row in rows.iter().take(limit) {
        let mut cells = vec![
            row.filesystem.map_or("-", |kind| kind.name()).to_owned(),
            row.class.to_owned(),
            row.owner(),
        ];
        cells.extend(lock_cells(&row.figures));
        table.row(cells);
    }
    let left_out = rows.len().saturating_sub(limit);
    section(&mut out, "locks by owner", &table, left_out);
    if figures.other_instances > 0 {
        let _ = writeln!(
            out,
            "  {} acquisitions of further locks are in the tables above only",
            figures.other_instances
        );
    }

    let mut table = Table::new(&["<class", "<within", "waits", "total wait", "<where"]);
    for wait in figures.wait_stacks.iter().take(limit) {
        table.row(vec![
            wait.class.to_owned(),
            wait.operation.name().to_owned(),
            wait.count.to_string(),
            time(wait.total_ns),
            callers(&wait.frames),
        ]);
    }
    let left_out = figures.wait_stacks.len().saturating_sub(limit);
    section(&mut out, "where locks were waited for", &table, left_out);

    section(
        &mut out,
        "operations",
        &operations("<operation", &figures.operations),
        0,
    );
    section(
        &mut out,
        "windows, by how long they were open",
        &operations("<operation", &figures.windows),
        0,
    );
    let mut table = Table::new(&[&["<fs", "<fault"], &SPREAD_HEADS[..]].concat());
    for row in &figures.faults {
        let mut cells = vec![
            row.filesystem.name().to_owned(),
            row.fault.name().to_owned(),
        ];
        cells.extend(spread_cells(&row.spread));
        table.row(cells);
    }
    section(&mut out, "faults", &table, 0);
    out
}

/// The functions of a wait's stack that say where it is: those after the lock's own.
pub fn callers(frames: &[String]) -> String {
    let own = |frame: &&String| {
        ![
            "rwsem_",
            "down_",
            "__down",
            "__traceiter",
            "trace_contention",
            "bpf_",
        ]
        .iter()
        .any(|prefix| frame.starts_with(prefix))
    };
    let names: Vec<&str> = frames
        .iter()
        .filter(own)
        .take(3)
        .map(|frame| frame.split(['+', ' ']).next().unwrap_or(frame))
        .collect();
    names.join(" < ")
}
