//! EXT4_IOC_SWAP_BOOT twice in a row: the file's data goes to the boot loader inode and comes back.
//! In between its pages lie beyond EOF.

use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::kernel;
use super::setup::{Cast, Setup, solo};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "swap-boot",
    summary: "give the file's blocks to the boot loader inode and take them back under faults",
    needs: Needs::Ext4,
    lacks: Lacks::FaultsOfPages,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    // A run that is killed in between leaves its data to the boot loader.
    setup.refuse_vital(Operation::SwapBoot)?;
    let target = setup.file_past_cache(Habit::default())?;
    target.will_truncate();
    target.will_go_to_boot();
    Ok(solo(move |run| {
        let range = run.aim(&target);
        let whole = target.whole();
        // Stores to what is away would be lost with it.
        let Some(held) = run.exclude(&target, whole) else {
            return Ok(());
        };
        let page = range.nth(run.rng().below(range.count()));
        let was = run.peek(&target, page, super::block::Cell::Tail);
        let change = held.change_bytes();
        let away = run.apply(Operation::SwapBoot, &target, whole, || {
            kernel::swap_boot(&target.file)
        })?;
        if !away {
            return Ok(());
        }
        let foreign = target.file.metadata().is_ok_and(|data| data.len() > 0);
        run.insist(Operation::SwapBoot, &target, whole, || {
            kernel::swap_boot(&target.file)
        })?;
        drop(change);
        if foreign {
            let hint = "the boot loader inode of this filesystem is in use";
            return Err(run.unsupported(Operation::SwapBoot, Some(hint)));
        }
        if let Some(word) = was {
            run.look(&target, page, super::block::Cell::Tail, word)?;
        }
        Ok(())
    }))
}
