//! The picture around a finding: what the tasks held over time, and below it, on the same axis, which bytes
//! of the file were in windows and which were faulted on.

use std::fmt::Write as _;

use tracer::{
    judge::{
        facts::{FaultSeen, Outcome},
        finding::Finding,
        text::{bytes, duration},
    },
    story::Window,
    units::{ByteRange, Nanos, Tid},
};

use super::{Doing, Material, Stretch, escape, moment};

const WIDTH: f64 = 1060.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 12.0;
const LANE: f64 = 17.0;
const PLOT: f64 = 250.0;
/// Faults drawn; a picture with more is a black square.
const FAULTS: usize = 1500;

struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn at(&self, value: u64) -> f64 {
        let share = (value as f64 - self.from) / (self.to - self.from);
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }

    /// About `count` round values.
    fn ticks(&self, count: f64, round: &[f64]) -> Vec<f64> {
        let rough = (self.to - self.from) / count;
        let mut step = 1.0;
        'found: for exponent in 0..40 {
            for factor in round {
                step = factor * (round[round.len() - 1] / round[0]).powi(exponent);
                if step >= rough {
                    break 'found;
                }
            }
        }
        let mut at = (self.from / step).ceil() * step;
        let mut ticks = Vec::new();
        while at <= self.to {
            ticks.push(at);
            at += step;
        }
        ticks
    }
}

/// A mark that tells outcomes apart by shape as well.
pub fn mark(outcome: Outcome, x: f64, y: f64, title: &str) -> String {
    let class = outcome.name();
    let shape = match outcome {
        Outcome::Clear => format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\""),
        Outcome::Beside => {
            format!("<circle class=\"{class} hollow\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"")
        }
        Outcome::HeldOff => format!(
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"6\" height=\"6\"",
            x - 3.0,
            y - 3.0
        ),
        Outcome::Inside => format!(
            "<path class=\"{class}\" d=\"M{x:.1} {:.1}l6 6l-6 6l-6 -6z\"",
            y - 6.0
        ),
    };
    let tag = if shape.starts_with("<circle") {
        "circle"
    } else if shape.starts_with("<rect") {
        "rect"
    } else {
        "path"
    };
    format!("{shape}><title>{}</title></{tag}>", escape(title))
}

/// What the marks mean.
pub fn legend() -> String {
    let mut out = String::from("<div class=\"legend\">");
    let mut item = |drawing: &str, text: &str| {
        let _ = write!(
            out,
            "<span><svg width=\"16\" height=\"16\" viewBox=\"0 0 16 16\">{drawing}</svg>{text}</span>"
        );
    };
    item(
        "<rect class=\"window\" x=\"1\" y=\"3\" width=\"14\" height=\"10\"/>",
        "window, faults locked out",
    );
    item(
        "<rect class=\"window breached\" x=\"1\" y=\"3\" width=\"14\" height=\"10\"/>",
        "window that broke a rule",
    );
    for (outcome, text) in [
        (Outcome::Inside, "fault that came inside"),
        (
            Outcome::HeldOff,
            "fault held off by the lock (dashes: its wait)",
        ),
        (Outcome::Beside, "fault beside a window"),
        (Outcome::Clear, "fault that met none"),
    ] {
        item(&mark(outcome, 8.0, 8.0, ""), text);
    }
    item(
        "<rect class=\"excl\" x=\"1\" y=\"4\" width=\"14\" height=\"8\"/>",
        "lock held EXCL",
    );
    item(
        "<rect class=\"shared\" x=\"1\" y=\"4\" width=\"14\" height=\"8\"/>",
        "SHARED",
    );
    item(
        "<rect class=\"waits\" x=\"1\" y=\"4\" width=\"14\" height=\"8\"/>",
        "waiting for it",
    );
    out.push_str("</div>");
    out
}

