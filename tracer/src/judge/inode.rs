//! The files that a trace met, and what is going on in each.

use std::collections::{BTreeSet, VecDeque};

use crate::{
    hooks::{FilesystemKind, LockClass},
    judge::{
        finding::{LockSeen, Party},
        hash::Map,
        operations::Operation,
        resample::MapUse,
        sharing::DirectWriters,
        task::TaskId,
        translations::{Frame, Translations},
        window::{Installed, ScopeId, Window},
    },
    trace::{LATE_NS, meta},
    units::{ByteRange, Device, InodeAddress, Nanos, PAGE_SHIFT, StackId},
};

/// A file's number in this engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeIndex(pub u32);

/// A kernel stack that was seen doing something, kept as the likely other side of a finding.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Who.
    pub task: TaskId,
    /// Where.
    pub stack: StackId,
}

/// A page that was in use when an operation looked, and that it sleeps for.
#[derive(Debug)]
pub struct Awaited {
    /// Which.
    pub page: Frame,
    /// The operation.
    pub scope: ScopeId,
    /// What it is.
    pub operation: Operation,
    /// When it began.
    pub entered: Nanos,
    /// Who sleeps.
    pub actor: Party,
    /// With what, when it looked.
    pub locks: Vec<LockSeen>,
}

/// Closed windows and installs kept per inode: what a fault or an operation still in flight may
/// turn out to have overlapped.
const RECENT: usize = 64;

/// One more of what is kept of the past, and if there are `most` the oldest no more.
pub fn keep<T>(past: &mut VecDeque<T>, most: usize, one: T) {
    if past.len() == most {
        past.pop_front();
    }
    past.push_back(one);
}

/// A file.
#[derive(Debug)]
pub struct File {
    /// Its identity.
    pub meta: meta::Inode,
    /// Its filesystem, if the trace watches its device.
    pub filesystem: Option<FilesystemKind>,
    /// Operations in flight.
    operations: u32,
    /// Of those, operations that may change it.
    changing: u32,
    /// Operations that may change it, ever begun.
    begun: u64,
    /// A write returned before its data were there.
    queued: bool,
    /// `i_size` as the last operation that began or ended found it.
    size: Option<u64>,
    /// It was evicted: nobody begins anything on it, unless it comes back to the same address.
    pub gone: bool,
    /// Faults in flight.
    faults: u32,
    /// Windows of operations that have not returned yet.
    pub open: Vec<Window>,
    /// Windows of operations that have, oldest first.
    pub closed: VecDeque<Window>,
    /// Translations installed, oldest first.
    pub installs: VecDeque<Installed>,
    /// Writes beside the page cache that others may run beside.
    pub direct_writers: DirectWriters,
    /// Translations in place; DAX only.
    pub translations: Translations,
    /// Who uses mappings of it.
    pub map_use: MapUse,
    /// The operation that changed extents last.
    pub changed_by: Option<Operation>,
    /// Pages in the page cache that may be written to through a mapping; kept only where a page has several blocks.
    writable: BTreeSet<u64>,
    /// Latest fault whose stack is known.
    pub fault: Option<Sample>,
    /// Latest extent change whose stack is known.
    pub change: Option<Sample>,
}

impl File {
    fn new(meta: meta::Inode, filesystem: Option<FilesystemKind>) -> Self {
        Self {
            meta,
            filesystem,
            operations: 0,
            changing: 0,
            begun: 0,
            queued: false,
            size: None,
            gone: false,
            faults: 0,
            open: Vec::new(),
            closed: VecDeque::new(),
            installs: VecDeque::new(),
            direct_writers: DirectWriters::default(),
            translations: Translations::default(),
            map_use: MapUse::default(),
            changed_by: None,
            writable: BTreeSet::new(),
            fault: None,
            change: None,
        }
    }

    /// True if there are rules for it.
    pub fn is_judged(&self) -> bool {
        let table = || self.filesystem.and_then(FilesystemKind::table);
        self.meta.dax || table().is_some_and(|table| !table.dax_only)
    }

    /// An operation begins, which may change the file, or only reads it, and found it `size` bytes long. Its number, if
    /// nothing else may change the file. Another size than it had before was read before others changed it: between that
    /// and its record a task may be interrupted.
    pub fn begin_operation(&mut self, changes: bool, size: u64) -> Option<u64> {
        let same = self.size.replace(size).is_none_or(|known| known == size);
        self.operations += 1;
        if !changes {
            return None;
        }
        self.changing += 1;
        self.begun += 1;
        (same && self.changing == 1 && !self.queued).then_some(self.begun)
    }

