//! The operations that move extents or clean pages, under the names that findings use for them.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FallocateFlags, fallocate};

use super::kernel;
use super::pages::PageRange;

/// What the manipulator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// fallocate(2), punch hole.
    PunchHole,
    /// fallocate(2), zero range.
    ZeroRange,
    /// fallocate(2), collapse range.
    CollapseRange,
    /// fallocate(2), insert range.
    InsertRange,
    /// fallocate(2), preallocation.
    Preallocate,
    /// ftruncate(2).
    Truncate,
    /// ftruncate(2) beyond RLIMIT_FSIZE, which must fail.
    TruncateError,
    /// fallocate(2) beyond RLIMIT_FSIZE, which must fail.
    PreallocateError,
    /// write(2).
    Write,
    /// sync_file_range(2).
    SyncRange,
    /// fdatasync(2).
    DataSync,
    /// msync(2) with MS_SYNC.
    MapSync,
    /// ioctl(2), XFS_IOC_SWAPEXT.
    SwapExtents,
    /// ioctl(2), FICLONERANGE.
    CloneRange,
}

impl Operation {
    /// All, in the order of their numbers.
    pub const ALL: [Operation; 14] = {
        use Operation::*;
        [
            PunchHole,
            ZeroRange,
            CollapseRange,
            InsertRange,
            Preallocate,
            Truncate,
            TruncateError,
            PreallocateError,
            Write,
            SyncRange,
            DataSync,
            MapSync,
            SwapExtents,
            CloneRange,
        ]
    };

    /// The name in summaries and findings.
    pub fn name(self) -> &'static str {
        match self {
            Operation::PunchHole => "fallocate/PUNCH_HOLE",
            Operation::ZeroRange => "fallocate/ZERO_RANGE",
            Operation::CollapseRange => "fallocate/COLLAPSE_RANGE",
            Operation::InsertRange => "fallocate/INSERT_RANGE",
            Operation::Preallocate => "fallocate",
            Operation::Truncate => "setattr/truncate",
            Operation::TruncateError => "setattr/truncate(error)",
            Operation::PreallocateError => "fallocate(error)",
            Operation::Write => "write",
            Operation::SyncRange => "sync_file_range",
            Operation::DataSync => "fdatasync",
            Operation::MapSync => "msync",
            Operation::SwapExtents => "XFS_IOC_SWAPEXT",
            Operation::CloneRange => "FICLONERANGE",
        }
    }
}

fn change(file: &File, flags: FallocateFlags, range: PageRange) -> io::Result<()> {
    Ok(fallocate(
        file,
        flags,
        range.offset() as libc::off_t,
        range.bytes() as libc::off_t,
    )?)
}

/// Makes a hole; the size stays.
pub fn punch(file: &File, range: PageRange) -> io::Result<()> {
    change(
        file,
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        range,
    )
}

/// Zeroes by converting to unwritten extents; the size stays.
pub fn zero(file: &File, range: PageRange) -> io::Result<()> {
    change(
        file,
        FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        range,
    )
}

/// Takes the range out of the file, which shrinks.
pub fn collapse(file: &File, range: PageRange) -> io::Result<()> {
    change(file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, range)
}

/// Puts a hole in, before what was there; the file grows.
pub fn insert(file: &File, range: PageRange) -> io::Result<()> {
    change(file, FallocateFlags::FALLOC_FL_INSERT_RANGE, range)
}

/// Allocates unwritten extents where there are holes.
pub fn preallocate(file: &File, range: PageRange) -> io::Result<()> {
    change(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, range)
}

/// Starts the write-back of the range's dirty pages, which write-protects them; on DAX flushes and
/// write-protects them.
pub fn clean(file: &File, range: PageRange) -> io::Result<()> {
    kernel::start_writeback(file, range.offset(), range.bytes())
}

/// Shares `source`'s extents of the range with `target`, at the same offset.
pub fn clone(source: &File, target: &File, range: PageRange) -> io::Result<()> {
    kernel::clone_range(source, target, range.offset(), range.bytes())
}

/// Exchanges all extents of two files of one size. EBUSY when one was modified at the same time:
/// the kernel compares the times of `target` with those seen just before.
pub fn swap(target: &File, other: &File) -> io::Result<()> {
    let seen = target.metadata()?;
    let stat = kernel::BulkStat::new(
        seen.ino(),
        (seen.mtime(), seen.mtime_nsec()),
        (seen.ctime(), seen.ctime_nsec()),
    );
    kernel::swap_extents(target, other, seen.size(), stat)
}
