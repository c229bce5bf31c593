//! Any interleaving of correct operations is clean; one removed lock is found in every one of them.

mod judge_dsl;

use judge_dsl::*;
use proptest::prelude::*;
use tracer::{
    hooks::{Effect, Install, LockAction},
    judge::{Judge, Verdict},
};

/// What a task does next.
#[derive(Clone, Debug)]
enum Work {
    Fallocate {
        inode: u64,
        mode: u64,
        page: u64,
        pages: u64,
    },
    Cycle {
        inode: u64,
        page: u64,
    },
    Truncate {
        inode: u64,
        page: u64,
    },
    Swap,
    Fault {
        inode: u64,
        page: u64,
        how: Install,
    },
    NestedFault {
        inode: u64,
        page: u64,
    },
}

const INODES: [u64; 3] = [A, B, 0xffff_8880_0300_0000];

impl Work {
    fn steps(&self) -> Vec<Step> {
        match *self {
            Self::Fallocate {
                inode,
                mode,
                page,
                pages,
            } => fallocate(inode, mode, page * 4096, pages * 4096),
            Self::Cycle { inode, page } => {
                let mut steps = fallocate(inode, PUNCH, page * 4096, 4096);
                steps.splice(
                    3..3,
                    [
                        scan(inode, 64),
                        release(inode, InvalidateLock, Excl),
                        acquire(inode, InvalidateLock, Excl),
                    ],
                );
                steps
            }
            Self::Truncate { inode, page } => {
                let mut steps = truncate(inode, SIZE, page * 4096);
                steps.insert(0, acquire(inode, IRwsem, Excl));
                steps.push(release(inode, IRwsem, Excl));
                steps
            }
            Self::Swap => swap(),
            Self::Fault { inode, page, how } => fault(inode, page, how),
            Self::NestedFault { inode, page } => {
                let steps = fault(inode, page, Install::PteWrite);
                let mut nested = vec![steps[0]];
                nested.extend(steps.clone());
                nested.push(steps[4]);
                nested
            }
        }
    }
}

fn work() -> impl Strategy<Value = Work> {
    let inode = prop::sample::select(INODES.to_vec());
    let mode = prop::sample::select(vec![PUNCH, ZERO, COLLAPSE, INSERT, 0x40, 0x80, 0, 1]);
    let how = prop::sample::select(vec![Install::PteRead, Install::PteWrite, Install::Pmd]);
    prop_oneof![
        (inode.clone(), mode, 0..200u64, 1..64u64).prop_map(|(inode, mode, page, pages)| {
            Work::Fallocate {
                inode,
                mode,
                page,
                pages,
            }
        }),
        (inode.clone(), 0..200u64).prop_map(|(inode, page)| Work::Cycle { inode, page }),
        (inode.clone(), 0..200u64).prop_map(|(inode, page)| Work::Truncate { inode, page }),
        Just(Work::Swap),
        (inode.clone(), 0..256u64, how).prop_map(|(inode, page, how)| Work::Fault {
            inode,
            page,
            how
        }),
        (inode, 0..256u64).prop_map(|(inode, page)| Work::NestedFault { inode, page }),
    ]
}

/// The kernel's locks: who may run on.
#[derive(Default)]
struct Locks(Vec<(u32, u64, bool)>);

impl Locks {
    fn free(&self, task: u32, step: &Step) -> bool {
        match step.effect {
            Effect::Lock(LockAction::Acquire(mode)) => self.0.iter().all(|&(owner, lock, excl)| {
                owner == task || lock != step.b || (mode == Shared && !excl)
            }),
            _ => true,
        }
    }

    fn apply(&mut self, task: u32, step: &Step) {
        match step.effect {
            Effect::Lock(LockAction::Acquire(mode)) => self.0.push((task, step.b, mode == Excl)),
            Effect::Lock(LockAction::Release(_)) => {
                if let Some(at) = self
                    .0
                    .iter()
                    .position(|held| (held.0, held.1) == (task, step.b))
                {
                    self.0.remove(at);
                }
            }
            _ => {}
        }
    }
}

/// i_rwsem of a truncate is the VFS's: it excludes, but its events come outside the scope.
fn silent(depth: usize, step: &Step) -> bool {
    depth == 0 && matches!(step.effect, Effect::Lock(_))
}

/// Runs the tasks' scripts in an order that `choices` picks and locks allow. False on deadlock.
fn interleave(recorder: &mut Recorder, scripts: &[Vec<Step>], choices: &[u8]) {
    let mut at = vec![0; scripts.len()];
    let mut depth = vec![0usize; scripts.len()];
    let mut locks = Locks::default();
    let mut choice = choices.iter().cycle();
    loop {
        let ready: Vec<_> = (0..scripts.len())
            .filter(|&task| {
                scripts[task]
                    .get(at[task])
                    .is_some_and(|step| locks.free(task as u32, step))
            })
            .collect();
        if ready.is_empty() {
            break;
        }
        let task = ready[usize::from(*choice.next().unwrap_or(&0)) % ready.len()];
        let step = scripts[task][at[task]];
        locks.apply(task as u32, &step);
        if !silent(depth[task], &step) {
            recorder.step(task as u32 + 1, step);
        }
        match step.effect {
            Effect::Enter(_) if step.flags == 0 => depth[task] += 1,
            Effect::Leave(_) => depth[task] -= 1,
            _ => {}
        }
        at[task] += 1;
    }
}

