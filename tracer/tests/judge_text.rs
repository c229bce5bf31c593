//! What people and scripts read.

mod judge_dsl;

use judge_dsl::*;
use tracer::{
    hooks::{Entry, Install, LockClass},
    judge::{Report, operations::Operation, text},
};

const OFFSET: u64 = 64 * KIB;

fn mutated() -> Report {
    let mut recorder = Recorder::new();
    recorder.introduce(711, "punch");
    recorder.introduce(712, "mmap");
    let mut op = fallocate(A, PUNCH, OFFSET, OFFSET);
    op.insert(4, release(A, InvalidateLock, Excl));
    op.remove(10);
    recorder.run(711, op[..6].to_vec());
    recorder.run(712, fault(A, 17, Install::PteWrite));
    recorder.run(711, op[6..].to_vec());
    let leak = vec![
        enter(Entry::SetSize, B).a(2 * SIZE).c(8),
        acquire(B, InvalidateLock, Excl),
        leave(Entry::SetSize, B).a(-27i64 as u64),
    ];
    recorder.run(711, leak);
    let wrong = fault(B, 4, Install::PteRead);
    recorder.run(712, without(wrong, |step| is_lock(step, B, InvalidateLock)));
    recorder.finish()
}

#[test]
fn a_run_with_findings() {
    let rendered = text::render(&mutated());
    insta::assert_snapshot!(rendered);
    for line in rendered.lines() {
        assert!(line.len() <= 78, "{line}");
    }
}

#[test]
fn a_clean_run() {
    let mut recorder = Recorder::new();
    let op = fallocate(A, PUNCH, OFFSET, OFFSET);
    let held_off = fault(A, 17, Install::PteWrite);
    recorder.run(1, op[..6].to_vec());
    recorder.run(2, [held_off[0], wait(A, InvalidateLock)]);
    recorder.run(1, op[6..].to_vec());
    recorder.run(2, held_off[1..].to_vec());
    recorder.run(2, fault(B, 1, Install::Pmd));
    recorder.run(1, truncate(A, SIZE, 0));
    insta::assert_snapshot!(text::render(&recorder.finish()));
}

#[test]
fn findings_as_json() {
    let report = mutated();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["schema"], "faultline.report/1");
    insta::assert_snapshot!(serde_json::to_string_pretty(&json["findings"][0]).unwrap());
    let keys: Vec<_> = json
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    for key in [
        "verdict",
        "reasons",
        "events",
        "lost",
        "incomplete",
        "hooks",
        "coverage",
        "annotated",
    ] {
        assert!(keys.contains(&key), "{key}");
    }
}

#[test]
fn every_name_is_documented() {
    let document = std::fs::read_to_string("../docs/report.md").unwrap();
    let operations = Operation::ALL.map(Operation::name);
    let locks = LockClass::ALL.map(LockClass::name);
    for name in operations.into_iter().chain(locks) {
        assert!(document.contains(&format!("`{name}`")), "{name}");
    }
}
