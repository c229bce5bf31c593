//! Writing a trace.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use tracer_ebpf::Event;
use zerocopy::{FromZeros, IntoBytes};
use zstd::bulk::Compressor;

use super::{
    columns::Encoder,
    error::TraceError,
    format::{
        CHUNK_HEADER, ChunkHeader, FILE_HEADER, FILE_MAGIC, FileHeader, Kind, MAX_EVENTS, MAX_RAW,
        NO_CPU, VERSION,
    },
    index,
    meta::{Footer, Header, Inode, Loss, Mark, Stack, Task},
};
use crate::units::Nanos;

/// Level 1 is nearly as small as level 3 here, at twice the speed.
const LEVEL: i32 = 1;
/// Entries of a table in a chunk, at most: far below [`MAX_RAW`].
const MAX_ENTRIES: usize = 8192;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteSummary {
    /// Size of the file.
    pub bytes: u64,
    /// Events in it.
    pub events: u64,
}

/// A trace being written.
///
/// Events are buffered until a chunk of their CPU is full, everything else until the next chunk of
/// events; [`Writer::flush`] hands it all to the kernel. Dropping the writer flushes, but leaves a
/// trace without a footer.
///
/// After an error nothing that was written before is lost, and what is still buffered is tried
/// again with the next call.
pub struct Writer {
    out: Output,
    encoder: Encoder,
    /// By CPU.
    events: BTreeMap<u32, Vec<Event>>,
    tables: Tables,
    written: u64,
    finished: bool,
}

impl Writer {
    /// Starts a trace. A regular file at `path` is replaced, so that whoever reads it keeps it.
    ///
    /// # Errors
    /// [`TraceError::Io`] and [`TraceError::DiskFull`].
    pub fn create(path: impl AsRef<Path>, header: &Header) -> Result<Self, TraceError> {
        let mut out = Output::create(path.as_ref())?;
        let payload = to_json(header, &out)?;
        out.chunk(
            Kind::Header,
            Contents {
                count: 1,
                ..Contents::default()
            },
            &payload,
        )?;
        Ok(Self {
            out,
            encoder: Encoder::default(),
            events: BTreeMap::new(),
            tables: Tables::default(),
            written: 0,
            finished: false,
        })
    }

    /// Adds events of one CPU in the order of its ring.
    ///
    /// # Errors
    /// [`TraceError::Io`] and [`TraceError::DiskFull`]; then the part of `events` that did not fit
    /// into the buffer was not taken.
    pub fn events(&mut self, cpu: u32, mut events: &[Event]) -> Result<(), TraceError> {
        let buffer = self.events.entry(cpu).or_default();
        if buffer.len() == MAX_EVENTS {
            // Left over from a call that failed.
            self.written += self
                .out
                .events(&mut self.encoder, &mut self.tables, cpu, buffer)?;
        }
        while !events.is_empty() {
            let (now, later) = events.split_at(events.len().min(MAX_EVENTS - buffer.len()));
            buffer.extend_from_slice(now);
            events = later;
            if buffer.len() == MAX_EVENTS {
                self.written +=
                    self.out
                        .events(&mut self.encoder, &mut self.tables, cpu, buffer)?;
            }
        }
        Ok(())
    }

    /// Adds files; they are in the trace before the events added later.
    pub fn inodes(&mut self, inodes: &[Inode]) {
        self.tables.inodes.extend_from_slice(inodes);
    }

    /// Adds tasks, as [`Self::inodes`].
    pub fn tasks(&mut self, tasks: &[Task]) {
        self.tables.tasks.extend_from_slice(tasks);
    }

    /// Adds stacks, as [`Self::inodes`].
    pub fn stacks(&mut self, stacks: &[Stack]) {
        self.tables.stacks.extend_from_slice(stacks);
    }

    /// Adds a loss, as [`Self::inodes`].
    pub fn loss(&mut self, loss: &Loss) {
        self.tables.losses.push(*loss);
    }

    /// Adds what the workload said, as [`Self::inodes`]. The marks are taken out of `marks`.
    pub fn marks(&mut self, marks: &mut Vec<Mark>) {
        self.tables.marks.append(marks);
    }

    /// Size of the file so far, bytes; without what is buffered.
    pub fn bytes(&self) -> u64 {
        self.out.length
    }

    /// Hands everything buffered to the kernel, so that only a crash of the machine can lose it.
    ///
    /// # Errors
    /// [`TraceError::Io`] and [`TraceError::DiskFull`].
    pub fn flush(&mut self) -> Result<(), TraceError> {
        for (&cpu, buffer) in &mut self.events {
            self.written += self
                .out
                .events(&mut self.encoder, &mut self.tables, cpu, buffer)?;
        }
        self.tables.write(&mut self.out)
    }

