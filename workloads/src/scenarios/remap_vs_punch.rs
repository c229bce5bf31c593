//! Mappings that move (mremap), change their access (mprotect) and are populated
//! (MADV_POPULATE_READ) while the blocks below are punched.

use super::error::Error;
use super::faulter::Habit;
use super::ledger::Family;
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "remap-vs-punch",
    summary: "mremap, mprotect and populate mappings while holes are punched below",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let habit = Habit {
        forget: 4,
        stores: 4,
        fiddle: 7,
    };
    // Another's file would be touched as the other likes it.
    let target = setup.file_alone(Family::Fixed, 0, habit)?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        run.punch(&target, range)
    }))
}
