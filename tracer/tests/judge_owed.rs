//! What operations owe besides the exclusion lock: what must fire, and the look-alikes that must not.

mod judge_dsl;

use judge_dsl::*;
use tracer::{
    hooks::{Effect, Entry, Install, LockAction, Mode},
    judge::Report,
    trace::meta::{CorruptionMark, Mark, OperationMark},
    units::{Ino, Nanos, Tid},
};
use tracer_ebpf::event::FLAG_CACHED;

const OFFSET: u64 = 64 * KIB;
const LENGTH: u64 = 64 * KIB;
/// A page frame of the medium, as `pfn_t` with PFN_DEV.
const FRAME: u64 = 1 << 61 | 0x4_0000;

fn punch() -> Vec<Step> {
    fallocate(A, PUNCH, OFFSET, LENGTH)
}

fn no_drop(steps: Vec<Step>) -> Vec<Step> {
    without(steps, |step| matches!(step.effect, Effect::Invalidate(..)))
}

fn no_scan(steps: Vec<Step>) -> Vec<Step> {
    without(steps, |step| matches!(step.effect, Effect::LayoutScan(_)))
}

fn at(steps: &[Step], wanted: impl Fn(&Step) -> bool) -> usize {
    steps.iter().position(wanted).unwrap()
}

fn is_change(step: &Step) -> bool {
    matches!(step.effect, Effect::ChangeExtents(_))
}

/// On a file of the page cache.
fn judged_cached(steps: Vec<Step>) -> Vec<String> {
    let mut recorder = Recorder::with(header());
    recorder.judge().inode(&file(A, 131, XFS, false, "a"));
    recorder.run(1, steps);
    found(&recorder.finish())
}

#[test]
fn no_copies_wait_in_the_second_of_two_files_that_are_swapped() {
    let swapped = |first: u64, second: u64| {
        let mut recorder = Recorder::with(header());
        for inode in [A, B] {
            recorder.judge().inode(&file(inode, inode, XFS, false, "f"));
        }
        let steps = swap().into_iter().map(|step| match step.effect {
            Effect::ChangeExtents(_) if step.inode == A => step.a(0).c(first),
            Effect::ChangeExtents(_) => step.a(1).c(second),
            _ => step,
        });
        recorder.run(1, steps.collect::<Vec<_>>());
        found(&recorder.finish())
    };
    assert_eq!(
        swapped(0, 48),
        ["missing-invalidate predicted XFS_IOC_SWAPEXT"]
    );
    assert_eq!(swapped(48, 0), [""; 0]);
}

#[test]
fn a_truncate_that_lets_go_of_the_lock_after_its_teardown() {
    let cycled = |torn_again: bool| {
        let mut steps = truncate(A, SIZE, SIZE / 2);
        // Behind the teardown.
        let mut more = vec![
            release(A, InvalidateLock, Excl),
            acquire(A, InvalidateLock, Excl),
        ];
        more.extend(torn_again.then(|| drop_from(A, SIZE / 2).size(SIZE / 2)));
        steps.splice(4..4, more);
        judged_cached(steps)
    };
    assert_eq!(
        cycled(false),
        ["stale-after-relock predicted setattr/truncate"]
    );
    assert_eq!(cycled(true), [""; 0]);
}

#[test]
fn changes_that_are_one_step_come_under_one_hold_of_the_maps_lock() {
    const INSERT: u64 = 0x20;
    let before_change = |mode: u64, more: Vec<Step>| {
        let mut steps = fallocate(A, mode, OFFSET, LENGTH);
        let change = at(&steps, is_change);
        steps.splice(change..change, more);
        judged(steps)
    };
    let split = || vec![map_extent(A)];
    let cycled = || vec![release(A, Ilock, Excl), acquire(A, Ilock, Excl)];
    assert_eq!(before_change(INSERT, split()), [""; 0]);
    assert_eq!(
        before_change(INSERT, [split(), cycled()].concat()),
        ["stale-after-relock predicted fallocate/INSERT_RANGE"]
    );
    // A punch goes in steps. What writeback maps, it maps before the invalidation that follows it.
    assert_eq!(before_change(PUNCH, [split(), cycled()].concat()), [""; 0]);
    let written = [
        split(),
        cycled(),
        split(),
        cycled(),
        vec![drop_from(A, 0), scan(A, 0)],
        split(),
    ];
    assert_eq!(before_change(INSERT, written.concat()), [""; 0]);
    // Blocks beyond EOF are given back in a step of their own.
    let given_back = [split(), cycled(), vec![change(A, SIZE, 4096).size(SIZE)]];
    let given_back = [given_back.concat(), vec![drop_from(A, 0), scan(A, 0)]].concat();
    assert_eq!(before_change(INSERT, given_back), [""; 0]);
}

