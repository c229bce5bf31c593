//! Reading a trace.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
};

use serde::de::DeserializeOwned;
use zstd::bulk::Decompressor;

use super::{
    error::TraceError,
    format::{CHUNK_HEADER, ChunkHeader, FILE_HEADER, FILE_MAGIC, FileHeader, Kind, VERSION},
    index::{self, Place},
    map::Map,
    merge::{Events, Item},
    meta::{Footer, Header, Inode, Loss, LossCause, Mark, Stack, Task},
    scan::{self, Gap, Layout, Torn},
    sniff,
};
use crate::units::Nanos;
use tracer_ebpf::Event;
use zerocopy::{FromBytes, IntoBytes};

/// Why a trace is not all that was to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// One sentence without its subject, the trace: "it ends within a chunk".
    pub reason: String,
    /// Bytes at its end that hold no whole chunk.
    pub bytes_unread: u64,
    /// Events up to here are all there. Later ones, of which not every CPU's may be, are not given out.
    pub whole_until: Nanos,
}

/// Bytes inside a trace that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What was there.
    pub what: String,
}

/// A trace opened for reading. Its tables are in memory, its events stay in the file.
pub struct Trace {
    map: Map,
    header: Header,
    footer: Option<Footer>,
    inodes: Vec<Inode>,
    tasks: Vec<Task>,
    stacks: Vec<Stack>,
    losses: Vec<Loss>,
    marks: Vec<Mark>,
    damage: Vec<Damage>,
    /// Chunks of events by CPU, in file order.
    chunks: BTreeMap<u32, Vec<Place>>,
    torn: Option<Torn>,
    /// No event up to here is missing but for what is told as lost.
    whole_until: Nanos,
}

