//! Chrome's JSON trace events ("Trace Event Format"). Every track is a thread there; those that belong to
//! no thread are threads of a process of their own.

use std::{collections::HashMap, io::Write};

use anyhow::Result;
use serde_json::{Map, Value as Json, json};
use tracer::trace::Trace;

use super::slices::{self, Arguments, Piece, TrackId, TrackKind, Value};

/// Numbers from here on are not the kernel's.
const OWN: u64 = 1 << 30;

/// Writes the trace.
pub fn write(trace: &Trace, out: &mut dyn Write) -> Result<()> {
    let mut places: HashMap<TrackId, (u64, u64)> = HashMap::new();
    let mut next = OWN;
    let mut first = true;
    out.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n")?;
    slices::of(trace, |piece| {
        let mut put = |value: &Json| -> Result<()> {
            if !std::mem::take(&mut first) {
                out.write_all(b",\n")?;
            }
            Ok(serde_json::to_writer(&mut *out, value)?)
        };
        // Microseconds with a fraction.
        let at = |at: tracer::units::Nanos| at.0 as f64 / 1e3;
        match piece {
            Piece::Track { id, parent, kind } => {
                let (kind, place, name) = match kind {
                    TrackKind::Process { pid, name } => {
                        ("process_name", (u64::from(pid), u64::from(pid)), name)
                    }
                    TrackKind::Thread { pid, tid, name } => {
                        ("thread_name", (pid.into(), tid.into()), name)
                    }
                    TrackKind::Named(name) => {
                        next += 1;
                        match parent.and_then(|parent| places.get(&parent)) {
                            Some(&(pid, _)) => ("thread_name", (pid, next), name),
                            None => ("process_name", (next, next), name),
                        }
                    }
                };
                places.insert(id, place);
                put(
                    &json!({"ph": "M", "name": kind, "pid": place.0, "tid": place.1,
                    "args": {"name": name}}),
                )
            }
            Piece::Begin {
                track,
                at: time,
                name,
                category,
                arguments,
                flows: begun,
            } => {
                let (pid, tid) = places.get(&track).copied().unwrap_or((OWN, OWN));
                put(
                    &json!({"ph": "B", "name": name, "cat": category, "ts": at(time), "pid": pid,
                    "tid": tid, "args": object(arguments)}),
                )?;
                for flow in begun {
                    let value = json!({"ph": "s", "name": "waits for", "cat": "wait", "id": flow,
                        "ts": at(time), "pid": pid, "tid": tid});
                    put(&value)?;
                }
                Ok(())
            }
            Piece::End {
                track,
                at: time,
                arguments,
            } => {
                let (pid, tid) = places.get(&track).copied().unwrap_or((OWN, OWN));
                put(&json!({"ph": "E", "ts": at(time), "pid": pid, "tid": tid,
                    "args": object(arguments)}))
            }
            Piece::Instant {
                track,
                at: time,
                name,
                category,
                arguments,
                flow,
            } => {
                let (pid, tid) = places.get(&track).copied().unwrap_or((OWN, OWN));
                put(
                    &json!({"ph": "i", "s": "t", "name": name, "cat": category, "ts": at(time),
                    "pid": pid, "tid": tid, "args": object(arguments)}),
                )?;
                if let Some(flow) = flow {
                    put(
                        &json!({"ph": "f", "bp": "e", "name": "waits for", "cat": "wait",
                        "id": flow, "ts": at(time), "pid": pid, "tid": tid}),
                    )?;
                }
                Ok(())
            }
        }
    })?;
    out.write_all(b"\n]}\n")?;
    Ok(())
}

fn object(arguments: Arguments) -> Json {
    let mut object = Map::new();
    for (name, value) in arguments {
        let value = match value {
            Value::Number(number) => number.into(),
            Value::Text(text) => text.into(),
        };
        object.insert(name.to_owned(), value);
    }
    Json::Object(object)
}