#[test]
fn shifts_come_under_one_hold_of_the_maps_lock() {
    const COLLAPSE: u64 = 0x08;
    let shifted = |between: Vec<Step>| {
        let mut steps = fallocate(A, COLLAPSE, OFFSET, LENGTH);
        let at = at(&steps, is_change);
        let mut shifts = vec![shift(A, 16)];
        shifts.extend(between);
        shifts.push(shift(A, 16));
        steps.splice(at..=at, shifts);
        judged(steps)
    };
    let cycled = || vec![release(A, Ilock, Excl), acquire(A, Ilock, Excl)];
    assert_eq!(shifted(vec![]), [""; 0]);
    assert_eq!(
        shifted(cycled()),
        ["stale-after-relock predicted fallocate/COLLAPSE_RANGE"]
    );
}

#[test]
fn what_is_due_under_the_exclusion_lock_in_any_operation() {
    let held = |mode: Option<Mode>, (entry, act): (Entry, Step)| {
        let mut steps = vec![enter(entry, A).c(1), acquire(A, IRwsem, Excl)];
        steps.extend(mode.map(|mode| acquire(A, InvalidateLock, mode)));
        steps.push(act);
        steps.extend(mode.map(|mode| release(A, InvalidateLock, mode)));
        steps.extend([release(A, IRwsem, Excl), leave(entry, A)]);
        judged_cached(steps)
    };
    let short = (Entry::Write, take_back(A, OFFSET, OFFSET + 4096));
    assert_eq!(held(Some(Excl), short), [""; 0]);
    assert_eq!(held(Some(Shared), short), ["wrong-mode predicted write"]);
    assert_eq!(held(None, short), ["op-unprotected predicted write"]);
}

#[test]
fn copies_are_collected_with_writes_and_faults_held_off() {
    // Its caller releases what it took.
    let collected = |mode: Option<Mode>, dirty: bool| {
        let mut steps = vec![enter(Entry::TrimCopies, A)];
        steps.extend(mode.map(|mode| acquire(A, InvalidateLock, mode)));
        steps.push(switch(Entry::TrimCopies, A));
        steps.extend(dirty.then(|| copies_dropped(A, 0, 1 << 54)));
        steps.push(leave(Entry::TrimCopies, A));
        judged_cached(steps)
    };
    let unprotected = "op-unprotected predicted blockgc/COW_BLOCKS";
    assert_eq!(collected(Some(Excl), false), [""; 0]);
    assert_eq!(collected(None, false), [unprotected]);
    assert_eq!(
        collected(Some(Shared), false),
        ["wrong-mode predicted blockgc/COW_BLOCKS"]
    );
    assert_eq!(
        collected(Some(Excl), true),
        ["missing-invalidate predicted blockgc/COW_BLOCKS"]
    );
    // Where a write finds no space, it is seen that they are.
    let full = vec![
        enter(Entry::Write, A).a(0).b(4096),
        enter(Entry::TrimCopies, B),
        acquire(B, InvalidateLock, Excl),
        switch(Entry::TrimCopies, B),
        leave(Entry::TrimCopies, B),
        release(B, InvalidateLock, Excl),
        leave(Entry::Write, A),
    ];
    assert_eq!(judged_cached(full), [""; 0]);
}

#[test]
fn extents_that_change_under_cached_pages() {
    assert_eq!(
        judged_cached(no_drop(punch())),
        ["missing-invalidate predicted fallocate/PUNCH_HOLE"]
    );
    // Breaking layouts unmaps a DAX file, but leaves its entries.
    assert_eq!(
        judged(no_drop(punch())),
        ["missing-invalidate predicted fallocate/PUNCH_HOLE"]
    );
}

