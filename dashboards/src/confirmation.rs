//! What `faultline confirm` came to, as it prints it for programs.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracer::judge::{
    Report,
    finding::{Finding, Strength},
};

/// Name and version of the form.
pub const SCHEMA: &str = "faultline.confirm/1";

/// What came of the findings that were tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmations {
    /// [`SCHEMA`].
    pub schema: String,
    /// Each finding.
    pub findings: Vec<Confirmation>,
}

impl Confirmations {
    /// These.
    pub fn new(findings: Vec<Confirmation>) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            findings,
        }
    }

    /// What makes `faultline confirm TRACE` print this.
    pub fn arguments(tries: u32) -> [String; 4] {
        let tries = tries.to_string();
        ["--tries".into(), tries, "--format".into(), "json".into()]
    }

    /// Whether a status of `faultline confirm` comes with an answer: findings that stay predicted are no
    /// failure.
    pub fn answered(status: Option<i32>) -> bool {
        matches!(status, Some(0 | 1))
    }

    /// Raises the findings of the report that was tried, and says so in their sentences.
    pub fn raise(&self, report: &mut Report) {
        for confirmation in &self.findings {
            // Known ones are numbered behind the others.
            let index = confirmation.number.wrapping_sub(1);
            if let Some(finding) = report.findings.get_mut(index)
                && confirmation.strength > finding.strength
            {
                finding.strength = confirmation.strength;
                finding
                    .sentence
                    .push_str(&format!(" Confirmed: {}.", confirmation.outcome()));
            }
        }
    }
}

/// What came of one finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// As `analyze` numbers it, from 1.
    pub number: usize,
    /// Rule.
    pub kind: String,
    /// Filesystem.
    pub filesystem: String,
    /// Operation.
    pub operation: String,
    /// The strongest that it was seen with, in the trace or in a try.
    pub strength: Strength,
    /// How often it was tried; 0 if no delay can show it.
    pub tries: u32,
    /// Tries that at least predicted it again.
    pub predicted_again: u32,
    /// Of the try that showed it.
    pub held_up: Option<HeldUp>,
}

/// How tasks were held up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUp {
    /// Where, in words.
    pub place: String,
    /// For how long each time, nanoseconds.
    pub ns: u64,
}

impl Confirmation {
    /// Of a finding that has not been tried.
    pub fn untried(number: usize, finding: &Finding) -> Self {
        Self {
            number,
            kind: finding.kind.name().to_owned(),
            filesystem: finding.filesystem.name().to_owned(),
            operation: finding.operation.name().to_owned(),
            strength: finding.strength,
            tries: 0,
            predicted_again: 0,
            held_up: None,
        }
    }

    /// More than predicted.
    pub fn seen(&self) -> bool {
        self.strength > Strength::Predicted
    }

    /// For people, one line.
    pub fn line(&self) -> String {
        format!(
            "[{}] {}, {} {}: {}",
            self.number,
            self.kind,
            self.filesystem,
            self.operation,
            self.outcome()
        )
    }

    fn outcome(&self) -> String {
        match &self.held_up {
            Some(HeldUp { place, ns }) => format!(
                "{} in try {}, with tasks held up for {:?} {place}",
                self.strength.name(),
                self.tries,
                Duration::from_nanos(*ns),
            ),
            None if self.tries == 0 => {
                "no delay can show it; it is what one task does, however slowly".to_owned()
            }
            None => format!(
                "not observed; {} tries failed, {} of them predicted it again",
                self.tries, self.predicted_again
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(held_up: Option<HeldUp>) -> Confirmation {
        Confirmation {
            number: 1,
            kind: "op-unprotected".to_owned(),
            filesystem: "xfs".to_owned(),
            operation: "fallocate/PUNCH_HOLE".to_owned(),
            strength: match held_up {
                Some(_) => Strength::Observed,
                None => Strength::Predicted,
            },
            tries: 2,
            predicted_again: 1,
            held_up,
        }
    }

    #[test]
    fn what_was_seen_and_what_was_not() {
        let seen = tried(Some(HeldUp {
            place: "before extents change".to_owned(),
            ns: 1_000_000,
        }));
        assert_eq!(
            seen.line(),
            "[1] op-unprotected, xfs fallocate/PUNCH_HOLE: observed in try 2, with tasks held up \
             for 1ms before extents change"
        );
        assert!(seen.seen());
        let not = tried(None);
        assert!(!not.seen());
        assert!(
            not.line()
                .ends_with("2 tries failed, 1 of them predicted it again")
        );
    }

    #[test]
    fn it_survives_its_own_form() {
        let all = Confirmations::new(vec![tried(None)]);
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Confirmations>(&text).unwrap(), all);
    }
}
