//! New blocks must be zero where nothing was stored: the free space is filled with a pattern and
//! freed again, and single words are stored into holes.

use std::fs::File;
use std::io::Write;

use super::block::{Cell, FileId, Generation, Stamp};
use super::error::Error;
use super::extents::{Operation, preallocate, punch};
use super::faulter::Habit;
use super::kernel;
use super::ledger::{Family, Wrong};
use super::mapping::Lost;
use super::pages::{PAGE, Page};
use super::run::Run;
use super::setup::{Cast, Setup, solo};
use super::target::{Target, stamp};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "hole-fault",
    summary: "fill free blocks with a pattern, then store one word into each page of a hole",
    needs: Needs::DaxBest,
    lacks: Lacks::Nothing,
    cast,
};

/// The most of the free space that gets the pattern, in bytes.
const MOST: u64 = 256 << 20;
/// Bytes written at once.
const CHUNK: usize = 1 << 20;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    soil(setup)?;
    Ok(solo(move |run| {
        let range = run.aim(&target);
        let Some(held) = run.exclude(&target, range) else {
            return Ok(());
        };
        let change = held.change();
        let done = run.apply(Operation::PunchHole, &target, range, || {
            punch(&target.file, range)
        })?;
        if !done {
            return Ok(());
        }
        change.discarded(range);
        drop(change);
        if run.rng().one_in(4) {
            run.apply(Operation::Preallocate, &target, range, || {
                preallocate(&target.file, range)
            })?;
        }
        if run.rng().one_in(2) {
            run.warm(&target, range);
        }
        if run.rng().one_in(64) {
            // ext4 gives blocks back when their transaction commits.
            run.apply(Operation::SyncFilesystem, &target, range, || {
                kernel::sync_filesystem(&target.file)
            })?;
        }
        let cell = Cell::BOTH[run.rng().below(2) as usize];
        for page in range.pages() {
            let word = held.fresh(page);
            store(run, &target, page, cell, word)?;
        }
        for page in range.pages() {
            alone(run, &target, page, cell)?;
        }
        // Old data must not come back from the medium either.
        let part = range.choose(run.rng(), 1, 4);
        for page in part.pages() {
            run.look(&target, page, other(cell), 0)?;
        }
        Ok(())
    }))
}

fn other(cell: Cell) -> Cell {
    match cell {
        Cell::Head => Cell::Tail,
        Cell::Tail => Cell::Head,
    }
}

fn store(run: &Run, target: &Target, page: Page, cell: Cell, word: u64) -> Result<(), Error> {
    match run.mapping(target).store(page, cell, word) {
        Ok(()) => Ok(()),
        Err(Lost::Broken(source)) => Err(Error::call("mmap", source)),
        Err(Lost::Bus) => {
            target.blame()?;
            let why = "the page lies within the file";
            run.report(target, page, cell.offset(), Wrong::Bus, 0, why);
            Ok(())
        }
    }
}

/// Looks whether all but the cell is zero.
fn alone(run: &Run, target: &Target, page: Page, cell: Cell) -> Result<(), Error> {
    for offset in (0..PAGE).step_by(8).filter(|&at| at != cell.offset()) {
        let Ok(word) = run.mapping(target).load_at(page, offset) else {
            return Ok(());
        };
        if let Some(wrong) = target.ledger.compare(page, 0, word) {
            let why = "a new block must be zero but for what was stored";
            run.report(target, page, offset, wrong, word, why);
            return Ok(());
        }
    }
    Ok(())
}

/// Fills free space with blocks of no file and gives it back.
fn soil(setup: &Setup) -> Result<(), Error> {
    let scene = setup.scene();
    let (file, path) = scene.sandbox.file(u8::MAX)?;
    let free = nix::sys::statvfs::fstatvfs(&file)
        .map(|fs| fs.blocks_available() * fs.fragment_size())
        .map_err(|errno| Error::path(&path, errno.into()))?;
    let word = scene.key.seal(Stamp {
        file: FileId::MAX,
        page: Page(0),
        generation: Generation(1),
    });
    let mut chunk = vec![0; CHUNK];
    stamp(&mut chunk, word);
    let written = spread(&file, &chunk, MOST.min(free / 8 * 7));
    let removed = std::fs::remove_file(&path);
    written.map_err(|error| Error::path(&path, error))?;
    removed.map_err(|error| Error::path(&path, error))?;
    drop(file);
    kernel::sync_filesystem(&scene.sandbox.probe()?).map_err(|source| Error::call("syncfs", source))
}

fn spread(mut file: &File, chunk: &[u8], bytes: u64) -> std::io::Result<()> {
    for _ in 0..bytes / chunk.len() as u64 {
        match file.write_all(chunk) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => break,
            other => other?,
        }
    }
    // On the medium, not only in the page cache.
    file.sync_data()
}
