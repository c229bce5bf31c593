//! The fault loop: stores to every page of a shared mapping, drops the translations, and again.

use std::{
    fs::File,
    io::{self, Write as _},
    num::NonZeroUsize,
    path::Path,
    ptr::NonNull,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::{
        mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous},
        resource::{UsageWho, getrusage},
    },
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

use crate::cli::BenchLoop;

/// Pages of the mapping, and faults of a batch.
pub const PAGES: u64 = 1024;
const PAGE: usize = 4096;
const LENGTH: NonZeroUsize = NonZeroUsize::MIN.saturating_add(PAGES as usize * PAGE - 1);
const HUGE: usize = 2 << 20;
/// Batches that are run but not timed: page tables, caches and translated code come into being.
const WARM_UP: u64 = 2;

/// What a loop saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Looped {
    /// Nanoseconds of each timed batch of [`PAGES`] faults.
    pub batches: Vec<u64>,
    /// Nanoseconds of CPU time that the thread had in each; waiting for a CPU is not in it.
    pub cpu: Vec<u64>,
    /// Stores that were to fault, the warm-up included.
    pub stores: u64,
    /// Page faults that the kernel counted meanwhile.
    pub faults: u64,
}

/// Writes a file for the loop: every block written, so that no fault has to allocate or convert.
pub fn prepare(file: &mut File) -> io::Result<()> {
    let page = [0x5a; PAGE];
    for _ in 0..PAGES {
        file.write_all(&page)?;
    }
    file.sync_all()
}

/// Runs the loop and prints what it saw.
pub fn run(arguments: &BenchLoop) -> Result<()> {
    let mapping =
        map(&arguments.file).with_context(|| format!("cannot map {}", arguments.file.display()))?;
    let batches = arguments.faults.div_ceil(PAGES).max(1);
    let mut looped = Looped {
        batches: Vec::with_capacity(batches as usize),
        cpu: Vec::with_capacity(batches as usize),
        stores: (WARM_UP + batches) * PAGES,
        faults: 0,
    };
    let before = faults()?;
    for batch in 0..WARM_UP + batches {
        let started = now()?;
        let before = cpu_time()?;
        for page in 0..PAGES as usize {
            // SAFETY: inside the mapping; volatile, since the faults are the point.
            unsafe {
                mapping
                    .as_ptr()
                    .cast::<u8>()
                    .add(page * PAGE)
                    .write_volatile(batch as u8)
            };
        }
        let used = cpu_time()? - before;
        let took = now()? - started;
        if batch >= WARM_UP {
            looped.batches.push(took);
            looped.cpu.push(used);
        }
        // SAFETY: the whole mapping; a shared file mapping loses nothing.
        unsafe { madvise(mapping, LENGTH.get(), MmapAdvise::MADV_DONTNEED) }
            .context("cannot drop translations")?;
    }
    looped.faults = faults()? - before;
    say!("{}", serde_json::to_string(&looped)?)?;
    Ok(())
}

/// A shared mapping, one page off the alignment at which a single fault could map 2 MiB.
fn map(path: &Path) -> Result<NonNull<std::ffi::c_void>> {
    let file = File::options().read(true).write(true).open(path)?;
    let room = LENGTH.saturating_add(HUGE + PAGE);
    // SAFETY: new mappings; the second replaces a part of the first, which nobody has seen.
    unsafe {
        let reserved = mmap_anonymous(None, room, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE)?;
        let start = reserved.addr().get().next_multiple_of(HUGE) + PAGE;
        Ok(mmap(
            NonZeroUsize::new(start),
            LENGTH,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
            &file,
            0,
        )?)
    }
}

fn faults() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.minor_page_faults() + usage.major_page_faults()) as u64)
}

fn now() -> Result<u64> {
    read(ClockId::CLOCK_MONOTONIC)
}

fn cpu_time() -> Result<u64> {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: ClockId) -> Result<u64> {
    let time = clock_gettime(clock)?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
