//! What one filesystem asks for besides: what must fire, and the look-alikes that must not.

mod judge_dsl;

use judge_dsl::*;
use tracer::{
    hooks::{Entry, Install, LockAction, LockClass, Mode},
    judge::{Report, rules::Kind},
    units::Device,
};

const OFFSET: u64 = 64 * KIB;
const LENGTH: u64 = 64 * KIB;
const COLLAPSE: u64 = 0x08;
/// A file of ext4.
const E: u64 = 0xffff_8881_0003_0000;

/// On a file of the page cache.
fn cached(inode: u64, steps: Vec<Step>) -> Vec<String> {
    let device = if inode == E { EXT4 } else { XFS };
    report(&[(inode, device, false)], steps)
}

fn on_dax(inode: u64, steps: Vec<Step>) -> Vec<String> {
    let device = if inode == E { EXT4 } else { XFS };
    report(&[(inode, device, true)], steps)
}

fn report(files: &[(u64, Device, bool)], steps: Vec<Step>) -> Vec<String> {
    found(&judged(files, steps))
}

fn judged(files: &[(u64, Device, bool)], steps: Vec<Step>) -> Report {
    let mut recorder = Recorder::with(header());
    for (number, &(inode, device, dax)) in files.iter().enumerate() {
        recorder
            .judge()
            .inode(&file(inode, 900 + number as u64, device, dax, "f"));
    }
    recorder.run(1, steps);
    recorder.finish()
}

/// A collapse whose teardown begins at `from`, with so many bytes of copies left after it and at the shift.
fn collapse(from: u64, left: &[u64], at_shift: u64) -> Vec<Step> {
    let mut steps = vec![
        enter(Entry::Fallocate, A).a(OFFSET).b(LENGTH).c(COLLAPSE),
        acquire(A, IRwsem, Excl),
        acquire(A, InvalidateLock, Excl),
        scan(A, 0),
        drain(A),
        drop_from(A, from),
    ];
    steps.extend(left.iter().map(|&left| copies(A, left)));
    steps.extend([
        acquire(A, Ilock, Excl),
        shift(A, OFFSET / 4096).c(at_shift).stack(9).cached(),
        release(A, Ilock, Excl),
        release(A, InvalidateLock, Excl),
        release(A, IRwsem, Excl),
        leave(Entry::Fallocate, A),
    ]);
    steps
}

#[test]
fn a_shift_begins_a_block_behind_what_was_torn_down() {
    assert_eq!(cached(A, collapse(OFFSET - 4096, &[], 0)), [""; 0]);
    assert_eq!(
        cached(A, collapse(OFFSET, &[], 0)),
        ["missing-invalidate predicted fallocate/COLLAPSE_RANGE"]
    );
    // A file without pages has nothing there.
    let mut steps = collapse(OFFSET, &[], 0);
    for step in &mut steps {
        step.flags = 0;
    }
    assert_eq!(cached(A, steps), [""; 0]);
}

#[test]
fn copies_that_wait_to_replace_blocks_are_given_up_before_a_shift() {
    let from = OFFSET - 4096;
    assert_eq!(
        cached(A, collapse(from, &[64], 64)),
        ["missing-invalidate predicted fallocate/COLLAPSE_RANGE"]
    );
    // Given up; gone by themselves; come since, of pages that lie before.
    assert_eq!(cached(A, collapse(from, &[64, 0], 64)), [""; 0]);
    assert_eq!(cached(A, collapse(from, &[64], 0)), [""; 0]);
    assert_eq!(cached(A, collapse(from, &[0], 64)), [""; 0]);
}

#[test]
fn copies_are_not_given_up_under_dirty_pages() {
    const UNSHARE: u64 = 0x40;
    const MAX_FILEOFF: u64 = (1 << 54) - 1;
    let unshare = |from: u64, to: u64| {
        let steps = vec![
            enter(Entry::Fallocate, A).a(OFFSET).b(LENGTH).c(UNSHARE),
            acquire(A, IRwsem, Excl),
            acquire(A, InvalidateLock, Excl),
            copies_dropped(A, from, to),
            release(A, InvalidateLock, Excl),
            release(A, IRwsem, Excl),
            leave(Entry::Fallocate, A),
        ];
        cached(A, steps)
    };
    assert_eq!(
        unshare(0, MAX_FILEOFF),
        ["missing-invalidate predicted fallocate/UNSHARE_RANGE"]
    );
    // Of a part of the file, the dirty pages may be others.
    assert_eq!(unshare(0, 512), [""; 0]);
    assert_eq!(unshare(16, MAX_FILEOFF), [""; 0]);
}

