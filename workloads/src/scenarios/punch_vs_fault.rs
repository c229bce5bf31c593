//! Hole punch against faults, with holes refilled by preallocation and by write(2) so that there is
//! something to punch.

use super::error::Error;
use super::extents::{Operation, preallocate};
use super::faulter::Habit;
use super::kernel;
use super::ledger::Family;
use super::pages::{Page, PageRange};
use super::run::Run;
use super::setup::{Cast, Setup, solo};
use super::target::Target;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "punch-vs-fault",
    summary: "punch holes under pages that threads load and store",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

/// Mostly somewhere, else up to EOF.
pub(super) fn aim(run: &mut Run, target: &Target) -> PageRange {
    if run.rng().one_in(4) {
        let count = target.whole().count();
        let last = 1 + run.rng().below(count.min(64));
        return target.tail(Page(count - last));
    }
    run.aim(target)
}

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    Ok(solo(move |run| {
        let range = aim(run, &target);
        run.punch(&target, range)?;
        match run.rng().below(8) {
            0 => {
                // No data changes: what is not a hole stays, and a hole reads as before.
                run.apply(Operation::Preallocate, &target, range, || {
                    preallocate(&target.file, range)
                })?;
            }
            1 => {
                if let Some(held) = run.exclude(&target, range) {
                    run.rewrite(&target, &held)?;
                }
            }
            // Pages of the hole, and of what others punch meanwhile.
            2 => {
                run.apply(Operation::ReadAhead, &target, range, || {
                    kernel::read_ahead(&target.file, range.offset(), range.bytes())
                })?;
            }
            // The fault threads' stores refill it.
            _ => {}
        }
        Ok(())
    }))
}
