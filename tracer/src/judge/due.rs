//! What is due whatever extents change: of whom the map changes, who moves bytes beside the page cache, and what
//! one filesystem asks for besides (`duties`).

use tracer_ebpf::{Event, event::FLAG_CACHED};

use crate::{
    hooks::{LockClass, Span},
    judge::{
        duties::{Duty, OneStep, Owed},
        engine::Engine,
        finding::{Act, Key, LockSeen, Party, Role, Witness},
        inode::{Files, InodeIndex},
        lockset::LockSet,
        operations::Operation,
        order::Doing,
        owed::{Broken, extent_lock},
        rules::{self, ChangeFacts, Kind, LayoutFacts, Observed},
        task::{ChangeScope, Scope, Subject, Task, TaskId, doing, stack_id},
        window::{Danger, FindingIndex},
    },
    units::{ByteRange, HookId, Nanos},
};

/// In blocks: fs/xfs/libxfs/xfs_format.h, XFS_MAX_FILEOFF is 2^54 - 1.
const BEYOND_ANY_FILE: u64 = 1 << 50;
/// include/uapi/linux/fadvise.h
const POSIX_FADV_WILLNEED: u64 = 3;

/// What a task is in the middle of, seen from one of its files.
pub(super) struct Place {
    pub(super) doing: Doing,
    /// What the operation was asked for, or the fault's page.
    pub(super) range: ByteRange,
}

impl Engine {
    pub(super) fn place(&self, task: &mut Task, address: u64) -> Option<Place> {
        let (operation, inode, entered, range) = match doing(&mut task.scopes)? {
            Scope::Fault(fault) if fault.address == address => {
                let range = Files::page(fault.page, 1);
                (fault.operation, fault.inode, fault.entered, range)
            }
            Scope::Change(change) => {
                let inode = change.subject(address)?.inode;
                let range = change.request.unwrap_or(ByteRange::ALL);
                (change.operation, inode, change.entered, range)
            }
            Scope::Fault(_) | Scope::Part => return None,
        };
        let doing = Doing {
            operation,
            inode,
            filesystem: self.files.get(inode).filesystem?,
            entered,
        };
        Some(Place { doing, range })
    }

    /// The extent map changes, whoever asked for it.
    pub(super) fn map_entered(&mut self, task: &mut Task, event: &Event) {
        if let Some(Place { doing, range }) = self.place(task, event.inode)
            && let Some(class) = extent_lock(doing.filesystem)
        {
            self.due_under(class, task, doing, (Act::Map, range), event);
            self.grown(task, doing, range, event);
            if doing.operation.duties().one_step(doing.filesystem) == Some(OneStep::Changes)
                && let Some((now, before)) = holds_of_map(task, class, doing.inode, event.inode)
            {
                *before = Some(now);
            }
        }
    }

    /// The map changes in an operation that has nothing else to answer for: alone, unless a write flushes what it
    /// left behind, its lock gone (O_SYNC).
    fn grown(&mut self, task: &mut Task, at: Doing, range: ByteRange, event: &Event) {
        let duties = at.operation.duties();
        let Some(Scope::Change(change)) = doing(&mut task.scopes) else {
            return;
        };
        let Some(subject) = change.subject(event.inode).filter(|_| duties.grows) else {
            return;
        };
        let (cycled, drained) = (subject.rwsem_cycled, subject.drained);
        let drain = duties.drain || duties.owe(at.filesystem, Duty::Drained);
        let hold = task.locks.find(at.inode, LockClass::IRwsem);
        if hold.is_none() && cycled && at.operation == Operation::BufferedWrite {
            return;
        }
        let broken = match rules::held_exclusively(hold.map(|hold| hold.mode)) {
            Some(broken) => broken,
            None if drain && self.sight.drains && !drained => {
                (Kind::DioUndrained, Observed::NotDrained)
            }
            None => return,
        };
        let broken = Broken {
            kind: broken.0,
            observed: broken.1,
            class: LockClass::IRwsem,
            act: Act::Map,
        };
        self.broke(task, at, broken, range, event);
    }

