//! Clones and exchanges between two ranges of one file: the lock that keeps faults out is one, not two, and is taken
//! and released by branches of their own (fs/xfs/xfs_inode.c:xfs_ilock2_io_mmap).

use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::kernel::{clone_range, exchange_range};
use super::ledger::Family;
use super::pages::{Page, PageRange};
use super::run::Run;
use super::setup::{Cast, Setup, solo};
use super::target::Target;
use super::{Lacks, Needs, Scenario};

pub const CLONE: Scenario = Scenario {
    name: "clone-within-file",
    summary: "share blocks of a file with others of the same file while threads load and store",
    needs: Needs::Reflink,
    lacks: Lacks::Nothing,
    cast: |setup| cast(setup, share),
};

pub const EXCHANGE: Scenario = Scenario {
    name: "exchange-within-file",
    summary: "exchange ranges of one file (XFS_IOC_EXCHANGE_RANGE) that threads load and store",
    needs: Needs::Exchange,
    lacks: Lacks::Nothing,
    cast: |setup| cast(setup, exchange),
};

type Act = fn(&mut Run, &Target, PageRange, PageRange) -> Result<(), Error>;

fn cast(setup: &mut Setup, act: Act) -> Result<Cast, Error> {
    let target = setup.file(Family::Shifted, 0, Habit::default())?;
    Ok(solo(move |run| {
        let one = run.aim(&target);
        let pages = target.whole().count();
        let far = (one.first().0 + pages / 2) % pages;
        // Neither beyond EOF nor over the other.
        let count = one.count().min(pages - far).min(pages / 2);
        let two = PageRange::new(Page(far), count);
        let one = PageRange::new(one.first(), count);
        act(run, &target, one, two)
    }))
}

fn share(run: &mut Run, target: &Target, from: PageRange, to: PageRange) -> Result<(), Error> {
    let Some(_change) = target.ledger.change(to, &run.stop()) else {
        return Ok(());
    };
    run.apply(Operation::CloneRange, target, to, || {
        let file = &target.file;
        clone_range((file, from.offset()), (file, to.offset()), to.bytes())
    })
    .map(drop)
}

fn exchange(run: &mut Run, target: &Target, one: PageRange, two: PageRange) -> Result<(), Error> {
    let stop = run.stop();
    let (Some(_one), Some(_two)) = (
        target.ledger.change(one, &stop),
        target.ledger.change(two, &stop),
    ) else {
        return Ok(());
    };
    run.apply(Operation::ExchangeRange, target, two, || {
        let file = &target.file;
        exchange_range((file, one.offset()), (file, two.offset()), two.bytes())
    })
    .map(drop)
}
