//! Orders, cycles and waits: what must fire, and the look-alikes that must not.

mod judge_dsl;

use std::time::Instant;

use judge_dsl::*;
use tracer::{
    hooks::{Entry, EntryAction, Install, LockAction, LockClass, Mode},
    judge::{Report, finding::Finding, rules::Kind},
    trace::meta::{Loss, LossCause},
    units::Nanos,
};
use tracer_ebpf::event::{FLAG_FREEZE_FREE, FLAG_FREEZE_HELD};

const FAULT_FLAG_WRITE: u64 = 1;
const FAULT_FLAG_VMA_LOCK: u64 = 1 << 12;
const OFFSET: u64 = 64 * KIB;
const LENGTH: u64 = 64 * KIB;
const TAKE: LockAction = LockAction::Acquire(Shared);
const DROP: LockAction = LockAction::Release(Shared);
/// Files of ext4.
const E: u64 = 0xffff_8880_0300_0000;

/// An operation with nothing in it but what is given.
fn operation(inode: u64, steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let mut all = vec![enter(Entry::Fallocate, inode).c(1)];
    all.extend(steps);
    all.push(leave(Entry::Fallocate, inode));
    all
}

/// A two-inode operation with nothing in it but what is given.
fn exchange(one: u64, other: u64, steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let mut all = vec![
        enter(Entry::SwapExtents, one),
        enter(Entry::SwapExtents, other).second(),
    ];
    all.extend(steps);
    all.push(leave(Entry::SwapExtents, one));
    all
}

fn write_fault(inode: u64, steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let mut all = vec![enter(Entry::Fault, inode).c(FAULT_FLAG_WRITE | FAULT_FLAG_VMA_LOCK)];
    all.extend(steps);
    all.push(leave(Entry::Fault, inode).a(NOPAGE));
    all
}

fn recorder() -> Recorder {
    let mut recorder = Recorder::new();
    recorder.judge().inode(&file(E, 12, EXT4, true, "e"));
    recorder
}

/// `kind strength operation: lock, observed` of each finding of an order or a wait.
fn orders(report: &Report) -> Vec<String> {
    described(report, |kind| kind.is_about_order())
}

/// The same of each lock left behind.
fn leaks(report: &Report) -> Vec<String> {
    described(report, |kind| kind == Kind::LockLeak)
}

fn described(report: &Report, which: impl Fn(Kind) -> bool) -> Vec<String> {
    report
        .findings
        .iter()
        .filter(|finding| which(finding.kind))
        .map(|finding| {
            format!(
                "{} {} {}: {}, {}",
                finding.kind.name(),
                finding.strength.name(),
                finding.operation.name(),
                finding.expected.class,
                finding.observed
            )
        })
        .collect()
}

/// What is found when tasks do these things one after the other.
fn ordered(tasks: impl IntoIterator<Item = (u32, Vec<Step>)>) -> Vec<String> {
    let mut recorder = recorder();
    for (tid, steps) in tasks {
        recorder.run(tid, steps);
    }
    orders(&recorder.finish())
}

fn alone(steps: Vec<Step>) -> Vec<String> {
    ordered([(1, steps)])
}

