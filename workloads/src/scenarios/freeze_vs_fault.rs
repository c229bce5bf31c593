//! Freezing and thawing the filesystem against faults: stores wait until it is thawed, loads go on.
//! A child process freezes and thaws, and thaws also when the run is killed.

use super::children::Freezer;
use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::Page;
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "freeze-vs-fault",
    summary: "freeze and thaw the filesystem while threads load and store",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    // It would stop the system, the one who is to thaw it included.
    setup.refuse_vital(Operation::Freeze)?;
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
            run.punch(&target, range)?;
        }
        Ok(())
    }))
}
