//! Insert range against faults: the pages behind the range move up, and a hole appears. The file is
//! cut to its size after each.

use super::block::Cell;
use super::error::Error;
use super::extents::{Operation, insert};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::{Page, PageRange};
use super::run::Run;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "insert-vs-fault",
    summary: "put holes into the file before pages that threads load and store",
    needs: Needs::PageCacheOk,
    run,
};

/// Pages behind the mapped ones, so that an insertion at the last page still has something to move.
const SLACK: u32 = 64;

fn run(run: &mut Run) -> Result<(), Error> {
    let target = run.file(Family::Shifted, SLACK)?;
    run.start(Habit::default())?;
    while run.again() {
        let range = run.aim(&target);
        let tail = target.tail(range.first());
        let put_in = |run: &mut Run| {
            let _change = target.ledger.change(tail);
            let done = run.apply(Operation::InsertRange, tail.bytes(), || {
                insert(&target.file, range)
            })?;
            while done
                && !run.apply(Operation::Truncate, 0, || {
                    target.file.set_len(target.size())
                })?
            {}
            Ok::<_, Error>(done)
        };
        // What moves beyond the mapped pages cannot be looked at.
        let known = tail.count() - range.count();
        if known == 0 || run.rng().one_in(2) {
            put_in(run)?;
        } else if let Some(held) = run.exclude(&target, tail) {
            let from = PageRange::new(range.first(), known).choose(run.rng(), 1, 4);
            let moved: [_; 4] = std::array::from_fn(|n| {
                Cell::BOTH.map(|cell| run.peek(&target, from.nth(n as u32), cell))
            });
            if put_in(run)? {
                for (n, words) in moved.iter().enumerate() {
                    for (cell, word) in Cell::BOTH.into_iter().zip(words) {
                        if let Some(word) = *word {
                            run.look(
                                &target,
                                Page(from.nth(n as u32).0 + range.count()),
                                cell,
                                word,
                            )?;
                        }
                    }
                }
                let hole = range.nth(run.rng().below(range.count()));
                run.look(&target, hole, Cell::Head, 0)?;
            }
            drop(held);
        }
    }
    Ok(())
}
