//! What an entry point and its payload amount to: the operation's name and what it does to extents.

use serde::{Serialize, Serializer};

use crate::{
    hooks::{Entry, Install},
    units::ByteRange,
};

/// An operation or a fault, under the name that findings use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Operation {
    /// FALLOC_FL_PUNCH_HOLE
    PunchHole,
    /// FALLOC_FL_ZERO_RANGE
    ZeroRange,
    /// FALLOC_FL_COLLAPSE_RANGE
    CollapseRange,
    /// FALLOC_FL_INSERT_RANGE
    InsertRange,
    /// FALLOC_FL_UNSHARE_RANGE
    UnshareRange,
    /// FALLOC_FL_WRITE_ZEROES
    WriteZeroes,
    /// fallocate(2) in mode 0 or with FALLOC_FL_KEEP_SIZE alone
    Preallocate,
    /// A size change: truncate(2), ftruncate(2), O_TRUNC
    Truncate,
    /// XFS_IOC_SWAPEXT
    SwapExtents,
    /// XFS_IOC_EXCHANGE_RANGE
    ExchangeRange,
    /// FICLONE, FICLONERANGE, copy_file_range(2)
    Reflink,
    /// FIDEDUPERANGE
    Dedupe,
    /// EXT4_IOC_SWAP_BOOT
    SwapBoot,
    /// EXT4_IOC_MOVE_EXT
    MoveExtents,
    /// FS_IOC_SETFLAGS with EXT4_JOURNAL_DATA_FL
    JournalMode,
    /// FS_IOC_SETFLAGS that ends the journalling of a file's data
    JournalModeOff,
    /// FS_IOC_SETFLAGS with EXT4_EXTENTS_FL, EXT4_IOC_MIGRATE
    MapFormat,
    /// write(2) to a DAX file
    DaxWrite,
    /// write(2) with O_DIRECT
    DirectWrite,
    /// write(2) through the page cache
    BufferedWrite,
    /// read(2) from a DAX file
    DaxRead,
    /// read(2) with O_DIRECT
    DirectRead,
    /// read(2) through the page cache
    BufferedRead,
    /// FS_IOC_FIEMAP
    Fiemap,
    /// posix_fadvise(2), readahead(2), madvise(2)
    Advise,
    /// XFS's collection of copies that nothing needs: XFS_IOC_FREE_EOFBLOCKS, or a worker
    TrimCopies,
    /// XFS's blocks handed to a pNFS client
    LayoutGet,
    /// XFS's blocks that a pNFS client has written
    LayoutCommit,
    /// open(2) of a file whose server may have changed it
    Open,
    /// What a file's server says of its size and times, taken over
    Attributes,
    /// Writeback
    Writeback,
    /// A worker, for pages that were written back
    WrittenBack,
    /// `vm_ops.page_mkwrite`
    PageMkwrite,
    /// `vm_ops.pfn_mkwrite`
    PfnMkwrite,
    /// A store to a DAX mapping
    DaxWriteFault,
    /// A load from a DAX mapping
    DaxReadFault,
    /// A store to a page-cache mapping
    WriteFault,
    /// A load from a page-cache mapping
    ReadFault,
}

/// A row of the table of operations.
struct Row {
    name: &'static str,
    /// What it does to extents, as a past-tense verb phrase.
    did: &'static str,
    /// What becomes of the blocks that a fault may still find.
    fate: &'static str,
}

const fn row(name: &'static str, did: &'static str, fate: &'static str) -> Row {
    Row { name, did, fate }
}

