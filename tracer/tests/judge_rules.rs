//! Each rule: what must fire, and the look-alikes that must not.

mod judge_dsl;

use judge_dsl::*;
use tracer::hooks::{Entry, EntryAction, Install, Mode};

const OFFSET: u64 = 64 * KIB;
const LENGTH: u64 = 64 * KIB;

fn no_exclusion(steps: Vec<Step>) -> Vec<Step> {
    without(steps, |step| is_lock(step, A, InvalidateLock))
}

/// A hole punch up to and including the layout break.
fn begin_punch() -> Vec<Step> {
    fallocate(A, PUNCH, OFFSET, LENGTH)[..4].to_vec()
}

fn end_punch() -> Vec<Step> {
    vec![release(A, IRwsem, Excl), leave(Entry::Fallocate, A)]
}

fn script(parts: impl IntoIterator<Item = Vec<Step>>) -> Vec<Step> {
    parts.into_iter().flatten().collect()
}

#[test]
fn correct_operations_are_clean() {
    let mut recorder = Recorder::new();
    for mode in [PUNCH, ZERO, COLLAPSE, INSERT, 0x40, 0x80] {
        recorder.run(1, fallocate(A, mode, OFFSET, LENGTH));
        recorder.run(2, fault(A, 17, Install::PteWrite));
    }
    recorder.run(1, truncate(A, SIZE, OFFSET));
    let report = recorder.finish();
    assert_eq!(found(&report), [""; 0]);
    assert_eq!(report.verdict.name(), "clean", "{:?}", report.reasons);
    assert_eq!((report.totals.windows, report.totals.faults), (7, 6));
}

#[test]
fn a_punch_without_the_lock() {
    let steps = no_exclusion(fallocate(A, PUNCH, OFFSET, LENGTH));
    assert_eq!(
        judged(steps),
        ["op-unprotected predicted fallocate/PUNCH_HOLE"]
    );
}

#[test]
fn a_punch_that_drops_the_lock_after_the_layout_break() {
    let steps = script([
        begin_punch(),
        vec![
            release(A, InvalidateLock, Excl),
            drop_range(A, OFFSET, LENGTH),
            change(A, OFFSET, LENGTH),
        ],
        end_punch(),
    ]);
    assert_eq!(
        judged(steps),
        ["op-unprotected predicted fallocate/PUNCH_HOLE"]
    );
}

#[test]
fn one_mistake_is_one_finding_however_many_changes_it_takes() {
    let mut steps = no_exclusion(fallocate(A, PUNCH, OFFSET, LENGTH));
    steps.insert(4, change(A, OFFSET + LENGTH, LENGTH));
    steps.insert(4, change_all(A));
    assert_eq!(judged(steps).len(), 1);
}

#[test]
fn blocks_beyond_eof_need_no_lock() {
    let steps = fallocate(A, PUNCH, SIZE, LENGTH);
    assert_eq!(judged(no_exclusion(steps)), [""; 0]);
}

#[test]
fn preallocation_needs_no_lock() {
    let steps = no_exclusion(fallocate(A, 0x01, OFFSET, LENGTH));
    assert_eq!(judged(steps), [""; 0]);
}

#[test]
fn an_operation_under_a_downgraded_lock() {
    let steps = script([
        begin_punch(),
        vec![
            downgrade(A, InvalidateLock),
            drop_range(A, OFFSET, LENGTH),
            change(A, OFFSET, LENGTH),
            release(A, InvalidateLock, Shared),
        ],
        end_punch(),
    ]);
    assert_eq!(judged(steps), ["wrong-mode predicted fallocate/PUNCH_HOLE"]);
}

#[test]
fn a_truncate_under_a_shared_lock() {
    let mut steps = truncate(A, SIZE, OFFSET);
    steps.insert(3, downgrade(A, InvalidateLock));
    let at = steps.len() - 2;
    steps[at] = release(A, InvalidateLock, Shared);
    assert_eq!(judged(steps), ["wrong-mode predicted setattr/truncate"]);
}

