//! What one task is doing: its open operations and faults, and the locks that it holds.

use tracer_ebpf::Event;

use crate::{
    hooks::{Entry, LockClass, Mode},
    judge::{
        finding::{Act, Witness},
        hash::Map,
        inode::InodeIndex,
        lockset::{Hold, LockSet},
        operations::{Destroys, FaultKind, Operation},
        order::{Account, FreezeSeen},
        ranges::ByteRanges,
        resample::TakenMapping,
        rules::{Kind, Observed},
        window::{Danger, FindingIndex, ScopeId},
    },
    units::{ByteRange, HookId, Nanos, StackId, Tid},
};

/// A thread id, and how many threads had it before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    /// Thread.
    pub tid: Tid,
    /// Earlier owners of the id.
    pub reuse: u32,
}

/// Why a task's state is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// Its operation began before every hook was in place; nothing was promised about it.
    BeforeStart,
    /// A record is missing.
    Gap,
    /// It had more operations or inodes open than the kernel side can hold.
    Overflow,
    /// Its operation concerns an inode that the trace does not name.
    Inode,
}

/// An invalidation within an operation.
#[derive(Clone, Copy, Debug)]
pub struct Invalidation {
    /// What it tore down.
    pub range: ByteRange,
    /// When it began.
    pub time: Nanos,
    /// The exclusion lock at that moment.
    pub hold: Option<Hold>,
    /// It was a layout scan.
    pub scan: bool,
}

/// Invalidations remembered per operation and inode; older ones are forgotten, which can only
/// silence a rule.
const INVALIDATIONS: usize = 64;

/// A rule that the operation broke on one inode; said once per operation.
#[derive(Clone, Copy, Debug)]
pub struct Reported {
    /// Which rule.
    pub kind: Kind,
    /// About which lock.
    pub class: LockClass,
    /// Its finding.
    pub finding: FindingIndex,
}

/// What was torn down on an inode, and looked at, since its exclusion lock was taken last.
#[derive(Clone, Debug, Default)]
pub struct Torn {
    /// No translations left.
    pub unmapped: ByteRanges,
    /// No pages or DAX entries left.
    pub dropped: ByteRanges,
    /// No pinned pages.
    pub scanned: ByteRanges,
    /// The last look for pinned pages found one.
    pub pinned: bool,
}

/// A change of extents that was not torn down before; it may be torn down after.
#[derive(Clone, Debug)]
pub struct Untorn {
    /// Of what.
    pub range: ByteRange,
    /// How it was found.
    pub observed: Observed,
    /// A translation of the range was in place.
    pub live: bool,
    /// Of a hole that was filled, which must be torn down afterwards: what has been since.
    pub since: Option<Torn>,
    /// The hook that saw it.
    pub hook: HookId,
    /// The occurrence.
    pub witness: Witness,
}

/// A size that fell without the exclusion lock, which may still be taken: too late then.
#[derive(Clone, Debug)]
pub struct Early {
    /// By whom.
    pub task: TaskId,
    /// What it held.
    pub locks: LockSet,
    /// What was done.
    pub act: Act,
    /// To which bytes.
    pub danger: Danger,
    /// The event that showed it.
    pub event: Event,
}

