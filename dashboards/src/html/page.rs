//! The page, from the verdict down to how to repeat the run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use tracer::{
    judge::{
        finding::{Finding, FindingTask},
        report::Annotated,
        text::{duration, span},
    },
    story::{LockFigures, OperationFigures, Spread},
};

use super::{Material, chart, escape, graph, picture, style};
use crate::tables::time;

/// Rows of locks by file.
const FILES: usize = 40;

/// Renders the page.
pub fn render(material: &Material<'_>) -> String {
    let report = material.report;
    let mut out = String::with_capacity(1 << 18);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline';script-src 'unsafe-inline'\">\
         <title>faultline: {} on {}</title><style>{}</style></head><body>{}<main>",
        report.verdict.name(),
        escape(&report.kernel),
        style::CSS,
        graph::HEADS
    );
    head(&mut out, material);
    findings(&mut out, material);
    coverage(&mut out, material);
    locks(&mut out, material);
    order(&mut out, material);
    durations(&mut out, material);
    hooks(&mut out, material);
    repeat(&mut out, material);
    let _ = writeln!(
        out,
        "</main><script>{}</script></body></html>",
        style::SCRIPT
    );
    out
}

fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn head(out: &mut String, material: &Material<'_>) {
    let (report, header) = (material.report, material.trace.header());
    let count = match report.findings.len() {
        0 => String::new(),
        1 => ": 1 finding".to_owned(),
        many => format!(": {many} findings"),
    };
    let word = match report.verdict {
        tracer::judge::Verdict::Findings => "Page faults are not locked out",
        tracer::judge::Verdict::Clean => "Nothing wrong was seen, and everything was seen",
        tracer::judge::Verdict::Inconclusive => "Nothing wrong was seen, but not all was seen",
    };
    let _ = write!(
        out,
        "<h1><span class=\"verdict {v}\">{v}</span>{word}{count}</h1><p class=\"dim\">Linux {} ({}){}, recorded by faultline {}</p>",
        escape(&report.kernel),
        escape(&header.build),
        host(&header.host),
        escape(&header.recorder),
        v = report.verdict.name(),
    );
    let outcomes = &material.figures.outcomes;
    let totals = &report.totals;
    out.push_str("<ul class=\"nums\">");
    for (value, what) in [
        (number(report.events), "events"),
        (number(report.lost), "lost"),
        (duration(material.figures.elapsed_ns), "of recording"),
        (number(totals.windows), "windows opened"),
        (number(totals.faults), "faults"),
        (number(totals.met), "meetings of both"),
        (number(outcomes.held_off), "faults held off by the lock"),
        (number(outcomes.inside), "faults inside a window"),
        (number(report.unjudged), "acts unjudged"),
    ] {
        let _ = write!(out, "<li><b>{value}</b><span>{what}</span></li>");
    }
    out.push_str("</ul>");
    if !report.reasons.is_empty() {
        out.push_str("<ul>");
        for reason in &report.reasons {
            let _ = write!(out, "<li>{}</li>", escape(reason));
        }
        out.push_str("</ul>");
    }
}

/// A kernel that was given no name says `(none)`.
fn host(name: &str) -> String {
    if name.is_empty() || name.starts_with('(') {
        String::new()
    } else {
        format!(" on {}", escape(name))
    }
}

fn filter(out: &mut String, of: &str, what: &str) {
    let _ = write!(
        out,
        "<div class=\"filter\"><input type=\"search\" data-of=\"{of}\" placeholder=\"filter {what}\" aria-label=\"filter {what}\"></div>"
    );
}

fn findings(out: &mut String, material: &Material<'_>) {
    let report = material.report;
    if !report.findings.is_empty() {
        out.push_str("<h2>Findings</h2>");
        if report.findings.len() > 2 {
            filter(out, ".finding", "findings");
        }
    }
    for (index, found) in report.findings.iter().enumerate() {
        finding(out, material, index + 1, found, None);
    }
    if !report.annotated.is_empty() {
        out.push_str("<h2>Known in this kernel</h2>");
    }
    for (
        index,
        Annotated {
            finding: found,
            argument,
        },
    ) in report.annotated.iter().enumerate()
    {
        let number = report.findings.len() + index + 1;
        finding(out, material, number, found, Some(argument));
    }
}