#[test]
fn a_truncate_without_the_lock() {
    let steps = no_exclusion(truncate(A, SIZE, OFFSET));
    assert_eq!(judged(steps), ["op-unprotected predicted setattr/truncate"]);
}

#[test]
fn a_truncate_that_drops_the_lock_after_the_layout_break() {
    let mut steps = truncate(A, SIZE, OFFSET);
    steps.remove(8);
    steps.insert(3, release(A, InvalidateLock, Excl));
    assert_eq!(judged(steps), ["op-unprotected predicted setattr/truncate"]);
}

#[test]
fn an_early_release_in_a_truncate_is_harmless_once_the_size_is_lower() {
    let mut steps = truncate(A, SIZE, OFFSET);
    let early = steps.remove(8);
    steps.insert(4, early);
    assert_eq!(judged(steps), [""; 0]);
}

#[test]
fn a_truncate_up_needs_the_lock_too() {
    let steps = |mode: Option<Mode>| {
        let mut steps = vec![
            enter(Entry::SetSize, A).a(2 * SIZE).size(SIZE),
            drop_from(A, SIZE).size(2 * SIZE),
            leave(Entry::SetSize, A).size(2 * SIZE),
        ];
        if let Some(mode) = mode {
            steps.insert(2, release(A, InvalidateLock, mode));
            steps.insert(1, acquire(A, InvalidateLock, mode));
        }
        steps
    };
    assert_eq!(
        judged(steps(None)),
        ["op-unprotected predicted setattr/truncate"]
    );
    assert_eq!(
        judged(steps(Some(Shared))),
        ["wrong-mode predicted setattr/truncate"]
    );
    assert_eq!(judged(steps(Some(Excl))), [""; 0]);
    // A preallocation raises it under i_rwsem alone.
    let preallocated = vec![
        enter(Entry::Fallocate, A).c(0).size(SIZE),
        acquire(A, IRwsem, Excl),
        drain(A),
        release(A, IRwsem, Excl),
        leave(Entry::Fallocate, A).size(2 * SIZE),
    ];
    assert_eq!(judged(preallocated), [""; 0]);
}

#[test]
fn another_tasks_truncate_does_not_count_against_a_preallocation() {
    let mut recorder = Recorder::new();
    recorder.run(2, fault(B, 3, Install::PteRead));
    recorder.run(1, [enter(Entry::Fallocate, A).c(0)]);
    recorder.run(3, truncate(A, SIZE, 0));
    recorder.run(
        1,
        [
            acquire(A, IRwsem, Excl),
            release(A, IRwsem, Excl),
            leave(Entry::Fallocate, A).size(0),
        ],
    );
    assert_eq!(found(&recorder.finish()), [""; 0]);
}

#[test]
fn a_fault_that_sees_the_size_fall_is_no_truncate() {
    let mut recorder = Recorder::new();
    recorder.run(2, [enter(Entry::Fault, A).a(200)]);
    recorder.run(3, truncate(A, SIZE, 0));
    recorder.run(
        2,
        [
            acquire(A, InvalidateLock, Shared),
            release(A, InvalidateLock, Shared),
            leave(Entry::Fault, A).a(2).size(0),
        ],
    );
    assert_eq!(found(&recorder.finish()), [""; 0]);
}

fn swap_locking(first: bool, second: bool) -> Vec<Step> {
    let mut steps = swap();
    steps.retain(|step| first || !is_lock(step, A, InvalidateLock));
    steps.retain(|step| second || !is_lock(step, B, InvalidateLock));
    steps
}

#[test]
fn a_swap_that_locks_one_file_of_two() {
    assert_eq!(judged(swap_locking(true, true)), [""; 0]);
    assert_eq!(
        judged(swap_locking(false, true)),
        ["partial-lock predicted XFS_IOC_SWAPEXT"]
    );
    assert_eq!(
        judged(swap_locking(true, false)),
        ["partial-lock predicted XFS_IOC_SWAPEXT"]
    );
    assert_eq!(
        judged(swap_locking(false, false)),
        ["op-unprotected predicted XFS_IOC_SWAPEXT"]
    );
}

