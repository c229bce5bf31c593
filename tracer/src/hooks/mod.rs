//! What is hooked, and what a hit means: tables, one per filesystem and one per generic subsystem.
//!
//! A row names kernel functions and struct fields; `plan` resolves it against the running kernel.
//! What a row *means* ([`Effect`]) travels in the trace, so that a trace is judged by its own plan.

pub mod ext4;
pub mod generic;
pub mod pauses;
pub mod resources;
pub mod rwsem;
pub mod virtiofs;
pub mod xfs;

use serde::{Deserialize, Serialize};

use crate::units::{ByteRange, PAGE_SHIFT};

/// A filesystem that has a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilesystemKind {
    /// XFS
    Xfs,
    /// ext4
    Ext4,
    /// virtiofs
    Virtiofs,
}

impl FilesystemKind {
    /// Every filesystem with a table.
    pub const ALL: [Self; 3] = [Self::Xfs, Self::Ext4, Self::Virtiofs];

    /// Name as in /proc/filesystems.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Ext4 => "ext4",
            Self::Virtiofs => "virtiofs",
        }
    }

    /// Its table.
    pub fn table(self) -> Option<&'static Filesystem> {
        FILESYSTEMS.iter().find(|table| table.kind == self)
    }

    /// Finds a filesystem by its name in /proc/filesystems.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a lock protects; its name is the one that findings use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockClass {
    /// `inode.i_rwsem` (XFS: IOLOCK)
    IRwsem,
    /// `inode.i_data.invalidate_lock` (XFS: MMAPLOCK): keeps page faults out
    InvalidateLock,
    /// `inode.i_data.i_mmap_rwsem`
    IMmapRwsem,
    /// `xfs_inode.i_lock`
    Ilock,
    /// `ext4_inode_info.i_data_sem`
    IDataSem,
    /// `ext4_inode_info.xattr_sem`
    XattrSem,
    /// `mm_struct.mmap_lock` of the task's own address space
    MmapLock,
    /// The lock of one mapping (`vma->vm_lock`, from 6.18 on `vm_refcnt`), in place of mmap_lock
    VmaLock,
    /// `super_block.s_writers.rw_sem[SB_FREEZE_PAGEFAULT - 1]`: freeze protection of write faults
    FreezePagefault,
    /// A jbd2 handle: the running transaction cannot commit before it is stopped
    Handle,
    /// `ext4_sb_info.s_writepages_rwsem`: no file of the filesystem is being written back
    Writepages,
    /// An XFS transaction: log space is reserved until it is committed or cancelled
    Transaction,
    /// The lock bit of a DAX entry in `i_pages`
    DaxEntry,
    /// The lock of a page-cache folio
    FolioLock,
    /// Pins of a DAX file's pages: whoever breaks layouts waits until they are gone
    PagePin,
}

impl LockClass {
    /// The name in findings.
    pub fn name(self) -> &'static str {
        match self {
            Self::IRwsem => "i_rwsem",
            Self::InvalidateLock => "invalidate_lock",
            Self::IMmapRwsem => "i_mmap_rwsem",
            Self::Ilock => "ilock",
            Self::IDataSem => "i_data_sem",
            Self::XattrSem => "xattr_sem",
            Self::MmapLock => "mmap_lock",
            Self::VmaLock => "vma_lock",
            Self::FreezePagefault => "sb_pagefault",
            Self::Handle => "jbd2_handle",
            Self::Writepages => "s_writepages_rwsem",
            Self::Transaction => "xfs_trans",
            Self::DaxEntry => "dax_entry",
            Self::FolioLock => "folio_lock",
            Self::PagePin => "page_pin",
        }
    }

    /// True for what is held of a journal, not of a file.
    pub fn is_journal(self) -> bool {
        matches!(self, Self::Handle | Self::Transaction)
    }

    /// Every class, in the order of the enum.
    pub const ALL: [Self; 15] = [
        Self::IRwsem,
        Self::InvalidateLock,
        Self::IMmapRwsem,
        Self::Ilock,
        Self::IDataSem,
        Self::XattrSem,
        Self::MmapLock,
        Self::VmaLock,
        Self::FreezePagefault,
        Self::Handle,
        Self::Writepages,
        Self::Transaction,
        Self::DaxEntry,
        Self::FolioLock,
        Self::PagePin,
    ];
}