    /// An operation that ends found the file that long.
    pub fn sized(&mut self, size: u64) {
        self.size = Some(size);
    }

    /// True if since the operation with this number began nothing else may have changed the file.
    pub fn alone(&self, number: Option<u64>) -> bool {
        number == Some(self.begun) && !self.queued
    }

    /// True if a single operation is under way on the file.
    pub fn undisturbed(&self) -> bool {
        self.operations == 1
    }

    /// From now on work may go on that no operation waits for.
    pub fn queued(&mut self) {
        self.queued = true;
    }

    /// An operation is over; without one, no install of the past matters any more.
    pub fn end_operation(&mut self, changes: bool) {
        self.operations = self.operations.saturating_sub(1);
        if changes {
            self.changing = self.changing.saturating_sub(1);
        }
        if self.operations == 0 {
            self.installs.clear();
            self.direct_writers.clear();
        }
    }

    /// A fault begins.
    pub fn begin_fault(&mut self) {
        self.faults += 1;
    }

    /// A fault is over; without one, no window of the past matters any more.
    /// `page_mkwrite` let a page become writable.
    pub fn made_writable(&mut self, page: u64) {
        if !self.meta.dax && self.meta.block_bits < PAGE_SHIFT {
            self.writable.insert(page);
        }
    }

    /// Pages of the range are unmapped, or write-protected, whole ones only.
    pub fn protected(&mut self, range: ByteRange) {
        if !self.writable.is_empty() {
            let (from, to) = (
                range.start.div_ceil(1 << PAGE_SHIFT),
                range.end >> PAGE_SHIFT,
            );
            self.writable.retain(|page| !(from..to).contains(page));
        }
    }

    /// Whether a page of which the range has a part only, at either end, may be written to through a mapping.
    pub fn writable_at_edge(&self, range: ByteRange) -> bool {
        [range.start, range.end].into_iter().any(|edge| {
            edge & ((1 << PAGE_SHIFT) - 1) != 0 && self.writable.contains(&(edge >> PAGE_SHIFT))
        })
    }

    pub fn end_fault(&mut self) {
        self.faults = self.faults.saturating_sub(1);
        if self.faults == 0 {
            self.closed.clear();
        }
    }

    /// Keeps a closed window for faults still in flight.
    pub fn keep_window(&mut self, window: Window) {
        if self.faults == 0 {
            return;
        }
        keep(&mut self.closed, RECENT, window);
    }

    /// Keeps an install for operations still in flight.
    pub fn keep_install(&mut self, install: Installed) {
        if self.operations == 0 {
            return;
        }
        keep(&mut self.installs, RECENT, install);
    }

    /// Windows that may overlap a span of time beginning at `from`, newest first.
    pub fn windows_since(&self, from: Nanos) -> impl Iterator<Item = &Window> {
        let closed = self
            .closed
            .iter()
            .rev()
            .take_while(move |window| window.end() >= from);
        self.open.iter().rev().chain(closed)
    }
}

/// Which file an address stands for, and from when.
#[derive(Debug)]
struct Address {
    /// The version that answered last: from, until, which.
    current: (u64, u64, InodeIndex),
    /// Oldest first; never empty.
    versions: Vec<(Nanos, InodeIndex)>,
}

impl Address {
    fn at(&mut self, time: Nanos) -> InodeIndex {
        let (from, until, index) = self.current;
        if from <= time.0 && time.0 < until {
            return index;
        }
        let next = self.versions.partition_point(|&(since, _)| since <= time);
        // Before the first version: another task's record of the same file is on its way.
        let chosen = next.saturating_sub(1);
        let from = if chosen == 0 {
            0
        } else {
            self.versions[chosen].0.0
        };
        let until = self
            .versions
            .get(chosen + 1)
            .map_or(u64::MAX, |&(since, _)| since.0);
        self.current = (from, until, self.versions[chosen].1);
        self.current.2
    }

    /// The version that follows the one of `time`, if there is one about then; it stands from `time` on.
    fn succeed(&mut self, time: Nanos) -> Option<InodeIndex> {
        let next = self.versions.partition_point(|&(since, _)| since <= time);
        let (since, index) = self.versions.get_mut(next)?;
        if since.0 - time.0 > LATE_NS {
            return None;
        }
        *since = time;
        self.current = (1, 0, *index);
        Some(*index)
    }

