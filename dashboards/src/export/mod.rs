//! Traces for other programs.

mod chrome;
mod folded;
mod perfetto;
mod proto;
mod slices;
pub mod tables;

pub use chrome::write as chrome_json;
pub use folded::render as folded;
pub use perfetto::write as perfetto;
pub use proto::{Trace as PerfettoTrace, TracePacket, track_event};
