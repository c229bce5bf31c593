//! Child processes: what must not happen in the process of the run itself.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// How long a servant waits for a request before it looks after itself.
const IDLE_MS: libc::c_int = 250;

/// A child that does one kind of request after the other, until its pipe is closed: also when the
/// parent is killed.
struct Servant {
    pid: Pid,
    /// None only while it is being dropped.
    requests: Option<PipeWriter>,
    replies: PipeReader,
}

impl Servant {
    /// Forks it, with `keep` as its only file. `serve` makes bare system calls only; its result is the
    /// reply, 0 or an errno. `idle` is called when no request came for [`IDLE_MS`], and when the pipe is
    /// closed.
    fn spawn(
        keep: RawFd,
        start: impl FnOnce() -> bool,
        mut serve: impl FnMut(u64) -> u64,
        mut idle: impl FnMut(),
    ) -> io::Result<Self> {
        let (requests_in, requests) = io::pipe()?;
        let (replies, replies_out) = io::pipe()?;
        // SAFETY: the child makes bare system calls and _exit, on memory that it has already, for
        // other threads of the parent may have held any lock at the fork.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                requests: Some(requests),
                replies,
            }),
            // SAFETY: as above; the buffers are local.
            ForkResult::Child => unsafe {
                // Also another servant's pipe, which would not end while this one has it open.
                let keep = [keep, requests_in.as_raw_fd(), replies_out.as_raw_fd()];
                close_all_but(&keep);
                // The parent decides when a signal from the terminal ends the run.
                for signal in [libc::SIGXFSZ, libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
                    libc::signal(signal, libc::SIG_IGN);
                }
                if !start() {
                    libc::_exit(1);
                }
                let mut word = 0u64;
                let mut pipe = libc::pollfd {
                    fd: requests_in.as_raw_fd(),
                    events: libc::POLLIN,
                    revents: 0,
                };
                loop {
                    if libc::poll(&mut pipe, 1, IDLE_MS) == 0 {
                        idle();
                        continue;
                    }
                    if libc::read(pipe.fd, (&raw mut word).cast(), 8) != 8 {
                        break;
                    }
                    let reply = serve(word);
                    if libc::write(replies_out.as_raw_fd(), (&raw const reply).cast(), 8) != 8 {
                        break;
                    }
                }
                idle();
                libc::_exit(0)
            },
        }
    }

    /// Has it do something; the child's error is returned as if it were ours.
    fn ask(&mut self, request: u64) -> io::Result<()> {
        let Some(requests) = &mut self.requests else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        requests.write_all(&request.to_ne_bytes())?;
        let mut reply = [0; 8];
        let read = self.replies.read_exact(&mut reply);
        read.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        match u64::from_ne_bytes(reply) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno as i32)),
        }
    }
}

impl Drop for Servant {
    fn drop(&mut self) {
        // End of file on its pipe ends the child.
        self.requests = None;
        let _ = waitpid(self.pid, None);
    }
}

/// Closes all files but those given and the standard streams (close_range(2), Linux 5.9).
pub fn close_all_but(keep: &[RawFd]) {
    let mut first = 3;
    while first < libc::c_uint::MAX {
        let kept = keep.iter().map(|&file| file as libc::c_uint);
        let next = kept.filter(|&file| file >= first).min();
        let next = next.unwrap_or(libc::c_uint::MAX);
        if next > first {
            // SAFETY: plain numbers.
            unsafe { libc::syscall(libc::SYS_close_range, first, next - 1, 0) };
        }
        first = next.saturating_add(1);
    }
}

fn errno(status: libc::c_int) -> u64 {
    if status == 0 {
        return 0;
    }
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() as u64 }
}

/// A child process under RLIMIT_FSIZE that resizes a file on demand; the limit is the child's
/// alone.
pub struct LimitedChild(Servant);

/// What the child is to try.
#[derive(Clone, Copy)]
pub enum Resize {
    /// ftruncate(2).
    Truncate = 0,
    /// fallocate(2) that extends the file.
    Allocate = 1,
}

