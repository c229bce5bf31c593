//! What user space tells an attached program: its role, and where to find what it reports.

/// Dereferences a [`Path`] may make.
pub const MAX_DEREFS: usize = 4;
/// `Path::source`: no path.
pub const SOURCE_NONE: u8 = 0xff;
/// `Path::source`: the function's return value.
pub const SOURCE_RETURN: u8 = 0xfe;

/// A way from an argument to a value: follow `derefs` pointers, then add, then read.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Argument index, or `SOURCE_*`.
    pub source: u8,
    /// Valid entries of `offsets`.
    pub derefs: u8,
    /// Width in bytes of the final read (1, 2, 4, 8); 0 yields the address itself.
    pub width: u8,
    /// Low bytes that count when the argument itself is the value; 0 all. The upper half of a register
    /// that holds an `int` argument is undefined.
    pub keep: u8,
    /// Byte offset added before each dereference.
    pub offsets: [i32; MAX_DEREFS],
    /// Byte offset added at the end.
    pub add: i32,
}

impl Path {
    /// The absent path.
    pub const NONE: Self = Self {
        source: SOURCE_NONE,
        derefs: 0,
        width: 0,
        keep: 0,
        offsets: [0; MAX_DEREFS],
        add: 0,
    };
}

/// What a program does when its hook fires.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An operation on a watched filesystem begins: open a scope.
    Enter = 0,
    /// It ends: close the scope that `pair` opened.
    Leave = 1,
    /// A lock event; kept if the address belongs to an inode of the task's scopes.
    Lock = 2,
    /// An act inside a scope.
    Act = 3,
    /// A task ends: forget it.
    Exit = 4,
    /// Something that the task holds or waits for and that is no lock of an inode; kept inside a scope.
    Resource = 5,
    /// The task goes to sleep; kept if something armed it (`MORE_ARMS`), and reported as that says.
    Sleep = 6,
}

/// How a lock event changes the task's hold on the exclusion lock, for the kernel-side stack policy.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// No change (requests, waits).
    Keep = 0,
    /// Nothing held from here on.
    Drop = 1,
    /// Held shared from here on.
    Shared = 2,
    /// Held exclusively from here on.
    Exclusive = 3,
    /// No change; events of any other lock do not count.
    Only = 4,
}

/// When a return-side event counts.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// Always.
    Always = 0,
    /// The function returned 0.
    Zero = 1,
    /// The function returned non-zero (trylocks return 1).
    NonZero = 2,
}

/// Whether a program has another beside it on the same function.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is alone.
    Only = 0,
    /// It runs first and leaves word that it did.
    First = 1,
    /// It runs second, and does what the first should have done if that was skipped: the kernel skips
    /// a program while a task that was preempted inside it is off this CPU (kernel/bpf/trampoline.c,
    /// `__bpf_prog_enter_recur`).
    Relief = 2,
}

/// Hooks that may have a relief: their ids are below this.
pub const RELIEVED_HOOKS: u32 = 256;

/// Hits that the kernel skipped a hook's first program for and that its relief saw, on one CPU; the value of
/// the `RELIEVED` map, keyed by hook.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relieved {
    /// The relief did what was to be done.
    pub made_up: u64,
    /// The task never entered an operation: there was nothing to report.
    pub strangers: u64,
}

/// Report `inode.i_size`.
pub const SPEC_SIZE: u8 = 1 << 0;
/// Always take a kernel stack.
pub const SPEC_STACK: u8 = 1 << 1;
/// Take a kernel stack now and then, and whenever the act is unguarded.
pub const SPEC_STACK_SAMPLED: u8 = 1 << 2;
/// Needs no scope: the inode itself is checked against the watch list.
pub const SPEC_UNSCOPED: u8 = 1 << 3;
/// Names no inode: it concerns the one of the task's innermost scope.
pub const SPEC_OWN: u8 = 1 << 4;
/// Counts only for an inode that user space was told about.
pub const SPEC_KNOWN: u8 = 1 << 5;
/// Report `FLAG_CACHED` and `FLAG_DIRECT`.
pub const SPEC_STATE: u8 = 1 << 6;
/// Counts only directly inside the operation that `pair` opened.
pub const SPEC_WITHIN: u8 = 1 << 7;

