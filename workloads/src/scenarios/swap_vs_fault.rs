//! XFS_IOC_SWAPEXT of two files against faults on both, as xfs_fsr does it to defragment.

use std::sync::Arc;

use super::block::Cell;
use super::error::Error;
use super::extents::{Operation, swap};
use super::faulter::Habit;
use super::kernel::{self, busy_if};
use super::pages::PageRange;
use super::run::Run;
use super::setup::{Cast, Setup, duo};
use super::sharing::Twin;
use super::target::Target;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "swap-vs-fault",
    summary: "exchange the extents of two files whose pages threads load and store",
    needs: Needs::Xfs,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let pair = setup.pair(Habit::default())?;
    let twin = Twin::new(setup, &pair.0)?.map(Arc::new);
    Ok(duo(move |run| {
        let (target, other) = either_way(run, &pair);
        run.aim(target);
        let range = run.aim(other);
        if let Some(twin) = twin.as_ref().filter(|_| run.rng().one_in(4)) {
            twin.share(run, other, range)?;
        }
        exchange(run, target, other, target.whole(), |run| {
            run.apply(Operation::SwapExtents, target, target.whole(), || {
                match swap(&target.file, &other.file) {
                    // The temporary file must not have more extents than the target.
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                        // Between two of some formats no way leads (fs/xfs/xfs_bmap_util.c:
                        // xfs_swap_extents_check_format); the next changes of either may open one.
                        swap(&other.file, &target.file).map_err(busy_if(&[libc::EINVAL]))
                    }
                    done => done,
                }
            })
        })
    }))
}

/// The two in either order: the kernel takes the inodes' locks by address, the roles by argument.
pub fn either_way<'a>(
    run: &mut Run,
    (one, two): &'a (Arc<Target>, Arc<Target>),
) -> (&'a Target, &'a Target) {
    if run.rng().one_in(2) {
        (one, two)
    } else {
        (two, one)
    }
}

/// A range that faults come to, exchanged between two files by XFS_IOC_EXCHANGE_RANGE.
pub fn exchange_round(run: &mut Run, pair: &(Arc<Target>, Arc<Target>)) -> Result<(), Error> {
    let (target, other) = either_way(run, pair);
    let range = run.aim(target);
    other.hot.publish(range);
    exchange(run, target, other, range, |run| {
        run.apply(Operation::ExchangeRange, target, range, || {
            let (offset, bytes) = (range.offset(), range.bytes());
            kernel::exchange_range((&target.file, offset), (&other.file, offset), bytes)
        })
    })
}

/// Exchanges the data of a range of two files and looks at a page of each.
pub fn exchange(
    run: &mut Run,
    target: &Target,
    other: &Target,
    range: PageRange,
    mut call: impl FnMut(&mut Run) -> Result<bool, Error>,
) -> Result<(), Error> {
    // A store changes mtime, which may make the kernel refuse: most exchanges are made with stores
    // held off.
    if run.rng().one_in(4) {
        if let Some(_changes) = run.change_both((target, range), (other, range)) {
            call(run)?;
        }
        return Ok(());
    }
    let Some(held) = run.exclude_both((target, range), (other, range)) else {
        return Ok(());
    };
    let page = range.nth(run.rng().below(range.count()));
    let words = (
        run.peek(target, page, Cell::Head),
        run.peek(other, page, Cell::Head),
    );
    let changes = (held.0.change(), held.1.change());
    let done = call(run)?;
    drop(changes);
    if done && let (Some(of_target), Some(of_other)) = words {
        run.look(target, page, Cell::Head, of_other)?;
        run.look(other, page, Cell::Head, of_target)?;
    }
    Ok(())
}
