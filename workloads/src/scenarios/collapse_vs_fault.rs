//! Collapse range against faults: the pages behind the range move down. The file is extended again
//! after each.

use super::block::Cell;
use super::error::Error;
use super::extents::{Operation, collapse};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::{Page, PageRange};
use super::run::Run;
use super::setup::{Cast, Setup, solo};
use super::target::Target;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "collapse-vs-fault",
    summary: "take ranges out of the file under pages that threads load and store",
    needs: Needs::Any,
    cast,
};

/// As long as the longest range, so that no mapped page is ever beyond EOF.
pub const SLACK: u32 = 64;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Shifted, SLACK, Habit::default())?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        let tail = target.tail(range.first());
        // Pages moved from behind the mapped ones are not known.
        let known = tail.count() - range.count();
        let _size = target.resizing();
        if known == 0 || run.rng().one_in(2) {
            if let Some(_change) = target.ledger.change(tail, &run.stop()) {
                take_out(run, &target, range)?;
            }
            return Ok(());
        }
        let Some(held) = run.exclude(&target, tail) else {
            return Ok(());
        };
        let to = PageRange::new(range.first(), known).choose(run.rng(), 1, 4);
        let moved: [_; 4] = std::array::from_fn(|n| {
            let from = Page(to.nth(n as u32).0 + range.count());
            Cell::BOTH.map(|cell| run.peek(&target, from, cell))
        });
        let change = held.change();
        let done = take_out(run, &target, range)?;
        drop(change);
        if done {
            for (n, words) in moved.iter().enumerate() {
                for (cell, word) in Cell::BOTH.into_iter().zip(words) {
                    if let Some(word) = *word {
                        run.look(&target, to.nth(n as u32), cell, word)?;
                    }
                }
            }
        }
        Ok(())
    }))
}

fn take_out(run: &mut Run, target: &Target, range: PageRange) -> Result<bool, Error> {
    let done = run.apply(Operation::CollapseRange, target, range, || {
        collapse(&target.file, range)
    })?;
    if done {
        run.insist(Operation::Truncate, target, range, || {
            target.file.set_len(target.size())
        })?;
    }
    Ok(done)
}