    /// Does what [`Self::flush`] does, and notes down that no event up to `until` is missing, of any CPU. A
    /// trace that is never closed is read up to the last such note: in what comes after it, the events of
    /// one CPU may be there and those of another not.
    ///
    /// # Errors
    /// [`TraceError::Io`] and [`TraceError::DiskFull`].
    pub fn whole(&mut self, until: Nanos) -> Result<(), TraceError> {
        self.flush()?;
        let contents = Contents {
            first: until.0,
            last: until.0,
            ..Contents::default()
        };
        self.out.chunk(Kind::Whole, contents, &[])
    }

    /// Closes the trace.
    ///
    /// # Errors
    /// [`TraceError::Io`] and [`TraceError::DiskFull`]; the trace is then readable, but incomplete.
    pub fn finish(mut self, footer: &Footer) -> Result<WriteSummary, TraceError> {
        self.finished = true;
        self.flush()?;
        let payload = to_json(footer, &self.out)?;
        let contents = Contents {
            first: footer.ended.0,
            last: footer.ended.0,
            count: 1,
            cpu: None,
        };
        self.out.chunk(Kind::Footer, contents, &payload)?;
        self.out.index()?;
        Ok(WriteSummary {
            bytes: self.out.length,
            events: self.written,
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody is left to hear of an error, and the missing footer tells.
            let _ = self.flush();
        }
    }
}

/// Tables with news.
#[derive(Default)]
struct Tables {
    inodes: Vec<Inode>,
    tasks: Vec<Task>,
    stacks: Vec<Stack>,
    losses: Vec<Loss>,
    marks: Vec<Mark>,
}

impl Tables {
    fn write(&mut self, out: &mut Output) -> Result<(), TraceError> {
        table(out, Kind::Inodes, &mut self.inodes, |inode| {
            Some([inode.since.0; 2])
        })?;
        table(out, Kind::Tasks, &mut self.tasks, |_| None)?;
        table(out, Kind::Stacks, &mut self.stacks, |_| None)?;
        table(out, Kind::Losses, &mut self.losses, |loss| {
            Some([loss.from.0, loss.to.0])
        })?;
        table(out, Kind::Marks, &mut self.marks, |mark| {
            Some(match mark {
                Mark::Operation(mark) => [mark.from.0, mark.to.0],
                Mark::Corruption(mark) => [mark.at.0; 2],
            })
        })
    }
}

fn table<T: Serialize>(
    out: &mut Output,
    kind: Kind,
    entries: &mut Vec<T>,
    times: impl Fn(&T) -> Option<[u64; 2]>,
) -> Result<(), TraceError> {
    while !entries.is_empty() {
        let some = &entries[..entries.len().min(MAX_ENTRIES)];
        let payload = to_json(some, out)?;
        let contents = Contents::of(some.iter().filter_map(&times).flatten());
        let contents = Contents {
            count: some.len() as u32,
            ..contents
        };
        out.chunk(kind, contents, &payload)?;
        let count = some.len();
        entries.drain(..count);
    }
    Ok(())
}

fn to_json<T: Serialize + ?Sized>(value: &T, out: &Output) -> Result<Vec<u8>, TraceError> {
    serde_json::to_vec(value).map_err(|error| out.error(error.into()))
}

/// What a chunk's header says about its contents.
#[derive(Default)]
struct Contents {
    cpu: Option<u32>,
    count: u32,
    first: u64,
    last: u64,
}

impl Contents {
    fn of(times: impl Iterator<Item = u64>) -> Self {
        let (count, first, last) = times.fold((0, u64::MAX, 0), |(count, first, last), time| {
            (count + 1, time.min(first), time.max(last))
        });
        Self {
            cpu: None,
            count,
            first: first.min(last),
            last,
        }
    }
}

/// The file, and the chunks in it.
struct Output {
    path: PathBuf,
    file: File,
    /// Bytes that hold whole chunks; the next one goes there, over what a failed write left.
    length: u64,
    places: Vec<index::Place>,
    compressor: Compressor<'static>,
    raw: Vec<u8>,
    chunk: Vec<u8>,
}

impl Output {
    fn create(path: &Path) -> Result<Self, TraceError> {
        let failed = |action| {
            move |source| TraceError::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        if fs::symlink_metadata(path).is_ok_and(|old| old.is_file()) {
            fs::remove_file(path).map_err(failed("replace"))?;
        }
        let file = File::create(path).map_err(failed("create"))?;
        let compressor = Compressor::new(LEVEL).map_err(failed("write to"))?;
        let (places, raw, chunk) = (Vec::new(), Vec::new(), Vec::new());
        let mut out = Self {
            path: path.to_owned(),
            file,
            length: 0,
            places,
            compressor,
            raw,
            chunk,
        };
        let header = FileHeader {
            magic: FILE_MAGIC,
            version: VERSION.into(),
            reserved: 0.into(),
        };
        out.chunk.extend_from_slice(header.as_bytes());
        out.append()?;
        Ok(out)
    }

    fn error(&self, source: io::Error) -> TraceError {
        TraceError::writing(self.path.clone(), self.length, source)
    }

    /// Appends a chunk of events after the tables that it may refer to; gives their number.
    fn events(
        &mut self,
        encoder: &mut Encoder,
        tables: &mut Tables,
        cpu: u32,
        events: &mut Vec<Event>,
    ) -> Result<u64, TraceError> {
        if events.is_empty() {
            return Ok(0);
        }
        tables.write(self)?;
        let mut raw = std::mem::take(&mut self.raw);
        raw.clear();
        encoder.encode(events, &mut raw);
        let times = events.iter().map(|event| event.head.time);
        let contents = Contents {
            cpu: Some(cpu),
            ..Contents::of(times)
        };
        let result = self.chunk(Kind::Events, contents, &raw);
        self.raw = raw;
        result?;
        let count = events.len() as u64;
        events.clear();
        Ok(count)
    }

    /// Appends a compressed chunk.
    fn chunk(&mut self, kind: Kind, contents: Contents, raw: &[u8]) -> Result<(), TraceError> {
        if raw.len() > MAX_RAW {
            return Err(self.error(io::Error::other("a chunk grew beyond its limit")));
        }
        self.chunk.clear();
        self.chunk
            .resize(CHUNK_HEADER + zstd::zstd_safe::compress_bound(raw.len()), 0);
        let stored = self
            .compressor
            .compress_to_buffer(raw, &mut self.chunk[CHUNK_HEADER..])
            .map_err(|error| self.error(error))?;
        self.chunk.truncate(CHUNK_HEADER + stored);
        let header = self.seal(kind, contents, raw.len());
        let offset = self.length.into();
        self.append()?;
        self.places.push(index::Place { offset, header });
        Ok(())
    }

    /// Appends the index.
    fn index(&mut self) -> Result<(), TraceError> {
        let payload = index::payload(&self.places, self.length);
        if payload.len() > MAX_RAW {
            return Ok(());
        }
        self.chunk.clear();
        self.chunk.resize(CHUNK_HEADER, 0);
        self.chunk.extend_from_slice(&payload);
        let contents = Contents {
            count: self.places.len() as u32,
            ..Contents::default()
        };
        self.seal(Kind::Index, contents, payload.len());
        self.append()
    }

    /// Puts the header before the payload.
    fn seal(&mut self, kind: Kind, contents: Contents, raw: usize) -> ChunkHeader {
        let mut header = ChunkHeader::new_zeroed();
        header.kind = (kind as u32).into();
        header.cpu = contents.cpu.unwrap_or(NO_CPU).into();
        header.count = contents.count.into();
        header.raw = (raw as u32).into();
        header.stored = ((self.chunk.len() - CHUNK_HEADER) as u32).into();
        header.first = contents.first.into();
        header.last = contents.last.into();
        header.seal(&self.chunk[CHUNK_HEADER..]);
        self.chunk[..CHUNK_HEADER].copy_from_slice(header.as_bytes());
        header
    }

    /// Writes `chunk` to the end of the file.
    fn append(&mut self) -> Result<(), TraceError> {
        debug_assert!(self.length == 0 || self.length >= FILE_HEADER as u64);
        if let Err(error) = self.file.write_all_at(&self.chunk, self.length) {
            // Half a chunk would only make readers warn; if it must stay, they cope.
            let _ = self.file.set_len(self.length);
            return Err(self.error(error));
        }
        self.length += self.chunk.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Trace;

    fn header() -> Header {
        Header {
            kernel: String::new(),
            build: String::new(),
            host: String::new(),
            cpus: 1,
            recorder: String::new(),
            command: Vec::new(),
            realtime_offset: 0,
            started: Nanos(0),
            mounts: Vec::new(),
            hooks: Vec::new(),
            locks: Vec::new(),
            left_out: 0,
        }
    }

    #[test]
    fn a_disk_that_fills_up_costs_nothing_written_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.flt");
        let event = Event {
            a: 5,
            ..Event::default()
        };
        let loss = Loss {
            cpu: None,
            from: Nanos(0),
            to: Nanos(9),
            count: 2,
            cause: crate::trace::LossCause::Ring,
        };
        let mut writer = Writer::create(&path, &header()).unwrap();
        writer.events(0, &[event; 10]).unwrap();
        writer.flush().unwrap();
        let bytes = writer.bytes();

        let full = File::options().write(true).open("/dev/full").unwrap();
        let file = std::mem::replace(&mut writer.out.file, full);
        writer.loss(&loss);
        writer.events(0, &[event; 7]).unwrap();
        let error = writer.flush().unwrap_err();
        assert!(
            matches!(error, TraceError::DiskFull { written, .. } if written == bytes),
            "{error}"
        );
        assert_eq!(Trace::open(&path).unwrap().event_count(), 10);

        writer.out.file = file;
        let summary = writer.finish(&Footer::default()).unwrap();
        assert_eq!(summary.events, 17);
        let trace = Trace::open(&path).unwrap();
        assert_eq!((trace.event_count(), trace.losses()), (17, &[loss][..]));
        assert_eq!(trace.incomplete(), None);
    }
}
