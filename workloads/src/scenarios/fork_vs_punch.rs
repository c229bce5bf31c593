//! Child processes that inherit the mapping and use it while the parent's other actor punches the
//! blocks below: every process's translations must go.

use std::sync::atomic::{AtomicU64, Ordering};

use super::block::Cell;
use super::children::fork_and_wait;
use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::ledger::Family;
use super::memory::Shared;
use super::run::Run;
use super::setup::{Cast, Setup};
use super::target::Target;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "fork-vs-punch",
    summary: "load and store through inherited mappings in child processes while holes are punched",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

/// Pages that a child touches.
const PAGES: u32 = 32;
/// What a child leaves where it met SIGBUS.
const BUS: u64 = u64::MAX;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    let slate = Shared::new(PAGES as usize, |_| AtomicU64::new(0))
        .map_err(|source| Error::call("mmap", source))?;
    let forked = target.clone();
    let fork = move |run: &mut Run| fork(run, &forked, &slate);
    let change = move |run: &mut Run| {
        let range = run.aim(&target);
        run.punch(&target, range)
    };
    Ok(vec![Box::new(change), Box::new(fork)])
}

/// Has a child load each page and store to every other; the parent judges what it saw.
fn fork(run: &mut Run, target: &Target, slate: &[AtomicU64]) -> Result<(), Error> {
    let range = target.hot.pick(run.rng()).choose(run.rng(), 1, PAGES);
    let mapping = run.mapping(target);
    // Inherited translations are copied only from private mappings, but the page tables are there.
    let _ = mapping.populate(range);
    let before: Vec<_> = range
        .pages()
        .map(|page| target.ledger.before(page, Cell::Tail))
        .collect();
    // One at a time: whoever holds off stores waits for what is in flight.
    let store = target.ledger.store(range.first());
    let word = store.as_ref().map(|store| store.word);
    let mut whole = false;
    run.apply(Operation::Fork, target, range, || {
        whole = fork_and_wait(|| {
            if let Some(word) = word {
                let _ = mapping.store(range.first(), Cell::Head, word);
            }
            for (n, page) in range.pages().enumerate() {
                let word = mapping.load(page, Cell::Tail).unwrap_or(BUS);
                slate[n].store(word, Ordering::Relaxed);
            }
        })?;
        Ok(())
    })?;
    drop(store);
    if !whole {
        // Killed, as by the kernel for lack of memory: it says nothing.
        return Ok(());
    }
    for (n, (page, before)) in range.pages().zip(before).enumerate() {
        let seen = slate[n].load(Ordering::Relaxed);
        if seen == BUS {
            continue;
        }
        if let Some(wrong) = target.ledger.judge(page, before, seen) {
            let why = "a child shows what its parent would";
            run.report(target, page, Cell::Tail.offset(), wrong, seen, why);
        }
    }
    Ok(())
}
