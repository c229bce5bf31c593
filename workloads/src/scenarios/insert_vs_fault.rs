//! Insert range against faults: the pages behind the range move up, and a hole appears. The file is
//! cut to its size after each.

use super::shift::Shift;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "insert-vs-fault",
    summary: "put holes into the file before pages that threads load and store",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast: |setup| Shift::Up.cast(setup),
};