impl Trace {
    /// Opens a trace, finished, broken off or still being written (then as far as it is).
    ///
    /// # Errors
    /// Every variant of [`TraceError`] but `DiskFull`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TraceError> {
        let path = path.as_ref();
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => TraceError::Absent {
                path: path.to_owned(),
            },
            _ => TraceError::Io {
                path: path.to_owned(),
                action: "open",
                source,
            },
        };
        // Before it is opened: opening a pipe waits for its other end.
        let metadata = fs::metadata(path).map_err(failed)?;
        if let Some(looks) = sniff::special(metadata.file_type()) {
            return Err(TraceError::NotATrace {
                path: path.to_owned(),
                looks: looks.to_owned(),
            });
        }
        if metadata.len() == 0 {
            return Err(TraceError::Empty {
                path: path.to_owned(),
            });
        }
        let file = File::open(path).map_err(failed)?;
        let map = Map::new(&file).map_err(failed)?;
        check_file_header(path, &map)?;

        let layout = match index::read(&map) {
            Some(chunks) => Layout {
                chunks,
                ..Layout::default()
            },
            None => scan::walk(&map),
        };
        let header = read_header(path, &map, &layout)?;
        let mut trace = Self {
            map,
            header,
            footer: None,
            inodes: Vec::new(),
            tasks: Vec::new(),
            stacks: Vec::new(),
            losses: Vec::new(),
            marks: Vec::new(),
            damage: Vec::new(),
            chunks: BTreeMap::new(),
            torn: None,
            whole_until: Nanos(u64::MAX),
        };
        trace.load(layout);
        Ok(trace)
    }

    fn load(&mut self, mut layout: Layout) {
        // A crash of the machine can leave holes where the last chunks were to be.
        while let Some(last) = layout.chunks.last()
            && payload(&self.map, last).is_none()
        {
            layout.torn = Some(Torn {
                offset: last.start(),
                reason: scan::GARBLED,
            });
            layout.chunks.pop();
        }
        layout.gaps.retain(|gap| gap.before < layout.chunks.len());
        self.torn = layout.torn;

        for place in &layout.chunks {
            let Some(kind) = place.header.kind() else {
                continue;
            };
            let read = match kind {
                Kind::Events => {
                    self.chunks
                        .entry(place.header.cpu.get())
                        .or_default()
                        .push(*place);
                    true
                }
                Kind::Inodes => append(&self.map, place, &mut self.inodes),
                Kind::Tasks => append(&self.map, place, &mut self.tasks),
                Kind::Stacks => append(&self.map, place, &mut self.stacks),
                Kind::Losses => append(&self.map, place, &mut self.losses),
                Kind::Marks => append(&self.map, place, &mut self.marks),
                Kind::Footer => {
                    self.footer = json(&self.map, place);
                    self.footer.is_some()
                }
                Kind::Header | Kind::Index | Kind::Whole => true,
            };
            if !read {
                self.damaged_table(place, kind);
            }
        }
        for gap in &layout.gaps {
            self.damaged_gap(gap, &layout.chunks);
        }
        if self.footer.is_none() {
            self.whole_until = self.common_end(&layout.chunks);
        }
        self.losses.sort_by_key(|loss| loss.from);
    }

    fn damaged_table(&mut self, place: &Place, kind: Kind) {
        self.damage.push(Damage {
            offset: place.offset.get(),
            length: place.header.length() as u64,
            what: kind.name().to_owned(),
        });
        // Names of tasks and stacks decide nothing.
        if matches!(kind, Kind::Inodes | Kind::Losses) {
            self.losses.push(chunk_loss(&place.header));
        }
    }

    /// Up to when the events of every CPU are in a trace that was not closed. The writer notes it down; before it
    /// first did, it is where the first CPU's events end.
    fn common_end(&self, chunks: &[Place]) -> Nanos {
        let noted = chunks
            .iter()
            .rfind(|place| place.header.kind() == Some(Kind::Whole));
        if let Some(place) = noted {
            return Nanos(place.header.last.get());
        }
        if self.chunks.len() < self.header.cpus as usize {
            return self.header.started;
        }
        let ends = self
            .chunks
            .values()
            .filter_map(|places| places.last())
            .map(|place| Nanos(place.header.last.get()));
        ends.min().unwrap_or(self.header.started)
    }

    /// What was in a gap is unknown, so its bounds are those of every CPU's events around it.
    fn damaged_gap(&mut self, gap: &Gap, chunks: &[Place]) {
        let (before, after) = chunks.split_at(gap.before);
        let events = |place: &&Place| place.header.kind() == Some(Kind::Events);
        let mut last_before = BTreeMap::new();
        for place in before.iter().filter(events) {
            last_before.insert(place.header.cpu, place.header.last.get());
        }
        let mut first_after = BTreeMap::new();
        for place in after.iter().filter(events) {
            first_after
                .entry(place.header.cpu)
                .or_insert(place.header.first.get());
        }
        let started = self.header.started.0;
        let ended = self
            .footer
            .as_ref()
            .map_or(u64::MAX, |footer| footer.ended.0);
        let from = self
            .chunks
            .keys()
            .map(|&cpu| *last_before.get(&cpu.into()).unwrap_or(&started));
        let to = self
            .chunks
            .keys()
            .map(|&cpu| *first_after.get(&cpu.into()).unwrap_or(&ended));
        let from = from.min().unwrap_or(started);
        self.losses.push(Loss {
            cpu: None,
            from: Nanos(from),
            to: Nanos(to.max().unwrap_or(ended).max(from)),
            count: 1,
            cause: LossCause::Corrupt,
        });
        self.damage.push(Damage {
            offset: gap.offset as u64,
            length: gap.length as u64,
            what: "unknown".to_owned(),
        });
    }

    /// What the trace says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How the recording ended; none if it was not closed.
    pub fn footer(&self) -> Option<&Footer> {
        self.footer.as_ref()
    }

    /// Why the trace is not all that was to be recorded. A damaged index alone is no reason.
    pub fn incomplete(&self) -> Option<Incomplete> {
        if self.footer.is_some() {
            return None;
        }
        let bytes_unread = self
            .torn
            .as_ref()
            .map_or(0, |torn| self.map.len() - torn.offset) as u64;
        let reason = self
            .torn
            .as_ref()
            .map_or("its recording was not closed", |torn| torn.reason);
        Some(Incomplete {
            reason: reason.to_owned(),
            bytes_unread,
            whole_until: self.whole_until,
        })
    }

    /// What was lost in recording, and what damage is known of without reading all events, by
    /// time. [`Item::Loss`] and [`Self::verify`] tell of the rest.
    pub fn losses(&self) -> &[Loss] {
        &self.losses
    }

    /// What the workload said about itself, in the order in which it came.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Parts that cannot be read, other than chunks of events.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// Files, in the order in which they were met.
    pub fn inodes(&self) -> &[Inode] {
        &self.inodes
    }

    /// Tasks, in the order in which they were met.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Kernel stacks.
    pub fn stacks(&self) -> &[Stack] {
        &self.stacks
    }

    /// Events in the trace, including those in chunks that turn out to be damaged, and those behind
    /// [`Incomplete::whole_until`].
    pub fn event_count(&self) -> u64 {
        self.places()
            .map(|place| u64::from(place.header.count.get()))
            .sum()
    }

    /// Times of the first and the last event that [`Self::events`] gives, or bounds of them.
    pub fn time_range(&self) -> Option<(Nanos, Nanos)> {
        let first = self.places().map(|place| place.header.first.get()).min()?;
        let last = self.places().map(|place| place.header.last.get()).max()?;
        let last = last.min(self.whole_until.0).max(first);
        Some((Nanos(first), Nanos(last)))
    }

    /// Up to when [`Self::events`] gives events.
    pub(super) fn whole_until(&self) -> Nanos {
        self.whole_until
    }

    /// CPUs that have events.
    pub fn cpus(&self) -> impl Iterator<Item = u32> {
        self.chunks.keys().copied()
    }

    /// Size of the file, bytes.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// All events and losses, merged by time. See [`Events`].
    pub fn events(&self) -> Events<'_> {
        Events::new(
            self,
            self.chunks.iter().map(|(&cpu, places)| (cpu, &places[..])),
        )
    }

    /// Gives every event with its CPU to `visit`, in the order of [`Self::events`]; returns the
    /// losses that were not in [`Self::losses`].
    pub fn for_each(&self, mut visit: impl FnMut(u32, &Event)) -> Vec<Loss> {
        let mut events = self.events();
        for item in events.by_ref() {
            if let Item::Event { cpu, event } = item {
                visit(cpu, &event);
            }
        }
        events.into_damage()
    }

    /// Checks all chunks of events without decoding them; returns those that are damaged, by time.
    pub fn verify(&self) -> Vec<Loss> {
        let mut losses = Vec::new();
        for place in self.places() {
            if payload(&self.map, place).is_none() {
                losses.push(chunk_loss(&place.header));
            }
            self.map.release(place.start(), place.header.length());
        }
        losses.sort_by_key(|loss| loss.from);
        losses
    }

    /// Decompresses a chunk into `out`; false if it is damaged.
    pub(super) fn decompress(
        &self,
        place: &Place,
        decompressor: &mut Decompressor<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        let sound = decompress(&self.map, place, decompressor, out);
        // Else the resident part of the map grows with the length of the trace.
        self.map.release(place.start(), place.header.length());
        sound
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.chunks.values().flatten()
    }
}

