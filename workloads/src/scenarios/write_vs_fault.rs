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
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "write-vs-fault",
    summary: "write(2) over blocks, into holes and beyond EOF while threads load and store",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
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

/// Cuts the last pages off, allocates unwritten blocks there if `allocate`, and has `write` write some
/// of them anew: the first, so that EOF moves up with the data, or some beyond, so that the kernel
/// zeroes what lies between.
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
    let gap = match run.rng().one_in(2) {
        true => run.rng().below(1 + cut - written),
        false => 0,
    };
    let piece = PageRange::new(tail.nth(gap), written);
    let zeroes = [(tail.first(), gap), (piece.end(), cut - gap - written)]
        .into_iter()
        .filter(|&(_, count)| done && count > 0)
        .map(|(first, count)| PageRange::new(first, count));
    let words: Vec<u64> = piece.pages().map(|page| held.fresh(page)).collect();
    // The tail must not be looked at before the file has its size again.
    let change = held.change_bytes();
    if allocate && done {
        run.insist(Operation::Preallocate, target, tail, || {
            preallocate(&target.file, tail)
        })?;
    }
    let appended = run.write_words(target, piece, &words, Operation::Append, write)?;
    run.insist(Operation::Truncate, target, tail, || {
        target.file.set_len(target.size())
    })?;
    for page in zeroes.clone().flat_map(PageRange::pages) {
        change.filled(page, 0);
    }
    if appended {
        for (page, &word) in piece.pages().zip(&words) {
            change.filled(page, word);
        }
    }
    drop(change);
    if done && appended {
        run.expect(target, piece, Expect::Words(&words))?;
        for range in zeroes {
            run.expect(target, range, Expect::Zero)?;
        }
    }
    Ok(())
}
