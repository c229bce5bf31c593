//! Zero range against faults: written extents turn unwritten under pages in use.

use super::error::Error;
use super::faulter::Habit;
use super::ledger::Family;
use super::punch_vs_fault::aim;
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "zero-vs-fault",
    summary: "zero ranges under pages that threads load and store",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    Ok(solo(move |run| {
        let range = aim(run, &target);
        run.zero(&target, range)?;
        if run.rng().one_in(8)
            && let Some(held) = run.exclude(&target, range)
        {
            run.rewrite(&target, &held)?;
        }
        Ok(())
    }))
}