#[test]
fn pages_are_read_ahead_under_i_rwsem() {
    const WILLNEED: u64 = 3;
    const DONTNEED: u64 = 4;
    let advise = |mode: Option<Mode>, what| {
        let mut steps = vec![enter(Entry::Advise, A).a(OFFSET).b(LENGTH).c(what)];
        steps.extend(mode.map(|mode| acquire(A, IRwsem, mode)));
        steps.push(advice(A, OFFSET, LENGTH, what));
        steps.extend(mode.map(|mode| release(A, IRwsem, mode)));
        steps.push(leave(Entry::Advise, A));
        steps
    };
    assert_eq!(
        cached(A, advise(None, WILLNEED)),
        ["op-unprotected predicted fadvise"]
    );
    assert_eq!(cached(A, advise(Some(Shared), WILLNEED)), [""; 0]);
    assert_eq!(cached(A, advise(None, DONTNEED)), [""; 0]);
    // It has no pages.
    assert_eq!(on_dax(A, advise(None, WILLNEED)), [""; 0]);
    // Not XFS's.
    assert_eq!(
        cached(E, vec![advice(E, OFFSET, LENGTH, WILLNEED)]),
        [""; 0]
    );
}

#[test]
fn a_page_that_loses_some_of_its_blocks_is_write_protected() {
    const BLOCK: u64 = 1024;
    // The last block of page 4 to the first of page 6.
    let (offset, length) = (5 * 4096 - BLOCK, 4096 + 2 * BLOCK);
    let punched = |block_bits: u32, written: &[u64], protected: &[u64]| {
        let mut recorder = Recorder::with(header());
        let mut small = file(E, 900, EXT4, false, "f");
        small.block_bits = block_bits;
        recorder.judge().inode(&small);
        for &page in written {
            recorder.run(2, fault(E, page, Install::Mkwrite));
        }
        let mut steps = vec![
            enter(Entry::Fallocate, E).a(offset).b(length).c(PUNCH),
            acquire(E, IRwsem, Excl),
            acquire(E, InvalidateLock, Excl),
            scan(E, 0),
            drain(E),
            drop_range(E, offset, length),
        ];
        steps.extend(protected.iter().map(|&page| protect(E, page)));
        steps.extend([
            disk_size(E, offset, length),
            acquire(E, Ilock, Excl),
            change(E, offset, length).stack(9).cached().size(1 << 20),
            release(E, Ilock, Excl),
            release(E, InvalidateLock, Excl),
            release(E, IRwsem, Excl),
            leave(Entry::Fallocate, E),
        ]);
        recorder.run(1, steps);
        found(&recorder.finish())
    };
    let kept = "missing-invalidate predicted fallocate/PUNCH_HOLE";
    assert_eq!(punched(10, &[4], &[]), [kept]);
    assert_eq!(punched(10, &[6], &[]), [kept]);
    assert_eq!(punched(10, &[4, 6], &[6]), [kept]);
    // Write-protected; unmapped as a whole; another page; never written to; pages of one block.
    assert_eq!(punched(10, &[4, 6], &[4, 6]), [""; 0]);
    assert_eq!(punched(10, &[5], &[]), [""; 0]);
    assert_eq!(punched(10, &[3, 7], &[]), [""; 0]);
    assert_eq!(punched(10, &[], &[]), [""; 0]);
    assert_eq!(punched(12, &[4, 6], &[]), [""; 0]);
}

#[test]
fn the_on_disk_size_of_pages_written_back_is_raised_last() {
    let worker = |steps: Vec<Step>| {
        let mut all = vec![enter(Entry::WrittenBack, A)];
        all.extend(steps);
        all.push(leave(Entry::WrittenBack, A));
        cached(A, all)
    };
    let (first, second) = ((0, 8192), (64 * KIB, 4096));
    let size = |(offset, length)| disk_size(A, offset, length);
    let written = |(offset, length)| convert(A, offset, length);
    assert_eq!(worker(vec![written(first), size(first)]), [""; 0]);
    assert_eq!(
        worker(vec![size(first), written(first)]),
        ["size-order predicted writeback-end"]
    );
    // Of another piece of the same file.
    assert_eq!(worker(vec![size(first), written(second)]), [""; 0]);
}

