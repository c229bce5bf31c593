//! What an operation owes besides the exclusion lock: other locks, teardown, layouts, direct I/O,
//! zeroes; and what became of translations.

use tracer_ebpf::{
    Event,
    event::{FLAG_CACHED, FLAG_DIRECT},
};

use crate::{
    hooks::{Effect, Entry, FILESYSTEMS, FilesystemKind, Fresh, LockClass, Mode, Span},
    judge::{
        duties::{Duty, OneStep},
        engine::{Engine, other_inode_locked},
        finding::{Act, Key, LockSeen, Party, Role, Strength, Witness},
        inode::{Files, InodeIndex},
        lockset::{Hold, LockSet},
        operations::Operation,
        order::Doing,
        rules::{self, Kind, LayoutFacts, Observed, TornFacts},
        task::{
            ChangeScope, Early, FreshBlocks, Reported, Scope, Subject, Task, TaskId, Torn, Untorn,
            doing, stack_id,
        },
        translations::Translation,
        window::{CLOCK_SKEW_NS, Danger, FindingIndex, Installed},
    },
    trace::meta,
    units::{ByteRange, HookId, Nanos, PAGE_SHIFT, PageOffset},
};

/// A broken rule.
#[derive(Clone, Copy, Debug)]
pub struct Broken {
    /// Which.
    pub kind: Kind,
    /// How it was found.
    pub observed: Observed,
    /// About which lock.
    pub class: LockClass,
    /// By what.
    pub act: Act,
}

/// What a task is in the middle of, seen from one of its files.
struct Place {
    doing: Doing,
    /// What the operation was asked for, or the fault's page.
    range: ByteRange,
}

/// What the plan's hooks can show: a rule whose evidence no hook delivers is not applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight {
    scans: bool,
    pub(super) drains: bool,
    drops: bool,
    unmaps: bool,
    zeroes: bool,
    looks: bool,
    disk_size: bool,
    orphans: bool,
}

impl Sight {
    /// Of a trace.
    pub fn new(header: &meta::Header) -> Self {
        let mut sight = Self::default();
        for hook in header.hooks.iter().filter(|hook| hook.attached.is_ok()) {
            match hook.effect {
                Effect::LayoutScan(_) => sight.scans = true,
                Effect::DrainDirect => sight.drains = true,
                Effect::Invalidate(_, how) => {
                    sight.drops |= how.drops();
                    sight.unmaps |= how.unmaps(true);
                }
                Effect::Zero => sight.zeroes = true,
                Effect::LookUp(Entry::Reserve) => sight.looks = true,
                Effect::DiskSize(_) => sight.disk_size = true,
                Effect::Orphan => sight.orphans = true,
                _ => {}
            }
        }
        sight
    }
}

/// The lock under which a filesystem's extent map changes.
pub(super) fn extent_lock(filesystem: FilesystemKind) -> Option<LockClass> {
    FILESYSTEMS
        .iter()
        .find(|table| table.kind == filesystem)
        .map(|table| table.extent_lock)
}

