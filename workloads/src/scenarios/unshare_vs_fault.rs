//! Shared blocks made the file's own again (fallocate, unshare range) against faults. It changes no
//! data: a store that it loses is the kernel's fault.

use super::error::Error;
use super::extents::{Operation, unshare};
use super::faulter::Habit;
use super::setup::{Cast, Setup, solo};
use super::sharing::Sharing;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "unshare-vs-fault",
    summary: "share blocks into a mapped file and unshare them while threads load and store",
    needs: Needs::Reflink,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let files = Sharing::new(setup, Habit::default())?;
    Ok(solo(move |run| {
        let target = &files.target;
        let range = run.aim(target);
        let Some(held) = run.exclude(target, range) else {
            return Ok(());
        };
        files.share_held(run, &held)?;
        drop(held);
        run.apply(Operation::UnshareRange, target, range, || {
            unshare(&target.file, range)
        })?;
        files.expect_source(run)
    }))
}
