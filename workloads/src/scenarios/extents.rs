//! The operations that move extents or clean pages, under the names that findings use for them.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FallocateFlags, fallocate};

use super::kernel;
use super::pages::{PAGE, PageRange};

/// Makes the enumeration of the operations from their table.
macro_rules! operations {
    ($($(#[$doc:meta])* $operation:ident = $name:literal,)*) => {
        /// What an actor does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $($(#[$doc])* $operation,)*
        }

        impl Operation {
            /// All, in the order of their numbers.
            pub const ALL: &[Operation] = &[$(Operation::$operation,)*];

            /// The name in summaries and findings.
            pub fn name(self) -> &'static str {
                match self {
                    $(Operation::$operation => $name,)*
                }
            }
        }
    };
}

operations! {
    /// fallocate(2), punch hole.
    PunchHole = "fallocate/PUNCH_HOLE",
    /// fallocate(2), zero range.
    ZeroRange = "fallocate/ZERO_RANGE",
    /// fallocate(2), collapse range.
    CollapseRange = "fallocate/COLLAPSE_RANGE",
    /// fallocate(2), insert range.
    InsertRange = "fallocate/INSERT_RANGE",
    /// fallocate(2), unshare range.
    UnshareRange = "fallocate/UNSHARE_RANGE",
    /// fallocate(2), preallocation.
    Preallocate = "fallocate",
    /// ftruncate(2).
    Truncate = "setattr/truncate",
    /// ftruncate(2) beyond RLIMIT_FSIZE, which must fail.
    TruncateError = "setattr/truncate(error)",
    /// fallocate(2) beyond RLIMIT_FSIZE, which must fail.
    PreallocateError = "fallocate(error)",
    /// fallocate(2), collapse range up to EOF, which must fail.
    CollapseError = "fallocate/COLLAPSE_RANGE(error)",
    /// fallocate(2), insert range at or beyond what is possible, which must fail.
    InsertError = "fallocate/INSERT_RANGE(error)",
    /// XFS_IOC_SWAPEXT of a file that looks modified, or of a part of one, which must fail.
    SwapError = "XFS_IOC_SWAPEXT(error)",
    /// XFS_IOC_EXCHANGE_RANGE from where no block begins, which must fail.
    ExchangeError = "XFS_IOC_EXCHANGE_RANGE(error)",
    /// EXT4_IOC_SWAP_BOOT of a file without a name, which must fail.
    SwapBootError = "EXT4_IOC_SWAP_BOOT(error)",
    /// ioctl(2), FICLONERANGE; refused.
    CloneError = "FICLONERANGE(error)",
    /// write(2).
    Write = "write",
    /// write(2) beyond EOF.
    Append = "write(extending)",
    /// read(2) into a mapping.
    Read = "read",
    /// read(2) with O_DIRECT.
    DirectRead = "direct-read",
    /// write(2) with O_DIRECT.
    DirectWrite = "direct-write",
    /// io_submit(2) of writes with O_DIRECT, until all are done.
    AsyncWrite = "async-direct-write",
    /// io_uring_enter(2) of the same.
    RingWrite = "ring-direct-write",
    /// sync_file_range(2).
    SyncRange = "sync_file_range",
    /// fsync(2).
    FileSync = "fsync",
    /// fdatasync(2).
    DataSync = "fdatasync",
    /// syncfs(2).
    SyncFilesystem = "syncfs",
    /// msync(2) with MS_SYNC.
    MapSync = "msync",
    /// posix_fadvise(2), POSIX_FADV_DONTNEED.
    DropCaches = "fadvise/DONTNEED",
    /// posix_fadvise(2), POSIX_FADV_WILLNEED.
    ReadAhead = "fadvise/WILLNEED",
    /// ioctl(2), XFS_IOC_SWAPEXT.
    SwapExtents = "XFS_IOC_SWAPEXT",
    /// ioctl(2), XFS_IOC_EXCHANGE_RANGE.
    ExchangeRange = "XFS_IOC_EXCHANGE_RANGE",
    /// ioctl(2), FICLONERANGE.
    CloneRange = "FICLONERANGE",
    /// ioctl(2), FIDEDUPERANGE.
    DedupeRange = "FIDEDUPERANGE",
    /// copy_file_range(2).
    CopyRange = "copy_file_range",
    /// ioctl(2), EXT4_IOC_MOVE_EXT.
    MoveExtents = "EXT4_IOC_MOVE_EXT",
    /// ioctl(2), EXT4_IOC_SWAP_BOOT.
    SwapBoot = "EXT4_IOC_SWAP_BOOT",
    /// ioctl(2), FIFREEZE.
    Freeze = "FIFREEZE",
    /// ioctl(2), FITHAW.
    Thaw = "FITHAW",
    /// fork(2), of a process that has the file mapped.
    Fork = "fork",
    /// A store to a private mapping.
    PrivateStore = "store(MAP_PRIVATE)",
    /// unlink(2), of a file that stays mapped.
    Unlink = "unlink",
    /// open(2) and close(2).
    Open = "open",
    /// stat(2), of a file that changed on the server.
    Stat = "stat",
    /// A page held by vmsplice(2).
    Pin = "vmsplice",
    /// mount(2) with MS_REMOUNT.
    Remount = "mount/REMOUNT",
    /// ioctl(2), FS_IOC_FSSETXATTR of FS_XFLAG_DAX.
    DaxFlag = "FS_XFLAG_DAX",
    /// The last close(2) and an open(2), between which the file changed between DAX and page cache.
    DaxSwitch = "DAX switched",
    /// write(2) of memory that nobody has, which must fail.
    WriteError = "write(error)",
    /// ioctl(2), FS_IOC_SETFLAGS of EXT4_JOURNAL_DATA_FL.
    JournalMode = "EXT4_JOURNAL_DATA_FL",
    /// ioctl(2), FS_IOC_SETFLAGS of EXT4_EXTENTS_FL.
    MapFormat = "EXT4_EXTENTS_FL",
    /// ioctl(2), FS_IOC_FIEMAP, into a mapping.
    ListExtents = "FS_IOC_FIEMAP",
    /// ioctl(2), XFS_IOC_FREE_EOFBLOCKS.
    TrimBlocks = "XFS_IOC_FREE_EOFBLOCKS",
}