fn recorder() -> Recorder {
    let mut recorder = Recorder::new();
    recorder
        .judge()
        .inode(&file(INODES[2], 133, EXT4, true, "c"));
    recorder
}

fn scripts() -> impl Strategy<Value = Vec<Vec<Work>>> {
    prop::collection::vec(prop::collection::vec(work(), 1..8), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn correct_operations_are_clean_in_any_order(
        scripts in scripts(),
        choices in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        let scripts: Vec<Vec<Step>> =
            scripts.iter().map(|task| task.iter().flat_map(Work::steps).collect()).collect();
        let mut recorder = recorder();
        interleave(&mut recorder, &scripts, &choices);
        let report = recorder.finish();
        prop_assert_eq!(found(&report), Vec::<String>::new());
        prop_assert_eq!((report.lost, report.unjudged), (0, 0));
        prop_assert!(report.verdict != Verdict::Findings);
    }

    #[test]
    fn a_removed_lock_is_found_in_any_order(
        others in scripts(),
        broken in (prop::sample::select(vec![PUNCH, ZERO, COLLAPSE, INSERT]), 0..150u64, 1..64u64),
        place in any::<prop::sample::Index>(),
        choices in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        let mut scripts: Vec<Vec<Vec<Step>>> =
            others.iter().map(|task| task.iter().map(Work::steps).collect()).collect();
        let (mode, page, pages) = broken;
        let steps = without(fallocate(INODES[2], mode, page * 4096, pages * 4096), |step| {
            is_lock(step, INODES[2], InvalidateLock)
        });
        let at = place.index(scripts[0].len());
        scripts[0].insert(at, steps);
        let scripts: Vec<Vec<Step>> =
            scripts.into_iter().map(|task| task.into_iter().flatten().collect()).collect();
        let mut recorder = recorder();
        interleave(&mut recorder, &scripts, &choices);
        let report = recorder.finish();
        prop_assert_eq!(report.findings.len(), 1);
        prop_assert_eq!(report.findings[0].kind.name(), "op-unprotected");
        prop_assert_eq!(report.findings[0].count, 1);
        prop_assert_eq!(report.findings[0].inode.0, 133);
    }

    #[test]
    fn lost_records_never_make_a_finding(
        scripts in scripts(),
        choices in prop::collection::vec(any::<u8>(), 1..200),
        lost in prop::collection::vec(prop::bool::weighted(0.1), 1..100),
    ) {
        let scripts: Vec<Vec<Step>> =
            scripts.iter().map(|task| task.iter().flat_map(Work::steps).collect()).collect();
        let mut recorder = recorder();
        interleave(&mut recorder, &scripts, &choices);
        let mut judge = Judge::new(&recorder.header);
        judge.inode(&file(A, 131, XFS, true, "a"));
        judge.inode(&file(B, 132, XFS, true, "dir/b"));
        judge.inode(&file(INODES[2], 133, EXT4, true, "c"));
        for ((cpu, event), lost) in recorder.events.iter().zip(lost.iter().cycle()) {
            if !lost {
                judge.event(*cpu, event);
            }
        }
        let report = judge.finish(None, None);
        prop_assert_eq!(found(&report), Vec::<String>::new());
        prop_assert!(report.lost == 0 || report.verdict == Verdict::Inconclusive);
    }

    #[test]
    fn the_same_events_give_the_same_report(
        scripts in scripts(),
        choices in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        let scripts: Vec<Vec<Step>> = scripts
            .iter()
            .map(|task| {
                let steps = task.iter().flat_map(Work::steps);
                without(steps.collect(), |step| is_lock(step, B, InvalidateLock))
            })
            .collect();
        let mut recorder = recorder();
        interleave(&mut recorder, &scripts, &choices);
        let events = recorder.events.clone();
        let mut again = Judge::new(&recorder.header);
        again.inode(&file(A, 131, XFS, true, "a"));
        again.inode(&file(B, 132, XFS, true, "dir/b"));
        again.inode(&file(INODES[2], 133, EXT4, true, "c"));
        for (cpu, event) in &events {
            again.event(*cpu, event);
        }
        let mut first = recorder.finish();
        let mut second = again.finish(None, None);
        first.resolve(&[]);
        second.resolve(&[]);
        for finding in first.findings.iter_mut().chain(&mut second.findings) {
            finding.stacks.iter_mut().for_each(|stack| stack.frames.clear());
        }
        prop_assert_eq!(first, second);
    }
}
