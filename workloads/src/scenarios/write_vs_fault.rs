//! write(2) against faults: over blocks, into holes that threads have mapped as zeroes, and beyond
//! EOF.

use std::io;
use std::os::unix::fs::FileExt;

use super::error::Error;
use super::extents::{Operation, preallocate, punch};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::{Page, PageRange};
use super::run::{Expect, Run};
use super::setup::{Cast, Setup, solo};
use super::target::Target;
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "write-vs-fault",
    summary: "write(2) over blocks, into holes and beyond EOF while threads load and store",
    needs: Needs::Any,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    target.will_truncate();
    Ok(solo(move |run| {
        let range = run.aim(&target);
        if run.rng().one_in(4) {
            return extend(run, &target, false, |data, offset| {
                target.file.write_all_at(data, offset)
            });
        }
        let Some(held) = run.exclude(&target, range) else {
            return Ok(());
        };
        if run.rng().one_in(2) {
            let change = held.change();
            let done = run.apply(Operation::PunchHole, &target, range, || {
                punch(&target.file, range)
            })?;
            if done {
                change.discarded(range);
            }
            drop(change);
            // Zeroes are mapped where the holes are; the write must take them away.
            run.warm(&target, range);
        }
        run.rewrite(&target, &held).map(drop)
    }))
}

/// Cuts the last pages off, allocates unwritten blocks there if `allocate`, and has `write` write the
/// first of them anew, so that EOF moves up with the data and leaves nothing behind it.
pub(super) fn extend(
    run: &mut Run,
    target: &Target,
    allocate: bool,
    write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> Result<(), Error> {
    let count = target.whole().count();
    let cut = 1 + run.rng().below(count.min(16));
    let tail = target.tail(Page(count - cut));
    let written = 1 + run.rng().below(cut);
    let _size = target.resizing();
    let Some(held) = run.exclude(target, tail) else {
        return Ok(());
    };
    let change = held.change_bytes();
    let done = run.apply(Operation::Truncate, target, tail, || {
        target.file.set_len(tail.offset())
    })?;
    if done {
        change.discarded(tail);
    }
    drop(change);
    let first = PageRange::new(tail.first(), written);
    let words: Vec<u64> = first.pages().map(|page| held.fresh(page)).collect();
    // The tail must not be looked at before the file has its size again.
    let change = held.change_bytes();
    if allocate && done {
        run.insist(Operation::Preallocate, target, tail, || {
            preallocate(&target.file, tail)
        })?;
    }
    let appended = run.write_words(target, first, &words, Operation::Append, write)?;
    run.insist(Operation::Truncate, target, tail, || {
        target.file.set_len(target.size())
    })?;
    for page in tail.pages().skip(written as usize).filter(|_| done) {
        change.filled(page, 0);
    }
    if appended {
        for (page, &word) in first.pages().zip(&words) {
            change.filled(page, word);
        }
    }
    drop(change);
    if done && appended {
        run.expect(target, first, Expect::Words(&words))?;
        if written < cut {
            let rest = PageRange::new(first.end(), cut - written);
            run.expect(target, rest, Expect::Zero)?;
        }
    }
    Ok(())
}
