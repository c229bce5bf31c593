//! Resizing beyond RLIMIT_FSIZE: the error paths, where a lock may be left held. Every later fault
//! on the file then hangs.

use super::children::{LimitedChild, Resize};
use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::ledger::Family;
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "setattr-error",
    summary: "resize the file beyond RLIMIT_FSIZE (EFBIG) while threads fault and holes are punched",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    // Only there is the limit in force.
    let mut child = LimitedChild::spawn(&target.file, target.size())
        .map_err(|source| Error::call("fork", source))?;
    Ok(solo(move |run| {
        let (how, operation) = match run.rng().below(4) {
            0 => (Resize::Allocate, Operation::PreallocateError),
            _ => (Resize::Truncate, Operation::TruncateError),
        };
        let beyond = target.size() + target.whole().bytes();
        run.apply(operation, &target, target.whole(), || {
            match child.resize(how, beyond) {
                Err(error) if error.raw_os_error() == Some(libc::EFBIG) => Ok(()),
                Err(error) => Err(error),
                Ok(()) => Err(std::io::Error::other("RLIMIT_FSIZE was not enforced")),
            }
        })?;
        if run.rng().one_in(4) {
            let range = run.aim(&target);
            run.punch(&target, range)?;
        }
        Ok(())
    }))
}
