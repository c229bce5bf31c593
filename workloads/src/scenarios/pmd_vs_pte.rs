//! Huge translations against changes of their parts: blocks allocated in aligned pieces of 2 MiB,
//! of which single pages are punched, zeroed and put back.

use super::error::Error;
use super::extents::{Operation, preallocate};
use super::faulter::Habit;
use super::kernel;
use super::ledger::Family;
use super::pages::{PAGE, Page, PageRange};
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "pmd-vs-pte",
    summary: "punch, zero and fill 2 MiB pieces and single pages of them under huge translations",
    needs: Needs::DaxBest,
    lacks: Lacks::Nothing,
    cast,
};

/// Bytes that one huge translation covers.
const HUGE: u32 = 2 << 20;
/// Pages of that.
const PIECE: u32 = HUGE / PAGE as u32;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let habit = Habit {
        forget: 6,
        stores: 4,
        fiddle: 1,
    };
    // XFS allocates aligned pieces when told to, ext4 does so by itself.
    let target = setup.file_of(Family::Fixed, habit, |file| {
        let _ = kernel::hint_extent_size(file, HUGE);
    })?;
    let pieces = target.whole().count() / PIECE;
    Ok(solo(move |run| {
        let piece = if pieces == 0 {
            target.whole()
        } else {
            PageRange::new(Page(run.rng().below(pieces) * PIECE), PIECE)
        };
        // A part in most rounds: the huge translation must be split or torn down as a whole.
        let range = match run.rng().below(4) {
            0 => piece,
            1 => piece.choose(run.rng(), 1, 1),
            _ => piece.choose(run.rng(), 1, 64),
        };
        target.hot.publish(piece.choose(run.rng(), 32, 64));
        if run.rng().one_in(4) {
            run.warm(&target, piece);
        }
        match run.rng().below(3) {
            0 => run.zero(&target, range)?,
            _ => run.punch(&target, range)?,
        }
        // One fault must then bring 2 MiB back.
        if range == piece || run.rng().one_in(2) {
            run.apply(Operation::Preallocate, &target, piece, || {
                preallocate(&target.file, piece)
            })?;
            // Where there is a page table, none of 2 MiB is tried (mm/memory.c:__handle_mm_fault).
            for mapping in &target.mappings {
                let renewed = mapping.renew(piece);
                renewed.map_err(|source| Error::Operation {
                    operation: "mmap",
                    source,
                })?;
            }
        }
        Ok(())
    }))
}
