//! FICLONERANGE over a mapped range whose pages are in use, then write(2) or stores that must copy
//! the shared blocks, against faults.

use super::block::Cell;
use super::error::Error;
use super::faulter::Habit;
use super::setup::{Cast, Setup, solo};
use super::sharing::Sharing;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "reflink-vs-fault",
    summary: "share blocks into a mapped file and write over them while threads load and store",
    needs: Needs::Reflink,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let files = Sharing::new(setup, Habit::default())?;
    Ok(solo(move |run| {
        let target = &files.target;
        let range = run.aim(target);
        if run.rng().one_in(2) {
            if let Some(_change) = target.ledger.change(range, &run.stop()) {
                files.share(run, range)?;
            }
            return Ok(());
        }
        let Some(held) = run.exclude(target, range) else {
            return Ok(());
        };
        // What the destination showed before must be gone from every mapping and from the cache.
        run.warm(target, range);
        if files.share_held(run, &held)? {
            files.expect_taken_over(run, range, |run, target, page, word| {
                run.look(target, page, Cell::Head, word)
            })?;
        }
        if run.rng().one_in(2) {
            run.rewrite(target, &held)?;
        }
        drop(held);
        files.expect_source(run)
    }))
}
