//! The real thing: packaged kernels on emulated persistent memory, whole and broken.
//!
//! Needs QEMU, the build tools for modules, and on the first run the package mirror: `make setup`.

mod vm_site;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use dashboards::campaign::{Extent, Judged, Trial, Trouble, run_all};
use tracer::{
    analyze::analyze,
    judge::{
        Verdict,
        annotations::{Version, known_splat},
        rules::Kind,
    },
    trace::Trace,
};
use workloads::lab::{CommandJob, FilesystemKind, RoundSpec, Vm, VmSpec};

use vm_site::{BINARY, SERIES, alone, broken, on_site};

/// Enough of them for a million events: each opens a window, into which hundreds of events fall.
const OPERATIONS: u64 = 3000;

#[test]
fn a_stock_kernel_is_clean_and_the_run_was_worth_it() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let trial = Trial::stock(Extent::Operations(OPERATIONS));
    let outcome = on_site(directory.path(), |site, say| trial.run(site, say)).unwrap();
    assert!(outcome.trouble.is_empty(), "{:?}", outcome.trouble);
    assert_eq!(outcome.judged.len(), 2);
    let mut events = 0;
    for judged in &outcome.judged {
        let report = &judged.report;
        eprintln!("{}", tracer::judge::text::render(report));
        assert_eq!(report.verdict, Verdict::Clean, "{:?}", report.reasons);
        assert_eq!(
            (report.lost, report.unjudged, report.findings.len()),
            (0, 0, 0)
        );
        assert!(report.totals.windows > 100, "{:?}", report.totals);
        assert!(report.totals.installs > 1000, "{:?}", report.totals);
        assert!(
            report.totals.met > 0 && report.totals.held_off > 0,
            "{:?}",
            report.totals
        );
        assert!(report.totals.dax_inodes > 0, "{:?}", report.totals);
        for mechanism in ["fentry", "fexit", "raw-tracepoint"] {
            assert!(
                report
                    .hooks
                    .iter()
                    .any(|hook| hook.mechanism == Some(mechanism)),
                "nothing is attached by {mechanism}"
            );
        }
        events += report.events;
    }
    assert!(events >= 1_000_000, "{events} events prove too little");
}

/// On the lab's own device: what it answers, and lends, is as the driver wants it, and its known bug is met.
#[test]
fn virtiofs_is_clean_but_for_the_pinned_pages_that_it_lends() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let mut trial = Trial::stock(Extent::Time(Duration::from_secs(5)));
    for (workload, scenario) in trial
        .workloads
        .iter_mut()
        .zip(["punch-vs-fault", "pinned-vs-lending"])
    {
        workload.filesystem = FilesystemKind::Virtiofs;
        workload.options = Some("cache=auto".to_owned());
        workload.scenario = scenario.to_owned();
    }
    let outcome = on_site(directory.path(), |site, say| trial.run(site, say)).unwrap();
    // stat(2) of a file that has changed on the server has the kernel complain of itself.
    let version = Version::parse(SERIES);
    for complaint in &outcome.trouble {
        let known = version.and_then(|version| known_splat(&complaint.text, version));
        assert!(
            complaint.trouble == Trouble::Splat && known.is_some(),
            "{complaint:?}"
        );
    }
    let [punch, lending] = &outcome.judged[..] else {
        panic!("{} workloads were judged", outcome.judged.len());
    };
    for judged in [punch, lending] {
        let report = &judged.report;
        eprintln!("{}", tracer::judge::text::render(report));
        assert_eq!(
            (report.lost, report.unjudged, report.findings.len()),
            (0, 0, 0)
        );
        assert!(report.totals.installs > 1000, "{:?}", report.totals);
    }
    let totals = &punch.report.totals;
    assert_eq!(punch.report.verdict, Verdict::Clean);
    assert!(
        totals.windows > 10 && totals.held_off > 0,
        "{totals:?} prove too little"
    );
    let known: Vec<_> = lending
        .report
        .annotated
        .iter()
        .map(|known| (known.finding.kind, known.finding.operation.name()))
        .collect();
    assert!(known.contains(&(Kind::OpUnprotected, "open")), "{known:?}");
    assert!(known.contains(&(Kind::Corruption, "open")), "{known:?}");
}

