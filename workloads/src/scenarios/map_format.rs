//! chattr -e and +e of a file in use: ext4 builds the other kind of map and puts it in the first one's place. In
//! between the file lives by indirect blocks, whose code is not that of extents.

use super::error::Error;
use super::extents::{Operation, punch};
use super::faulter::Habit;
use super::kernel::{Attribute, busy_if, set_attribute};
use super::ledger::Family;
use super::setup::{Act, Cast, Setup};
use super::truncate_vs_fault::truncate;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "map-format-vs-fault",
    summary: "chattr -e and +e of a file that is punched and truncated while threads load and store",
    needs: Needs::Ext4,
    lacks: Lacks::Nothing,
    cast,
};

/// Punches between one format and the other.
const PUNCHES: u32 = 2;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    // Filled as a file of indirect blocks.
    let target = setup.file_of(Family::Fixed, Habit::default(), |file| {
        let _ = set_attribute(file, Attribute::Extents, false);
    })?;
    let truncated = truncate(target.clone(), false);
    let mut extents = true;
    let formatted: Act = Box::new(move |run| {
        let whole = target.whole();
        // More than one extent, or one beyond the first blocks, cannot go back
        // (fs/ext4/migrate.c:ext4_ind_migrate): none at all then, and no store that brings one.
        let held = if extents {
            None
        } else {
            let Some(held) = run.exclude(&target, whole) else {
                return Ok(());
            };
            let change = held.change();
            if run.apply(Operation::PunchHole, &target, whole, || {
                punch(&target.file, whole)
            })? {
                change.discarded(whole);
            }
            Some(held)
        };
        let done = run.apply(Operation::MapFormat, &target, whole, || {
            set_attribute(&target.file, Attribute::Extents, extents)
                .map_err(busy_if(&[libc::EOPNOTSUPP]))
        })?;
        drop(held);
        if done {
            extents = !extents;
        }
        for _ in 0..PUNCHES {
            let range = run.aim(&target);
            run.punch(&target, range)?;
            if run.rng().one_in(2) {
                run.apply(Operation::DataSync, &target, range, || {
                    target.file.sync_data()
                })?;
            }
        }
        Ok(())
    });
    Ok(vec![formatted, truncated])
}