#[test]
fn a_file_without_pages_has_nothing_to_tear_down() {
    let mut steps = no_drop(punch());
    for step in &mut steps {
        step.flags &= !FLAG_CACHED;
    }
    assert_eq!(judged_cached(steps), [""; 0]);
}

#[test]
fn a_teardown_that_is_too_small() {
    let mut steps = punch();
    let at = at(&steps, |step| matches!(step.effect, Effect::Invalidate(..)));
    steps[at].b = 4096;
    assert_eq!(
        judged(steps.clone()),
        ["missing-invalidate predicted fallocate/PUNCH_HOLE"]
    );
    // The rest comes in a second piece.
    steps.insert(at, drop_range(A, OFFSET + 4096, LENGTH - 4096));
    assert_eq!(judged(steps), [""; 0]);
}

#[test]
fn a_teardown_after_the_change() {
    let mut steps = punch();
    let drop = steps.remove(4);
    let after = at(&steps, is_change) + 1;
    steps.insert(after, drop);
    assert_eq!(
        judged(steps),
        ["unmap-order predicted fallocate/PUNCH_HOLE"]
    );
}

#[test]
fn entries_dropped_but_translations_kept() {
    let mut steps = no_scan(punch());
    let at = at(&steps, |step| matches!(step.effect, Effect::Invalidate(..)));
    steps[at] = drop_entries(A, OFFSET, LENGTH);
    assert_eq!(
        judged(steps.clone()),
        [
            "layout-unbroken predicted fallocate/PUNCH_HOLE",
            "missing-invalidate predicted fallocate/PUNCH_HOLE"
        ]
    );
    // A page-cache folio is unmapped when it is dropped.
    assert_eq!(judged_cached(steps.clone()), [""; 0]);
    // Two calls do what one does.
    steps.splice(at..at, [scan(A, 0), unmap(A, OFFSET, LENGTH)]);
    assert_eq!(judged(steps), [""; 0]);
}

/// Wrong data that a workload reads at the end.
fn wrong_data(offset: u64) -> Mark {
    Mark::Corruption(CorruptionMark {
        at: Nanos(100_000_000),
        tid: Tid(3),
        device: XFS,
        ino: Ino(131),
        path: "/mnt/xfs/a".to_owned(),
        offset,
        length: 4 * KIB,
        wrong: "stale data".to_owned(),
        story: "block 16 of a, generation 1, where generation 2 must be".to_owned(),
        origin: None,
        known: None,
    })
}

/// Reports findings of what a task does before a workload reads wrong data.
fn judged_before(marks: &[Mark], steps: impl IntoIterator<Item = Step>) -> Report {
    let mut recorder = Recorder::new();
    for mark in marks {
        recorder.judge().mark(mark);
    }
    recorder.run(2, fault(B, 3, Install::PteRead));
    recorder.run(1, steps);
    recorder.finish()
}

#[test]
fn wrong_data_proves_the_rule_that_its_window_broke() {
    let report = judged_before(&[wrong_data(OFFSET)], no_drop(punch()));
    assert_eq!(
        found(&report),
        [
            "missing-invalidate proven fallocate/PUNCH_HOLE",
            "corruption proven fallocate/PUNCH_HOLE"
        ]
    );
    let sentence = &report.findings[0].sentence;
    assert!(
        sentence.contains("Wrong data followed: stale data at 64 KiB..68 KiB of inode 131"),
        "{sentence}"
    );
    // The lock protects what the change depends on as much as what it leaves behind.
    let unlocked = without(punch(), |step| is_lock(step, A, IRwsem));
    assert_eq!(
        found(&judged_before(&[wrong_data(OFFSET)], unlocked))[0],
        "op-unprotected proven fallocate/PUNCH_HOLE"
    );
}

