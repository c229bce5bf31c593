//! A file in memory: the only unsafe code of the trace file.

use std::{fs::File, io, ops::Deref};

use memmap2::{Mmap, UncheckedAdvice};

/// The kernel maps up to this many bytes before the one that is touched (`fault_around_bytes`).
const AROUND: usize = 64 << 10;

/// A file mapped for reading.
pub struct Map(Mmap);

impl Map {
    /// Maps `file`, which must not be empty.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the bytes may change under us only if someone rewrites the file. A trace is
        // append-only, and the writer replaces an old file rather than truncate it. Whoever damages
        // it nevertheless gets checksum errors or SIGBUS: all that is read from the map is plain
        // bytes, of which every value is valid, and each chunk is decompressed into our own memory
        // before anything relies on it.
        unsafe { Mmap::map(file) }.map(Self)
    }

    /// Gives the memory behind a range back; it is read from the file again when needed.
    pub fn release(&self, offset: usize, length: usize) {
        let start = offset.saturating_sub(AROUND);
        let length = length + (offset - start);
        // SAFETY: the map is shared and read-only, so dropping its pages loses no data, and the
        // next access finds the same bytes. An error means that nothing was released.
        let _ = unsafe {
            self.0
                .unchecked_advise_range(UncheckedAdvice::DontNeed, start, length)
        };
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