#[test]
fn blocks_are_reserved_where_there_were_none_under_the_same_hold() {
    let page = |steps: Vec<Step>| {
        let mut all = vec![
            enter(Entry::PageMkwrite, E).a(3).c(1),
            acquire(E, InvalidateLock, Shared),
            enter(Entry::Reserve, E).a(3),
            look_up_extent(E),
        ];
        all.extend(steps);
        all.extend([
            leave(Entry::Reserve, E),
            install(E, Install::Mkwrite),
            release(E, InvalidateLock, Shared),
            leave(Entry::PageMkwrite, E).a(LOCKED),
        ]);
        cached(E, all)
    };
    let (lock, unlock) = (acquire(E, Ilock, Excl), release(E, Ilock, Excl));
    assert_eq!(
        page(vec![lock, look_up_extent(E), reserve(E, 3), unlock]),
        [""; 0]
    );
    assert_eq!(
        page(vec![lock, reserve(E, 3), unlock]),
        ["stale-after-relock predicted page_mkwrite"]
    );
    assert_eq!(
        page(vec![
            lock,
            look_up_extent(E),
            unlock,
            lock,
            reserve(E, 3),
            unlock
        ]),
        ["stale-after-relock predicted page_mkwrite"]
    );
    assert_eq!(
        page(vec![
            acquire(E, Ilock, Shared),
            look_up_extent(E),
            reserve(E, 3),
            release(E, Ilock, Shared)
        ]),
        ["wrong-mode predicted page_mkwrite"]
    );
    assert_eq!(
        page(vec![reserve(E, 3)]),
        ["op-unprotected predicted page_mkwrite"]
    );
}

#[test]
fn pages_over_eof_are_dropped_once_the_on_disk_size_is_there() {
    let punch = |first: Vec<Step>, length: u64, dax: bool| {
        let mut steps = fallocate(E, PUNCH, OFFSET, length);
        steps.splice(3..3, first);
        let steps = steps.into_iter().map(|step| step.size(OFFSET + LENGTH));
        report(&[(E, EXT4, dax)], steps.collect())
    };
    assert_eq!(
        punch(vec![], LENGTH, false),
        ["size-order predicted fallocate/PUNCH_HOLE"]
    );
    assert_eq!(
        punch(vec![disk_size(E, OFFSET, LENGTH)], LENGTH, false),
        [""; 0]
    );
    // Short of EOF; on a file whose size is always the on-disk size; on a filesystem that has it covered.
    assert_eq!(punch(vec![], LENGTH - 4096, false), [""; 0]);
    assert_eq!(punch(vec![], LENGTH, true), [""; 0]);
    let steps = fallocate(A, PUNCH, OFFSET, LENGTH);
    let steps = steps.into_iter().map(|step| step.size(OFFSET + LENGTH));
    assert_eq!(cached(A, steps.collect()), [""; 0]);
}

#[test]
fn a_files_journalling_begins_and_ends_with_faults_and_writeback_held_off() {
    let switched = |on, locked: bool, held_off: bool| {
        let writepages = |action| resource(LockClass::Writepages, action);
        let mut steps = vec![enter(Entry::JournalMode, E).c(on), acquire(E, IRwsem, Excl)];
        steps.extend(locked.then(|| acquire(E, InvalidateLock, Excl)));
        steps.extend(held_off.then(|| writepages(LockAction::Acquire(Excl))));
        steps.push(switch(Entry::JournalMode, E));
        steps.extend(held_off.then(|| writepages(LockAction::Release(Excl))));
        steps.extend(locked.then(|| release(E, InvalidateLock, Excl)));
        steps.extend([release(E, IRwsem, Excl), leave(Entry::JournalMode, E)]);
        cached(E, steps)
    };
    for (on, name) in [(1, ""), (0, "/off")] {
        let unprotected = &*format!("op-unprotected predicted EXT4_JOURNAL_DATA_FL{name}");
        assert_eq!(switched(on, true, true), [""; 0]);
        assert_eq!(switched(on, true, false), [unprotected]);
        assert_eq!(switched(on, false, true), [unprotected]);
        assert_eq!(switched(on, false, false), [unprotected, unprotected]);
    }
}

