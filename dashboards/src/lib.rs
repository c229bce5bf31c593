//! Every face of Faultline.

pub mod campaign;
pub mod ci;
pub mod cli;
mod commands;
pub mod diff;
pub mod export;
mod output;
mod progress;
pub mod stats;
mod tables;

pub use commands::run;
