//! What is not known is not judged: gaps, reuse, missing hooks, losses.

mod judge_dsl;

use judge_dsl::*;
use tracer::{
    hooks::{Entry, Install, LockAction, LockClass, Mode},
    judge::{Judge, Verdict},
    trace::meta::{Footer, Loss, LossCause},
    units::{HookId, Nanos},
};

const OFFSET: u64 = 64 * KIB;
/// On ext4.
const E: u64 = 0xffff_8880_0500_0000;
const FAULT_FLAG_WRITE: u64 = 1;

fn unlocked_punch(inode: u64) -> Vec<Step> {
    without(fallocate(inode, PUNCH, OFFSET, OFFSET), |step| {
        is_lock(step, inode, InvalidateLock)
    })
}

fn clean_run(recorder: &mut Recorder) {
    recorder.run(8, fallocate(B, PUNCH, OFFSET, OFFSET));
    recorder.run(9, fault(B, 3, Install::PteRead));
}

#[test]
fn a_gap_is_never_a_finding() {
    let mut recorder = Recorder::new();
    clean_run(&mut recorder);
    let op = unlocked_punch(A);
    recorder.run(1, op[..2].to_vec());
    recorder.lose(1, 2);
    recorder.run(1, op[2..].to_vec());
    let report = recorder.finish();
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert_eq!(
        (found(&report).len(), report.unjudged, report.lost),
        (0, 1, 2)
    );
}

#[test]
fn a_task_is_known_again_from_its_next_operation() {
    let mut recorder = Recorder::new();
    clean_run(&mut recorder);
    recorder.run(1, fallocate(A, PUNCH, OFFSET, OFFSET)[..5].to_vec());
    recorder.lose(1, 7);
    recorder.run(1, [leave(Entry::Fallocate, A)]);
    recorder.run(1, unlocked_punch(A));
    let report = recorder.finish();
    assert_eq!(
        found(&report),
        ["op-unprotected predicted fallocate/PUNCH_HOLE"]
    );
    assert!(!report.reasons.is_empty());
}

#[test]
fn tables_take_numbers_too() {
    let mut recorder = Recorder::new();
    clean_run(&mut recorder);
    recorder.introduce(1, "punch");
    recorder.run(1, fallocate(A, PUNCH, OFFSET, OFFSET));
    assert_eq!(recorder.finish().verdict, Verdict::Clean);
}

#[test]
fn numbers_wrap() {
    let mut judge = Judge::new(&header());
    judge.inode(&file(A, 131, XFS, true, "a"));
    judge.skip(5, 0);
    judge.skip(5, 1);
    judge.skip(5, u32::MAX);
    judge.skip(5, 0);
    let report = judge.finish(None, None);
    assert_eq!(report.lost, 1, "one jump backwards");
}

#[test]
fn a_reused_thread_id_begins_with_nothing_held() {
    let mut recorder = Recorder::new();
    clean_run(&mut recorder);
    recorder.introduce(1, "first");
    recorder.run(1, fallocate(A, PUNCH, OFFSET, OFFSET)[..5].to_vec());
    recorder.introduce(1, "second");
    recorder.run(1, unlocked_punch(A));
    let report = recorder.finish();
    assert_eq!(
        found(&report),
        ["op-unprotected predicted fallocate/PUNCH_HOLE"]
    );
    assert_eq!(report.findings[0].tasks[0].name, "second");
    assert_eq!((report.lost, report.unjudged), (0, 0));
}

#[test]
fn a_task_that_ends_is_forgotten() {
    let mut recorder = Recorder::new();
    clean_run(&mut recorder);
    recorder.introduce(1, "first");
    recorder.run(1, fallocate(A, PUNCH, OFFSET, OFFSET));
    recorder.run(1, [exit()]);
    recorder.introduce(1, "second");
    recorder.run(1, unlocked_punch(A));
    let report = recorder.finish();
    assert_eq!(report.findings[0].tasks[0].name, "second");
    assert_eq!(report.lost, 0);
}

#[test]
fn an_address_stands_for_a_file_only_from_its_record_on() {
    let mut recorder = Recorder::new();
    recorder.run(1, unlocked_punch(A));
    let mut other = file(A, 777, EXT4, false, "other");
    other.since = Nanos(recorder.time + 1);
    recorder.judge().inode(&other);
    recorder.run(
        1,
        without(fallocate(A, COLLAPSE, OFFSET, OFFSET), |step| {
            is_lock(step, A, InvalidateLock)
        }),
    );
    let report = recorder.finish();
    let files: Vec<_> = report
        .findings
        .iter()
        .map(|f| (f.inode.0, f.path.as_str()))
        .collect();
    assert_eq!(files, [(131, "/mnt/xfs/a"), (777, "/mnt/ext4/other")]);
}