/// A lock embedded in an inode: its class by its byte offset from `struct inode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockPlace {
    /// The filesystem whose inodes have it there.
    pub filesystem: FilesystemKind,
    /// What it protects.
    pub class: LockClass,
    /// Bytes from `struct inode`; negative before it.
    pub offset: i64,
}

/// The mode of a *held* lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// Read side
    Shared,
    /// Write side
    Excl,
}

impl Mode {
    /// The name in findings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "SHARED",
            Self::Excl => "EXCL",
        }
    }
}

/// What happens to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockAction {
    /// The task begins to wait for it (contended path only).
    Wait,
    /// Held from here on in this mode; the task would have waited for it.
    Acquire(Mode),
    /// Held from here on in this mode; the task would not have waited.
    TryAcquire(Mode),
    /// About to be released from this mode.
    Release(Mode),
    /// Exclusive becomes shared.
    Downgrade,
}

/// What happens to a DAX entry's lock: a bit in the mapping's xarray, with a hashed wait queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryAction {
    /// The task sleeps until its holder wakes it.
    Wait,
    /// Held from here on.
    Acquire,
    /// About to be released.
    Release,
}

/// What becomes of a span that is invalidated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Teardown {
    /// Translations go; pages and DAX entries stay (`unmap_mapping_*`).
    Unmap,
    /// Pages and DAX entries go; translations of DAX entries stay (`truncate_inode_pages_range`
    /// unmaps page-cache folios only, mm/truncate.c:truncate_cleanup_folio).
    Drop,
    /// Both.
    Both,
}

impl Teardown {
    /// True if no translation of the span is left, in a file that is a DAX file or not.
    pub fn unmaps(self, dax: bool) -> bool {
        match self {
            Self::Unmap | Self::Both => true,
            Self::Drop => !dax,
        }
    }

    /// True if no page or DAX entry of the span is left.
    pub fn drops(self) -> bool {
        matches!(self, Self::Drop | Self::Both)
    }
}

/// How payload `a`, `b` name bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Span {
    /// First byte, length in bytes.
    Bytes,
    /// First byte, length in bytes with 0 meaning "to the end" (`unmap_mapping_range`).
    BytesZeroToEnd,
    /// First byte, last byte included.
    BytesInclusive,
    /// First byte, the byte behind the last.
    BytesUntil,
    /// From byte `a` to the end.
    FromByte,
    /// First page, number of pages with 0 meaning "to the end" (`unmap_mapping_pages`).
    Pages,
    /// First page, last page included.
    PagesInclusive,
    /// First filesystem block, number of blocks.
    Blocks,
    /// First filesystem block, last block included.
    BlocksInclusive,
    /// First filesystem block, the block behind the last.
    BlocksUntil,
    /// From filesystem block `a` to the end.
    FromBlock,
    /// From the first filesystem block that begins at byte `a` or behind it, to the end.
    FromBlockBehind,
    /// The whole file.
    Whole,
}

impl Span {
    /// The bytes named by `a` and `b` in a file of `1 << block_bits` byte blocks.
    pub fn bytes(self, a: u64, b: u64, block_bits: u32) -> ByteRange {
        let scale = |value: u64, bits: u32| {
            if value > (u64::MAX >> bits) {
                u64::MAX
            } else {
                value << bits
            }
        };
        let range = |start: u64, count: u64, bits: u32| ByteRange {
            start: scale(start, bits),
            end: scale(start.saturating_add(count), bits),
        };
        match self {
            Self::Bytes => ByteRange::new(a, b),
            Self::BytesZeroToEnd if b == 0 => ByteRange {
                start: a,
                end: u64::MAX,
            },
            Self::BytesZeroToEnd => ByteRange::new(a, b),
            Self::BytesInclusive => ByteRange {
                start: a,
                end: b.saturating_add(1),
            },
            Self::BytesUntil => ByteRange {
                start: a,
                end: b.max(a),
            },
            Self::FromByte => ByteRange {
                start: a,
                end: u64::MAX,
            },
            Self::Pages if b == 0 => ByteRange {
                start: scale(a, PAGE_SHIFT),
                end: u64::MAX,
            },
            Self::Pages => range(a, b, PAGE_SHIFT),
            Self::PagesInclusive => ByteRange {
                start: scale(a, PAGE_SHIFT),
                end: scale(b.saturating_add(1), PAGE_SHIFT),
            },
            Self::Blocks => range(a, b, block_bits),
            Self::BlocksInclusive => ByteRange {
                start: scale(a, block_bits),
                end: scale(b.saturating_add(1), block_bits),
            },
            Self::BlocksUntil => ByteRange {
                start: scale(a, block_bits),
                end: scale(b.max(a), block_bits),
            },
            Self::FromBlockBehind => ByteRange {
                start: a
                    .checked_next_multiple_of(1 << block_bits)
                    .unwrap_or(u64::MAX),
                end: u64::MAX,
            },
            Self::FromBlock => ByteRange {
                start: scale(a, block_bits),
                end: u64::MAX,
            },
            Self::Whole => ByteRange::ALL,
        }
    }
}

