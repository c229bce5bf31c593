//! Facts about the running kernel.

pub mod symbols;
pub mod types;
