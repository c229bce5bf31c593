//! XFS gives up blocks that it keeps for copies of shared ones (XFS_IOC_FREE_EOFBLOCKS), while threads load and
//! store: a page that is dirtied when its copy is already gone is written into a block that another file owns.

use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::kernel::{sync_filesystem, trim_blocks};
use super::setup::{Cast, Setup, solo};
use super::sharing::Sharing;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "trim-vs-fault",
    summary: "share blocks into a mapped file and have XFS give up copies while threads load and store",
    needs: Needs::Reflink,
    lacks: Lacks::Nothing,
    cast,
};

/// How often copies are given up while the same blocks are shared.
const TRIMS: u32 = 4;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let files = Sharing::new(setup, Habit::default())?;
    Ok(solo(move |run| {
        let target = &files.target;
        let whole = target.whole();
        let range = run.aim(target);
        let Some(held) = run.exclude(target, range) else {
            return Ok(());
        };
        files.share_held(run, &held)?;
        drop(held);
        for _ in 0..TRIMS {
            // It passes over files that have dirty pages, or that fsync(2) has left on the list of
            // those: nobody stores until they are clean, and all do while it runs.
            let Some(held) = run.exclude(target, whole) else {
                return Ok(());
            };
            run.apply(Operation::SyncFilesystem, target, whole, || {
                sync_filesystem(&target.file)
            })?;
            drop(held);
            run.apply(Operation::TrimBlocks, target, whole, || {
                trim_blocks(&target.file)
            })?;
        }
        files.expect_source(run)
    }))
}
