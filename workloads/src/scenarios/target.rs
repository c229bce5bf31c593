//! A file under test: its ledger, everyone's mappings of it, and the ranges that are being changed
//! just now.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::statvfs::{Statvfs, fstatvfs};

use super::block::{FileId, Key};
use super::error::Error;
use super::faulter::Habit;
use super::ledger::{Family, Ledger};
use super::mapping::{Kind, Mapping};
use super::marks::Inode;
use super::memory::Shared;
use super::pages::{PAGE, Page, PageRange};
use super::rng::Rng;

/// How many ranges are changed over and over before new ones take their place.
const SLOTS: usize = 8;

/// Ranges published by the actors for the fault threads to refault.
pub struct Hot(Shared<Ranges>);

struct Ranges {
    slots: [AtomicU64; SLOTS],
    latest: AtomicUsize,
}

impl Hot {
    fn new(whole: PageRange, rng: &mut Rng) -> io::Result<Self> {
        let ranges = |_| Ranges {
            slots: std::array::from_fn(|_| AtomicU64::new(whole.choose(rng, 16, 64).pack())),
            latest: AtomicUsize::new(0),
        };
        Shared::new(1, ranges).map(Self)
    }

    fn ranges(&self) -> &Ranges {
        &self.0[0]
    }

    /// One of the ranges; half of the time the one being changed now.
    pub fn pick(&self, rng: &mut Rng) -> PageRange {
        let slot = match rng.below(2) {
            0 => self.ranges().latest.load(Ordering::Relaxed),
            _ => rng.below(SLOTS as u32) as usize,
        };
        PageRange::unpack(self.ranges().slots[slot].load(Ordering::Relaxed))
    }

    /// Has the fault threads look at a range.
    pub fn publish(&self, range: PageRange) {
        let slot = self.ranges().latest.load(Ordering::Relaxed);
        self.ranges().slots[slot].store(range.pack(), Ordering::Relaxed);
    }

    /// The next range to change: mostly one of the old ones, else new, of 16 to 64 pages within
    /// `within`.
    pub fn aim(&self, within: PageRange, rng: &mut Rng) -> PageRange {
        let slot = rng.below(SLOTS as u32) as usize;
        let Ranges { slots, latest } = self.ranges();
        let old = PageRange::unpack(slots[slot].load(Ordering::Relaxed));
        let inside = old.first() >= within.first() && old.end() <= within.end();
        let range = if inside && !rng.one_in(4) {
            old
        } else {
            within.choose(rng, 16, 64)
        };
        slots[slot].store(range.pack(), Ordering::Relaxed);
        latest.store(slot, Ordering::Relaxed);
        range
    }
}

/// A file under test.
pub struct Target {
    /// Its number in the run.
    pub id: FileId,
    /// Which inode it is.
    pub inode: Inode,
    /// Where it is.
    pub path: PathBuf,
    /// Open for reading and writing.
    pub file: Arc<File>,
    /// What may be read from it.
    pub ledger: Ledger,
    /// One for each fault thread of a process, which worker processes inherit; then one for each
    /// actor.
    pub mappings: Vec<Mapping>,
    /// Where the action is.
    pub hot: Hot,
    /// What fault threads do to it; None: they leave it alone.
    pub habit: Option<Habit>,
    /// Mapped pages lie beyond EOF at times, so that SIGBUS is part of the game.
    pub truncates: AtomicBool,
    /// Whether its blocks go to the boot loader inode at times.
    pub boots: AtomicBool,
    sizing: Mutex<()>,
    shape: Shape,
}

/// What a target is made of.
#[derive(Clone, Copy, PartialEq)]
pub struct Shape {
    /// Pages that are mapped and judged.
    pub pages: u32,
    /// Pages behind them, so that a collapse leaves no mapped page beyond EOF.
    pub slack: u32,
    /// Whose stamps it may hold.
    pub family: Family,
}

