//! FIDEDUPERANGE of equal blocks against faults. It changes no data: a store that it loses, or a
//! load that shows anything but what was there, is the kernel's fault.

use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::kernel;
use super::pages::PageRange;
use super::run::Run;
use super::setup::{Cast, Setup, duo};
use super::swap_vs_fault::either_way;
use super::target::Target;
use super::{Lacks, Needs, Scenario};
use std::os::unix::fs::FileExt;

pub const SCENARIO: Scenario = Scenario {
    name: "dedupe-vs-fault",
    summary: "make two files' blocks equal and share them while threads load and store",
    needs: Needs::Reflink,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let pair = setup.pair(Habit {
        stores: 1,
        ..Habit::default()
    })?;
    Ok(duo(move |run| {
        let (one, two) = either_way(run, &pair);
        let range = run.aim(one);
        two.hot.publish(range);
        let Some(held) = run.exclude_both((one, range), (two, range)) else {
            return Ok(());
        };
        if !run.rewrite(one, &held.0)? {
            return Ok(());
        }
        let words = run.written();
        let range = PageRange::new(range.first(), words.len() as u32);
        let written = run.put(two, &held.1, &words, Operation::Write, |data, offset| {
            two.file.write_all_at(data, offset)
        })?;
        // Half of the time threads may store meanwhile: then the kernel finds the blocks different,
        // or shares them and copies for the store.
        let held = (written && run.rng().one_in(2)).then_some(held);
        dedupe(run, one, two, range)?;
        if held.is_some() {
            run.expect(one, range, super::run::Expect::Words(&words))?;
            run.expect(two, range, super::run::Expect::Words(&words))?;
        }
        Ok(())
    }))
}

fn dedupe(run: &mut Run, one: &Target, two: &Target, range: PageRange) -> Result<(), Error> {
    run.apply(Operation::DedupeRange, two, range, || {
        kernel::dedupe_range(&one.file, &two.file, range.offset(), range.bytes()).map(drop)
    })
    .map(drop)
}
