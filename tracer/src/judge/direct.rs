//! Writes beside the page cache: which of them need the file to themselves, and when their data and
//! the size that covers it become visible.

use tracer_ebpf::{Event, event::FLAG_DIRECT};

use crate::{
    hooks::{FilesystemKind, LockClass, Span},
    judge::{
        duties::Duty,
        engine::Engine,
        finding::Act,
        lockset::LockSet,
        operations::Operation,
        owed::Broken,
        rules::{self, DirectFacts, Kind, Observed},
        task::{ChangeScope, Scope, Task, TaskId, doing},
        window::Danger,
    },
    units::{ByteRange, Nanos},
};

/// The write is asynchronous: its data arrive after it has returned (include/linux/errno.h).
const EIOCBQUEUED: i64 = -529;

/// True if a write that extends the file must have it to itself. XFS lets aligned ones run side by
/// side and orders the size by a spinlock (fs/xfs/xfs_file.c:xfs_dio_write_end_io); ext4 does not
/// (fs/ext4/file.c:ext4_dio_write_checks).
fn extends_alone(filesystem: FilesystemKind) -> bool {
    match filesystem {
        FilesystemKind::Ext4 => true,
        FilesystemKind::Xfs | FilesystemKind::Virtiofs => false,
    }
}

/// True if a write that begins beyond EOF must wait for direct I/O before it zeroes what lies
/// between: XFS moves EOF when asynchronous writes complete (fs/xfs/xfs_file.c:xfs_file_write_zero_eof).
fn zeroes_alone(filesystem: FilesystemKind) -> bool {
    match filesystem {
        FilesystemKind::Ext4 | FilesystemKind::Virtiofs => false,
        FilesystemKind::Xfs => true,
    }
}

/// True if a write begins or ends inside a block of `range`. Blocks of which it covers all, or that
/// are written already, are not zeroed (fs/ext4/file.c:ext4_dio_needs_zeroing, from 7.3).
fn cuts_block(asked: ByteRange, range: ByteRange, block: u64) -> bool {
    let inside = |at: u64| {
        !at.is_multiple_of(block) && {
            let start = at - at % block;
            range.overlaps(ByteRange {
                start,
                end: start + block,
            })
        }
    };
    inside(asked.start) || inside(asked.end)
}

impl Engine {
    /// Unwritten blocks are about to become written ones, or bytes of a DAX file to be copied, in a
    /// write that goes beside the page cache.
    pub(super) fn written(&mut self, task: &mut Task, span: Span, act: Act, event: &Event) {
        let Some(Scope::Change(change)) = doing(&mut task.scopes) else {
            return;
        };
        let direct = change.operation == Operation::DirectWrite;
        // The data came from elsewhere, and before.
        if change.operation == Operation::LayoutCommit {
            return self.change(task, span, false, event);
        }
        if change.operation == Operation::WrittenBack {
            return self.written_back(task.id, &task.locks, change, span, event);
        }
        if !direct && change.operation != Operation::DaxWrite {
            return;
        }
        // Without direct I/O in flight, pages are being written back: before it, or what it left to
        // the page cache (fs/ext4/file.c:ext4_dio_write_iter).
        let in_flight = event.head.flags & FLAG_DIRECT != 0;
        if direct && !in_flight {
            return;
        }
        let Some(subject) = change.subject(event.inode) else {
            return;
        };
        let (inode, before, request) = (subject.inode, subject.entry_size, change.request);
        let file = self.files.get(inode);
        let Some(filesystem) = file.filesystem else {
            return;
        };
        let range = span.bytes(event.a, event.b, file.meta.block_bits);
        let block = 1 << file.meta.block_bits;
        // Else another writer may have moved the size.
        let alone = file.alone(subject.begun);
        let hold = task.locks.find(inode, LockClass::IRwsem);
        // The direct I/O in flight may be another's, and this pages of its own that are written back.
        if direct && hold.is_none() && subject.rwsem_cycled && !(alone && file.undisturbed()) {
            return;
        }
        let facts = DirectFacts {
            mode: hold.map(|hold| hold.mode),
            zeroes: request.is_some_and(|asked| cuts_block(asked, range, block)),
            extends: alone
                && extends_alone(filesystem)
                && request.is_some_and(|asked| asked.end > before),
            drained: subject.drained || !self.sight.drains,
        };
        let mut broken = Vec::new();
        if direct && let Some((kind, observed)) = rules::direct_write(facts) {
            broken.push((kind, observed, range));
        }
        let published = ByteRange {
            start: range.start.max(before),
            end: range.end.min(event.size),
        };
        if alone && !published.is_empty() {
            broken.push((Kind::SizeOrder, Observed::Published, published));
        }
        for (kind, observed, range) in broken {
            let broken = Broken {
                kind,
                observed,
                class: LockClass::IRwsem,
                act,
            };
            let danger = Danger {
                from: Nanos(event.head.time),
                range,
            };
            self.breach(task.id, &task.locks, change, broken, danger, event);
        }
    }

    /// Unwritten blocks are about to become written ones for pages that were written back: the on-disk size must
    /// not cover them yet, or a crash shows what they held before.
    fn written_back(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        change: &mut ChangeScope,
        span: Span,
        event: &Event,
    ) {
        let Some(subject) = change.subject(event.inode) else {
            return;
        };
        let block_bits = self.files.get(subject.inode).meta.block_bits;
        let range = span.bytes(event.a, event.b, block_bits);
        if self.owe(change.operation, subject.inode, Duty::DiskSizeLast)
            && subject.disk_size.covers(range)
        {
            let what = (Observed::DiskSizeFirst, Act::Convert, range);
            self.size_disorder((task, locks), change, what, event);
        }
    }

    /// A write has returned: if it began beyond EOF, nobody else may have moved EOF meanwhile.
    pub(super) fn tail_zeroed(&mut self, task: &Task, change: &mut ChangeScope, event: &Event) {
        let written = matches!(
            change.operation,
            Operation::DirectWrite | Operation::BufferedWrite | Operation::DaxWrite
        );
        let (true, true, Some(request)) = (written, event.a.cast_signed() > 0, change.request)
        else {
            return;
        };
        let subject = &change.subjects.0;
        let file = self.files.get(subject.inode);
        if subject.was_drained
            || request.start <= subject.entry_size
            || !self.sight.drains
            || !file.filesystem.is_some_and(zeroes_alone)
            || !file.alone(subject.begun)
        {
            return;
        }
        let broken = Broken {
            kind: Kind::DioUndrained,
            observed: Observed::NotDrained,
            class: LockClass::IRwsem,
            act: Act::ZeroTail,
        };
        let danger = Danger {
            from: change.entered,
            range: ByteRange {
                start: subject.entry_size,
                end: request.start,
            },
        };
        self.breach(task.id, &task.locks, change, broken, danger, event);
    }

    /// A write returned: if its data are still on their way, nothing is known of who moves the size.
    pub(super) fn write_returned(&mut self, operation: Operation, event: &Event) {
        if operation == Operation::DirectWrite
            && event.a.cast_signed() == EIOCBQUEUED
            && let Some(inode) = self.files.at(event.inode, Nanos(event.head.time))
        {
            self.files.get_mut(inode).queued();
        }
    }
}
