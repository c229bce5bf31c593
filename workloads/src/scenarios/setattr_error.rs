//! Resizing beyond RLIMIT_FSIZE: the error paths, where a lock may be left held. Every later fault
//! on the file then hangs.

use super::error::Error;
use super::extents::{Operation, punch};
use super::faulter::Habit;
use super::kernel::{LimitedChild, Resize};
use super::ledger::Family;
use super::run::Run;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "setattr-error",
    summary: "resize the file beyond RLIMIT_FSIZE (EFBIG) while threads fault and holes are punched",
    needs: Needs::PageCacheOk,
    run,
};

fn run(run: &mut Run) -> Result<(), Error> {
    let target = run.file(Family::Fixed, 0)?;
    // Before any thread of ours exists, and only there is the limit in force.
    let mut child =
        LimitedChild::spawn(&target.file, target.size()).map_err(|source| Error::Operation {
            operation: "fork",
            source,
        })?;
    run.start(Habit::default())?;
    while run.again() {
        let (how, operation) = match run.rng().below(4) {
            0 => (Resize::Allocate, Operation::PreallocateError),
            _ => (Resize::Truncate, Operation::TruncateError),
        };
        let beyond = target.size() + target.whole().bytes();
        run.apply(operation, 0, || match child.resize(how, beyond) {
            Err(error) if error.raw_os_error() == Some(libc::EFBIG) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(std::io::Error::other("RLIMIT_FSIZE was not enforced")),
        })?;
        if run.rng().one_in(4) {
            let range = run.aim(&target);
            run.discard(&target, range, Operation::PunchHole, || {
                punch(&target.file, range)
            })?;
        }
    }
    Ok(())
}
