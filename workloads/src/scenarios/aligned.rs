//! Memory that begins where a page does, as O_DIRECT wants it.

use super::pages::PAGE;

/// See the module.
pub struct Aligned {
    memory: Vec<u8>,
    skip: usize,
}

impl Aligned {
    /// So many bytes, zeroed.
    pub fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + PAGE as usize];
        let skip = memory.as_ptr().align_offset(PAGE as usize);
        Self { memory, skip }
    }

    /// The first `count` bytes.
    pub fn bytes(&mut self, count: usize) -> &mut [u8] {
        &mut self.memory[self.skip..][..count]
    }

    /// A copy of `data`, which must not be longer than the memory.
    pub fn copy(&mut self, data: &[u8]) -> &[u8] {
        let place = self.bytes(data.len());
        place.copy_from_slice(data);
        place
    }
}