fn finding(
    out: &mut String,
    material: &Material<'_>,
    number: usize,
    finding: &Finding,
    known: Option<&str>,
) {
    let _ = write!(
        out,
        "<article class=\"card finding\" id=\"finding-{number}\"><h3><span class=\"tag {s}\">{s}</span>{} <span class=\"dim\">{} {}</span></h3><p>{}</p>",
        finding.kind.name(),
        finding.filesystem.name(),
        finding.operation.name(),
        escape(&finding.sentence),
        s = finding.strength.name(),
    );
    if let Some(argument) = known {
        let _ = write!(out, "<p class=\"dim\">Known: {}</p>", escape(argument));
    }
    out.push_str(&picture::render(material, finding));
    let mode = finding.expected.mode.map_or("released", |mode| mode.name());
    let _ = write!(
        out,
        "<dl><dt>lock</dt><dd>{}: expected {mode}, observed {}</dd><dt>range</dt><dd>{} (offset {}, length {})</dd>\
         <dt>file</dt><dd>inode {} {}</dd><dt>seen</dt><dd>{} times; this one at {:.9} s, by <code>{}</code></dd></dl><div class=\"sides\">",
        finding.expected.class,
        escape(&finding.observed),
        span(finding.range.offset, finding.range.length),
        finding.range.offset,
        finding.range.length,
        finding.inode,
        escape(&finding.path),
        finding.count,
        finding.time_ns.0 as f64 / 1e9,
        escape(&finding.target)
    );
    for task in &finding.tasks {
        side(out, finding, task);
    }
    out.push_str("</div></article>");
}

fn side(out: &mut String, finding: &Finding, task: &FindingTask) {
    let _ = write!(
        out,
        "<div><h4>{}/{}</h4><p class=\"dim\">{}</p>",
        escape(&task.name),
        task.tid,
        escape(&task.role)
    );
    if !task.sampled {
        let held: Vec<String> = finding
            .locks_held
            .iter()
            .filter(|lock| lock.task == task.tid)
            .map(|lock| {
                format!(
                    "<li>{} {}{} for {}</li>",
                    lock.class,
                    lock.mode.name(),
                    lock.inode
                        .map_or(String::new(), |inode| format!(" of inode {inode}")),
                    duration(lock.held_ns)
                )
            })
            .collect();
        if held.is_empty() {
            out.push_str("<p>holds no lock that was seen</p>");
        } else {
            let _ = write!(out, "<ul>{}</ul>", held.concat());
        }
    }
    let own = |stack: &&tracer::judge::finding::FindingStack| {
        stack.task == task.tid && stack.role == task.role
    };
    for stack in finding.stacks.iter().filter(own) {
        if stack.sampled && !task.sampled {
            out.push_str(
                "<p class=\"dim\">by the way of another such act, taken earlier or later</p>",
            );
        }
        let _ = write!(out, "<pre>{}</pre>", escape(&stack.frames.join("\n")));
    }
    out.push_str("</div>");
}

fn coverage(out: &mut String, material: &Material<'_>) {
    let rows = &material.report.coverage;
    if rows.is_empty() {
        return;
    }
    out.push_str(
        "<h2>What the run was worth</h2><p>Which operations' windows met which faults: the darker, the more meetings. \
         A pair that never met was not tested.</p><div class=\"scroll\"><table><tr><th class=\"l\">operation<th>windows",
    );
    let faults: BTreeSet<_> = rows.iter().map(|row| row.fault).collect();
    for fault in &faults {
        let _ = write!(out, "<th>{}", fault.name());
    }
    out.push_str("</tr>");
    let most = rows.iter().map(|row| row.met).max().unwrap_or(0).max(1) as f64;
    let mut by_operation = BTreeMap::<_, Vec<_>>::new();
    for row in rows {
        by_operation
            .entry((row.filesystem, row.operation))
            .or_default()
            .push(row);
    }
    for ((filesystem, operation), cells) in by_operation {
        let _ = write!(
            out,
            "<tr><td class=\"l\">{} {}<td>{}",
            filesystem.name(),
            operation.name(),
            number(cells[0].windows)
        );
        for fault in &faults {
            match cells.iter().find(|cell| cell.fault == *fault) {
                None => out.push_str("<td class=\"dim\">no such fault"),
                Some(cell) if cell.met == 0 => out.push_str("<td class=\"never\">never"),
                Some(cell) => {
                    let heat = ((cell.met as f64).ln_1p() / most.ln_1p() * 60.0).round();
                    let _ = write!(
                        out,
                        "<td class=\"heat\" style=\"--h:{heat}\">{}<small>{} held off</small>",
                        number(cell.met),
                        number(cell.held_off)
                    );
                }
            }
        }
        out.push_str("</tr>");
    }
    out.push_str("</table></div>");
}

