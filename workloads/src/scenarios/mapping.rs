//! A shared mapping of a file, loaded and stored in whole words.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{Ordering, compiler_fence};

use super::block::Cell;
use super::pages::{PAGE, Page, PageRange};
use super::signals::{Region, hits};

/// Why an access did not reach the file.
#[derive(Debug)]
pub enum Lost {
    /// SIGBUS: beyond EOF, no space, or no block. The mapping is whole again.
    Bus,
    /// SIGBUS, and the file's page could not be mapped back.
    Broken(io::Error),
}

/// `MAP_SHARED`, readable and writable, from the file's start. Meant for one fault thread; the
/// manipulator looks through it as well.
pub struct Mapping {
    address: usize,
    pages: u32,
    file: Arc<File>,
    _region: Region,
}

const ACCESS: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

impl Mapping {
    /// Maps the first `pages` pages. The errors of mmap(2).
    pub fn new(file: Arc<File>, pages: u32) -> io::Result<Self> {
        let length = pages as usize * PAGE as usize;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                ACCESS,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = base as usize;
        match Region::enter(address, length) {
            Ok(region) => Ok(Self {
                address,
                pages,
                file,
                _region: region,
            }),
            Err(error) => {
                // SAFETY: mapped just above, and known to nobody.
                unsafe { libc::munmap(base, length) };
                Err(error)
            }
        }
    }

    fn address(&self, page: Page) -> usize {
        assert!(
            page.0 < self.pages,
            "page {} of a mapping of {}",
            page.0,
            self.pages
        );
        self.address + page.offset() as usize
    }

    fn word(&self, page: Page, cell: Cell) -> *mut u64 {
        (self.address(page) + cell.offset() as usize) as *mut u64
    }

    /// Loads a cell.
    pub fn load(&self, page: Page, cell: Cell) -> Result<u64, Lost> {
        let before = hits();
        compiler_fence(Ordering::SeqCst);
        // SAFETY: inside the mapping, aligned; volatile, for other threads and the kernel change it
        // meanwhile. SIGBUS is recovered.
        let word = unsafe { self.word(page, cell).read_volatile() };
        compiler_fence(Ordering::SeqCst);
        if hits() == before {
            Ok(word)
        } else {
            Err(self.restore(page))
        }
    }

    /// Stores a cell.
    pub fn store(&self, page: Page, cell: Cell, word: u64) -> Result<(), Lost> {
        let before = hits();
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as for the load.
        unsafe { self.word(page, cell).write_volatile(word) };
        compiler_fence(Ordering::SeqCst);
        if hits() == before {
            Ok(())
        } else {
            Err(self.restore(page))
        }
    }

    /// Drops the translations of a range (`MADV_DONTNEED`), so that the next access faults. The
    /// data stays.
    pub fn forget(&self, range: PageRange) -> io::Result<()> {
        assert!(range.end().0 <= self.pages, "range beyond the mapping");
        let start = self.address(range.first()) as *mut libc::c_void;
        // SAFETY: inside the mapping; a shared file mapping loses nothing.
        match unsafe { libc::madvise(start, range.bytes() as usize, libc::MADV_DONTNEED) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits until the range's dirty pages are written and clean (`msync(MS_SYNC)`).
    pub fn sync(&self, range: PageRange) -> io::Result<()> {
        assert!(range.end().0 <= self.pages, "range beyond the mapping");
        let start = self.address(range.first()) as *mut libc::c_void;
        // SAFETY: inside the mapping.
        match unsafe { libc::msync(start, range.bytes() as usize, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn restore(&self, page: Page) -> Lost {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let start = self.address(page) as *mut libc::c_void;
        let offset = page.offset() as libc::off_t;
        // SAFETY: replaces one page inside our own mapping by what belongs there.
        let base = unsafe {
            libc::mmap(
                start,
                PAGE as usize,
                ACCESS,
                flags,
                self.file.as_raw_fd(),
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            Lost::Broken(io::Error::last_os_error())
        } else {
            Lost::Bus
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours, and no borrow of it is left. The table entry goes first only in time:
        // nobody accesses it any more.
        unsafe {
            libc::munmap(
                self.address as *mut libc::c_void,
                self.pages as usize * PAGE as usize,
            )
        };
    }
}