#[test]
fn a_map_takes_another_format_with_writeback_held_off() {
    let replaced = |held_off: bool| {
        let writepages = |action| resource(LockClass::Writepages, action);
        let mut steps = vec![enter(Entry::MapFormat, E)];
        steps.extend(held_off.then(|| writepages(LockAction::Acquire(Excl))));
        steps.push(switch(Entry::MapFormat, E));
        steps.extend(held_off.then(|| writepages(LockAction::Release(Excl))));
        steps.push(leave(Entry::MapFormat, E));
        on_dax(E, steps)
    };
    assert_eq!(
        replaced(false),
        ["op-unprotected predicted EXT4_EXTENTS_FL"]
    );
    assert_eq!(replaced(true), [""; 0]);
}

#[test]
fn what_a_pnfs_client_wrote_is_committed_with_faults_held_off() {
    let committed = |locked: bool| {
        let mut steps = vec![enter(Entry::LayoutCommit, A), acquire(A, IRwsem, Excl)];
        steps.extend(locked.then(|| acquire(A, InvalidateLock, Excl)));
        steps.extend([drop_range(A, 0, LENGTH), convert(A, 0, LENGTH)]);
        steps.extend(locked.then(|| release(A, InvalidateLock, Excl)));
        steps.extend([release(A, IRwsem, Excl), leave(Entry::LayoutCommit, A)]);
        let steps = steps.into_iter().map(|step| step.size(LENGTH)).collect();
        judged(&[(A, XFS, true)], steps)
    };
    let known: Vec<_> = committed(false)
        .annotated
        .iter()
        .map(|known| known.finding.kind)
        .collect();
    assert_eq!(known, [Kind::OpUnprotected]);
    let right = committed(true);
    assert_eq!((right.annotated.len(), right.findings.len()), (0, 0));
}

#[test]
fn data_goes_beyond_eof_once_a_crash_would_give_it_back() {
    let write = |inode: u64, offset: u64, first: Vec<Step>| {
        let mut steps = vec![
            enter(Entry::Write, inode).a(offset).b(8192),
            acquire(inode, IRwsem, Excl),
        ];
        steps.extend(first);
        steps.extend([
            dax_write(inode, offset, 8192),
            release(inode, IRwsem, Excl),
            leave(Entry::Write, inode).a(8192),
        ]);
        let steps = steps.into_iter().map(|step| step.size(OFFSET));
        on_dax(inode, steps.collect())
    };
    assert_eq!(
        write(E, OFFSET - 4096, vec![]),
        ["size-order predicted dax-write"]
    );
    assert_eq!(write(E, OFFSET - 4096, vec![orphan(E)]), [""; 0]);
    assert_eq!(write(E, OFFSET - 8192, vec![]), [""; 0]);
    assert_eq!(write(A, OFFSET - 4096, vec![]), [""; 0]);
}

#[test]
fn a_write_with_o_sync_syncs_once_the_size_covers_it() {
    // The size at the only sync, and so many bytes written of those asked for.
    let write = |syncs: &[u64], count: u64| {
        let mut steps = vec![
            enter(Entry::Write, A).a(OFFSET).b(8192).size(OFFSET),
            acquire(A, IRwsem, Excl),
            dax_write(A, OFFSET, 8192).size(OFFSET),
            disk_size(A, OFFSET, 8192),
        ];
        steps.extend(syncs.iter().map(|&size| sync(A).size(size)));
        steps.extend([
            release(A, IRwsem, Excl),
            leave(Entry::Write, A).a(count).size(OFFSET + count),
        ]);
        on_dax(A, steps)
    };
    let early = "size-order predicted dax-write";
    assert_eq!(write(&[OFFSET], 8192), [early]);
    assert_eq!(write(&[OFFSET + 4096], 8192), [early]);
    assert_eq!(write(&[OFFSET + 8192], 8192), [""; 0]);
    assert_eq!(write(&[OFFSET, OFFSET + 8192], 8192), [""; 0]);
    assert_eq!(write(&[OFFSET + 4096], 4096), [""; 0]);
    assert_eq!(write(&[], 8192), [""; 0]);
}