impl Operation {
    /// Every operation, in the order of the enum.
    pub const ALL: [Self; 38] = [
        Self::PunchHole,
        Self::ZeroRange,
        Self::CollapseRange,
        Self::InsertRange,
        Self::UnshareRange,
        Self::WriteZeroes,
        Self::Preallocate,
        Self::Truncate,
        Self::SwapExtents,
        Self::ExchangeRange,
        Self::Reflink,
        Self::Dedupe,
        Self::SwapBoot,
        Self::MoveExtents,
        Self::JournalMode,
        Self::JournalModeOff,
        Self::MapFormat,
        Self::DaxWrite,
        Self::DirectWrite,
        Self::BufferedWrite,
        Self::DaxRead,
        Self::DirectRead,
        Self::BufferedRead,
        Self::Fiemap,
        Self::Advise,
        Self::TrimCopies,
        Self::LayoutGet,
        Self::LayoutCommit,
        Self::Open,
        Self::Attributes,
        Self::Writeback,
        Self::WrittenBack,
        Self::PageMkwrite,
        Self::PfnMkwrite,
        Self::DaxWriteFault,
        Self::DaxReadFault,
        Self::WriteFault,
        Self::ReadFault,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    fn row(self) -> Row {
        const FREED: &str = "blocks that are being freed";
        const SHIFTED: &str = "blocks that are moving to another offset";
        const SWAPPED: &str = "blocks that are moving to another file";
        const ZEROED: &str = "blocks that are being replaced by zeroes";
        const SHARED: &str = "blocks that are being replaced by shared ones";
        const COPIED: &str = "blocks that the file no longer owns alone";
        const UNFLUSHED: &str = "pages as they were before, and dirty them after their flush";
        const HALFWAY: &str = "pages half by the rules of the mode that ends";
        const REFORMATTED: &str = "blocks by a map that is being replaced";
        const UNCOPIED: &str = "and dirty pages whose copies are being given up";
        const CLIENTS: &str = "pages of zeroes where a client has written";
        const LENT: &str = "memory that shows another file by then";
        const STALE: &str = "blocks that are no longer the file's";
        match self {
            Self::PunchHole => row("fallocate/PUNCH_HOLE", "removed extents", FREED),
            Self::ZeroRange => row("fallocate/ZERO_RANGE", "converted extents", ZEROED),
            Self::CollapseRange => row("fallocate/COLLAPSE_RANGE", "shifted extents", SHIFTED),
            Self::InsertRange => row("fallocate/INSERT_RANGE", "shifted extents", SHIFTED),
            Self::UnshareRange => row("fallocate/UNSHARE_RANGE", "replaced extents", FREED),
            Self::WriteZeroes => row("fallocate/WRITE_ZEROES", "replaced extents", ZEROED),
            Self::Preallocate => row("fallocate/PREALLOCATE", "changed extents", STALE),
            Self::Truncate => row("setattr/truncate", "removed extents", FREED),
            Self::SwapExtents => row("XFS_IOC_SWAPEXT", "exchanged extents", SWAPPED),
            Self::ExchangeRange => row("XFS_IOC_EXCHANGE_RANGE", "exchanged extents", SWAPPED),
            Self::Reflink => row("FICLONERANGE", "replaced extents", SHARED),
            Self::Dedupe => row("FIDEDUPERANGE", "replaced extents", SHARED),
            Self::SwapBoot => row("EXT4_IOC_SWAP_BOOT", "exchanged extents", SWAPPED),
            Self::MoveExtents => row("EXT4_IOC_MOVE_EXT", "exchanged extents", SWAPPED),
            Self::JournalMode => row("EXT4_JOURNAL_DATA_FL", "began to journal", UNFLUSHED),
            Self::JournalModeOff => row("EXT4_JOURNAL_DATA_FL/off", "ceased to journal", HALFWAY),
            Self::MapFormat => row("EXT4_EXTENTS_FL", "replaced the map", REFORMATTED),
            Self::DaxWrite => row("dax-write", "replaced extents", COPIED),
            Self::DirectWrite => row("direct-write", "replaced extents", COPIED),
            Self::BufferedWrite => row("write", "replaced extents", COPIED),
            Self::DaxRead => row("dax-read", "read", STALE),
            Self::DirectRead => row("direct-read", "read", STALE),
            Self::BufferedRead => row("read", "read", STALE),
            Self::Fiemap => row("FS_IOC_FIEMAP", "listed extents", STALE),
            Self::Advise => row("fadvise", "read ahead", STALE),
            Self::TrimCopies => row("blockgc/COW_BLOCKS", "gave up copies", UNCOPIED),
            Self::LayoutGet => row("pNFS/LAYOUTGET", "allocated", STALE),
            Self::LayoutCommit => row("pNFS/LAYOUTCOMMIT", "converted extents", CLIENTS),
            Self::Open => row("open", "dropped pages", LENT),
            Self::Attributes => row("attributes", "dropped pages", LENT),
            Self::Writeback => row("writeback", "wrote back", STALE),
            Self::WrittenBack => row("writeback-end", "converted", STALE),
            Self::PageMkwrite => row("page_mkwrite", "made writable", STALE),
            Self::PfnMkwrite => row("pfn_mkwrite", "made writable", STALE),
            Self::DaxWriteFault => row("dax-write-fault", "mapped", STALE),
            Self::DaxReadFault => row("dax-read-fault", "mapped", STALE),
            Self::WriteFault => row("write-fault", "mapped", STALE),
            Self::ReadFault => row("read-fault", "mapped", STALE),
        }
    }

    /// The name in findings.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What it did, as a verb phrase that a byte range may follow.
    pub fn did(self) -> &'static str {
        self.row().did
    }

