//! The ABI between the kernel side and user space: what a hook is told to do, and what it reports.
//!
//! The programs hold no knowledge of filesystems. Each attached copy reads a frozen [`hook::HookSpec`]
//! that says which role it plays and where in the arguments the inode and the payload sit; the verifier
//! sees constants and drops what the role does not use.

#![no_std]

pub mod event;
pub mod hook;

pub use event::{Event, Head, InodeRecord, TaskRecord};
pub use hook::{HookSpec, KernelLayout, Path, Role};
