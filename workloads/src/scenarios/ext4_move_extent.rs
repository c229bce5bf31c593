//! EXT4_IOC_MOVE_EXT, as e4defrag does it: the file gets another file's blocks and keeps its data.
//! No store may be lost.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::block::FileId;
use super::error::Error;
use super::extents::{Operation, preallocate};
use super::faulter::Habit;
use super::kernel::{self, busy_if};
use super::ledger::Family;
use super::setup::{Cast, Setup, duo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "ext4-move-extent",
    summary: "move the file's data to other blocks while threads load and store",
    needs: Needs::Ext4PageCache,
    lacks: Lacks::Windows,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file_alone(Family::Fixed, 0, Habit::default())?;
    // It gets the target's old blocks, with their data.
    let donor = setup.bystander(Family::Exchanged(FileId(target.id.0)))?;
    Ok(duo(move |run| {
        let range = run.aim(&target);
        // The other way round nothing moves, but the kernel locks both files before it says so.
        run.apply(Operation::MoveExtents, &donor, range, || {
            nothing_beyond(&donor.file, &target.file)
        })?;
        if run.rng().one_in(8) {
            run.apply(Operation::Preallocate, &donor, range, || {
                preallocate(&donor.file, range)
            })?;
        }
        // A dirty page has no blocks yet, or is refused as busy (fs/ext4/move_extent.c:
        // move_extent_per_page); one that threads store to is dirty again at once.
        let quiet = (run.rng().one_in(2)).then(|| run.exclude(&target, range));
        for file in [&target, &donor] {
            run.apply(Operation::DataSync, file, range, || file.file.sync_data())?;
        }
        run.apply(Operation::MoveExtents, &target, range, || {
            let first = u64::from(range.first().0);
            let blocks = u64::from(range.count());
            // Nothing but holes.
            kernel::move_extents(&target.file, &donor.file, first, blocks)
                .map_err(busy_if(&[libc::ENODATA]))
        })?;
        drop(quiet);
        if run.rng().one_in(8)
            && let Some(held) = run.exclude(&target, range)
        {
            run.rewrite(&target, &held)?;
        }
        Ok(())
    }))
}

/// A move from where a file has ended, which is refused.
fn nothing_beyond(file: &File, donor: &File) -> io::Result<()> {
    let end = file.metadata()?;
    let first = end.len().div_ceil(end.blksize());
    kernel::move_extents(file, donor, first, 1).map_err(busy_if(&[libc::EINVAL]))
}
