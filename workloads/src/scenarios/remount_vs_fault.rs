//! The filesystem is mounted again as it is, and an attempt is made to make it read-only, against
//! faults: nothing may be lost, and nothing may hang.

use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::ledger::Family;
use super::mounted::Mounted;
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "remount-vs-fault",
    summary: "remount the filesystem, and try to make it read-only, while threads load and store",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    setup.refuse_vital(Operation::Remount)?;
    let mounted = Mounted::of(&target.path).map_err(|error| Error::path(&target.path, error))?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        let read_only = run.rng().one_in(2);
        run.apply(Operation::Remount, &target, range, || {
            mounted.remount(read_only)
        })?;
        run.punch(&target, range)
    }))
}
