//! Zero range against faults: written extents turn unwritten under pages in use.

use super::error::Error;
use super::extents::{Operation, zero};
use super::faulter::Habit;
use super::ledger::Family;
use super::run::Run;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "zero-vs-fault",
    summary: "zero ranges under pages that threads load and store",
    needs: Needs::PageCacheOk,
    run,
};

fn run(run: &mut Run) -> Result<(), Error> {
    let target = run.file(Family::Fixed, 0)?;
    run.start(Habit::default())?;
    while run.again() {
        let range = run.aim(&target);
        run.discard(&target, range, Operation::ZeroRange, || {
            zero(&target.file, range)
        })?;
        if run.rng().one_in(8)
            && let Some(held) = run.exclude(&target, range)
        {
            run.rewrite(&target, &held)?;
        }
    }
    Ok(())
}