/// The picture of a finding; empty if nothing is known of its moment.
pub fn render(material: &Material<'_>, finding: &Finding) -> String {
    let moment = moment(finding);
    let on_file = |inode| inode == finding.file;
    let windows: Vec<&Window> = material
        .story
        .timeline()
        .windows()
        .filter(|window| on_file(window.seen.inode))
        .filter(|window| window.seen.from <= moment.to && moment.from <= window.seen.to)
        .collect();
    let (from, to) = span_of_time(finding, &windows, (moment.from, moment.to));
    let windows: Vec<&Window> = windows
        .into_iter()
        .filter(|window| window.seen.from.0 <= to && from <= window.seen.to.0)
        .collect();
    let faults: Vec<&FaultSeen> = material
        .story
        .timeline()
        .faults()
        .filter(|fault| on_file(fault.inode) && fault.from.0 <= to && from <= fault.to.0)
        .collect();
    if windows.is_empty() && faults.is_empty() {
        return String::new();
    }
    let range = span_of_bytes(finding, &windows, &faults);
    let mut tasks: Vec<Tid> = finding
        .tasks
        .iter()
        .filter(|task| !task.sampled)
        .map(|task| task.tid)
        .collect();
    tasks.dedup();

    let x = Axis {
        from: from as f64,
        to: to as f64,
        start: LEFT,
        end: WIDTH - RIGHT,
    };
    let mut body = String::new();
    let mut top = 8.0;
    for tid in tasks {
        top = lanes(&mut body, material, finding, tid, &x, top);
        top += 8.0;
    }
    let y = Axis {
        from: range.start as f64,
        to: range.end as f64,
        start: top + 4.0,
        end: top + 4.0 + PLOT,
    };
    plot(&mut body, finding, (&windows, &faults), range, &x, &y);
    let height = y.end + 34.0;
    let outside = faults
        .iter()
        .filter(|fault| !fault.range.overlaps(range))
        .count();
    let mut caption = format!(
        "{} of {} around {:.6} s. Above: what the two tasks did and held; below: bytes of the file.",
        duration(to - from),
        escape(&material.story.file(finding.file).short()),
        finding.time_ns.0 as f64 / 1e9
    );
    if outside > 0 {
        let _ = write!(
            caption,
            " {outside} faults on other bytes are not in the picture."
        );
    }
    if faults.len() > FAULTS {
        let _ = write!(
            caption,
            " Of {} faults {FAULTS} are drawn, those inside first.",
            faults.len()
        );
    }
    format!(
        "<figure><div class=\"scroll\"><svg class=\"picture\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
         aria-label=\"windows and faults around the finding\">{body}</svg></div>{}<figcaption>{caption}</figcaption></figure>",
        legend()
    )
}

/// From a little before the operation to a little after its window.
fn span_of_time(
    finding: &Finding,
    windows: &[&Window],
    (earliest, latest): (Nanos, Nanos),
) -> (u64, u64) {
    let (mut from, mut to) = (finding.entered.0, finding.time_ns.0);
    let own = windows
        .iter()
        .filter(|window| window.seen.from <= finding.time_ns && finding.time_ns <= window.seen.to);
    for window in own {
        from = from.min(window.seen.from.0);
        to = to.max(window.seen.to.0);
    }
    let margin = (to.saturating_sub(from) / 6).max(super::MARGIN);
    (
        from.saturating_sub(margin).max(earliest.0.min(from)),
        to.saturating_add(margin).min(latest.0.max(to)),
    )
}

/// The bytes at stake, and a little around them.
fn span_of_bytes(finding: &Finding, windows: &[&Window], faults: &[&FaultSeen]) -> ByteRange {
    let end = finding.range.offset.saturating_add(finding.range.length);
    let mut range = ByteRange {
        start: finding.range.offset,
        end: end.max(finding.range.offset + 4096),
    };
    let size = faults
        .iter()
        .map(|fault| fault.range.end)
        .max()
        .unwrap_or(0)
        .max(range.end);
    for window in windows {
        let own = window.seen.from <= finding.time_ns && finding.time_ns <= window.seen.to;
        if own && let Some(bytes) = window.seen.range {
            range = range.union(bytes.below(size));
        }
    }
    for fault in faults {
        if fault.outcome == Outcome::Inside {
            range = range.union(fault.range);
        }
    }
    let margin = ((range.end - range.start) / 4).max(4096) / 4096 * 4096;
    ByteRange {
        start: range.start.saturating_sub(margin),
        end: range.end.saturating_add(margin),
    }
}

/// A task's operation and locks; gives the top of what comes next.
fn lanes(
    out: &mut String,
    material: &Material<'_>,
    finding: &Finding,
    tid: Tid,
    x: &Axis,
    top: f64,
) -> f64 {
    let mine: Vec<&Stretch> = material
        .stretches
        .iter()
        .filter(|stretch| stretch.task.tid == tid)
        .filter(|stretch| stretch.from.0 as f64 <= x.to && x.from <= stretch.to.0 as f64)
        .collect();
    let name = mine.first().map_or_else(
        || format!("task {tid}"),
        |stretch| material.story.task_name(stretch.task),
    );
    let _ = write!(
        out,
        "<text class=\"name\" x=\"4\" y=\"{:.1}\">{}</text>",
        top + 12.0,
        escape(&name)
    );
    let mut classes: Vec<_> = mine
        .iter()
        .filter_map(|stretch| match stretch.doing {
            Doing::Operation(_) => None,
            Doing::Wait(class) | Doing::Hold(class, _) => Some(class),
        })
        .collect();
    classes.sort_unstable();
    classes.dedup();
    for (row, class) in classes.iter().enumerate() {
        let base = top + LANE * (row as f64 + 1.0);
        let _ = write!(
            out,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
            LEFT - 8.0,
            base + 12.0,
            class.name(),
            x.end,
            base + 8.5,
            base + 8.5
        );
    }
    for stretch in mine {
        let (left, right) = (x.at(stretch.from.0), x.at(stretch.to.0));
        let width = (right - left).max(1.0);
        let (row, css, label) = match stretch.doing {
            Doing::Operation(operation) => (0, "op", operation.name().to_owned()),
            Doing::Wait(class) => (
                classes.binary_search(&class).map_or(0, |row| row + 1),
                "waits",
                format!("waits for {}", class.name()),
            ),
            Doing::Hold(class, mode) => (
                classes.binary_search(&class).map_or(0, |row| row + 1),
                if mode == tracer::hooks::Mode::Excl {
                    "excl"
                } else {
                    "shared"
                },
                format!("{} {}", class.name(), mode.name()),
            ),
        };
        let base = top + LANE * row as f64 + 3.0;
        let _ = write!(
            out,
            "<rect class=\"{css}\" x=\"{left:.1}\" y=\"{base:.1}\" width=\"{width:.1}\" height=\"{:.0}\"><title>{}: {}</title></rect>",
            LANE - 6.0,
            escape(&label),
            duration(stretch.to.0 - stretch.from.0)
        );
        if row == 0 && width > 7.0 * label.len() as f64 {
            let _ = write!(
                out,
                "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left + 4.0,
                base + 9.0,
                escape(&label)
            );
        }
    }
    let bottom = top + LANE * (classes.len() as f64 + 1.0);
    if finding.tasks.first().is_some_and(|task| task.tid == tid) {
        let at = x.at(finding.time_ns.0);
        let _ = write!(
            out,
            "<line class=\"act\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"><title>the act: {}</title></line>",
            escape(&finding.target)
        );
    }
    bottom
}

