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
use super::pinned_vs_truncate::{Pinned, hold};
use super::run::Run;
use super::setup::{Cast, Setup, solo};
use super::target::Target;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "pinned-vs-lending",
    summary: "open a file whose pages are pinned, and read another than fits virtiofs's window",
    needs: Needs::Virtiofs,
    lacks: Lacks::Windows,
    cast: |setup| cast(setup, (PIECE / PAGE) as u32),
};

/// The same, of a file that has several pieces of the window, one of which it wants back from itself. In no suite: it
/// brings every kernel down so far (fs/fuse/dax.c:inode_inline_reclaim_one_dmap waits for the pin without its locks, and
/// returns a piece that a worker has lent meanwhile).
pub const OWN: Scenario = Scenario {
    name: "pinned-vs-reclaim",
    summary: "the same, of a file that wants its own pieces back; kernels so far do not survive it",
    cast: |setup| cast(setup, u32::MAX),
    ..SCENARIO
};

/// fs/fuse/dax.c: FUSE_DAX_SZ
const PIECE: u64 = 2 << 20;
/// Pieces of the other file: twice as many as the lab's window has. A larger window is not exhausted by it, and then
/// nothing is lent.
const PIECES: u64 = 15;
/// What it is full of.
const FILLER: u8 = 0xb5;

fn cast(setup: &mut Setup, most: u32) -> Result<Cast, Error> {
    // For the fault threads; what they map of a file has an entry again at once.
    setup.file(Family::Fixed, 0, Habit::default())?;
    let target = setup.small_bystander(most)?;
    let other = setup.nameless()?;
    let call = |source| Error::call("write", source);
    for piece in 0..PIECES {
        let block = [FILLER; 4096];
        other.write_all_at(&block, piece * PIECE).map_err(call)?;
    }
    let host = VirtiofsHost::open();
    let pipe = std::io::pipe().map_err(|source| Error::call("pipe", source))?;
    let (mut output, input) = pipe;
    Ok(solo(move |run| {
        hold(run, &target, Pinned::Clean, (&input, &mut output), |run| {
            disturb(run, &target, &other, host.as_ref())
        })
    }))
}

/// Has pages of the file dropped, and wants all of the window. The order is the worst one; often enough one of the two is
/// left out.
fn disturb(
    run: &mut Run,
    target: &Target,
    other: &File,
    host: Option<&VirtiofsHost>,
) -> Result<(), Error> {
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
    if run.rng().one_in(4) {
        return Ok(());
    }
    let mut byte = [0];
    for piece in 0..PIECES {
        other
            .read_exact_at(&mut byte, piece * PIECE)
            .map_err(|source| Error::call("pread", source))?;
    }
    Ok(())
}
