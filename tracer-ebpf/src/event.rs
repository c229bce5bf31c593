//! Records in the per-CPU ring buffers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `Head::hook` of an [`InodeRecord`].
pub const HOOK_INODE: u16 = 0xffff;
/// `Head::hook` of a [`TaskRecord`].
pub const HOOK_TASK: u16 = 0xfffe;

/// `Head::hook` of a record that the recorder itself adds now and then: time goes on, though nothing else
/// may. It belongs to no task.
pub const HOOK_TICK: u16 = 0xfffd;
/// `Head::hook` of a record that the recorder itself adds for a task that does not go on: its stack, and
/// in `a` its state as in /proc/TID/stat. It has no number.
pub const HOOK_BLOCKED: u16 = 0xfffc;

/// The event names the operation's second inode (swap, remap).
pub const FLAG_SECOND_INODE: u8 = 1 << 0;
/// The task's scope stack was full; what follows until depth 0 is unknown.
pub const FLAG_SCOPE_OVERFLOW: u8 = 1 << 1;
/// The act came without the lock that its hook's spec asks for, so its stack was always taken.
pub const FLAG_UNGUARDED: u8 = 1 << 2;
/// The file had cached pages or DAX entries (`i_data.nrpages`).
pub const FLAG_CACHED: u8 = 1 << 3;
/// Direct I/O to the file was in flight (`inode.i_dio_count`).
pub const FLAG_DIRECT: u8 = 1 << 4;

/// Nobody held the superblock's freeze protection against page faults.
pub const FLAG_FREEZE_FREE: u8 = 1 << 5;
/// Somebody held it.
pub const FLAG_FREEZE_HELD: u8 = 1 << 6;

/// What every record starts with.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Head {
    /// CLOCK_MONOTONIC, nanoseconds (`bpf_ktime_get_ns`).
    pub time: u64,
    /// Thread id in the initial pid namespace.
    pub task: u32,
    /// Counts this task's records without gaps; a gap is a lost record.
    pub seq: u32,
    /// The hook's id in the plan, or `HOOK_INODE` / `HOOK_TASK`.
    pub hook: u16,
    /// Operations open in this task after the record took effect.
    pub depth: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// Key in the stack map, or negative when none was taken.
    pub stack: i32,
}

/// One thing that a task did.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Event {
    /// Who, when, which hook.
    pub head: Head,
    /// Address of the `struct inode` concerned, 0 if the hook has none.
    pub inode: u64,
    /// Payload; the hook's effect says what it means. For locks: `a` is the lock's byte offset
    /// from the inode (signed), `b` its address.
    pub a: u64,
    /// See `a`.
    pub b: u64,
    /// See `a`.
    pub c: u64,
    /// `inode.i_size` in bytes at that moment, for operations and acts; 0 for locks.
    pub size: u64,
}

/// Longest file name component kept, with its NUL.
pub const NAME_LEN: usize = 40;
/// Path components kept, leaf first.
pub const NAME_DEPTH: usize = 4;

/// Sent when an operation meets an inode address that is new or names another file than before.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct InodeRecord {
    /// Who met it, when; `hook` is [`HOOK_INODE`].
    pub head: Head,
    /// Address of the `struct inode`.
    pub inode: u64,
    /// `i_ino`.
    pub number: u64,
    /// `i_size` in bytes.
    pub size: u64,
    /// `i_sb->s_dev` in the kernel's encoding (20 minor bits).
    pub device: u32,
    /// `i_generation`.
    pub generation: u32,
    /// `i_flags`.
    pub flags: u32,
    /// log2 of the block size.
    pub block_bits: u32,
    /// `d_name` of the inode's first alias and of its parents, leaf first, NUL-terminated.
    pub names: [[u8; NAME_LEN]; NAME_DEPTH],
}

/// Sent before a task's first event.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TaskRecord {
    /// Who; `hook` is [`HOOK_TASK`].
    pub head: Head,
    /// Process id.
    pub process: u32,
    /// Zero.
    pub reserved: u32,
    /// `comm`.
    pub name: [u8; 16],
}

/// Slots of the per-CPU `LOST` counters.
pub mod lost {
    /// Ring buffer full.
    pub const RING: u32 = 0;
    /// Task table full.
    pub const TASKS: u32 = 1;
    /// A task had more operations or inodes open than a scope can hold.
    pub const SCOPE: u32 = 2;
    /// Number of slots.
    pub const SLOTS: u32 = 3;
}
