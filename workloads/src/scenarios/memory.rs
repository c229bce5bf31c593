//! Anonymous memory: page-aligned buffers, and what child processes share with the run.

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;

use super::pages::PAGE;

/// Zeroed memory that starts at a page boundary, as direct I/O wants it.
pub struct Memory {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its mapping; access is by the borrow rules, or through raw addresses.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Of the process's own. The errors of mmap(2).
    pub fn pages(count: usize) -> io::Result<Self> {
        Self::new(count * PAGE as usize, libc::MAP_PRIVATE)
    }

    fn new(bytes: usize, sharing: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes.max(1),
                libc::PROT_READ | libc::PROT_WRITE,
                sharing | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base: base.cast(),
            bytes,
        })
    }

    /// Where it lies, for the kernel.
    pub fn address(&self) -> *mut u8 {
        self.base
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as many bytes as were mapped.
        unsafe { std::slice::from_raw_parts(self.base, self.bytes) }
    }
}

impl std::ops::DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as many bytes as were mapped, and nobody else has a reference to them.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.bytes) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: ours, and no reference to it is left.
        unsafe { libc::munmap(self.base.cast(), self.bytes.max(1)) };
    }
}

/// Values that processes forked later see as the run does: what one stores, all load. They are meant
/// to be atomics, and are not dropped.
pub struct Shared<T> {
    memory: Memory,
    count: usize,
    of: PhantomData<T>,
}

impl<T: Sync> Shared<T> {
    /// So many values. The errors of mmap(2).
    pub fn new(count: usize, mut value: impl FnMut(usize) -> T) -> io::Result<Self> {
        const {
            assert!(!std::mem::needs_drop::<T>());
            assert!(align_of::<T>() <= PAGE as usize);
        }
        let memory = Memory::new(count * size_of::<T>(), libc::MAP_SHARED)?;
        for n in 0..count {
            // SAFETY: inside the mapping, aligned, and nobody else knows of it yet.
            unsafe { memory.base.cast::<T>().add(n).write(value(n)) };
        }
        Ok(Self {
            memory,
            count,
            of: PhantomData,
        })
    }
}

impl<T> Deref for Shared<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: as many values as `new` wrote.
        unsafe { std::slice::from_raw_parts(self.memory.base.cast(), self.count) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::children::fork_and_wait;
    use super::*;

    #[test]
    fn a_child_shares_values() {
        let words = Shared::new(2, |n| AtomicU64::new(n as u64)).unwrap();
        assert!(fork_and_wait(|| words[1].store(42, Ordering::SeqCst)).unwrap());
        assert_eq!(words[0].load(Ordering::SeqCst), 0);
        assert_eq!(words[1].load(Ordering::SeqCst), 42);
    }

    #[test]
    fn pages_are_aligned_and_zero() {
        let mut memory = Memory::pages(2).unwrap();
        assert_eq!(memory.address() as usize % PAGE as usize, 0);
        assert!(memory.iter().all(|&byte| byte == 0));
        memory[4096] = 7;
        assert_eq!((memory[4096], memory.len()), (7, 8192));
    }
}
