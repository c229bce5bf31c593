//! A file that is removed while it is mapped: its blocks must stay its own until the last mapping is
//! gone, and then go to others without a translation left.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::block::{Cell, FileId, Generation, Stamp};
use super::error::Error;
use super::extents::{Operation, punch};
use super::faulter::Habit;
use super::ledger::{Family, Wrong};
use super::mapping::{Kind, Mapping};
use super::pages::{PAGE, Page, PageRange};
use super::run::Run;
use super::setup::{Cast, Setup};
use super::target::{Target, stamp};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "unlink-mapped",
    summary: "remove files that are mapped, use them on, and let their blocks go to others",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

/// Pages of a short-lived file.
const PAGES: u32 = 32;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    let beside = target.clone();
    let mut count = 0;
    let remove = move |run: &mut Run| {
        count = (count + 1) % run.scene().key.last_generation().0;
        live_and_die(run, &beside, Generation(count))
    };
    // Takes and gives back blocks.
    let change = move |run: &mut Run| {
        let range = run.aim(&target);
        run.punch(&target, range)
    };
    Ok(vec![Box::new(change), Box::new(remove)])
}

fn live_and_die(run: &mut Run, beside: &Target, generation: Generation) -> Result<(), Error> {
    let key = run.scene().key;
    let word = |page| {
        key.seal(Stamp {
            file: FileId::MAX,
            page,
            generation,
        })
    };
    let whole = PageRange::new(Page(0), PAGES);
    let (file, path) = run.scene().sandbox.file(u8::MAX - 1)?;
    let file = Arc::new(file);
    let mapping = Mapping::new(file.clone(), PAGES, Kind::Shared)
        .map_err(|source| Error::call("mmap", source))?;
    let mut image = vec![0; whole.bytes() as usize];
    for (block, page) in image.chunks_mut(PAGE as usize).zip(whole.pages()) {
        stamp(block, word(page));
    }
    file.write_all_at(&image, 0)
        .map_err(|error| Error::path(&path, error))?;
    run.apply(Operation::Unlink, beside, whole, || {
        std::fs::remove_file(&path)
    })?;
    let hole = whole.choose(run.rng(), 1, 8);
    let punched = run.rng().one_in(2);
    if punched {
        run.apply(Operation::PunchHole, beside, hole, || punch(&file, hole))?;
    }
    drop(file);
    for _ in 0..run.rng().below(32) {
        std::thread::yield_now();
    }
    for page in whole.pages() {
        let gone = punched && page >= hole.first() && page < hole.end();
        let expected = if gone { 0 } else { word(page) };
        let offset = 8 * u64::from(run.rng().below((PAGE / 8) as u32));
        match mapping.load_at(page, offset) {
            Ok(seen) if seen == expected => {}
            Ok(seen) => {
                let wrong = beside.ledger.compare(page, expected, seen);
                let why = "a file that was removed keeps its blocks while it is mapped";
                let wrong = wrong.unwrap_or(Wrong::Foreign);
                run.report(beside, page, offset, wrong, seen, why);
            }
            Err(_) => {
                beside.blame()?;
                let why = "the page lies within the removed file";
                run.report(beside, page, Cell::Head.offset(), Wrong::Bus, 0, why);
            }
        }
    }
    Ok(())
}
