//! Direct and buffered I/O with its buffer in a mapping, cold, of the same or another file, against
//! changes of both: the I/O holds the inode's lock while it faults its buffer in. It is done by the
//! caller, by AIO or by io_uring. Lists of extents are copied to such memory, too.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::block::FileId;
use super::error::Error;
use super::extents::{Operation, punch, zero};
use super::faulter::Habit;
use super::flight::{Carrier, Engine, Request, carry};
use super::kernel::{Way, busy_if, list_extents, transfer};
use super::ledger::Family;
use super::pages::PageRange;
use super::run::Run;
use super::setup::{Cast, Setup};
use super::target::Target;
use super::truncate_vs_fault::cut;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "dio-vs-mmap",
    summary: "direct and buffered I/O from and to cold mappings while extents change",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

/// A file, and its file descriptor for direct I/O.
type Open = (Arc<Target>, File);

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let second = FileId(setup.next().0 + 1);
    let habit = Habit::default();
    let one = setup.file_alone(Family::Mixed(second), 0, habit)?;
    let two = setup.file_alone(Family::Mixed(one.id), 0, habit)?;
    two.will_truncate();
    let files: [Open; 2] = [
        (one.clone(), setup.direct(&one)?),
        (two.clone(), setup.direct(&two)?),
    ];
    let mut engines = Vec::new();
    for carrier in Carrier::ALL {
        match setup.carried(carrier, |carrier| carrier.engine(1)) {
            Ok(engine) => engines.push(engine),
            Err(Error::Unsupported { operation, .. }) => setup.leave_out(operation),
            Err(error) => return Err(error),
        }
    }
    let transfers = move |run: &mut Run| {
        let (file, direct) = &files[run.rng().below(2) as usize];
        let (memory, _) = &files[run.rng().below(2) as usize];
        if run.rng().one_in(8) {
            return list(run, file, memory);
        }
        let way = [Way::Read, Way::Write][run.rng().below(2) as usize];
        // By pread(2) and pwrite(2), or by one of the engines.
        let which = run.rng().below(1 + engines.len() as u32) as usize;
        let engine = which.checked_sub(1).and_then(|n| engines.get_mut(n));
        let through = match (run.rng().one_in(4), way) {
            (true, Way::Read) => (&*file.file, Operation::Read),
            (true, Way::Write) => (&*file.file, Operation::Write),
            (false, Way::Read) => (direct, Operation::DirectRead),
            (false, Way::Write) => (direct, Operation::DirectWrite),
        };
        move_pages(run, (file, through), memory, way, engine)
    };
    let changes = move |run: &mut Run| {
        let target = [&one, &two][run.rng().below(2) as usize];
        let range = run.aim(target);
        let part = range.choose(run.rng(), 1, 16);
        let _size = target.resizing();
        match run.rng().below(if target.truncates() { 3 } else { 2 }) {
            0 => change(run, target, part, Operation::PunchHole, punch),
            1 => change(run, target, part, Operation::ZeroRange, zero),
            _ => {
                let tail = target.tail(part.first());
                let Some(_change) = target.ledger.change(tail, &run.stop()) else {
                    return Ok(());
                };
                cut(run, target, tail, tail.offset()).map(drop)
            }
        }
    };
    Ok(vec![Box::new(transfers), Box::new(changes)])
}

/// Nothing is held off: the list is nobody's data.
fn list(run: &mut Run, file: &Target, memory: &Target) -> Result<(), Error> {
    let whole = file.whole();
    let at = memory.whole().choose(run.rng(), 1, 1).offset();
    run.apply(Operation::ListExtents, file, whole, || {
        // Beyond EOF just now, or a filesystem without.
        list_extents(&file.file, &memory.file, at)
            .map_err(busy_if(&[libc::EFAULT, libc::EOPNOTSUPP]))
    })
    .map(drop)
}

fn change(
    run: &mut Run,
    target: &Target,
    range: PageRange,
    operation: Operation,
    call: impl Fn(&File, PageRange) -> io::Result<()>,
) -> Result<(), Error> {
    let Some(_change) = target.ledger.change(range, &run.stop()) else {
        return Ok(());
    };
    run.apply(operation, target, range, || call(&target.file, range))
        .map(drop)
}

/// Between a file and a mapping. Stores are held off both, or they would tear what is copied; the
/// changes of others are not.
fn move_pages(
    run: &mut Run,
    (file, (through, operation)): (&Arc<Target>, (&File, Operation)),
    memory: &Arc<Target>,
    way: Way,
    mut engine: Option<&mut Box<dyn Engine>>,
) -> Result<(), Error> {
    let range = run.aim(file).choose(run.rng(), 1, 16);
    let start = memory
        .whole()
        .choose(run.rng(), range.count(), range.count());
    let buffer = PageRange::new(start.first(), range.count().min(start.count()));
    let range = PageRange::new(range.first(), buffer.count());
    let overlap = range.first() < buffer.end() && buffer.first() < range.end();
    if file.id == memory.id && overlap {
        return Ok(());
    }
    // In the order of files and pages, as [`super::ledger::Ledger::exclude`] asks.
    let mut places = [(file, range), (memory, buffer)];
    places.sort_by_key(|(target, range)| (target.id.0, range.first()));
    let [low, high] = places;
    let Some(low) = run.seal(low.0, low.1) else {
        return Ok(());
    };
    let Some(high) = run.seal(high.0, high.1) else {
        return Ok(());
    };
    let _changes = (low.change_bytes(), high.change_bytes());
    let mapping = run.mapping(memory);
    let forgotten = mapping.forget(buffer);
    forgotten.map_err(|source| Error::call("madvise", source))?;
    run.apply(operation, file, range, || {
        let done = match &mut engine {
            None => transfer(through, way, range.offset(), mapping, buffer),
            Some(engine) => {
                let request = Request {
                    way,
                    offset: range.offset(),
                    buffer: mapping.buffer(buffer),
                    bytes: buffer.bytes() as usize,
                };
                carry(&mut ***engine, through, request)
            }
        };
        // The buffer lies beyond EOF just now; or a dirty page stood in the way before, which the kernel
        // tells afterwards (mm/filemap.c: dio_warn_stale_pagecache).
        done.map(drop).map_err(busy_if(&[libc::EFAULT, libc::EIO]))
    })?;
    Ok(())
}