/// One inode of an operation.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Address of the `struct inode`.
    pub address: u64,
    /// The file.
    pub inode: InodeIndex,
    /// Its size when the operation began, bytes.
    pub entry_size: u64,
    /// The operation's number among the file's, if it began alone.
    pub begun: Option<u64>,
    /// Its size at the last event, while this task keeps others from changing it.
    pub last_size: Option<u64>,
    /// The exclusion lock's strongest mode since that event.
    pub since_size: Option<Mode>,
    /// i_rwsem changed hands within the operation.
    pub rwsem_cycled: bool,
    /// Newest last.
    invalidations: Vec<Invalidation>,
    /// A change came under an exclusive hold.
    pub changed_exclusively: bool,
    /// Its size when nobody but this task could change it any more, bytes.
    pub stable_size: Option<u64>,
    /// Since the exclusion lock was taken last.
    pub torn: Torn,
    /// The hold of the extent map's own lock under which the map changed last since the last invalidation.
    pub mapped_under: Option<u32>,
    /// When the last teardown was surely over: the task's first event after it.
    pub torn_by: Option<Nanos>,
    /// A teardown began, and nothing came after it yet.
    pub tearing: bool,
    /// Direct I/O was waited for since i_rwsem was taken.
    pub drained: bool,
    /// The same, of the hold that was released last.
    pub was_drained: bool,
    /// What the on-disk size was made to cover.
    pub disk_size: ByteRanges,
    /// The last sync within the operation, if the file ended before what was to be written then.
    pub synced: Option<Box<Event>>,
    /// It is on the list of those whose blocks beyond EOF a crash gives back.
    pub orphan: bool,
    /// Copies that wait to replace blocks were left when its pages had been written back and dropped.
    pub copies: bool,
    /// The first change that was not torn down before.
    pub untorn: Option<Box<Untorn>>,
    /// Its size fell without the exclusion lock.
    pub early: Option<Box<Early>>,
    /// It has a window.
    pub window: bool,
    /// What was found.
    pub reported: Vec<Reported>,
}

impl Subject {
    /// An inode as its operation meets it; `stable` if nobody else can change its size.
    pub fn new(address: u64, inode: InodeIndex, size: u64, stable: bool) -> Self {
        Self {
            address,
            inode,
            entry_size: size,
            begun: None,
            last_size: stable.then_some(size),
            since_size: None,
            rwsem_cycled: false,
            invalidations: Vec::new(),
            changed_exclusively: false,
            stable_size: stable.then_some(size),
            torn: Torn::default(),
            mapped_under: None,
            torn_by: None,
            tearing: false,
            drained: false,
            was_drained: false,
            disk_size: ByteRanges::default(),
            synced: None,
            orphan: false,
            copies: false,
            untorn: None,
            early: None,
            window: false,
            reported: Vec::new(),
        }
    }

    /// Remembers an invalidation; those that it repeats are forgotten.
    pub fn invalidated(&mut self, new: Invalidation) {
        self.mapped_under = None;
        self.invalidations
            .retain(|old| old.range.start < new.range.start || old.range.end > new.range.end);
        if self.invalidations.len() == INVALIDATIONS {
            self.invalidations.remove(0);
        }
        self.invalidations.push(new);
    }

    /// The last invalidation that overlaps `range`.
    pub fn last_invalidation(&self, range: ByteRange) -> Option<&Invalidation> {
        self.invalidations
            .iter()
            .rev()
            .find(|invalidation| invalidation.range.overlaps(range))
    }

    /// True if some of `range` was torn down, not merely scanned, under an exclusive hold.
    pub fn torn_down(&self, range: ByteRange) -> bool {
        self.invalidations.iter().any(|invalidation| {
            !invalidation.scan
                && invalidation.range.overlaps(range)
                && invalidation.hold.is_some_and(Hold::excludes)
        })
    }
}

/// An operation on extents.
#[derive(Clone, Debug)]
pub struct ChangeScope {
    /// Which one.
    pub id: ScopeId,
    /// Where it began.
    pub entry: Entry,
    /// What it is.
    pub operation: Operation,
    /// What it destroys.
    pub destroys: Destroys,
    /// When it began.
    pub entered: Nanos,
    /// The bytes that a read, write or fallocate(2) was asked for; not of one that appends.
    pub request: Option<ByteRange>,
    /// The bytes that a read or write set out to move beside the page cache.
    pub transfer: Option<ByteRange>,
    /// The inode, and for swaps and remaps the other one.
    pub subjects: (Subject, Option<Subject>),
}

impl ChangeScope {
    /// The subject at an address.
    pub fn subject(&self, address: u64) -> Option<&Subject> {
        match &self.subjects {
            (first, _) if first.address == address => Some(first),
            (_, Some(second)) if second.address == address => Some(second),
            _ => None,
        }
    }

