//! Pages pinned in a pipe while their blocks are cut off, punched or zeroed. On DAX the pin is on
//! the block itself: a change must wait until it is gone, or the pipe delivers another file's data.

use std::io::{PipeReader, PipeWriter, Read};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::block::{Cell, Content};
use super::error::Error;
use super::extents::{Operation, preallocate};
use super::faulter::Habit;
use super::kernel::{self, busy_if};
use super::ledger::{Family, Wrong};
use super::pages::PAGE;
use super::run::Run;
use super::setup::{Cast, Setup};
use super::signals::interrupt_every;
use super::stage::{Sight, Wronged};
use super::target::Target;
use super::truncate_vs_fault::cut;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "pinned-vs-truncate",
    summary: "truncate, punch or zero blocks whose pages a pipe holds (vmsplice)",
    needs: Needs::DaxBest,
    lacks: Lacks::Nothing,
    cast,
};

/// What a pipe of default size holds.
const MOST: u32 = 16;
/// How long pages stay pinned at most, in microseconds.
const LONGEST: u32 = 60_000;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    target.will_truncate();
    let pinned = target.clone();
    let (mut output, input) = pipe()?;
    let hold = move |run: &mut Run| hold(run, &pinned, Pinned::Blocks, (&input, &mut output), wait);
    let change = move |run: &mut Run| {
        let range = run.aim(&target);
        // Who waits for a pin may be interrupted, and must let go of its locks then
        // (fs/xfs/xfs_inode.c:xfs_wait_dax_page, fs/ext4/inode.c:ext4_wait_dax_page).
        let micros = 200 + u64::from(run.rng().below(2_000));
        let period = (run.rng().one_in(2)).then(|| Duration::from_micros(micros));
        interrupt_every(period).map_err(|source| Error::call("timer_settime", source))?;
        match run.rng().below(5) {
            0 => run.zero(&target, range),
            // Of its own, where the others share how they wait.
            1 | 2 => {
                let tail = target.tail(range.first());
                let _size = target.resizing();
                let Some(_change) = target.ledger.change(tail, &run.stop()) else {
                    return Ok(());
                };
                cut(run, &target, tail, tail.offset()).map(drop)
            }
            3 => run
                .apply(Operation::Preallocate, &target, range, || {
                    preallocate(&target.file, range)
                })
                .map(drop),
            _ => run.punch(&target, range),
        }
    };
    Ok(vec![Box::new(change), Box::new(hold)])
}

/// What holds pages.
pub(super) fn pipe() -> Result<(PipeReader, PipeWriter), Error> {
    std::io::pipe().map_err(|source| Error::call("pipe", source))
}

/// Until an operation has ended that did not have to wait for the pin, or for long enough that one which does is
/// surely interrupted: there is nothing else to wait for, since it must not end before the pin does.
pub(super) fn wait(run: &mut Run) -> Result<(), Error> {
    let longest = Duration::from_micros(run.rng().below(LONGEST).into());
    let (begun, done) = (Instant::now(), run.stage().operations());
    while begun.elapsed() < longest
        && run.stage().operations() == done
        && !run.stop().load(Ordering::Relaxed)
    {
        std::thread::yield_now();
    }
    Ok(())
}

/// What is pinned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pinned {
    /// Blocks, where there was a hole: a load of it maps the zero page, which is everybody's.
    Blocks,
    /// Pages as they are, that nobody has stored to.
    Clean,
}

/// Pins some pages, waits, and looks at what the pipe still holds: whatever became of the file, only what was in these
/// pages.
pub(super) fn hold(
    run: &mut Run,
    target: &Target,
    what: Pinned,
    (input, output): (&PipeWriter, &mut PipeReader),
    meanwhile: impl FnOnce(&mut Run) -> Result<(), Error>,
) -> Result<(), Error> {
    let within = target.hot.pick(run.rng());
    let range = within.choose(run.rng(), 1, MOST);
    let mapping = run.mapping(target);
    for page in range.pages() {
        if what == Pinned::Blocks
            && run.rng().one_in(2)
            && let Some(store) = target.ledger.store(page)
            // Beyond EOF just now, else.
            && mapping.store(page, Cell::Head, store.word).is_ok()
        {
            store.completed(Cell::Head);
        }
    }
    let mut taken = 0;
    run.apply(Operation::Pin, target, range, || {
        // Beyond EOF just now.
        taken = kernel::pin(input, mapping, range).map_err(busy_if(&[libc::EFAULT]))?;
        Ok(())
    })?;
    meanwhile(run)?;
    let mut block = [0; PAGE as usize];
    for page in range.pages().take(taken / PAGE as usize) {
        // No store may be held off here: whoever does that may be waiting for this pin. One amid the
        // copy would tear a word, so a page that is stored to meanwhile is not judged.
        let before = target.ledger.before(page, Cell::Head);
        let quiet = target.ledger.quiet(page);
        let read = output.read_exact(&mut block);
        read.map_err(|source| Error::call("read(pipe)", source))?;
        taken -= PAGE as usize;
        let whole = quiet.is_some_and(|quiet| target.ledger.still_quiet(page, quiet));
        if !whole || !target.ledger.still_words(page, before) {
            continue;
        }
        for (n, bytes) in block.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
            let wrong = match target.ledger.open(word) {
                Content::Zero => None,
                Content::Stamp(stamp) if stamp.file == target.id && stamp.page == page => None,
                Content::Stamp(_) => Some(Wrong::Foreign),
                Content::Garbage(_) => Some(Wrong::Garbage),
            };
            if let Some(wrong) = wrong {
                let what = Wronged {
                    offset: n as u64 * 8,
                    wrong,
                    word,
                    sight: Sight::Pipe,
                    why: "a pipe holds the page itself",
                    by: None,
                };
                run.stage().report(target, page, &what);
                break;
            }
        }
    }
    // What is left of a page that was taken in part.
    let mut rest = vec![0; taken];
    output
        .read_exact(&mut rest)
        .map_err(|source| Error::call("read(pipe)", source))
}
