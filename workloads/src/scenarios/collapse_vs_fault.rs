//! Collapse range against faults: the pages behind the range move down. The file is extended again
//! after each.

use super::shift::Shift;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "collapse-vs-fault",
    summary: "take ranges out of the file under pages that threads load and store",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast: |setup| Shift::Down.cast(setup),
};