/// Where tasks lose the CPU inside programs, which the kernel then skips for others, their reliefs take the
/// hits; time slices are as short as they get, so that this happens all the time.
#[test]
fn on_a_kernel_that_preempts_skipped_programs_are_made_up_for() {
    const SCRIPT: &str = "\
        grep -q '(full)' /sys/kernel/debug/sched/preempt && \
        echo 1000000 > /sys/kernel/debug/sched/base_slice_ns && \
        faultline record -o /result/run.flt --mount /mnt/xfs -- \
        faultline work punch-vs-fault /mnt/xfs --time 15s";
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let outcome = on_site(directory.path(), |site, say| {
        let mut round = RoundSpec::new("round");
        round.commands = vec![CommandJob::new("command", &["sh", "-c", SCRIPT])];
        let mut spec = VmSpec::new(site.kernel, site.binary, vec![round]);
        spec.kernel_arguments.push("preempt=full".to_owned());
        spec.result_dir = Some(directory.path().to_owned());
        Vm::run(site.cache, &spec, say).unwrap()
    });
    let said = fs::read_to_string(directory.path().join("command.stderr")).unwrap();
    assert!(outcome.succeeded(), "{said}\n{}", outcome.console_tail(30));
    let made_up: u64 = said
        .split_once(" more skipped by the kernel")
        .and_then(|(before, _)| before.rsplit('(').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no program was skipped: {said}"));
    let trace = Trace::open(directory.path().join("run.flt")).unwrap();
    let report = analyze(&trace);
    eprintln!("{said}\n{}", tracer::judge::text::render(&report));
    assert!(made_up >= 100, "{made_up} prove too little");
    // Now and then both are skipped: that is told, and is all that is missing.
    let told: u64 = trace.losses().iter().map(|loss| loss.count).sum();
    assert_eq!(report.lost, told);
    assert!(told <= made_up / 10, "{told} lost, {made_up} made up for");
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(report.totals.installs > 1000, "{:?}", report.totals);
}

/// One broken module for each kind that a few seconds suffice for, all in one boot.
#[test]
fn finds_what_is_broken_and_nothing_else() {
    const BROKEN: [&str; 7] = [
        "xfs-punch-unlocked",
        "ext4-mkwrite-unlocked",
        "xfs-truncate-shared",
        "xfs-swapext-one-inode",
        "ext4-collapse-flush-unlocked",
        "xfs-insert-lock-cycled",
        "xfs-read-fault-unlocked",
    ];
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let extent = Extent::Time(Duration::from_secs(5));
    let mut trials = broken(&BROKEN, extent);
    // Recorded with the hooks that are in place for the first.
    let mut second = trials[0].workloads[0].clone();
    second.scenario = "mkwrite-vs-punch".to_owned();
    trials[0].workloads.push(second);
    let outcomes = on_site(directory.path(), |site, say| run_all(trials, site, say)).unwrap();
    let said = |judged: &Judged| fs::read_to_string(judged.trace.with_extension("stderr")).unwrap();
    let attached = |judged: &Judged| said(judged).contains("attaching hooks");
    let attached: Vec<bool> = outcomes[0].judged.iter().map(attached).collect();
    assert_eq!(attached, [true, false]);
    for outcome in &outcomes {
        let name = &outcome.trial.name;
        for judged in &outcome.judged {
            eprintln!("{name}\n{}", tracer::judge::text::render(&judged.report));
        }
        let (expected, unexpected) = outcome.sorted();
        // Wrong data, and translations to another's blocks, are the damage that the broken module does.
        assert!(
            unexpected
                .iter()
                .all(|finding| matches!(finding.kind, Kind::Corruption | Kind::StaleTranslation)),
            "{name}: {unexpected:?}"
        );
        let told = outcome.told();
        assert_eq!(
            expected.len(),
            outcome.trial.workloads.len(),
            "{name}: {told}"
        );
        for finding in expected {
            assert_eq!(
                finding.expected.class,
                outcome.trial.mutation.as_ref().unwrap().expect.lock
            );
            assert_eq!(finding.stacks.len(), 2, "{name}: {:?}", finding.stacks);
            for stack in &finding.stacks {
                let has = |word: &str| stack.frames.iter().any(|frame| frame.contains(word));
                assert!(has("[xfs]") || has("[ext4]"), "{name}: {stack:?}");
                assert!(
                    has("entry_SYSCALL") || has("asm_exc_page_fault"),
                    "{name}: {stack:?}"
                );
            }
            assert!(!finding.path.is_empty() && finding.range.length > 0);
        }
    }
}

fn vm(result: &Path, script: &str) -> Output {
    Command::new(BINARY)
        .args(["vm", "--kernel", SERIES, "--timeout", "240s", "--result"])
        .arg(result)
        .args(["--", "sh", "-c", script])
        .output()
        .unwrap()
}

fn read(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn trace(directory: &Path, name: &str) -> Trace {
    let path: PathBuf = directory.join(name);
    Trace::open(&path).unwrap()
}

/// A recorder that is killed, a disk that fills up, mounts that do not fit, and nothing left attached.
#[test]
fn hardships_end_in_a_word_and_leave_nothing_behind() {
    const SCRIPT: &str = r#"
        attached() { cat /sys/kernel/tracing/enabled_functions | wc -l; }
        detached() { n=0; while [ "$(attached)" != 0 ] && [ $n -lt 300 ]; do usleep 100000; n=$((n+1)); done; attached; }
        cd /result
        attached > attached.before

        faultline record -o killed.flt --mount /mnt/xfs -- \
            faultline work punch-vs-fault /mnt/xfs --time 60s > killed.log 2>&1 &
        recorder=$!
        while [ "$(stat -c %s killed.flt 2>/dev/null || echo 0)" -lt 400000 ]; do usleep 50000; done
        attached > attached.during
        # The workload stands still while the hooks go, or the emulator may trip over its own
        # translation of the code that is being patched.
        workload=$(cat /proc/$recorder/task/$recorder/children)
        kill -STOP $workload
        kill -9 $recorder
        wait $recorder
        detached > attached.killed
        kill -9 $workload

        faultline record --probes -o probes.flt --mount /mnt/ext4 -- \
            faultline work punch-vs-fault /mnt/ext4 --ops 30 > probes.log 2>&1
        echo $? > probes.status
        detached > attached.probes

        mount -t tmpfs -o size=256k none /tmp
        faultline record -o /tmp/full.flt --mount /mnt/ext4 -- \
            faultline work punch-vs-fault /mnt/ext4 --time 60s > full.out 2> full.err
        echo $? > full.status
        cp /tmp/full.flt full.flt
        detached > attached.full

        mount -t tmpfs none /sys/kernel/btf
        faultline record -o none.flt --mount /mnt/ext4 -- true > nobtf.out 2> nobtf.err
        echo $? > nobtf.status
        umount /sys/kernel/btf

        # The killed workload lets go of it when its last thread is gone.
        n=0; until umount /mnt/xfs || [ $n = 200 ]; do usleep 50000; n=$((n+1)); done
        umount /mnt/ext4
        faultline record -o none.flt -- true > nodax.out 2> nodax.err
        echo $? > nodax.status
        faultline record -o none.flt --mount /tmp -- true > tmpfs.out 2> tmpfs.err
        echo $? > tmpfs.status
        attached > attached.after
    "#;
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let result = directory.path();
    let output = vm(result, SCRIPT);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    assert_eq!(read(result, "attached.before").trim(), "0");
    assert_ne!(read(result, "attached.during").trim(), "0");
    for moment in ["killed", "probes", "full", "after"] {
        assert_eq!(
            read(result, &format!("attached.{moment}")).trim(),
            "0",
            "after {moment}"
        );
    }

    let killed = trace(result, "killed.flt");
    assert!(killed.incomplete().is_some());
    let report = analyze(&killed);
    assert!(report.events > 1000, "{} events", report.events);
    assert!(report.incomplete.is_some());
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.verdict, Verdict::Inconclusive);
    // Wherever it had been killed.
    let bytes = fs::read(result.join("killed.flt")).unwrap();
    for cut in (1..12).map(|part| bytes.len() * part / 12) {
        fs::write(result.join("cut.flt"), &bytes[..cut]).unwrap();
        let report = analyze(&trace(result, "cut.flt"));
        assert!(report.findings.is_empty(), "{cut}: {:?}", report.findings);
        assert_eq!(report.verdict, Verdict::Inconclusive);
    }

    assert_eq!(
        read(result, "probes.status").trim(),
        "0",
        "{}",
        read(result, "probes.log")
    );
    let probes = analyze(&trace(result, "probes.flt"));
    assert_eq!(probes.verdict, Verdict::Clean, "{:?}", probes.reasons);
    assert!(
        probes.totals.windows > 0 && probes.totals.met > 0,
        "{:?}",
        probes.totals
    );
    for mechanism in ["kprobe", "kretprobe"] {
        assert!(
            probes
                .hooks
                .iter()
                .any(|hook| hook.mechanism == Some(mechanism)),
            "no {mechanism}"
        );
    }

    assert_eq!(read(result, "full.status").trim(), "2");
    let error = read(result, "full.err");
    let last = error.lines().last().unwrap();
    assert!(
        last.contains("full.flt") && last.contains("space"),
        "{error}"
    );
    let full = analyze(&trace(result, "full.flt"));
    assert!(full.incomplete.is_some() && full.events > 0);

    assert_eq!(read(result, "nobtf.status").trim(), "2");
    assert!(
        read(result, "nobtf.err").contains("CONFIG_DEBUG_INFO_BTF"),
        "{}",
        read(result, "nobtf.err")
    );
    assert_eq!(read(result, "nodax.status").trim(), "2");
    assert!(
        read(result, "nodax.err").contains("dax=always"),
        "{}",
        read(result, "nodax.err")
    );
    assert_eq!(read(result, "tmpfs.status").trim(), "2");
    assert!(
        read(result, "tmpfs.err").contains("tmpfs"),
        "{}",
        read(result, "tmpfs.err")
    );
}
