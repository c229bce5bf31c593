//! Linux AIO (io_submit(2)), which returns while direct writes are still in flight.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use super::memory::Memory;
use super::pages::PAGE;

/// struct iocb of linux/aio_abi.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ControlBlock {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_file: u32,
}
const _: () = assert!(size_of::<ControlBlock>() == 64);

/// struct io_event.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    block: u64,
    result: i64,
    result2: i64,
}
const _: () = assert!(size_of::<Event>() == 32);

/// `IOCB_CMD_PWRITE`.
const WRITE: u16 = 1;

/// An AIO context with a page of memory for each of its slots. Waits for all writes when dropped.
pub struct Queue {
    context: libc::c_ulong,
    memory: Memory,
    depth: usize,
    in_flight: usize,
}

impl Queue {
    /// With so many slots.
    pub fn new(depth: usize) -> io::Result<Self> {
        let memory = Memory::pages(depth)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the context is written to ours.
        let status =
            unsafe { libc::syscall(libc::SYS_io_setup, depth as libc::c_long, &mut context) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            context,
            memory,
            depth,
            in_flight: 0,
        })
    }

    /// The slot's memory, to be filled before it is written. None while writes are in flight.
    pub fn page(&mut self, slot: usize) -> Option<&mut [u8]> {
        let free = slot < self.depth && self.in_flight == 0;
        free.then(|| &mut self.memory[slot * PAGE as usize..][..PAGE as usize])
    }

    /// Starts to write slot `n` at the `n`-th offset, for all of them. How many the kernel took.
    pub fn write(&mut self, file: &File, offsets: &[u64]) -> io::Result<usize> {
        assert!(
            offsets.len() <= self.depth && self.in_flight == 0,
            "slots in use"
        );
        let mut blocks: Vec<ControlBlock> = offsets
            .iter()
            .enumerate()
            .map(|(slot, &offset)| ControlBlock {
                data: slot as u64,
                opcode: WRITE,
                file: file.as_raw_fd() as u32,
                buffer: self.memory.address() as u64 + slot as u64 * PAGE,
                bytes: PAGE,
                offset: offset as i64,
                ..ControlBlock::default()
            })
            .collect();
        let list: Vec<*mut ControlBlock> = blocks.iter_mut().map(ptr::from_mut).collect();
        // SAFETY: the blocks are read before it returns; their buffers live as long as the queue,
        // which waits for all.
        let taken = unsafe {
            libc::syscall(
                libc::SYS_io_submit,
                self.context,
                list.len() as libc::c_long,
                list.as_ptr(),
            )
        };
        let taken = usize::try_from(taken).map_err(|_| io::Error::last_os_error())?;
        self.in_flight = taken;
        Ok(taken)
    }

    /// Waits for all writes; `each` gets slot and result: bytes, or a negative errno.
    pub fn reap(&mut self, mut each: impl FnMut(usize, i64)) -> io::Result<()> {
        let mut events = vec![Event::default(); self.depth];
        while self.in_flight > 0 {
            // SAFETY: room for as many events as asked for.
            let got = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    1 as libc::c_long,
                    self.in_flight as libc::c_long,
                    events.as_mut_ptr(),
                    ptr::null::<libc::timespec>(),
                )
            };
            match usize::try_from(got) {
                Ok(got) => {
                    self.in_flight -= got;
                    for event in &events[..got] {
                        each(event.data as usize, event.result);
                    }
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let _ = self.reap(|_, _| ());
        // SAFETY: io_destroy waits for what is left; then nobody uses the memory.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