impl Operation {
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

/// Makes what data of `bytes` gone; blocks that they do not fill are zeroed there. The size stays.
pub fn discard_bytes(
    file: &File,
    operation: Operation,
    (offset, length): (u64, u64),
) -> io::Result<()> {
    let how = match operation {
        Operation::ZeroRange => FallocateFlags::FALLOC_FL_ZERO_RANGE,
        _ => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
    };
    let flags = how | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (offset, length) = (offset as libc::off_t, length as libc::off_t);
    Ok(fallocate(file, flags, offset, length)?)
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

/// Has the file reach as far as these bytes if it is shorter, and have blocks there: by preallocation where there are
/// none, or by zeroing.
pub fn extend(file: &File, operation: Operation, (offset, length): (u64, u64)) -> io::Result<()> {
    let flags = match operation {
        Operation::ZeroRange => FallocateFlags::FALLOC_FL_ZERO_RANGE,
        _ => FallocateFlags::empty(),
    };
    let (offset, length) = (offset as libc::off_t, length as libc::off_t);
    Ok(fallocate(file, flags, offset, length)?)
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
    let offset = range.offset();
    kernel::clone_range((source, offset), (target, offset), range.bytes())
}

/// Exchanges all extents of two files of one size. EBUSY when one was modified at the same time:
/// the kernel compares the times of `target` with those seen just before.
pub fn swap(target: &File, other: &File) -> io::Result<()> {
    swap_as_seen(target, other, 0, 0)
}

/// All but the last page: EFAULT, from under the locks.
pub fn swap_part(target: &File, other: &File) -> io::Result<()> {
    swap_as_seen(target, other, 0, PAGE)
}

/// The whole, but as if `target` had been modified since: EBUSY, from under the locks.
pub fn swap_stale(target: &File, other: &File) -> io::Result<()> {
    swap_as_seen(target, other, -1, 0)
}

fn swap_as_seen(target: &File, other: &File, seconds: i64, short: u64) -> io::Result<()> {
    let seen = target.metadata()?;
    let stat = kernel::BulkStat::new(
        seen.ino(),
        (seen.mtime() + seconds, seen.mtime_nsec()),
        (seen.ctime(), seen.ctime_nsec()),
    );
    kernel::swap_extents(target, other, seen.size().saturating_sub(short), stat)
}