    fn insert(&mut self, since: Nanos, index: InodeIndex) {
        let at = self.versions.partition_point(|&(known, _)| known <= since);
        self.versions.insert(at, (since, index));
        self.current = (1, 0, index);
    }
}

/// The table of files.
#[derive(Debug, Default)]
pub struct Files {
    files: Vec<File>,
    addresses: Map<u64, Address>,
    devices: Vec<(Device, FilesystemKind, String)>,
    places: Vec<(FilesystemKind, i64, LockClass)>,
}

impl Files {
    /// An empty table for the mounts and lock places of `header`.
    pub fn new(header: &meta::Header) -> Self {
        let devices = header
            .mounts
            .iter()
            .map(|mount| (mount.device, mount.filesystem, mount.path.clone()))
            .collect();
        let places = header
            .locks
            .iter()
            .map(|place| (place.filesystem, place.offset, place.class))
            .collect();
        Self {
            devices,
            places,
            ..Self::default()
        }
    }

    /// Adds a file, unless its address stands for it already.
    pub fn add(&mut self, inode: &meta::Inode) {
        let InodeAddress(address) = inode.address;
        if let Some(known) = self.addresses.get_mut(&address) {
            let index = known.at(inode.since);
            let file = &mut self.files[index.0 as usize].meta;
            if (file.device, file.ino, file.generation)
                == (inode.device, inode.ino, inode.generation)
            {
                file.dax = inode.dax;
                file.path.clone_from(&inode.path);
                return;
            }
        }
        let index = InodeIndex(self.files.len() as u32);
        let filesystem = self
            .devices
            .iter()
            .find(|(device, ..)| *device == inode.device)
            .map(|row| row.1);
        self.files.push(File::new(inode.clone(), filesystem));
        self.addresses
            .entry(address)
            .or_insert_with(|| Address {
                current: (1, 0, index),
                versions: Vec::new(),
            })
            .insert(inode.since, index);
    }

    /// The file that an address stands for at a time, if the trace introduced it.
    pub fn at(&mut self, address: u64, time: Nanos) -> Option<InodeIndex> {
        self.addresses.get_mut(&address).map(|known| known.at(time))
    }

    /// The file that something begins on. It is not one that is gone: then it is the next with its address, of
    /// which another task's record is on its way.
    pub fn entered(&mut self, address: u64, time: Nanos) -> Option<InodeIndex> {
        let known = self.addresses.get_mut(&address)?;
        let index = known.at(time);
        if self.files[index.0 as usize].gone
            && let Some(next) = known.succeed(time)
        {
            return Some(next);
        }
        Some(index)
    }

    /// A file.
    pub fn get(&self, index: InodeIndex) -> &File {
        &self.files[index.0 as usize]
    }

    /// A file.
    pub fn get_mut(&mut self, index: InodeIndex) -> &mut File {
        &mut self.files[index.0 as usize]
    }

    /// Every file.
    pub fn indexes(&self) -> impl ExactSizeIterator<Item = InodeIndex> + use<> {
        (0..self.files.len() as u32).map(InodeIndex)
    }

    /// The class of the lock `offset` bytes from an inode.
    pub fn lock_class(&self, index: InodeIndex, offset: i64) -> Option<LockClass> {
        let filesystem = self.get(index).filesystem?;
        self.places
            .iter()
            .find(|&&(kind, place, _)| kind == filesystem && place == offset)
            .map(|&(.., class)| class)
    }

    /// Where the file is, as far as its names were known; empty if they were not.
    pub fn path(&self, index: InodeIndex) -> String {
        let file = self.get(index);
        let below = file.meta.path.trim_start_matches('/');
        if below.is_empty() {
            return String::new();
        }
        let mount = self
            .devices
            .iter()
            .find(|(device, ..)| *device == file.meta.device);
        match mount {
            Some((.., path)) => format!("{}/{below}", path.trim_end_matches('/')),
            None => file.meta.path.clone(),
        }
    }

    /// The pages that a fault on a page of the file maps.
    pub fn pages(page: u64, pages: u64) -> std::ops::Range<u64> {
        let first = page - page % pages;
        first..first + pages
    }

    /// The bytes that a fault on a page of the file maps.
    pub fn page(page: u64, pages: u64) -> ByteRange {
        let first = crate::units::PageOffset(page - page % pages).byte();
        ByteRange::new(first, pages << crate::units::PAGE_SHIFT)
    }
}