fn plot(
    out: &mut String,
    finding: &Finding,
    (windows, faults): (&[&Window], &[&FaultSeen]),
    range: ByteRange,
    x: &Axis,
    y: &Axis,
) {
    for tick in y.ticks(6.0, &[4096.0, 8192.0, 16384.0, 32768.0, 65536.0]) {
        let at = y.at(tick as u64);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            x.end,
            LEFT - 8.0,
            at + 4.0,
            bytes(tick as u64)
        );
    }
    let relative = Axis {
        from: 0.0,
        to: x.to - x.from,
        start: x.start,
        end: x.end,
    };
    for tick in relative.ticks(8.0, &[1.0, 2.0, 5.0, 10.0]) {
        let at = relative.at(tick as u64);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{}\">{}</text>",
            y.start,
            y.end,
            y.end + 15.0,
            if at > x.end - 30.0 { "end" } else { "middle" },
            if tick == 0.0 {
                "0".to_owned()
            } else {
                duration(tick as u64)
            }
        );
    }
    for window in windows {
        let seen = &window.seen;
        let Some(bytes) = seen.range else { continue };
        if !bytes.overlaps(range) {
            continue;
        }
        let (left, right) = (x.at(seen.from.0), x.at(seen.to.0));
        let (up, down) = (y.at(bytes.start), y.at(bytes.end));
        let lock = seen.lock.map_or("no exclusion lock", |mode| mode.name());
        let _ = write!(
            out,
            "<rect class=\"window{}\" x=\"{left:.1}\" y=\"{up:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}, {}, {lock}, {} faults inside</title></rect>",
            if seen.breached { " breached" } else { "" },
            (right - left).max(1.5),
            (down - up).max(1.5),
            seen.operation.name(),
            duration(seen.to.0 - seen.from.0),
            window.entered
        );
    }
    let mut drawn: Vec<&FaultSeen> = faults
        .iter()
        .copied()
        .filter(|fault| fault.range.overlaps(range))
        .collect();
    drawn.sort_by_key(|fault| std::cmp::Reverse(fault.outcome));
    drawn.truncate(FAULTS);
    // The most telling on top.
    for fault in drawn.iter().rev() {
        let class = fault.outcome.name();
        let middle = fault.range.start + (fault.range.end - fault.range.start) / 2;
        let at = y.at(middle);
        let (left, right) = (x.at(fault.from.0), x.at(fault.to.0));
        let _ = write!(
            out,
            "<line class=\"{class}\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
        );
        if let Some((from, to)) = fault.waited {
            let _ = write!(
                out,
                "<line class=\"{class} wait\" stroke-width=\"4\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
                x.at(from.0),
                x.at(to.0)
            );
        }
        let title = format!(
            "{}, {}, {}",
            fault.operation.name(),
            duration(fault.to.0 - fault.from.0),
            fault.outcome.name()
        );
        out.push_str(&mark(
            fault.outcome,
            x.at(fault.installed.unwrap_or(fault.to).0),
            at,
            &title,
        ));
    }
    let at = x.at(finding.time_ns.0);
    let _ = write!(
        out,
        "<line class=\"act\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke-dasharray=\"4 3\"/>\
         <rect class=\"frame\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
        y.start,
        y.end,
        x.start,
        y.start,
        x.end - x.start,
        y.end - y.start
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        let axis = Axis {
            from: 13.0,
            to: 987.0,
            start: 0.0,
            end: 1.0,
        };
        let ticks = axis.ticks(8.0, &[1.0, 2.0, 5.0, 10.0]);
        assert_eq!(ticks[0], 200.0);
        assert!(ticks.iter().all(|tick| (13.0..=987.0).contains(tick)));
    }
}
