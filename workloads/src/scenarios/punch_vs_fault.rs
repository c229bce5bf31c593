//! Hole punch against faults, with holes refilled by preallocation and by write(2) so that there is
//! something to punch.

use super::error::Error;
use super::extents::{Operation, preallocate, punch};
use super::faulter::Habit;
use super::ledger::Family;
use super::run::Run;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "punch-vs-fault",
    summary: "punch holes under pages that threads load and store",
    needs: Needs::PageCacheOk,
    run,
};

fn run(run: &mut Run) -> Result<(), Error> {
    let target = run.file(Family::Fixed, 0)?;
    run.start(Habit::default())?;
    while run.again() {
        let range = run.aim(&target);
        run.discard(&target, range, Operation::PunchHole, || {
            punch(&target.file, range)
        })?;
        match run.rng().below(8) {
            0 => {
                let _change = target.ledger.change(range);
                run.apply(Operation::Preallocate, range.bytes(), || {
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
    }
    Ok(())
}
