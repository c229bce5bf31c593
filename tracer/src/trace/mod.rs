//! The trace file: append-only, readable to the last whole chunk whatever ended the recording.

pub mod columns;
mod error;
pub mod format;
mod index;
mod map;
mod merge;
pub mod meta;
mod reader;
mod scan;
mod sniff;
mod writer;

pub use error::TraceError;
pub use merge::{Events, Item};
pub use meta::{
    Footer, Header, Inode, Loss, LossCause, Mark, Mechanism, Mount, PlannedHook, Stack, Task,
};
pub use reader::{Damage, Incomplete, Trace};
pub use writer::{WriteSummary, Writer};

/// Nanoseconds after its time by which a record is in its ring, and no longer in front of others that wait for it: a
/// task that is interrupted between what it did and its record is not kept from going on for longer.
pub(crate) const LATE_NS: u64 = 100_000_000;
