//! When blocks and data become visible: zeroed before, what showed a hole torn down after, and no frame mapped
//! by two files.

use tracer_ebpf::{
    Event,
    event::{FLAG_CACHED, FLAG_DIRECT},
};

use crate::{
    hooks::{FilesystemKind, Fresh, LockClass, Span},
    judge::{
        due::Place,
        engine::Engine,
        finding::{Act, Key, Party, Role, Strength, Witness},
        inode::InodeIndex,
        operations::Operation,
        owed::Broken,
        rules::{self, Kind, Observed},
        task::{ChangeScope, FreshBlocks, Scope, Task, TaskId, Torn, doing, stack_id},
        translations::Translation,
        window::Danger,
    },
    units::{ByteRange, HookId, Nanos, PAGE_SHIFT, PageOffset},
};

impl Engine {
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
            && change.transfer.is_some()
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