    /// Bytes go beside the page cache: what they are read from or written to must not move meanwhile.
    pub(super) fn transferred(&mut self, task: &mut Task, event: &Event) {
        if let Some(Scope::Change(change)) = doing(&mut task.scopes) {
            let bytes = ByteRange::new(event.a, event.b);
            change.transfer.get_or_insert(bytes);
        }
        let Some(Place { doing, .. }) = self.place(task, event.inode) else {
            return;
        };
        let transfers = matches!(
            doing.operation,
            Operation::DaxRead | Operation::DirectRead | Operation::DirectWrite
        );
        if transfers {
            let range = ByteRange::new(event.a, event.b);
            self.due_under_rwsem(task, doing, (Act::Transfer, range), event);
        }
    }

    /// Pages are about to be read ahead: XFS has them come from blocks that do not move meanwhile
    /// (fs/xfs/xfs_file.c:xfs_file_fadvise). DAX files have no pages.
    pub(super) fn advised(&mut self, task: &mut Task, event: &Event) {
        let Some(Place { doing, .. }) = self.place(task, event.inode) else {
            return;
        };
        if doing.operation != Operation::Advise
            || event.c != POSIX_FADV_WILLNEED
            || self.files.get(doing.inode).meta.dax
        {
            return;
        }
        let length = if event.b == 0 { u64::MAX } else { event.b };
        let range = ByteRange::new(event.a, length);
        self.due_under_rwsem(task, doing, (Act::ReadAhead, range), event);
    }

    /// An act is due under i_rwsem, held in either mode.
    fn due_under_rwsem(
        &mut self,
        task: &Task,
        doing: Doing,
        (act, range): (Act, ByteRange),
        event: &Event,
    ) {
        let class = LockClass::IRwsem;
        if task.locks.find(doing.inode, class).is_none() {
            let broken = Broken {
                kind: Kind::OpUnprotected,
                observed: Observed::Unheld,
                class,
                act,
            };
            self.broke(task, doing, broken, range, event);
        }
    }

    /// Changes that are one step come under one hold of the map's lock. What writeback maps on the operation's
    /// behalf comes before the last invalidation, and what lies beyond EOF is nobody's to look up.
    pub(super) fn due_in_one(&mut self, task: &mut Task, span: Span, event: &Event) {
        let Some(Place { doing, .. }) = self.place(task, event.inode) else {
            return;
        };
        let Some(step) = doing.operation.duties().one_step(doing.filesystem) else {
            return;
        };
        if step == OneStep::Shifts && span != Span::FromBlock {
            return;
        }
        let block_bits = self.files.get(doing.inode).meta.block_bits;
        let range = span.bytes(event.a, event.b, block_bits).below(event.size);
        if range.is_empty() {
            return;
        }
        let Some(class) = extent_lock(doing.filesystem) else {
            return;
        };
        let Some((now, before)) = holds_of_map(task, class, doing.inode, event.inode) else {
            return;
        };
        if before.replace(now).is_some_and(|before| before != now) {
            let broken = Broken {
                kind: Kind::StaleAfterRelock,
                observed: Observed::Interrupted,
                class,
                act: Act::Map,
            };
            self.broke(task, doing, broken, range, event);
        }
    }

    /// All copies that wait to replace shared blocks are given up, though dirty pages need them: those go into the
    /// shared blocks themselves (fs/xfs/xfs_reflink.h, xfs_can_free_cowblocks). Of a part of the file nothing can be
    /// said: others of its pages may be the dirty ones.
    pub(super) fn copies_dropped(&mut self, task: &mut Task, event: &Event) {
        let all = event.a == 0 && event.b >= BEYOND_ANY_FILE;
        if let Some(Place { doing, .. }) = self.place(task, event.inode)
            && all
        {
            let broken = Broken {
                kind: Kind::MissingInvalidate,
                observed: Observed::CopiesDropped,
                class: LockClass::InvalidateLock,
                act: Act::Change,
            };
            let range = ByteRange::ALL.below(event.size);
            self.broke(task, doing, broken, range, event);
        }
    }

