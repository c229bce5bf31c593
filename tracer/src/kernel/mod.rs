//! Facts about the running kernel.

pub mod preemption;
pub mod symbols;
pub mod types;