/// Take a kernel stack the first time that this fires in the task's present state: same operation, same
/// kinds of locks held.
pub const MORE_FIRST: u8 = 1 << 0;
/// Report `FLAG_FREEZE_*` in write faults of shared mappings. For [`Role::Enter`], `second[0]` leads to
/// the mapping's `vm_flags`.
pub const MORE_FREEZE: u8 = 1 << 1;
/// If payload `c` is not 0, the task's next sleep is reported, with this inode and payload `a`, as the hook
/// `pair`.
pub const MORE_ARMS: u8 = 1 << 2;
/// Is not itself reported.
pub const MORE_QUIET: u8 = 1 << 3;
/// Counts only while the inode's exclusion lock is held.
pub const MORE_HELD: u8 = 1 << 4;

/// Everything one attached program knows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookSpec {
    /// Reported in every event.
    pub id: u16,
    /// `Role::Leave` and `SPEC_WITHIN`: the id of the `Enter`. `MORE_ARMS`: the id under which a sleep is
    /// reported. `Role::Resource`: its kind.
    pub pair: u16,
    /// A [`Role`].
    pub role: u8,
    /// `SPEC_*`.
    pub flags: u8,
    /// A [`Hold`].
    pub hold: u8,
    /// A [`Success`].
    pub success: u8,
    /// Mode of the exclusion lock that the act needs: 0 none, 1 shared, 2 exclusive.
    pub needs: u8,
    /// `MORE_*`.
    pub more: u8,
    /// [`Role::Enter`]: of this many and one, one is taken, unless it begins inside what is recorded; 0, or a
    /// power of two less one.
    pub left_out: u16,
    /// A [`Turn`].
    pub turn: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// If not 0, payload `c` must have one of these bits.
    pub guard: u64,
    /// Payload `c` must have none of these bits.
    pub without: u64,
    /// If not 0, payload `c` must be this.
    pub exactly: u64,
    /// Nanoseconds for which the task is held up after the report; 0 not at all.
    pub delay: u64,
    /// The inode, and the operation's second inode. For locks `inodes[0]` leads to the lock.
    pub inodes: [Path; 2],
    /// Payload `a`, `b`, `c`.
    pub payload: [Path; 3],
    /// Payload `a`, `b`, `c` of the event for the second inode.
    pub second: [Path; 3],
}

/// Struct offsets of the running kernel that every program needs, in bytes, from its BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelLayout {
    /// `inode.i_sb`
    pub inode_sb: u32,
    /// `super_block.s_dev`
    pub sb_dev: u32,
    /// `inode.i_ino`
    pub inode_ino: u32,
    /// `inode.i_generation`
    pub inode_generation: u32,
    /// `inode.i_flags`
    pub inode_flags: u32,
    /// `inode.i_size`
    pub inode_size: u32,
    /// `inode.i_blkbits`
    pub inode_blkbits: u32,
    /// `inode.i_dentry`
    pub inode_dentry: u32,
    /// `dentry.d_u.d_alias`
    pub dentry_alias: u32,
    /// `dentry.d_parent`
    pub dentry_parent: u32,
    /// `dentry.d_name.name`
    pub dentry_name: u32,
    /// `inode.i_data.nrpages`
    pub inode_pages: u32,
    /// `inode.i_dio_count`
    pub inode_direct: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `mm_struct.mmap_lock`
    pub mm_lock: u32,
    /// `super_block.s_writers.rw_sem[SB_FREEZE_PAGEFAULT - 1].read_count`; 0 if it cannot be read.
    pub sb_pagefault: u32,
    /// CPUs that the kernel may ever have.
    pub cpus: u32,
    /// A fault's freeze protection is looked at if none of these bits is set in its first record's
    /// number: reading every CPU's counter costs.
    pub freeze_mask: u32,
    /// Address of `__per_cpu_offset`.
    pub per_cpu_offset: u64,
}

/// A watched filesystem; the value of the `WATCHED` map, keyed by `s_dev`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// First byte of the filesystem's inode, relative to `struct inode` (<= 0).
    pub first: i32,
    /// One past its last byte, relative to `struct inode`.
    pub last: i32,
    /// `i_data.invalidate_lock`, relative to `struct inode`.
    pub exclusion: i32,
    /// Zero.
    pub reserved: u32,
}
