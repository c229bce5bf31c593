//! What an operation owes besides the exclusion lock where it changes extents inside EOF: other locks,
//! teardown, layouts, direct I/O.

use tracer_ebpf::{
    Event,
    event::{FLAG_CACHED, FLAG_DIRECT},
};

use crate::{
    hooks::{Effect, Entry, FilesystemKind, LockAction, LockClass, Mode, Span},
    judge::{
        due::subject_of,
        duties::Duty,
        engine::Engine,
        finding::{Act, Key, LockSeen, Party, Role, Strength, Witness},
        inode::InodeIndex,
        lockset::{Hold, LockSet},
        operations::Operation,
        rules::{self, ChangeFacts, Kind, LayoutFacts, Observed, TornFacts},
        task::{ChangeScope, Early, Reported, Scope, Task, TaskId, Torn, Untorn, stack_id},
        window::{Danger, FindingIndex},
    },
    trace::meta,
    units::{ByteRange, HookId, Nanos},
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

/// What the plan's hooks can show: a rule whose evidence no hook delivers is not applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight {
    pub(super) scans: bool,
    pub(super) drains: bool,
    pub(super) drops: bool,
    pub(super) unmaps: bool,
    pub(super) zeroes: bool,
    pub(super) looks: bool,
    pub(super) disk_size: bool,
    pub(super) orphans: bool,
    pub(super) writeback_held_off: bool,
    pub(super) protects: bool,
    pub(super) announces: bool,
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
                Effect::Protect => sight.protects = true,
                Effect::Unannounced => sight.announces = true,
                Effect::Resource(LockClass::Writepages, LockAction::Acquire(_)) => {
                    sight.writeback_held_off = true;
                }
                _ => {}
            }
        }
        sight
    }
}

/// The lock under which a filesystem's extent map changes.
pub(super) fn extent_lock(filesystem: FilesystemKind) -> Option<LockClass> {
    filesystem.table()?.extent_lock
}

/// fs/xfs/xfs_bmap_util.c:xfs_swap_extents, of the temporary file.
const SWAP_SECOND: u64 = 1;

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
        // Beyond EOF nobody finds a block any more, but that is what a truncate tears down, and looks for pins in.
        let retaken = excluded && duties.exclusion && {
            let facts = ChangeFacts {
                now: locks.find(inode, LockClass::InvalidateLock),
                invalidation: subject.last_invalidation(range).map(|last| last.hold),
                ..ChangeFacts::default()
            };
            matches!(rules::change(facts), Some((_, Observed::Retaken)))
        };
        let excluded = excluded && !retaken;
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
        if retaken {
            broke(
                Kind::StaleAfterRelock,
                Observed::Retaken,
                LockClass::InvalidateLock,
            );
        }
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
        // The first file's copies are swapped too (fs/xfs/xfs_bmap_util.c:xfs_swap_extents).
        let stay_behind = match span {
            Span::FromBlock => subject.copies,
            Span::Whole => event.a == SWAP_SECOND,
            _ => false,
        };
        if duties.owe(filesystem, Duty::NoCopies)
            && stay_behind
            && event.c != 0
            && let Some(class) = extent_lock(filesystem)
        {
            broke(Kind::MissingInvalidate, Observed::CopiesKept, class);
        }
        let written = range.below(event.size);
        if excluded
            && self.sight.protects
            && !self.lossy
            && duties.teardown.on(false)
            && !written.is_empty()
            && self.files.get(inode).writable_at_edge(written)
        {
            broke(
                Kind::MissingInvalidate,
                Observed::WritableKept,
                LockClass::InvalidateLock,
            );
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
    pub(super) fn untorn(
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
}

/// The block before a range; nothing, if that is where the file begins.
fn block_before(range: ByteRange, block_bits: u32) -> ByteRange {
    ByteRange {
        start: range.start.saturating_sub(1 << block_bits),
        end: range.start,
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
