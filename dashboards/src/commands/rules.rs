//! `faultline rules`

use std::{fmt::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tracer::{
    hooks::FilesystemKind,
    judge::{
        annotations::{ANNOTATIONS, SPLATS, Version},
        documented::{ORDERS, Order, TWINS},
        duties::{Duties, Duty, OneStep, Owed},
        operations::Operation,
        rules::{Kind, RULES, Rule},
        text,
    },
};

use crate::{
    cli::{Format, Rules},
    output,
    tables::Table,
};

/// Prints what is judged, by which rule, and what is known.
pub fn run(arguments: &Rules) -> Result<ExitCode> {
    let text = match arguments.format {
        Format::Text => render(),
        Format::Json => {
            serde_json::to_string_pretty(&Printed::new()).context("cannot write the rules")? + "\n"
        }
    };
    output::page(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Operations that owe something.
fn duties() -> impl Iterator<Item = (Operation, Duties)> {
    Operation::ALL
        .into_iter()
        .map(|operation| (operation, operation.duties()))
        .filter(|(_, duties)| *duties != Duties::NONE)
}

fn owed(owed: Owed) -> &'static str {
    match owed {
        Owed::Never => "-",
        Owed::OnDax => "DAX",
        Owed::Always => "yes",
    }
}

fn yes(duty: bool, what: &'static str) -> &'static str {
    if duty { what } else { "-" }
}

/// What else is owed: on which filesystem, in words.
fn more(duties: &Duties) -> impl Iterator<Item = String> {
    duties.more.iter().map(|&(filesystem, duty)| {
        let what = match duty {
            Duty::InOne(OneStep::Changes) => "changes under one hold of the map's lock",
            Duty::InOne(OneStep::Shifts) => "shifts under one hold of the map's lock",
            Duty::Edge => "torn down from the block before on",
            Duty::NoCopies => "no copies left that wait to replace blocks",
            Duty::DiskSize => "on-disk size up to EOF before pages over it are dropped",
            Duty::DiskSizeLast => "on-disk size raised after the conversion",
            Duty::DiskSizeRaised => "on-disk size raised before a write that moved EOF returns",
            Duty::Drained => "direct I/O waited for",
            Duty::WritebackHeldOff => "writeback held off by s_writepages_rwsem",
            Duty::Entries => "DAX entries dropped with faults locked out, and pins looked for",
            Duty::Orphan => "on the list of orphans before data goes beyond EOF",
        };
        format!("{}: {what}", filesystem.name())
    })
}

fn kernels(from: Version, before: Option<Version>) -> String {
    let text = |Version(major, minor, patch): Version| match patch {
        0 => format!("{major}.{minor}"),
        _ => format!("{major}.{minor}.{patch}"),
    };
    match before {
        Some(before) => format!("from {}, before {}", text(from), text(before)),
        None => format!("from {}", text(from)),
    }
}

fn filesystem(order: &Order) -> &'static str {
    order.filesystem.map_or("any", FilesystemKind::name)
}

fn render() -> String {
    let mut out = String::from("rules\n");
    for rule in &RULES {
        let _ = writeln!(out, "  {}", rule.name);
        text::wrap(&mut out, "      ", rule.summary);
        text::wrap(&mut out, "      ", &format!("See {}.", rule.source));
    }
    out.push_str("\nwhat an operation owes where it changes extents inside EOF\n");
    let mut table = Table::new(&[
        "<operation",
        "<invalidate_lock",
        "<i_rwsem",
        "<torn down",
        "<no pins",
        "<direct I/O waited for",
        "<also where the map grows",
    ]);
    for (operation, duties) in duties() {
        table.row(vec![
            operation.name().to_owned(),
            yes(duties.exclusion, "EXCL").to_owned(),
            yes(duties.rwsem, "EXCL").to_owned(),
            owed(duties.teardown).to_owned(),
            owed(duties.layouts).to_owned(),
            yes(duties.drain, "yes").to_owned(),
            yes(duties.grows, "yes").to_owned(),
        ]);
    }
    out.push_str(&table.render());
    out.push_str("\nand besides\n");
    for (operation, duties) in duties() {
        let all: Vec<_> = more(&duties).collect();
        if !all.is_empty() {
            text::wrap(
                &mut out,
                "  ",
                &format!("{}: {}", operation.name(), all.join("; ")),
            );
        }
    }
    out.push_str("\nwhere the kernel does it\n");
    for (operation, duties) in duties() {
        text::wrap(
            &mut out,
            "  ",
            &format!("{}: {}", operation.name(), duties.source),
        );
    }
    out.push_str("\nwhat is taken before what\n");
    let mut table = Table::new(&["<fs", "<first", "<then", "<otherwise", "<source"]);
    for order in ORDERS {
        table.row(vec![
            filesystem(order).to_owned(),
            order.outer.name().to_owned(),
            order.inner.name().to_owned(),
            order.kind.name().to_owned(),
            order.source.to_owned(),
        ]);
    }
    for twins in TWINS {
        table.row(vec![
            twins.filesystem.name().to_owned(),
            twins.of_first(),
            twins.of_other(),
            Kind::LockOrder.name().to_owned(),
            twins.source.to_owned(),
        ]);
    }
    out.push_str(&table.render());
    out.push_str("\nknown of stock kernels, and kept out of the verdict\n");
    for known in ANNOTATIONS {
        let _ = writeln!(
            out,
            "  {}, {} {}, {}, {}",
            known.kind.name(),
            known.filesystem.name(),
            known.operation.map_or("any", Operation::name),
            known.class.name(),
            kernels(known.from, known.before)
        );
        text::wrap(&mut out, "      ", known.argument);
    }
    out.push_str("\ncomplaints that stock kernels make of themselves, likewise\n");
    for known in SPLATS {
        let _ = writeln!(
            out,
            "  {}, called by {}, {}",
            known.function,
            known.caller,
            kernels(known.from, known.before)
        );
        text::wrap(&mut out, "      ", known.argument);
    }
    out
}

#[derive(Serialize)]
struct Printed {
    rules: Vec<PrintedRule>,
    duties: Vec<PrintedDuties>,
    orders: Vec<PrintedOrder>,
    known: Vec<PrintedKnown>,
    complaints: Vec<PrintedSplat>,
}

#[derive(Serialize)]
struct PrintedRule {
    kind: &'static str,
    summary: &'static str,
    source: &'static str,
}

#[derive(Serialize)]
struct PrintedDuties {
    operation: Operation,
    invalidate_lock: bool,
    i_rwsem: bool,
    torn_down: &'static str,
    no_pins: &'static str,
    direct_io_waited_for: bool,
    where_the_map_grows: bool,
    more: Vec<String>,
    source: &'static str,
}

#[derive(Serialize)]
struct PrintedOrder {
    filesystem: &'static str,
    first: String,
    then: String,
    otherwise: &'static str,
    source: &'static str,
}

#[derive(Serialize)]
struct PrintedKnown {
    kind: &'static str,
    filesystem: &'static str,
    operation: Option<Operation>,
    lock: &'static str,
    kernels: String,
    argument: &'static str,
}

#[derive(Serialize)]
struct PrintedSplat {
    function: &'static str,
    caller: &'static str,
    kernels: String,
    argument: &'static str,
}

impl Printed {
    fn new() -> Self {
        Self {
            rules: RULES
                .iter()
                .map(|rule: &Rule| PrintedRule {
                    kind: rule.name,
                    summary: rule.summary,
                    source: rule.source,
                })
                .collect(),
            duties: duties()
                .map(|(operation, duties)| PrintedDuties {
                    operation,
                    invalidate_lock: duties.exclusion,
                    i_rwsem: duties.rwsem,
                    torn_down: owed(duties.teardown),
                    no_pins: owed(duties.layouts),
                    direct_io_waited_for: duties.drain,
                    where_the_map_grows: duties.grows,
                    more: more(&duties).collect(),
                    source: duties.source,
                })
                .collect(),
            orders: ORDERS
                .iter()
                .map(|order| PrintedOrder {
                    filesystem: filesystem(order),
                    first: order.outer.name().to_owned(),
                    then: order.inner.name().to_owned(),
                    otherwise: order.kind.name(),
                    source: order.source,
                })
                .chain(TWINS.iter().map(|twins| PrintedOrder {
                    filesystem: twins.filesystem.name(),
                    first: twins.of_first(),
                    then: twins.of_other(),
                    otherwise: Kind::LockOrder.name(),
                    source: twins.source,
                }))
                .collect(),
            known: ANNOTATIONS
                .iter()
                .map(|known| PrintedKnown {
                    kind: known.kind.name(),
                    filesystem: known.filesystem.name(),
                    operation: known.operation,
                    lock: known.class.name(),
                    kernels: kernels(known.from, known.before),
                    argument: known.argument,
                })
                .collect(),
            complaints: SPLATS
                .iter()
                .map(|known| PrintedSplat {
                    function: known.function,
                    caller: known.caller,
                    kernels: kernels(known.from, known.before),
                    argument: known.argument,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_as_text() {
        let text = render();
        insta::assert_snapshot!(text);
    }
}
