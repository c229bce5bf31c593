//! Collapse and insert: the pages behind the range move, and the file is brought back to its size.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::block::Cell;
use super::error::Error;
use super::extents::{Operation, collapse, insert};
use super::faulter::Habit;
use super::ledger::{Family, Wrong};
use super::pages::{Page, PageRange};
use super::run::Run;
use super::setup::{Cast, Setup, solo};
use super::sharing::Twin;
use super::target::Target;

/// Pages behind the mapped ones, as many as the longest range has: no mapped page is ever beyond EOF,
/// and an insertion at the last page still has something to move.
const SLACK: u32 = 64;

/// Which way the pages move.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    /// Towards the file's start: the range is taken out.
    Down,
    /// Away from it: a hole is put in.
    Up,
}

impl Shift {
    fn operation(self) -> Operation {
        match self {
            Self::Down => Operation::CollapseRange,
            Self::Up => Operation::InsertRange,
        }
    }

    fn call(self, file: &File, range: PageRange) -> io::Result<()> {
        match self {
            Self::Down => collapse(file, range),
            Self::Up => insert(file, range),
        }
    }

    /// From where to where a page moves; `near` is the lower of both places.
    fn way(self, near: Page, far: Page) -> (Page, Page) {
        match self {
            Self::Down => (far, near),
            Self::Up => (near, far),
        }
    }

    /// The cast of a scenario that does nothing else.
    pub fn cast(self, setup: &mut Setup) -> Result<Cast, Error> {
        let target = setup.file(Family::Shifted, SLACK, Habit::default())?;
        let twin = Twin::new(setup, &target)?;
        Ok(solo(move |run| {
            if let Some(twin) = twin.as_ref().filter(|_| run.rng().one_in(8)) {
                let range = run.aim(&target);
                twin.share(run, &target, range)?;
            }
            self.round(run, &target)
        }))
    }

    fn round(self, run: &mut Run, target: &Arc<Target>) -> Result<(), Error> {
        let range = run.aim(target);
        let tail = target.tail(range.first());
        // What comes from behind the mapped pages is not known, what moves there cannot be looked
        // at.
        let known = tail.count() - range.count();
        let _size = target.resizing();
        if known == 0 || run.rng().one_in(2) {
            if let Some(_change) = target.ledger.change(tail, &run.stop()) {
                self.apply(run, target, range)?;
            }
            return Ok(());
        }
        let Some(held) = run.exclude(target, tail) else {
            return Ok(());
        };
        let near = PageRange::new(range.first(), known).choose(run.rng(), 1, 4);
        let ways: [_; 4] = std::array::from_fn(|n| {
            let near = near.nth(n as u32);
            self.way(near, Page(near.0 + range.count()))
        });
        let moved = ways.map(|(from, _)| Cell::BOTH.map(|cell| run.peek(target, from, cell)));
        let change = held.change();
        let done = self.apply(run, target, range)?;
        drop(change);
        if !done {
            return Ok(());
        }
        for ((_, to), words) in ways.into_iter().zip(moved) {
            for (cell, word) in Cell::BOTH.into_iter().zip(words) {
                if let Some(word) = word {
                    run.look(target, to, cell, word)?;
                }
            }
        }
        if self == Self::Up {
            let hole = range.nth(run.rng().below(range.count()));
            run.look_through(target, hole, 0)?;
        }
        Ok(())
    }

    fn apply(self, run: &mut Run, target: &Target, range: PageRange) -> Result<bool, Error> {
        let outcome = run.apply(self.operation(), target, range, || {
            self.call(&target.file, range)
        });
        let done = match outcome {
            // What was put into the range after it was emptied is in the way of the pages that move
            // (fs/xfs/libxfs/xfs_bmap.c:xfs_bmap_collapse_extents), some of which did.
            Err(Error::Operation { operation, source })
                if source.raw_os_error() == Some(libc::EINVAL)
                    && run.stage().has_done(self.operation()) =>
            {
                let why = format!("{operation} of a range within the file says {source}");
                run.report(target, range.first(), 0, Wrong::Failed, 0, &why);
                false
            }
            outcome => outcome?,
        };
        if done {
            run.insist(Operation::Truncate, target, range, || {
                target.file.set_len(target.size())
            })?;
        }
        Ok(done)
    }
}
