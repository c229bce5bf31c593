//! A run told as JUnit XML, SARIF, Markdown and JSON.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde_json::{Value, json};

use super::{
    cell::{Cell, Found, Side, Status},
    verdict::{Decision, Summary, first_line},
};

/// Name and version of the JSON form.
pub const SCHEMA: &str = "faultline.ci/1";

/// Writes every form into a directory.
///
/// # Errors
/// The directory cannot be written.
pub fn write(summary: &Summary, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let forms = [
        ("junit.xml", junit(summary)?),
        ("faultline.sarif", pretty(&sarif(summary))?),
        ("summary.md", markdown(summary)),
        ("summary.json", pretty(&json_form(summary))?),
    ];
    for (name, text) in forms {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// One suite a kernel, one case a workload.
pub fn junit(summary: &Summary) -> Result<String> {
    let mut report = Report::new("faultline");
    for side in [Side::Candidate, Side::Baseline] {
        let cells: Vec<&Cell> = summary
            .cells
            .iter()
            .filter(|cell| cell.side == side)
            .collect();
        let Some(first) = cells.first() else { continue };
        let mut suite = TestSuite::new(format!("{} {}", side.name(), first.subject));
        suite.add_property(("kernel", first.kernel.as_str()));
        suite.add_property(("accelerator", first.accelerator.as_str()));
        for cell in cells {
            suite.add_test_case(case(summary, cell));
        }
        report.add_test_suite(suite);
    }
    report.to_string().context("cannot write JUnit XML")
}

fn case(summary: &Summary, cell: &Cell) -> TestCase {
    let news = match cell.side {
        Side::Candidate => summary.news(cell),
        // What is wrong with the baseline is not the change's fault.
        Side::Baseline => Vec::new(),
    };
    let status = match (news.first(), cell.status) {
        (Some(worst), _) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status
                .set_type(worst.kind.clone())
                .set_message(title(worst))
                .set_description(
                    news.iter()
                        .map(|found| detail(found))
                        .collect::<Vec<_>>()
                        .join("\n\n"),
                );
            status
        }
        (None, Status::Clean | Status::Hung | Status::Findings) => TestCaseStatus::success(),
        (None, Status::Inconclusive | Status::Failed) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status
                .set_type(cell.status.name())
                .set_message(first_line(&cell.reasons.join("; ")))
                .set_description(cell.reasons.join("\n"));
            status
        }
    };
    let mut case = TestCase::new(cell.name.clone(), status);
    case.set_classname(format!("faultline.{}", cell.side.name()))
        .set_time(Duration::from_secs_f64(cell.seconds.max(0.0)));
    case
}

fn title(found: &Found) -> String {
    let mut text = format!("{} ({})", found.kind, found.strength);
    if !found.operation.is_empty() {
        let _ = write!(text, ", {} {}", found.filesystem, found.operation);
    }
    text
}

/// The sentence, both tasks' stacks, as a maintainer wants them in a mail.
fn detail(found: &Found) -> String {
    let mut text = format!("{}\n{}", title(found), found.sentence);
    let stacks = found.report.get("stacks").and_then(Value::as_array);
    for stack in stacks.into_iter().flatten() {
        let role = stack
            .get("role")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let _ = write!(text, "\n  {role}:");
        let frames = stack.get("frames").and_then(Value::as_array);
        for frame in frames.into_iter().flatten().filter_map(Value::as_str) {
            let _ = write!(text, "\n    {frame}");
        }
    }
    text
}

/// The file or directory that a finding is shown at: the patch, or else the filesystem's source.
fn place(cell: &Cell, found: &Found) -> String {
    let path = Path::new(&cell.subject);
    let change = path
        .extension()
        .is_some_and(|extension| extension == "patch" || extension == "diff");
    if change && path.is_relative() {
        cell.subject.clone()
    } else {
        format!("fs/{}", found.filesystem)
    }
}

/// SARIF 2.1.0: a rule a kind, a result a new finding; the place is the kernel function. GitHub refuses a
/// file with a result that has no place in the repository.
pub fn sarif(summary: &Summary) -> Value {
    let mut rules: BTreeMap<&str, Value> = BTreeMap::new();
    let mut results = Vec::new();
    for cell in summary.candidate() {
        for found in summary.news(cell) {
            rules
                .entry(&found.kind)
                .or_insert_with(|| json!({ "id": found.kind }));
            results.push(json!({
                "ruleId": found.kind,
                "level": "error",
                "message": { "text": found.sentence },
                "locations": [{
                    "physicalLocation": {
                        "artifactLocation": { "uri": place(cell, found) },
                        "region": { "startLine": 1 },
                    },
                    "logicalLocations": [{
                        "kind": "function",
                        "name": found.target,
                        "fullyQualifiedName": format!("{}::{}", found.filesystem, found.target),
                    }],
                }],
                "partialFingerprints": { "faultline/1": found.key().join("|") },
                "properties": {
                    "strength": found.strength,
                    "operation": found.operation,
                    "lock": found.lock,
                    "workload": cell.name,
                    "kernel": cell.kernel,
                },
            }));
        }
    }
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {
                "driver": {
                    "name": "faultline",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": rules.into_values().collect::<Vec<_>>(),
                },
            },
            "results": results,
        }],
    })
}