fn lock_cells(figures: &LockFigures) -> String {
    format!(
        "<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
        number(figures.shared),
        number(figures.exclusive),
        number(figures.waits),
        time(figures.wait.p50_ns),
        time(figures.wait.p99_ns),
        time(figures.wait.max_ns),
        time(figures.hold.p50_ns),
        time(figures.hold.p99_ns),
        time(figures.hold.max_ns)
    )
}

const LOCK_HEADS: &str =
    "<th>shared<th>excl<th>contended<th>wait p50<th>p99<th>max<th>hold p50<th>p99<th>max";

fn locks(out: &mut String, material: &Material<'_>) {
    let figures = material.figures;
    if figures.locks.is_empty() {
        return;
    }
    let classes = &material.story.statistics().classes;
    let _ = write!(
        out,
        "<h2>Locks</h2><div class=\"scroll\"><table><tr><th class=\"l\">class{LOCK_HEADS}<th class=\"l\">waits<th class=\"l\">holds</tr>"
    );
    for row in &figures.locks {
        let uses = classes
            .iter()
            .find(|((kind, class), _)| *kind == row.filesystem && class.name() == row.class)
            .map(|(_, uses)| uses);
        let _ = write!(
            out,
            "<tr><td class=\"l\">{} {}{}<td class=\"l\">{}<td class=\"l\">{}</tr>",
            row.filesystem.name(),
            row.class,
            lock_cells(&row.figures),
            uses.map_or(String::new(), |uses| chart::histogram(&uses.waited, "")),
            uses.map_or(String::new(), |uses| chart::histogram(&uses.held, "hold")),
        );
    }
    let _ = write!(
        out,
        "</table></div><p class=\"dim\">{}</p>",
        chart::legend()
    );

    let _ = write!(
        out,
        "<details><summary>by caller</summary><div class=\"scroll\"><table><tr><th class=\"l\">class<th class=\"l\">within{LOCK_HEADS}</tr>"
    );
    for row in &figures.callers {
        let _ = write!(
            out,
            "<tr><td class=\"l\">{} {}<td class=\"l\">{}{}</tr>",
            row.filesystem.name(),
            row.class,
            row.operation.name(),
            lock_cells(&row.figures)
        );
    }
    out.push_str("</table></div></details><details><summary>by owner</summary>");
    filter(out, ".lock", "files");
    let _ = write!(
        out,
        "<div class=\"scroll\"><table><tr><th class=\"l\">class<th class=\"l\">owner{LOCK_HEADS}</tr>"
    );
    for row in figures.instances.iter().take(FILES) {
        let _ = write!(
            out,
            "<tr class=\"lock\"><td class=\"l\">{}<td class=\"l\">{}{}</tr>",
            row.class,
            escape(&row.owner()),
            lock_cells(&row.figures)
        );
    }
    out.push_str("</table></div>");
    if figures.instances.len() > FILES {
        let _ = write!(
            out,
            "<p class=\"dim\">{} more locks are not shown.</p>",
            figures.instances.len() - FILES
        );
    }
    out.push_str("</details>");
    if !figures.wait_stacks.is_empty() {
        out.push_str("<details><summary>where locks were waited for</summary>");
        for wait in figures.wait_stacks.iter().take(10) {
            let _ = write!(
                out,
                "<p>{} within {}: {} waits, {} together</p><pre>{}</pre>",
                wait.class,
                wait.operation.name(),
                number(wait.count),
                duration(wait.total_ns),
                escape(&wait.frames.join("\n"))
            );
        }
        out.push_str("</details>");
    }
}