    /// The subject at an address.
    pub fn subject_mut(&mut self, address: u64) -> Option<&mut Subject> {
        match &mut self.subjects {
            (first, _) if first.address == address => Some(first),
            (_, Some(second)) if second.address == address => Some(second),
            _ => None,
        }
    }

    /// Every subject.
    pub fn iter(&self) -> impl Iterator<Item = &Subject> {
        std::iter::once(&self.subjects.0).chain(&self.subjects.1)
    }

    /// True if extents of the inode at an address are at stake.
    pub fn destroys(&self, address: u64) -> bool {
        match (self.destroys, &self.subjects.1) {
            (Destroys::Nothing, _) => false,
            (Destroys::Every, _) | (Destroys::Destination, None) => true,
            (Destroys::Destination, Some(second)) => second.address == address,
        }
    }
}

/// A page fault.
#[derive(Clone, Copy, Debug)]
pub struct FaultScope {
    /// What it is.
    pub operation: Operation,
    /// How it maps; a PMD shows only when it is installed.
    pub kind: FaultKind,
    /// Address of the `struct inode`.
    pub address: u64,
    /// The file.
    pub inode: InodeIndex,
    /// When it began.
    pub entered: Nanos,
    /// Page offset in the file.
    pub page: u64,
    /// It wants to write.
    pub write: bool,
    /// The stack taken when it began.
    pub stack: Option<StackId>,
    /// When it began to wait for the exclusion lock, if it still does.
    pub waiting: Option<Nanos>,
    /// Its longest wait: from, to.
    pub waited: Option<(Nanos, Nanos)>,
    /// The exclusion lock was held at some time.
    pub locked: bool,
    /// It looked blocks up, an entry of the mapping locked, without the exclusion lock.
    pub looked_up_unlocked: bool,
    /// It installed a translation.
    pub installed: bool,
    /// When it was in place.
    pub installed_at: Option<Nanos>,
    /// It broke a rule already.
    pub reported: bool,
    /// Its freeze protection.
    pub freeze: FreezeSeen,
    /// It came with the lock of its address space or mapping, which the task did not hold before.
    pub mapped: Option<LockClass>,
    /// It allocated blocks that were not zeroed: the finding.
    pub stale: Option<FindingIndex>,
}

/// Something that a task has open.
#[derive(Clone, Debug)]
pub enum Scope {
    /// An operation on extents.
    Change(Box<ChangeScope>),
    /// A page fault.
    Fault(FaultScope),
    /// A part of what the nearest scope below does: ext4_dax_fault calls ext4_dax_huge_fault.
    Part,
}

/// Blocks that a task allocates, since it allocated the last ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct FreshBlocks {
    /// The extent map grew.
    pub mapped: bool,
    /// Blocks were zeroed.
    pub zeroed: bool,
}

/// A task.
#[derive(Debug)]
pub struct Task {
    /// Who.
    pub id: TaskId,
    /// The next record's number.
    pub expected: u32,
    /// Why its state is not known, if it is not.
    pub unknown: Option<Unknown>,
    /// Innermost last.
    pub scopes: Vec<(Entry, Scope)>,
    /// Locks of inodes that it holds.
    pub locks: LockSet,
    /// What it holds and waits for besides.
    pub account: Account,
    /// What became of blocks that it allocates.
    pub fresh: FreshBlocks,
    /// The mapping that it uses.
    pub sample: Option<TakenMapping>,
    /// The file and the number of a mapping that it looks at, if the map has another number now.
    pub outdated: Option<(u64, u64)>,
    /// The file whose map it looked up last to reserve blocks, and the exclusive hold of the map's lock then.
    pub looked_up: Option<(InodeIndex, Option<u32>)>,
}

impl Task {
    /// When the outermost operation or fault that it is in began.
    pub fn began(&self) -> Option<Nanos> {
        match &self.scopes.first()?.1 {
            Scope::Change(change) => Some(change.entered),
            Scope::Fault(fault) => Some(fault.entered),
            Scope::Part => None,
        }
    }