#[test]
fn a_lock_taken_after_the_invalidation() {
    let mut steps = fallocate(A, COLLAPSE, OFFSET, LENGTH);
    steps.insert(4, release(A, InvalidateLock, Excl));
    steps.insert(6, acquire(A, InvalidateLock, Excl));
    assert_eq!(
        judged(steps),
        ["scope-gap predicted fallocate/COLLAPSE_RANGE"]
    );
}

#[test]
fn a_lock_dropped_before_the_change() {
    let mut steps = fallocate(A, PUNCH, OFFSET, LENGTH);
    let early = steps.remove(9);
    steps.insert(5, early);
    assert_eq!(judged(steps), ["scope-gap predicted fallocate/PUNCH_HOLE"]);
}

#[test]
fn a_lock_dropped_between_two_changes() {
    let mut steps = fallocate(A, PUNCH, OFFSET, LENGTH);
    steps.insert(10, drop_range(A, OFFSET, LENGTH));
    steps.insert(11, change(A, OFFSET, LENGTH));
    assert_eq!(judged(steps), ["scope-gap predicted fallocate/PUNCH_HOLE"]);
}

#[test]
fn a_lock_cycled_after_the_invalidation() {
    let mut steps = fallocate(A, INSERT, OFFSET, LENGTH);
    steps.insert(5, release(A, InvalidateLock, Excl));
    steps.insert(6, acquire(A, InvalidateLock, Excl));
    assert_eq!(
        judged(steps.clone()),
        ["stale-after-relock predicted fallocate/INSERT_RANGE"]
    );
    // Invalidating again makes it right.
    steps.splice(7..7, [scan(A, 0), drop_range(A, OFFSET, LENGTH)]);
    assert_eq!(judged(steps), [""; 0]);
}

#[test]
fn waiting_for_pins_drops_the_lock_and_scans_again() {
    let mut steps = fallocate(A, PUNCH, OFFSET, LENGTH);
    steps.splice(
        3..3,
        [
            scan(A, 0xffff_ea00_0000_0040),
            release(A, InvalidateLock, Excl),
            acquire(A, InvalidateLock, Excl),
        ],
    );
    assert_eq!(judged(steps), [""; 0]);
}

#[test]
fn breaking_leases_drops_and_retakes_the_callers_lock_too() {
    let mut steps = truncate(A, SIZE, OFFSET);
    steps.splice(
        2..2,
        [
            release(A, IRwsem, Excl),
            release(A, InvalidateLock, Excl),
            acquire(A, IRwsem, Excl),
            acquire(A, InvalidateLock, Excl),
        ],
    );
    assert_eq!(judged(steps), [""; 0]);
}

#[test]
fn a_reflink_source_may_be_shared_its_destination_may_not() {
    let reflink = |dest: Mode| {
        let mut steps = vec![
            enter(Entry::Reflink, A),
            enter(Entry::Reflink, B).second(),
            acquire(A, IRwsem, Excl),
            acquire(B, IRwsem, Excl),
            acquire(A, InvalidateLock, Excl),
            acquire(B, InvalidateLock, Excl),
            scan(A, 0),
            scan(B, 0),
            drop_range(B, 0, SIZE),
            downgrade(A, InvalidateLock),
            drain(B),
            acquire(B, Ilock, Excl),
            change(A, 0, SIZE),
            change(B, 0, SIZE),
            release(B, Ilock, Excl),
            release(B, InvalidateLock, dest),
            release(A, InvalidateLock, Shared),
            release(A, IRwsem, Excl),
            release(B, IRwsem, Excl),
            leave(Entry::Reflink, A),
        ];
        if dest == Shared {
            steps.insert(9, downgrade(B, InvalidateLock));
        }
        steps
    };
    assert_eq!(judged(reflink(Excl)), [""; 0]);
    assert_eq!(
        judged(reflink(Shared)),
        ["wrong-mode predicted FICLONERANGE"]
    );
}

