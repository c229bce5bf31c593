//! Every face of Faultline.

pub mod campaign;
pub mod ci;
pub mod cli;
mod commands;
mod confirmation;
pub mod diff;
pub mod export;
pub mod html;
pub mod metrics;
mod output;
mod progress;
pub mod stats;
mod tables;
pub mod tui;

pub use commands::run;
