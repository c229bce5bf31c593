//! Columns to events.

use tracer_ebpf::{Event, Head};
use zerocopy::FromBytes;

use super::{
    COLUMNS, Malformed, Preface, RawInode, RawShape, RawTask, column,
    model::{InodeState, ModeA, ModeB, ModeInode, ModeSize, Model, Modes, Shape, TaskState, page},
    varint::{take, unzigzag},
};

/// Turns columns back into events, a few at a time; reuse it, its tables keep their memory.
#[derive(Default)]
pub struct Decoder {
    model: Model,
    shapes: Vec<Shape>,
    task: u32,
    /// What is left of each column, as ranges of the batch.
    columns: [(usize, usize); COLUMNS],
    left: usize,
}

impl Decoder {
    /// Starts on a batch of `count` events. What it allocates is bounded by the length of `batch`.
    ///
    /// # Errors
    /// [`Malformed`] if the tables do not fit into `batch`.
    pub fn start(&mut self, batch: &[u8], count: usize) -> Result<(), Malformed> {
        self.model.reset();
        self.shapes.clear();
        self.task = 0;
        self.left = 0;

        let (preface, rest) = Preface::ref_from_prefix(batch).map_err(|_| SHORT)?;
        let (shapes, rest) = table::<RawShape>(rest, preface.shapes.get())?;
        for raw in shapes {
            let modes = Modes::unpack(raw.modes.get()).ok_or(Malformed("unknown shape"))?;
            let (hook, depth, flags) = (raw.hook.get(), raw.depth, raw.flags);
            self.shapes.push(Shape {
                hook,
                depth,
                flags,
                modes,
            });
        }
        let (tasks, rest) = table::<RawTask>(rest, preface.tasks.get())?;
        let tasks = tasks.iter().map(|id| TaskState {
            id: id.get(),
            ..TaskState::default()
        });
        self.model.tasks.extend(tasks);
        let (inodes, rest) = table::<RawInode>(rest, preface.inodes.get())?;
        let inodes = inodes.iter().map(|address| InodeState {
            address: address.get(),
            size: 0,
        });
        self.model.inodes.extend(inodes);

        let mut at = batch.len() - rest.len();
        for (range, length) in self.columns.iter_mut().zip(preface.columns) {
            let end = at
                .checked_add(length.get() as usize)
                .filter(|&end| end <= batch.len());
            *range = (at, end.ok_or(SHORT)?);
            at = range.1;
        }
        let (from, to) = self.columns[column::SHAPE];
        if count > to - from {
            return Err(Malformed("fewer events than announced"));
        }
        self.left = count;
        Ok(())
    }

    /// Events not yet decoded.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Replaces the contents of `out` by the next events, `limit` at most; none means the end.
    /// `batch` is the one given to [`Self::start`].
    ///
    /// # Errors
    /// [`Malformed`] if a column ends early or refers to nothing; `out` holds the events before it
    /// and nothing more can be had.
    pub fn next(
        &mut self,
        batch: &[u8],
        limit: usize,
        out: &mut Vec<Event>,
    ) -> Result<(), Malformed> {
        out.clear();
        let mut columns: Columns<'_> = [&[]; COLUMNS];
        for (column, &(from, to)) in columns.iter_mut().zip(&self.columns) {
            *column = batch.get(from..to).ok_or(SHORT)?;
        }
        for _ in 0..limit.min(self.left) {
            match self.event(&mut columns) {
                Ok(event) => out.push(event),
                Err(error) => {
                    self.left = 0;
                    return Err(error);
                }
            }
        }
        self.left -= out.len();
        for (range, column) in self.columns.iter_mut().zip(columns) {
            range.0 = range.1 - column.len();
        }
        Ok(())
    }

    #[inline]
    fn event(&mut self, columns: &mut Columns<'_>) -> Result<Event, Malformed> {
        let mut get = |column: usize| take(&mut columns[column]).ok_or(SHORT);
        let model = &mut self.model;

        let time = model.time.wrapping_add(unzigzag(get(column::TIME)?));
        let shape = get(column::SHAPE)?;
        let &Shape {
            hook,
            depth,
            flags,
            modes,
        } = self
            .shapes
            .get(shape as usize)
            .ok_or(Malformed("no such shape"))?;

        if modes.task {
            self.task = u32::try_from(get(column::TASK)?).map_err(|_| NO_TASK)?;
        }
        let state = *model.tasks.get(self.task as usize).ok_or(NO_TASK)?;
        let (at, place) = model.place(hook, state.hook);

        let mut seq = state.seq.wrapping_add(1);
        if modes.seq {
            seq = seq.wrapping_add(unzigzag(get(column::SEQ)?) as u32);
        }
        let mut stack = place.stack;
        if modes.stack {
            stack = stack.wrapping_add(unzigzag(get(column::STACK)?) as i32);
        }
        let inode = match modes.inode {
            ModeInode::Last => state.inode,
            ModeInode::Zero => 0,
            ModeInode::Number => u32::try_from(get(column::INODE)?).map_err(|_| NO_INODE)?,
        };
        let &InodeState {
            address,
            size: last,
        } = model.inodes.get(inode as usize).ok_or(NO_INODE)?;

        let anchored = state.anchor.0.wrapping_add(place.a_anchored);
        let a = match modes.a {
            ModeA::Same => place.a,
            ModeA::Anchored => anchored,
            ModeA::FromSame => place.a.wrapping_add(unzigzag(get(column::A)?)),
            ModeA::FromAnchored => anchored.wrapping_add(unzigzag(get(column::A)?)),
        };
        let linear = page(a).wrapping_add(place.b_linear);
        let anchored = state.anchor.1.wrapping_add(place.b_anchored);
        let b = match modes.b {
            ModeB::Same => place.b,
            ModeB::Lock => address.wrapping_add(a),
            ModeB::Linear => linear,
            ModeB::Anchored => anchored,
            ModeB::FromSame => place.b.wrapping_add(unzigzag(get(column::B)?)),
            ModeB::FromLinear => linear.wrapping_add(unzigzag(get(column::B)?)),
            ModeB::FromAnchored => anchored.wrapping_add(unzigzag(get(column::B)?)),
        };
        let mut c = place.c;
        if modes.c {
            c = c.wrapping_add(unzigzag(get(column::C)?));
        }
        let size = match modes.size {
            ModeSize::Zero => 0,
            ModeSize::Same => last,
            ModeSize::FromSame => last.wrapping_add(unzigzag(get(column::SIZE)?)),
        };

        let head = Head {
            time,
            task: state.id,
            seq,
            hook,
            depth,
            flags,
            stack,
        };
        let event = Event {
            head,
            inode: address,
            a,
            b,
            c,
            size,
        };
        model.learn(&event, modes, at, self.task, inode);
        Ok(event)
    }
}

type Columns<'a> = [&'a [u8]; COLUMNS];

const SHORT: Malformed = Malformed("it ends too early");
const NO_TASK: Malformed = Malformed("no such task");
const NO_INODE: Malformed = Malformed("no such inode");

/// The next `count` entries, and what follows them.
fn table<T>(bytes: &[u8], count: u32) -> Result<(&[T], &[u8]), Malformed>
where
    T: FromBytes + zerocopy::Immutable + zerocopy::KnownLayout + zerocopy::Unaligned,
{
    <[T]>::ref_from_prefix_with_elems(bytes, count as usize).map_err(|_| SHORT)
}
