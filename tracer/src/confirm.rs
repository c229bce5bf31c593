//! What holding a task up can show: for each predicted finding, the place where its window is widest.

use crate::{
    hooks::pauses::Pause,
    judge::{
        Report,
        finding::{Finding, Strength},
        rules::{Kind, Observed},
    },
};

/// Where to hold tasks up for a finding's overlap to be seen, to be tried in turn; empty if no delay
/// helps: orders and leaks are what one task does, however slowly.
pub fn pauses_for(finding: &Finding) -> &'static [Pause] {
    match (finding.kind, finding.how) {
        (Kind::ScopeGap, Observed::TakenAfterInvalidation) => &[Pause::AfterTeardown],
        (Kind::StaleAfterRelock, _) => &[Pause::AfterUnlock],
        // A new fault comes into the window; one that found its page mapped must be held until it opens.
        (Kind::FaultUnprotected, _) => &[Pause::BeforeChange, Pause::BeforeInstall],
        (Kind::StaleData, _) => &[Pause::BeforeInstall],
        (
            Kind::OpUnprotected
            | Kind::WrongMode
            | Kind::PartialLock
            | Kind::ScopeGap
            | Kind::MissingInvalidate
            | Kind::UnmapOrder
            | Kind::LayoutUnbroken
            | Kind::DioUndrained,
            _,
        ) => &[Pause::BeforeChange],
        _ => &[],
    }
}

/// What `report` makes of a finding of another run: its strength there, if it was found at all.
pub fn found_again(finding: &Finding, report: &Report) -> Option<Strength> {
    let known = report.annotated.iter().map(|known| &known.finding);
    report
        .findings
        .iter()
        .chain(known)
        .filter(|other| {
            (other.kind, other.filesystem, other.operation)
                == (finding.kind, finding.filesystem, finding.operation)
                && other.expected.class == finding.expected.class
        })
        .map(|other| other.strength)
        .max()
}
