//! XFS_IOC_EXCHANGE_RANGE between a file that is accessed without page cache and one that goes
//! through it, against faults on both: the kernel locks such a pair as if neither used DAX
//! (fs/xfs/xfs_inode.c:xfs_ilock2_io_mmap).

use super::error::Error;
use super::faulter::Habit;
use super::setup::{Cast, Setup, solo};
use super::swap_vs_fault::exchange_round;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "exchange-mixed",
    summary: "exchange ranges of a file with DAX and one in the page cache",
    needs: Needs::ExchangeMixed,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let pair = setup.mixed_pair(Habit::default())?;
    Ok(solo(move |run| exchange_round(run, &pair)))
}
