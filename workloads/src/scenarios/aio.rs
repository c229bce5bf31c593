//! Linux AIO (io_submit(2)), which returns while direct I/O is still in flight.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use super::flight::{Engine, Request};
use super::kernel::Way;

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

/// `IOCB_CMD_PREAD`, `IOCB_CMD_PWRITE`.
fn opcode(way: Way) -> u16 {
    match way {
        Way::Read => 0,
        Way::Write => 1,
    }
}

/// An AIO context. Waits for all requests when dropped.
pub struct Context {
    context: libc::c_ulong,
    depth: usize,
    in_flight: usize,
}

impl Context {
    /// For so many requests at a time.
    pub fn new(depth: usize) -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the context is written to ours.
        let status =
            unsafe { libc::syscall(libc::SYS_io_setup, depth as libc::c_long, &mut context) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            context,
            depth,
            in_flight: 0,
        })
    }
}

impl Engine for Context {
    fn submit(&mut self, file: &File, requests: &[Request]) -> io::Result<usize> {
        assert_eq!(self.in_flight, 0, "requests in flight");
        let mut blocks: Vec<ControlBlock> = requests
            .iter()
            .enumerate()
            .map(|(n, request)| ControlBlock {
                data: n as u64,
                opcode: opcode(request.way),
                file: file.as_raw_fd() as u32,
                buffer: request.buffer as u64,
                bytes: request.bytes as u64,
                offset: request.offset as i64,
                ..ControlBlock::default()
            })
            .collect();
        let list: Vec<*mut ControlBlock> = blocks.iter_mut().map(ptr::from_mut).collect();
        // SAFETY: the blocks are read before it returns; whoever made a request keeps its memory
        // until it is over.
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

    fn reap(&mut self, each: &mut dyn FnMut(usize, i64)) -> io::Result<()> {
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

impl Drop for Context {
    fn drop(&mut self) {
        let _ = self.reap(&mut |_, _| ());
        // SAFETY: our own context; io_destroy waits for what is left.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