    /// What a fault that gets in would map.
    pub fn fate(self) -> &'static str {
        self.row().fate
    }

    /// True for faults after which stores go through.
    pub fn is_write_fault(self) -> bool {
        matches!(
            self,
            Self::DaxWriteFault | Self::WriteFault | Self::PageMkwrite | Self::PfnMkwrite
        )
    }

    /// True for page faults.
    pub fn is_fault(self) -> bool {
        self >= Self::PageMkwrite
    }
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Which inodes' extents inside EOF an operation removes, moves or converts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroys {
    /// None: it only adds (allocation in a hole, growth).
    Nothing,
    /// Every inode it concerns.
    Every,
    /// The second inode; the first if there is no second (source and destination are one file).
    Destination,
}

/// `mode` bits of fallocate(2) that name an operation (include/uapi/linux/falloc.h).
const FALLOCATE: [(u64, Operation); 6] = [
    (0x02, Operation::PunchHole),
    (0x10, Operation::ZeroRange),
    (0x08, Operation::CollapseRange),
    (0x20, Operation::InsertRange),
    (0x40, Operation::UnshareRange),
    (0x80, Operation::WriteZeroes),
];

/// `FAULT_FLAG_WRITE` (include/linux/mm_types.h).
pub const FAULT_FLAG_WRITE: u64 = 1;

/// `O_TRUNC` (include/uapi/asm-generic/fcntl.h): the server truncates, too.
const O_TRUNC: u64 = 0o1000;

/// `IOCB_DIRECT` (include/linux/fs.h).
const IOCB_DIRECT: u64 = 1 << 17;
/// `IOCB_APPEND` (include/linux/fs.h, as `RWF_APPEND` of include/uapi/linux/fs.h): the offset is not known yet.
const IOCB_APPEND: u64 = 0x10;

/// The bytes that a read, write or fallocate(2) is asked for: from `a`, `b` many, with flags `c`.
pub fn request(entry: Entry, a: u64, b: u64, c: u64) -> Option<ByteRange> {
    let known = match entry {
        Entry::Read | Entry::Write => c & IOCB_APPEND == 0,
        Entry::Fallocate => true,
        _ => false,
    };
    known.then(|| ByteRange::new(a, b))
}

/// What began at an entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// An operation on extents.
    Change(Operation, Destroys),
    /// A page fault.
    Fault(Operation, FaultKind),
}

