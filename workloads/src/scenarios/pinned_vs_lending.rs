//! Pages of virtiofs pinned in a pipe while the file is opened once more, and its piece of the window is wanted for
//! another file: it must not be lent before the pin is gone.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::kernel::VirtiofsHost;
use super::ledger::Family;
use super::pages::PAGE;
use super::pinned_vs_truncate::{Pinned, hold, pipe, wait};
use super::run::Run;
use super::setup::{Cast, Setup, solo};
use super::target::Target;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "pinned-vs-lending",
    summary: "open a file whose pages are pinned, and read another than fits virtiofs's window",
    needs: Needs::Virtiofs,
    lacks: Lacks::Windows,
    cast: lending,
};

/// The same, of a file that has several pieces of the window, one of which it wants back from itself. In no suite: it
/// brings every kernel down so far (fs/fuse/dax.c:inode_inline_reclaim_one_dmap waits for the pin without its locks, and
/// returns a piece that a worker has lent meanwhile).
pub const OWN: Scenario = Scenario {
    name: "pinned-vs-reclaim",
    summary: "the same, of a file that wants its own pieces back; kernels so far do not survive it",
    cast: reclaim,
    ..SCENARIO
};

/// fs/fuse/dax.c: FUSE_DAX_SZ
const PIECE: u64 = 2 << 20;
/// Pieces of the other file: twice as many as the lab's window has. A larger window is not exhausted by it, and then
/// nothing is lent.
const PIECES: u64 = 15;
/// What it is full of.
const FILLER: u8 = 0xb5;

fn lending(setup: &mut Setup) -> Result<Cast, Error> {
    // For the fault threads; what they map of a file has an entry again at once.
    setup.file(Family::Fixed, 0, Habit::default())?;
    let target = setup.small_bystander((PIECE / PAGE) as u32)?;
    let other = more_than_fits(setup)?;
    let host = VirtiofsHost::open();
    let (mut output, input) = pipe()?;
    Ok(solo(move |run| {
        hold(run, &target, Pinned::Clean, (&input, &mut output), |run| {
            drop_pages(run, &target, host.as_ref())?;
            want_all(&other)
        })
    }))
}

fn reclaim(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    let other = more_than_fits(setup)?;
    let (mut output, input) = pipe()?;
    let pinned = target.clone();
    let pin = move |run: &mut Run| hold(run, &pinned, Pinned::Clean, (&input, &mut output), wait);
    // Whoever wants a piece of a file takes one back from it, if it has any.
    let read = move |_: &mut Run| {
        want_all(&other)?;
        read_pieces(&target.file, target.size() / PIECE)
    };
    Ok(vec![Box::new(pin), Box::new(read)])
}

fn more_than_fits(setup: &Setup) -> Result<File, Error> {
    let other = setup.nameless()?;
    for piece in 0..PIECES {
        let block = [FILLER; 4096];
        other
            .write_all_at(&block, piece * PIECE)
            .map_err(|source| Error::call("write", source))?;
    }
    Ok(other)
}

/// Has pages of the file dropped, in one of two ways, or often enough not.
fn drop_pages(run: &mut Run, target: &Target, host: Option<&VirtiofsHost>) -> Result<(), Error> {
    let all = target.whole();
    match (run.rng().below(8), host) {
        (0 | 1, _) => {}
        // All of them, where another client has cut the file off and made it as long again.
        (2, Some(host)) => {
            if let Some(_change) = target.ledger.change(all, &run.stop()) {
                for size in [0, target.size()] {
                    run.apply(Operation::Stat, target, all, || {
                        host.resize(target.inode.number(), size)?;
                        std::fs::metadata(&target.path).map(drop)
                    })?;
                }
            }
        }
        // What is clean.
        _ => {
            run.apply(Operation::Open, target, all, || {
                File::open(&target.path).map(drop)
            })?;
        }
    }
    Ok(())
}

fn want_all(other: &File) -> Result<(), Error> {
    read_pieces(other, PIECES)
}

fn read_pieces(file: &File, pieces: u64) -> Result<(), Error> {
    let mut byte = [0];
    for piece in 0..pieces {
        file.read_exact_at(&mut byte, piece * PIECE)
            .map_err(|source| Error::call("pread", source))?;
    }
    Ok(())
}
