//! The report as plain text, for a terminal or a mail.

use std::fmt::Write;

use crate::{
    judge::{
        coverage::CoverageRow,
        finding::{Finding, FindingTask},
        report::Report,
        rules::Kind,
    },
    units::Tid,
};

/// Columns that a quoted mail can bear.
const WIDTH: usize = 78;

/// Bytes in the largest unit that divides them.
pub fn bytes(value: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    match UNITS
        .iter()
        .find(|(unit, _)| value != 0 && value.is_multiple_of(*unit))
    {
        Some((unit, name)) => format!("{} {name}", value / unit),
        None if value == 0 => "0".to_owned(),
        None => format!("{value} bytes"),
    }
}

/// A span of bytes.
pub fn span(offset: u64, length: u64) -> String {
    format!(
        "{}..{}",
        bytes(offset),
        bytes(offset.saturating_add(length))
    )
}

/// A duration with three digits.
pub fn duration(ns: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
    match UNITS.iter().find(|(unit, _)| ns >= *unit) {
        Some((unit, name)) => {
            let value = ns as f64 / *unit as f64;
            let digits = if value >= 100.0 {
                0
            } else {
                usize::from(value < 10.0) + 1
            };
            format!("{value:.digits$} {name}")
        }
        None => format!("{ns} ns"),
    }
}

/// Breaks `text` into lines that a quoted mail can bear, indented alike.
pub fn wrap(out: &mut String, indent: &str, text: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent.len() + line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(out, "{indent}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        let _ = writeln!(out, "{indent}{line}");
    }
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn seen(out: &mut String, report: &Report) {
    let totals = &report.totals;
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "  {name:<9} {text}");
    };
    line("kernel", report.kernel.clone());
    line(
        "events",
        format!(
            "{}, {} lost, {} unjudged; {} on {} ({} DAX)",
            report.events,
            report.lost,
            plural(report.unjudged, "act"),
            plural(totals.tasks, "task"),
            plural(totals.inodes, "file"),
            totals.dax_inodes
        ),
    );
    line(
        "faults",
        format!(
            "{}, of which {} installed a translation",
            totals.faults, totals.installs
        ),
    );
    line(
        "windows",
        format!(
            "{} opened, {} with a fault, {} held off by the lock",
            totals.windows,
            plural(totals.met, "meeting"),
            totals.held_off
        ),
    );
    for (index, lock) in totals.locks.iter().enumerate() {
        line(
            if index == 0 { "locks" } else { "" },
            format!(
                "{:<16} {:>8} shared {:>8} exclusive {:>6} waited",
                lock.class, lock.shared, lock.exclusive, lock.waits
            ),
        );
    }
    let mut mechanisms = std::collections::BTreeMap::<&str, u64>::new();
    for hook in &report.hooks {
        *mechanisms
            .entry(hook.mechanism.unwrap_or("absent"))
            .or_default() += 1;
    }
    let attached = report
        .hooks
        .iter()
        .filter(|hook| hook.mechanism.is_some())
        .count();
    let by: Vec<_> = mechanisms
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    line(
        "hooks",
        format!(
            "{attached} of {} attached: {}",
            report.hooks.len(),
            by.join(", ")
        ),
    );
}

fn name(tasks: &[FindingTask], tid: Tid) -> String {
    match tasks.iter().find(|task| task.tid == tid) {
        Some(task) if !task.name.is_empty() => format!("{}/{tid}", task.name),
        _ => format!("task {tid}"),
    }
}

fn frames(out: &mut String, frames: &[String]) {
    for frame in frames {
        let _ = writeln!(out, "        {frame}");
    }
}

