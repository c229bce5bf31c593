//! Pages cleaned, so that the next store must ask the filesystem (page_mkwrite, pfn_mkwrite), while
//! they are punched or zeroed.

use super::error::Error;
use super::extents::{Operation, clean, punch, zero};
use super::faulter::Habit;
use super::ledger::Family;
use super::run::Run;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "mkwrite-vs-punch",
    summary: "clean pages and punch or zero them while threads store to them again",
    needs: Needs::PageCacheOk,
    run,
};

fn run(run: &mut Run) -> Result<(), Error> {
    let target = run.file(Family::Fixed, 0)?;
    // Half of the time translations stay, so that a store finds its page mapped but cleaned; else a
    // load maps it read-only first.
    run.start(Habit {
        forget: 4,
        stores: 6,
    })?;
    while run.again() {
        let range = run.aim(&target);
        match run.rng().below(64) {
            0 => run.apply(Operation::DataSync, 0, || target.file.sync_data())?,
            1 => run.apply(Operation::MapSync, 0, || {
                target.mappings.first().map_or(Ok(()), |m| m.sync(range))
            })?,
            _ => run.apply(Operation::SyncRange, 0, || clean(&target.file, range))?,
        };
        // Now and then nothing but cleaning, or the pages would rarely be there to be made
        // writable.
        match run.rng().below(4) {
            0 => run.discard(&target, range, Operation::PunchHole, || {
                punch(&target.file, range)
            })?,
            1 => run.discard(&target, range, Operation::ZeroRange, || {
                zero(&target.file, range)
            })?,
            2 => {
                let part = range.choose(run.rng(), 1, 8);
                run.discard(&target, part, Operation::PunchHole, || {
                    punch(&target.file, part)
                })?;
            }
            _ => {}
        }
    }
    Ok(())
}