#[test]
fn an_appending_write_says_nothing_of_where() {
    const APPEND: u64 = 0x10;
    const DSYNC: u64 = 0x02;
    let write = |flags: u64| {
        on_dax(
            A,
            vec![
                enter(Entry::Write, A)
                    .a(OFFSET)
                    .b(8192)
                    .c(flags)
                    .size(OFFSET),
                acquire(A, IRwsem, Excl),
                dax_write(A, OFFSET, 8192).size(OFFSET),
                sync(A).size(OFFSET),
                release(A, IRwsem, Excl),
                leave(Entry::Write, A).a(8192).size(OFFSET + 8192),
            ],
        )
    };
    assert_eq!(write(DSYNC), ["size-order predicted dax-write"]);
    assert_eq!(write(DSYNC | APPEND), [""; 0]);
}

#[test]
fn bytes_go_beside_the_page_cache_under_i_rwsem() {
    const DIRECT: u64 = 0x2_0000;
    let transfer = |entry: Entry, lock: Option<Mode>, dax: bool, flags: u64| {
        let bytes = match dax {
            true => dax_write(A, OFFSET, LENGTH),
            false => direct_transfer(A, OFFSET, LENGTH),
        };
        let mut steps = vec![enter(entry, A).a(OFFSET).b(LENGTH).c(flags)];
        steps.extend(lock.map(|mode| acquire(A, IRwsem, mode)));
        steps.push(bytes);
        steps.extend(lock.map(|mode| release(A, IRwsem, mode)));
        steps.push(leave(entry, A).a(LENGTH));
        report(&[(A, XFS, dax)], steps)
    };
    for (entry, dax, flags, told) in [
        (Entry::Read, true, 0, "op-unprotected predicted dax-read"),
        (
            Entry::Read,
            false,
            DIRECT,
            "op-unprotected predicted direct-read",
        ),
        (
            Entry::Write,
            false,
            DIRECT,
            "op-unprotected predicted direct-write",
        ),
    ] {
        assert_eq!(transfer(entry, None, dax, flags), [told]);
        assert_eq!(transfer(entry, Some(Shared), dax, flags), [""; 0]);
    }
}

#[test]
fn the_map_grows_under_i_rwsem() {
    let grow = |entry: Entry, lock: Option<Mode>, more: &[Step]| {
        let mut steps = vec![enter(entry, A).a(OFFSET).b(LENGTH)];
        steps.extend(lock.map(|mode| acquire(A, IRwsem, mode)));
        steps.extend_from_slice(more);
        steps.extend([acquire(A, Ilock, Excl), map_extent(A)]);
        steps.push(release(A, Ilock, Excl));
        steps.extend(lock.map(|mode| release(A, IRwsem, mode)));
        steps.push(leave(entry, A));
        cached(A, steps)
    };
    let drained = [drain(A)];
    assert_eq!(grow(Entry::Fallocate, Some(Excl), &drained), [""; 0]);
    assert_eq!(
        grow(Entry::Fallocate, Some(Excl), &[]),
        ["dio-undrained predicted fallocate/PREALLOCATE"]
    );
    assert_eq!(
        grow(Entry::Fallocate, None, &drained),
        ["op-unprotected predicted fallocate/PREALLOCATE"]
    );
    assert_eq!(grow(Entry::Write, Some(Excl), &[]), [""; 0]);
    assert_eq!(
        grow(Entry::Write, Some(Shared), &[]),
        ["wrong-mode predicted write"]
    );
    // O_SYNC writes back what was written, its lock gone.
    let flush = [acquire(A, IRwsem, Excl), release(A, IRwsem, Excl)];
    assert_eq!(grow(Entry::Write, None, &flush), [""; 0]);
}

#[test]
fn ext4_waits_for_direct_io_before_it_dirties_pages() {
    let write = |first: &[Step]| {
        let mut steps = vec![
            enter(Entry::Write, E).a(3 * 4096).b(4096),
            acquire(E, IRwsem, Excl),
        ];
        steps.extend_from_slice(first);
        steps.extend([
            enter(Entry::Reserve, E),
            acquire(E, Ilock, Excl),
            look_up_extent(E),
            reserve(E, 3),
            release(E, Ilock, Excl),
            leave(Entry::Reserve, E),
            release(E, IRwsem, Excl),
            leave(Entry::Write, E).a(4096),
        ]);
        cached(E, steps)
    };
    assert_eq!(write(&[]), ["dio-undrained predicted write"]);
    assert_eq!(write(&[drain(E)]), [""; 0]);
}

