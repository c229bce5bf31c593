//! System calls that have no safe wrapper elsewhere, each behind one that is.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::mem::size_of;
use std::os::fd::{AsRawFd, RawFd};

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

fn result(status: libc::c_int) -> io::Result<()> {
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// sync_file_range(2) with `SYNC_FILE_RANGE_WRITE`.
pub fn start_writeback(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let (offset, bytes) = (offset as libc::off64_t, bytes as libc::off64_t);
    // SAFETY: plain numbers.
    result(unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE)
    })
}

/// Whether the file is accessed without page cache now (`STATX_ATTR_DAX`).
pub fn is_dax(file: &File) -> io::Result<bool> {
    // SAFETY: all-zero is a valid statx; the path is empty and the descriptor ours.
    let (status, stat) = unsafe {
        let mut stat: libc::statx = std::mem::zeroed();
        let flags = libc::AT_EMPTY_PATH;
        (
            libc::statx(
                file.as_raw_fd(),
                c"".as_ptr(),
                flags,
                libc::STATX_BASIC_STATS,
                &mut stat,
            ),
            stat,
        )
    };
    result(status)?;
    Ok(stat.stx_attributes & libc::STATX_ATTR_DAX as u64 != 0)
}

/// struct file_clone_range of linux/fs.h.
#[repr(C)]
struct FileCloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}
const _: () = assert!(size_of::<FileCloneRange>() == 32);

/// FICLONERANGE: `_IOW(0x94, 13, struct file_clone_range)`.
pub fn clone_range(source: &File, target: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let request = FileCloneRange {
        src_fd: source.as_raw_fd().into(),
        src_offset: offset,
        src_length: bytes,
        dest_offset: offset,
    };
    // SAFETY: the struct is what this request reads.
    result(unsafe { libc::ioctl(target.as_raw_fd(), 0x4020_940d, &request) })
}

/// struct xfs_bstime of xfs_fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct BulkTime {
    seconds: i64,
    nanoseconds: i32,
}

/// struct xfs_bstat of xfs_fs.h (64-bit layout). SWAPEXT compares mtime and ctime and reads nothing
/// else.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct BulkStat {
    ino: u64,
    mode: u16,
    nlink: u16,
    uid: u32,
    gid: u32,
    rdev: u32,
    blksize: i32,
    size: i64,
    atime: BulkTime,
    mtime: BulkTime,
    ctime: BulkTime,
    blocks: i64,
    xflags: u32,
    extsize: i32,
    extents: i32,
    generation: u32,
    projid_lo: u16,
    forkoff: u16,
    projid_hi: u16,
    sick: u16,
    checked: u16,
    pad: [u8; 2],
    cowextsize: u32,
    dmevmask: u32,
    dmstate: u16,
    aextents: u16,
}
const _: () = assert!(size_of::<BulkTime>() == 16 && size_of::<BulkStat>() == 136);

impl BulkStat {
    /// With times as (seconds, nanoseconds).
    pub fn new(ino: u64, mtime: (i64, i64), ctime: (i64, i64)) -> Self {
        let time = |(seconds, nanoseconds): (i64, i64)| BulkTime {
            seconds,
            nanoseconds: nanoseconds as i32,
        };
        Self {
            ino,
            mtime: time(mtime),
            ctime: time(ctime),
            ..Self::default()
        }
    }
}

/// struct xfs_swapext of xfs_fs.h.
#[repr(C)]
struct SwapExtents {
    version: i64,
    fdtarget: i64,
    fdtmp: i64,
    offset: i64,
    length: i64,
    pad: [u8; 16],
    stat: BulkStat,
}
const _: () = assert!(size_of::<SwapExtents>() == 192);

/// XFS_IOC_SWAPEXT: `_IOWR('X', 109, struct xfs_swapext)`, over the whole length of both files.
pub fn swap_extents(target: &File, other: &File, length: u64, stat: BulkStat) -> io::Result<()> {
    let request = SwapExtents {
        version: 0,
        fdtarget: target.as_raw_fd().into(),
        fdtmp: other.as_raw_fd().into(),
        offset: 0,
        length: length as i64,
        pad: [0; 16],
        stat,
    };
    // SAFETY: the struct is what this request reads.
    result(unsafe { libc::ioctl(target.as_raw_fd(), 0xc0c0_586d, &request) })
}

/// A child process under RLIMIT_FSIZE that resizes a file on demand; the limit is the child's
/// alone.
pub struct LimitedChild {
    pid: Pid,
    /// None only while it is being dropped.
    requests: Option<PipeWriter>,
    replies: PipeReader,
}

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
        let (requests_in, requests) = io::pipe()?;
        let (replies, replies_out) = io::pipe()?;
        // SAFETY: the child makes bare system calls and _exit, on memory that it has already.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let own = [requests.as_raw_fd(), replies.as_raw_fd()];
                serve(
                    file.as_raw_fd(),
                    limit,
                    own,
                    requests_in.as_raw_fd(),
                    replies_out.as_raw_fd(),
                )
            }
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                requests: Some(requests),
                replies,
            }),
        }
    }

    /// Has it try; the child's error is returned as if it were ours.
    pub fn resize(&mut self, how: Resize, bytes: u64) -> io::Result<()> {
        let Some(requests) = &mut self.requests else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        requests.write_all(&(bytes << 1 | how as u64).to_ne_bytes())?;
        let mut reply = [0; 8];
        self.replies.read_exact(&mut reply)?;
        match u64::from_ne_bytes(reply) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno as i32)),
        }
    }
}

impl Drop for LimitedChild {
    fn drop(&mut self) {
        // End of file on its pipe ends the child.
        self.requests = None;
        let _ = waitpid(self.pid, None);
    }
}

fn serve(file: RawFd, limit: u64, close: [RawFd; 2], requests: RawFd, replies: RawFd) -> ! {
    // SAFETY: async-signal-safe calls only, for other threads of the parent may have held any lock
    // at the fork. The buffer is local.
    unsafe {
        for descriptor in close {
            libc::close(descriptor);
        }
        // The parent decides when a signal from the terminal ends the run.
        for signal in [libc::SIGXFSZ, libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_IGN);
        }
        let limits = libc::rlimit {
            rlim_cur: limit,
            rlim_max: limit,
        };
        if libc::setrlimit(libc::RLIMIT_FSIZE, &limits) != 0 {
            libc::_exit(1);
        }
        let mut word = 0u64;
        while libc::read(requests, (&raw mut word).cast(), 8) == 8 {
            let bytes = (word >> 1) as libc::off_t;
            let status = if word & 1 == Resize::Allocate as u64 {
                libc::fallocate(file, 0, 0, bytes)
            } else {
                libc::ftruncate(file, bytes)
            };
            let reply = if status == 0 {
                0
            } else {
                *libc::__errno_location() as u64
            };
            if libc::write(replies, (&raw const reply).cast(), 8) != 8 {
                break;
            }
        }
        libc::_exit(0)
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
}
