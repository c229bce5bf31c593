//! write(2) into unwritten blocks while another thread writes pages back: what makes them written ones
//! changes the extent map under the writer's mapping of it.

use super::error::Error;
use super::extents::{Operation, clean, preallocate};
use super::faulter::Habit;
use super::ledger::Family;
use super::run::Run;
use super::setup::{Cast, Setup};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "write-vs-writeback",
    summary: "write(2) into unwritten blocks while another thread writes back, and threads load and store",
    needs: Needs::PageCache,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    let written = target.clone();
    let writer = move |run: &mut Run| {
        let range = run.aim(&written);
        run.punch(&written, range)?;
        // No data changes: a hole reads as before.
        run.apply(Operation::Preallocate, &written, range, || {
            preallocate(&written.file, range)
        })?;
        let Some(held) = run.exclude(&written, range) else {
            return Ok(());
        };
        run.rewrite(&written, &held).map(drop)
    };
    let syncer = move |run: &mut Run| {
        let whole = target.whole();
        run.apply(Operation::SyncRange, &target, whole, || {
            clean(&target.file, whole)
        })
        .map(drop)
    };
    Ok(vec![Box::new(writer), Box::new(syncer)])
}
