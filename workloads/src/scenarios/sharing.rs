//! A file under test whose blocks come from another: shared with it, or copied.

use std::sync::Arc;

use super::Needs;
use super::block::{Cell, FileId};
use super::error::Error;
use super::extents::{Operation, clone};
use super::faulter::Habit;
use super::ledger::{Exclusive, Family, OwnChange};
use super::pages::{Page, PageRange};
use super::run::Run;
use super::setup::Setup;
use super::target::Target;

/// The two files.
pub struct Sharing {
    /// What is under test. Nobody else changes it.
    pub target: Arc<Target>,
    /// Where its blocks come from. Nothing is ever stored to it, so it always is as it was made.
    pub source: Arc<Target>,
}

impl Sharing {
    /// Two new files; fault threads touch the target only.
    pub fn new(setup: &mut Setup, habit: Habit) -> Result<Self, Error> {
        let source = FileId(setup.next().0 + 1);
        let target = setup.file_alone(Family::Exchanged(source), 0, habit)?;
        let source = setup.bystander(Family::Fixed)?;
        Ok(Self { target, source })
    }

    /// The word that a page of the source is made of, and of the target when it was taken over.
    pub fn word(&self, page: Page) -> u64 {
        self.source.ledger.first(page)
    }

    /// Shares a range of the source, in a change that the caller has marked.
    pub fn share(&self, run: &mut Run, range: PageRange) -> Result<bool, Error> {
        run.apply(Operation::CloneRange, &self.target, range, || {
            clone(&self.source.file, &self.target.file, range)
        })
    }

    /// Shares the pages held.
    pub fn share_held(&self, run: &mut Run, held: &Exclusive<'_>) -> Result<bool, Error> {
        let change = held.change();
        let done = self.share(run, held.range())?;
        if done {
            self.taken_over(&change, held.range());
        }
        Ok(done)
    }

    /// The change has returned, and the range is as in the source.
    pub fn taken_over(&self, change: &OwnChange<'_>, range: PageRange) {
        for page in range.pages() {
            change.filled(page, self.word(page));
        }
    }

    /// Looks at four pages of the range, which must be as in the source.
    pub fn expect_taken_over(
        &self,
        run: &mut Run,
        range: PageRange,
        mut look: impl FnMut(&mut Run, &Target, Page, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for _ in 0..4 {
            let page = range.nth(run.rng().below(range.count()));
            look(run, &self.target, page, self.word(page))?;
        }
        Ok(())
    }

    /// Looks at a page of the source.
    pub fn expect_source(&self, run: &mut Run) -> Result<(), Error> {
        let page = Page(run.rng().below(self.source.whole().count()));
        run.look(&self.source, page, Cell::Tail, self.word(page))
    }
}

/// A file that blocks are shared with, so that stores to them wait as copies until they are written back.
pub struct Twin(Arc<Target>);

impl Twin {
    /// One of `target`; none with DAX, where nothing waits, or without reflink.
    pub fn new(setup: &mut Setup, target: &Target) -> Result<Option<Self>, Error> {
        if !setup.meets(Needs::ReflinkPageCache) {
            return Ok(None);
        }
        let twin = setup.bystander(Family::Fixed)?;
        let page = PageRange::new(Page(0), 1);
        let shares = clone(&target.file, &twin.file, page).is_ok();
        Ok(shares.then_some(Self(twin)))
    }

    /// Shares the range of a file with this one, and with none that it was shared with before.
    pub fn share(&self, run: &mut Run, target: &Target, range: PageRange) -> Result<(), Error> {
        run.apply(Operation::CloneRange, &self.0, range, || {
            clone(&target.file, &self.0.file, range)
        })
        .map(drop)
    }
}
