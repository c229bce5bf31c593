//! Faultline's engine: hook plan, loader, drain, trace file, correlator and rules.

pub mod analyze;
pub mod attach;
pub mod confirm;
mod hang;
pub mod hooks;
pub mod judge;
pub mod kernel;
pub mod live;
pub mod marks;
pub mod mounts;
pub mod plan;
pub mod record;
pub mod story;
pub mod trace;
pub mod units;