fn only(report: Report, kind: &str) -> Finding {
    let mut found: Vec<_> = report
        .findings
        .into_iter()
        .filter(|finding| finding.kind.name() == kind)
        .collect();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn one_uncontended_run_against_a_documented_order_is_enough() {
    let steps = operation(
        A,
        [
            acquire(A, InvalidateLock, Excl).stack(9),
            acquire(A, IRwsem, Excl).stack(7),
            release(A, IRwsem, Excl),
            release(A, InvalidateLock, Excl),
        ],
    );
    let mut recorder = recorder();
    recorder.introduce(1, "worker");
    recorder.run(1, steps);
    let report = recorder.finish();
    assert_eq!(
        orders(&report),
        [
            "lock-order predicted fallocate/PREALLOCATE: i_rwsem, taken while holding \
             invalidate_lock EXCL"
        ]
    );
    let finding = only(report, "lock-order");
    assert_eq!(finding.stacks.len(), 2, "of both acquisitions");
    assert_eq!(
        finding.sentence,
        "xfs: fallocate/PREALLOCATE of inode 131 (/mnt/xfs/a) takes i_rwsem EXCL while holding \
         invalidate_lock EXCL; the documented order is i_rwsem before invalidate_lock \
         (mm/filemap.c, head comment \"Lock ordering\")."
    );
}

#[test]
fn the_documented_orders_themselves_are_clean() {
    let nested = |inode: u64, chain: &[(LockClass, Mode)]| {
        let down = chain
            .iter()
            .map(|&(class, mode)| acquire(inode, class, mode));
        let up = chain
            .iter()
            .rev()
            .map(|&(class, mode)| release(inode, class, mode));
        operation(inode, down.chain(up))
    };
    let chain = [
        (IRwsem, Excl),
        (InvalidateLock, Excl),
        (LockClass::IMmapRwsem, Shared),
    ];
    let found = ordered([
        (1, nested(A, &chain)),
        (2, nested(E, &chain)),
        (
            3,
            nested(A, &[(IRwsem, Excl), (InvalidateLock, Excl), (Ilock, Excl)]),
        ),
        (
            1,
            nested(
                A,
                &[(IRwsem, Shared), (InvalidateLock, Shared), (Ilock, Shared)],
            ),
        ),
    ]);
    assert_eq!(found, [""; 0]);
}

#[test]
fn a_list_of_extents_copied_under_the_exclusion_lock() {
    let list = |locks: &[(LockClass, Mode)]| {
        let mut all = vec![enter(Entry::Fiemap, A).a(0).b(u64::MAX).size(SIZE)];
        all.extend(locks.iter().map(|&(class, mode)| acquire(A, class, mode)));
        all.push(read_pages(A).size(SIZE));
        let taken = locks.iter().rev();
        all.extend(taken.map(|&(class, mode)| release(A, class, mode)));
        all.push(leave(Entry::Fiemap, A).size(SIZE));
        all
    };
    assert_eq!(alone(list(&[(IRwsem, Shared)])), [""; 0]);
    assert_eq!(
        alone(list(&[(IRwsem, Shared), (InvalidateLock, Excl)])),
        ["lock-order predicted FS_IOC_FIEMAP: mmap_lock, taken while holding invalidate_lock EXCL"]
    );
}

#[test]
fn user_memory_copied_under_the_exclusion_lock() {
    let write = |locks: &[(LockClass, Mode)]| {
        let mut all = vec![enter(Entry::Write, A).a(0).b(KIB).size(SIZE)];
        all.extend(locks.iter().map(|&(class, mode)| acquire(A, class, mode)));
        all.push(dax_write(A, 0, KIB).size(SIZE));
        let taken = locks.iter().rev();
        all.extend(taken.map(|&(class, mode)| release(A, class, mode)));
        all.push(leave(Entry::Write, A).a(KIB).size(SIZE));
        all
    };
    assert_eq!(alone(write(&[(IRwsem, Excl)])), [""; 0]);
    assert_eq!(
        alone(write(&[(IRwsem, Excl), (InvalidateLock, Shared)])),
        ["lock-order predicted dax-write: mmap_lock, taken while holding invalidate_lock SHARED"]
    );
    assert_eq!(
        alone(write(&[(IRwsem, Excl), (Ilock, Shared)])),
        ["lock-order predicted dax-write: mmap_lock, taken while holding ilock SHARED"]
    );
    let mut journal = write(&[(IRwsem, Excl)]);
    journal.insert(2, resource(LockClass::Transaction, TAKE));
    journal.insert(4, resource(LockClass::Transaction, DROP));
    assert_eq!(
        alone(journal),
        ["txn-order predicted dax-write: mmap_lock, taken while holding xfs_trans SHARED"]
    );
    // Through the page cache.
    let read = vec![
        enter(Entry::Read, A).a(0).b(KIB),
        acquire(A, IRwsem, Shared),
        acquire(A, InvalidateLock, Shared),
        read_pages(A),
        release(A, InvalidateLock, Shared),
        release(A, IRwsem, Shared),
        leave(Entry::Read, A).a(KIB),
    ];
    assert_eq!(
        alone(read),
        ["lock-order predicted dax-read: mmap_lock, taken while holding invalidate_lock SHARED"]
    );
}

#[test]
fn a_handle_started_before_the_exclusion_lock() {
    let wrong = write_fault(
        E,
        [
            resource(LockClass::Handle, TAKE),
            acquire(E, InvalidateLock, Shared),
            install(E, Install::PteWrite),
            resource(LockClass::Handle, DROP),
            release(E, InvalidateLock, Shared),
        ],
    );
    assert_eq!(
        alone(wrong),
        [
            "txn-order predicted dax-write-fault: invalidate_lock, taken while holding \
             jbd2_handle SHARED"
        ]
    );
}

#[test]
fn a_whole_transaction_before_the_exclusion_lock_is_none_of_its_business() {
    // file_update_time starts and stops one.
    let right = write_fault(
        E,
        [
            resource(LockClass::Handle, TAKE),
            resource(LockClass::Handle, DROP),
            acquire(E, InvalidateLock, Shared),
            resource(LockClass::Handle, TAKE),
            entry(EntryAction::Acquire, E, 3),
            install(E, Install::PteWrite),
            entry(EntryAction::Release, E, 3),
            resource(LockClass::Handle, DROP),
            release(E, InvalidateLock, Shared),
        ],
    );
    assert_eq!(alone(right), [""; 0]);
}

#[test]
fn a_transaction_started_under_the_entry_lock_is_right_on_one_and_wrong_on_the_other() {
    let nested = |inode, class| {
        write_fault(
            inode,
            [
                acquire(inode, InvalidateLock, Shared),
                entry(EntryAction::Acquire, inode, 3),
                resource(class, TAKE),
                resource(class, DROP),
                install(inode, Install::PteWrite),
                entry(EntryAction::Release, inode, 3),
                release(inode, InvalidateLock, Shared),
            ],
        )
    };
    assert_eq!(alone(nested(A, LockClass::Transaction)), [""; 0]);
    assert_eq!(
        alone(nested(E, LockClass::Handle)),
        ["txn-order predicted dax-write-fault: jbd2_handle, taken while holding dax_entry EXCL"]
    );
}

#[test]
fn a_grab_that_failed_holds_no_entry() {
    // xa_mk_internal: the PMD attempt falls back to a PTE.
    let steps = write_fault(
        E,
        [
            acquire(E, InvalidateLock, Shared),
            resource(LockClass::Handle, TAKE),
            entry(EntryAction::Acquire, E, 0).c(0x800 << 2 | 2),
            resource(LockClass::Handle, DROP),
            resource(LockClass::Handle, TAKE),
            entry(EntryAction::Acquire, E, 3),
            install(E, Install::PteWrite),
            entry(EntryAction::Release, E, 3),
            resource(LockClass::Handle, DROP),
            release(E, InvalidateLock, Shared),
        ],
    );
    assert_eq!(alone(steps), [""; 0]);
}

#[test]
fn the_exclusion_lock_held_while_user_pages_are_faulted_in() {
    let found = alone(operation(
        A,
        [
            acquire(A, IRwsem, Shared),
            acquire(A, InvalidateLock, Shared),
            mmap(TAKE),
            mmap(DROP),
            release(A, InvalidateLock, Shared),
            release(A, IRwsem, Shared),
        ],
    ));
    assert_eq!(
        found,
        [
            "lock-order predicted fallocate/PREALLOCATE: mmap_lock, taken while holding \
             invalidate_lock SHARED"
        ]
    );
}

#[test]
fn a_fault_within_the_exclusion_lock_is_an_acquisition_of_its_mappings_lock() {
    let nested = |with: u64| {
        let mut steps = vec![
            acquire(A, IRwsem, Shared),
            acquire(A, InvalidateLock, Shared),
            enter(Entry::Fault, B).c(with),
            acquire(B, InvalidateLock, Shared),
        ];
        steps.extend([
            release(B, InvalidateLock, Shared),
            leave(Entry::Fault, B).a(NOPAGE),
            release(A, InvalidateLock, Shared),
            release(A, IRwsem, Shared),
        ]);
        alone(operation(A, steps))
    };
    assert_eq!(
        nested(0),
        [
            "lock-order predicted fallocate/PREALLOCATE: mmap_lock, taken while holding \
             invalidate_lock SHARED"
        ]
    );
    assert_eq!(nested(FAULT_FLAG_VMA_LOCK).len(), 1);
}

#[test]
fn a_fault_in_a_transfer_between_two_files_or_within_one_is_no_inversion() {
    // i_rwsem(A) -> mmap_lock -> invalidate_lock(B), both ways round and for one file.
    let transfer = |from: u64, to: u64, mode: Mode| {
        operation(
            from,
            [
                acquire(from, IRwsem, mode),
                mmap(TAKE),
                enter(Entry::Fault, to),
                acquire(to, InvalidateLock, Shared),
                install(to, Install::PteRead),
                release(to, InvalidateLock, Shared),
                leave(Entry::Fault, to).a(NOPAGE),
                mmap(DROP),
                release(from, IRwsem, mode),
            ],
        )
    };
    let found = ordered([
        (1, transfer(A, B, Shared)),
        (2, transfer(B, A, Shared)),
        (3, transfer(A, A, Shared)),
        (4, transfer(A, B, Excl)),
        (5, transfer(B, A, Excl)),
        (6, transfer(A, A, Excl)),
    ]);
    assert_eq!(found, [""; 0]);
}

#[test]
fn trylocks_close_nothing() {
    // blockgc, ->release and NOWAIT try i_rwsem and give up.
    let steps = operation(
        A,
        [
            acquire(A, InvalidateLock, Excl),
            try_acquire(A, IRwsem, Excl),
            release(A, IRwsem, Excl),
            release(A, InvalidateLock, Excl),
        ],
    );
    assert_eq!(alone(steps), [""; 0]);
    let try_second = |one, other| {
        exchange(
            one,
            other,
            [
                acquire(one, Ilock, Excl),
                try_acquire(other, Ilock, Excl),
                release(other, Ilock, Excl),
                release(one, Ilock, Excl),
            ],
        )
    };
    let found = ordered([(1, try_second(A, B)), (2, try_second(B, A))]);
    assert_eq!(found, [""; 0]);
}

fn both(one: u64, other: u64, class: LockClass, mode: Mode) -> Vec<Step> {
    vec![
        acquire(one, class, mode),
        acquire(other, class, mode),
        release(other, class, mode),
        release(one, class, mode),
    ]
}

#[test]
fn two_exclusion_locks_in_two_orders_under_both_rwsems_cannot_deadlock() {
    let swap = |first: u64, second: u64| {
        let mut steps = vec![acquire(A, IRwsem, Excl), acquire(B, IRwsem, Excl)];
        steps.extend(both(first, second, InvalidateLock, Excl));
        steps.extend([release(B, IRwsem, Excl), release(A, IRwsem, Excl)]);
        exchange(first, second, steps)
    };
    assert_eq!(ordered([(1, swap(A, B)), (2, swap(B, A))]), [""; 0]);
    let ungated = |first, second| {
        let steps = both(first, second, InvalidateLock, Excl);
        exchange(first, second, steps)
    };
    assert_eq!(
        ordered([(1, ungated(A, B)), (2, ungated(B, A))]),
        [
            "lock-order observed XFS_IOC_SWAPEXT: invalidate_lock, taken while holding \
             invalidate_lock EXCL"
        ]
    );
}

#[test]
fn two_locks_of_one_class_have_an_order_where_the_kernel_writes_one_down() {
    // Under the gates of their callers; B has the higher inode number.
    let nested = |class, first, second| {
        let mut steps = vec![acquire(A, IRwsem, Excl), acquire(B, IRwsem, Excl)];
        steps.extend(both(first, second, class, Excl));
        steps.extend([release(B, IRwsem, Excl), release(A, IRwsem, Excl)]);
        exchange(A, B, steps)
    };
    let wrong = "lock-order predicted XFS_IOC_SWAPEXT: ilock, taken while holding ilock EXCL";
    assert_eq!(ordered([(1, nested(Ilock, A, B))]), [""; 0]);
    assert_eq!(ordered([(1, nested(Ilock, B, A))]), [wrong]);
    // Two right ways: by address, and by inode number where both are DAX files.
    assert_eq!(ordered([(1, nested(InvalidateLock, B, A))]), [""; 0]);
    // Tried only, it waits for nobody.
    let mut tried = nested(Ilock, B, A);
    tried[5] = try_acquire(A, Ilock, Excl);
    assert_eq!(ordered([(1, tried)]), [""; 0]);
}

#[test]
fn a_gate_held_shared_by_both_is_no_gate() {
    let swap = |first: u64, second: u64| {
        let mut steps = vec![acquire(A, IRwsem, Shared)];
        steps.extend(both(first, second, InvalidateLock, Excl));
        steps.push(release(A, IRwsem, Shared));
        exchange(first, second, steps)
    };
    assert_eq!(ordered([(1, swap(A, B)), (2, swap(B, A))]).len(), 1);
}

#[test]
fn one_task_that_does_both_cannot_meet_itself() {
    let swap = |first, second| exchange(first, second, both(first, second, InvalidateLock, Excl));
    assert_eq!(ordered([(1, swap(A, B)), (1, swap(B, A))]), [""; 0]);
}

#[test]
fn an_order_that_this_run_cannot_turn_round_is_predicted_only() {
    // Task 2 took A, after task 1 had taken it in the pattern, before it came to its own inversion:
    // keeping the run's order of critical sections, task 1 has let go by then.
    let swap = |first, second| exchange(first, second, both(first, second, InvalidateLock, Excl));
    let touch = |inode| {
        operation(
            inode,
            [
                acquire(inode, InvalidateLock, Excl),
                release(inode, InvalidateLock, Excl),
            ],
        )
    };
    let found = ordered([(1, swap(A, B)), (2, touch(A)), (2, swap(B, A))]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("lock-order predicted"), "{found:?}");
    let found = ordered([(2, touch(A)), (1, swap(A, B)), (2, swap(B, A))]);
    assert!(found[0].starts_with("lock-order observed"), "{found:?}");
}

#[test]
fn readers_block_behind_a_writer_if_there_is_one() {
    let swap = |first, second| exchange(first, second, both(first, second, InvalidateLock, Shared));
    assert_eq!(ordered([(1, swap(A, B)), (2, swap(B, A))]), [""; 0]);
    let writer = operation(
        A,
        [
            acquire(A, InvalidateLock, Excl),
            release(A, InvalidateLock, Excl),
        ],
    );
    let found = ordered([(3, writer), (1, swap(A, B)), (2, swap(B, A))]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn recursion_blocks_in_every_combination() {
    for (first, second) in [
        (Excl, Excl),
        (Excl, Shared),
        (Shared, Excl),
        (Shared, Shared),
    ] {
        let found = alone(operation(
            A,
            [
                acquire(A, InvalidateLock, first),
                acquire(A, InvalidateLock, second),
                release(A, InvalidateLock, second),
                release(A, InvalidateLock, first),
            ],
        ));
        assert_eq!(
            found,
            [format!(
                "recursive-lock predicted fallocate/PREALLOCATE: invalidate_lock, taken while \
                 holding invalidate_lock {}",
                first.name()
            )]
        );
    }
}

#[test]
fn a_fault_under_gups_own_mmap_lock_does_not_take_it_again() {
    let steps = operation(
        A,
        [
            acquire(A, IRwsem, Shared),
            mmap(TAKE),
            enter(Entry::Fault, B),
            leave(Entry::Fault, B).a(NOPAGE),
            mmap(DROP),
            mmap(TAKE),
            mmap(DROP),
            release(A, IRwsem, Shared),
        ],
    );
    assert_eq!(alone(steps), [""; 0]);
}

#[test]
fn freeze_protection_after_the_exclusion_lock() {
    let wrong = write_fault(
        A,
        [
            acquire(A, InvalidateLock, Shared).flags(FLAG_FREEZE_FREE),
            install(A, Install::PteWrite).flags(FLAG_FREEZE_HELD),
            release(A, InvalidateLock, Shared),
        ],
    );
    assert_eq!(
        alone(wrong),
        [
            "freeze-order predicted dax-write-fault: sb_pagefault, taken while holding \
             invalidate_lock SHARED"
        ]
    );
}

#[test]
fn a_write_fault_without_freeze_protection() {
    let wrong = write_fault(
        A,
        [
            acquire(A, InvalidateLock, Shared).flags(FLAG_FREEZE_FREE),
            install(A, Install::PteWrite).flags(FLAG_FREEZE_FREE),
            release(A, InvalidateLock, Shared),
        ],
    );
    assert_eq!(
        alone(wrong),
        ["freeze-missing predicted dax-write-fault: sb_pagefault, none"]
    );
}

#[test]
fn freeze_protection_of_somebody_proves_nothing() {
    let right = |flag| {
        write_fault(
            A,
            [
                acquire(A, InvalidateLock, Shared).flags(flag),
                install(A, Install::PteWrite).flags(FLAG_FREEZE_HELD),
                release(A, InvalidateLock, Shared),
            ],
        )
    };
    assert_eq!(alone(right(FLAG_FREEZE_HELD)), [""; 0]);
    assert_eq!(alone(right(0)), [""; 0], "nobody looked");
}

/// Write faults of one task, one after the other: what the count was when each began, and whether it
/// failed.
fn in_a_row(recorder: &mut Recorder, faults: &[(u8, bool)]) {
    for &(flag, fails) in faults {
        let mut steps = write_fault(A, []);
        let last = steps.len() - 1;
        steps[0] = steps[0].flags(flag);
        if fails {
            steps[last] = steps[last].a(2);
        }
        recorder.run(1, steps);
    }
}

#[test]
fn freeze_protection_that_a_fault_does_not_end() {
    let judged = |faults: &[(u8, bool)]| {
        let mut recorder = Recorder::new();
        in_a_row(&mut recorder, faults);
        leaks(&recorder.finish())
    };
    let leak = "lock-leak predicted dax-write-fault: sb_pagefault, SHARED still held";
    let (free, held) = ((FLAG_FREEZE_FREE, false), (FLAG_FREEZE_HELD, false));
    // The one that failed is the likeliest.
    let failed = (FLAG_FREEZE_FREE, true);
    assert_eq!(judged(&[free, failed, held, held]), [leak]);
    assert_eq!(judged(&[failed, (0, false), held, held]), [leak]);
    let one_of = format!("{leak} by one of several faults like this");
    assert_eq!(judged(&[free, (0, false), held, held]), [one_of]);
    // Unknown what was under way before, seen once only, or over.
    assert_eq!(judged(&[held, failed, held]), [""; 0]);
    assert_eq!(judged(&[held, held, held]), [""; 0]);
    assert_eq!(judged(&[free, failed, held]), [""; 0]);
    assert_eq!(judged(&[free, failed, held, held, free]), [""; 0]);
}

#[test]
fn freeze_protection_of_a_fault_under_way_or_unseen_is_no_leak() {
    let rows = [(FLAG_FREEZE_FREE, true), (FLAG_FREEZE_HELD, false)];
    let again = [(FLAG_FREEZE_HELD, false)];
    let judged = |header, between: fn(&mut Recorder)| {
        let mut recorder = Recorder::with(header);
        recorder.judge().inode(&file(A, 131, XFS, true, "a"));
        in_a_row(&mut recorder, &rows);
        between(&mut recorder);
        in_a_row(&mut recorder, &again);
        leaks(&recorder.finish()).len()
    };
    let begin = |recorder: &mut Recorder| {
        let fault = write_fault(A, []);
        recorder.run(2, [fault[0]]);
    };
    assert_eq!(judged(header(), |_| ()), 1);
    assert_eq!(judged(header(), begin), 0);
    assert_eq!(
        judged(header(), |recorder| {
            recorder.lose(1, 1);
        }),
        0
    );
    // Somebody's, who has not been heard of since.
    let loss = |recorder: &mut Recorder| {
        recorder.judge().loss(&Loss {
            cpu: Some(1),
            from: Nanos(1),
            to: Nanos(2),
            count: 1,
            cause: LossCause::Corrupt,
        });
    };
    assert_eq!(judged(header(), loss), 0);
    let mut sampled = header();
    sampled.left_out = 3;
    assert_eq!(judged(sampled, |_| ()), 0);
}

#[test]
fn a_read_fault_and_one_that_only_fills_the_page_cache_need_no_freeze_protection() {
    let mut recorder = Recorder::with(header());
    recorder.judge().inode(&file(A, 131, XFS, false, "a"));
    recorder.run(
        1,
        write_fault(
            A,
            [
                acquire(A, InvalidateLock, Shared).flags(FLAG_FREEZE_FREE),
                release(A, InvalidateLock, Shared),
            ],
        ),
    );
    assert_eq!(orders(&recorder.finish()), [""; 0]);
}

#[test]
fn on_many_cpus_one_zero_is_no_proof() {
    let wrong = || {
        write_fault(
            A,
            [
                acquire(A, InvalidateLock, Shared).flags(FLAG_FREEZE_FREE),
                install(A, Install::PteWrite).flags(FLAG_FREEZE_HELD),
                release(A, InvalidateLock, Shared),
            ],
        )
    };
    let after = |faults: usize| {
        let mut header = header();
        header.cpus = 8;
        let mut recorder = Recorder::with(header);
        recorder.judge().inode(&file(A, 131, XFS, true, "a"));
        for _ in 0..faults {
            recorder.run(1, wrong());
        }
        orders(&recorder.finish()).len()
    };
    assert_eq!([after(1), after(2), after(3)], [0, 0, 1]);
}

/// A truncate that finds pages pinned; `drop` if it lets go of the exclusion lock while it sleeps.
fn break_layouts(drop: bool) -> Vec<Step> {
    let mut steps = vec![acquire(A, InvalidateLock, Excl).stack(9), scan(A, 1)];
    if drop {
        steps.push(release(A, InvalidateLock, Excl));
    }
    steps.push(sleep_for_pins(A).stack(7));
    if drop {
        steps.push(acquire(A, InvalidateLock, Excl));
    }
    steps.extend([scan(A, 0), release(A, InvalidateLock, Excl)]);
    operation(A, steps)
}

#[test]
fn asleep_until_pins_go_with_the_exclusion_lock() {
    assert_eq!(
        alone(break_layouts(false)),
        [
            "wait-holding-lock predicted fallocate/PREALLOCATE: invalidate_lock, held EXCL while \
             waiting for page_pin"
        ]
    );
    assert_eq!(alone(break_layouts(true)), [""; 0]);
}

#[test]
fn a_page_that_was_released_before_anybody_slept_is_no_wait() {
    let steps = operation(
        A,
        [
            acquire(A, InvalidateLock, Excl),
            scan(A, 1),
            scan(A, 0),
            release(A, InvalidateLock, Excl),
        ],
    );
    assert_eq!(alone(steps), [""; 0]);
}

#[test]
fn a_delegated_release_is_no_recursion() {
    // xfs_btree_split: a worker runs under the locks of the task that waits for it.
    let mut recorder = recorder();
    recorder.run(
        1,
        vec![
            enter(Entry::Fallocate, A).c(1),
            acquire(A, IRwsem, Excl),
            acquire(A, Ilock, Excl),
        ],
    );
    recorder.run(
        2,
        operation(A, [release(A, Ilock, Excl), acquire(A, Ilock, Excl)]),
    );
    recorder.run(
        1,
        vec![
            release(A, Ilock, Excl),
            release(A, IRwsem, Excl),
            leave(Entry::Fallocate, A),
        ],
    );
    assert_eq!(orders(&recorder.finish()), [""; 0]);
}

/// Time passes, seconds.
fn later(recorder: &mut Recorder, seconds: u64) {
    recorder.time += seconds * 1_000_000_000;
    let now = recorder.time;
    recorder.judge().tick(tracer::units::Nanos(now));
}

/// A fault holds a handle and waits for the lock; a hole punch holds it and waits for a handle.
fn handle_deadlock(recorder: &mut Recorder) {
    recorder.introduce(1, "fault-0");
    recorder.introduce(2, "punch");
    recorder.run(
        2,
        vec![
            enter(Entry::Fallocate, E).c(PUNCH),
            acquire(E, IRwsem, Excl),
            acquire(E, InvalidateLock, Excl),
        ],
    );
    recorder.run(
        1,
        vec![
            enter(Entry::Fault, E).c(FAULT_FLAG_WRITE),
            resource(LockClass::Handle, TAKE),
            wait_for(E, InvalidateLock, Shared).stack(7),
        ],
    );
    recorder.step(2, resource(LockClass::Handle, LockAction::Wait).stack(9));
}

#[test]
fn a_cycle_that_lasts_is_a_deadlock_within_a_second() {
    let mut recorder = recorder();
    handle_deadlock(&mut recorder);
    later(&mut recorder, 1);
    let report = recorder.finish();
    assert_eq!(
        orders(&report),
        [
            "txn-order observed dax-write-fault: invalidate_lock, taken while holding jbd2_handle \
             SHARED",
            "deadlock proven dax-write-fault: invalidate_lock, waited for in a cycle of 2 tasks",
        ]
    );
    let finding = only(report, "deadlock");
    assert_eq!(finding.tasks.len(), 2);
    assert_eq!(finding.stacks.len(), 2);
    let held: Vec<_> = finding.locks_held.iter().map(|lock| lock.class).collect();
    assert_eq!(
        held,
        ["mmap_lock", "jbd2_handle", "i_rwsem", "invalidate_lock"]
    );
    assert_eq!(
        finding.sentence,
        "ext4: dax-write-fault of inode 12 (/mnt/ext4/e) has waited for invalidate_lock SHARED for \
         1.00 s, in a cycle of tasks that wait for each other: punch/2, fallocate/PUNCH_HOLE, waits \
         for jbd2_handle SHARED for 1.00 s."
    );
}

#[test]
fn a_cycle_that_resolves_itself_is_none() {
    let mut recorder = recorder();
    handle_deadlock(&mut recorder);
    // Records of different CPUs may meet late: 100 ms on, the fault has the lock.
    recorder.step(2, release(E, InvalidateLock, Excl).after(100_000_000));
    recorder.step(1, acquire(E, InvalidateLock, Shared));
    recorder.step(1, release(E, InvalidateLock, Shared));
    later(&mut recorder, 1);
    let found = orders(&recorder.finish());
    assert!(found.iter().all(|found| !found.starts_with("deadlock")));
}

#[test]
fn a_reader_waits_behind_a_queued_writer() {
    // Task 1 reads A and wants to read B; task 2 reads B and wants to read A; writers queue for both.
    let mut recorder = recorder();
    recorder.run(
        1,
        vec![
            enter(Entry::SwapExtents, A),
            enter(Entry::SwapExtents, B).second(),
            acquire(A, InvalidateLock, Shared),
        ],
    );
    recorder.run(
        2,
        vec![
            enter(Entry::SwapExtents, B),
            enter(Entry::SwapExtents, A).second(),
            acquire(B, InvalidateLock, Shared),
        ],
    );
    for (tid, inode) in [(3, A), (4, B)] {
        recorder.run(
            tid,
            vec![
                enter(Entry::Fallocate, inode).c(PUNCH),
                wait_for(inode, InvalidateLock, Excl),
            ],
        );
    }
    recorder.step(1, wait_for(B, InvalidateLock, Shared));
    recorder.step(2, wait_for(A, InvalidateLock, Shared));
    later(&mut recorder, 1);
    let report = recorder.finish();
    let finding = only(report, "deadlock");
    assert_eq!(finding.tasks.len(), 4, "{}", finding.sentence);
}

#[test]
fn a_task_that_waits_for_itself() {
    let mut recorder = recorder();
    recorder.run(
        1,
        vec![
            enter(Entry::Fallocate, A).c(PUNCH),
            acquire(A, InvalidateLock, Shared),
            wait_for(A, InvalidateLock, Excl),
        ],
    );
    later(&mut recorder, 1);
    let found = orders(&recorder.finish());
    assert_eq!(
        found,
        [
            "recursive-lock predicted fallocate/PUNCH_HOLE: invalidate_lock, taken while holding \
             invalidate_lock SHARED",
            "deadlock proven fallocate/PUNCH_HOLE: invalidate_lock, waited for by the task that \
             holds it",
        ]
    );
}

#[test]
fn a_leaked_lock_is_the_cause_of_the_stall_behind_it() {
    let mut recorder = recorder();
    recorder.introduce(1, "truncate");
    recorder.introduce(2, "fault-0");
    recorder.run(
        1,
        vec![
            enter(Entry::SetSize, A).a(0).c(8),
            acquire(A, InvalidateLock, Excl).stack(9),
            leave(Entry::SetSize, A),
        ],
    );
    recorder.run(
        2,
        vec![
            enter(Entry::Fault, A).c(1),
            wait_for(A, InvalidateLock, Shared).stack(7),
        ],
    );
    later(&mut recorder, 2);
    let finding = only(recorder.finish(), "stall");
    assert_eq!(
        finding.sentence,
        "xfs: dax-write-fault of inode 131 (/mnt/xfs/a) has waited for invalidate_lock SHARED for \
         2.00 s; nobody will release it: truncate/1, setattr/truncate, returned with \
         invalidate_lock EXCL."
    );
    assert_eq!(finding.strength.name(), "proven");
}

/// The sentence about a hole punch that has taken its locks and does these things, and about a fault
/// that has waited for it for half a minute.
fn stall_behind_a_punch(steps: impl IntoIterator<Item = Step>) -> String {
    let mut recorder = recorder();
    recorder.introduce(1, "punch");
    recorder.introduce(2, "splice");
    let mut punch = vec![
        enter(Entry::Fallocate, A).c(PUNCH),
        acquire(A, IRwsem, Excl),
        acquire(A, InvalidateLock, Excl),
    ];
    punch.extend(steps);
    recorder.run(1, punch);
    recorder.run(
        2,
        vec![
            enter(Entry::Fault, A).c(1),
            wait_for(A, InvalidateLock, Shared),
        ],
    );
    later(&mut recorder, 31);
    only(recorder.finish(), "stall").sentence
}

/// It sleeps until pages go that are pinned by a task which needs its lock first.
#[test]
fn a_stall_tells_whom_it_holds_up() {
    assert_eq!(
        stall_behind_a_punch([sleep_for_pins(A)]),
        "xfs: fallocate/PUNCH_HOLE of inode 131 (/mnt/xfs/a) has waited for page_pin for 31.0 s; who \
         has pinned its pages was not seen: if it is one of those that wait for this task, none will \
         ever go on: splice/2, dax-write-fault, waits for invalidate_lock SHARED for 31.0 s of inode \
         131."
    );
}

#[test]
fn a_stall_whose_holder_does_not_wait() {
    let sentence = stall_behind_a_punch([]);
    assert!(
        sentence.ends_with("; punch/1, has held invalidate_lock EXCL for 31.0 s."),
        "{sentence}"
    );
}

#[test]
fn a_wait_in_a_frozen_filesystem_is_no_stall() {
    let mut recorder = recorder();
    recorder.run(
        1,
        vec![
            enter(Entry::Fault, A).c(1),
            wait_for(A, InvalidateLock, Shared),
        ],
    );
    later(&mut recorder, 10);
    assert_eq!(orders(&recorder.finish()), [""; 0]);
}

/// fs/dax.c before 23c84eb78375: a waiter sleeps on a queue hashed from another index than its waker's.
#[test]
fn a_waiter_for_an_entry_on_the_wrong_wait_queue() {
    let mut recorder = recorder();
    recorder.run(
        1,
        vec![
            enter(Entry::Fault, A).c(1),
            acquire(A, InvalidateLock, Shared),
            entry(EntryAction::Acquire, A, 512),
        ],
    );
    recorder.run(
        2,
        vec![
            enter(Entry::Fault, A).c(1),
            acquire(A, InvalidateLock, Shared),
            entry(EntryAction::Wait, A, 512).stack(7),
        ],
    );
    // The holder unlocks and wakes whoever waits for what it takes the entry to be.
    recorder.run(
        1,
        vec![
            entry(EntryAction::Release, A, 512),
            release(A, InvalidateLock, Shared),
            leave(Entry::Fault, A).a(NOPAGE),
        ],
    );
    later(&mut recorder, 20);
    later(&mut recorder, 11);
    let report = recorder.finish();
    assert_eq!(
        orders(&report),
        ["stall proven dax-write-fault: dax_entry, waited for without end"]
    );
}

/// fs/dax.c before 237388320deb: an entry is deleted, one waiter is woken, the second never is.
#[test]
fn the_second_waiter_for_an_entry_that_was_deleted() {
    let mut recorder = recorder();
    for tid in [2, 3] {
        recorder.run(
            tid,
            vec![
                enter(Entry::Fault, A).c(1),
                acquire(A, InvalidateLock, Shared),
                entry(EntryAction::Wait, A, 7),
            ],
        );
    }
    recorder.run(
        2,
        vec![
            entry(EntryAction::Acquire, A, 7),
            entry(EntryAction::Release, A, 7),
            release(A, InvalidateLock, Shared),
            leave(Entry::Fault, A).a(NOPAGE),
        ],
    );
    later(&mut recorder, 31);
    let finding = only(recorder.finish(), "stall");
    assert_eq!(finding.tasks[0].tid.0, 3);
}

#[test]
fn waiters_for_an_entry_that_are_woken_are_no_stall() {
    let mut recorder = recorder();
    recorder.run(
        2,
        vec![
            enter(Entry::Fault, A).c(1),
            acquire(A, InvalidateLock, Shared),
            entry(EntryAction::Wait, A, 7),
            entry(EntryAction::Acquire, A, 7),
        ],
    );
    later(&mut recorder, 60);
    assert_eq!(orders(&recorder.finish()), [""; 0]);
}

#[test]
fn a_gap_forgets_what_was_held() {
    let mut recorder = recorder();
    recorder.run(
        1,
        vec![
            enter(Entry::Fallocate, A).c(1),
            acquire(A, InvalidateLock, Excl),
        ],
    );
    recorder.lose(1, 1);
    recorder.run(
        1,
        vec![acquire(A, IRwsem, Excl), leave(Entry::Fallocate, A)],
    );
    assert_eq!(orders(&recorder.finish()), [""; 0]);
}

#[test]
fn punches_and_faults_that_follow_the_rules_are_clean() {
    let mut recorder = recorder();
    for _ in 0..3 {
        recorder.run(1, fallocate(A, PUNCH, OFFSET, LENGTH));
        recorder.run(2, fault(A, 17, Install::PteWrite));
        recorder.run(2, truncate(A, SIZE, OFFSET));
    }
    let report = recorder.finish();
    assert_eq!(orders(&report), [""; 0]);
}

/// What lockdep's own self-test tries (lib/locking-selftest.c), with the file's numbers for letters.
mod patterns {
    use super::*;

    /// Files with one lock each that the operation of each pattern may take.
    const FILES: [u64; 4] = [A, B, 0xffff_8880_0400_0000, 0xffff_8880_0500_0000];

    /// Each word is a task's acquisitions, released in reverse: "AB" takes A, then B.
    fn tried(words: &[&str], mode: Mode) -> usize {
        let mut recorder = recorder();
        for (number, &address) in FILES.iter().enumerate().skip(2) {
            let path = format!("f{number}");
            recorder
                .judge()
                .inode(&file(address, 200 + number as u64, XFS, true, &path));
        }
        // Somebody writes, so readers have somebody to queue behind.
        recorder.run(
            99,
            operation(
                A,
                [
                    acquire(A, InvalidateLock, Excl),
                    release(A, InvalidateLock, Excl),
                ],
            ),
        );
        for (number, word) in words.iter().enumerate() {
            let tid = number as u32 + 1;
            let letters: Vec<u64> = word
                .bytes()
                .map(|letter| FILES[usize::from(letter - b'A')])
                .collect();
            let other = letters.get(1).copied().unwrap_or(letters[0]);
            let mut steps = vec![enter(Entry::SwapExtents, letters[0])];
            if other != letters[0] {
                steps.push(enter(Entry::SwapExtents, other).second());
            }
            // A third lock belongs to an operation of its own within.
            for &third in letters.iter().skip(2) {
                steps.push(enter(Entry::Fallocate, third).c(1));
            }
            steps.extend(
                letters
                    .iter()
                    .map(|&letter| acquire(letter, InvalidateLock, mode)),
            );
            steps.extend(
                letters
                    .iter()
                    .rev()
                    .map(|&letter| release(letter, InvalidateLock, mode)),
            );
            for &third in letters.iter().skip(2).rev() {
                steps.push(leave(Entry::Fallocate, third));
            }
            steps.push(leave(Entry::SwapExtents, letters[0]));
            recorder.run(tid, steps);
        }
        orders(&recorder.finish()).len()
    }

    fn found(words: &[&str]) -> [usize; 2] {
        [tried(words, Excl), tried(words, Shared)]
    }

    #[test]
    fn aa() {
        assert_eq!(found(&["AA"]), [1, 1]);
    }

    #[test]
    fn abba() {
        assert_eq!(found(&["AB", "BA"]), [1, 1]);
    }

    #[test]
    fn abbcca() {
        assert_eq!(found(&["AB", "BC", "CA"]), [1, 1]);
    }

    #[test]
    fn abcabc() {
        assert_eq!(found(&["AB", "CA", "BC"]), [1, 1]);
    }

    #[test]
    fn abbccdda() {
        assert_eq!(found(&["AB", "BC", "CD", "DA"]), [1, 1]);
    }

    #[test]
    fn abcdbcda() {
        assert_eq!(found(&["AB", "CD", "BC", "DA"]), [1, 1]);
    }

    #[test]
    fn abcdbdda() {
        assert_eq!(found(&["AB", "CD", "BD", "DA"]), [1, 1]);
    }

    #[test]
    fn one_order_for_all_is_clean() {
        assert_eq!(found(&["AB", "BC", "CD", "AC", "AD", "ABC"]), [0, 0]);
    }

    #[test]
    fn three_under_one_gate_are_clean() {
        assert_eq!(tried(&["ABC", "ACB"], Excl), 0);
    }
}

/// Files whose `i_rwsem`s are taken two at a time.
fn inode_of(number: u64) -> u64 {
    0xffff_8881_0000_0000 + (number << 12)
}

/// Two files, one within the other's lock.
fn pair(outer: u64, inner: u64) -> Vec<Step> {
    exchange(
        outer,
        inner,
        [
            acquire(outer, IRwsem, Excl),
            acquire(inner, IRwsem, Excl),
            release(inner, IRwsem, Excl),
            release(outer, IRwsem, Excl),
        ],
    )
}

/// A run of 800 tasks on 7500 files, which lock two at a time in the files' order, but for `cycles`
/// pairs that two tasks lock in both.
fn crowd(cycles: u64) -> Recorder {
    const TASKS: u64 = 800;
    const FILES: u64 = 7500;
    const EACH: u64 = 25;
    let mut recorder = Recorder::new();
    for number in 0..FILES {
        let address = inode_of(number);
        let file = file(address, 1000 + number, XFS, true, &format!("f{number}"));
        recorder.judge().inode(&file);
    }
    let mut state = 1u64;
    let mut below = |limit: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    for round in 0..EACH {
        for task in 0..TASKS {
            let outer = 2 * cycles + below(FILES - 2 * cycles - 1);
            let inner = outer + 1 + below(FILES - outer - 1);
            recorder.run(task as u32 + 1, pair(inode_of(outer), inode_of(inner)));
            if round == EACH / 2 && task < 2 * cycles {
                let (one, other) = (inode_of(task & !1), inode_of(task | 1));
                let (outer, inner) = if task & 1 == 0 {
                    (one, other)
                } else {
                    (other, one)
                };
                recorder.run(task as u32 + 1, pair(outer, inner));
            }
        }
    }
    recorder
}

#[test]
fn every_cycle_of_a_crowd_is_told() {
    let report = crowd(200).finish();
    let finding = only(report, "lock-order");
    assert_eq!(finding.count, 200);
    assert_eq!(orders(&crowd(0).finish()), [""; 0]);
}

#[test]
fn the_search_for_cycles_is_small_against_the_reading() {
    let begun = Instant::now();
    let mut recorder = crowd(200);
    let reading = begun.elapsed();
    let begun = Instant::now();
    recorder.judge().predict();
    let search = begun.elapsed();
    assert!(search < 2 * reading, "{search:?} after {reading:?}");
}

/// Punches a hole in A, and finds a page in use.
fn punch_that_sleeps() -> Vec<Step> {
    vec![
        enter(Entry::Fallocate, A).a(64 * KIB).b(64 * KIB).c(PUNCH),
        acquire(A, IRwsem, Mode::Excl),
        acquire(A, InvalidateLock, Mode::Excl),
        scan(A, frame(A, 4)),
        release(A, InvalidateLock, Mode::Excl),
    ]
}

#[test]
fn a_page_that_is_mapped_again_while_an_operation_sleeps_for_it() {
    let mapped = |page: u64, by: u32, again: bool| {
        let mut recorder = Recorder::new();
        recorder.run(1, punch_that_sleeps());
        if again {
            recorder.run(
                1,
                vec![
                    acquire(A, InvalidateLock, Mode::Excl),
                    scan(A, 0),
                    release(A, InvalidateLock, Mode::Excl),
                ],
            );
        }
        recorder.run(by, fault(A, page, Install::PteRead));
        found(&recorder.finish())
    };
    assert_eq!(
        mapped(4, 2, false),
        ["wait-remapped observed fallocate/PUNCH_HOLE"]
    );
    // Another page, or one that it no longer sleeps for.
    assert_eq!(mapped(5, 2, false), [""; 0]);
    assert_eq!(mapped(4, 2, true), [""; 0]);
}

#[test]
fn a_shared_page_that_is_mapped_through_another_file_while_an_operation_sleeps_for_it() {
    let mapped = |block: u64| {
        let mut recorder = Recorder::new();
        recorder.run(1, punch_that_sleeps());
        let mut through_b = fault(B, 9, Install::PteRead);
        through_b[2] = install(B, Install::PteRead).a(block).stack(7);
        recorder.run(2, through_b);
        found(&recorder.finish())
    };
    assert_eq!(
        mapped(frame(A, 4)),
        ["wait-remapped observed fallocate/PUNCH_HOLE"]
    );
    assert_eq!(mapped(frame(B, 9)), [""; 0]);
}