impl Engine {
    /// Judges a change that the exclusion lock did protect, or did not have to.
    pub(super) fn owed(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        change: &mut ChangeScope,
        span: Span,
        under_extent_lock: bool,
        event: &Event,
    ) {
        let duties = change.operation.duties();
        let entry = change.entry;
        let Some(subject) = change.subject(event.inode) else {
            return;
        };
        let inode = subject.inode;
        let file = self.files.get(inode);
        let (dax, block_bits) = (file.meta.dax, file.meta.block_bits);
        let Some(filesystem) = file.filesystem else {
            return;
        };
        // What lay inside EOF when the operation had the file to itself.
        let size = subject.stable_size.unwrap_or(event.size).max(event.size);
        let range = span.bytes(event.a, event.b, block_bits).below(size);
        if range.is_empty() {
            return;
        }
        let time = Nanos(event.head.time);
        let danger = Danger { from: time, range };
        // Without the exclusion lock where it is due, teardown and pins are beside the point.
        let excluded = subject.early.is_none()
            && !subject
                .reported
                .iter()
                .any(|reported| reported.class == LockClass::InvalidateLock);
        let mode = |class| locks.find(inode, class).map(|hold: Hold| hold.mode);
        let inherited = entry == Entry::SetSize && !subject.rwsem_cycled;
        let rwsem = mode(LockClass::IRwsem).or(inherited.then_some(Mode::Excl));
        let mut broken = Vec::new();
        let mut broke = |kind, observed, class| {
            broken.push(Broken {
                kind,
                observed,
                class,
                act: Act::Change,
            });
        };
        if duties.rwsem
            && let Some((kind, observed)) = rules::held_exclusively(rwsem)
        {
            broke(kind, observed, LockClass::IRwsem);
        }
        if under_extent_lock
            && let Some(class) = extent_lock(filesystem)
            && let Some((kind, observed)) = rules::held_exclusively(mode(class))
        {
            broke(kind, observed, class);
        }
        if excluded
            && duties.layouts.on(dax)
            && self.sight.scans
            && let Some(observed) = rules::layouts(LayoutFacts {
                scanned: subject.torn.scanned.covers(range),
                pinned: subject.torn.pinned,
                mixed: change
                    .iter()
                    .any(|subject| !self.files.get(subject.inode).meta.dax),
            })
        {
            broke(Kind::LayoutUnbroken, observed, LockClass::InvalidateLock);
        }
        if duties.drain && self.sight.drains && !subject.drained {
            broke(Kind::DioUndrained, Observed::NotDrained, LockClass::IRwsem);
        }
        let shifts = span == Span::FromBlock;
        if shifts
            && duties.owe(filesystem, Duty::NoCopies)
            && subject.copies
            && event.c != 0
            && let Some(class) = extent_lock(filesystem)
        {
            broke(Kind::MissingInvalidate, Observed::CopiesKept, class);
        }
        let edge = shifts && duties.owe(filesystem, Duty::Edge);
        let untorn = (excluded && duties.teardown.on(dax) && self.sight.drops && self.sight.unmaps)
            .then(|| {
                rules::torn_down(TornFacts {
                    unmapped: subject.torn.unmapped.covers(range),
                    dropped: subject.torn.dropped.covers(range),
                    edge: !edge || subject.torn.dropped.covers(block_before(range, block_bits)),
                    cached: event.head.flags & FLAG_CACHED != 0,
                })
            })
            .flatten();
        if let Some(observed) = untorn {
            let live = self.files.get(inode).translations.first_in(range).is_some();
            self.untorn(task, locks, change, (range, observed, live), None, event);
        }
        for broken in broken {
            let evident = match broken.observed {
                Observed::Pinned => true,
                Observed::NotDrained => event.head.flags & FLAG_DIRECT != 0,
                _ => false,
            };
            let found = self.breach(task, locks, change, broken, danger, event);
            if let Some(finding) = found.filter(|_| evident) {
                self.findings.raise(finding, Strength::Observed);
            }
        }
    }

    /// Remembers a change that was not torn down before: whether it is afterwards decides its kind.
    #[cold]
    fn untorn(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        change: &mut ChangeScope,
        (range, observed, live): (ByteRange, Observed, bool),
        since: Option<Torn>,
        event: &Event,
    ) {
        let (id, operation, entered) = (change.id, change.operation, change.entered);
        let Some(subject) = change.subject_mut(event.inode) else {
            return;
        };
        if let Some(known) = &mut subject.untorn {
            known.range = known.range.union(range);
            known.witness.range = known.range;
            known.live |= live;
            return;
        }
        let time = Nanos(event.head.time);
        let witness = Witness {
            scope: Some(id),
            entered,
            time,
            act: match observed {
                Observed::HoleKept => Act::Allocate,
                _ => Act::Change,
            },
            inode: subject.inode,
            range,
            size: subject.entry_size.max(event.size),
            locks: LockSeen::all(task, locks, time),
            actor: Party {
                task,
                role: Role::Actor(operation),
                stack: stack_id(event.head.stack),
            },
            other: None,
            more: Vec::new(),
        };
        subject.untorn = Some(Box::new(Untorn {
            range,
            observed,
            live,
            since,
            hook: HookId(event.head.hook),
            witness,
        }));
    }