#[test]
fn wrong_data_elsewhere_or_after_another_operation_proves_nothing() {
    let predicted = "missing-invalidate predicted fallocate/PUNCH_HOLE";
    let elsewhere = [wrong_data(OFFSET + LENGTH)];
    assert_eq!(
        found(&judged_before(&elsewhere, no_drop(punch())))[0],
        predicted
    );

    // A punch that did everything right was the last to change the block.
    let again = no_drop(punch()).into_iter().chain(punch());
    let report = judged_before(&[wrong_data(OFFSET)], again);
    assert_eq!(found(&report)[0], predicted);

    // The workload wrote the block after the punch.
    let write = Mark::Operation(OperationMark {
        from: Nanos(50_000_000),
        to: Nanos(50_010_000),
        tid: Tid(3),
        device: XFS,
        ino: Ino(131),
        operation: "write".to_owned(),
        offset: OFFSET,
        length: 4 * KIB,
        errno: 0,
    });
    let report = judged_before(&[wrong_data(OFFSET), write], no_drop(punch()));
    assert_eq!(found(&report), [predicted, "corruption proven dax-write"]);
}

#[test]
fn a_live_translation_makes_a_missing_teardown_observed() {
    let mut recorder = Recorder::new();
    let steps = no_drop(no_scan(punch()));
    let mut mapped = fault(A, 17, Install::PteWrite);
    mapped[2].a = FRAME;
    recorder.run(2, mapped);
    recorder.run(1, steps);
    assert_eq!(
        found(&recorder.finish()),
        [
            "layout-unbroken predicted fallocate/PUNCH_HOLE",
            "missing-invalidate observed fallocate/PUNCH_HOLE"
        ]
    );
}

#[test]
fn a_truncate_that_leaves_pages_beyond_its_new_size() {
    let steps = no_drop(truncate(A, SIZE, OFFSET));
    assert_eq!(
        judged(steps),
        ["missing-invalidate predicted setattr/truncate"]
    );
}

#[test]
fn a_truncate_that_takes_the_lock_once_the_size_has_fallen() {
    let mut steps = without(truncate(A, SIZE, OFFSET), |step| {
        step.effect == Effect::Lock(LockAction::Acquire(Excl)) && is_lock(step, A, InvalidateLock)
    });
    let at = at(&steps, |step| is_lock(step, A, Ilock));
    steps.insert(at, acquire(A, InvalidateLock, Excl).size(OFFSET));
    assert_eq!(judged(steps), ["scope-gap predicted setattr/truncate"]);
    let never = without(truncate(A, SIZE, OFFSET), |step| {
        is_lock(step, A, InvalidateLock)
    });
    assert_eq!(judged(never), ["op-unprotected predicted setattr/truncate"]);
}

#[test]
fn a_dax_file_changed_without_a_look_for_pins() {
    assert_eq!(
        judged(no_scan(punch())),
        ["layout-unbroken predicted fallocate/PUNCH_HOLE"]
    );
    assert_eq!(
        judged(no_scan(truncate(A, SIZE, OFFSET))),
        ["layout-unbroken predicted setattr/truncate"]
    );
    assert_eq!(judged_cached(no_scan(punch())), [""; 0]);
    // Nothing lies beyond EOF that could be pinned.
    assert_eq!(judged(no_scan(fallocate(A, PUNCH, SIZE, LENGTH))), [""; 0]);
    assert_eq!(judged(no_scan(truncate(A, SIZE, 2 * SIZE))), [""; 0]);
}

#[test]
fn a_look_that_found_a_pin_is_no_clearance() {
    let mut steps = punch();
    steps[3].c = 0xffff_ea00_0000_0040;
    assert_eq!(
        judged(steps.clone()),
        ["layout-unbroken observed fallocate/PUNCH_HOLE"]
    );
    // Waiting and looking again is.
    steps.splice(
        4..4,
        [
            release(A, InvalidateLock, Excl),
            acquire(A, InvalidateLock, Excl),
            scan(A, 0),
        ],
    );
    assert_eq!(judged(steps), [""; 0]);
}

#[test]
fn a_look_under_another_hold_is_no_clearance() {
    let mut steps = punch();
    steps.splice(
        4..4,
        [
            release(A, InvalidateLock, Excl),
            acquire(A, InvalidateLock, Excl),
        ],
    );
    assert_eq!(
        judged(steps.clone()),
        ["layout-unbroken predicted fallocate/PUNCH_HOLE"]
    );
    assert_eq!(judged_cached(steps), [""; 0]);
}

