//! Private mappings: what is stored there must never reach the file, and must stay though the file's
//! blocks below are punched, zeroed and written.

use super::block::{Cell, FileId, Generation, Stamp};
use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::ledger::{Family, Wrong};
use super::mapping::{Kind, Lost, Mapping};
use super::pages::{Page, PageRange};
use super::run::Run;
use super::setup::{Cast, Setup};
use super::target::Target;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "private-cow",
    summary: "store to private mappings while the blocks below are punched, zeroed and written",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    // Nobody may truncate it, which would take the private pages too.
    let target = setup.file_alone(Family::Fixed, 0, Habit::default())?;
    let private = Mapping::new(target.file.clone(), target.whole().count(), Kind::Private)
        .map_err(|source| Error::call("mmap", source))?;
    let key = setup.scene().key;
    let copied = target.clone();
    let mut count = 0;
    let copy = move |run: &mut Run| {
        let range = copied.hot.pick(run.rng());
        let range = range.choose(run.rng(), 1, 16);
        count += 1;
        let word = |page| {
            key.seal(Stamp {
                file: FileId::MAX,
                page,
                generation: Generation(count % key.last_generation().0),
            })
        };
        copy_pages(run, &copied, &private, range, word)
    };
    let change = move |run: &mut Run| {
        let range = run.aim(&target);
        match run.rng().below(4) {
            0 => run.zero(&target, range),
            1 => match run.exclude(&target, range) {
                Some(held) => run.rewrite(&target, &held).map(drop),
                None => Ok(()),
            },
            _ => run.punch(&target, range),
        }
    };
    Ok(vec![Box::new(change), Box::new(copy)])
}

/// Loads through the private mapping what the file holds, stores there, and looks after a while
/// whether it is still there.
fn copy_pages(
    run: &mut Run,
    target: &Target,
    private: &Mapping,
    range: PageRange,
    word: impl Fn(Page) -> u64,
) -> Result<(), Error> {
    let forgotten = private.forget(range);
    forgotten.map_err(|source| Error::call("madvise", source))?;
    let lost = |lost| match lost {
        Lost::Broken(source) => Error::call("mmap", source),
        Lost::Bus => target
            .blame()
            .err()
            .unwrap_or_else(|| Error::call("store(MAP_PRIVATE)", std::io::Error::other("SIGBUS"))),
    };
    for page in range.pages() {
        let before = target.ledger.before(page, Cell::Tail);
        let seen = private.load(page, Cell::Tail).map_err(lost)?;
        if let Some(wrong) = target.ledger.judge(page, before, seen) {
            let why = "a private mapping shows the file until it is stored to";
            run.report(target, page, Cell::Tail.offset(), wrong, seen, why);
        }
    }
    let mut stored = Ok(());
    run.apply(Operation::PrivateStore, target, range, || {
        for page in range.pages() {
            if let Err(lost) = private.store(page, Cell::Head, word(page)) {
                stored = Err(lost);
                break;
            }
        }
        Ok(())
    })?;
    stored.map_err(lost)?;
    for _ in 0..run.rng().below(32) {
        std::thread::yield_now();
    }
    for page in range.pages() {
        let seen = private.load(page, Cell::Head).map_err(lost)?;
        if seen != word(page) {
            let wrong = target
                .ledger
                .compare(page, word(page), seen)
                .unwrap_or(Wrong::Lost);
            let why = "a private copy must stay as it was stored";
            run.report(target, page, Cell::Head.offset(), wrong, seen, why);
        }
    }
    Ok(())
}
