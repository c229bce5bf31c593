//! chattr +j and -j of a file in use: ext4 flushes its pages, empties the journal and goes on with other
//! functions for them. A page that is dirtied between flush and switch is written by the wrong ones.

use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::kernel::{Attribute, set_attribute};
use super::ledger::Family;
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "journal-mode-vs-fault",
    summary: "chattr +j and -j of a file whose pages threads load and store",
    needs: Needs::Ext4PageCache,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    let mut on = false;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        on = !on;
        run.apply(Operation::JournalMode, &target, range, || {
            set_attribute(&target.file, Attribute::JournalData, on)
        })?;
        run.punch(&target, range)
    }))
}
