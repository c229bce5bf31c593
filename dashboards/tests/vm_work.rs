//! Wrong data on broken kernels, in the VM: found, joined to what caused it, and made smaller.
//!
//! Needs QEMU, the build tools for modules, and on the first run the package mirror: `make setup`.

mod vm_site;

use std::{process::Command, time::Duration};

use dashboards::campaign::Extent;
use tracer::judge::{finding::Strength, rules::Kind};
use vm_site::{BINARY, SERIES, alone, run_broken};
use workloads::scenarios::Log;

#[test]
fn wrong_data_is_joined_to_the_operation_that_caused_it() {
    const BROKEN: [&str; 2] = ["xfs-punch-unmap-short", "ext4-insert-no-unmap"];
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let extent = Extent::Time(Duration::from_secs(10));
    let outcomes = run_broken(&BROKEN, extent, directory.path());
    for outcome in &outcomes {
        let name = &outcome.trial.name;
        let broken = outcome.trial.mutation.as_ref().unwrap();
        let reports = outcome.judged.iter().map(|judged| &judged.report);
        let found: Vec<_> = reports
            .flat_map(|report| &report.findings)
            .filter(|finding| finding.kind == Kind::Corruption)
            .collect();
        let joined = found.iter().find(|finding| {
            finding.operation.name() == broken.expect.operation
                && finding.strength == Strength::Proven
        });
        let Some(joined) = joined else {
            panic!("{name}: {found:?}; {}", outcome.told())
        };
        eprintln!("{name}: {}", joined.sentence);
        // Who read it, and who caused it.
        assert_eq!(joined.tasks.len(), 2, "{name}: {joined:?}");
    }
}

#[test]
fn a_failing_run_is_made_smaller_and_still_fails() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let script = "faultline work punch-vs-fault /mnt/xfs --time 30s --processes 2 --log /result/log; \
        faultline work shrink /result/log /mnt/xfs --time 40s && exit 9; \
        faultline work replay /result/log.min /mnt/xfs";
    let output = Command::new(BINARY)
        .args(["vm", "--kernel", SERIES, "--timeout", "240s"])
        .args(["--mutation", "xfs-punch-unmap-short", "--page-cache"])
        .arg("--result")
        .arg(directory.path())
        .args(["--", "sh", "-c", script])
        .output()
        .unwrap();
    let told = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy);
    assert_eq!(output.status.code(), Some(1), "{}{}", told[0], told[1]);
    eprintln!("{}{}", told[0], told[1]);
    let read = |name: &str| Log::read(&directory.path().join(name)).unwrap();
    let (before, after) = (read("log").recipe, read("log.min").recipe);
    assert!(before.rounds.len() > 8, "{before:?}");
    assert!(after.rounds.len() * 4 <= before.rounds.len(), "{after:?}");
    assert!(!after.violation.is_empty(), "{after:?}");
}
