//! Direct I/O that is still in flight when the call that started it has returned, or that another
//! task of the kernel does for the caller.

use std::fs::File;
use std::io;

use super::aio::Context;
use super::error::Error;
use super::kernel::Way;
use super::memory::Memory;
use super::pages::PAGE;
use super::uring::Ring;

/// One transfer between a file and memory.
#[derive(Clone, Copy)]
pub struct Request {
    /// Which way.
    pub way: Way,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Where in memory. It must stay mapped until the request is over.
    pub buffer: *mut u8,
    /// How much.
    pub bytes: usize,
}

/// What carries requests.
pub trait Engine: Send {
    /// Starts the requests, numbered from 0; how many were taken. None may be in flight.
    fn submit(&mut self, file: &File, requests: &[Request]) -> io::Result<usize>;

    /// Waits for all that were taken; `each` gets number and result: bytes, or a negative errno.
    fn reap(&mut self, each: &mut dyn FnMut(usize, i64)) -> io::Result<()>;
}

/// The ways to do asynchronous I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// io_submit(2).
    Aio,
    /// io_uring_enter(2).
    Uring,
}

impl Carrier {
    /// Both.
    pub const ALL: [Carrier; 2] = [Carrier::Aio, Carrier::Uring];

    /// Its name, and what stands in the way where the kernel refuses it.
    pub fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Aio => ("io_submit", "this kernel has no AIO"),
            Self::Uring => (
                "io_uring",
                "this kernel has none, or sysctl kernel.io_uring_disabled or a sandbox forbids it",
            ),
        }
    }

    /// For so many requests at a time. The errors of io_setup(2) and io_uring_setup(2); see
    /// [`Carrier::absent`].
    pub fn engine(self, depth: usize) -> io::Result<Box<dyn Engine>> {
        Ok(match self {
            Self::Aio => Box::new(Context::new(depth)?),
            Self::Uring => Box::new(Ring::new(depth)?),
        })
    }

    /// Whether an error of [`Carrier::engine`] means that the kernel does not offer it.
    pub fn absent(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(libc::ENOSYS | libc::EPERM | libc::EACCES)
        )
    }
}

/// Does one request and waits for it; how many bytes went.
pub fn carry(engine: &mut dyn Engine, file: &File, request: Request) -> io::Result<usize> {
    let mut outcome = Err(io::Error::from_raw_os_error(libc::EAGAIN));
    if engine.submit(file, &[request])? == 1 {
        engine.reap(&mut |_, result| {
            outcome = usize::try_from(result)
                .map_err(|_| io::Error::from_raw_os_error(result.unsigned_abs() as i32));
        })?;
    }
    outcome
}

/// Writes of single pages, each from a page of memory of its own. Waits for all when dropped.
pub struct Writes {
    engine: Box<dyn Engine>,
    memory: Memory,
    in_flight: bool,
}

impl Writes {
    /// So many at a time.
    pub fn new(carrier: Carrier, depth: usize) -> io::Result<Self> {
        Ok(Self {
            engine: carrier.engine(depth)?,
            memory: Memory::pages(depth)?,
            in_flight: false,
        })
    }

    /// The memory of all writes, to be filled before they start. None while they are in flight.
    pub fn pages(&mut self) -> Option<impl Iterator<Item = &mut [u8]>> {
        let pages = self.memory.chunks_exact_mut(PAGE as usize);
        (!self.in_flight).then_some(pages)
    }

    /// Starts to write page `n` at the `n`-th offset, for all of them; how many the kernel took.
    pub fn start(&mut self, file: &File, offsets: &[u64]) -> io::Result<usize> {
        let pages = self.memory.len() / PAGE as usize;
        assert!(offsets.len() <= pages && !self.in_flight, "pages in use");
        let requests: Vec<Request> = offsets
            .iter()
            .enumerate()
            .map(|(n, &offset)| Request {
                way: Way::Write,
                offset,
                buffer: self.memory.address().wrapping_add(n * PAGE as usize),
                bytes: PAGE as usize,
            })
            .collect();
        let taken = self.engine.submit(file, &requests)?;
        self.in_flight = true;
        Ok(taken)
    }

    /// Waits for all; false if the kernel had no means to carry one of them out. An error is the first of any of them.
    pub fn finish(&mut self) -> Result<bool, Error> {
        let mut failed = None;
        let reaped = self.engine.reap(&mut |_, result| {
            if result != PAGE as i64 {
                failed.get_or_insert(result);
            }
        });
        self.in_flight = false;
        reaped.map_err(|source| Error::call("wait for asynchronous writes", source))?;
        match failed {
            None => Ok(true),
            Some(result) if result == -i64::from(libc::EAGAIN) => Ok(false),
            Some(result) => {
                let source = io::Error::from_raw_os_error(-result as i32);
                Err(Error::call("asynchronous direct-write", source))
            }
        }
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        // The engine lets go of the memory, which goes after it.
        let _ = self.engine.reap(&mut |_, _| ());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn both_carriers_write_what_they_were_given() {
        for carrier in Carrier::ALL {
            let file = tempfile::tempfile().unwrap();
            let mut writes = match Writes::new(carrier, 4) {
                Err(error) if Carrier::absent(&error) => {
                    eprintln!("not tried: {}: {}", carrier.name().0, carrier.name().1);
                    continue;
                }
                other => other.unwrap(),
            };
            for round in 1..4u8 {
                for (page, fill) in writes.pages().unwrap().zip(round..) {
                    page.fill(fill);
                }
                let taken = writes.start(&file, &[8192, 0, 4096]).unwrap();
                assert_eq!(taken, 3);
                assert!(writes.finish().unwrap());
                for (offset, fill) in [(8192, round), (0, round + 1), (4096, round + 2)] {
                    let mut seen = [0; 4096];
                    file.read_exact_at(&mut seen, offset).unwrap();
                    assert_eq!(seen, [fill; 4096], "{carrier:?} {offset}");
                }
            }
        }
    }

    #[test]
    fn an_error_of_a_request_is_told() {
        let file = File::open("/dev/null").unwrap();
        let mut memory = Memory::pages(1).unwrap();
        for carrier in Carrier::ALL {
            let Ok(mut engine) = carrier.engine(1) else {
                continue;
            };
            let request = Request {
                way: Way::Write,
                offset: 0,
                buffer: memory.as_mut_ptr(),
                bytes: 4096,
            };
            let error = carry(&mut *engine, &file, request).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{carrier:?}");
        }
    }
}