    /// A teardown: was it one that should have come before a change, or the one that was due after it?
    pub(super) fn torn_later(
        &mut self,
        change: &mut ChangeScope,
        address: u64,
        range: ByteRange,
        (unmaps, drops): (bool, bool),
    ) {
        let operation = change.operation;
        let Some(subject) = change.subject_mut(address) else {
            return;
        };
        let Some(untorn) = &mut subject.untorn else {
            return;
        };
        let in_time = untorn.since.is_some();
        let torn = match &mut untorn.since {
            Some(since) => {
                if unmaps {
                    since.unmapped.add(range);
                }
                if drops {
                    since.dropped.add(range);
                }
                since
            }
            None => &subject.torn,
        };
        if !torn.unmapped.covers(untorn.range) || !torn.dropped.covers(untorn.range) {
            return;
        }
        if let Some(untorn) = subject.untorn.take()
            && !in_time
        {
            self.teardown_finding(
                operation,
                Kind::UnmapOrder,
                Observed::TornDownLater,
                &untorn,
            );
        }
    }

    /// Blocks become shared: their source is locked too (fs/xfs/xfs_inode.c:xfs_ilock2_io_mmap), and nobody
    /// may have made pages of it writable since its exclusion lock was demoted
    /// (fs/xfs/xfs_reflink.c:xfs_reflink_remap_prep sets XFS_IREMAPPING before, for which
    /// fs/xfs/xfs_file.c:xfs_write_fault takes the lock exclusively).
    pub(super) fn remapped(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        change: &mut ChangeScope,
        span: Span,
        event: &Event,
    ) {
        if !matches!(change.operation, Operation::Reflink | Operation::Dedupe) {
            return;
        }
        let Some(source) = change.iter().find(|one| one.address != event.inode) else {
            return;
        };
        let (address, inode) = (source.address, source.inode);
        let Some(hold) = locks.find(inode, LockClass::InvalidateLock) else {
            if other_inode_locked(change, locks, address) {
                let bits = self.files.get(inode).meta.block_bits;
                let range = span.bytes(event.a, event.b, bits);
                self.source_exposed((task, locks), change, (address, range), None, event);
            }
            return;
        };
        if hold.mode != Mode::Shared {
            return;
        }
        // What was acquired after the exclusive hold began came after it was demoted.
        let demoted = hold.since.0 + CLOCK_SKEW_NS;
        let beside = |install: &&Installed| {
            install.task != task
                && install.operation.is_write_fault()
                && install
                    .lock
                    .is_some_and(|(mode, since)| mode == Mode::Shared && since.0 > demoted)
        };
        let writer = self.files.get(inode).installs.iter().find(beside).cloned();
        if let Some(writer) = writer {
            let where_to = (address, writer.range);
            self.source_exposed((task, locks), change, where_to, Some(writer), event);
        }
    }

    /// Blocks of a file were shared that write faults were not kept from; `writer` did come.
    #[cold]
    fn source_exposed(
        &mut self,
        (task, locks): (TaskId, &LockSet),
        change: &mut ChangeScope,
        (address, range): (u64, ByteRange),
        writer: Option<Installed>,
        event: &Event,
    ) {
        let (kind, observed) = match writer {
            Some(_) => (Kind::WrongMode, Observed::SharedWithWriter),
            None => (Kind::PartialLock, Observed::SourceUnheld),
        };
        let class = LockClass::InvalidateLock;
        let (id, operation, entered) = (change.id, change.operation, change.entered);
        let Some(source) = change.subject_mut(address) else {
            return;
        };
        let Some(filesystem) = self.files.get(source.inode).filesystem else {
            return;
        };
        if source.reported.iter().any(|said| said.kind == kind) {
            return;
        }
        let time = Nanos(event.head.time);
        let key = Key {
            kind,
            filesystem,
            operation,
            class,
            observed,
            hook: HookId(event.head.hook),
        };
        let witness = Witness {
            scope: Some(id),
            entered,
            time,
            act: Act::Change,
            inode: source.inode,
            range,
            size: u64::MAX,
            locks: LockSeen::all(task, locks, time),
            actor: Party {
                task,
                role: Role::Actor(operation),
                stack: stack_id(event.head.stack),
            },
            other: writer.as_ref().map(|writer| Party {
                task: writer.task,
                role: Role::Overlapped(writer.operation),
                stack: writer.stack,
            }),
            more: Vec::new(),
        };
        let finding = self.report(key, &witness);
        source.reported.push(Reported {
            kind,
            class,
            finding,
        });
        if writer.is_some() {
            self.findings.raise(finding, Strength::Observed);
        }
    }