#[test]
fn scans_of_page_cache_files_tear_nothing_down() {
    let mut recorder = Recorder::with(header());
    recorder.judge().inode(&file(A, 131, XFS, false, "a"));
    // The scan under a first hold would make a change under a second one stale, on DAX.
    let mut steps = fallocate(A, 0x40, OFFSET, LENGTH);
    steps.remove(4);
    steps.insert(4, release(A, InvalidateLock, Excl));
    steps.insert(5, acquire(A, InvalidateLock, Excl));
    recorder.run(1, steps.clone());
    assert_eq!(found(&recorder.finish()), [""; 0]);
    assert_eq!(
        judged(steps),
        ["stale-after-relock predicted fallocate/UNSHARE_RANGE"]
    );
}

#[test]
fn a_fault_without_the_lock() {
    let steps = no_exclusion(fault(A, 16, Install::PteWrite));
    assert_eq!(
        judged(steps),
        ["fault-unprotected predicted dax-write-fault"]
    );
}

#[test]
fn a_fault_that_drops_the_lock_before_it_installs() {
    let mut steps = fault(A, 16, Install::PteRead);
    steps.swap(2, 3);
    let mut recorder = Recorder::new();
    recorder.run(1, steps);
    let report = recorder.finish();
    assert_eq!(
        found(&report),
        ["fault-unprotected predicted dax-read-fault"]
    );
    assert!(
        report.findings[0]
            .sentence
            .contains("after it had dropped invalidate_lock")
    );
}

#[test]
fn faults_that_install_nothing_need_no_lock() {
    let mut steps = no_exclusion(fault(A, 16, Install::Pmd));
    steps[1].c = 0x800;
    assert_eq!(judged(steps), [""; 0]);
}

#[test]
fn faults_that_look_up_blocks_need_the_lock_whatever_they_install() {
    let fell_back = |locked: bool, grabbed: u64| {
        let mut steps = vec![enter(Entry::Fault, A).a(3)];
        steps.extend(locked.then(|| acquire(A, InvalidateLock, Shared)));
        steps.push(entry(EntryAction::Acquire, A, 3).c(grabbed));
        steps.push(entry(EntryAction::Release, A, 3));
        steps.extend(locked.then(|| release(A, InvalidateLock, Shared)));
        steps.push(leave(Entry::Fault, A).a(FALLBACK));
        judged(steps)
    };
    const FALLBACK: u64 = 0x800;
    const REFUSED: u64 = FALLBACK << 2 | 2;
    assert_eq!(fell_back(true, 0), [""; 0]);
    assert_eq!(fell_back(false, REFUSED), [""; 0]);
    assert_eq!(
        fell_back(false, 0),
        ["fault-unprotected predicted dax-read-fault"]
    );
    // One that installs is told by what it installs, once, and others like it with it.
    let mut steps = vec![
        enter(Entry::Fault, A).a(3),
        entry(EntryAction::Acquire, A, 3),
        entry(EntryAction::Release, A, 3),
        leave(Entry::Fault, A).a(FALLBACK),
    ];
    let mut mapped = without(fault(A, 3, Install::PteRead), |step| {
        is_lock(step, A, InvalidateLock)
    });
    mapped.insert(1, entry(EntryAction::Acquire, A, 3));
    steps.extend(mapped);
    assert_eq!(
        judged(steps),
        ["fault-unprotected predicted dax-read-fault"]
    );
}

#[test]
fn an_exclusive_lock_in_a_fault_is_legal_and_may_replace_a_shared_one() {
    let mut steps = fault(A, 16, Install::PteWrite);
    steps[3] = release(A, InvalidateLock, Excl);
    steps.splice(
        2..2,
        [
            release(A, InvalidateLock, Shared),
            acquire(A, InvalidateLock, Excl),
        ],
    );
    assert_eq!(judged(steps), [""; 0]);
}

