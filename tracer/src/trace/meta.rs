//! What a trace says about itself, and the tables that its events refer to.

use serde::{Deserialize, Serialize};

use crate::{
    hooks::{Effect, FilesystemKind, LockPlace},
    units::{Device, HookId, Ino, InodeAddress, Nanos, Pid, StackId, Tid},
};

/// The first chunk of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -v`.
    pub build: String,
    /// Machine name.
    pub host: String,
    /// CPUs that record.
    pub cpus: u32,
    /// Faultline's version.
    pub recorder: String,
    /// Command under test, empty if none.
    pub command: Vec<String>,
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC at start, nanoseconds.
    pub realtime_offset: i64,
    /// CLOCK_MONOTONIC at start.
    pub started: Nanos,
    /// Watched mounts.
    pub mounts: Vec<Mount>,
    /// What was attached where, and what could not be.
    pub hooks: Vec<PlannedHook>,
    /// Where the locks of an inode are.
    pub locks: Vec<LockPlace>,
    /// Faults left out for each that was recorded.
    #[serde(default)]
    pub left_out: u16,
}

/// A watched filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Mount point.
    pub path: String,
    /// Which table applies.
    pub filesystem: FilesystemKind,
    /// `s_dev`.
    pub device: Device,
    /// Source device.
    pub source: String,
    /// Mount options.
    pub options: String,
}

/// How a hook was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// BPF trampoline at entry
    Fentry,
    /// BPF trampoline at return
    Fexit,
    /// kprobe
    Kprobe,
    /// kretprobe
    Kretprobe,
    /// Raw tracepoint
    RawTracepoint,
}

impl Mechanism {
    /// The name in plans and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
            Self::RawTracepoint => "raw-tracepoint",
        }
    }
}

/// A table row as it was resolved on the recording kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedHook {
    /// Number in events.
    pub id: HookId,
    /// Function or tracepoint.
    pub target: String,
    /// Rows of one group are alternatives.
    pub group: String,
    /// The only filesystem it serves, if it is not generic.
    pub filesystem: Option<FilesystemKind>,
    /// What a hit means.
    pub effect: Effect,
    /// How it was attached, or why it was not.
    pub attached: Result<Mechanism, String>,
}

/// A file that the trace met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// From when on `address` stands for this file.
    pub since: Nanos,
    /// Address of the `struct inode`.
    pub address: InodeAddress,
    /// `i_ino`.
    pub ino: Ino,
    /// `i_generation`.
    pub generation: u32,
    /// `s_dev`.
    pub device: Device,
    /// log2 of the block size.
    pub block_bits: u32,
    /// True if the inode has S_DAX: its faults map the medium itself.
    pub dax: bool,
    /// Path below the mount point's root, as far as its names were known.
    pub path: String,
}

/// A task that the trace met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Thread.
    pub tid: Tid,
    /// Process.
    pub pid: Pid,
    /// `comm`.
    pub name: String,
}

/// A kernel stack, symbolised when it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Number in events.
    pub id: StackId,
    /// Innermost first: `symbol+0xoffset [module]`.
    pub frames: Vec<String>,
}

/// Where and how much was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// CPU whose events are missing, if it is known.
    pub cpu: Option<u32>,
    /// Not before.
    pub from: Nanos,
    /// Not after.
    pub to: Nanos,
    /// Events.
    pub count: u64,
    /// What lost them.
    pub cause: LossCause,
}

/// What loses events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossCause {
    /// The ring buffer was full.
    Ring,
    /// The task table was full.
    Tasks,
    /// More operations or inodes open in a task than its scope holds.
    Scope,
    /// The kernel skipped a program that was already running on that CPU, or a kretprobe had no
    /// instance left.
    Missed,
    /// The trace file is damaged there. Where the damage hides how many there were, it counts as one.
    Corrupt,
}

/// What the workload said about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// It changed a file.
    Operation(OperationMark),
    /// It read what it never should have.
    Corruption(CorruptionMark),
}

/// An operation of the workload, as it saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationMark {
    /// Before the call.
    pub from: Nanos,
    /// After it.
    pub to: Nanos,
    /// By whom.
    pub tid: Tid,
    /// `s_dev` of the file.
    pub device: Device,
    /// `i_ino` of the file.
    pub ino: Ino,
    /// Its name, as findings use it.
    pub operation: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// 0, or the error.
    pub errno: i32,
}

/// Wrong data, as the workload found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorruptionMark {
    /// When it was found.
    pub at: Nanos,
    /// By whom.
    pub tid: Tid,
    /// `s_dev` of the file.
    pub device: Device,
    /// `i_ino` of the file.
    pub ino: Ino,
    /// The block's path.
    pub path: String,
    /// First byte of the block.
    pub offset: u64,
    /// Bytes of the block.
    pub length: u64,
    /// What is wrong, in two words: `stale data`, `lost store`.
    pub wrong: String,
    /// Whose data it is and why it cannot be right.
    pub story: String,
    /// The block that the data belongs to, if it is another file's or another place's.
    pub origin: Option<Origin>,
    /// Why unmodified kernels show it, if it is known that they do.
    pub known: Option<String>,
}

/// A block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `i_ino` of the file, on the same device.
    pub ino: Ino,
    /// First byte of the block.
    pub offset: u64,
}

/// The last chunk of a trace that was closed properly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// CLOCK_MONOTONIC at the end.
    pub ended: Nanos,
    /// How the command under test ended: its exit status, or the signal as 128 + n.
    pub command_status: Option<i32>,
    /// Hits that each hook had, from the kernel's own counters, by hook id; empty unless counted.
    pub runs: Vec<(HookId, u64)>,
}
