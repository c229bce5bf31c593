//! Truncation down and up again against faults. Pages are beyond EOF in between: the threads live
//! with SIGBUS there.

use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::ledger::Family;
use super::pages::{PAGE, Page, PageRange};
use super::run::{Expect, Run};
use super::{Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "truncate-vs-fault",
    summary: "truncate the file down and up again under pages that threads load and store",
    needs: Needs::PageCacheOk,
    run,
};

/// Only the file's last pages are cut off, so that an operation stays short.
const TAIL: u32 = 256;

fn run(run: &mut Run) -> Result<(), Error> {
    let target = run.file(Family::Fixed, 0)?;
    let last = target.whole().count();
    let within = target.tail(Page(last.saturating_sub(TAIL).max(1)));
    run.truncates();
    run.start(Habit::default())?;
    while run.again() {
        let first = run.aim_within(&target, within).first();
        let tail = target.tail(first);
        let checked = run.rng().one_in(2);
        // Within a page the kernel zeroes in place, which a racing store may tear: only with stores
        // held off.
        let inside = checked && run.rng().one_in(4);
        let size = first.offset() + if inside { PAGE / 2 } else { 0 };
        let held = if checked {
            let Some(held) = run.exclude(&target, tail) else {
                break;
            };
            Some(held)
        } else {
            None
        };
        let change = match &held {
            Some(held) => held.change_bytes(),
            None => target.ledger.change(tail),
        };
        let cut = run.apply(Operation::Truncate, tail.bytes(), || {
            target.file.set_len(size)
        })?;
        let mut restored = false;
        while !restored {
            // A file left short would make every later SIGBUS look like a violation.
            restored = run.apply(Operation::Truncate, 0, || {
                target.file.set_len(target.size())
            })?;
        }
        drop(change);
        let gone = PageRange::new(
            Page(first.0 + u32::from(inside)),
            tail.count() - u32::from(inside),
        );
        if let Some(held) = held
            && cut
            && gone.end() == tail.end()
        {
            held.discarded(gone);
            run.expect(&target, gone, Expect::Zero)?;
        }
    }
    Ok(())
}
