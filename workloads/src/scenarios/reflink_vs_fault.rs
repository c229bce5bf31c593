//! FICLONERANGE over a mapped range, then write(2) or stores that must copy the shared blocks,
//! against faults.

use super::block::{Cell, FileId};
use super::error::Error;
use super::extents::{Operation, clone};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::Page;
use super::run::Run;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "reflink-vs-fault",
    summary: "share blocks into a mapped file and write over them while threads load and store",
    needs: Needs::DaxPreferred,
    run,
};

fn run(run: &mut Run) -> Result<(), Error> {
    let target = run.file(Family::Exchanged(FileId(2)), 0)?;
    run.start(Habit::default())?;
    // Made after the start, so that no fault thread stores to it: its blocks must never change.
    let source = run.file(Family::Fixed, 0)?;
    while run.again() {
        let range = run.aim(&target);
        let share = |run: &mut Run| {
            let _change = target.ledger.change(range);
            run.apply(Operation::CloneRange, range.bytes(), || {
                clone(&source.file, &target.file, range)
            })
            .map_err(|error| match error {
                Error::Unsupported { .. } => run.unsupported(
                    Operation::CloneRange,
                    Some("needs reflink, as mkfs.xfs -m reflink=1 gives"),
                ),
                other => other,
            })
        };
        if run.rng().one_in(2) {
            share(run)?;
            continue;
        }
        let Some(held) = run.exclude(&target, range) else {
            break;
        };
        if share(run)? {
            for _ in 0..4 {
                let page = range.nth(run.rng().below(range.count()));
                run.look(&target, page, Cell::Head, source.ledger.first(page))?;
            }
        }
        run.rewrite(&target, &held)?;
        drop(held);
        let page = Page(run.rng().below(source.whole().count()));
        run.look(&source, page, Cell::Tail, source.ledger.first(page))?;
    }
    Ok(())
}