/// Names what begins at `entry` with payload `a` and `c`, on an inode of `size` bytes.
pub fn begun(entry: Entry, a: u64, c: u64, size: u64, dax: bool) -> Begun {
    let write = c & FAULT_FLAG_WRITE != 0;
    match entry {
        Entry::Fallocate => FALLOCATE.iter().find(|(bit, _)| c & bit != 0).map_or(
            Begun::Change(Operation::Preallocate, Destroys::Nothing),
            |&(_, operation)| Begun::Change(operation, Destroys::Every),
        ),
        Entry::SetSize if a < size => Begun::Change(Operation::Truncate, Destroys::Every),
        Entry::SetSize => Begun::Change(Operation::Truncate, Destroys::Nothing),
        Entry::SwapExtents => Begun::Change(Operation::SwapExtents, Destroys::Every),
        Entry::ExchangeRange => Begun::Change(Operation::ExchangeRange, Destroys::Every),
        Entry::Reflink => Begun::Change(Operation::Reflink, Destroys::Destination),
        Entry::Dedupe => Begun::Change(Operation::Dedupe, Destroys::Destination),
        Entry::SwapBoot => Begun::Change(Operation::SwapBoot, Destroys::Every),
        Entry::MoveExtents => Begun::Change(Operation::MoveExtents, Destroys::Every),
        Entry::JournalMode if c == 0 => Begun::Change(Operation::JournalModeOff, Destroys::Nothing),
        Entry::JournalMode => Begun::Change(Operation::JournalMode, Destroys::Nothing),
        Entry::MapFormat => Begun::Change(Operation::MapFormat, Destroys::Nothing),
        Entry::CopyOnWrite | Entry::Reserve => {
            Begun::Change(Operation::BufferedWrite, Destroys::Nothing)
        }
        Entry::Read | Entry::Write => {
            let direct = c & IOCB_DIRECT != 0;
            match (entry == Entry::Write, dax, direct) {
                // A page-cache file's blocks are replaced behind the back of its pages, which stay
                // what faults map.
                (true, true, _) => Begun::Change(Operation::DaxWrite, Destroys::Every),
                (true, false, true) => Begun::Change(Operation::DirectWrite, Destroys::Nothing),
                (true, false, false) => Begun::Change(Operation::BufferedWrite, Destroys::Nothing),
                (false, true, _) => Begun::Change(Operation::DaxRead, Destroys::Nothing),
                (false, false, true) => Begun::Change(Operation::DirectRead, Destroys::Nothing),
                (false, false, false) => Begun::Change(Operation::BufferedRead, Destroys::Nothing),
            }
        }
        Entry::Fiemap => Begun::Change(Operation::Fiemap, Destroys::Nothing),
        Entry::Advise => Begun::Change(Operation::Advise, Destroys::Nothing),
        Entry::TrimCopies => Begun::Change(Operation::TrimCopies, Destroys::Nothing),
        Entry::LayoutGet => Begun::Change(Operation::LayoutGet, Destroys::Nothing),
        Entry::LayoutCommit => Begun::Change(Operation::LayoutCommit, Destroys::Every),
        Entry::Open if c & O_TRUNC != 0 => Begun::Change(Operation::Truncate, Destroys::Every),
        Entry::Open => Begun::Change(Operation::Open, Destroys::Nothing),
        Entry::Attributes => Begun::Change(Operation::Attributes, Destroys::Nothing),
        Entry::Writeback => Begun::Change(Operation::Writeback, Destroys::Nothing),
        Entry::WrittenBack => Begun::Change(Operation::WrittenBack, Destroys::Nothing),
        Entry::PageMkwrite => Begun::Fault(Operation::PageMkwrite, FaultKind::Mkwrite),
        Entry::PfnMkwrite => Begun::Fault(Operation::PfnMkwrite, FaultKind::PteWrite),
        Entry::Fault => match (dax, write) {
            (true, true) => Begun::Fault(Operation::DaxWriteFault, FaultKind::PteWrite),
            (true, false) => Begun::Fault(Operation::DaxReadFault, FaultKind::PteRead),
            (false, true) => Begun::Fault(Operation::WriteFault, FaultKind::PteWrite),
            (false, false) => Begun::Fault(Operation::ReadFault, FaultKind::PteRead),
        },
    }
}

