//! FICLONERANGE out of files that are stored to, and written beside the page cache, meanwhile: XFS shares the locks of
//! what blocks are taken from with those who read it, and has those who write to it wait
//! (fs/xfs/xfs_reflink.c:xfs_reflink_remap_prep). What the clone has may not change afterwards.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::aligned::Aligned;
use super::block::Cell;
use super::error::Error;
use super::extents::{Operation, clone};
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::{Page, PageRange};
use super::run::Run;
use super::setup::{Act, Cast, Setup};
use super::target::Target;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "shared-source",
    summary: "share blocks of files into another while threads store to them and write them directly",
    needs: Needs::Reflink,
    lacks: Lacks::Nothing,
    cast,
};

/// Pages of a clone: many, so that it takes long.
const PAGES: (u32, u32) = (64, 512);
/// Pages of the clone that are looked at again later.
const SEEN: usize = 8;
/// Pages of a direct write.
const WRITTEN: u32 = 8;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let stored = setup.file_alone(Family::Fixed, 0, Habit::default())?;
    let copy = setup.bystander(Family::Fixed)?;
    // A DAX file is written under the exclusive lock.
    if !setup.meets(Needs::ReflinkPageCache) {
        return Ok(vec![shares(vec![stored], copy)]);
    }
    let written = setup.bystander(Family::Fixed)?;
    let direct = setup.direct(&written)?;
    let mut memory = Aligned::new(WRITTEN as usize * super::pages::PAGE as usize);
    let target = written.clone();
    let writes = move |run: &mut Run| {
        let range = run.aim(&target).choose(run.rng(), 1, WRITTEN);
        let Some(held) = run.exclude(&target, range) else {
            return Ok(());
        };
        run.overwrite(&target, &held, Operation::DirectWrite, |data, offset| {
            direct.write_all_at(memory.copy(data), offset)
        })
        .map(drop)
    };
    Ok(vec![shares(vec![stored, written], copy), Box::new(writes)])
}

/// Takes blocks from one of the sources, and looks whether those taken before are as they were.
fn shares(sources: Vec<Arc<Target>>, copy: Arc<Target>) -> Act {
    let mut seen: Vec<(Page, Cell, u64)> = Vec::new();
    Box::new(move |run| {
        for (page, cell, word) in seen.drain(..) {
            run.look(&copy, page, cell, word)?;
        }
        let source = &sources[run.rng().below(sources.len() as u32) as usize];
        let range = source.whole().choose(run.rng(), PAGES.0, PAGES.1);
        source
            .hot
            .publish(PageRange::new(range.first(), range.count().min(PAGES.0)));
        let shared = run.apply(Operation::CloneRange, &copy, range, || {
            clone(&source.file, &copy.file, range)
        })?;
        if shared {
            for _ in 0..SEEN {
                let page = range.nth(run.rng().below(range.count()));
                let cell = Cell::BOTH[run.rng().below(2) as usize];
                if let Some(word) = run.peek(&copy, page, cell) {
                    seen.push((page, cell, word));
                }
            }
        }
        Ok(())
    })
}
