//! Preallocated blocks against faults: threads race to be the first to write each, and none may see
//! what was in it before.

use super::error::Error;
use super::extents::{Operation, preallocate};
use super::faulter::Habit;
use super::ledger::Family;
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "unwritten-vs-fault",
    summary: "preallocate blocks that threads race to write first",
    needs: Needs::DaxBest,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let habit = Habit {
        forget: 8,
        stores: 6,
        ..Habit::default()
    };
    let target = setup.file(Family::Fixed, 0, habit)?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        run.punch(&target, range)?;
        // No change of content, so no new epoch: a store that is lost to it is the kernel's fault.
        run.apply(Operation::Preallocate, &target, range, || {
            preallocate(&target.file, range)
        })?;
        if run.rng().one_in(4) {
            let part = range.choose(run.rng(), 1, 8);
            run.apply(Operation::Preallocate, &target, part, || {
                preallocate(&target.file, part)
            })?;
        }
        Ok(())
    }))
}
