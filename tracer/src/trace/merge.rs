//! All CPUs' events as one stream.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    slice,
};

use tracer_ebpf::Event;
use zstd::bulk::Decompressor;

use super::{
    columns::Decoder,
    index::Place,
    meta::{Loss, LossCause},
    reader::{Trace, chunk_loss},
};
use crate::units::Nanos;

/// Events decoded at once: few enough to stay in the CPU's nearest cache.
const BATCH: usize = 256;

/// What the stream consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "almost every item is an event")]
pub enum Item {
    /// One event.
    Event {
        /// Where it was recorded.
        cpu: u32,
        /// What happened.
        event: Event,
    },
    /// Events are missing, beginning about here.
    Loss(Loss),
}

/// A trace's events and losses by time; events at the same time by CPU. Events of one CPU keep the
/// order in which its ring had them, even where their times do not rise. It ends where the events of every
/// CPU are still there ([`super::Incomplete::whole_until`]). A loss comes before the
/// first event that is not before its `from`.
///
/// Memory in use is one compressed chunk's worth per CPU, whatever the trace's length.
pub struct Events<'t> {
    trace: &'t Trace,
    cursors: Vec<Cursor<'t>>,
    heap: BinaryHeap<Reverse<Key>>,
    losses: slice::Iter<'t, Loss>,
    next_loss: u64,
    /// Later events are none of the stream's.
    until: u64,
    damage: Vec<Loss>,
    /// None only if memory is too short for a context.
    decompressor: Option<Decompressor<'static>>,
}

/// A cursor's place in the order. `time` is its next event's, or the first of its next chunk's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    time: u64,
    /// In the order of the CPUs.
    cursor: usize,
}

impl<'t> Events<'t> {
    pub(super) fn new(trace: &'t Trace, chunks: impl Iterator<Item = (u32, &'t [Place])>) -> Self {
        let mut cursors = Vec::new();
        let mut heap = BinaryHeap::new();
        for (cpu, places) in chunks {
            let mut cursor = Cursor::new(cpu, places);
            if let Some(time) = cursor.next_chunk() {
                heap.push(Reverse(Key {
                    time,
                    cursor: cursors.len(),
                }));
                cursors.push(cursor);
            }
        }
        let losses = trace.losses().iter();
        let next_loss = first(&losses);
        let decompressor = Decompressor::new().ok();
        Self {
            trace,
            cursors,
            heap,
            losses,
            next_loss,
            until: trace.whole_until().0,
            damage: Vec::new(),
            decompressor,
        }
    }

    /// The losses found on the way that are not in [`Trace::losses`].
    pub fn into_damage(self) -> Vec<Loss> {
        self.damage
    }
}

impl Iterator for Events<'_> {
    type Item = Item;

    #[inline]
    fn next(&mut self) -> Option<Item> {
        loop {
            let top = self.heap.peek_mut();
            let Some(mut top) = top.filter(|top| top.0.time <= self.until) else {
                let loss = self.losses.next().copied();
                self.next_loss = first(&self.losses);
                return loss.map(Item::Loss);
            };
            if self.next_loss <= top.0.time
                && let Some(&loss) = self.losses.next()
            {
                self.next_loss = first(&self.losses);
                return Some(Item::Loss(loss));
            }
            let cursor = &mut self.cursors[top.0.cursor];
            if let Some(&event) = cursor.batch.get(cursor.at) {
                cursor.at += 1;
                if let Some(next) = cursor.batch.get(cursor.at) {
                    top.0.time = next.head.time;
                }
                return Some(Item::Event {
                    cpu: cursor.cpu,
                    event,
                });
            }
            let (time, loss) = cursor.advance(self.trace, self.decompressor.as_mut());
            match time {
                Some(time) => top.0.time = time,
                None => {
                    PeekMut::pop(top);
                }
            }
            if let Some(loss) = loss {
                self.damage.push(loss);
                return Some(Item::Loss(loss));
            }
        }
    }
}

fn first(losses: &slice::Iter<'_, Loss>) -> u64 {
    losses
        .as_slice()
        .first()
        .map_or(u64::MAX, |loss| loss.from.0)
}

/// One CPU's place in its chunks.
struct Cursor<'t> {
    cpu: u32,
    places: slice::Iter<'t, Place>,
    /// The chunk that `raw` is of, or, until its time has come, is to be of.
    place: Option<&'t Place>,
    open: bool,
    raw: Vec<u8>,
    decoder: Decoder,
    batch: Vec<Event>,
    at: usize,
    /// Time of the last event of the last batch.
    last: u64,
}

impl<'t> Cursor<'t> {
    fn new(cpu: u32, places: &'t [Place]) -> Self {
        Self {
            cpu,
            places: places.iter(),
            place: None,
            open: false,
            raw: Vec::new(),
            decoder: Decoder::default(),
            batch: Vec::new(),
            at: 0,
            last: 0,
        }
    }

    /// Turns to the next chunk without reading it; gives its first time.
    fn next_chunk(&mut self) -> Option<u64> {
        self.batch.clear();
        self.at = 0;
        self.open = false;
        self.place = self.places.next();
        let Some(place) = self.place else {
            self.raw = Vec::new();
            return None;
        };
        Some(place.header.first.get())
    }

    /// Called when the batch is used up: gives the time of what comes next, and what is lost before it.
    fn advance(
        &mut self,
        trace: &Trace,
        decompressor: Option<&mut Decompressor<'static>>,
    ) -> (Option<u64>, Option<Loss>) {
        let Some(place) = self.place else {
            return (None, None);
        };
        if !self.open {
            let count = place.header.count.get() as usize;
            self.last = place.header.first.get();
            self.open = true;
            let sound = decompressor
                .is_some_and(|with| trace.decompress(place, with, &mut self.raw))
                && self.decoder.start(&self.raw, count).is_ok();
            if !sound {
                return (self.next_chunk(), Some(chunk_loss(&place.header)));
            }
        }
        let left = self.decoder.left();
        if left == 0 {
            return (self.next_chunk(), None);
        }
        if let Some(event) = self.batch.last() {
            self.last = event.head.time;
        }
        self.at = 0;
        if self
            .decoder
            .next(&self.raw, BATCH, &mut self.batch)
            .is_err()
        {
            // A checksum that holds over columns that do not: a faulty writer. What was decoded
            // before the fault is as doubtful.
            let to = place.header.last.get().max(self.last);
            let loss = Loss {
                cpu: Some(self.cpu),
                from: Nanos(self.last),
                to: Nanos(to),
                count: left as u64,
                cause: LossCause::Corrupt,
            };
            return (self.next_chunk(), Some(loss));
        }
        (self.batch.first().map(|event| event.head.time), None)
    }
}
