//! Fault and extent-manipulation workloads, and the lab that runs them in a VM.

pub mod lab;
pub mod scenarios;
