//! Asynchronous direct writes in flight while their blocks are punched, zeroed or cut off: the
//! change must wait for them, or a write that ends late converts or fills a block that is gone.

use super::block::Cell;
use super::error::Error;
use super::extents::{Operation, preallocate, punch, zero};
use super::faulter::Habit;
use super::flight::{Carrier, Writes};
use super::ledger::Family;
use super::pages::Page;
use super::run::Expect;
use super::setup::{Cast, Setup, solo};
use super::target::stamp;
use super::truncate_vs_fault::cut;
use super::{Lacks, Needs, Scenario};

pub const AIO: Scenario = Scenario {
    name: "aio-vs-fallocate",
    summary: "punch, zero or truncate under asynchronous direct writes in flight",
    needs: Needs::PageCache,
    lacks: Lacks::Faults,
    cast: |setup| cast(setup, Carrier::Aio),
};

pub const URING: Scenario = Scenario {
    name: "uring-vs-fallocate",
    summary: "the same with io_uring, half of the writes by the kernel's workers",
    needs: Needs::PageCache,
    lacks: Lacks::Faults,
    cast: |setup| cast(setup, Carrier::Uring),
};

/// Writes in flight.
const DEPTH: u32 = 16;

fn cast(setup: &mut Setup, carrier: Carrier) -> Result<Cast, Error> {
    let mut writes = setup.carried(carrier, |carrier| Writes::new(carrier, DEPTH as usize))?;
    let target = setup.file_alone(Family::Fixed, 0, Habit::LOADS)?;
    target.will_truncate();
    let direct = setup.direct(&target)?;
    let operation = match carrier {
        Carrier::Aio => Operation::AsyncWrite,
        Carrier::Uring => Operation::RingWrite,
    };
    Ok(solo(move |run| {
        let aimed = run.aim(&target).choose(run.rng(), 1, DEPTH);
        let last = run.rng().one_in(4);
        let range = if last {
            target.tail(Page(target.whole().count() - aimed.count()))
        } else {
            aimed
        };
        let Some(held) = run.exclude(&target, range) else {
            return Ok(());
        };
        // Unwritten blocks, so that a write is not over when the device has it: they are converted
        // later.
        let change = held.change_bytes();
        if !run.apply(Operation::PunchHole, &target, range, || {
            punch(&target.file, range)
        })? {
            return Ok(());
        }
        change.discarded(range);
        run.apply(Operation::Preallocate, &target, range, || {
            preallocate(&target.file, range)
        })?;
        let words: Vec<u64> = range.pages().map(|page| held.fresh(page)).collect();
        for (page, &word) in writes.pages().into_iter().flatten().zip(&words) {
            stamp(page, word);
        }
        let offsets: Vec<u64> = range.pages().map(|page| page.offset()).collect();
        let started = run.apply(operation, &target, range, || {
            match writes.start(&direct, &offsets)? {
                taken if taken == offsets.len() => Ok(()),
                _ => Err(std::io::Error::from_raw_os_error(libc::EAGAIN)),
            }
        })?;
        let part = range.choose(run.rng(), 1, range.count());
        let gone = match run.rng().below(if last { 3 } else { 2 }) {
            0 => run
                .apply(Operation::PunchHole, &target, part, || {
                    punch(&target.file, part)
                })?
                .then_some(part),
            1 => run
                .apply(Operation::ZeroRange, &target, part, || {
                    zero(&target.file, part)
                })?
                .then_some(part),
            _ => {
                let tail = target.tail(part.first());
                cut(run, &target, tail, tail.offset())?.then_some(tail)
            }
        };
        if !writes.finish()? || !started {
            return Ok(());
        }
        // The two overlapped: inside the change's range either may have come last, but one of them
        // did, for the whole block.
        let mut left = Vec::with_capacity(words.len());
        for (page, &word) in range.pages().zip(&words) {
            let inside = gone.is_some_and(|gone| page >= gone.first() && page < gone.end());
            let kept = !inside || run.peek(&target, page, Cell::Head) == Some(word);
            left.push(if kept { word } else { 0 });
            change.filled(page, if kept { word } else { 0 });
        }
        drop(change);
        run.expect(&target, range, Expect::Words(&left))?;
        let page = range.nth(run.rng().below(range.count()));
        if let Some(word) = target.ledger.body(page) {
            run.look_through(&target, page, word)?;
        }
        Ok(())
    }))
}
