//! Every face of Faultline.

pub mod campaign;
pub mod cli;
mod commands;
mod progress;

pub use commands::run;
