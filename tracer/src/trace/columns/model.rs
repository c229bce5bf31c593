//! What an event is expected to look like, given those before it.
//!
//! The best guide to a field is the last event with the same hook that followed the same hook in
//! its task: a place in the kernel's code, so to speak. For pages and addresses it is the distance
//! to what the task's operation began with (the *anchor*), since an install follows its fault.

use tracer_ebpf::Event;

/// How the fields of one event are had, two or three bits each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Payload `a`.
    pub a: ModeA,
    /// Payload `b`.
    pub b: ModeB,
    /// The inode.
    pub inode: ModeInode,
    /// The size.
    pub size: ModeSize,
    /// Payload `c` is not as last time.
    pub c: bool,
    /// Another task than in the event before.
    pub task: bool,
    /// A gap in the task's numbering.
    pub seq: bool,
    /// The stack is not as last time.
    pub stack: bool,
}

/// Payload `a`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeA {
    /// As last time at this place.
    #[default]
    Same,
    /// As far from the anchor as last time.
    Anchored,
    /// A difference to `Same`.
    FromSame,
    /// A difference to `Anchored`.
    FromAnchored,
}

/// Payload `b`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeB {
    /// As last time at this place.
    #[default]
    Same,
    /// A lock: the inode's address plus `a`.
    Lock,
    /// An address: as far from page `a` as last time.
    Linear,
    /// As far from the anchor as last time.
    Anchored,
    /// A difference to `Same`.
    FromSame,
    /// A difference to `Linear`.
    FromLinear,
    /// A difference to `Anchored`.
    FromAnchored,
}

/// The inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeInode {
    /// The task's last.
    #[default]
    Last,
    /// None.
    Zero,
    /// By number.
    Number,
}

/// The size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeSize {
    /// 0
    #[default]
    Zero,
    /// The inode's last.
    Same,
    /// A difference to `Same`.
    FromSame,
}

impl Modes {
    /// As 13 bits.
    pub fn pack(self) -> u16 {
        self.a as u16
            | (self.b as u16) << 2
            | (self.inode as u16) << 5
            | (self.size as u16) << 7
            | u16::from(self.c) << 9
            | u16::from(self.task) << 10
            | u16::from(self.seq) << 11
            | u16::from(self.stack) << 12
    }

    /// Undoes [`Self::pack`]; none if no modes have these bits.
    pub fn unpack(bits: u16) -> Option<Self> {
        let modes = Self {
            a: match bits & 3 {
                0 => ModeA::Same,
                1 => ModeA::Anchored,
                2 => ModeA::FromSame,
                _ => ModeA::FromAnchored,
            },
            b: match bits >> 2 & 7 {
                0 => ModeB::Same,
                1 => ModeB::Lock,
                2 => ModeB::Linear,
                3 => ModeB::Anchored,
                4 => ModeB::FromSame,
                5 => ModeB::FromLinear,
                6 => ModeB::FromAnchored,
                _ => return None,
            },
            inode: match bits >> 5 & 3 {
                0 => ModeInode::Last,
                1 => ModeInode::Zero,
                2 => ModeInode::Number,
                _ => return None,
            },
            size: match bits >> 7 & 3 {
                0 => ModeSize::Zero,
                1 => ModeSize::Same,
                2 => ModeSize::FromSame,
                _ => return None,
            },
            c: bits >> 9 & 1 != 0,
            task: bits >> 10 & 1 != 0,
            seq: bits >> 11 & 1 != 0,
            stack: bits >> 12 & 1 != 0,
        };
        (bits >> 13 == 0).then_some(modes)
    }
}

/// What many events have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// `head.hook`
    pub hook: u16,
    /// `head.depth`
    pub depth: u8,
    /// `head.flags`
    pub flags: u8,
    /// How the other fields are had.
    pub modes: Modes,
}

/// What is remembered of a task.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskState {
    /// `head.task`
    pub id: u32,
    /// Its last number.
    pub seq: u32,
    /// Its last inode, by number.
    pub inode: u32,
    /// Its last hook.
    pub hook: u16,
    /// What its operation began with.
    pub anchor: (u64, u64),
}

/// What is remembered of an inode.
#[derive(Clone, Copy, Debug, Default)]
pub struct InodeState {
    /// Its address.
    pub address: u64,
    /// Its last size that was not 0.
    pub size: u64,
}

/// What is remembered of a place in the code.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// Payload `a`.
    pub a: u64,
    /// Its distance from the anchor.
    pub a_anchored: u64,
    /// Payload `b`.
    pub b: u64,
    /// Its distance from page `a`.
    pub b_linear: u64,
    /// Its distance from the anchor.
    pub b_anchored: u64,
    /// Payload `c`.
    pub c: u64,
    /// The stack.
    pub stack: i32,
}

const PLACES: usize = 512;
const PAGE_SHIFT: u32 = crate::units::PAGE_SHIFT;

/// Everything that is remembered within a batch.
pub struct Model {
    /// The time of the event before.
    pub time: u64,
    /// Tasks by number.
    pub tasks: Vec<TaskState>,
    /// Inodes by number; number 0 is no inode.
    pub inodes: Vec<InodeState>,
    places: Box<[Place; PLACES]>,
}

impl Default for Model {
    fn default() -> Self {
        let mut model = Self {
            time: 0,
            tasks: Vec::new(),
            inodes: Vec::new(),
            places: Box::new([Place::default(); PLACES]),
        };
        model.reset();
        model
    }
}

impl Model {
    /// Forgets everything.
    pub fn reset(&mut self) {
        self.time = 0;
        self.tasks.clear();
        self.inodes.clear();
        self.inodes.push(InodeState::default());
        self.places.fill(Place {
            stack: -1,
            ..Place::default()
        });
    }

    /// The place where a task meets `hook` after `before`; two may share one, which only costs bytes.
    #[inline]
    pub fn place(&self, hook: u16, before: u16) -> (usize, Place) {
        let mixed = (u32::from(hook) << 16 | u32::from(before)).wrapping_mul(0x9e37_79b1);
        let at = (mixed >> 23) as usize % PLACES;
        (at, self.places[at])
    }

    /// Takes note of an event, once it is known in full.
    #[inline]
    pub fn learn(&mut self, event: &Event, modes: Modes, at: usize, task: u32, inode: u32) {
        let state = &mut self.tasks[task as usize];
        self.places[at % PLACES] = Place {
            a: event.a,
            a_anchored: event.a.wrapping_sub(state.anchor.0),
            b: event.b,
            b_linear: linear(event.a, event.b),
            b_anchored: event.b.wrapping_sub(state.anchor.1),
            c: event.c,
            stack: event.head.stack,
        };
        // Linear payload is a fault's, news in `a` is an operation's; a lock's offset is neither.
        let linear = matches!(modes.b, ModeB::Linear | ModeB::FromLinear);
        if linear || (modes.a == ModeA::FromSame && modes.b != ModeB::Lock) {
            state.anchor = (event.a, event.b);
        }
        state.seq = event.head.seq;
        state.hook = event.head.hook;
        state.inode = inode;
        self.time = event.head.time;
        if event.size != 0 {
            self.inodes[inode as usize].size = event.size;
        }
    }
}

/// What is left of an address when page `a` is taken away.
#[inline]
fn linear(a: u64, b: u64) -> u64 {
    b.wrapping_sub(a << PAGE_SHIFT)
}

/// The address of page `a`.
#[inline]
pub fn page(a: u64) -> u64 {
    a << PAGE_SHIFT
}
