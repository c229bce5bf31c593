//! Gets the programs into the kernel: one verified copy per hook, each with its own frozen spec.
//!
//! aya creates and reads the maps; loading and attaching are ours, because aya keeps the field private
//! that names a module's BTF, without which fentry cannot reach functions in modules.

mod bpf;
mod object;
mod session;

pub use session::{AttachError, Health, Limits, LossWatch, Mounted, Record, Runs, Session};
