//! Preallocated blocks against faults: threads race to be the first to write each, and none may see
//! what was in it before.

use super::error::Error;
use super::extents::{Operation, preallocate, punch};
use super::faulter::Habit;
use super::ledger::Family;
use super::run::Run;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "unwritten-vs-fault",
    summary: "preallocate blocks that threads race to write first",
    needs: Needs::DaxPreferred,
    run,
};

fn run(run: &mut Run) -> Result<(), Error> {
    let target = run.file(Family::Fixed, 0)?;
    run.start(Habit {
        forget: 8,
        stores: 6,
    })?;
    while run.again() {
        let range = run.aim(&target);
        run.discard(&target, range, Operation::PunchHole, || {
            punch(&target.file, range)
        })?;
        // No change of content, so no new epoch: a store that is lost to it is the kernel's fault.
        run.apply(Operation::Preallocate, range.bytes(), || {
            preallocate(&target.file, range)
        })?;
        if run.rng().one_in(4) {
            let part = range.choose(run.rng(), 1, 8);
            run.apply(Operation::Preallocate, part.bytes(), || {
                preallocate(&target.file, part)
            })?;
        }
    }
    Ok(())
}