#[test]
fn extents_changed_with_direct_io_in_flight() {
    let undrained = |steps: Vec<Step>| without(steps, |step| step.effect == Effect::DrainDirect);
    assert_eq!(
        judged_cached(undrained(punch())),
        ["dio-undrained predicted fallocate/PUNCH_HOLE"]
    );
    let mut steps = undrained(punch());
    let at = at(&steps, is_change);
    steps[at] = steps[at].direct();
    assert_eq!(
        judged_cached(steps),
        ["dio-undrained observed fallocate/PUNCH_HOLE"]
    );
    assert_eq!(
        judged_cached(undrained(fallocate(A, 0, OFFSET, LENGTH))),
        [""; 0]
    );
}

#[test]
fn waiting_for_direct_io_before_i_rwsem_is_no_wait() {
    let mut steps = without(punch(), |step| step.effect == Effect::DrainDirect);
    steps.insert(1, drain(A));
    assert_eq!(
        judged_cached(steps),
        ["dio-undrained predicted fallocate/PUNCH_HOLE"]
    );
}

#[test]
fn extents_changed_without_the_lock_of_their_map() {
    assert_eq!(
        judged(without(punch(), |step| is_lock(step, A, Ilock))),
        ["op-unprotected predicted fallocate/PUNCH_HOLE"]
    );
}

#[test]
fn an_operation_without_i_rwsem() {
    let mut recorder = Recorder::new();
    recorder.run(2, fault(B, 3, Install::PteRead));
    recorder.run(1, without(punch(), |step| is_lock(step, A, IRwsem)));
    let report = recorder.finish();
    assert_eq!(
        found(&report),
        ["op-unprotected predicted fallocate/PUNCH_HOLE"]
    );
    assert_eq!(report.findings[0].expected.class, "i_rwsem");
    // A truncate has it from its caller.
    assert_eq!(judged(truncate(A, SIZE, OFFSET)), [""; 0]);
}

/// A write(2) to a DAX file whose blocks are shared: invalidation, then remapping, under i_rwsem.
fn copy_on_write() -> Vec<Step> {
    vec![
        enter(Entry::Write, A).a(OFFSET).b(LENGTH),
        acquire(A, IRwsem, Excl),
        dax_write(A, OFFSET, LENGTH),
        drop_range(A, OFFSET, LENGTH),
        acquire(A, Ilock, Excl),
        change(A, OFFSET, LENGTH).stack(9).cached(),
        release(A, Ilock, Excl),
        release(A, IRwsem, Excl),
        leave(Entry::Write, A),
    ]
}

#[test]
fn a_dax_write_that_remaps_shared_blocks() {
    assert_eq!(
        judged(copy_on_write()),
        ["op-unprotected predicted dax-write"]
    );
    // Through the page cache, pages stay what faults map.
    assert_eq!(judged_cached(copy_on_write()), [""; 0]);
    let plain = without(copy_on_write(), is_change);
    assert_eq!(judged(plain), [""; 0]);
}

#[test]
fn what_a_kernel_is_known_for_is_told_apart() {
    let mut recorder = Recorder::new();
    recorder.run(2, fault(B, 3, Install::PteRead));
    recorder.run(1, copy_on_write());
    let report = recorder.finish();
    assert_eq!((report.findings.len(), report.annotated.len()), (0, 1));
    assert_ne!(report.verdict.name(), "findings");
}

#[test]
fn a_dax_write_under_a_shared_lock() {
    let mut steps = without(copy_on_write(), is_change);
    steps[1] = acquire(A, IRwsem, Shared);
    let last = steps.len() - 2;
    steps[last] = release(A, IRwsem, Shared);
    assert_eq!(judged(steps), ["wrong-mode predicted dax-write"]);
}

/// The fault installs at a place in the write, and its translation stays.
fn fault_during_write(place: usize, frame: u64) -> Vec<String> {
    let mut recorder = Recorder::new();
    let steps = copy_on_write();
    let mut read = fault(A, 17, Install::PteRead);
    read[2].a = frame;
    recorder.run(1, steps[..place].to_vec());
    recorder.run(2, read);
    recorder.run(1, steps[place..].to_vec());
    found(&recorder.finish())
}