#[test]
fn page_cache_translations_need_no_lock() {
    let mut recorder = Recorder::with(header());
    recorder.judge().inode(&file(A, 131, EXT4, false, "a"));
    recorder.run(1, no_exclusion(fault(A, 16, Install::PteRead)));
    assert_eq!(found(&recorder.finish()), [""; 0]);
}

#[test]
fn changes_and_invalidations_inside_a_fault_are_its_own_business() {
    let mut steps = fault(A, 16, Install::PteWrite);
    steps.splice(2..2, [drop_range(A, OFFSET, 4096), change(A, OFFSET, 4096)]);
    assert_eq!(judged(steps), [""; 0]);
}

fn mkwrite(locked: bool, result: u64) -> Vec<Step> {
    let steps = vec![
        enter(Entry::PageMkwrite, A).a(4).c(1),
        acquire(A, InvalidateLock, Shared),
        release(A, InvalidateLock, Shared),
        leave(Entry::PageMkwrite, A).a(result),
    ];
    if locked { steps } else { no_exclusion(steps) }
}

#[test]
fn page_mkwrite_of_a_page_cache_file() {
    let judged = |steps: Vec<Step>| {
        let mut recorder = Recorder::with(header());
        recorder.judge().inode(&file(A, 131, EXT4, false, "a"));
        recorder.run(1, steps);
        let report = recorder.finish();
        (found(&report), report.totals.installs)
    };
    let wrong = vec!["fault-unprotected predicted page_mkwrite".to_owned()];
    assert_eq!(judged(mkwrite(false, LOCKED)), (wrong.clone(), 1));
    assert_eq!(judged(mkwrite(true, LOCKED)), (vec![], 1));
    assert_eq!(judged(mkwrite(false, 2)), (vec![], 0));
    let mut steps = mkwrite(false, LOCKED);
    steps.insert(1, install(A, Install::Mkwrite));
    assert_eq!(judged(steps), (wrong, 1));
}

#[test]
fn pfn_mkwrite_and_nested_huge_faults_keep_their_names() {
    let pfn = vec![
        enter(Entry::PfnMkwrite, A).a(4).c(1),
        install(A, Install::PteWrite),
        leave(Entry::PfnMkwrite, A).a(NOPAGE),
    ];
    assert_eq!(judged(pfn), ["fault-unprotected predicted pfn_mkwrite"]);
    let nested = vec![
        enter(Entry::PfnMkwrite, A).a(4).c(1),
        enter(Entry::Fault, A).a(4).c(1),
        install(A, Install::PteWrite),
        leave(Entry::Fault, A).a(NOPAGE),
        leave(Entry::PfnMkwrite, A).a(NOPAGE),
    ];
    assert_eq!(judged(nested), ["fault-unprotected predicted pfn_mkwrite"]);
}

#[test]
fn a_fault_on_another_file_inside_an_operation_is_judged_by_itself() {
    let mut steps = fallocate(A, PUNCH, OFFSET, LENGTH);
    steps.splice(2..2, fault(B, 4, Install::PteRead));
    assert_eq!(judged(steps.clone()), [""; 0]);
    let unlocked = without(steps, |step| is_lock(step, B, InvalidateLock));
    assert_eq!(
        judged(unlocked),
        ["fault-unprotected predicted dax-read-fault"]
    );
}

#[test]
fn locks_left_behind() {
    let mut steps = truncate(A, SIZE, 2 * SIZE);
    steps.retain(|step| !matches!(step.effect, tracer::hooks::Effect::ChangeExtents(_)));
    assert_eq!(judged(steps.clone()), [""; 0]);
    steps.remove(steps.len() - 2);
    assert_eq!(judged(steps), ["lock-leak predicted setattr/truncate"]);
}

