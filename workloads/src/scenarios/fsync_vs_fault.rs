//! Write-back in every way against stores: each cleans and write-protects pages that threads dirty
//! again at once. It changes no data, so no store may be lost.

use super::error::Error;
use super::extents::{Operation, clean};
use super::faulter::Habit;
use super::kernel;
use super::ledger::Family;
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "fsync-vs-fault",
    summary: "fsync, fdatasync, msync, syncfs and drop caches while threads store",
    needs: Needs::Any,
    lacks: Lacks::Windows,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let habit = Habit {
        forget: 2,
        stores: 7,
        fiddle: 0,
    };
    let target = setup.file(Family::Fixed, 0, habit)?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        let (file, whole) = (&*target.file, target.whole());
        match run.rng().below(8) {
            0 => run.apply(Operation::FileSync, &target, whole, || file.sync_all()),
            1 => run.apply(Operation::DataSync, &target, whole, || file.sync_data()),
            2 => run.apply(Operation::SyncFilesystem, &target, whole, || {
                kernel::sync_filesystem(file)
            }),
            3 | 4 => {
                let mapping = run.mapping(&target);
                run.apply(Operation::MapSync, &target, range, || mapping.sync(range))
            }
            5 => run.apply(Operation::DropCaches, &target, range, || {
                kernel::drop_cache(file, range.offset(), range.bytes())
            }),
            _ => run.apply(Operation::SyncRange, &target, range, || clean(file, range)),
        }
        .map(drop)
    }))
}
