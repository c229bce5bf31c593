//! What all the cells come to.

use std::collections::BTreeSet;

use super::cell::{Cell, Found, Side, Status, coverage};

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing new is wrong, and enough was seen.
    Good,
    /// Something is wrong that was not wrong before.
    Bad,
    /// It could not be judged; why.
    Unknown(Vec<String>),
}

impl Decision {
    /// Exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Bad => 1,
            Self::Unknown(_) => 2,
        }
    }
}

/// All cells, and what they come to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// In the order of the run: candidate, then baseline.
    pub cells: Vec<Cell>,
    /// Percentage of operation and fault pairs that met, on the candidate.
    pub coverage: u8,
    /// Percentage asked for.
    pub wanted: u8,
}

impl Summary {
    /// Of these cells.
    pub fn new(mut cells: Vec<Cell>, wanted: u8) -> Self {
        cells.sort_by(|left, right| (left.side, &left.name).cmp(&(right.side, &right.name)));
        let coverage = coverage(cells.iter().filter(|cell| cell.side == Side::Candidate));
        Self {
            cells,
            coverage,
            wanted,
        }
    }

    /// Cells of the kernel under test.
    pub fn candidate(&self) -> impl Iterator<Item = &Cell> {
        self.cells
            .iter()
            .filter(|cell| cell.side == Side::Candidate)
    }

    /// Whether there is something to compare with.
    pub fn compares(&self) -> bool {
        self.cells.iter().any(|cell| cell.side == Side::Baseline)
    }

    /// Findings of a cell that the baseline does not have in any cell.
    pub fn news<'a>(&'a self, cell: &'a Cell) -> Vec<&'a Found> {
        let known: BTreeSet<[&str; 5]> = self
            .cells
            .iter()
            .filter(|cell| cell.side == Side::Baseline)
            .flat_map(|cell| &cell.findings)
            .map(Found::key)
            .collect();
        cell.findings
            .iter()
            .filter(|found| !known.contains(&found.key()))
            .collect()
    }

    /// Findings of the baseline that the kernel under test no longer has.
    pub fn gone(&self) -> Vec<&Found> {
        let still: BTreeSet<[&str; 5]> = self
            .candidate()
            .flat_map(|cell| &cell.findings)
            .map(Found::key)
            .collect();
        let mut seen = BTreeSet::new();
        self.cells
            .iter()
            .filter(|cell| cell.side == Side::Baseline)
            .flat_map(|cell| &cell.findings)
            .filter(|found| !still.contains(&found.key()) && seen.insert(found.key()))
            .collect()
    }

    /// Red, green or neither.
    pub fn decision(&self) -> Decision {
        if self.candidate().any(|cell| !self.news(cell).is_empty()) {
            return Decision::Bad;
        }
        let mut reasons: Vec<String> = self
            .cells
            .iter()
            .filter(|cell| matches!(cell.status, Status::Failed | Status::Inconclusive))
            .map(|cell| {
                format!(
                    "{} {}: {}",
                    cell.side.name(),
                    cell.name,
                    first_line(&cell.reasons.join("; "))
                )
            })
            .collect();
        if self.cells.is_empty() {
            reasons.push("nothing was run".to_owned());
        }
        if self.coverage < self.wanted {
            reasons.push(format!(
                "only {} % of the pairs of an operation and a kind of fault met, {} % were asked for",
                self.coverage, self.wanted
            ));
        }
        if reasons.is_empty() {
            Decision::Good
        } else {
            Decision::Unknown(reasons)
        }
    }
}

/// The first line of a text that may have more.
pub fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::Value;

    pub(in crate::ci) fn found(kind: &str) -> Found {
        Found {
            kind: kind.to_owned(),
            strength: "observed".to_owned(),
            filesystem: "xfs".to_owned(),
            operation: "fallocate/PUNCH_HOLE".to_owned(),
            lock: "invalidate_lock".to_owned(),
            target: "__xfs_bunmapi".to_owned(),
            sentence: format!("xfs: {kind} & more."),
            report: Value::Null,
        }
    }

    pub(in crate::ci) fn cell(
        side: Side,
        name: &str,
        status: Status,
        findings: Vec<Found>,
    ) -> Cell {
        Cell {
            schema: super::super::cell::SCHEMA.to_owned(),
            side,
            name: name.to_owned(),
            subject: "my.patch".to_owned(),
            kernel: "6.12.117+deb12-amd64".to_owned(),
            accelerator: "tcg".to_owned(),
            status,
            reasons: match status {
                Status::Failed => vec!["the guest hung until its time was over".to_owned()],
                _ => Vec::new(),
            },
            findings,
            annotated: 0,
            events: 1000,
            lost: 0,
            coverage: Vec::new(),
            seconds: 4.5,
            trace: None,
            page: None,
        }
    }

    #[test]
    fn only_the_difference_counts() {
        let old = cell(Side::Baseline, "a", Status::Findings, vec![found("x")]);
        let same = cell(Side::Candidate, "a", Status::Findings, vec![found("x")]);
        let summary = Summary::new(vec![old.clone(), same.clone()], 0);
        assert_eq!(summary.decision(), Decision::Good);
        let more = cell(
            Side::Candidate,
            "a",
            Status::Findings,
            vec![found("x"), found("y")],
        );
        let summary = Summary::new(vec![old.clone(), more], 0);
        assert_eq!(summary.decision(), Decision::Bad);
        let news: Vec<_> = summary
            .candidate()
            .flat_map(|cell| summary.news(cell))
            .map(|found| found.kind.as_str())
            .collect();
        assert_eq!(news, ["y"]);
        assert_eq!(Summary::new(vec![same], 0).decision(), Decision::Bad);
        let fixed = cell(Side::Candidate, "a", Status::Clean, Vec::new());
        let summary = Summary::new(vec![old, fixed], 0);
        assert_eq!(summary.decision(), Decision::Good);
        assert_eq!(summary.gone().len(), 1);
    }

    #[test]
    fn what_was_not_seen_is_no_pass() {
        let failed = cell(Side::Candidate, "a", Status::Failed, Vec::new());
        let summary = Summary::new(vec![failed], 0);
        assert!(
            matches!(summary.decision(), Decision::Unknown(reasons) if reasons[0].contains("hung"))
        );
        let known = cell(Side::Candidate, "a", Status::Hung, Vec::new());
        assert_eq!(Summary::new(vec![known], 0).decision().status(), 0);
        let clean = cell(Side::Candidate, "a", Status::Clean, Vec::new());
        assert_eq!(Summary::new(vec![clean.clone()], 0).decision().status(), 0);
        assert_eq!(Summary::new(vec![clean], 10).decision().status(), 2);
        assert_eq!(Summary::new(Vec::new(), 0).decision().status(), 2);
    }
}
