//! Perfetto's protobuf. A trace is a repeated field of packets, so packets are written one by one.

use std::io::Write;

use anyhow::Result;
use prost::Message as _;
use tracer::trace::Trace;

use super::{
    proto::{
        self, Clock, ClockSnapshot, DebugAnnotation, ProcessDescriptor, ThreadDescriptor,
        TracePacket, TrackDescriptor, TrackEvent, track_event::Type,
    },
    slices::{self, Arguments, Piece, TrackId, TrackKind, Value},
};

/// `BuiltinClock`: BUILTIN_CLOCK_REALTIME, BUILTIN_CLOCK_MONOTONIC, BUILTIN_CLOCK_BOOTTIME
const REALTIME: u32 = 1;
const MONOTONIC: u32 = 3;
const BOOTTIME: u32 = 6;
const SEQUENCE: u32 = 1;

/// Writes the trace.
pub fn write(trace: &Trace, out: &mut dyn Write) -> Result<()> {
    let header = trace.header();
    let started = header.started.0;
    let clock = |id, at| Clock {
        clock_id: Some(id),
        timestamp: Some(at),
    };
    // Readers count in BOOTTIME; the recording knows only MONOTONIC, which differs by time asleep.
    let snapshot = TracePacket {
        trusted_packet_sequence_id: Some(SEQUENCE),
        sequence_flags: Some(1),
        clock_snapshot: Some(ClockSnapshot {
            clocks: vec![
                clock(BOOTTIME, started),
                clock(MONOTONIC, started),
                clock(
                    REALTIME,
                    started.saturating_add_signed(header.realtime_offset),
                ),
            ],
            primary_trace_clock: None,
        }),
        ..TracePacket::default()
    };
    packet(out, snapshot)?;
    slices::of(trace, |piece| packet(out, convert(piece)))
}

fn packet(out: &mut dyn Write, packet: TracePacket) -> Result<()> {
    let whole = proto::Trace {
        packet: vec![packet],
    };
    out.write_all(&whole.encode_to_vec())?;
    Ok(())
}

fn convert(piece: Piece) -> TracePacket {
    match piece {
        Piece::Track { id, parent, kind } => TracePacket {
            trusted_packet_sequence_id: Some(SEQUENCE),
            track_descriptor: Some(descriptor(id, parent, kind)),
            ..TracePacket::default()
        },
        Piece::Begin {
            track,
            at,
            name,
            category,
            arguments,
            flows,
        } => event(
            at.0,
            TrackEvent {
                name: Some(name),
                categories: vec![category.to_owned()],
                flow_ids: flows,
                ..on(track, Type::SliceBegin, arguments)
            },
        ),
        Piece::End {
            track,
            at,
            arguments,
        } => event(at.0, on(track, Type::SliceEnd, arguments)),
        Piece::Instant {
            track,
            at,
            name,
            category,
            arguments,
            flow,
        } => event(
            at.0,
            TrackEvent {
                name: Some(name),
                categories: vec![category.to_owned()],
                terminating_flow_ids: flow.into_iter().collect(),
                ..on(track, Type::Instant, arguments)
            },
        ),
    }
}

fn descriptor(id: TrackId, parent: Option<TrackId>, kind: TrackKind) -> TrackDescriptor {
    let mut descriptor = TrackDescriptor {
        uuid: Some(id.0),
        parent_uuid: parent.map(|parent| parent.0),
        ..TrackDescriptor::default()
    };
    match kind {
        TrackKind::Process { pid, name } => {
            descriptor.process = Some(ProcessDescriptor {
                pid: Some(pid as i32),
                process_name: (!name.is_empty()).then_some(name),
            });
        }
        TrackKind::Thread { pid, tid, name } => {
            // A thread belongs to the process of its pid.
            descriptor.parent_uuid = None;
            descriptor.thread = Some(ThreadDescriptor {
                pid: Some(pid as i32),
                tid: Some(tid as i32),
                thread_name: (!name.is_empty()).then_some(name),
            });
        }
        TrackKind::Named(name) => descriptor.name = Some(name),
    }
    descriptor
}

fn on(track: TrackId, kind: Type, arguments: Arguments) -> TrackEvent {
    TrackEvent {
        track_uuid: Some(track.0),
        r#type: Some(kind.into()),
        debug_annotations: arguments
            .into_iter()
            .map(|(name, value)| {
                let (number, text) = match value {
                    Value::Number(number) => (Some(number), None),
                    Value::Text(text) => (None, Some(text)),
                };
                DebugAnnotation {
                    name: Some(name.to_owned()),
                    uint_value: number,
                    string_value: text,
                }
            })
            .collect(),
        ..TrackEvent::default()
    }
}

fn event(at: u64, event: TrackEvent) -> TracePacket {
    TracePacket {
        timestamp: Some(at),
        timestamp_clock_id: Some(MONOTONIC),
        trusted_packet_sequence_id: Some(SEQUENCE),
        track_event: Some(event),
        ..TracePacket::default()
    }
}
