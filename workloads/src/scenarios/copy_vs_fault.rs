//! copy_file_range(2) into a mapped range against faults: a copy, or shared blocks where the
//! filesystem has them.

use super::block::FileId;
use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::kernel;
use super::ledger::Family;
use super::setup::{Cast, Setup, solo};
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "copy-vs-fault",
    summary: "copy_file_range into a mapped file while threads load and store",
    needs: Needs::Any,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let source = FileId(setup.next().0 + 1);
    let target = setup.file_alone(Family::Exchanged(source), 0, Habit::default())?;
    let source = setup.bystander(Family::Fixed)?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        let Some(held) = run.exclude(&target, range) else {
            return Ok(());
        };
        if run.rng().one_in(2) {
            run.warm(&target, range);
        }
        let change = held.change_bytes();
        let done = run.apply(Operation::CopyRange, &target, range, || {
            kernel::copy_range(&source.file, &target.file, range.offset(), range.bytes())
        })?;
        if !done {
            return Ok(());
        }
        for page in range.pages() {
            change.filled(page, source.ledger.first(page));
        }
        drop(change);
        for _ in 0..4 {
            let page = range.nth(run.rng().below(range.count()));
            run.look_through(&target, page, source.ledger.first(page))?;
        }
        Ok(())
    }))
}
