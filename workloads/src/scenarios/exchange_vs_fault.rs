//! XFS_IOC_EXCHANGE_RANGE of parts of two files against faults on both.

use super::error::Error;
use super::faulter::Habit;
use super::setup::{Cast, Setup, duo};
use super::swap_vs_fault::exchange_round;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "exchange-vs-fault",
    summary: "exchange ranges of two files (XFS_IOC_EXCHANGE_RANGE) that threads load and store",
    needs: Needs::Exchange,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let pair = setup.pair(Habit::default())?;
    Ok(duo(move |run| exchange_round(run, &pair)))
}
