//! Insert range against faults: the pages behind the range move up, and a hole appears. The file is
//! cut to its size after each.

use super::block::Cell;
use super::collapse_vs_fault::SLACK;
use super::error::Error;
use super::extents::{Operation, insert};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::{Page, PageRange};
use super::run::Run;
use super::setup::{Cast, Setup, solo};
use super::target::Target;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "insert-vs-fault",
    summary: "put holes into the file before pages that threads load and store",
    needs: Needs::Any,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    // Pages behind the mapped ones, so that an insertion at the last page still has something to
    // move.
    let target = setup.file(Family::Shifted, SLACK, Habit::default())?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        let tail = target.tail(range.first());
        // What moves beyond the mapped pages cannot be looked at.
        let known = tail.count() - range.count();
        let _size = target.resizing();
        if known == 0 || run.rng().one_in(2) {
            if let Some(_change) = target.ledger.change(tail, &run.stop()) {
                put_in(run, &target, range)?;
            }
            return Ok(());
        }
        let Some(held) = run.exclude(&target, tail) else {
            return Ok(());
        };
        let from = PageRange::new(range.first(), known).choose(run.rng(), 1, 4);
        let moved: [_; 4] = std::array::from_fn(|n| {
            Cell::BOTH.map(|cell| run.peek(&target, from.nth(n as u32), cell))
        });
        let change = held.change();
        let done = put_in(run, &target, range)?;
        drop(change);
        if done {
            for (n, words) in moved.iter().enumerate() {
                let to = Page(from.nth(n as u32).0 + range.count());
                for (cell, word) in Cell::BOTH.into_iter().zip(words) {
                    if let Some(word) = *word {
                        run.look(&target, to, cell, word)?;
                    }
                }
            }
            let hole = range.nth(run.rng().below(range.count()));
            run.look_through(&target, hole, 0)?;
        }
        Ok(())
    }))
}

fn put_in(run: &mut Run, target: &Target, range: PageRange) -> Result<bool, Error> {
    let done = run.apply(Operation::InsertRange, target, range, || {
        insert(&target.file, range)
    })?;
    if done {
        run.insist(Operation::Truncate, target, range, || {
            target.file.set_len(target.size())
        })?;
    }
    Ok(done)
}
