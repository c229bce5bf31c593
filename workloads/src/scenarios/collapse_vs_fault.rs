//! Collapse range against faults: the pages behind the range move down. The file is extended again
//! after each.

use super::block::Cell;
use super::error::Error;
use super::extents::{Operation, collapse};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::{Page, PageRange};
use super::run::Run;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "collapse-vs-fault",
    summary: "take ranges out of the file under pages that threads load and store",
    needs: Needs::PageCacheOk,
    run,
};

/// As long as the longest range, so that no mapped page is ever beyond EOF.
const SLACK: u32 = 64;

fn run(run: &mut Run) -> Result<(), Error> {
    let target = run.file(Family::Shifted, SLACK)?;
    run.start(Habit::default())?;
    while run.again() {
        let range = run.aim(&target);
        let tail = target.tail(range.first());
        let take_out = |run: &mut Run| {
            let _change = target.ledger.change(tail);
            let done = run.apply(Operation::CollapseRange, tail.bytes(), || {
                collapse(&target.file, range)
            })?;
            while done
                && !run.apply(Operation::Truncate, 0, || {
                    target.file.set_len(target.size())
                })?
            {}
            Ok::<_, Error>(done)
        };
        // Pages moved from behind the mapped ones are not known.
        let known = tail.count() - range.count();
        if known == 0 || run.rng().one_in(2) {
            take_out(run)?;
        } else if let Some(held) = run.exclude(&target, tail) {
            let to = PageRange::new(range.first(), known).choose(run.rng(), 1, 4);
            let moved: [_; 4] = std::array::from_fn(|n| {
                let from = Page(to.nth(n as u32).0 + range.count());
                Cell::BOTH.map(|cell| run.peek(&target, from, cell))
            });
            if take_out(run)? {
                for (n, words) in moved.iter().enumerate() {
                    for (cell, word) in Cell::BOTH.into_iter().zip(words) {
                        if let Some(word) = *word {
                            run.look(&target, to.nth(n as u32), cell, word)?;
                        }
                    }
                }
            }
            drop(held);
        }
    }
    Ok(())
}