/// For a job summary or a mail.
pub fn markdown(summary: &Summary) -> String {
    let mut text = String::new();
    let (word, reasons) = match summary.decision() {
        Decision::Good => ("pass", Vec::new()),
        Decision::Bad => ("FAIL", Vec::new()),
        Decision::Unknown(reasons) => ("not judged", reasons),
    };
    let subject = summary
        .candidate()
        .next()
        .map_or("nothing", |cell| cell.subject.as_str());
    let _ = writeln!(text, "## faultline: {word}, {subject}\n");
    for reason in reasons {
        let _ = writeln!(text, "- {reason}");
    }
    let mut told: BTreeMap<[&str; 5], (&Found, Vec<String>)> = BTreeMap::new();
    for cell in summary.candidate() {
        for found in summary.news(cell) {
            let entry = told.entry(found.key()).or_insert((found, Vec::new()));
            let place = match &cell.page {
                Some(page) => format!("{} ({})", cell.name, page.display()),
                None => cell.name.clone(),
            };
            // Several of one kind in a workload differ in their files and blocks alone.
            if entry.1.last() != Some(&place) {
                entry.1.push(place);
            }
        }
    }
    for (found, cells) in told.values() {
        let _ = writeln!(
            text,
            "\n### {}\n\n{}\n\nSeen in {}.\n\n```\n{}\n```",
            title(found),
            found.sentence,
            cells.join(", "),
            detail(found)
        );
    }
    let gone = summary.gone();
    if !gone.is_empty() {
        let _ = writeln!(text, "\nNo longer there:\n");
        for found in gone {
            let _ = writeln!(text, "- {}: {}", title(found), found.sentence);
        }
    }
    let _ = writeln!(
        text,
        "\n| kernel | workload | result | events | lost | new findings | seconds |\n\
         | --- | --- | --- | --- | --- | --- | --- |"
    );
    for cell in &summary.cells {
        let news = match cell.side {
            Side::Candidate => summary.news(cell).len(),
            Side::Baseline => 0,
        };
        let _ = writeln!(
            text,
            "| {} {} | {} | {} | {} | {} | {} | {:.0} |",
            cell.side.name(),
            cell.kernel,
            cell.name,
            cell.status.name(),
            cell.events,
            cell.lost,
            news,
            cell.seconds
        );
    }
    for cell in summary
        .cells
        .iter()
        .filter(|cell| cell.status == Status::Hung)
    {
        let _ = writeln!(
            text,
            "\n{} {}: {}",
            cell.side.name(),
            cell.name,
            cell.reasons.join("; ")
        );
    }
    let emulation =
        summary
            .candidate()
            .next()
            .map_or("nothing", |cell| match cell.accelerator.as_str() {
                "kvm" => "KVM",
                "tcg" => "emulation without KVM",
                other => other,
            });
    let _ = writeln!(
        text,
        "\nRace coverage: {} % of the pairs of an operation and a kind of fault met. Run under {emulation}.",
        summary.coverage
    );
    text
}

fn json_form(summary: &Summary) -> Value {
    let decision = summary.decision();
    let (verdict, reasons) = match &decision {
        Decision::Good => ("clean", Vec::new()),
        Decision::Bad => ("findings", Vec::new()),
        Decision::Unknown(reasons) => ("inconclusive", reasons.clone()),
    };
    let news: Vec<&Found> = summary
        .candidate()
        .flat_map(|cell| summary.news(cell))
        .collect();
    json!({
        "schema": SCHEMA,
        "verdict": verdict,
        "status": decision.status(),
        "reasons": reasons,
        "coverage_percent": summary.coverage,
        "new_findings": news,
        "gone_findings": summary.gone(),
        "cells": summary.cells,
    })
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::{cell, found};
    use super::*;

    fn example() -> Summary {
        let mut bad = found("op-unprotected");
        bad.report = json!({ "stacks": [{ "role": "fallocate/PUNCH_HOLE", "frames": ["__xfs_bunmapi+0x5 [xfs]"] }] });
        Summary::new(
            vec![
                cell(
                    Side::Baseline,
                    "xfs-punch-vs-fault",
                    Status::Clean,
                    Vec::new(),
                ),
                cell(
                    Side::Candidate,
                    "xfs-punch-vs-fault",
                    Status::Findings,
                    vec![bad],
                ),
                cell(
                    Side::Candidate,
                    "xfs-zero-vs-fault",
                    Status::Clean,
                    Vec::new(),
                ),
                cell(
                    Side::Candidate,
                    "xfs-insert-vs-fault",
                    Status::Failed,
                    Vec::new(),
                ),
            ],
            0,
        )
    }

    #[test]
    fn junit_is_red_where_something_is_new() {
        let text = junit(&example()).unwrap();
        // The report's id and time differ from run to run.
        let body = text.split_once("<testsuite ").unwrap().1;
        insta::assert_snapshot!(body);
    }

    #[test]
    fn markdown_tells_a_maintainer() {
        insta::assert_snapshot!(markdown(&example()));
    }

    #[test]
    fn a_workload_is_named_once_for_what_it_found_twice() {
        let twice = vec![found("corruption"), found("corruption")];
        let cell = cell(
            Side::Candidate,
            "xfs-punch-vs-fault",
            Status::Findings,
            twice,
        );
        let text = markdown(&Summary::new(vec![cell], 0));
        assert!(text.contains("Seen in xfs-punch-vs-fault.\n"), "{text}");
    }

    #[test]
    fn a_finding_is_shown_at_the_change_or_at_the_source() {
        let mut cell = cell(Side::Candidate, "a", Status::Clean, Vec::new());
        let found = found("op-unprotected");
        for (subject, wanted) in [
            ("patches/my.patch", "patches/my.patch"),
            ("/home/me/my.patch", "fs/xfs"),
            ("6.12.95", "fs/xfs"),
            ("running 6.12.117+deb12-amd64", "fs/xfs"),
        ] {
            cell.subject = subject.to_owned();
            assert_eq!(place(&cell, &found), wanted);
        }
    }

    #[test]
    fn sarif_names_function_and_rule() {
        insta::assert_snapshot!(pretty(&sarif(&example())).unwrap());
    }
}
