//! A verdict on a filesystem change: what to test, on what, how it went, and in which forms that is
//! told.

pub mod cell;
pub mod config;
pub mod inside;
pub mod machine;
pub mod matrix;
pub mod output;
pub mod subject;
pub mod verdict;
