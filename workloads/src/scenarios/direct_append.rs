//! Direct writes that move EOF, and direct writes of parts of unwritten blocks: size and blocks must
//! become visible in that order, and who zeroes the rest of a block must be alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::aligned::Aligned;
use super::error::Error;
use super::extents::{Operation, preallocate, punch};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::{PAGE, PageRange};
use super::run::{Expect, Run};
use super::setup::{Cast, Setup, solo};
use super::target::Target;
use super::write_vs_fault::extend;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "direct-append",
    summary: "direct writes beyond EOF and into parts of unwritten blocks while threads load",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

/// The smallest piece that O_DIRECT takes on every disk of 512-byte sectors.
const SECTOR: u64 = 512;
/// More than a write of this scenario.
const MEMORY: usize = 1 << 20;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file_past_cache(Habit::LOADS)?;
    target.will_truncate();
    let direct = setup.direct(&target)?;
    let synced = setup.direct_synced(&target)?;
    let loaded = setup.file(Family::Fixed, 0, Habit::default())?;
    let mut memory = Aligned::new(MEMORY);
    Ok(solo(move |run| {
        if run.rng().one_in(4) {
            let range = run.aim(&loaded);
            return run.punch(&loaded, range);
        }
        if run.rng().one_in(2) {
            return in_parts(run, &target, &direct, &mut memory);
        }
        let allocate = run.rng().one_in(2);
        let direct = match run.rng().one_in(3) {
            true => &synced,
            false => &direct,
        };
        extend(run, &target, allocate, |data, offset| {
            direct.write_all_at(memory.copy(data), offset)
        })
    }))
}

/// Writes a page of unwritten blocks in two pieces, of which each leaves a part of a block.
fn in_parts(
    run: &mut Run,
    target: &Target,
    direct: &File,
    memory: &mut Aligned,
) -> Result<(), Error> {
    let range = run.aim(target).choose(run.rng(), 1, 1);
    let cut = SECTOR * u64::from(1 + run.rng().below((PAGE / SECTOR - 1) as u32));
    let Some(held) = run.exclude(target, range) else {
        return Ok(());
    };
    let change = held.change_bytes();
    let emptied = run.apply(Operation::PunchHole, target, range, || {
        punch(&target.file, range)
    })?;
    if !emptied {
        return Ok(());
    }
    change.discarded(range);
    run.insist(Operation::Preallocate, target, range, || {
        preallocate(&target.file, range)
    })?;
    let words: Vec<u64> = range.pages().map(|page| held.fresh(page)).collect();
    let written = write_in_parts(run, target, (range, &words), cut, |data, offset| {
        direct.write_all_at(memory.copy(data), offset)
    })?;
    if !written {
        return Ok(());
    }
    for (page, &word) in range.pages().zip(&words) {
        change.filled(page, word);
    }
    drop(change);
    run.expect(target, range, Expect::Words(&words))
}

fn write_in_parts(
    run: &mut Run,
    target: &Target,
    (range, words): (PageRange, &[u64]),
    cut: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> Result<bool, Error> {
    run.write_words(
        target,
        range,
        words,
        Operation::DirectWrite,
        |data, offset| {
            let (first, second) = data.split_at(cut as usize);
            write(first, offset)?;
            write(second, offset + cut)
        },
    )
}