    fn new(tid: Tid) -> Self {
        Self {
            id: TaskId { tid, reuse: 0 },
            expected: 0,
            unknown: None,
            scopes: Vec::with_capacity(4),
            locks: LockSet::default(),
            account: Account::default(),
            fresh: FreshBlocks::default(),
            sample: None,
            outdated: None,
            looked_up: None,
        }
    }

    /// The file at an address, if an open scope concerns it.
    pub fn concerned(&self, address: u64) -> Option<InodeIndex> {
        self.scopes.iter().rev().find_map(|(_, scope)| match scope {
            Scope::Change(change) => change.subject(address).map(|subject| subject.inode),
            Scope::Fault(fault) => (fault.address == address).then_some(fault.inode),
            Scope::Part => None,
        })
    }
}

/// What a task is doing: its innermost scope, parts taken for the whole.
pub fn doing(scopes: &mut [(Entry, Scope)]) -> Option<&mut Scope> {
    scopes
        .iter_mut()
        .rev()
        .map(|(_, scope)| scope)
        .find(|scope| !matches!(scope, Scope::Part))
}

/// The stack of an event, if one was taken.
pub fn stack_id(stack: i32) -> Option<StackId> {
    u32::try_from(stack).ok().map(StackId)
}

/// Every task.
#[derive(Debug, Default)]
pub struct Tasks {
    tasks: Vec<Task>,
    by_tid: Map<u32, usize>,
    /// Places of tasks that ended.
    free: Vec<usize>,
    /// How many owners of each thread id there were, of those whose last one ended.
    owners: Map<u32, u32>,
    met: usize,
    /// Which task each CPU ran last.
    running: Vec<(u32, usize)>,
}

/// No thread id.
const NOBODY: u32 = u32::MAX;
/// CPUs beyond this are looked up the long way.
const CPUS: usize = 4096;

impl Tasks {
    /// The place of a task, which it keeps until it ends.
    pub fn index(&mut self, tid: u32) -> usize {
        if let Some(&index) = self.by_tid.get(&tid) {
            return index;
        }
        let mut task = Task::new(Tid(tid));
        task.id.reuse = self.owners.get(&tid).copied().unwrap_or(0);
        let index = match self.free.pop() {
            Some(index) => {
                self.tasks[index] = task;
                index
            }
            None => {
                self.tasks.push(task);
                self.tasks.len() - 1
            }
        };
        self.by_tid.insert(tid, index);
        self.met += 1;
        index
    }

    /// A task ended: whoever has its thread id next is another one.
    pub fn end(&mut self, tid: u32) {
        if let Some(index) = self.by_tid.remove(&tid) {
            self.owners.insert(tid, self.tasks[index].id.reuse + 1);
            self.free.push(index);
            for last in &mut self.running {
                if last.1 == index {
                    *last = (NOBODY, 0);
                }
            }
        }
    }

    /// As [`Self::index`], guessing that a CPU runs the task that it ran last.
    pub fn index_on(&mut self, cpu: u32, tid: u32) -> usize {
        let cpu = cpu as usize;
        if let Some(&(last, index)) = self.running.get(cpu)
            && last == tid
        {
            return index;
        }
        let index = self.index(tid);
        if cpu < CPUS {
            if self.running.len() <= cpu {
                self.running.resize(cpu + 1, (NOBODY, 0));
            }
            self.running[cpu] = (tid, index);
        }
        index
    }

    /// A task.
    pub fn get(&mut self, index: usize) -> &mut Task {
        &mut self.tasks[index]
    }

    /// A task, if there is one at this place.
    pub fn at(&self, index: usize) -> Option<&Task> {
        self.tasks.get(index)
    }

    /// Every task.
    pub fn iter(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter()
    }

    /// The place of a task that was met.
    pub fn known(&self, tid: u32) -> Option<usize> {
        self.by_tid.get(&tid).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.met
    }
}