#[test]
fn a_mapping_that_the_map_has_outgrown() {
    let write = |steps: Vec<Step>| {
        let mut all = vec![
            enter(Entry::Write, A).a(OFFSET).b(LENGTH),
            acquire(A, IRwsem, Excl),
        ];
        all.extend(steps);
        all.extend([release(A, IRwsem, Excl), leave(Entry::Write, A).a(LENGTH)]);
        cached(A, all)
    };
    assert_eq!(
        write(vec![validate(A, 7, 8), validated(A, 7)]),
        ["stale-after-relock observed write"]
    );
    // It is what it was; it is taken again; it names no blocks; of a copy, whose number has another half.
    assert_eq!(write(vec![validate(A, 7, 7), validated(A, 7)]), [""; 0]);
    assert_eq!(
        write(vec![validate(A, 7, 8), validate(A, 8, 8), validated(A, 8)]),
        [""; 0]
    );
    assert_eq!(write(vec![validate(A, 7, 8), validated(A, 8)]), [""; 0]);
    assert_eq!(
        write(vec![validate(A, 7, 8), validated(A, 7).b(0)]),
        [""; 0]
    );
    assert_eq!(
        write(vec![validate(A, 3 << 32 | 7, 7), validated(A, 3 << 32 | 7)]),
        [""; 0]
    );
}

#[test]
fn entries_of_a_window_are_dropped_with_faults_locked_out_and_pins_looked_for() {
    /// A file of virtiofs.
    const V: u64 = 0xffff_8881_0004_0000;
    let locked = |steps: &[Step]| {
        let mut all = vec![acquire(V, InvalidateLock, Excl)];
        all.extend(steps);
        all.push(release(V, InvalidateLock, Excl));
        all
    };
    let within = |begin: Step, end: Step, dax: bool, steps: Vec<Step>| {
        let mut all = vec![begin];
        all.extend(steps);
        all.push(end);
        let judged = judged(&[(V, VIRTIOFS, dax)], all);
        let known = judged.annotated.iter().map(|known| &known.finding);
        let all = known.chain(&judged.findings);
        all.map(|found| format!("{} {}", found.kind.name(), found.operation.name()))
            .collect::<Vec<_>>()
    };
    let open = |dax, steps| {
        let [begin, end] = [enter(Entry::Open, V), leave(Entry::Open, V)];
        within(begin, end, dax, steps)
    };
    let dropped = drop_from(V, 0).cached();
    assert_eq!(open(true, vec![dropped]), ["op-unprotected open"]);
    assert_eq!(open(true, locked(&[dropped])), ["layout-unbroken open"]);
    assert_eq!(
        open(true, locked(&[scan(V, 7), dropped])),
        ["layout-unbroken open"]
    );
    assert_eq!(open(true, locked(&[scan(V, 0), dropped])), [""; 0]);
    // Let go of after the look, or taken again.
    let mut cycled = locked(&[scan(V, 0)]);
    cycled.extend([dropped, dropped]);
    assert_eq!(open(true, cycled.clone()), ["scope-gap open"]);
    cycled.truncate(3);
    cycled.extend(locked(&[dropped]));
    assert_eq!(open(true, cycled), ["stale-after-relock open"]);
    // There was none, or what goes are pages of the page cache.
    assert_eq!(open(true, vec![drop_from(V, 0)]), [""; 0]);
    assert_eq!(open(false, vec![dropped]), [""; 0]);
    // What a stat(2) finds is no part of anything; what a change of size finds is one of that.
    let [begin, end] = [Entry::Attributes, Entry::Attributes];
    let asked = vec![enter(begin, V), dropped, leave(end, V)];
    assert_eq!(
        within(enter(begin, V), leave(end, V), true, asked.clone()),
        ["op-unprotected attributes"]
    );
    let resized = |steps| {
        let [begin, end] = [enter(Entry::SetSize, V), leave(Entry::SetSize, V)];
        within(begin.a(SIZE), end, true, steps)
    };
    let mut right = vec![scan(V, 0)];
    right.extend(asked.clone());
    assert_eq!(resized(locked(&right)), [""; 0]);
    assert_eq!(resized(asked), ["op-unprotected setattr/truncate"]);
}