/// An operation's entry point; together with the payload it names the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// fallocate(2): `a` offset, `b` length, `c` mode.
    Fallocate,
    /// A size change through `notify_change`: `a` the new size.
    SetSize,
    /// XFS_IOC_SWAPEXT: two inodes.
    SwapExtents,
    /// XFS_IOC_EXCHANGE_RANGE: two inodes.
    ExchangeRange,
    /// FICLONE / FICLONERANGE / copy_file_range: `a` source offset, `b` length; the second event is
    /// the destination with its own offset.
    Reflink,
    /// FIDEDUPERANGE, as `Reflink`.
    Dedupe,
    /// EXT4_IOC_SWAP_BOOT: the boot loader's inode is not named.
    SwapBoot,
    /// EXT4_IOC_MOVE_EXT: two inodes.
    MoveExtents,
    /// FS_IOC_SETFLAGS that has a file's data journalled from now on, or no more if `c` is 0.
    JournalMode,
    /// FS_IOC_SETFLAGS or EXT4_IOC_MIGRATE by which a file's map of blocks takes another format.
    MapFormat,
    /// A pNFS client gets the blocks of a range, to write to them itself: `a` offset, `b` length.
    LayoutGet,
    /// It has written to them.
    LayoutCommit,
    /// Allocation of the blocks that a write to shared ones is to be copied to, on the strength of a
    /// mapping taken before: `a` first block, `b` number of blocks. A part of the write.
    CopyOnWrite,
    /// `file_operations.read_iter`: `a` offset, `b` length, `c` IOCB_*.
    Read,
    /// `file_operations.write_iter`, payload as `Read`.
    Write,
    /// `inode_operations.fiemap`: `a` offset, `b` length.
    Fiemap,
    /// `file_operations.fadvise`: `a` offset, `b` length (0: to EOF), `c` POSIX_FADV_*.
    Advise,
    /// open(2): `c` its flags.
    Open,
    /// What a file's server says of its size and times is taken over.
    Attributes,
    /// Pages are written back.
    Writeback,
    /// Copies that wait to replace shared blocks are given up where nothing needs them: XFS_IOC_FREE_EOFBLOCKS, or a
    /// worker, or who finds no space.
    TrimCopies,
    /// Pages were written back: a worker makes of their blocks what they are to be.
    WrittenBack,
    /// Blocks of the span are to be reserved for pages, where there are none. A part of the write or fault.
    Reserve,
    /// `vm_ops.fault` and `.huge_fault`: `a` page offset, `b` address, `c` FAULT_FLAG_*.
    Fault,
    /// `vm_ops.page_mkwrite`, payload as `Fault`.
    PageMkwrite,
    /// `vm_ops.pfn_mkwrite`, payload as `Fault`.
    PfnMkwrite,
}

impl Entry {
    /// True for page faults.
    pub fn is_fault(self) -> bool {
        matches!(self, Self::Fault | Self::PageMkwrite | Self::PfnMkwrite)
    }

    /// False for what changes neither size nor data of a file.
    pub fn changes(self) -> bool {
        !matches!(
            self,
            Self::Read
                | Self::Fiemap
                | Self::Advise
                | Self::TrimCopies
                | Self::Writeback
                | Self::WrittenBack
        )
    }

    /// True for what leaves it to its caller to release the locks that it took.
    pub fn hands_locks_on(self) -> bool {
        self == Self::TrimCopies
    }