#[test]
fn a_lock_released_in_another_mode() {
    let mut steps = fault(A, 4, Install::PteRead);
    steps[3] = release(A, InvalidateLock, Excl);
    let mut recorder = Recorder::new();
    recorder.run(1, steps);
    let report = recorder.finish();
    assert_eq!(found(&report), ["lock-leak predicted dax-read-fault"]);
    assert_eq!(report.findings[0].observed, "held SHARED, released EXCL");
}

#[test]
fn a_lock_released_twice() {
    let mut steps = fallocate(A, PUNCH, OFFSET, LENGTH);
    let at = steps.len() - 3;
    steps.insert(at, release(A, InvalidateLock, Excl));
    let mut recorder = Recorder::new();
    recorder.run(1, steps);
    let report = recorder.finish();
    assert_eq!(found(&report), ["lock-leak predicted fallocate/PUNCH_HOLE"]);
    assert_eq!(report.findings[0].observed, "not held, released EXCL");
    // What somebody left behind may be released by another.
    let mut steps = fallocate(A, PUNCH, OFFSET, LENGTH);
    let at = steps.len() - 3;
    let late = steps.remove(at);
    assert!(is_lock(&late, A, InvalidateLock));
    let mut recorder = Recorder::new();
    recorder.run(1, steps);
    recorder.run(
        2,
        [
            enter(Entry::Fallocate, A).c(PUNCH),
            late,
            leave(Entry::Fallocate, A),
        ],
    );
    let report = recorder.finish();
    assert_eq!(found(&report), ["lock-leak predicted fallocate/PUNCH_HOLE"]);
    assert_eq!(report.findings[0].observed, "EXCL still held");
}

#[test]
fn releasing_what_was_never_seen_acquired_is_no_leak() {
    let steps = vec![
        enter(Entry::SetSize, A).a(2 * SIZE),
        release(A, IRwsem, Excl),
        leave(Entry::SetSize, A),
    ];
    assert_eq!(judged(steps), [""; 0]);
}

#[test]
fn a_fault_inside_an_unprotected_window_is_observed() {
    let mut recorder = Recorder::new();
    let op = no_exclusion(fallocate(A, PUNCH, OFFSET, LENGTH));
    recorder.run(1, op[..3].to_vec());
    recorder.run(1, [op[3]]);
    recorder.run(2, fault(A, OFFSET / 4096 + 1, Install::PteWrite));
    recorder.run(1, op[4..].to_vec());
    let report = recorder.finish();
    assert_eq!(
        found(&report),
        ["op-unprotected observed fallocate/PUNCH_HOLE"]
    );
    assert_eq!(report.findings[0].tasks.len(), 2);
}

#[test]
fn a_fault_on_another_page_or_at_another_time_is_not_observed() {
    for (page, inside) in [(1, true), (OFFSET / 4096 + 1, false)] {
        let mut recorder = Recorder::new();
        let op = no_exclusion(fallocate(A, PUNCH, OFFSET, LENGTH));
        recorder.run(1, op[..4].to_vec());
        if inside {
            recorder.run(2, fault(A, page, Install::PteWrite));
        }
        recorder.run(1, op[4..].to_vec());
        if !inside {
            recorder.run(2, fault(A, page, Install::PteWrite));
        }
        assert_eq!(
            found(&recorder.finish()),
            ["op-unprotected predicted fallocate/PUNCH_HOLE"]
        );
    }
}

#[test]
fn a_fault_that_outlives_the_window_is_observed() {
    let mut recorder = Recorder::new();
    let slow = no_exclusion(fault(A, OFFSET / 4096, Install::PteRead));
    let op = fallocate(A, PUNCH, OFFSET, LENGTH);
    recorder.run(1, op[..5].to_vec());
    recorder.run(2, [slow[0]]);
    recorder.run(1, op[5..].to_vec());
    recorder.run(2, slow[1..].to_vec());
    let report = recorder.finish();
    assert_eq!(
        found(&report),
        ["fault-unprotected observed dax-read-fault"]
    );
    assert!(report.findings[0].sentence.contains("fallocate/PUNCH_HOLE"));
}