#[test]
fn a_translation_that_outlives_its_window_is_proof() {
    let proof = ["op-unprotected proven dax-write"];
    assert_eq!(fault_during_write(5, FRAME), proof);
    // The teardown may still have removed it.
    let observed = ["op-unprotected observed dax-write"];
    assert_eq!(fault_during_write(4, FRAME), observed);
    // It may have looked up the new block.
    assert_eq!(fault_during_write(6, FRAME), observed);
    // A hole's zero page is no block.
    assert_eq!(fault_during_write(5, 0x1234), observed);
}

#[test]
fn one_frame_in_two_files() {
    let mapped = |inode, page, how| {
        let mut steps = fault(inode, page, how);
        steps[2].a = FRAME;
        steps
    };
    let judged = |between: Vec<Step>, how| {
        let mut recorder = Recorder::new();
        recorder.run(2, mapped(A, 17, Install::PteWrite));
        recorder.run(1, between);
        recorder.run(2, mapped(B, 3, how));
        found(&recorder.finish())
    };
    assert_eq!(
        judged(vec![], Install::PteRead),
        ["stale-translation proven dax-write-fault"]
    );
    assert_eq!(judged(punch(), Install::PteWrite), [""; 0]);
    assert_eq!(judged(vec![evict(A)], Install::PteWrite), [""; 0]);
    assert_eq!(judged(vec![withdraw(A)], Install::PteWrite), [""; 0]);
    // Shared blocks are mapped by both, for reading.
    let mut recorder = Recorder::new();
    recorder.run(2, mapped(A, 17, Install::PteRead));
    recorder.run(2, mapped(B, 3, Install::PteRead));
    assert_eq!(found(&recorder.finish()), [""; 0]);
}

/// A store to a hole of a DAX file.
fn fault_on_hole() -> Vec<Step> {
    let steps = fault(A, 17, Install::PteWrite);
    let mut filled = steps[..2].to_vec();
    filled.extend([
        acquire(A, Ilock, Excl),
        zero(A),
        map_extent(A),
        release(A, Ilock, Excl),
        allocate(A, 17 * 4096, 4096),
    ]);
    filled.extend(steps[2..].to_vec());
    filled
}

#[test]
fn a_block_that_nobody_zeroed() {
    assert_eq!(judged(fault_on_hole()), [""; 0]);
    let stale = |steps| without(steps, |step| step.effect == Effect::Zero);
    assert_eq!(
        judged(stale(fault_on_hole())),
        ["stale-data observed dax-write-fault"]
    );
    // Another task had filled the hole meanwhile.
    let raced = without(stale(fault_on_hole()), |step| {
        step.effect == Effect::MapExtent
    });
    assert_eq!(judged(raced), [""; 0]);
    // The page cache holds zeroes of its own.
    assert_eq!(judged_cached(stale(fault_on_hole())), [""; 0]);
}