    /// True for what may be asked for again by a part of itself.
    pub fn nests(self) -> bool {
        self == Self::Attributes
    }

    /// True for what is only ever a part of what the task is doing.
    pub fn is_part(self) -> bool {
        matches!(self, Self::CopyOnWrite | Self::Reserve)
    }
}

/// How a translation gets installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Install {
    /// A page table entry that cannot write.
    PteRead,
    /// A page table entry that may write.
    PteWrite,
    /// A PMD entry, read or write by payload `c`.
    Pmd,
    /// A page-cache page made writable through its filesystem's block mapping.
    Mkwrite,
}

/// What a hit means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// An operation begins.
    Enter(Entry),
    /// It ends; `a` is the return value.
    Leave(Entry),
    /// A lock of a known inode: `a` its offset from the inode, `b` its address.
    Lock(LockAction),
    /// Cached pages and translations of the span are dropped, or about to be.
    Invalidate(Span, Teardown),
    /// The task's last invalidation is over.
    Invalidated,
    /// `inode_dio_wait`: after it no direct I/O to the file is in flight.
    DrainDirect,
    /// Bytes of a DAX file are about to be read or written by the CPU: `a` offset, `b` length.
    // As traces of earlier in this version name it.
    #[serde(alias = "dax-write")]
    DaxTransfer,
    /// Bytes of a file are about to go to or from the medium beside the page cache: `a` offset, `b` length.
    DirectTransfer,
    /// What a program said it will need is about to be read ahead, or otherwise taken account of: payload as
    /// [`Entry::Advise`].
    Advice,
    /// User memory is about to be touched, any page of which may fault, under the exclusion lock.
    UserMemory,
    /// Blocks of the span became the file's, as written ones.
    Allocate(Span, Fresh),
    /// The extent map that faults read changes, under its lock.
    MapExtent,
    /// Blocks were overwritten with zeroes.
    Zero,
    /// Blocks of the span are about to be reserved, under the extent map's lock.
    Reserve(Span),
    /// Is a mapping that was taken earlier still what it was? `a` is the map's number then, `b` now.
    Validate,
    /// It is gone on with: `a` as before, if it is the same mapping; `b` is not 0 if it names blocks.
    Validated,
    /// The on-disk size is about to cover the span.
    DiskSize(Span),
    /// The file is on the list of those whose blocks beyond EOF a crash gives back.
    Orphan,
    /// What was written, and the size that goes with it, are about to be made to last.
    Sync,
    /// So much is left of copies that wait to replace blocks: bytes of memory in `c`.
    Copies,
    /// Blocks of the file are to be shared with another, and it does not bear the mark that has those who
    /// write to it wait for the end of that: `a` offset, `b` length.
    Unannounced,
    /// Copies that wait to replace blocks `a` to `b` are about to be given up, while pages are dirty or written back.
    CopiesDropped,
    /// The mapping was taken again, directly inside the operation that began at this entry.
    LookUp(Entry),
    /// The point of the operation that began at this entry, due under the locks of its duties.
    Switch(Entry),
    /// The inode goes: nobody has it open or mapped.
    Evict,
    /// Memory that translations of the file named is about to be lent to another.
    Withdraw,
    /// The folio at page offset `a` is write-protected in every mapping.
    Protect,
    /// `dax_layout_busy_page_range` returned: no page of the span is pinned if `c` is 0. It also
    /// unmapped the span.
    LayoutScan(Span),
    /// Mapped extents of the span are about to be removed, moved or converted, under the extent lock.
    ChangeExtents(Span),
    /// The same, by a function that takes the extent lock itself.
    ConvertExtents(Span),
    /// Whatever the operation is, what is done to the span here is due under the exclusion lock.
    UnderExclusion(Span),
    /// Unwritten blocks are about to become written ones: direct I/O is done with them, or write-back.
    WriteExtents(Span),
    /// The lock of the DAX entry at page offset `a` (fs/dax.c).
    EntryLock(EntryAction),
    /// A translation was installed: `a` pfn, `b` address, `c` the function's return value.
    Install(Install),
    /// Something that the task holds, or waits for, apart from locks of inodes: `a` says whose it is.
    Resource(LockClass, LockAction),
    /// The task sleeps until pages of the file are no longer pinned.
    LayoutWait,
    /// A task ended.
    TaskExit,
    /// The task is held up here.
    Pause,
    /// The task is held up here if the lock is the exclusion lock.
    PauseUnlocked,
    /// Something seen with bounds too wide to judge; counted only.
    Note,
}

