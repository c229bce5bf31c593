//! XFS_IOC_EXCHANGE_RANGE of parts of two files against faults on both.

use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::kernel;
use super::setup::{Cast, Setup, solo};
use super::swap_vs_fault::{either_way, exchange};
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "exchange-vs-fault",
    summary: "exchange ranges of two files (XFS_IOC_EXCHANGE_RANGE) that threads load and store",
    needs: Needs::Exchange,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let pair = setup.pair(Habit::default())?;
    Ok(solo(move |run| {
        let (target, other) = either_way(run, &pair);
        let range = run.aim(target);
        other.hot.publish(range);
        exchange(run, target, other, range, |run| {
            run.apply(Operation::ExchangeRange, target, range, || {
                let (offset, bytes) = (range.offset(), range.bytes());
                kernel::exchange_range(&target.file, &other.file, offset, bytes)
            })
        })
    }))
}
