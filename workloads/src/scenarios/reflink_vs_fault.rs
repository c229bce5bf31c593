//! FICLONERANGE over a mapped range whose pages are in use, then write(2) or stores that must copy
//! the shared blocks, against faults.

use super::block::{Cell, FileId};
use super::error::Error;
use super::extents::{Operation, clone};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::{Page, PageRange};
use super::run::Run;
use super::setup::{Cast, Setup, solo};
use super::target::Target;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "reflink-vs-fault",
    summary: "share blocks into a mapped file and write over them while threads load and store",
    needs: Needs::Reflink,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let source = FileId(setup.next().0 + 1);
    let target = setup.file_alone(Family::Exchanged(source), 0, Habit::default())?;
    // No fault thread stores to it: its blocks must never change.
    let source = setup.bystander(Family::Fixed)?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        if run.rng().one_in(2) {
            if let Some(_change) = target.ledger.change(range, &run.stop()) {
                share(run, &source, &target, range)?;
            }
            return Ok(());
        }
        let Some(held) = run.exclude(&target, range) else {
            return Ok(());
        };
        // What the destination showed before must be gone from every mapping and from the cache.
        run.warm(&target, range);
        let change = held.change();
        let done = share(run, &source, &target, range)?;
        if done {
            for page in range.pages() {
                change.filled(page, source.ledger.first(page));
            }
        }
        drop(change);
        if done {
            for _ in 0..4 {
                let page = range.nth(run.rng().below(range.count()));
                run.look(&target, page, Cell::Head, source.ledger.first(page))?;
            }
        }
        if run.rng().one_in(2) {
            run.rewrite(&target, &held)?;
        }
        drop(held);
        let page = Page(run.rng().below(source.whole().count()));
        run.look(&source, page, Cell::Tail, source.ledger.first(page))
    }))
}

/// Shares the range of `source` with `target`.
pub fn share(
    run: &mut Run,
    source: &Target,
    target: &Target,
    range: PageRange,
) -> Result<bool, Error> {
    run.apply(Operation::CloneRange, target, range, || {
        clone(&source.file, &target.file, range)
    })
}