impl LimitedChild {
    /// Forks it; `limit` in bytes.
    pub fn spawn(file: &File, limit: u64) -> io::Result<Self> {
        let file = file.as_raw_fd();
        let limit = libc::rlimit {
            rlim_cur: limit,
            rlim_max: limit,
        };
        Servant::spawn(
            file,
            // SAFETY: plain numbers.
            move || unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0 },
            move |word| {
                let bytes = (word >> 1) as libc::off_t;
                // SAFETY: plain numbers.
                errno(unsafe {
                    if word & 1 == Resize::Allocate as u64 {
                        libc::fallocate(file, 0, 0, bytes)
                    } else {
                        libc::ftruncate(file, bytes)
                    }
                })
            },
            || (),
        )
        .map(Self)
    }

    /// Has it try.
    pub fn resize(&mut self, how: Resize, bytes: u64) -> io::Result<()> {
        self.0.ask(bytes << 1 | how as u64)
    }
}

/// A child process that freezes and thaws a filesystem. It thaws what it froze when the run ends, in
/// whatever way, SIGKILL included; and soon after it froze it, for a thread that stores to a frozen
/// file may hold the mmap_lock that the one who is to ask for the thaw needs. When the child is
/// killed, the run's own process thaws in its place.
pub struct Freezer {
    child: Servant,
    file: File,
}

const FREEZE: u64 = 1;
const THAW: u64 = 0;

impl Freezer {
    /// Forks it, for the filesystem that the file is on.
    pub fn spawn(file: &File) -> io::Result<Self> {
        let mine = file.try_clone()?;
        let file = file.as_raw_fd();
        let frozen = std::rc::Rc::new(std::cell::Cell::new(false));
        let (seen, left) = (frozen.clone(), frozen);
        let child = Servant::spawn(
            file,
            || true,
            move |request| {
                if (request == FREEZE) == seen.get() {
                    // Thawed in the meantime.
                    return 0;
                }
                let failed = if request == FREEZE {
                    errno(freeze(file))
                } else {
                    errno(thaw(file))
                };
                if failed == 0 {
                    seen.set(request == FREEZE);
                }
                failed
            },
            move || {
                if left.get() && thaw(file) == 0 {
                    left.set(false);
                }
            },
        )?;
        Ok(Self { child, file: mine })
    }

    fn ask(&mut self, request: u64) -> io::Result<()> {
        let done = self.child.ask(request);
        match done {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                thaw(self.file.as_raw_fd());
                Err(io::Error::other("the process that does it was killed"))
            }
            done => done,
        }
    }

    /// FIFREEZE. EBUSY if someone else froze it.
    pub fn freeze(&mut self) -> io::Result<()> {
        self.ask(FREEZE)
    }

    /// FITHAW, if it is still frozen.
    pub fn thaw(&mut self) -> io::Result<()> {
        self.ask(THAW)
    }
}

/// FIFREEZE: `_IOWR('X', 119, int)`.
fn freeze(file: RawFd) -> libc::c_int {
    // SAFETY: the argument is not used.
    unsafe { libc::ioctl(file, 0xc004_5877, 0) }
}

/// FITHAW: `_IOWR('X', 120, int)`.
fn thaw(file: RawFd) -> libc::c_int {
    // SAFETY: the argument is not used.
    unsafe { libc::ioctl(file, 0xc004_5878, 0) }
}

/// Runs `body` in a forked child, which inherits all mappings, and waits for it. `body` must do
/// nothing but access memory and make bare system calls. False if it was killed.
pub fn fork_and_wait(body: impl FnOnce()) -> io::Result<bool> {
    // SAFETY: as the caller vouches; then _exit.
    match unsafe { fork() }? {
        ForkResult::Child => {
            super::signals::forked();
            body();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => loop {
            match waitpid(child, None) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(WaitStatus::Exited(_, 0)) => return Ok(true),
                Ok(_) => return Ok(false),
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_in_the_child_alone() {
        let file = tempfile::tempfile().unwrap();
        let mut child = LimitedChild::spawn(&file, 4096).unwrap();
        child.resize(Resize::Truncate, 4096).unwrap();
        for how in [Resize::Truncate, Resize::Allocate] {
            let error = child.resize(how, 8192).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        }
        file.set_len(8192).unwrap();
    }

    #[test]
    fn a_child_that_dies_is_told_from_one_that_ends() {
        assert!(fork_and_wait(|| ()).unwrap());
        assert!(!fork_and_wait(|| std::process::abort()).unwrap());
    }
}
