//! The operations that move extents or clean pages, under the names that findings use for them.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FallocateFlags, fallocate};

use super::kernel;
use super::pages::PageRange;

/// What an actor does.
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
    /// fallocate(2), unshare range.
    UnshareRange,
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
    /// write(2) beyond EOF.
    Append,
    /// read(2) with O_DIRECT.
    DirectRead,
    /// write(2) with O_DIRECT.
    DirectWrite,
    /// io_submit(2) of writes with O_DIRECT, until all are done.
    AsyncWrite,
    /// io_uring_enter(2) of the same.
    RingWrite,
    /// sync_file_range(2).
    SyncRange,
    /// fsync(2).
    FileSync,
    /// fdatasync(2).
    DataSync,
    /// syncfs(2).
    SyncFilesystem,
    /// msync(2) with MS_SYNC.
    MapSync,
    /// posix_fadvise(2), POSIX_FADV_DONTNEED.
    DropCaches,
    /// ioctl(2), XFS_IOC_SWAPEXT.
    SwapExtents,
    /// ioctl(2), XFS_IOC_EXCHANGE_RANGE.
    ExchangeRange,
    /// ioctl(2), FICLONERANGE.
    CloneRange,
    /// ioctl(2), FIDEDUPERANGE.
    DedupeRange,
    /// copy_file_range(2).
    CopyRange,
    /// ioctl(2), EXT4_IOC_MOVE_EXT.
    MoveExtents,
    /// ioctl(2), EXT4_IOC_SWAP_BOOT.
    SwapBoot,
    /// ioctl(2), FIFREEZE.
    Freeze,
    /// ioctl(2), FITHAW.
    Thaw,
    /// fork(2), of a process that has the file mapped.
    Fork,
    /// A store to a private mapping.
    PrivateStore,
    /// unlink(2), of a file that stays mapped.
    Unlink,
    /// A page held by vmsplice(2).
    Pin,
    /// mount(2) with MS_REMOUNT.
    Remount,
    /// ioctl(2), FS_IOC_FSSETXATTR of FS_XFLAG_DAX.
    DaxFlag,
    /// The last close(2) and an open(2), between which the file changed between DAX and page cache.
    DaxSwitch,
}

impl Operation {
    /// All, in the order of their numbers.
    pub const ALL: [Operation; 37] = {
        use Operation::*;
        [
            PunchHole,
            ZeroRange,
            CollapseRange,
            InsertRange,
            UnshareRange,
            Preallocate,
            Truncate,
            TruncateError,
            PreallocateError,
            Write,
            Append,
            DirectRead,
            DirectWrite,
            AsyncWrite,
            RingWrite,
            SyncRange,
            FileSync,
            DataSync,
            SyncFilesystem,
            MapSync,
            DropCaches,
            SwapExtents,
            ExchangeRange,
            CloneRange,
            DedupeRange,
            CopyRange,
            MoveExtents,
            SwapBoot,
            Freeze,
            Thaw,
            Fork,
            PrivateStore,
            Unlink,
            Pin,
            Remount,
            DaxFlag,
            DaxSwitch,
        ]
    };

    /// The name in summaries and findings.
    pub fn name(self) -> &'static str {
        match self {
            Operation::PunchHole => "fallocate/PUNCH_HOLE",
            Operation::ZeroRange => "fallocate/ZERO_RANGE",
            Operation::CollapseRange => "fallocate/COLLAPSE_RANGE",
            Operation::InsertRange => "fallocate/INSERT_RANGE",
            Operation::UnshareRange => "fallocate/UNSHARE_RANGE",
            Operation::Preallocate => "fallocate",
            Operation::Truncate => "setattr/truncate",
            Operation::TruncateError => "setattr/truncate(error)",
            Operation::PreallocateError => "fallocate(error)",
            Operation::Write => "write",
            Operation::Append => "write(extending)",
            Operation::DirectRead => "direct-read",
            Operation::DirectWrite => "direct-write",
            Operation::AsyncWrite => "async-direct-write",
            Operation::RingWrite => "ring-direct-write",
            Operation::SyncRange => "sync_file_range",
            Operation::FileSync => "fsync",
            Operation::DataSync => "fdatasync",
            Operation::SyncFilesystem => "syncfs",
            Operation::MapSync => "msync",
            Operation::DropCaches => "fadvise/DONTNEED",
            Operation::SwapExtents => "XFS_IOC_SWAPEXT",
            Operation::ExchangeRange => "XFS_IOC_EXCHANGE_RANGE",
            Operation::CloneRange => "FICLONERANGE",
            Operation::DedupeRange => "FIDEDUPERANGE",
            Operation::CopyRange => "copy_file_range",
            Operation::MoveExtents => "EXT4_IOC_MOVE_EXT",
            Operation::SwapBoot => "EXT4_IOC_SWAP_BOOT",
            Operation::Freeze => "FIFREEZE",
            Operation::Thaw => "FITHAW",
            Operation::Fork => "fork",
            Operation::PrivateStore => "store(MAP_PRIVATE)",
            Operation::Unlink => "unlink",
            Operation::Pin => "vmsplice",
            Operation::Remount => "mount/REMOUNT",
            Operation::DaxFlag => "FS_XFLAG_DAX",
            Operation::DaxSwitch => "DAX switched",
        }
    }

    /// What makes it possible where the filesystem refuses it.
    pub fn hint(self) -> Option<&'static str> {
        match self {
            Operation::CloneRange | Operation::DedupeRange | Operation::UnshareRange => {
                Some("needs reflink, as mkfs.xfs -m reflink=1 gives")
            }
            Operation::ExchangeRange => {
                Some("needs Linux 6.10 and exchange, as mkfs.xfs -i exchange=1 gives")
            }
            Operation::MoveExtents => Some("needs extents and the page cache, not DAX"),
            _ => None,
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

/// Makes shared blocks the file's own.
pub fn unshare(file: &File, range: PageRange) -> io::Result<()> {
    change(file, FallocateFlags::FALLOC_FL_UNSHARE_RANGE, range)
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