    /// What is done here is due under the exclusion lock, whatever the operation is; one that is for such changes has
    /// rules of its own.
    pub(super) fn due_under_exclusion(&mut self, task: &mut Task, span: Span, event: &Event) {
        if let Some(Place { doing, .. }) = self.place(task, event.inode)
            && doing.operation.duties().teardown == Owed::Never
        {
            let block_bits = self.files.get(doing.inode).meta.block_bits;
            let range = span.bytes(event.a, event.b, block_bits);
            let class = LockClass::InvalidateLock;
            self.due_under(class, task, doing, (Act::TakeBack, range), event);
        }
    }

    /// What an operation is for is about to be done, under the locks of its duties, whatever it does to extents.
    pub(super) fn at_its_point(&mut self, task: &mut Task, event: &Event) {
        let Some(Place { doing, .. }) = self.place(task, event.inode) else {
            return;
        };
        let duties = doing.operation.duties();
        let range = ByteRange::ALL.below(event.size);
        let due = [
            (duties.rwsem, LockClass::IRwsem),
            (duties.exclusion, LockClass::InvalidateLock),
        ];
        for (_, class) in due.into_iter().filter(|(due, _)| *due) {
            self.due_under(class, task, doing, (Act::Change, range), event);
        }
        let class = LockClass::Writepages;
        let others = &task.account.others;
        let held = others.iter().any(|held| held.resource.class == class);
        if duties.owe(doing.filesystem, Duty::WritebackHeldOff)
            && self.sight.writeback_held_off
            && !held
        {
            let broken = Broken {
                kind: Kind::OpUnprotected,
                observed: Observed::Unheld,
                class,
                act: Act::Change,
            };
            self.broke(task, doing, broken, range, event);
        }
    }

    /// An act is due under a lock held exclusively.
    fn due_under(
        &mut self,
        class: LockClass,
        task: &Task,
        doing: Doing,
        (act, range): (Act, ByteRange),
        event: &Event,
    ) {
        let mode = task.locks.find(doing.inode, class).map(|hold| hold.mode);
        if let Some((kind, observed)) = rules::held_exclusively(mode) {
            let broken = Broken {
                kind,
                observed,
                class,
                act,
            };
            self.broke(task, doing, broken, range, event);
        }
    }

    /// A rule that operations and faults can break alike.
    #[cold]
    pub(super) fn broke(
        &mut self,
        task: &Task,
        doing: Doing,
        broken: Broken,
        range: ByteRange,
        event: &Event,
    ) -> FindingIndex {
        let key = Key {
            kind: broken.kind,
            filesystem: doing.filesystem,
            operation: doing.operation,
            class: broken.class,
            observed: broken.observed,
            hook: HookId(event.head.hook),
        };
        let time = Nanos(event.head.time);
        let witness = Witness {
            scope: None,
            entered: doing.entered,
            time,
            act: broken.act,
            inode: doing.inode,
            range,
            size: u64::MAX,
            locks: LockSeen::all(task.id, &task.locks, time),
            actor: Party {
                task: task.id,
                role: Role::Actor(doing.operation),
                stack: stack_id(event.head.stack),
            },
            other: None,
            more: Vec::new(),
        };
        self.report(key, &witness)
    }

    /// The map is looked up to reserve blocks.
    pub(super) fn looked_up_to_reserve(&self, task: &mut Task, event: &Event) {
        let Some(Place { doing, .. }) = self.place(task, event.inode) else {
            return;
        };
        let hold = extent_lock(doing.filesystem)
            .and_then(|class| task.locks.find(doing.inode, class))
            .filter(|hold| hold.excludes());
        task.looked_up = Some((doing.inode, hold.map(|hold| hold.number)));
    }

