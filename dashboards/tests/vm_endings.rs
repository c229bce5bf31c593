//! Guests that come to a bad end: each is told by what it was, in time, and leaves no QEMU behind.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use workloads::lab::{
    Cache, CommandJob, Ending, Kernel, KernelSeries, RoundSpec, Vm, VmOutcome, VmSpec,
};

const BINARY: &str = env!("CARGO_BIN_EXE_faultline");
/// Boot and the beginning of the end; without KVM on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Enough to boot with, soon filled.
const SMALL_MIB: u32 = 2048;

fn kernel(cache: &Cache) -> Kernel {
    Kernel::obtain(cache, &KernelSeries("6.12".to_owned()), &mut |_| ()).unwrap()
}

/// Boots of a guest that the emulator goes on spoiling.
const BOOTS: u32 = 5;

/// Runs a command in a guest that `change` may spoil; again if the emulator spoiled it.
fn guest(directory: &Path, script: &str, change: impl Fn(&mut VmSpec<'_>)) -> VmOutcome {
    let mut outcome = once(directory, script, &change);
    for _ in 1..BOOTS {
        if outcome.spoiled().is_none() {
            break;
        }
        outcome = once(directory, script, &change);
    }
    outcome
}

fn once(directory: &Path, script: &str, change: &impl Fn(&mut VmSpec<'_>)) -> VmOutcome {
    let cache = Cache::open().unwrap();
    let kernel = kernel(&cache);
    let mut round = RoundSpec::new("round");
    let mut job = CommandJob::new("command", &["sh", "-c", script]);
    job.timeout_seconds = 600;
    round.commands = vec![job];
    let mut spec = VmSpec::new(&kernel, BINARY, vec![round]);
    spec.result_dir = Some(directory.to_owned());
    spec.timeout = LIMIT;
    change(&mut spec);
    let limit = spec.timeout;
    let started = Instant::now();
    let vm = Vm::start(&cache, &spec, &mut |_| ()).unwrap();
    let process = PathBuf::from(format!("/proc/{}", vm.id()));
    let outcome = vm.wait(&mut |_| ()).unwrap();
    assert!(
        started.elapsed() < limit + Duration::from_secs(15),
        "{:?} for a limit of {limit:?}",
        started.elapsed()
    );
    assert!(!process.exists(), "QEMU is still there");
    outcome
}

#[test]
fn every_bad_end_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();

    let panicked = guest(
        path,
        "faultline record -o /result/run.flt --mount /mnt/xfs -- \
         faultline work punch-vs-fault /mnt/xfs --time 60s & \
         while [ \"$(stat -c %s /result/run.flt 2>/dev/null || echo 0)\" -lt 50000 ]; do usleep 50000; done; \
         echo c > /proc/sysrq-trigger",
        |_| (),
    );
    assert_eq!(panicked.ending, Ending::Panicked);
    assert!(
        panicked.splats.iter().any(|splat| splat.contains("panic")),
        "{:?}",
        panicked.splats
    );
    // What the recorder had written is not lost with the guest.
    let trace = tracer::trace::Trace::open(path.join("run.flt"))
        .unwrap_or_else(|error| panic!("{error}: {:?}", panicked.splats));
    let report = tracer::analyze::analyze(&trace);
    assert!(report.events > 0 && report.incomplete.is_some());

    let hung = guest(path, "sleep 600", |spec| {
        spec.timeout = Duration::from_secs(40);
    });
    assert_eq!(hung.ending, Ending::TimedOut);

    let stuck = guest(path, "sleep 600", |spec| {
        spec.timeout = Duration::from_secs(600);
        spec.step_timeout = Duration::from_secs(20);
    });
    assert_eq!(stuck.ending, Ending::TimedOut);
    assert!(stuck.wall < Duration::from_secs(300));

    let flooded = guest(
        path,
        "line=$(head -c 4000 /dev/zero | tr '\\0' x); while :; do echo $line; done > /dev/console",
        |spec| spec.timeout = Duration::from_secs(600),
    );
    assert_eq!(flooded.ending, Ending::FloodedConsole);
    assert!(flooded.console.metadata().unwrap().len() < 16 << 20);

    // Half of a memory as files and the rest as a process, of which the kernel rids itself.
    let starved = guest(
        path,
        "dd if=/dev/zero of=/tmp/filler bs=1M; tail /dev/zero",
        |spec| spec.memory_mib = SMALL_MIB,
    );
    assert_eq!(starved.ending, Ending::PoweredOff);
    assert!(starved.ran_out_of_memory("round"));

    // Files alone, which no killing frees. Whether enough is left to power off with is chance, so the
    // kernel is told to give up at once.
    let drowned = guest(
        path,
        "echo 1 > /proc/sys/vm/panic_on_oom; for place in /tmp /run /dev/shm; do dd if=/dev/zero of=$place/filler bs=1M; done",
        |spec| spec.memory_mib = SMALL_MIB,
    );
    assert_eq!(drowned.ending, Ending::Panicked);
    assert!(drowned.ran_out_of_memory("round"));

    let unbootable = guest(path, "true", |spec| {
        spec.kernel_arguments.push("rdinit=/nothing".to_owned());
    });
    assert_eq!(unbootable.ending, Ending::Panicked);

    let bare = guest(path, "true", |spec| spec.regions.clear());
    assert_eq!(bare.ending, Ending::PoweredOff);
    assert!(
        bare.errors.iter().any(|error| error.contains("/dev/pmem0")),
        "{:?}",
        bare.errors
    );
}

/// A kernel that lacks what judging it needs is refused before it is booted.
#[test]
fn a_configuration_that_will_not_do_is_told_with_its_cure() {
    let cache = Cache::open().unwrap();
    let kernel = kernel(&cache);
    let directory = tempfile::tempdir().unwrap();
    let modules = directory.path().join(&kernel.release);
    std::fs::create_dir(&modules).unwrap();
    let config = std::fs::read_to_string(&kernel.config).unwrap();
    std::fs::write(
        modules.join("config"),
        config.replace("CONFIG_DEBUG_INFO_BTF=y\n", ""),
    )
    .unwrap();
    let output = Command::new(BINARY)
        .arg("ci")
        .arg(format!(
            "image:{},{}",
            kernel.vmlinuz.display(),
            modules.display()
        ))
        .arg("-o")
        .arg(directory.path().join("out"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("CONFIG_DEBUG_INFO_BTF=y"), "{error}");
}
