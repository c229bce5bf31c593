//! Stores behind EOF, in its page: they are nobody's data, and gone when the file grows over them, in whatever way
//! (fs/xfs/xfs_iops.c:xfs_setattr_size, fs/xfs/xfs_file.c:xfs_file_write_zero_eof,
//! fs/xfs/xfs_reflink.c:xfs_reflink_zero_posteof).

use std::os::unix::fs::FileExt;

use super::block::Cell;
use super::error::Error;
use super::extents::{Operation, extend};
use super::faulter::Habit;
use super::ledger::Exclusive;
use super::pages::{PAGE, Page, PageRange};
use super::run::{Expect, Run};
use super::setup::{Cast, Setup, solo};
use super::sharing::Sharing;
use super::truncate_vs_fault::cut_down;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "behind-eof",
    summary: "store behind EOF in its page, and grow the file over that, while threads load and store",
    needs: Needs::XfsTail,
    lacks: Lacks::Nothing,
    cast,
};

/// Only the file's last pages are cut off, so that an operation stays short.
const TAIL: u32 = 64;

/// How the file grows.
#[derive(Clone, Copy)]
enum Growth {
    /// By its size alone.
    Size,
    /// By blocks that are allocated for it.
    Blocks(Operation),
    /// By what is written beyond EOF.
    Data,
    /// By shared blocks beyond EOF.
    Clone,
}

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let files = Sharing::new(setup, Habit::default())?;
    files.target.will_truncate();
    Ok(solo(move |run| {
        let target = &files.target;
        let pages = target.whole().count();
        let within = target.tail(Page(pages.saturating_sub(TAIL)));
        // At least two: one that EOF is in, and one that it is to be in again.
        let first = run.aim_within(target, within).first();
        let first = Page(first.0.min(pages.saturating_sub(2)));
        let tail = target.tail(first);
        let last = Page(tail.end().0 - 1);
        let _size = target.resizing();
        let Some(held) = run.exclude(target, tail) else {
            return Ok(());
        };
        let kept = run.peek(target, first, Cell::Head);
        let change = held.change_bytes();
        let size = first.offset() + PAGE / 2;
        let done = cut_down(run, target, tail, size)?;
        if done {
            run.look_mapped(target, first, Cell::Tail, 0)?;
            // A page that cannot be had shows nothing later, either.
            let _ = run
                .mapping(target)
                .store(first, Cell::Tail, held.fresh(first));
        }
        let grown = match done {
            true => grow(run, &files, size, &held),
            false => Ok(None),
        };
        run.insist(Operation::Truncate, target, tail, || {
            target.file.set_len(target.size())
        })?;
        if !done {
            return Ok(());
        }
        let word = match grown {
            // Without shared extents it has grown by its size.
            Err(Error::NoSpace { .. } | Error::Unsupported { .. }) => None,
            grown => grown?,
        };
        let gone = PageRange::new(
            Page(first.0 + 1),
            tail.count() - 1 - u32::from(word.is_some()),
        );
        change.discarded(gone);
        if let Some(word) = word {
            change.filled(last, word);
        }
        drop(change);
        run.look(target, first, Cell::Tail, 0)?;
        if let Some(word) = kept {
            run.look(target, first, Cell::Head, word)?;
        }
        if let Some(word) = word {
            run.look(target, last, Cell::Tail, word)?;
        }
        match gone.count() {
            0 => Ok(()),
            _ => run.expect(target, gone, Expect::Zero),
        }
    }))
}

fn growth(run: &mut Run) -> Growth {
    match run.rng().below(5) {
        0 => Growth::Blocks(Operation::Preallocate),
        1 => Growth::Blocks(Operation::ZeroRange),
        2 => Growth::Data,
        3 => Growth::Clone,
        _ => Growth::Size,
    }
}

/// Has the file grow from `size` bytes on, or leaves it to others; what its last page holds then, if not zeroes.
fn grow(
    run: &mut Run,
    files: &Sharing,
    size: u64,
    held: &Exclusive<'_>,
) -> Result<Option<u64>, Error> {
    let target = &files.target;
    let tail = held.range();
    let last = PageRange::new(Page(tail.end().0 - 1), 1);
    match growth(run) {
        Growth::Blocks(how) => {
            run.apply(how, target, tail, || {
                extend(&target.file, how, (size, target.size() - size))
            })?;
            Ok(None)
        }
        Growth::Data => {
            let word = held.fresh(last.first());
            let written =
                run.write_words(target, last, &[word], Operation::Append, |data, offset| {
                    target.file.write_all_at(data, offset)
                })?;
            Ok(written.then_some(word))
        }
        Growth::Clone => {
            let shared = files.share(run, last)?;
            Ok(shared.then(|| files.word(last.first())))
        }
        Growth::Size => Ok(None),
    }
}