    /// Blocks are reserved where there were none when the map was looked up: under this very hold of its lock.
    pub(super) fn reserved(&mut self, task: &mut Task, span: Span, event: &Event) {
        let Some(Place { doing, .. }) = self.place(task, event.inode) else {
            return;
        };
        let Some(class) = extent_lock(doing.filesystem) else {
            return;
        };
        let range = span.bytes(
            event.a,
            event.b,
            self.files.get(doing.inode).meta.block_bits,
        );
        self.due_under(class, task, doing, (Act::Reserve, range), event);
        self.grown(task, doing, range, event);
        let hold = task.locks.find(doing.inode, class);
        let (Some(hold), Some((inode, under))) = (hold, task.looked_up) else {
            return;
        };
        if !self.sight.looks || !hold.excludes() {
            return;
        }
        if inode == doing.inode && under != Some(hold.number) {
            let broken = Broken {
                kind: Kind::StaleAfterRelock,
                observed: Observed::NotLookedUp,
                class,
                act: Act::Reserve,
            };
            self.broke(task, doing, broken, range, event);
        }
    }

    /// Pages were dropped: those over EOF, with what they held, are covered by the on-disk size already
    /// (fs/ext4/inode.c:ext4_update_disksize_before_punch does nothing short of EOF).
    pub(super) fn dropped(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        change: &mut ChangeScope,
        range: ByteRange,
        event: &Event,
    ) {
        let (Some(request), Some(subject)) = (change.request, change.subject(event.inode)) else {
            return;
        };
        let over_eof = request.start <= event.size && request.end >= event.size;
        if !self.owe(change.operation, subject.inode, Duty::DiskSize)
            || !over_eof
            || self.files.get(subject.inode).meta.dax
            || !self.sight.disk_size
            || subject
                .disk_size
                .covers(request.intersection(range).below(event.size))
        {
            return;
        }
        let what = (Observed::DiskSizeBehind, Act::Drop, range.below(event.size));
        self.size_disorder((task, locks), change, what, event);
    }

    /// DAX entries of the span are about to be dropped, of a file whose pages are lent memory.
    pub(super) fn dropped_entries(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        change: &mut ChangeScope,
        range: ByteRange,
        event: &Event,
    ) {
        let Some(subject) = change.subject(event.inode) else {
            return;
        };
        let inode = subject.inode;
        if event.head.flags & FLAG_CACHED == 0
            || !self.files.get(inode).meta.dax
            || !self.owe(change.operation, inode, Duty::Entries)
        {
            return;
        }
        // One drop is several calls, of which the first tells how it stands.
        let class = LockClass::InvalidateLock;
        if subject.reported.iter().any(|told| told.class == class) {
            return;
        }
        let facts = ChangeFacts {
            now: locks.find(inode, class),
            invalidation: subject.last_invalidation(range).map(|last| last.hold),
            ..ChangeFacts::default()
        };
        let pins = || {
            rules::layouts(LayoutFacts {
                scanned: subject.torn.scanned.covers(range),
                pinned: subject.torn.pinned,
                mixed: false,
            })
            .filter(|_| self.sight.scans)
            .map(|observed| (Kind::LayoutUnbroken, observed))
        };
        if let Some((kind, observed)) = rules::change(facts).or_else(pins) {
            let broken = Broken {
                kind,
                observed,
                class,
                act: Act::Drop,
            };
            let time = Nanos(event.head.time);
            self.breach(
                task,
                locks,
                change,
                broken,
                Danger { from: time, range },
                event,
            );
        }
    }

    /// Data goes beyond EOF: a crash meanwhile must find the file on the list of orphans.
    pub(super) fn beyond_eof(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        change: &mut ChangeScope,
        range: ByteRange,
        event: &Event,
    ) {
        let beyond = ByteRange {
            start: range.start.max(event.size),
            end: range.end,
        };
        let Some(subject) = change.subject(event.inode) else {
            return;
        };
        if !self.owe(change.operation, subject.inode, Duty::Orphan)
            || beyond.is_empty()
            || subject.orphan
            || !self.sight.orphans
        {
            return;
        }
        let what = (Observed::NotOrphaned, Act::Data, beyond);
        self.size_disorder((task, locks), change, what, event);
    }