#[test]
fn the_extent_map_changes_under_its_own_lock() {
    let in_mode = |mode: Option<Mode>, steps: Vec<Step>| {
        steps
            .into_iter()
            .filter_map(|step| match (is_lock(&step, A, Ilock), mode, step.effect) {
                (false, ..) => Some(step),
                (true, Some(mode), Effect::Lock(LockAction::Acquire(_))) => {
                    Some(acquire(A, Ilock, mode))
                }
                (true, Some(mode), _) => Some(release(A, Ilock, mode)),
                (true, None, _) => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        judged(in_mode(Some(Shared), fault_on_hole())),
        ["wrong-mode predicted dax-write-fault"]
    );
    assert_eq!(
        judged(in_mode(None, fault_on_hole())),
        ["op-unprotected predicted dax-write-fault"]
    );
    // The page cache is mapped under it too, and a write takes it as well.
    assert_eq!(
        judged_cached(in_mode(Some(Shared), fault_on_hole())),
        ["wrong-mode predicted write-fault"]
    );
    let write = |lock: Mode| {
        vec![
            enter(Entry::Write, A).a(0).b(4096),
            acquire(A, IRwsem, Excl),
            acquire(A, Ilock, lock),
            map_extent(A),
            release(A, Ilock, lock),
            release(A, IRwsem, Excl),
            leave(Entry::Write, A),
        ]
    };
    assert_eq!(judged(write(Excl)), [""; 0]);
    assert_eq!(judged(write(Shared)), ["wrong-mode predicted dax-write"]);
    // Of a file that the operation is not about nothing is known.
    let mut steps = write(Shared);
    steps[3] = map_extent(B);
    assert_eq!(judged(steps), [""; 0]);
}

#[test]
fn zeroes_of_the_last_allocation_are_not_those_of_the_next() {
    let mut steps = fault_on_hole();
    steps.splice(
        7..7,
        [
            acquire(A, Ilock, Excl),
            map_extent(A),
            release(A, Ilock, Excl),
            allocate(A, 18 * 4096, 4096),
        ],
    );
    assert_eq!(judged(steps), ["stale-data observed dax-write-fault"]);
}

/// A direct write that copies shared blocks: the extent lock is cycled to allocate, and others run in
/// between. Pages 16 to 31 in blocks of 4 KiB.
fn direct_copy_on_write(others: Vec<Step>, again: Vec<Step>) -> Vec<String> {
    const IOCB_DIRECT: u64 = 1 << 17;
    let mut recorder = Recorder::with(header());
    recorder.judge().inode(&file(A, 131, XFS, false, "a"));
    recorder.run(
        1,
        [
            enter(Entry::Write, A).a(OFFSET).b(LENGTH).c(IOCB_DIRECT),
            acquire(A, IRwsem, Shared),
            acquire(A, Ilock, Excl),
            enter(Entry::CopyOnWrite, A).a(16).b(16),
            release(A, Ilock, Excl),
        ],
    );
    recorder.run(2, others);
    recorder.run(1, [acquire(A, Ilock, Excl)]);
    recorder.run(1, again);
    recorder.run(
        1,
        [
            leave(Entry::CopyOnWrite, A),
            release(A, Ilock, Excl),
            release(A, IRwsem, Shared),
            leave(Entry::Write, A),
        ],
    );
    found(&recorder.finish())
}

/// Another direct write, whose copy replaces blocks of the file.
fn remap(offset: u64, length: u64) -> Vec<Step> {
    const IOCB_DIRECT: u64 = 1 << 17;
    vec![
        enter(Entry::Write, A).a(offset).b(length).c(IOCB_DIRECT),
        acquire(A, IRwsem, Shared),
        acquire(A, Ilock, Excl),
        change(A, offset, length).stack(9),
        release(A, Ilock, Excl),
        release(A, IRwsem, Shared),
        leave(Entry::Write, A),
    ]
}

#[test]
fn a_mapping_used_after_another_task_changed_it() {
    assert_eq!(
        direct_copy_on_write(remap(OFFSET, 4096), vec![]),
        ["stale-after-relock observed direct-write"]
    );
    assert_eq!(
        direct_copy_on_write(remap(OFFSET, 4096), vec![look_up(A)]),
        [""; 0]
    );
    // Elsewhere, or not at all.
    assert_eq!(
        direct_copy_on_write(remap(OFFSET + LENGTH, 4096), vec![]),
        [""; 0]
    );
    assert_eq!(direct_copy_on_write(vec![], vec![]), [""; 0]);
}

/// An exchange of A's and B's extents without a look for pins, of which B uses DAX or not.
fn exchanged(dax: bool) -> Report {
    let mut recorder = Recorder::with(header());
    recorder.judge().inode(&file(A, 131, XFS, true, "a"));
    recorder.judge().inode(&file(B, 132, XFS, dax, "b"));
    recorder.run(2, fault(A, 3, Install::PteRead));
    let steps = no_scan(swap()).into_iter().map(|mut step| {
        step.effect = match step.effect {
            Effect::Enter(Entry::SwapExtents) => Effect::Enter(Entry::ExchangeRange),
            Effect::Leave(Entry::SwapExtents) => Effect::Leave(Entry::ExchangeRange),
            other => other,
        };
        step
    });
    recorder.run(1, steps);
    recorder.finish()
}

#[test]
fn an_exchange_with_one_dax_file_is_known_and_with_two_is_not() {
    let mixed = exchanged(false);
    assert_eq!(mixed.findings.len(), 0, "{:?}", found(&mixed));
    assert_eq!(
        found(&mixed),
        ["layout-unbroken predicted XFS_IOC_EXCHANGE_RANGE"]
    );
    assert!(mixed.annotated[0].argument.contains("xfs_ilock2_io_mmap"));
    let both = exchanged(true);
    assert_eq!(both.annotated.len(), 0);
    assert_eq!(both.findings[0].kind.name(), "layout-unbroken");
}

/// `write(2)` of one page into a hole, as fs/dax.c:dax_iomap_iter does it.
fn fill_hole(page: u64) -> Vec<Step> {
    fill_hole_of(page, FLAG_CACHED)
}

/// The same; the flags at the allocation say whether the file has entries.
fn fill_hole_of(page: u64, flags: u8) -> Vec<Step> {
    let offset = page * 4096;
    vec![
        enter(Entry::Write, A).a(offset).b(4096),
        acquire(A, IRwsem, Excl),
        dax_write(A, offset, 4096),
        acquire(A, Ilock, Excl),
        zero(A),
        map_extent(A),
        release(A, Ilock, Excl),
        allocate(A, offset, 4096).flags(flags),
        drop_range(A, offset, 4096),
        release(A, IRwsem, Excl),
        leave(Entry::Write, A).a(4096),
    ]
}

/// A load from a hole: the zero page, without PFN_DEV.
fn load_hole(page: u64) -> Vec<Step> {
    let mut steps = fault(A, page, Install::PteRead);
    steps[2] = steps[2].a(0x1234);
    steps
}

fn after_load_of_a_hole(steps: Vec<Step>) -> Vec<String> {
    let mut recorder = Recorder::new();
    recorder.run(2, load_hole(5)).run(1, steps);
    found(&recorder.finish())
}

#[test]
fn a_hole_filled_under_its_zero_page() {
    // Nobody mapped the page, but entries were there to be torn down.
    assert_eq!(
        judged(no_drop(fill_hole(5))),
        ["missing-invalidate predicted dax-write"]
    );
    assert_eq!(
        after_load_of_a_hole(no_drop(fill_hole(5))),
        ["missing-invalidate observed dax-write"]
    );
    // Torn down before the blocks came: a fault in between finds the hole again.
    let mut early = fill_hole(5);
    early.swap(7, 8);
    assert_eq!(judged(early), ["missing-invalidate predicted dax-write"]);

    assert_eq!(after_load_of_a_hole(fill_hole(5)), [""; 0]);
    assert_eq!(judged(no_drop(fill_hole_of(5, 0))), [""; 0]);
    // Beyond EOF there are no translations.
    assert_eq!(judged(no_drop(fill_hole(SIZE / 4096))), [""; 0]);
}

#[test]
fn data_beneath_a_zero_page() {
    let written = |count| {
        let mut steps = without(no_drop(fill_hole(5)), |step| {
            matches!(step.effect, Effect::Allocate(..))
        });
        let last = steps.len() - 1;
        steps[last] = steps[last].a(count);
        steps
    };
    assert_eq!(
        after_load_of_a_hole(written(4096)),
        ["stale-translation observed dax-write"]
    );
    // It wrote nothing, or the page shows the block.
    assert_eq!(after_load_of_a_hole(written(0)), [""; 0]);
    assert_eq!(after_load_of_a_hole(written(-14i64 as u64)), [""; 0]);
    let mut recorder = Recorder::new();
    recorder.run(2, load_hole(5));
    recorder.run(2, fault(A, 5, Install::PteWrite));
    recorder.run(1, written(4096));
    assert_eq!(found(&recorder.finish()), [""; 0]);
    // Mapped while the write went on: its teardown may have come after that.
    let mut recorder = Recorder::new();
    let mut steps = written(4096);
    let rest = steps.split_off(3);
    recorder.run(1, steps);
    recorder.run(2, load_hole(5));
    recorder.run(1, rest);
    assert_eq!(found(&recorder.finish()), [""; 0]);
}
