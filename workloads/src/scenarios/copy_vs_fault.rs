//! copy_file_range(2) into a mapped range against faults: a copy, or shared blocks where the
//! filesystem has them.

use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::kernel;
use super::run::Run;
use super::setup::{Cast, Setup, solo};
use super::sharing::Sharing;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "copy-vs-fault",
    summary: "copy_file_range into a mapped file while threads load and store",
    needs: Needs::Any,
    lacks: Lacks::WindowsUnlessShared,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let files = Sharing::new(setup, Habit::default())?;
    Ok(solo(move |run| {
        let (source, target) = (&files.source, &files.target);
        let range = run.aim(target);
        let Some(held) = run.exclude(target, range) else {
            return Ok(());
        };
        if run.rng().one_in(2) {
            run.warm(target, range);
        }
        let change = held.change_bytes();
        let done = run.apply(Operation::CopyRange, target, range, || {
            kernel::copy_range(&source.file, &target.file, range.offset(), range.bytes())
        })?;
        if !done {
            return Ok(());
        }
        files.taken_over(&change, range);
        drop(change);
        files.expect_taken_over(run, range, Run::look_through)
    }))
}
