//! The part of Perfetto's trace format that is written: protos/perfetto/trace/trace_packet.proto,
//! track_event/track_descriptor.proto and track_event/track_event.proto of the Perfetto sources. Field
//! numbers are theirs.

/// `perfetto.protos.Trace`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Trace {
    /// Packets, in any order of time.
    #[prost(message, repeated, tag = "1")]
    pub packet: Vec<TracePacket>,
}

/// `perfetto.protos.TracePacket`
#[derive(Clone, PartialEq, prost::Message)]
pub struct TracePacket {
    /// Nanoseconds of the clock below.
    #[prost(uint64, optional, tag = "8")]
    pub timestamp: Option<u64>,
    /// `BuiltinClock`; 3 is MONOTONIC.
    #[prost(uint32, optional, tag = "58")]
    pub timestamp_clock_id: Option<u32>,
    /// Whoever wrote it; required of track events.
    #[prost(uint32, optional, tag = "10")]
    pub trusted_packet_sequence_id: Option<u32>,
    /// `SequenceFlags`; 1 clears what came before.
    #[prost(uint32, optional, tag = "13")]
    pub sequence_flags: Option<u32>,
    /// How clocks relate.
    #[prost(message, optional, tag = "6")]
    pub clock_snapshot: Option<ClockSnapshot>,
    /// Something on a track.
    #[prost(message, optional, tag = "11")]
    pub track_event: Option<TrackEvent>,
    /// A track.
    #[prost(message, optional, tag = "60")]
    pub track_descriptor: Option<TrackDescriptor>,
}

/// `perfetto.protos.ClockSnapshot`
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClockSnapshot {
    /// The same instant on each.
    #[prost(message, repeated, tag = "1")]
    pub clocks: Vec<Clock>,
    /// The clock that the trace is shown in.
    #[prost(uint32, optional, tag = "2")]
    pub primary_trace_clock: Option<u32>,
}

/// `perfetto.protos.ClockSnapshot.Clock`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Clock {
    /// `BuiltinClock`
    #[prost(uint32, optional, tag = "1")]
    pub clock_id: Option<u32>,
    /// Nanoseconds.
    #[prost(uint64, optional, tag = "2")]
    pub timestamp: Option<u64>,
}

/// `perfetto.protos.TrackDescriptor`
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrackDescriptor {
    /// Its number.
    #[prost(uint64, optional, tag = "1")]
    pub uuid: Option<u64>,
    /// What it hangs below.
    #[prost(uint64, optional, tag = "5")]
    pub parent_uuid: Option<u64>,
    /// Its name.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// It is a process's.
    #[prost(message, optional, tag = "3")]
    pub process: Option<ProcessDescriptor>,
    /// It is a thread's.
    #[prost(message, optional, tag = "4")]
    pub thread: Option<ThreadDescriptor>,
}

/// `perfetto.protos.ProcessDescriptor`
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessDescriptor {
    /// Process.
    #[prost(int32, optional, tag = "1")]
    pub pid: Option<i32>,
    /// Its name.
    #[prost(string, optional, tag = "6")]
    pub process_name: Option<String>,
}

/// `perfetto.protos.ThreadDescriptor`
#[derive(Clone, PartialEq, prost::Message)]
pub struct ThreadDescriptor {
    /// Process.
    #[prost(int32, optional, tag = "1")]
    pub pid: Option<i32>,
    /// Thread.
    #[prost(int32, optional, tag = "2")]
    pub tid: Option<i32>,
    /// Its name.
    #[prost(string, optional, tag = "5")]
    pub thread_name: Option<String>,
}

/// `perfetto.protos.TrackEvent`
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrackEvent {
    /// On which track.
    #[prost(uint64, optional, tag = "11")]
    pub track_uuid: Option<u64>,
    /// What happens.
    #[prost(enumeration = "track_event::Type", optional, tag = "9")]
    pub r#type: Option<i32>,
    /// Its name.
    #[prost(string, optional, tag = "23")]
    pub name: Option<String>,
    /// Its categories.
    #[prost(string, repeated, tag = "22")]
    pub categories: Vec<String>,
    /// Its arguments.
    #[prost(message, repeated, tag = "4")]
    pub debug_annotations: Vec<DebugAnnotation>,
    /// Flows that go through it.
    #[prost(fixed64, repeated, packed = "false", tag = "47")]
    pub flow_ids: Vec<u64>,
    /// Flows that end in it.
    #[prost(fixed64, repeated, packed = "false", tag = "48")]
    pub terminating_flow_ids: Vec<u64>,
}

/// Values of [`TrackEvent`].
pub mod track_event {
    /// `perfetto.protos.TrackEvent.Type`
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum Type {
        /// TYPE_UNSPECIFIED
        Unspecified = 0,
        /// TYPE_SLICE_BEGIN
        SliceBegin = 1,
        /// TYPE_SLICE_END
        SliceEnd = 2,
        /// TYPE_INSTANT
        Instant = 3,
    }
}

/// `perfetto.protos.DebugAnnotation`
#[derive(Clone, PartialEq, prost::Message)]
pub struct DebugAnnotation {
    /// Its name.
    #[prost(string, optional, tag = "10")]
    pub name: Option<String>,
    /// A number.
    #[prost(uint64, optional, tag = "3")]
    pub uint_value: Option<u64>,
    /// Text.
    #[prost(string, optional, tag = "6")]
    pub string_value: Option<String>,
}
