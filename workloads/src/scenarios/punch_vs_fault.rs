//! Hole punch against faults, with holes refilled by preallocation and by write(2) so that there is
//! something to punch.

use super::error::Error;
use super::extents::{Operation, preallocate};
use super::faulter::Habit;
use super::ledger::Family;
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "punch-vs-fault",
    summary: "punch holes under pages that threads load and store",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        run.punch(&target, range)?;
        match run.rng().below(8) {
            0 => {
                // No data changes: what is not a hole stays, and a hole reads as before.
                run.apply(Operation::Preallocate, &target, range, || {
                    preallocate(&target.file, range)
                })?;
            }
            1 => {
                if let Some(held) = run.exclude(&target, range) {
                    run.rewrite(&target, &held)?;
                }
            }
            // The fault threads' stores refill it.
            _ => {}
        }
        Ok(())
    }))
}
