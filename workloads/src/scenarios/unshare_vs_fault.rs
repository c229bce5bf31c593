//! Shared blocks made the file's own again (fallocate, unshare range) against faults. It changes no
//! data: a store that it loses is the kernel's fault.

use super::block::FileId;
use super::error::Error;
use super::extents::{Operation, unshare};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::Page;
use super::reflink_vs_fault::share;
use super::setup::{Cast, Setup, solo};
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "unshare-vs-fault",
    summary: "share blocks into a mapped file and unshare them while threads load and store",
    needs: Needs::Reflink,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let source = FileId(setup.next().0 + 1);
    let target = setup.file_alone(Family::Exchanged(source), 0, Habit::default())?;
    let source = setup.bystander(Family::Fixed)?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        let Some(held) = run.exclude(&target, range) else {
            return Ok(());
        };
        let change = held.change();
        if share(run, &source, &target, range)? {
            for page in range.pages() {
                change.filled(page, source.ledger.first(page));
            }
        }
        drop((change, held));
        run.apply(Operation::UnshareRange, &target, range, || {
            unshare(&target.file, range)
        })?;
        let page = Page(run.rng().below(source.whole().count()));
        run.look_through(&source, page, source.ledger.first(page))
    }))
}