/// The loss that a damaged chunk is.
pub(super) fn chunk_loss(header: &ChunkHeader) -> Loss {
    let events = header.kind() == Some(Kind::Events);
    Loss {
        cpu: events.then(|| header.cpu.get()),
        from: Nanos(header.first.get()),
        to: Nanos(header.last.get()),
        count: u64::from(header.count.get()).max(1),
        cause: LossCause::Corrupt,
    }
}

fn check_file_header(path: &Path, file: &[u8]) -> Result<(), TraceError> {
    let path = path.to_owned();
    if !file.starts_with(&FILE_MAGIC) && !FILE_MAGIC.starts_with(file) {
        return Err(TraceError::NotATrace {
            path,
            looks: sniff::contents(file),
        });
    }
    let Ok((header, rest)) = FileHeader::ref_from_prefix(file) else {
        return Err(TraceError::Empty { path });
    };
    match header.version.get() {
        0 => Err(TraceError::Corrupt {
            path,
            reason: "its format is given as 0".to_owned(),
        }),
        1..=VERSION if rest.is_empty() => Err(TraceError::Empty { path }),
        1..=VERSION => Ok(()),
        found => Err(TraceError::NewerVersion {
            path,
            found,
            supported: VERSION,
        }),
    }
}

fn read_header(path: &Path, file: &[u8], layout: &Layout) -> Result<Header, TraceError> {
    let path = path.to_owned();
    let first = layout
        .chunks
        .first()
        .filter(|first| first.start() == FILE_HEADER);
    let Some(first) = first else {
        return Err(match &layout.torn {
            Some(torn) if torn.offset == FILE_HEADER && torn.reason == scan::CUT => {
                TraceError::Empty { path }
            }
            _ => TraceError::Corrupt {
                path,
                reason: "its header cannot be found".to_owned(),
            },
        });
    };
    let header = if first.header.kind() == Some(Kind::Header) {
        json(file, first)
    } else {
        None
    };
    header.ok_or(TraceError::Corrupt {
        path,
        reason: "its header cannot be read".to_owned(),
    })
}

/// A chunk's payload, if it is what was written.
fn payload<'a>(file: &'a [u8], place: &Place) -> Option<&'a [u8]> {
    let chunk = file.get(place.start()..place.end())?;
    let (header, payload) = chunk.split_at_checked(CHUNK_HEADER)?;
    (header == place.header.as_bytes() && place.header.matches(payload)).then_some(payload)
}

fn decompress(
    file: &[u8],
    place: &Place,
    decompressor: &mut Decompressor<'_>,
    out: &mut Vec<u8>,
) -> bool {
    out.clear();
    let Some(payload) = payload(file, place) else {
        return false;
    };
    let raw = place.header.raw.get() as usize;
    out.reserve_exact(raw);
    decompressor.decompress_to_buffer(payload, out).is_ok() && out.len() == raw
}

fn json<T: DeserializeOwned>(file: &[u8], place: &Place) -> Option<T> {
    let mut raw = Vec::new();
    let mut decompressor = Decompressor::new().ok()?;
    if !decompress(file, place, &mut decompressor, &mut raw) {
        return None;
    }
    serde_json::from_slice(&raw).ok()
}

/// Appends a table's entries; false if the chunk is damaged.
fn append<T: DeserializeOwned>(file: &[u8], place: &Place, entries: &mut Vec<T>) -> bool {
    match json::<Vec<T>>(file, place) {
        Some(more) => {
            entries.extend(more);
            true
        }
        None => false,
    }
}