/// How sure it is that allocation brought new blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fresh {
    /// The function says so.
    Said,
    /// Only if the extent map grew meanwhile; else another task had allocated them.
    IfMapped,
}

/// A row's way from an argument to a value, by names; resolved against BTF.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Where to begin.
    pub from: Source,
    /// What to follow.
    pub steps: &'static [Step],
}

/// Where a [`Way`] begins.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// The function's n-th argument, from 0.
    Arg(u8),
    /// The return value.
    Return,
}

/// One step of a [`Way`]; the pair is (struct, field), the field may be dotted.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Follow a pointer field.
    Deref(&'static str, &'static str),
    /// Go to an embedded field.
    Into(&'static str, &'static str),
    /// Go from an embedded field to its container.
    Out(&'static str, &'static str),
    /// Read a field of 1, 2, 4 or 8 bytes; last step.
    Read(&'static str, &'static str),
    /// Read this many bytes where the pointer points; last step.
    Value(u8),
    /// The argument is a 32-bit value: the register's upper half is undefined; only step.
    Low32,
}

/// On which side of the function a hook sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Before its first instruction.
    Entry,
    /// After its return.
    Return,
}

/// What to attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A kernel function: fentry/fexit if BTF has it, else kprobe/kretprobe.
    Function(&'static str, Side),
    /// A raw tracepoint.
    Tracepoint(&'static str),
}

/// When a return-side hit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// Always
    Always,
    /// On 0
    Zero,
    /// On anything but 0
    NonZero,
}

/// When a kernel stack is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacks {
    /// Only where the act lacks the lock that it needs.
    Unguarded,
    /// Now and then, too.
    Sampled,
    /// Always.
    Always,
}

/// One row of a table.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// What to attach to.
    pub target: Target,
    /// What a hit means.
    pub effect: Effect,
    /// Rows of one group are alternatives over kernel versions: one of them must attach.
    pub group: &'static str,
    /// The inode (for locks: the lock).
    pub inode: Option<Way>,
    /// The operation's second inode.
    pub second: Option<Way>,
    /// Payload `a`, `b`, `c`.
    pub payload: [Option<Way>; 3],
    /// Payload for the second inode.
    pub second_payload: [Option<Way>; 3],
    /// If not 0, payload `c` must have one of these bits.
    pub guard: u64,
    /// Payload `c` must have none of these bits.
    pub without: u64,
    /// If not 0, payload `c` must be this.
    pub exactly: u64,
    /// Payload `c` is a mapping's `i_pages.xa_flags`, and must say that pages are dirty or being written back.
    pub dirty: bool,
    /// When a return-side hit counts.
    pub success: Success,
    /// When a stack is taken.
    pub stacks: Stacks,
    /// The exclusion lock's mode that the act needs; decides only about stacks.
    pub needs: Option<Mode>,
    /// Attached, and part of the plan, only if no row of this group could be attached.
    pub stands_in_for: Option<&'static str>,
    /// Attached only where a filesystem's blocks are smaller than pages.
    pub small_blocks: bool,
    /// A struct and its field, which tell the kernels apart whose function of this name takes other arguments.
    pub only_with: Option<(&'static str, &'static str)>,
    /// The group of the row that begins the operation which it is directly within, where several do.
    pub within: Option<&'static str>,
}

impl Hook {
    /// A row with nothing but a target and a meaning.
    pub const fn new(target: Target, effect: Effect, group: &'static str) -> Self {
        Self {
            target,
            effect,
            group,
            inode: None,
            second: None,
            payload: [None; 3],
            second_payload: [None; 3],
            guard: 0,
            without: 0,
            exactly: 0,
            dirty: false,
            success: Success::Always,
            stacks: Stacks::Unguarded,
            needs: None,
            stands_in_for: None,
            small_blocks: false,
            only_with: None,
            within: None,
        }
    }

    /// The inode's whereabouts.
    pub const fn inode(mut self, way: Way) -> Self {
        self.inode = Some(way);
        self
    }