/// Two tasks meet a new file at the same time: the one that is to say which it is says it after the other's first act.
#[test]
fn what_begins_on_a_file_that_is_gone_is_the_next_ones() {
    let judged = |after: u64| {
        let mut recorder = Recorder::new();
        recorder.run(1, [evict(A)]);
        let mut other = file(A, 777, XFS, true, "other");
        other.since = Nanos(recorder.time + after);
        recorder.judge().inode(&other);
        recorder.run(1, unlocked_punch(A));
        recorder.finish().findings[0].inode.0
    };
    assert_eq!(judged(10_000), 777);
    // It came back to where it was before.
    assert_eq!(judged(1_000_000_000), 131);
}

/// ext4's swap-boot gives both files new generations, whatever faults are under way.
#[test]
fn a_file_of_a_new_generation_stays_the_same_for_what_is_open() {
    let mut recorder = Recorder::new();
    recorder.run(1, vec![enter(Entry::Fault, A).a(4).c(1)]);
    let mut again = file(A, 131, XFS, true, "a");
    again.generation = 2;
    again.since = Nanos(recorder.time + 1);
    recorder.judge().inode(&again);
    recorder.run(
        1,
        vec![
            enter(Entry::Fault, A).a(4).c(1),
            acquire(A, InvalidateLock, Mode::Shared),
            install(A, Install::PteWrite),
            release(A, InvalidateLock, Mode::Shared),
            leave(Entry::Fault, A).a(NOPAGE),
            leave(Entry::Fault, A).a(NOPAGE),
        ],
    );
    let report = recorder.finish();
    assert_eq!((report.unjudged, report.totals.installs), (0, 1));
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn tables_may_come_before_everything_else() {
    let mut recorder = Recorder::with(header());
    recorder.judge().inode(&file(A, 131, XFS, true, "a"));
    let mut later = file(A, 777, XFS, true, "later");
    later.since = Nanos(50_000_000);
    recorder.judge().inode(&later);
    recorder.run(1, unlocked_punch(A));
    recorder.time = 60_000_000;
    recorder.run(
        1,
        without(fallocate(A, ZERO, OFFSET, OFFSET), |step| {
            is_lock(step, A, InvalidateLock)
        }),
    );
    let report = recorder.finish();
    let files: Vec<_> = report.findings.iter().map(|f| f.inode.0).collect();
    assert_eq!(files, [131, 777]);
}

#[test]
fn acts_on_a_file_never_named_are_not_judged() {
    let mut recorder = Recorder::new();
    clean_run(&mut recorder);
    recorder.run(1, unlocked_punch(0xffff_8880_0900_0000));
    let report = recorder.finish();
    assert_eq!(
        (report.verdict, report.unjudged),
        (Verdict::Inconclusive, 1)
    );
}

#[test]
fn operations_begun_before_the_recording_are_not_judged() {
    let mut header = header();
    header.started = Nanos(50_000_000);
    let mut recorder = Recorder::with(header);
    recorder.judge().inode(&file(A, 131, XFS, true, "a"));
    recorder.judge().inode(&file(B, 132, XFS, true, "b"));
    let op = unlocked_punch(A);
    recorder.run(1, op[..2].to_vec());
    recorder.time = 60_000_000;
    recorder.run(1, op[2..].to_vec());
    clean_run(&mut recorder);
    let report = recorder.finish();
    assert_eq!((report.verdict, report.unjudged), (Verdict::Clean, 0));
}

fn with_missing(group: &str) -> Recorder {
    let mut header = header();
    for hook in &mut header.hooks {
        if hook.group == group {
            hook.attached = Err("not in kallsyms".to_owned());
        }
    }
    let mut recorder = Recorder::with(header);
    recorder.judge().inode(&file(A, 131, XFS, true, "a"));
    recorder.judge().inode(&file(B, 132, XFS, true, "b"));
    clean_run(&mut recorder);
    recorder
}

#[test]
fn a_missing_hook_lowers_the_claim() {
    let report = with_missing("xfs/bunmapi").finish();
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert!(
        report.reasons[0].contains("xfs/bunmapi"),
        "{:?}",
        report.reasons
    );
    assert_eq!(
        with_missing("rwsem/contention").finish().verdict,
        Verdict::Clean
    );
}

#[test]
fn without_every_lock_hook_nothing_counts_as_unlocked() {
    let mut recorder = with_missing("down_write");
    recorder.run(1, unlocked_punch(A));
    let report = recorder.finish();
    assert_eq!(
        (report.verdict, report.unjudged),
        (Verdict::Inconclusive, 1)
    );
}

/// So many programs were skipped at some time in the run.
fn verdict_after(mut recorder: Recorder, misses: u64) -> Verdict {
    let to = Nanos(recorder.time);
    recorder.judge().loss(&Loss {
        cpu: None,
        from: Nanos(0),
        to,
        count: misses,
        cause: LossCause::Missed,
    });
    recorder.finish().verdict
}

fn with_misses(count: u64, ops: usize) -> Verdict {
    // Two changes each: a lock that was not seen is missed by all that follows it.
    let mut steps = unlocked_punch(A);
    let at = steps.len() - 1;
    steps.insert(at, change(A, 128 * KIB, 64 * KIB));
    let mut recorder = Recorder::new();
    clean_run(&mut recorder);
    for _ in 0..ops {
        recorder.run(1, steps.clone());
    }
    verdict_after(recorder, count)
}

#[test]
fn what_skipped_programs_can_explain_is_no_finding() {
    assert_eq!(with_misses(1, 1), Verdict::Inconclusive);
    assert_eq!(with_misses(1, 2), Verdict::Findings);
}

/// A read into mapped pages of another file, each of which faults; the first one's handle is never
/// seen to be stopped.
fn handle_left_open(misses: u64) -> Verdict {
    let mut steps = vec![enter(Entry::Read, A)];
    for page in 0..3 {
        steps.push(enter(Entry::PageMkwrite, E).a(page).c(FAULT_FLAG_WRITE));
        if page == 0 {
            steps.push(resource(LockClass::Handle, LockAction::Acquire(Shared)));
        }
        steps.extend([
            acquire(E, InvalidateLock, Shared),
            release(E, InvalidateLock, Shared),
            leave(Entry::PageMkwrite, E),
        ]);
    }
    steps.push(leave(Entry::Read, A));
    let mut recorder = Recorder::new();
    recorder.judge().inode(&file(E, 150, EXT4, false, "e"));
    clean_run(&mut recorder);
    recorder.run(1, steps);
    verdict_after(recorder, misses)
}

#[test]
fn one_skipped_program_explains_all_that_follows_within_the_operation() {
    assert_eq!(handle_left_open(1), Verdict::Inconclusive);
    assert_eq!(handle_left_open(0), Verdict::Findings);
}

#[test]
fn an_end_that_was_never_seen_makes_no_finding_of_what_follows() {
    // The hit of a fault's end is skipped, which leaves no gap in the numbers, and with it the release.
    let unended = |page| fault(A, page, Install::PteWrite)[..3].to_vec();
    let mut recorder = Recorder::new();
    clean_run(&mut recorder);
    recorder.run(1, unended(3));
    recorder.run(
        1,
        without(fault(A, 4, Install::PteWrite), |step| {
            is_lock(step, A, InvalidateLock)
        }),
    );
    recorder.run(1, unlocked_punch(A));
    let report = recorder.finish();
    assert_eq!(found(&report), [""; 0]);
    assert_eq!(report.verdict, Verdict::Inconclusive);
}

#[test]
fn losses_and_torn_traces_are_inconclusive() {
    let mut recorder = Recorder::new();
    clean_run(&mut recorder);
    let (from, to) = (Nanos(1), Nanos(2));
    recorder.judge().loss(&Loss {
        cpu: Some(0),
        from,
        to,
        count: 3,
        cause: LossCause::Ring,
    });
    let report = recorder.finish();
    assert_eq!((report.verdict, report.lost), (Verdict::Inconclusive, 3));

    let judge = Judge::new(&header());
    let report = judge.finish(None, Some("no footer".to_owned()));
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert_eq!(report.incomplete.as_deref(), Some("no footer"));
    assert_eq!(report.reasons.len(), 3, "{:?}", report.reasons);
}

#[test]
fn the_footer_says_how_often_hooks_ran() {
    let footer = Footer {
        runs: vec![(HookId(1), 42)],
        ..Footer::default()
    };
    let report = Judge::new(&header()).finish(Some(&footer), None);
    assert_eq!(report.hooks[1].runs, Some(42));
    assert_eq!(report.hooks[0].runs, None);
}
