//! The lab: a throw-away VM that boots a stock or patched kernel on emulated
//! persistent memory, runs commands inside and brings their results out.
//!
//! The host side needs no root: kernels, headers and sources are downloaded with
//! `apt-get download` and unpacked into a cache directory, QEMU does the rest.
//! [`host::missing`] says what has to be installed first.

pub mod cache;
pub mod console;
pub mod debug_kernel;
pub mod depends;
pub mod elf;
pub mod guest;
pub mod host;
pub mod initramfs;
pub mod job;
pub mod kernel;
pub mod kernel_tree;
pub mod lockdep;
pub mod modules;
pub mod mutations;
pub mod packages;
pub mod progress;
pub mod qemu;
pub mod spec;
mod starvation;
pub mod version;
pub mod virtiofs;
pub mod vm;

pub use cache::Cache;
pub use job::{
    Answer, CommandJob, CommandOutcome, FilesystemJob, FilesystemKind, Job, Order, Outcome,
};
pub use kernel::{Kernel, KernelSeries, Origin};
pub use mutations::Mutation;
pub use progress::Progress;
pub use qemu::Accelerator;
pub use spec::{HostBinary, ModuleOverride, PmemRegion, RoundSpec, VmSpec};
pub use vm::{Ending, Vm, VmOutcome};
