//! Two traces of the same workload, before and after a change.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use tracer::{
    hooks::{FilesystemKind, LockClass},
    judge::{
        Report, Verdict,
        finding::{Finding, Strength},
        operations::{FaultKind, Operation},
    },
    story::{Spans, Story},
};

use crate::tables::{Table, time};

/// Name and version of the format; documented in docs/stats.md.
pub const SCHEMA: &str = "faultline.diff/1";

/// A shift counts if chance would bring one like it in fewer than this share of comparisons of like with
/// like, divided by the number of comparisons made (Bonferroni).
const LEVEL: f64 = 0.01;
/// And if a duration drawn from one side is the longer one at least this much more often than from the
/// other: with many thousands of samples a difference of nothing is significant.
const EFFECT: f64 = 0.06;
/// Fewer samples on a side are not compared.
const SAMPLES: u64 = 20;

/// A finding, as far as it is the same one in both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FindingKey {
    /// The rule.
    pub kind: &'static str,
    /// Where.
    pub filesystem: FilesystemKind,
    /// In what.
    pub operation: &'static str,
    /// The lock in question.
    pub class: &'static str,
    /// The hook that saw the act.
    pub target: String,
}

impl FindingKey {
    fn of(finding: &Finding) -> Self {
        Self {
            kind: finding.kind.name(),
            filesystem: finding.filesystem,
            operation: finding.operation.name(),
            class: finding.expected.class,
            target: finding.target.clone(),
        }
    }
}

/// A finding of one side or both.
#[derive(Clone, Debug, Serialize)]
pub struct FindingChange {
    /// What.
    #[serde(flatten)]
    pub key: FindingKey,
    /// How much was seen before, if it was found.
    pub before: Option<Strength>,
    /// How much was seen after, if it was found.
    pub after: Option<Strength>,
    /// What a maintainer pastes into a mail.
    pub sentence: String,
}

/// A pair of an operation's windows and a kind of fault that met on one side only.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PairChange {
    /// Where.
    pub filesystem: FilesystemKind,
    /// Whose windows.
    pub operation: Operation,
    /// Which faults.
    pub fault: FaultKind,
    /// Meetings before.
    pub before: u64,
    /// Meetings after.
    pub after: u64,
}

/// What is compared of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Time waited
    Wait,
    /// Time held
    Hold,
}

/// How durations moved.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shift {
    /// Whose lock.
    pub filesystem: FilesystemKind,
    /// Which.
    pub class: &'static str,
    /// Of what.
    pub what: What,
    /// How many before.
    pub count_before: u64,
    /// How many after.
    pub count_after: u64,
    /// Median before, nanoseconds.
    pub median_before_ns: u64,
    /// Median after, nanoseconds.
    pub median_after_ns: u64,
    /// How often one from after is longer than one from before, ties by halves; 0.5 is no shift.
    pub longer_after: f64,
    /// Two-sided, of the Mann-Whitney test.
    pub p: f64,
    /// Neither chance nor negligible.
    pub significant: bool,
}

/// The comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Verdicts before and after.
    pub verdicts: (Verdict, Verdict),
    /// Why the verdict after is not clean, besides findings.
    pub reasons: Vec<String>,
    /// Kernels before and after.
    pub kernels: (String, String),
    /// Findings only after.
    pub gained: Vec<FindingChange>,
    /// Findings only before.
    pub lost: Vec<FindingChange>,
    /// Findings on both sides.
    pub kept: Vec<FindingChange>,
    /// Pairs that met only after.
    pub coverage_gained: Vec<PairChange>,
    /// Pairs that met only before: there the comparison is blind.
    pub coverage_lost: Vec<PairChange>,
    /// Locks that could be compared.
    pub shifts: Vec<Shift>,
}

/// The model of one side.
pub struct Side<'a> {
    /// Counts.
    pub story: &'a Story,
    /// Verdict.
    pub report: &'a Report,
}

