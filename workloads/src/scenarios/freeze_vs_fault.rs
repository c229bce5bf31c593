//! Freezing and thawing the filesystem against faults: stores wait until it is thawed, loads go on.
//! A child process freezes and thaws, and thaws also when the run is killed.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::children::Freezer;
use super::error::Error;
use super::extents::{Operation, punch};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::Page;
use super::setup::{Cast, Setup, solo};
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "freeze-vs-fault",
    summary: "freeze and thaw the filesystem while threads load and store",
    needs: Needs::Any,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    refuse_vital(setup)?;
    let mut freezer = Freezer::spawn(&target.file).map_err(|source| Error::call("fork", source))?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        let frozen = run.apply(Operation::Freeze, &target, range, || freezer.freeze())?;
        if frozen {
            // Reads do not wait: they map and show what is there.
            for _ in 0..8 {
                let page = Page(run.rng().below(target.whole().count()));
                let cell = super::block::Cell::Head;
                let before = target.ledger.before(page, cell);
                if let Some(word) = run.peek(&target, page, cell)
                    && let Some(wrong) = target.ledger.judge(page, before, word)
                {
                    let why = "a frozen filesystem shows what is there";
                    run.report(&target, page, cell.offset(), wrong, word, why);
                }
            }
            run.insist(Operation::Thaw, &target, range, || freezer.thaw())?;
        }
        if run.rng().one_in(2) {
            run.discard(&target, range, Operation::PunchHole, || {
                punch(&target.file, range)
            })?;
        }
        Ok(())
    }))
}

/// Freezing what the system itself runs on would stop it, the one who is to thaw it included.
fn refuse_vital(setup: &Setup) -> Result<(), Error> {
    let device = |path: &std::path::Path| fs::metadata(path).map(|data| data.dev());
    let here = device(setup.scene().sandbox.path())
        .map_err(|error| Error::path(setup.scene().sandbox.path(), error))?;
    let vital = ["/", "/tmp", "/var", "/usr", "/home", "."];
    if vital
        .iter()
        .any(|path| device(path.as_ref()).is_ok_and(|device| device == here))
    {
        let hint = "it would stop the system: needs a mount of its own";
        return Err(setup.unsupported(Operation::Freeze, Some(hint)));
    }
    Ok(())
}
