//! io_uring: every other request is handed to a worker of the kernel, which faults the buffer in as
//! another task.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};

use super::flight::{Engine, Request};
use super::kernel::Way;

/// A ring. Waits for all requests when dropped.
pub struct Ring {
    ring: IoUring,
    in_flight: usize,
}

impl Ring {
    /// For so many requests at a time.
    pub fn new(depth: usize) -> io::Result<Self> {
        let entries = depth.next_power_of_two() as u32;
        Ok(Self {
            ring: IoUring::new(entries)?,
            in_flight: 0,
        })
    }
}

impl Engine for Ring {
    fn submit(&mut self, file: &File, requests: &[Request]) -> io::Result<usize> {
        assert_eq!(self.in_flight, 0, "requests in flight");
        let file = types::Fd(file.as_raw_fd());
        for (n, request) in requests.iter().enumerate() {
            let Request {
                offset,
                buffer,
                bytes,
                ..
            } = *request;
            let entry = match request.way {
                Way::Read => opcode::Read::new(file, buffer, bytes as u32)
                    .offset(offset)
                    .build(),
                Way::Write => opcode::Write::new(file, buffer, bytes as u32)
                    .offset(offset)
                    .build(),
            };
            let flags = match n % 2 {
                0 => squeue::Flags::ASYNC,
                _ => squeue::Flags::empty(),
            };
            let entry = entry.flags(flags).user_data(n as u64);
            // SAFETY: whoever made the request keeps its memory until it is over.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            pushed.map_err(io::Error::other)?;
        }
        let taken = self.ring.submit()?;
        self.in_flight = taken;
        Ok(taken)
    }

    fn reap(&mut self, each: &mut dyn FnMut(usize, i64)) -> io::Result<()> {
        while self.in_flight > 0 {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for completed in self.ring.completion() {
                self.in_flight -= 1;
                // A worker that cannot be made, as while signals come, takes what waits for it along
                // (io_uring/io-wq.c:io_should_retry_thread, io_acct_cancel_pending_work).
                let result = match completed.result() {
                    gone if gone == -libc::ECANCELED => -libc::EAGAIN,
                    result => result,
                };
                each(completed.user_data() as usize, result.into());
            }
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let _ = self.reap(&mut |_, _| ());
    }
}