fn order(out: &mut String, material: &Material<'_>) {
    let drawings = graph::render(material.story);
    if drawings.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Order of locks</h2><p>An arrow leads from a lock that was held to one that was taken meanwhile; \
         the number says how often, where that was counted.</p>",
    );
    for (name, drawing, cycle) in drawings {
        let word = if cycle {
            "; arrows that close a cycle are red and bold. A cycle of classes need not be one of locks: \
             trylocks and locks taken in a fixed order of files close none"
        } else {
            "; no cycle"
        };
        let _ = write!(
            out,
            "<figure class=\"card\"><div class=\"scroll\">{drawing}</div><figcaption>{name}{word}</figcaption></figure>"
        );
    }
}

fn spread_cells(spread: &Spread) -> String {
    format!(
        "<td>{}<td>{}<td>{}<td>{}<td>{}",
        number(spread.count),
        time(spread.p50_ns),
        time(spread.p90_ns),
        time(spread.p99_ns),
        time(spread.max_ns)
    )
}

fn durations(out: &mut String, material: &Material<'_>) {
    let figures = material.figures;
    out.push_str(
        "<h2>Durations</h2><div class=\"scroll\"><table><tr><th class=\"l\">what<th class=\"l\">which<th>count<th>p50<th>p90<th>p99<th>max</tr>",
    );
    let mut operations = |what: &str, rows: &[OperationFigures]| {
        for row in rows {
            let _ = write!(
                out,
                "<tr><td class=\"l\">{what}<td class=\"l\">{} {}{}</tr>",
                row.filesystem.name(),
                row.operation.name(),
                spread_cells(&row.spread)
            );
        }
    };
    operations("operation", &figures.operations);
    operations("window", &figures.windows);
    for row in &figures.faults {
        let _ = write!(
            out,
            "<tr><td class=\"l\">fault<td class=\"l\">{} {}{}</tr>",
            row.filesystem.name(),
            row.fault.name(),
            spread_cells(&row.spread)
        );
    }
    out.push_str("</table></div>");
}

fn hooks(out: &mut String, material: &Material<'_>) {
    let report = material.report;
    let attached = report
        .hooks
        .iter()
        .filter(|hook| hook.mechanism.is_some())
        .count();
    let _ = write!(
        out,
        "<h2>Hooks and loss</h2><p>{attached} of {} hooks were attached; {} events were lost.</p>",
        report.hooks.len(),
        number(report.lost)
    );
    let losses = material.trace.losses();
    if !losses.is_empty() {
        out.push_str("<ul>");
        for loss in losses.iter().take(20) {
            let _ = write!(
                out,
                "<li>{} of {:?} at {:.3} s</li>",
                number(loss.count),
                loss.cause,
                loss.from.0 as f64 / 1e9
            );
        }
        out.push_str("</ul>");
    }
    out.push_str(
        "<details><summary>the plan</summary><div class=\"scroll\"><table><tr><th class=\"l\">function<th class=\"l\">group<th class=\"l\">attached by</tr>",
    );
    for hook in &report.hooks {
        let how = match (&hook.mechanism, &hook.error) {
            (Some(mechanism), _) => (*mechanism).to_owned(),
            (None, error) => format!("not: {}", error.as_deref().unwrap_or("")),
        };
        let _ = write!(
            out,
            "<tr><td class=\"l\"><code>{}</code><td class=\"l\">{}<td class=\"l\">{}</tr>",
            escape(&hook.target),
            escape(&hook.group),
            escape(&how)
        );
    }
    out.push_str("</table></div></details>");
}

fn repeat(out: &mut String, material: &Material<'_>) {
    let header = material.trace.header();
    out.push_str("<h2>How to repeat</h2>");
    let mut mounts = String::new();
    for mount in &header.mounts {
        let _ = write!(
            out,
            "<p class=\"dim\">{} on {}: {}</p>",
            mount.filesystem.name(),
            escape(&mount.path),
            escape(&mount.options)
        );
        let _ = write!(mounts, " --mount {}", quote(&mount.path));
    }
    let command: Vec<String> = header.command.iter().map(|word| quote(word)).collect();
    let command = if command.is_empty() {
        String::new()
    } else {
        format!(" -- {}", command.join(" "))
    };
    let _ = write!(
        out,
        "<pre>{}</pre>",
        escape(&format!(
            "faultline record -o run.flt{mounts}{command}\nfaultline analyze run.flt\nfaultline report run.flt -o run.html"
        ))
    );
}

/// A word as a shell reads it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