    /// The second inode's whereabouts and payload.
    pub const fn second(mut self, way: Way, payload: [Option<Way>; 3]) -> Self {
        self.second = Some(way);
        self.second_payload = payload;
        self
    }

    /// The payload's whereabouts.
    pub const fn payload(mut self, a: Option<Way>, b: Option<Way>, c: Option<Way>) -> Self {
        self.payload = [a, b, c];
        self
    }

    /// Bits of which payload `c` must have one.
    pub const fn guard(mut self, bits: u64) -> Self {
        self.guard = bits;
        self
    }

    /// Bits of which payload `c` must have none.
    pub const fn without(mut self, bits: u64) -> Self {
        self.without = bits;
        self
    }

    /// What payload `c` must be.
    pub const fn exactly(mut self, value: u64) -> Self {
        self.exactly = value;
        self
    }

    /// When a return-side hit counts.
    pub const fn success(mut self, success: Success) -> Self {
        self.success = success;
        self
    }

    /// Whether payload `c` must be flags of a mapping with dirty pages, or such as are being written back.
    pub const fn dirty(mut self) -> Self {
        self.dirty = true;
        self
    }

    /// When a stack is taken, and the exclusion lock's mode without which it always is.
    pub const fn stacks(mut self, stacks: Stacks, needs: Option<Mode>) -> Self {
        self.stacks = stacks;
        self.needs = needs;
        self
    }

    /// The group whose absence calls for this row.
    pub const fn stands_in_for(mut self, group: &'static str) -> Self {
        self.stands_in_for = Some(group);
        self
    }

    /// For what matters only where a page has several blocks.
    pub const fn small_blocks(mut self) -> Self {
        self.small_blocks = true;
        self
    }

    /// The field without which the arguments are other ones.
    pub const fn only_with(mut self, structure: &'static str, field: &'static str) -> Self {
        self.only_with = Some((structure, field));
        self
    }

    /// Which of the functions that begin its operation it is directly within.
    pub const fn within(mut self, group: &'static str) -> Self {
        self.within = Some(group);
        self
    }

    /// For faults: where the flags of the mapping are. A write fault of a shared mapping is under
    /// freeze protection.
    pub const fn vm_flags(mut self, way: Way) -> Self {
        self.second_payload[0] = Some(way);
        self
    }
}

/// One filesystem's table.
#[derive(Clone, Copy, Debug)]
pub struct Filesystem {
    /// Which one.
    pub kind: FilesystemKind,
    /// Kernel module that holds it when it is not built in.
    pub module: &'static str,
    /// The filesystem's inode type and the VFS inode embedded in it.
    pub inode: (&'static str, &'static str),
    /// The lock under which its extent map changes, if the kernel has the map.
    pub extent_lock: Option<LockClass>,
    /// Only DAX files are judged: its page cache has other rules.
    pub dax_only: bool,
    /// Locks embedded in the filesystem's own inode, besides the VFS's.
    pub locks: &'static [(LockClass, &'static str, &'static str)],
    /// Rows that only this filesystem has.
    pub hooks: &'static [Hook],
}

/// Locks embedded in every `struct inode`.
pub const VFS_LOCKS: &[(LockClass, &str)] = &[
    (LockClass::IRwsem, "i_rwsem"),
    (LockClass::InvalidateLock, "i_data.invalidate_lock"),
    (LockClass::IMmapRwsem, "i_data.i_mmap_rwsem"),
];

/// Every filesystem's table.
pub const FILESYSTEMS: &[Filesystem] = &[xfs::TABLE, ext4::TABLE, virtiofs::TABLE];

/// Rows that serve every filesystem.
pub const GENERIC: &[&[Hook]] = &[rwsem::HOOKS, generic::HOOKS, resources::HOOKS];

/// Shorthand for the tables.
pub(crate) const fn arg(index: u8, steps: &'static [Step]) -> Way {
    Way {
        from: Source::Arg(index),
        steps,
    }
}

/// Shorthand for the tables: an argument of 32 bits.
pub(crate) const fn arg32(index: u8) -> Way {
    arg(index, &[Step::Low32])
}

/// Shorthand for the tables.
pub(crate) const fn ret() -> Way {
    Way {
        from: Source::Return,
        steps: &[],
    }
}
