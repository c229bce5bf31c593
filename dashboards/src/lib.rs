//! Every face of Faultline.

// They panic when nobody reads: `say!` and `note!` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
pub mod output;

pub mod campaign;
pub mod ci;
pub mod cli;
mod commands;
mod confirmation;
pub mod diff;
pub mod export;
pub mod html;
pub mod metrics;
mod progress;
pub mod stats;
mod tables;
pub mod tui;

pub use commands::{FAILED, run};
