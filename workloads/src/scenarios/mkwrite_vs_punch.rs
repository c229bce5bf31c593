//! Pages cleaned, so that the next store must ask the filesystem (page_mkwrite, pfn_mkwrite), while
//! they are punched or zeroed.

use super::error::Error;
use super::extents::{Operation, clean};
use super::faulter::Habit;
use super::ledger::Family;
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "mkwrite-vs-punch",
    summary: "clean pages and punch or zero them while threads store to them again",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let habit = Habit {
        forget: 4,
        stores: 6,
        ..Habit::default()
    };
    let target = setup.file(Family::Fixed, 0, habit)?;
    // Half of the time translations stay, so that a store finds its page mapped but cleaned; else a
    // load maps it read-only first.
    Ok(solo(move |run| {
        let range = run.aim(&target);
        match run.rng().below(64) {
            0 => run.apply(Operation::DataSync, &target, range, || {
                target.file.sync_data()
            })?,
            1 => run.apply(Operation::MapSync, &target, range, || {
                target.mappings.first().map_or(Ok(()), |m| m.sync(range))
            })?,
            _ => run.apply(Operation::SyncRange, &target, range, || {
                clean(&target.file, range)
            })?,
        };
        // Now and then nothing but cleaning, or the pages would rarely be there to be made
        // writable.
        match run.rng().below(4) {
            0 => run.punch(&target, range)?,
            1 => run.zero(&target, range)?,
            2 => {
                let part = range.choose(run.rng(), 1, 8);
                run.punch(&target, part)?;
            }
            _ => {}
        }
        Ok(())
    }))
}
