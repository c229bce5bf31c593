//! Several direct writers on shared blocks of one file: they hold the inode's lock together, so that
//! each may find a block shared, and must find out that another has copied it meanwhile. One that
//! does not writes into the block of the file that it was shared with.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::RwLock;
use std::thread::Builder;

use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::ledger::{Exclusive, Wrong};
use super::memory::Memory;
use super::pages::{PAGE, PageRange};
use super::run::Run;
use super::setup::{Cast, Setup, solo};
use super::sharing::Sharing;
use super::target::stamp;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "cow-direct-writers",
    summary: "share blocks and have several threads write over the same ones with O_DIRECT",
    needs: Needs::ReflinkPageCache,
    lacks: Lacks::FaultsOfPages,
    cast,
};

/// Threads that write the same blocks.
const WRITERS: usize = 3;
/// The most blocks of a round.
const BLOCKS: u32 = 16;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let files = Sharing::new(setup, Habit::LOADS)?;
    let (target, source) = (setup.direct(&files.target)?, setup.direct(&files.source)?);
    let memory = || Memory::pages(BLOCKS as usize).map_err(|error| Error::call("mmap", error));
    let mut images = Vec::new();
    for _ in 0..WRITERS {
        images.push(memory()?);
    }
    let mut seen = memory()?;
    Ok(solo(move |run| {
        let range = run.aim(&files.target).choose(run.rng(), 1, BLOCKS);
        let Some(held) = run.exclude(&files.target, range) else {
            return Ok(());
        };
        if !files.share_held(run, &held)? {
            return Ok(());
        }
        let change = held.change_bytes();
        write_together(run, &files, &target, &held, &mut images)?;
        seen_through(&target, range, &mut seen, "direct-read")?;
        for (n, page) in range.pages().enumerate() {
            let block = block(&seen, n);
            let allowed: Vec<u64> = images.iter().map(|image| word(image, n, 0)).collect();
            // Two writes of one block at the same time may both leave words in it.
            if let Some((offset, word)) = stranger(block, &allowed) {
                let wrong = files.target.ledger.compare(page, allowed[0], word);
                let why = "only what one of its writers wrote may be left";
                let wrong = wrong.unwrap_or(Wrong::Stale);
                run.report(&files.target, page, offset, wrong, word, why);
            } else if stranger(block, &allowed[..1]).is_none() {
                change.filled(page, allowed[0]);
            }
        }
        drop(change);
        drop(held);
        seen_through(&source, range, &mut seen, "direct-read")?;
        for (n, page) in range.pages().enumerate() {
            let expected = files.word(page);
            let Some((offset, word)) = stranger(block(&seen, n), &[expected]) else {
                continue;
            };
            let why = "no one writes to a file whose blocks others share";
            if let Some(wrong) = files.source.ledger.compare(page, expected, word) {
                run.report(&files.source, page, offset, wrong, word, why);
            }
            // So that the next rounds tell of themselves.
            let mut whole = Memory::pages(1).map_err(|error| Error::call("mmap", error))?;
            stamp(&mut whole, expected);
            source
                .write_all_at(&whole, page.offset())
                .map_err(|error| Error::call("direct-write", error))?;
        }
        Ok(())
    }))
}

/// All writers write all pages held, block by block, at the same time.
fn write_together(
    run: &mut Run,
    files: &Sharing,
    direct: &File,
    held: &Exclusive<'_>,
    images: &mut [Memory],
) -> Result<(), Error> {
    let range = held.range();
    for image in images.iter_mut() {
        for (block, page) in image.chunks_exact_mut(PAGE as usize).zip(range.pages()) {
            stamp(block, held.fresh(page));
        }
    }
    run.apply(Operation::DirectWrite, &files.target, range, || {
        let gate = RwLock::new(());
        std::thread::scope(|scope| {
            let held = gate.write();
            let writers: Vec<_> = images
                .iter()
                .enumerate()
                .map(|(n, image)| {
                    let gate = &gate;
                    let write = move || {
                        drop(gate.read());
                        let mut pages = range.pages().enumerate();
                        pages.try_for_each(|(n, page)| {
                            direct.write_all_at(block(image, n), page.offset())
                        })
                    };
                    let name = format!("writer-{n}");
                    Builder::new().name(name).spawn_scoped(scope, write)
                })
                .collect();
            // Whether all could be started or not: none is to wait for ever.
            drop(held);
            writers.into_iter().try_for_each(|writer| {
                let panicked = |_| Err(io::Error::other("a writer panicked"));
                writer?.join().unwrap_or_else(panicked)
            })
        })
    })
    .map(drop)
}

fn seen_through(
    file: &File,
    range: PageRange,
    memory: &mut Memory,
    call: &'static str,
) -> Result<(), Error> {
    let into = &mut memory[..range.bytes() as usize];
    file.read_exact_at(into, range.offset())
        .map_err(|error| Error::call(call, error))
}

fn block(memory: &Memory, n: usize) -> &[u8] {
    &memory[n * PAGE as usize..][..PAGE as usize]
}

fn word(memory: &Memory, n: usize, at: usize) -> u64 {
    let bytes = &block(memory, n)[at..at + 8];
    u64::from_ne_bytes(bytes.try_into().unwrap_or_default())
}

/// The first word of a block that is none of those allowed, and its offset.
fn stranger(block: &[u8], allowed: &[u64]) -> Option<(u64, u64)> {
    let words = block
        .chunks_exact(8)
        .map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap_or_default()));
    let mut strange = (0u64..).zip(words);
    strange
        .find(|(_, word)| !allowed.contains(word))
        .map(|(n, word)| (8 * n, word))
}
