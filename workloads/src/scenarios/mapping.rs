//! A mapping of a file, loaded and stored in whole words.

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

/// How a file is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `MAP_SHARED`.
    Shared,
    /// `MAP_SHARED | MAP_POPULATE`.
    Populated,
    /// `MAP_SHARED_VALIDATE | MAP_SYNC`, which DAX alone has; `MAP_SHARED` where it is refused.
    Sync,
    /// `MAP_PRIVATE`: stores stay in the process.
    Private,
}

impl Kind {
    fn flags(self) -> libc::c_int {
        match self {
            Self::Shared => libc::MAP_SHARED,
            Self::Populated => libc::MAP_SHARED | libc::MAP_POPULATE,
            Self::Sync => libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC,
            Self::Private => libc::MAP_PRIVATE,
        }
    }
}

/// Readable and writable, from the file's start. Meant for one fault thread; actors look through it
/// as well.
pub struct Mapping {
    address: usize,
    pages: u32,
    kind: Kind,
    file: Arc<File>,
    region: Region,
}

const ACCESS: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

fn map(
    at: usize,
    length: usize,
    flags: libc::c_int,
    file: &File,
    offset: u64,
) -> io::Result<usize> {
    // SAFETY: either a new mapping at an address of the kernel's choice, or (MAP_FIXED) one that
    // replaces pages of a mapping of our own.
    let base = unsafe {
        libc::mmap(
            at as *mut libc::c_void,
            length,
            ACCESS,
            flags,
            file.as_raw_fd(),
            offset as libc::off_t,
        )
    };
    if base == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(base as usize)
    }
}