    /// Remembers a size that fell without the exclusion lock, until it is taken or the operation ends.
    #[cold]
    pub(super) fn too_early(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        change: &mut ChangeScope,
        (act, danger): (Act, Danger),
        event: &Event,
    ) {
        if let Some(subject) = change.subject_mut(event.inode) {
            subject.early.get_or_insert_with(|| {
                Box::new(Early {
                    task,
                    locks: locks.clone(),
                    act,
                    danger,
                    event: *event,
                })
            });
        }
    }

    /// The exclusion lock was taken: too late for a size that fell before.
    pub(super) fn taken_too_late(&mut self, task: &mut Task, inode: InodeIndex) {
        for (_, scope) in &mut task.scopes {
            if let Scope::Change(change) = scope {
                self.judge_early(
                    change,
                    Some(inode),
                    Kind::ScopeGap,
                    Observed::TakenAfterInvalidation,
                );
            }
        }
    }

    fn judge_early(
        &mut self,
        change: &mut ChangeScope,
        only: Option<InodeIndex>,
        kind: Kind,
        observed: Observed,
    ) {
        let (first, second) = &mut change.subjects;
        let early: Vec<_> = std::iter::once(first)
            .chain(second)
            .filter(|subject| only.is_none_or(|inode| subject.inode == inode))
            .filter_map(|subject| subject.early.take())
            .collect();
        for early in early {
            let broken = Broken {
                kind,
                observed,
                class: LockClass::InvalidateLock,
                act: early.act,
            };
            self.breach(
                early.task,
                &early.locks,
                change,
                broken,
                early.danger,
                &early.event,
            );
        }
    }

    /// At its end: changes that were never torn down, sizes that fell without any lock.
    pub(super) fn settle(&mut self, change: &mut ChangeScope) {
        self.judge_early(change, None, Kind::OpUnprotected, Observed::Unheld);
        let operation = change.operation;
        let (first, second) = &mut change.subjects;
        for subject in std::iter::once(first).chain(second) {
            if let Some(untorn) = subject.untorn.take() {
                let observed = untorn.observed;
                let finding =
                    self.teardown_finding(operation, Kind::MissingInvalidate, observed, &untorn);
                subject.reported.extend(finding.map(|finding| Reported {
                    kind: Kind::MissingInvalidate,
                    class: LockClass::InvalidateLock,
                    finding,
                }));
            }
        }
    }

    #[cold]
    fn teardown_finding(
        &mut self,
        operation: Operation,
        kind: Kind,
        observed: Observed,
        untorn: &Untorn,
    ) -> Option<FindingIndex> {
        let inode = untorn.witness.inode;
        let filesystem = self.files.get(inode).filesystem?;
        let key = Key {
            kind,
            filesystem,
            operation,
            class: LockClass::InvalidateLock,
            observed,
            hook: untorn.hook,
        };
        let finding = self.report(key, &untorn.witness);
        if let Some(scope) = untorn.witness.scope
            && let Some(window) = self.window(inode, scope)
        {
            window.broke(finding, untorn.range);
        }
        if untorn.live {
            self.findings.raise(finding, Strength::Observed);
        }
        Some(finding)
    }