    /// A write has returned: if it moved EOF, the on-disk size must have followed.
    pub(super) fn size_followed(&mut self, task: &Task, change: &mut ChangeScope, event: &Event) {
        let subject = &change.subjects.0;
        if !self.sight.disk_size || !self.owe(change.operation, subject.inode, Duty::DiskSizeRaised)
        {
            return;
        }
        let Some(beyond) = written_from(change, subject.entry_size, event) else {
            return;
        };
        // Else another writer may have moved both.
        if event.size >= beyond.end
            && !subject.disk_size.covers(beyond)
            && self.files.get(subject.inode).alone(subject.begun)
        {
            let what = (Observed::DiskSizeLeft, Act::Data, beyond);
            self.size_disorder((task.id, &task.locks), change, what, event);
        }
    }

    /// A write has returned. With O_SYNC it syncs what it wrote once the size covers it.
    pub(super) fn size_lasts(&mut self, task: &Task, change: &mut ChangeScope, event: &Event) {
        let Some(sync) = change.subjects.0.synced.take() else {
            return;
        };
        let Some(written) = written_from(change, sync.size, event) else {
            return;
        };
        let subject = &change.subjects.0;
        // Else another writer may have moved the size.
        if self.files.get(subject.inode).alone(subject.begun) {
            let what = (Observed::SyncedFirst, Act::Sync, written);
            self.size_disorder((task.id, &task.locks), change, what, &sync);
        }
    }

    /// Whether an operation owes this to a file of its filesystem.
    pub(super) fn owe(&self, operation: Operation, inode: InodeIndex, duty: Duty) -> bool {
        let filesystem = self.files.get(inode).filesystem;
        filesystem.is_some_and(|on| operation.duties().owe(on, duty))
    }

    /// A size, or what undoes a write beyond it, came too early or too late.
    pub(super) fn size_disorder(
        &mut self,
        (task, locks): (TaskId, &LockSet),
        change: &mut ChangeScope,
        (observed, act, range): (Observed, Act, ByteRange),
        event: &Event,
    ) {
        let broken = Broken {
            kind: Kind::SizeOrder,
            observed,
            class: LockClass::IRwsem,
            act,
        };
        let danger = Danger {
            from: Nanos(event.head.time),
            range,
        };
        self.breach(task, locks, change, broken, danger, event);
    }
}

/// The hold of the extent map's lock that the task has now, and where that of the last change is kept.
fn holds_of_map(
    task: &mut Task,
    class: LockClass,
    inode: InodeIndex,
    address: u64,
) -> Option<(u32, &mut Option<u32>)> {
    let now = task.locks.find(inode, class)?.number;
    let Scope::Change(change) = doing(&mut task.scopes)? else {
        return None;
    };
    Some((now, &mut change.subject_mut(address)?.mapped_under))
}

pub(super) fn subject_of(task: &mut Task, address: u64) -> Option<&mut Subject> {
    match doing(&mut task.scopes)? {
        Scope::Change(change) => change.subject_mut(address),
        Scope::Fault(_) | Scope::Part => None,
    }
}

/// What a write that has returned wrote from `size` on, if anything.
fn written_from(change: &ChangeScope, size: u64, event: &Event) -> Option<ByteRange> {
    let request = change.request?;
    let count = u64::try_from(event.a.cast_signed()).ok()?;
    let written = ByteRange {
        start: request.start.max(size),
        end: request.start.saturating_add(count),
    };
    (!written.is_empty()).then_some(written)
}

/// The on-disk size covers the span from here on.
pub(super) fn disk_size(task: &mut Task, span: Span, event: &Event) {
    if let Some(subject) = subject_of(task, event.inode) {
        // Bytes, whatever the size of a block.
        subject.disk_size.add(span.bytes(event.a, event.b, 0));
    }
}

/// What was written so far is made to last.
pub(super) fn synced(task: &mut Task, event: &Event) {
    if let Some(Scope::Change(change)) = doing(&mut task.scopes)
        && let Some(request) = change.request
        && let Some(subject) = change.subject_mut(event.inode)
    {
        subject.synced = (event.size < request.end).then(|| Box::new(*event));
    }
}

/// A crash gives back what lies beyond EOF.
pub(super) fn orphan(task: &mut Task, address: u64) {
    if let Some(subject) = subject_of(task, address) {
        subject.orphan = true;
    }
}
