//! XFS_IOC_SWAPEXT of two files against faults on both, as xfs_fsr does it to defragment.

use super::block::{Cell, FileId};
use super::error::Error;
use super::extents::{Operation, swap};
use super::faulter::Habit;
use super::ledger::Family;
use super::run::Run;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "swapext",
    summary: "exchange the extents of two files whose pages threads load and store",
    needs: Needs::XfsOnly,
    run,
};

fn run(run: &mut Run) -> Result<(), Error> {
    let one = run.file(Family::Exchanged(FileId(2)), 0)?;
    let two = run.file(Family::Exchanged(FileId(1)), 0)?;
    run.start(Habit::default())?;
    while run.again() {
        // The kernel takes the two inodes' locks by address, the roles by argument.
        let (target, other) = if run.rng().one_in(2) {
            (&one, &two)
        } else {
            (&two, &one)
        };
        run.aim(target);
        run.aim(other);
        let exchange = |run: &mut Run| {
            let _changes = (
                target.ledger.change(target.whole()),
                other.ledger.change(other.whole()),
            );
            run.apply(Operation::SwapExtents, target.size(), || {
                match swap(&target.file, &other.file) {
                    // The temporary file must not have more extents than the target.
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                        swap(&other.file, &target.file)
                    }
                    done => done,
                }
            })
        };
        // A store changes mtime, which makes the kernel refuse: most exchanges are made with stores
        // held off.
        if run.rng().one_in(4) {
            exchange(run)?;
            continue;
        }
        let Some(held_target) = run.exclude(target, target.whole()) else {
            break;
        };
        let Some(held_other) = run.exclude(other, other.whole()) else {
            break;
        };
        let page = target.whole().nth(run.rng().below(target.whole().count()));
        let words = (
            run.peek(target, page, Cell::Head),
            run.peek(other, page, Cell::Head),
        );
        if exchange(run)?
            && let (Some(of_target), Some(of_other)) = words
        {
            run.look(target, page, Cell::Head, of_other)?;
            run.look(other, page, Cell::Head, of_target)?;
        }
        drop((held_target, held_other));
    }
    Ok(())
}