impl Mapping {
    /// Maps the first `pages` pages. The errors of mmap(2).
    pub fn new(file: Arc<File>, pages: u32, kind: Kind) -> io::Result<Self> {
        let length = pages as usize * PAGE as usize;
        let (address, kind) = match map(0, length, kind.flags(), &file, 0) {
            Err(error) if kind == Kind::Sync && error.raw_os_error() == Some(libc::EOPNOTSUPP) => (
                map(0, length, Kind::Shared.flags(), &file, 0)?,
                Kind::Shared,
            ),
            other => (other?, kind),
        };
        match Region::enter(address, length) {
            Ok(region) => Ok(Self {
                address,
                pages,
                kind,
                file,
                region,
            }),
            Err(error) => {
                // SAFETY: mapped just above, and known to nobody.
                unsafe { libc::munmap(address as *mut libc::c_void, length) };
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

    /// Where the range lies in memory, for system calls that take a buffer.
    pub fn buffer(&self, range: PageRange) -> *mut u8 {
        assert!(range.end().0 <= self.pages, "range beyond the mapping");
        self.address(range.first()) as *mut u8
    }

    /// Loads a cell.
    pub fn load(&self, page: Page, cell: Cell) -> Result<u64, Lost> {
        self.load_at(page, cell.offset())
    }

    /// Loads the word at a byte offset within the page, a multiple of 8.
    pub fn load_at(&self, page: Page, offset: u64) -> Result<u64, Lost> {
        assert!(
            offset.is_multiple_of(8) && offset < PAGE,
            "word offset {offset}"
        );
        let at = (self.address(page) + offset as usize) as *const u64;
        // SAFETY: inside the mapping, aligned; volatile, for other threads and the kernel change it
        // meanwhile. SIGBUS is recovered.
        self.access(page, || unsafe { at.read_volatile() })
    }

    /// Stores a cell.
    pub fn store(&self, page: Page, cell: Cell, word: u64) -> Result<(), Lost> {
        let at = (self.address(page) + cell.offset() as usize) as *mut u64;
        // SAFETY: as for the load.
        self.access(page, || unsafe { at.write_volatile(word) })
    }

    /// Does an access, again if it may have met the zero page that another thread's SIGBUS left.
    fn access<T>(&self, page: Page, access: impl Fn() -> T) -> Result<T, Lost> {
        loop {
            let whole = self.region.whole(|| {
                let _ = self.renew(PageRange::new(Page(0), self.pages));
            });
            let before = hits();
            compiler_fence(Ordering::SeqCst);
            let done = access();
            compiler_fence(Ordering::SeqCst);
            // More than one, if another thread put the file's page back before this access repeated.
            let met = hits() - before;
            if met > 0 {
                return Err(self.restore(page, met));
            }
            if self.region.whole_since(whole) {
                return Ok(done);
            }
        }
    }

    fn advise(&self, range: PageRange, advice: libc::c_int) -> io::Result<()> {
        let start = self.buffer(range).cast();
        // SAFETY: inside the mapping; a shared file mapping loses nothing by any advice used here.
        match unsafe { libc::madvise(start, range.bytes() as usize, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Drops the translations of a range (`MADV_DONTNEED`), so that the next access faults. The
    /// data stays, except the copies of a private mapping.
    pub fn forget(&self, range: PageRange) -> io::Result<()> {
        self.advise(range, libc::MADV_DONTNEED)
    }

    /// Faults a range in for loads (`MADV_POPULATE_READ`, Linux 5.14). EFAULT where SIGBUS would be.
    pub fn populate(&self, range: PageRange) -> io::Result<()> {
        self.advise(range, libc::MADV_POPULATE_READ)
    }

    /// Faults a range in for stores, none of which is made (`MADV_POPULATE_WRITE`, Linux 5.14): what
    /// it shows stays. EFAULT where SIGBUS would be.
    pub fn populate_writable(&self, range: PageRange) -> io::Result<()> {
        self.advise(range, libc::MADV_POPULATE_WRITE)
    }

    /// Takes the leave to store away from a range and gives it back (mprotect(2)), which splits and
    /// merges the area and makes the next store fault.
    pub fn reprotect(&self, range: PageRange) -> io::Result<()> {
        for access in [libc::PROT_READ, ACCESS] {
            let start = self.buffer(range).cast();
            // SAFETY: inside the mapping, which one thread stores to: the one that calls this.
            if unsafe { libc::mprotect(start, range.bytes() as usize, access) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Waits until the range's dirty pages are written and clean (`msync(MS_SYNC)`).
    pub fn sync(&self, range: PageRange) -> io::Result<()> {
        let start = self.buffer(range).cast();
        // SAFETY: inside the mapping.
        match unsafe { libc::msync(start, range.bytes() as usize, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Moves a range of the mapping elsewhere and back (mremap(2)): its translations travel without
    /// a fault. Only for a mapping that no other thread accesses meanwhile.
    pub fn travel(&self, range: PageRange) -> io::Result<()> {
        let length = range.bytes() as usize;
        let here = self.buffer(range).cast::<libc::c_void>();
        // SAFETY: reserves an address; moves our own pages there and back. In between nobody
        // accesses the range, as the caller vouches.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let there = libc::mmap(ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0);
            if there == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            // The old place stays mapped (Linux 5.13 for file mappings), so that no other thread's
            // mmap can get it in between.
            let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            for (from, to, flags) in [
                (here, there, fixed | libc::MREMAP_DONTUNMAP),
                (there, here, fixed),
            ] {
                if libc::mremap(from, length, length, flags, to) == libc::MAP_FAILED {
                    let error = io::Error::last_os_error();
                    libc::munmap(there, length);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Maps the range anew in its place (mmap(2), `MAP_FIXED`). Unlike [`Mapping::forget`] it frees page
    /// tables that lie within, so that the next fault may be one of 2 MiB. Other threads may access the
    /// range meanwhile. A private mapping loses its copies.
    pub fn renew(&self, range: PageRange) -> io::Result<()> {
        let flags = (self.kind.flags() & !libc::MAP_POPULATE) | libc::MAP_FIXED;
        let at = self.buffer(range) as usize;
        let length = range.bytes() as usize;
        map(at, length, flags, &self.file, range.offset()).map(drop)
    }

    fn restore(&self, page: Page, met: u64) -> Lost {
        let restored = self.renew(PageRange::new(page, 1));
        self.region.mended(met);
        match restored {
            Ok(()) => Lost::Bus,
            Err(error) => Lost::Broken(error),
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::super::signals::Handlers;
    use super::*;

    /// Beyond EOF one thread meets SIGBUS again and again; whoever looks at the same page once it lies
    /// inside must see the file, not what the handler put there.
    #[test]
    fn nobody_sees_what_a_handler_puts_in_the_way() {
        let _handlers = Handlers::install().unwrap();
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.set_len(PAGE).unwrap();
        let mapping = Mapping::new(file.clone(), 2, Kind::Shared).unwrap();
        let second = Page(1);
        let over = AtomicBool::new(false);
        // A failed assertion must not leave the other thread at it for ever.
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        thread::scope(|scope| {
            let _ends = Ends(&over);
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = mapping.load(second, Cell::Head);
                }
            });
            for word in 1..=300u64 {
                assert!(matches!(mapping.load(second, Cell::Head), Err(Lost::Bus)));
                file.set_len(2 * PAGE).unwrap();
                file.write_all_at(&word.to_ne_bytes(), PAGE).unwrap();
                assert_eq!(mapping.load(second, Cell::Head).unwrap(), word);
                mapping.store(second, Cell::Head, word + 1).unwrap();
                let mut stored = [0; 8];
                file.read_exact_at(&mut stored, PAGE).unwrap();
                assert_eq!(u64::from_ne_bytes(stored), word + 1);
                file.set_len(PAGE).unwrap();
            }
        });
    }
}