/// How a fault maps, for coverage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum FaultKind {
    /// A PTE that cannot write
    PteRead,
    /// A PTE that may write
    PteWrite,
    /// A page-cache page made writable
    Mkwrite,
    /// A PMD
    Pmd,
    /// A copy for a private mapping
    PrivateCopy,
}

impl FaultKind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Self; 5] = [
        Self::PteRead,
        Self::PteWrite,
        Self::Mkwrite,
        Self::Pmd,
        Self::PrivateCopy,
    ];

    /// The name in coverage tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::PteRead => "pte-read",
            Self::PteWrite => "pte-write",
            Self::Mkwrite => "mkwrite",
            Self::Pmd => "pmd",
            Self::PrivateCopy => "private-copy",
        }
    }
}

impl From<Install> for FaultKind {
    fn from(install: Install) -> Self {
        match install {
            Install::PteRead => Self::PteRead,
            Install::PteWrite => Self::PteWrite,
            Install::Pmd => Self::Pmd,
            Install::Mkwrite => Self::Mkwrite,
        }
    }
}

/// `VM_FAULT_*` (include/linux/mm_types.h).
pub mod vm_fault {
    /// VM_FAULT_ERROR: OOM, SIGBUS, SIGSEGV, HWPOISON, HWPOISON_LARGE, FALLBACK.
    pub const ERROR: u64 = 0x1 | 0x2 | 0x40 | 0x10 | 0x20 | 0x800;
    /// The translation is in place, or nothing needs to be done.
    pub const NOPAGE: u64 = 0x100;
    /// The folio is returned locked, for the caller to map.
    pub const LOCKED: u64 = 0x200;
    /// A private copy was made and mapped.
    pub const DONE_COW: u64 = 0x1000;
    /// The fault starts over.
    pub const RETRY: u64 = 0x400;
}

/// True if a hit of an install hook that returned `value` left a translation behind.
///
/// `vmf_insert_*` say VM_FAULT_NOPAGE on success; `page_mkwrite` helpers say it when the folio was
/// truncated meanwhile.
pub fn installed(install: Install, value: u64) -> bool {
    match install {
        Install::Mkwrite => value & (vm_fault::ERROR | vm_fault::NOPAGE | vm_fault::RETRY) == 0,
        Install::PteRead | Install::PteWrite | Install::Pmd => {
            value & vm_fault::NOPAGE != 0 && value & vm_fault::ERROR == 0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_operations_is_in_enum_order() {
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index);
        }
    }

    #[test]
    fn fallocate_modes_with_keep_size_are_named_by_what_they_do() {
        assert_eq!(
            begun(Entry::Fallocate, 0, 0x03, 0, false),
            Begun::Change(Operation::PunchHole, Destroys::Every)
        );
        assert_eq!(
            begun(Entry::Fallocate, 0, 0x01, 0, false),
            Begun::Change(Operation::Preallocate, Destroys::Nothing)
        );
    }

    #[test]
    fn only_a_smaller_size_destroys() {
        let destroys = |new| match begun(Entry::SetSize, new, 0, 4096, false) {
            Begun::Change(_, destroys) => destroys,
            Begun::Fault(..) => unreachable!(),
        };
        assert_eq!(destroys(4095), Destroys::Every);
        assert_eq!(destroys(4096), Destroys::Nothing);
    }

    #[test]
    fn a_negative_errno_is_no_install() {
        assert!(!installed(Install::Mkwrite, -14i32 as u32 as u64));
        assert!(installed(Install::Mkwrite, vm_fault::LOCKED));
        assert!(!installed(Install::PteRead, 0));
        assert!(!installed(Install::Pmd, 0x800));
    }
}