fn finding(out: &mut String, number: usize, finding: &Finding) {
    let _ = writeln!(
        out,
        "\n[{number}] {} ({}), {} {}",
        finding.kind.name(),
        finding.strength.name(),
        finding.filesystem.name(),
        finding.operation.name()
    );
    wrap(out, "    ", &finding.sentence);
    let path = if finding.path.is_empty() {
        String::new()
    } else {
        format!(" {}", finding.path)
    };
    let _ = writeln!(out, "    inode     {}{path}", finding.inode);
    if !finding.kind.is_about_order() {
        let _ = writeln!(
            out,
            "    range     {} (offset {}, length {})",
            span(finding.range.offset, finding.range.length),
            finding.range.offset,
            finding.range.length
        );
    }
    let mode = match (finding.expected.mode, finding.kind) {
        (Some(mode), _) => mode.name(),
        (None, Kind::LockOrder | Kind::TxnOrder | Kind::FreezeOrder) => "taken before",
        (None, Kind::FreezeMissing) => "held",
        (None, Kind::RecursiveLock) => "taken once",
        (None, Kind::DioUndrained) => "waited for",
        (None, Kind::WaitRemapped) => "a wait for the pins alone",
        (None, _) => "released",
    };
    match finding.expected.class {
        "-" => {
            let _ = writeln!(out, "    found     {}", finding.observed);
        }
        class => {
            let _ = writeln!(
                out,
                "    lock      {class}: expected {mode}, observed {}",
                finding.observed
            );
        }
    }
    let by = match finding.target.as_str() {
        "" => String::new(),
        target => format!(", by {target}"),
    };
    let _ = writeln!(
        out,
        "    seen      {}; this one at {}.{:09} s{by}",
        plural(finding.count, "time"),
        finding.time_ns.0 / 1_000_000_000,
        finding.time_ns.0 % 1_000_000_000,
    );
    for task in &finding.tasks {
        let pid = task
            .pid
            .map(|pid| format!(" (pid {pid})"))
            .unwrap_or_default();
        wrap(
            out,
            "    ",
            &format!("{}{pid}: {}", name(&finding.tasks, task.tid), task.role),
        );
        let mut held = finding
            .locks_held
            .iter()
            .filter(|lock| lock.task == task.tid && !task.sampled)
            .peekable();
        if held.peek().is_none() && !task.sampled {
            let _ = writeln!(out, "      holds no lock that was seen");
        }
        for lock in held {
            let whose = lock
                .inode
                .map_or(String::new(), |inode| format!(" of inode {inode}"));
            let _ = writeln!(
                out,
                "      holds {} {}{whose} for {}",
                lock.class,
                lock.mode.name(),
                duration(lock.held_ns)
            );
        }
        for stack in finding
            .stacks
            .iter()
            .filter(|stack| stack.task == task.tid && stack.role == task.role)
        {
            if stack.sampled && !task.sampled {
                let _ = writeln!(
                    out,
                    "      by the way of another such act, taken earlier or later:"
                );
            }
            frames(out, &stack.frames);
        }
        // How it came by what it held then.
        for stack in finding.stacks.iter().filter(|stack| {
            stack.task == task.tid && finding.tasks.iter().all(|task| task.role != stack.role)
        }) {
            let _ = writeln!(out, "      {}:", stack.role);
            frames(out, &stack.frames);
        }
    }
}

fn coverage(out: &mut String, rows: &[CoverageRow]) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nwindows and the faults that met them");
    let _ = writeln!(
        out,
        "  {:<4} {:<24} {:<9} {:>8} {:>8} {:>8} {:>9}",
        "fs", "operation", "fault", "windows", "met", "held off", "max wait"
    );
    for row in rows {
        let met = if row.met == 0 {
            "never".to_owned()
        } else {
            row.met.to_string()
        };
        let wait = if row.held_off == 0 {
            "-".to_owned()
        } else {
            duration(row.wait_max_ns)
        };
        let _ = writeln!(
            out,
            "  {:<4} {:<24} {:<9} {:>8} {:>8} {:>8} {:>9}",
            row.filesystem.name(),
            row.operation.name(),
            row.fault.name(),
            row.windows,
            met,
            row.held_off,
            wait
        );
    }
}

/// Renders a report.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let count = match report.findings.len() {
        0 => String::new(),
        1 => ": 1".to_owned(),
        many => format!(": {many}"),
    };
    let _ = writeln!(out, "verdict: {}{count}", report.verdict.name());
    for reason in &report.reasons {
        wrap(&mut out, "  ", &format!("- {reason}"));
    }
    let _ = writeln!(out);
    seen(&mut out, report);
    for (index, found) in report.findings.iter().enumerate() {
        finding(&mut out, index + 1, found);
    }
    if !report.annotated.is_empty() {
        let _ = writeln!(out, "\nknown in this kernel");
        for (index, known) in report.annotated.iter().enumerate() {
            finding(&mut out, report.findings.len() + index + 1, &known.finding);
            wrap(&mut out, "    ", &format!("known: {}", known.argument));
        }
    }
    coverage(&mut out, &report.coverage);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_written_as_people_write_them() {
        assert_eq!(span(65536, 65536), "64 KiB..128 KiB");
        assert_eq!(span(0, 100), "0..100 bytes");
        assert_eq!(duration(999), "999 ns");
        assert_eq!(duration(1_500), "1.50 us");
        assert_eq!(duration(123_456_789), "123 ms");
    }

    #[test]
    fn lines_are_wrapped() {
        let mut out = String::new();
        wrap(&mut out, "    ", &"word ".repeat(40));
        assert!(out.lines().count() > 1 && out.lines().all(|line| line.len() <= WIDTH));
    }
}