impl Target {
    /// Fills `file` with stamps and maps it.
    pub fn new(
        (file, path): (File, PathBuf),
        id: FileId,
        shape: Shape,
        habit: Option<Habit>,
        key: Key,
        kinds: impl Iterator<Item = Kind>,
        rng: &mut Rng,
    ) -> Result<Self, Error> {
        let failed = |error| Error::path(&path, error);
        let shared = |error| Error::call("mmap", error);
        let ledger = Ledger::new(id, shape.family, key, shape.pages).map_err(shared)?;
        fill(&file, shape.pages, &ledger).map_err(failed)?;
        file.set_len(u64::from(shape.pages + shape.slack) * PAGE)
            .map_err(failed)?;
        let inode = Inode::of(&file).map_err(failed)?;
        let file = Arc::new(file);
        let mappings = kinds
            .map(|kind| Mapping::new(file.clone(), shape.pages, kind))
            .collect::<io::Result<Vec<_>>>()
            .map_err(shared)?;
        let whole = PageRange::new(Page(0), shape.pages);
        let hot = Hot::new(whole, rng).map_err(shared)?;
        Ok(Self {
            id,
            inode,
            path,
            file,
            ledger,
            mappings,
            hot,
            habit,
            truncates: AtomicBool::new(false),
            boots: AtomicBool::new(false),
            sizing: Mutex::new(()),
            shape,
        })
    }

    /// Of what it is made.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Keeps other actors from changing the file's size, until dropped. To be taken before any
    /// range.
    pub fn resizing(&self) -> MutexGuard<'_, ()> {
        self.sizing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that mapped pages will lie beyond EOF at times.
    pub fn will_truncate(&self) {
        self.truncates.store(true, Ordering::Relaxed);
    }

    /// Whether they may.
    pub fn truncates(&self) -> bool {
        self.truncates.load(Ordering::Relaxed)
    }

    /// Says that the file's blocks go to the boot loader inode and come back.
    pub fn will_go_to_boot(&self) {
        self.boots.store(true, Ordering::Relaxed);
    }

    /// Whether they do.
    pub fn goes_to_boot(&self) -> bool {
        self.boots.load(Ordering::Relaxed)
    }

    /// All pages mapped.
    pub fn whole(&self) -> PageRange {
        PageRange::new(Page(0), self.shape.pages)
    }

    /// The pages from `first` to the last mapped.
    pub fn tail(&self, first: Page) -> PageRange {
        PageRange::new(first, self.shape.pages - first.0)
    }

    /// The size that the file is meant to have, in bytes.
    pub fn size(&self) -> u64 {
        u64::from(self.shape.pages + self.shape.slack) * PAGE
    }

    /// A word as read(2) shows it; None beyond EOF or on an error.
    pub fn word(&self, page: Page, offset: u64) -> Option<u64> {
        let mut word = [0; 8];
        let at = page.offset() + offset;
        self.file.read_exact_at(&mut word, at).ok()?;
        Some(u64::from_ne_bytes(word))
    }

    /// An error if a SIGBUS within the file may be blamed on something else than the kernel: less
    /// space is free than the mapped pages could take, or nothing can be read any more.
    pub fn blame(&self) -> Result<(), Error> {
        let operation = "page fault";
        let full = |fs: Statvfs| {
            let free = fs.blocks_available() * fs.fragment_size();
            free < self.whole().bytes()
        };
        if fstatvfs(&self.file).is_ok_and(full) {
            return Err(Error::NoSpace { operation });
        }
        let read = self.file.read_at(&mut [0], 0);
        read.map(drop)
            .map_err(|source| Error::call(operation, source))
    }
}

fn fill(file: &File, pages: u32, ledger: &Ledger) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(64 * PAGE as usize, file);
    let mut block = [0; PAGE as usize];
    for page in (0..pages).map(Page) {
        stamp(&mut block, ledger.first(page));
        writer.write_all(&block)?;
    }
    writer.flush()
}

/// Makes a page image of nothing but `word`.
pub fn stamp(block: &mut [u8], word: u64) {
    for chunk in block.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
}
