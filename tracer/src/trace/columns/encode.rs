//! Events to columns.

use tracer_ebpf::Event;
use zerocopy::IntoBytes;

use super::{
    COLUMNS, Preface, RawInode, RawShape, RawTask, column,
    intern::Interner,
    model::{
        InodeState, ModeA, ModeB, ModeInode, ModeSize, Model, Modes, Place, Shape, TaskState, page,
    },
    varint::{put, zigzag},
};

/// Turns events into columns; reuse it, its tables keep their memory.
#[derive(Default)]
pub struct Encoder {
    model: Model,
    shapes: Interner,
    tasks: Interner,
    inodes: Interner,
    columns: [Vec<u8>; COLUMNS],
}

impl Encoder {
    /// Appends the columns of `events`, a batch of one CPU in ring order, to `out`.
    pub fn encode(&mut self, events: &[Event], out: &mut Vec<u8>) {
        self.model.reset();
        self.shapes.clear();
        self.tasks.clear();
        self.inodes.clear();
        self.inodes.number(0);
        for column in &mut self.columns {
            column.clear();
        }
        let mut task = 0;
        for event in events {
            task = self.event(event, task);
        }
        self.write(out);
    }

    /// Encodes one event; takes and gives the task's number.
    #[inline]
    fn event(&mut self, event: &Event, before: u32) -> u32 {
        let Self {
            model,
            shapes,
            tasks,
            inodes,
            columns,
        } = self;
        let head = &event.head;
        let mut modes = Modes::default();

        put(
            &mut columns[column::TIME],
            zigzag(head.time.wrapping_sub(model.time)),
        );

        let mut task = before;
        if model
            .tasks
            .get(task as usize)
            .is_none_or(|state| state.id != head.task)
        {
            let (number, new) = tasks.number(u64::from(head.task));
            if new {
                model.tasks.push(TaskState {
                    id: head.task,
                    ..TaskState::default()
                });
            }
            task = number;
        }
        if task != before {
            modes.task = true;
            put(&mut columns[column::TASK], u64::from(task));
        }
        let state = model.tasks[task as usize];
        let (at, place) = model.place(head.hook, state.hook);

        let gap = head.seq.wrapping_sub(state.seq).wrapping_sub(1);
        if gap != 0 {
            modes.seq = true;
            put(&mut columns[column::SEQ], zigzag(gap as i32 as u64));
        }
        if head.stack != place.stack {
            modes.stack = true;
            let difference = head.stack.wrapping_sub(place.stack);
            put(&mut columns[column::STACK], zigzag(difference as u64));
        }

        let inode = if model.inodes[state.inode as usize].address == event.inode {
            state.inode
        } else if event.inode == 0 {
            modes.inode = ModeInode::Zero;
            0
        } else {
            modes.inode = ModeInode::Number;
            let (number, new) = inodes.number(event.inode);
            if new {
                model.inodes.push(InodeState {
                    address: event.inode,
                    size: 0,
                });
            }
            put(&mut columns[column::INODE], u64::from(number));
            number
        };

        modes.a = payload_a(event, &state, &place, &mut columns[column::A]);
        modes.b = payload_b(event, &state, &place, &mut columns[column::B]);
        if event.c != place.c {
            modes.c = true;
            put(
                &mut columns[column::C],
                zigzag(event.c.wrapping_sub(place.c)),
            );
        }

        let size = model.inodes[inode as usize].size;
        if event.size == 0 {
            modes.size = ModeSize::Zero;
        } else if event.size == size {
            modes.size = ModeSize::Same;
        } else {
            modes.size = ModeSize::FromSame;
            put(
                &mut columns[column::SIZE],
                zigzag(event.size.wrapping_sub(size)),
            );
        }

        let shape = Shape {
            hook: head.hook,
            depth: head.depth,
            flags: head.flags,
            modes,
        };
        put(
            &mut columns[column::SHAPE],
            u64::from(shapes.number(shape_key(shape)).0),
        );
        model.learn(event, modes, at, task, inode);
        task
    }

    fn write(&self, out: &mut Vec<u8>) {
        // Number 0 is no inode in every batch.
        let inodes = &self.inodes.keys()[1..];
        let preface = Preface {
            shapes: (self.shapes.keys().len() as u32).into(),
            tasks: (self.tasks.keys().len() as u32).into(),
            inodes: (inodes.len() as u32).into(),
            columns: std::array::from_fn(|at| (self.columns[at].len() as u32).into()),
        };
        out.extend_from_slice(preface.as_bytes());
        for &key in self.shapes.keys() {
            let raw = RawShape {
                hook: (key as u16).into(),
                modes: ((key >> 16) as u16).into(),
                depth: (key >> 32) as u8,
                flags: (key >> 40) as u8,
            };
            out.extend_from_slice(raw.as_bytes());
        }
        for &task in self.tasks.keys() {
            out.extend_from_slice(RawTask::from(task as u32).as_bytes());
        }
        for &inode in inodes {
            out.extend_from_slice(RawInode::from(inode).as_bytes());
        }
        for column in &self.columns {
            out.extend_from_slice(column);
        }
    }
}

fn shape_key(shape: Shape) -> u64 {
    u64::from(shape.hook)
        | u64::from(shape.modes.pack()) << 16
        | u64::from(shape.depth) << 32
        | u64::from(shape.flags) << 40
}

#[inline]
fn payload_a(event: &Event, task: &TaskState, place: &Place, out: &mut Vec<u8>) -> ModeA {
    let anchored = task.anchor.0.wrapping_add(place.a_anchored);
    if event.a == place.a {
        return ModeA::Same;
    }
    if event.a == anchored {
        return ModeA::Anchored;
    }
    let from_same = zigzag(event.a.wrapping_sub(place.a));
    let from_anchored = zigzag(event.a.wrapping_sub(anchored));
    if from_anchored < from_same {
        put(out, from_anchored);
        ModeA::FromAnchored
    } else {
        put(out, from_same);
        ModeA::FromSame
    }
}

#[inline]
fn payload_b(event: &Event, task: &TaskState, place: &Place, out: &mut Vec<u8>) -> ModeB {
    if event.b == event.inode.wrapping_add(event.a) && event.inode != 0 {
        return ModeB::Lock;
    }
    if event.b == place.b {
        return ModeB::Same;
    }
    let linear = page(event.a).wrapping_add(place.b_linear);
    if event.b == linear {
        return ModeB::Linear;
    }
    let anchored = task.anchor.1.wrapping_add(place.b_anchored);
    if event.b == anchored {
        return ModeB::Anchored;
    }
    let from_same = zigzag(event.b.wrapping_sub(place.b));
    let from_linear = zigzag(event.b.wrapping_sub(linear));
    let from_anchored = zigzag(event.b.wrapping_sub(anchored));
    if from_linear < from_same && from_linear < from_anchored {
        put(out, from_linear);
        ModeB::FromLinear
    } else if from_anchored < from_same {
        put(out, from_anchored);
        ModeB::FromAnchored
    } else {
        put(out, from_same);
        ModeB::FromSame
    }
}
