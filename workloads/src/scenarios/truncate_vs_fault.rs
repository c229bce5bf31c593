//! Truncation down and up again against faults. Pages are beyond EOF in between: the threads live
//! with SIGBUS there.

use std::fs::OpenOptions;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::block::Cell;
use super::error::Error;
use super::extents::{Operation, extend};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::{PAGE, Page, PageRange};
use super::run::{Expect, Run};
use super::setup::{Act, Cast, Setup};
use super::target::Target;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "truncate-vs-fault",
    summary: "truncate the file down and up again under pages that threads load and store",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

/// Only the file's last pages are cut off, so that an operation stays short.
const TAIL: u32 = 256;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    // Others, who have it too, do not expect to find nothing.
    let alone = !setup.scene().mixed.load(Ordering::Relaxed);
    Ok(vec![truncate(target, alone)])
}

/// Cuts tails of the file off and puts holes in their place.
pub fn truncate(target: Arc<Target>, alone: bool) -> Act {
    target.will_truncate();
    let last = target.whole().count();
    let within = target.tail(Page(last.saturating_sub(TAIL)));
    Box::new(move |run| {
        if alone && run.rng().one_in(16) {
            return empty(run, &target);
        }
        let first = run.aim_within(&target, within).first();
        let tail = target.tail(first);
        let _size = target.resizing();
        if run.rng().one_in(2) {
            if let Some(_change) = target.ledger.change(tail, &run.stop()) {
                cut(run, &target, tail, first.offset())?;
            }
            return Ok(());
        }
        // Within a page the kernel zeroes in place, which a racing store may tear: only with stores
        // held off.
        let inside = run.rng().one_in(4);
        let Some(held) = run.exclude(&target, tail) else {
            return Ok(());
        };
        let kept = inside.then(|| run.peek(&target, first, Cell::Head));
        let change = held.change_bytes();
        let size = first.offset() + if inside { PAGE / 2 } else { 0 };
        let done = cut_down(run, &target, tail, size)?;
        if done && inside {
            // Nothing that the page held shows behind EOF.
            run.look_mapped(&target, first, Cell::Tail, 0)?;
        }
        grow_back(run, &target, tail, done.then_some(size))?;
        if !done {
            return Ok(());
        }
        let gone = tail.count() - u32::from(inside);
        let gone = PageRange::new(Page(first.0 + u32::from(inside)), gone);
        change.discarded(gone);
        drop(change);
        if let Some(kept) = kept {
            run.look(&target, first, Cell::Tail, 0)?;
            if let Some(word) = kept {
                run.look(&target, first, Cell::Head, word)?;
            }
        }
        if gone.count() == 0 {
            return Ok(());
        }
        run.expect(&target, gone, Expect::Zero)
    })
}

/// All of it, by open(2), which on some filesystems is a truncation of its own (fs/fuse/file.c:fuse_open).
fn empty(run: &mut Run, target: &Target) -> Result<(), Error> {
    let all = target.whole();
    let _size = target.resizing();
    let Some(_change) = target.ledger.change(all, &run.stop()) else {
        return Ok(());
    };
    let done = run.apply(Operation::Truncate, target, all, || {
        let mut options = OpenOptions::new();
        options.write(true).truncate(true).open(&target.path)?;
        Ok(())
    })?;
    grow_back(run, target, all, done.then_some(0))
}

/// Down to `size` and up again at once: a file left short would make every later SIGBUS look like a
/// violation.
pub fn cut(run: &mut Run, target: &Target, tail: PageRange, size: u64) -> Result<bool, Error> {
    let done = cut_down(run, target, tail, size)?;
    grow_back(run, target, tail, done.then_some(size))?;
    Ok(done)
}

/// Down only: whoever does it has to see to it that the file gets its size again.
pub(super) fn cut_down(
    run: &mut Run,
    target: &Target,
    tail: PageRange,
    size: u64,
) -> Result<bool, Error> {
    run.apply(Operation::Truncate, target, tail, || {
        target.file.set_len(size)
    })
}

/// Up again from `size`, or from where it is if it was not cut.
fn grow_back(
    run: &mut Run,
    target: &Target,
    tail: PageRange,
    size: Option<u64>,
) -> Result<(), Error> {
    let how = match run.rng().below(8) {
        0 => Some(Operation::Preallocate),
        1 => Some(Operation::ZeroRange),
        _ => None,
    };
    let extended = match how.zip(size) {
        Some((how, size)) => run.apply(how, target, tail, || {
            extend(&target.file, how, (size, target.size() - size))
        }),
        None => Ok(false),
    };
    if !matches!(extended, Ok(true)) {
        run.insist(Operation::Truncate, target, tail, || {
            target.file.set_len(target.size())
        })?;
    }
    match extended {
        // A hole needs none; nor does every file have unwritten blocks (map_format).
        Ok(_) | Err(Error::NoSpace { .. } | Error::Unsupported { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