/// Compares two runs.
pub fn compare(before: &Side<'_>, after: &Side<'_>) -> Comparison {
    let findings = |report: &Report| -> BTreeMap<FindingKey, (Strength, String)> {
        report
            .findings
            .iter()
            .map(|finding| {
                let told = (finding.strength, finding.sentence.clone());
                (FindingKey::of(finding), told)
            })
            .collect()
    };
    let (old, new) = (findings(before.report), findings(after.report));
    let (mut gained, mut lost, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for (key, (strength, sentence)) in &new {
        let known = old.get(key);
        let list = if known.is_some() {
            &mut kept
        } else {
            &mut gained
        };
        list.push(FindingChange {
            key: key.clone(),
            before: known.map(|known| known.0),
            after: Some(*strength),
            sentence: sentence.clone(),
        });
    }
    for (key, (strength, sentence)) in &old {
        if !new.contains_key(key) {
            lost.push(FindingChange {
                key: key.clone(),
                before: Some(*strength),
                after: None,
                sentence: sentence.clone(),
            });
        }
    }
    let (coverage_gained, coverage_lost) = coverage(before.report, after.report);
    Comparison {
        schema: SCHEMA,
        verdicts: (before.report.verdict, after.report.verdict),
        reasons: after.report.reasons.clone(),
        kernels: (before.report.kernel.clone(), after.report.kernel.clone()),
        gained,
        lost,
        kept,
        coverage_gained,
        coverage_lost,
        shifts: shifts(before.story, after.story),
    }
}

fn coverage(before: &Report, after: &Report) -> (Vec<PairChange>, Vec<PairChange>) {
    let met = |report: &Report| -> BTreeMap<(FilesystemKind, Operation, FaultKind), u64> {
        report
            .coverage
            .iter()
            .map(|row| ((row.filesystem, row.operation, row.fault), row.met))
            .collect()
    };
    let (old, new) = (met(before), met(after));
    let mut keys: Vec<_> = old.keys().chain(new.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let (mut gained, mut lost) = (Vec::new(), Vec::new());
    for key in keys {
        let count = |side: &BTreeMap<_, u64>| side.get(&key).copied().unwrap_or(0);
        let (filesystem, operation, fault) = key;
        let change = PairChange {
            filesystem,
            operation,
            fault,
            before: count(&old),
            after: count(&new),
        };
        match (change.before, change.after) {
            (0, 1..) => gained.push(change),
            (1.., 0) => lost.push(change),
            _ => {}
        }
    }
    (gained, lost)
}

fn shifts(before: &Story, after: &Story) -> Vec<Shift> {
    let (old, new) = (&before.statistics().classes, &after.statistics().classes);
    let mut shifts = Vec::new();
    for (&(filesystem, class), uses) in old {
        let Some(other) = new.get(&(filesystem, class)) else {
            continue;
        };
        for (what, a, b) in [
            (What::Wait, &uses.waited, &other.waited),
            (What::Hold, &uses.held, &other.held),
        ] {
            shifts.extend(shift(filesystem, class, what, a, b));
        }
    }
    let tests = shifts.len().max(1) as f64;
    for shift in &mut shifts {
        shift.significant = shift.p * tests < LEVEL && (shift.longer_after - 0.5).abs() >= EFFECT;
    }
    shifts
}

fn shift(
    filesystem: FilesystemKind,
    class: LockClass,
    what: What,
    before: &Spans,
    after: &Spans,
) -> Option<Shift> {
    if before.count().min(after.count()) < SAMPLES {
        return None;
    }
    let test = mann_whitney(&before.recorded(), &after.recorded());
    Some(Shift {
        filesystem,
        class: class.name(),
        what,
        count_before: before.count(),
        count_after: after.count(),
        median_before_ns: before.quantile(0.5),
        median_after_ns: after.quantile(0.5),
        longer_after: test.0,
        p: test.1,
        significant: false,
    })
}

/// The Mann-Whitney test of two samples given as values and how often each occurs: the probability that
/// a value of `b` exceeds one of `a`, ties by halves, and the two-sided p of the normal approximation with
/// the correction for ties. Durations are told apart to two digits, so ties are many.
fn mann_whitney(a: &[(u64, u64)], b: &[(u64, u64)]) -> (f64, f64) {
    let mut values = BTreeMap::<u64, (u64, u64)>::new();
    for &(value, count) in a {
        values.entry(value).or_default().0 += count;
    }
    for &(value, count) in b {
        values.entry(value).or_default().1 += count;
    }
    let (mut n, mut m, mut above, mut ties) = (0.0, 0.0, 0.0, 0.0);
    for &(in_a, in_b) in values.values() {
        let (in_a, in_b) = (in_a as f64, in_b as f64);
        // Values of `a` so far are all below these of `b`.
        above += in_b * (n + in_a / 2.0);
        n += in_a;
        m += in_b;
        let tied: f64 = in_a + in_b;
        ties += tied.powi(3) - tied;
    }
    let all = n + m;
    let variance = n * m / 12.0 * (all + 1.0 - ties / (all * (all - 1.0)));
    let longer = above / (n * m);
    if variance <= 0.0 {
        return (longer, 1.0);
    }
    let z = (above - n * m / 2.0).abs() / variance.sqrt();
    (longer, libm::erfc(z / std::f64::consts::SQRT_2))
}

impl Comparison {
    /// True if something was found that was not found before.
    pub fn is_worse(&self) -> bool {
        !self.gained.is_empty()
    }

    /// For reading and mailing.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "before: {} on {}\nafter:  {} on {}",
            self.verdicts.0.name(),
            self.kernels.0,
            self.verdicts.1.name(),
            self.kernels.1
        );
        for reason in &self.reasons {
            let _ = writeln!(out, "  - {reason}");
        }
        for (title, list) in [
            ("gained", &self.gained),
            ("lost", &self.lost),
            ("kept", &self.kept),
        ] {
            if !list.is_empty() {
                let _ = writeln!(out, "\nfindings {title}: {}", list.len());
            }
            for change in list {
                let strength = match (change.before, change.after) {
                    (Some(old), Some(new)) if old != new => {
                        format!("{}, then {}", old.name(), new.name())
                    }
                    (old, new) => new.or(old).map_or("", Strength::name).to_owned(),
                };
                let key = &change.key;
                let _ = writeln!(
                    out,
                    "  {} {} ({strength}), {} {}, {}\n    {}",
                    match title {
                        "gained" => "+",
                        "lost" => "-",
                        _ => "=",
                    },
                    key.kind,
                    key.filesystem.name(),
                    key.operation,
                    key.target,
                    change.sentence
                );
            }
        }
        if self.gained.is_empty() && self.lost.is_empty() && self.kept.is_empty() {
            let _ = writeln!(out, "\nfindings: none on either side");
        }
        for (title, list) in [
            ("met only after", &self.coverage_gained),
            (
                "met only before; of these the comparison says nothing",
                &self.coverage_lost,
            ),
        ] {
            let mut table = Table::new(&["<fs", "<operation", "<fault", "before", "after"]);
            for pair in list {
                table.row(vec![
                    pair.filesystem.name().to_owned(),
                    pair.operation.name().to_owned(),
                    pair.fault.name().to_owned(),
                    pair.before.to_string(),
                    pair.after.to_string(),
                ]);
            }
            if !table.is_empty() {
                let _ = write!(
                    out,
                    "\npairs of window and fault that {title}\n{}",
                    table.render()
                );
            }
        }
        let mut table = Table::new(&[
            "<fs",
            "<class",
            "<what",
            "before",
            "after",
            "median before",
            "median after",
            "longer after",
            "p",
            "<",
        ]);
        for shift in &self.shifts {
            table.row(vec![
                shift.filesystem.name().to_owned(),
                shift.class.to_owned(),
                match shift.what {
                    What::Wait => "wait",
                    What::Hold => "hold",
                }
                .to_owned(),
                shift.count_before.to_string(),
                shift.count_after.to_string(),
                time(shift.median_before_ns),
                time(shift.median_after_ns),
                format!("{:.0} %", shift.longer_after * 100.0),
                if shift.p < 1e-4 {
                    "<0.0001".to_owned()
                } else {
                    format!("{:.4}", shift.p)
                },
                match (shift.significant, shift.longer_after > 0.5) {
                    (true, true) => "longer",
                    (true, false) => "shorter",
                    (false, _) => "",
                }
                .to_owned(),
            ]);
        }
        if !table.is_empty() {
            let _ = write!(
                out,
                "\nlocks: how often a wait or hold after is longer than one before (Mann-Whitney)\n{}",
                table.render()
            );
            let _ = writeln!(
                out,
                "  A verdict needs p < {LEVEL} over {} comparisons and {:.0} % off the half. Waits of one run\n  \
                 depend on each other: take a verdict as a reason to repeat, not as proof.",
                self.shifts.len(),
                EFFECT * 100.0
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_and_like_do_not_differ_and_unlike_do() {
        let low: Vec<(u64, u64)> = (1..=100).map(|value| (value * 10, 3)).collect();
        let high: Vec<(u64, u64)> = (1..=100).map(|value| (value * 10 + 300, 3)).collect();
        let (longer, p) = mann_whitney(&low, &low);
        assert!((longer - 0.5).abs() < 1e-12 && p > 0.999, "{longer} {p}");
        let (longer, p) = mann_whitney(&low, &high);
        assert!(longer > 0.7 && p < 1e-6, "{longer} {p}");
        let (shorter, _) = mann_whitney(&high, &low);
        assert!((longer + shorter - 1.0).abs() < 1e-12);
    }

    /// By hand: U = 19, z = 6.5 / sqrt(25 / 12 * 11) = 1.3578, p = 0.1745.
    #[test]
    fn agrees_with_a_calculation_by_hand() {
        let one = |values: [u64; 5]| values.map(|value| (value, 1));
        let (longer, p) = mann_whitney(&one([11, 22, 33, 44, 55]), &one([30, 40, 50, 60, 70]));
        assert!((longer - 19.0 / 25.0).abs() < 1e-12, "{longer}");
        assert!((p - 0.1745).abs() < 5e-4, "{p}");
    }
}