    fn place(&self, task: &mut Task, address: u64) -> Option<Place> {
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
        let hold = task.locks.find(at.inode, LockClass::IRwsem);
        if hold.is_none() && cycled && at.operation == Operation::BufferedWrite {
            return;
        }
        let broken = match rules::held_exclusively(hold.map(|hold| hold.mode)) {
            Some(broken) => broken,
            None if duties.drain && self.sight.drains && !drained => {
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
        let Some(Place { doing, .. }) = self.place(task, event.inode) else {
            return;
        };
        let transfers = matches!(
            doing.operation,
            Operation::DaxRead | Operation::DirectRead | Operation::DirectWrite
        );
        if transfers && task.locks.find(doing.inode, LockClass::IRwsem).is_none() {
            let broken = Broken {
                kind: Kind::OpUnprotected,
                observed: Observed::Unheld,
                class: LockClass::IRwsem,
                act: Act::Transfer,
            };
            let range = ByteRange::new(event.a, event.b);
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

    /// What is done here is due under the exclusion lock, whatever the operation is.
    pub(super) fn due_under_exclusion(
        &mut self,
        task: &mut Task,
        span: Span,
        act: Act,
        event: &Event,
    ) {
        if let Some(Place { doing, .. }) = self.place(task, event.inode) {
            let block_bits = self.files.get(doing.inode).meta.block_bits;
            let range = span.bytes(event.a, event.b, block_bits);
            let class = LockClass::InvalidateLock;
            self.due_under(class, task, doing, (act, range), event);
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
    fn broke(
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
        let file = self.files.get(subject.inode);
        let owed = file
            .filesystem
            .is_some_and(|on| change.operation.duties().owe(on, Duty::DiskSize));
        let over_eof = request.start <= event.size && request.end >= event.size;
        if !owed
            || !over_eof
            || file.meta.dax
            || !self.sight.disk_size
            || subject
                .disk_size
                .covers(request.intersection(range).below(event.size))
        {
            return;
        }
        let broken = Broken {
            kind: Kind::SizeOrder,
            observed: Observed::DiskSizeBehind,
            class: LockClass::IRwsem,
            act: Act::Drop,
        };
        let danger = Danger {
            from: Nanos(event.head.time),
            range: range.below(event.size),
        };
        self.breach(task, locks, change, broken, danger, event);
    }

    /// Data goes beyond EOF: a crash meanwhile must find the file on the list of orphans.
    fn beyond_eof(
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
        let owed = self
            .files
            .get(subject.inode)
            .filesystem
            .is_some_and(|on| change.operation.duties().owe(on, Duty::Orphan));
        if !owed || beyond.is_empty() || subject.orphan || !self.sight.orphans {
            return;
        }
        let broken = Broken {
            kind: Kind::SizeOrder,
            observed: Observed::NotOrphaned,
            class: LockClass::IRwsem,
            act: Act::Data,
        };
        let danger = Danger {
            from: Nanos(event.head.time),
            range: beyond,
        };
        self.breach(task, locks, change, broken, danger, event);
    }

    /// Bytes of a DAX file are about to be written.
    pub(super) fn dax_write(&mut self, task: &mut Task, event: &Event) {
        let Some(Scope::Change(change)) = doing(&mut task.scopes) else {
            return;
        };
        if change.operation != Operation::DaxWrite {
            return;
        }
        let range = ByteRange::new(event.a, event.b);
        if range.is_empty() {
            return;
        }
        change.transfer = Some(range);
        self.beyond_eof(task.id, &task.locks, change, range, event);
        let Some(subject) = change.subject(event.inode) else {
            return;
        };
        let hold = task.locks.find(subject.inode, LockClass::IRwsem);
        let Some((kind, observed)) = rules::held_exclusively(hold.map(|hold| hold.mode)) else {
            return;
        };
        let broken = Broken {
            kind,
            observed,
            class: LockClass::IRwsem,
            act: Act::Data,
        };
        let danger = Danger {
            from: Nanos(event.head.time),
            range,
        };
        self.breach(task.id, &task.locks, change, broken, danger, event);
    }

    /// Blocks were allocated as written ones: somebody must have zeroed them.
    pub(super) fn allocated(&mut self, task: &mut Task, span: Span, how: Fresh, event: &Event) {
        self.filled(task, span, event);
        if event.head.flags & FLAG_DIRECT != 0
            && let Some(Scope::Change(change)) = doing(&mut task.scopes)
            && change.operation == Operation::DirectWrite
            && let Some(subject) = change.subject(event.inode)
        {
            let bits = self.files.get(subject.inode).meta.block_bits;
            let mut range = span.bytes(event.a, event.b, bits);
            // The block of EOF may be a hole's.
            range.start = range.start.max(event.size.next_multiple_of(1 << bits));
            self.beyond_eof(task.id, &task.locks, change, range, event);
        }
        let fresh = std::mem::take(&mut task.fresh);
        let FreshBlocks { mapped, zeroed } = fresh;
        if zeroed || !self.sight.zeroes || (how == Fresh::IfMapped && !mapped) {
            return;
        }
        let Some(Place { doing: at, .. }) = self.place(task, event.inode) else {
            return;
        };
        let file = self.files.get(at.inode);
        let mut range = span.bytes(event.a, event.b, file.meta.block_bits);
        let visible = match at.operation {
            Operation::DaxWrite => file.meta.dax,
            // Readers see what lies inside EOF, and get there once direct I/O has begun: what is
            // allocated before is pages written back.
            Operation::DirectWrite => {
                range = range.below(event.size);
                event.head.flags & FLAG_DIRECT != 0 && !range.is_empty()
            }
            operation => operation.is_fault() && file.meta.dax,
        };
        if !visible {
            return;
        }
        let broken = Broken {
            kind: Kind::StaleData,
            observed: Observed::NotZeroed,
            class: LockClass::InvalidateLock,
            act: Act::Allocate,
        };
        let finding = self.broke(task, at, broken, range, event);
        if let Some(Scope::Fault(fault)) = doing(&mut task.scopes) {
            fault.stale = Some(finding);
        }
    }

    /// A write to a DAX file was given blocks: what showed the hole there must be torn down before the
    /// data is copied (fs/dax.c:dax_iomap_iter, at IOMAP_F_NEW).
    fn filled(&mut self, task: &mut Task, span: Span, event: &Event) {
        let Some(Scope::Change(change)) = doing(&mut task.scopes) else {
            return;
        };
        let (Operation::DaxWrite, Some(transfer)) = (change.operation, change.transfer) else {
            return;
        };
        let Some(subject) = change.subject(event.inode) else {
            return;
        };
        let file = self.files.get(subject.inode);
        let blocks = span.bytes(event.a, event.b, file.meta.block_bits);
        // Nobody maps what lies beyond the page of EOF.
        let size = event.size.next_multiple_of(1 << PAGE_SHIFT);
        let range = blocks.intersection(transfer).below(size);
        if !file.meta.dax
            || range.is_empty()
            || event.head.flags & FLAG_CACHED == 0
            || !self.sight.drops
            || !self.sight.unmaps
        {
            return;
        }
        let live = file.translations.find_over(range, |_| true).is_some();
        let what = (range, Observed::HoleKept, live);
        self.untorn(
            task.id,
            &task.locks,
            change,
            what,
            Some(Torn::default()),
            event,
        );
    }

    /// A write to a DAX file has returned: does a translation still show a hole where it put data?
    pub(super) fn written_through(&mut self, task: TaskId, change: &ChangeScope, event: &Event) {
        let (Operation::DaxWrite, Some(transfer)) = (change.operation, change.transfer) else {
            return;
        };
        let Some(written) = u64::try_from(event.a.cast_signed())
            .ok()
            .filter(|&count| count > 0 && !self.lossy)
        else {
            return;
        };
        let subject = &change.subjects.0;
        let range = ByteRange::new(transfer.start, written).intersection(transfer);
        let file = self.files.get(subject.inode);
        // One that was installed meanwhile may be gone with a teardown that began before.
        let shown = file.translations.find_over(range, |translation| {
            !translation.frame.may_be_medium() && translation.at < change.entered
        });
        let Some((page, old)) = shown.map(|(page, old)| (page, *old)) else {
            return;
        };
        let blamed = subject
            .reported
            .iter()
            .any(|reported| reported.kind == Kind::MissingInvalidate);
        if let Some(filesystem) = file.filesystem.filter(|_| !blamed) {
            let writer = Party {
                task,
                role: Role::Actor(change.operation),
                stack: stack_id(event.head.stack),
            };
            self.hole_shown(
                filesystem,
                change.operation,
                subject.inode,
                (page, old),
                writer,
                event,
            );
        }
    }

    #[cold]
    fn hole_shown(
        &mut self,
        filesystem: FilesystemKind,
        operation: Operation,
        inode: InodeIndex,
        (page, old): (u64, Translation),
        writer: Party,
        event: &Event,
    ) {
        let key = Key {
            kind: Kind::StaleTranslation,
            filesystem,
            operation,
            class: LockClass::InvalidateLock,
            observed: Observed::HoleShown,
            hook: HookId(event.head.hook),
        };
        let mapper = Party {
            task: old.task,
            role: Role::Overlapped(old.operation),
            stack: old.stack,
        };
        let what = Act::Outlived {
            frame: old.frame,
            by: None,
        };
        let time = Nanos(event.head.time);
        self.outlived(
            key,
            (inode, page),
            what,
            (old.at, time),
            (writer, mapper),
            Strength::Observed,
        );
    }

    /// A translation is still in place, from when it was installed to when that was noticed.
    fn outlived(
        &mut self,
        key: Key,
        (inode, page): (InodeIndex, u64),
        act: Act,
        (entered, time): (Nanos, Nanos),
        (actor, other): (Party, Party),
        strength: Strength,
    ) {
        let witness = Witness {
            scope: None,
            entered,
            time,
            act,
            inode,
            range: ByteRange::new(PageOffset(page).byte(), 1 << PAGE_SHIFT),
            size: u64::MAX,
            locks: Vec::new(),
            actor,
            other: Some(other),
            more: Vec::new(),
        };
        let finding = self.report(key, &witness);
        self.findings.raise(finding, strength);
    }

    /// A page of a DAX file was mapped: does its frame belong to another file's translation?
    pub(super) fn translated(&mut self, inode: InodeIndex, page: u64, new: Translation) {
        let file = self.files.get_mut(inode);
        if !file.meta.dax || self.lossy {
            return;
        }
        file.translations.install(page, new);
        if !new.frame.may_be_medium() {
            return;
        }
        let Some((other, at)) = self.owners.take(new.frame, (inode, page)) else {
            return;
        };
        let Some(old) = self.files.get(other).translations.get(at).copied() else {
            return;
        };
        // A block that two files share is mapped by both for reading; who may write owns it alone.
        if old.frame != new.frame || !(old.write || new.write) {
            return;
        }
        // A file that got another generation (EXT4_IOC_SWAP_BOOT) is still the same one.
        let file = |index| {
            let meta = &self.files.get(index).meta;
            (meta.device, meta.ino)
        };
        if file(other) != file(inode) {
            self.two_owners((other, at, old), (inode, new));
        }
    }

    #[cold]
    fn two_owners(
        &mut self,
        (inode, page, old): (InodeIndex, u64, Translation),
        (other, new): (InodeIndex, Translation),
    ) {
        let file = self.files.get(inode);
        let Some(filesystem) = file.filesystem else {
            return;
        };
        let key = Key {
            kind: Kind::StaleTranslation,
            filesystem,
            operation: file.changed_by.unwrap_or(old.operation),
            class: LockClass::InvalidateLock,
            observed: Observed::TwoOwners,
            hook: HookId(0),
        };
        let former = Party {
            task: old.task,
            role: Role::Actor(old.operation),
            stack: old.stack,
        };
        let latter = Party {
            task: new.task,
            role: Role::Overlapped(new.operation),
            stack: new.stack,
        };
        let what = Act::Outlived {
            frame: new.frame,
            by: Some(other),
        };
        self.outlived(
            key,
            (inode, page),
            what,
            (old.at, new.at),
            (former, latter),
            Strength::Proven,
        );
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

/// The block before a range; nothing, if that is where the file begins.
fn block_before(range: ByteRange, block_bits: u32) -> ByteRange {
    ByteRange {
        start: range.start.saturating_sub(1 << block_bits),
        end: range.start,
    }
}

fn subject_of(task: &mut Task, address: u64) -> Option<&mut Subject> {
    match doing(&mut task.scopes)? {
        Scope::Change(change) => change.subject_mut(address),
        Scope::Fault(_) | Scope::Part => None,
    }
}

/// The on-disk size covers the span from here on.
pub(super) fn disk_size(task: &mut Task, span: Span, event: &Event) {
    if let Some(subject) = subject_of(task, event.inode) {
        // Bytes, whatever the size of a block.
        subject.disk_size.add(span.bytes(event.a, event.b, 0));
    }
}

/// A crash gives back what lies beyond EOF.
pub(super) fn orphan(task: &mut Task, address: u64) {
    if let Some(subject) = subject_of(task, address) {
        subject.orphan = true;
    }
}

/// Copies that wait to replace blocks are left, or were given up.
pub(super) fn copies(task: &mut Task, event: &Event) {
    if let Some(subject) = subject_of(task, event.inode) {
        subject.copies = event.c != 0;
    }
}

/// Direct I/O to the file is over: it was waited for under the caller's `i_rwsem`.
pub(super) fn drained(task: &mut Task, address: u64) {
    for (_, scope) in &mut task.scopes {
        if let Scope::Change(change) = scope
            && let Some(subject) = change.subject_mut(address)
        {
            subject.drained = true;
        }
    }
}

/// The task's last teardown is over.
pub(super) fn went_on(task: &mut Task, now: Nanos) {
    for (_, scope) in &mut task.scopes {
        if let Scope::Change(change) = scope {
            let (first, second) = &mut change.subjects;
            for subject in std::iter::once(first).chain(second) {
                if std::mem::take(&mut subject.tearing) {
                    subject.torn_by = Some(now);
                }
            }
        }
    }
}
