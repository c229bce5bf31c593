//! write(2) over shared blocks, which must be copied, against loads through mappings: a load that
//! maps the old block after it was invalidated and before the new one is in place shows old data for
//! good.

use super::error::Error;
use super::faulter::Habit;
use super::pages::PageRange;
use super::setup::{Cast, Setup, solo};
use super::sharing::Sharing;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "cow-write-vs-fault",
    summary: "share blocks into a mapped file and write(2) over them while threads load",
    needs: Needs::Reflink,
    lacks: Lacks::FaultsOfPages,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let files = Sharing::new(setup, Habit::LOADS)?;
    Ok(solo(move |run| {
        let target = &files.target;
        let range = run.aim(target);
        let Some(held) = run.exclude(target, range) else {
            return Ok(());
        };
        files.share_held(run, &held)?;
        if run.rng().one_in(2) {
            run.warm(target, range);
        }
        if run.rng().one_in(2) {
            run.rewrite(target, &held)?;
            return Ok(());
        }
        drop(held);
        for page in range.pages() {
            let Some(held) = run.exclude(target, PageRange::new(page, 1)) else {
                return Ok(());
            };
            run.rewrite(target, &held)?;
        }
        Ok(())
    }))
}
