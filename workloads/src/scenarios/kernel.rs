//! System calls that have no safe wrapper elsewhere, each behind one that is.

use std::fs::File;
use std::io::{self, PipeWriter};
use std::mem::size_of;
use std::os::fd::AsRawFd;

use nix::sys::utsname::uname;
use tracer::judge::annotations::Version;

use super::mapping::Mapping;
use super::pages::{PAGE, PageRange};

fn result(status: libc::c_int) -> io::Result<()> {
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Of the running kernel, if its name begins with one.
pub fn version() -> Option<Version> {
    Version::parse(uname().ok()?.release().to_str()?)
}

/// For `map_err`: these errors mean no more than "not now".
pub fn busy_if(errnos: &'static [i32]) -> impl Fn(io::Error) -> io::Error {
    move |error| match error.raw_os_error() {
        Some(errno) if errnos.contains(&errno) => io::Error::from_raw_os_error(libc::EAGAIN),
        _ => error,
    }
}

/// The host's side of a virtiofs device of the lab's (workloads/virtiofs/virtiofs_host.h).
pub struct VirtiofsHost(File);

impl VirtiofsHost {
    /// If the filesystem is on such a device.
    pub fn open() -> Option<Self> {
        File::open("/dev/virtiofs-host").map(Self).ok()
    }

    /// Gives a file another size, of which this client is not told.
    pub fn resize(&self, inode: u64, size: u64) -> io::Result<()> {
        let request = [inode, size];
        // SAFETY: the request is as large as virtiofs_host_size, and read only.
        result(unsafe { libc::ioctl(self.0.as_raw_fd(), 0x7601, &request) })
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

/// FICLONERANGE: `_IOW(0x94, 13, struct file_clone_range)`. Each file comes with its offset.
pub fn clone_range(
    (source, from): (&File, u64),
    (target, to): (&File, u64),
    bytes: u64,
) -> io::Result<()> {
    let request = FileCloneRange {
        src_fd: source.as_raw_fd().into(),
        src_offset: from,
        src_length: bytes,
        dest_offset: to,
    };
    // SAFETY: the struct is what this request reads.
    result(unsafe { libc::ioctl(target.as_raw_fd(), 0x4020_940d, &request) })
}

/// struct xfs_fs_eofblocks of xfs_fs.h.
#[repr(C)]
#[derive(Default)]
struct EofBlocks {
    version: u32,
    flags: u32,
    ids: [u32; 4],
    min_file_size: u64,
    reserved: [u64; 12],
}
const _: () = assert!(size_of::<EofBlocks>() == 128);

/// Has XFS give up blocks that it keeps for files beyond EOF or for copies (XFS_IOC_FREE_EOFBLOCKS): of every file
/// that nothing is under way to, waiting for others.
pub fn trim_blocks(any: &File) -> io::Result<()> {
    const VERSION: u32 = 1;
    const SYNC: u32 = 1;
    let request = EofBlocks {
        version: VERSION,
        flags: SYNC,
        ..EofBlocks::default()
    };
    // SAFETY: the struct is what this request reads.
    result(unsafe { libc::ioctl(any.as_raw_fd(), 0x8080_583a, &request) })
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

/// struct file_dedupe_range with one struct file_dedupe_range_info, of linux/fs.h.
#[repr(C)]
struct DedupeRange {
    src_offset: u64,
    src_length: u64,
    dest_count: u16,
    reserved1: u16,
    reserved2: u32,
    dest_fd: i64,
    dest_offset: u64,
    bytes_deduped: u64,
    status: i32,
    reserved: u32,
}
const _: () = assert!(size_of::<DedupeRange>() == 56);

/// FIDEDUPERANGE: `_IOWR(0x94, 54, struct file_dedupe_range)`. True if the data was the same and is
/// shared now.
pub fn dedupe_range(source: &File, target: &File, offset: u64, bytes: u64) -> io::Result<bool> {
    let mut request = DedupeRange {
        src_offset: offset,
        src_length: bytes,
        dest_count: 1,
        reserved1: 0,
        reserved2: 0,
        dest_fd: target.as_raw_fd().into(),
        dest_offset: offset,
        bytes_deduped: 0,
        status: 0,
        reserved: 0,
    };
    // SAFETY: the struct is what this request reads and writes.
    result(unsafe { libc::ioctl(source.as_raw_fd(), 0xc018_9436, &mut request) })?;
    match request.status {
        // FILE_DEDUPE_RANGE_SAME, FILE_DEDUPE_RANGE_DIFFERS.
        0 => Ok(true),
        1 => Ok(false),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// copy_file_range(2) of a whole range, at the same offset.
pub fn copy_range(source: &File, target: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let (mut from, mut to) = (offset as libc::off64_t, offset as libc::off64_t);
    let end = (offset + bytes) as libc::off64_t;
    while from < end {
        // SAFETY: both offsets are ours.
        let copied = unsafe {
            libc::copy_file_range(
                source.as_raw_fd(),
                &mut from,
                target.as_raw_fd(),
                &mut to,
                (end - from) as usize,
                0,
            )
        };
        match copied {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n if n < 0 => return Err(io::Error::last_os_error()),
            _ => {}
        }
    }
    Ok(())
}

/// struct xfs_exchange_range of xfs_fs.h.
#[repr(C)]
struct ExchangeRange {
    file1_fd: i32,
    pad: u32,
    file1_offset: u64,
    file2_offset: u64,
    length: u64,
    flags: u64,
}
const _: () = assert!(size_of::<ExchangeRange>() == 40);

/// XFS_IOC_EXCHANGE_RANGE: `_IOW('X', 129, struct xfs_exchange_range)`. Each file comes with its offset; of one file the
/// ranges must not overlap.
pub fn exchange_range(
    (one, from): (&File, u64),
    (two, to): (&File, u64),
    bytes: u64,
) -> io::Result<()> {
    let request = ExchangeRange {
        file1_fd: one.as_raw_fd(),
        pad: 0,
        file1_offset: from,
        file2_offset: to,
        length: bytes,
        flags: 0,
    };
    // SAFETY: the struct is what this request reads.
    result(unsafe { libc::ioctl(two.as_raw_fd(), 0x4028_5881, &request) })
}

/// struct move_extent of fs/ext4/ext4.h.
#[repr(C)]
struct MoveExtent {
    reserved: u32,
    donor_fd: u32,
    orig_start: u64,
    donor_start: u64,
    len: u64,
    moved_len: u64,
}
const _: () = assert!(size_of::<MoveExtent>() == 40);

/// EXT4_IOC_MOVE_EXT: `_IOWR('f', 15, struct move_extent)`, at the same place of both files, in blocks.
pub fn move_extents(file: &File, donor: &File, first: u64, blocks: u64) -> io::Result<()> {
    let mut request = MoveExtent {
        reserved: 0,
        donor_fd: donor.as_raw_fd() as u32,
        orig_start: first,
        donor_start: first,
        len: blocks,
        moved_len: 0,
    };
    // SAFETY: the struct is what this request reads and writes.
    result(unsafe { libc::ioctl(file.as_raw_fd(), 0xc028_660f, &mut request) })
}

/// EXT4_IOC_SWAP_BOOT: `_IO('f', 17)`. Exchanges the file's data and size with the boot loader
/// inode's.
pub fn swap_boot(file: &File) -> io::Result<()> {
    // SAFETY: the request has no argument.
    result(unsafe { libc::ioctl(file.as_raw_fd(), 0x6611) })
}

/// struct fsxattr of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct FileAttributes {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}
const _: () = assert!(size_of::<FileAttributes>() == 28);

/// FS_IOC_FSGETXATTR, then FS_IOC_FSSETXATTR with what `change` made of it.
fn change_attributes(file: &File, change: impl FnOnce(&mut FileAttributes)) -> io::Result<()> {
    const GET: libc::c_ulong = 0x801c_581f;
    const SET: libc::c_ulong = 0x401c_5820;
    let mut attributes = FileAttributes::default();
    // SAFETY: the struct is what both requests read or write.
    unsafe {
        result(libc::ioctl(file.as_raw_fd(), GET, &mut attributes))?;
        change(&mut attributes);
        result(libc::ioctl(file.as_raw_fd(), SET, &attributes))
    }
}

/// Asks that the file's extents be allocated in aligned pieces of so many bytes
/// (`FS_XFLAG_EXTSIZE`), which XFS and few others do. The file must be empty.
pub fn hint_extent_size(file: &File, bytes: u32) -> io::Result<()> {
    change_attributes(file, |attributes| {
        attributes.xflags |= 0x800;
        attributes.extsize = bytes;
    })
}

/// Asks for access without page cache, or with it (`FS_XFLAG_DAX`, chattr +x). On a mount with
/// `dax=inode` it holds from when the inode is read in the next time.
pub fn set_dax_flag(file: &File, on: bool) -> io::Result<()> {
    const DAX: u32 = 0x8000;
    change_attributes(file, |attributes| match on {
        true => attributes.xflags |= DAX,
        false => attributes.xflags &= !DAX,
    })
}

/// A flag that chattr(1) sets or clears.
#[derive(Clone, Copy, Debug)]
pub enum Attribute {
    /// `EXT4_JOURNAL_DATA_FL`: the file's data is journalled.
    JournalData = 0x4000,
    /// `EXT4_EXTENTS_FL`: the file's map of blocks is one of extents.
    Extents = 0x8_0000,
}

/// Sets or clears an attribute, by FS_IOC_GETFLAGS and FS_IOC_SETFLAGS.
pub fn set_attribute(file: &File, attribute: Attribute, on: bool) -> io::Result<()> {
    const GET: libc::c_ulong = 0x8008_6601;
    const SET: libc::c_ulong = 0x4008_6602;
    let mut flags: libc::c_long = 0;
    // SAFETY: both requests read or write at most a long.
    unsafe {
        result(libc::ioctl(file.as_raw_fd(), GET, &mut flags))?;
        flags = match on {
            true => flags | attribute as libc::c_long,
            false => flags & !(attribute as libc::c_long),
        };
        result(libc::ioctl(file.as_raw_fd(), SET, &flags))
    }
}

/// pwrite(2) of memory that is mapped nowhere.
pub fn write_from_nowhere(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    // The first page of an address space stays empty (vm.mmap_min_addr); direct I/O wants it aligned.
    let nowhere = std::ptr::null();
    // SAFETY: the kernel looks before it reads.
    let written = unsafe {
        libc::pwrite(
            file.as_raw_fd(),
            nowhere,
            bytes as usize,
            offset as libc::off_t,
        )
    };
    match written {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// syncfs(2).
pub fn sync_filesystem(file: &File) -> io::Result<()> {
    // SAFETY: a plain descriptor.
    result(unsafe { libc::syncfs(file.as_raw_fd()) })
}

/// posix_fadvise(2) with `POSIX_FADV_DONTNEED`: drops clean pages from the cache.
pub fn drop_cache(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    advise(file, offset, bytes, libc::POSIX_FADV_DONTNEED)
}

/// posix_fadvise(2) with `POSIX_FADV_WILLNEED`: reads pages into the cache.
pub fn read_ahead(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    advise(file, offset, bytes, libc::POSIX_FADV_WILLNEED)
}

fn advise(file: &File, offset: u64, bytes: u64, advice: libc::c_int) -> io::Result<()> {
    let (offset, bytes) = (offset as libc::off_t, bytes as libc::off_t);
    // SAFETY: plain numbers.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, bytes, advice) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the file into memory.
    Read,
    /// From memory into the file.
    Write,
}

/// pread(2) or pwrite(2) with a buffer in a mapping, once; how many bytes went.
pub fn transfer(
    file: &File,
    way: Way,
    offset: u64,
    mapping: &Mapping,
    buffer: PageRange,
) -> io::Result<usize> {
    let (at, bytes) = (mapping.buffer(buffer), buffer.bytes() as usize);
    let offset = offset as libc::off_t;
    // SAFETY: the buffer lies in the mapping, whose memory nobody has a reference to: all access is
    // through raw addresses. The kernel answers EFAULT where an access would get SIGBUS.
    let done = unsafe {
        match way {
            Way::Read => libc::pread(file.as_raw_fd(), at.cast(), bytes, offset),
            Way::Write => libc::pwrite(file.as_raw_fd(), at.cast(), bytes, offset),
        }
    };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// struct fiemap of linux/fiemap.h, without its extents.
#[repr(C)]
struct ExtentList {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<ExtentList>() == 32);

/// FS_IOC_FIEMAP of a file, whose extents are copied to a page of `memory` at byte `at`: to a private mapping of
/// it that nobody has touched, so that it faults, and stays what it is. EFAULT where that lies beyond EOF.
pub fn list_extents(file: &File, memory: &File, at: u64) -> io::Result<()> {
    const FIEMAP: libc::c_ulong = 0xc020_660b;
    /// Bytes of a struct fiemap_extent.
    const EXTENT: u64 = 56;
    let page = PAGE as usize;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, where the kernel likes; its second page is replaced by one of the file. The head
    // lies at the end of the first, so that what follows it is the second, which only the kernel accesses.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), 2 * page, access, anonymous, -1, 0);
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let second = start.byte_add(page);
        let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED;
        let at = at as libc::off_t;
        let mapped = libc::mmap(second, page, access, fixed, memory.as_raw_fd(), at);
        let done = if mapped == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            let head = second.byte_sub(size_of::<ExtentList>()).cast();
            std::ptr::write(
                head,
                ExtentList {
                    start: 0,
                    length: u64::MAX,
                    flags: 0,
                    mapped_extents: 0,
                    extent_count: (PAGE / EXTENT) as u32,
                    reserved: 0,
                },
            );
            result(libc::ioctl(file.as_raw_fd(), FIEMAP, head))
        };
        result(libc::munmap(start, 2 * page)).and(done)
    }
}

/// Has a pipe hold the mapping's pages themselves, not copies (vmsplice(2)): they stay pinned until
/// read. How many bytes it took.
pub fn pin(pipe: &PipeWriter, mapping: &Mapping, pages: PageRange) -> io::Result<usize> {
    let vector = libc::iovec {
        iov_base: mapping.buffer(pages).cast(),
        iov_len: pages.bytes() as usize,
    };
    // SAFETY: one vector, whose range lies in the mapping.
    let taken = unsafe { libc::vmsplice(pipe.as_raw_fd(), &vector, 1, libc::SPLICE_F_NONBLOCK) };
    usize::try_from(taken).map_err(|_| io::Error::last_os_error())
}