#[test]
fn a_pmd_covers_its_whole_range() {
    let mut recorder = Recorder::new();
    let op = no_exclusion(fallocate(A, PUNCH, OFFSET, LENGTH));
    recorder.run(1, op[..4].to_vec());
    recorder.run(2, fault(A, 3, Install::Pmd));
    recorder.run(1, op[4..].to_vec());
    assert_eq!(
        found(&recorder.finish()),
        ["op-unprotected observed fallocate/PUNCH_HOLE"]
    );
}

#[test]
fn a_fault_held_off_by_the_lock_counts_as_coverage() {
    let mut recorder = Recorder::new();
    let op = fallocate(A, PUNCH, OFFSET, LENGTH);
    let fault = fault(A, OFFSET / 4096, Install::PteRead);
    recorder.run(1, op[..6].to_vec());
    recorder.run(2, [fault[0], wait(A, InvalidateLock)]);
    recorder.run(1, op[6..].to_vec());
    recorder.run(2, fault[1..].to_vec());
    let report = recorder.finish();
    assert_eq!(found(&report), [""; 0]);
    let row = &report.coverage[0];
    assert_eq!(
        (row.windows, row.met, row.held_off, row.installed_outside),
        (1, 1, 1, 0)
    );
    assert_eq!(row.wait_ns, row.wait_max_ns);
    assert!(row.wait_ns > 0);
}

#[test]
fn the_source_of_a_remap_is_locked_too() {
    let source = without(remap_of_demoted(), |step| is_lock(step, A, InvalidateLock));
    assert_eq!(
        judged(source.clone()),
        ["partial-lock predicted FICLONERANGE"]
    );
    // Told once: the destination's lock is the first that is missing.
    let neither = without(source, |step| is_lock(step, B, InvalidateLock));
    assert_eq!(judged(neither), ["op-unprotected predicted FICLONERANGE"]);
    assert_eq!(judged(remap_of_demoted()), [""; 0]);
}

fn beside_remap(before: usize, fault: Vec<Step>) -> Vec<String> {
    let steps = remap_of_demoted();
    let mut recorder = Recorder::new();
    recorder.run(1, steps[..before].to_vec());
    recorder.run(2, fault);
    recorder.run(1, steps[before..].to_vec());
    found(&recorder.finish())
}

#[test]
fn a_store_to_what_is_being_shared() {
    let demoted = 13;
    let page = OFFSET / 4096;
    assert_eq!(
        beside_remap(demoted, fault(A, page, Install::PteWrite)),
        ["wrong-mode observed dax-write-fault"]
    );
    // Loads are welcome, and stores that wait for the remap, or that come after its last change.
    assert_eq!(
        beside_remap(demoted, fault(A, page, Install::PteRead)),
        [""; 0]
    );
    let last = 16;
    assert_eq!(
        beside_remap(last, fault(A, page, Install::PteWrite)),
        [""; 0]
    );
    assert_eq!(beside_remap(0, fault(A, page, Install::PteWrite)), [""; 0]);
}

#[test]
fn a_remap_that_writers_are_not_told_of() {
    let told = |at: usize| {
        let mut steps = remap_of_demoted();
        steps.insert(at, unannounced(A, OFFSET, LENGTH));
        steps
    };
    assert_eq!(judged(told(13)), ["wrong-mode predicted FICLONERANGE"]);
    // Nobody needs to be told while the lock is still exclusive.
    assert_eq!(judged(told(12)), [""; 0]);
    // It is the sharer's fault, not the writer's.
    let steps = told(13);
    let mut recorder = Recorder::new();
    recorder.run(1, steps[..14].to_vec());
    recorder.run(2, fault(A, OFFSET / 4096, Install::PteWrite));
    recorder.run(1, steps[14..].to_vec());
    assert_eq!(
        found(&recorder.finish()),
        ["wrong-mode observed FICLONERANGE"]
    );
}
