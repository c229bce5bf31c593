//! Wrong input ends in one line on stderr that names cause and cure, and exit status 2.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Output},
};

const BINARY: &str = env!("CARGO_BIN_EXE_faultline");

fn faultline(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

/// The one line that the run ends with.
fn refusal(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let lines: Vec<&str> = stderr.lines().collect();
    let [.., last] = lines[..] else {
        panic!("no word of why")
    };
    assert!(last.starts_with("faultline: "), "{stderr}");
    last.to_owned()
}

fn analyze(path: &Path) -> String {
    refusal(&faultline(&["analyze", path.to_str().unwrap()]))
}

#[test]
fn what_is_no_trace() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let missing = analyze(&directory.path().join("missing.flt"));
    assert!(missing.contains("missing.flt"), "{missing}");
    let text = analyze(&file("notes.txt", b"not a trace at all, but some text\n"));
    assert!(
        text.contains("notes.txt") && text.contains("not a"),
        "{text}"
    );
    let empty = analyze(&file("empty.flt", b""));
    assert!(empty.contains("empty"), "{empty}");
    let folder = analyze(directory.path());
    assert!(folder.contains("directory"), "{folder}");
}

#[test]
fn a_trace_of_a_newer_version() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("newer.flt");
    let mut bytes = tracer::trace::format::FILE_MAGIC.to_vec();
    bytes.extend_from_slice(&(tracer::trace::format::VERSION + 1).to_le_bytes());
    bytes.resize(4096, 0);
    fs::write(&path, bytes).unwrap();
    let line = analyze(&path);
    let newer = (tracer::trace::format::VERSION + 1).to_string();
    assert!(line.contains("newer") && line.contains(&newer), "{line}");
}

#[test]
fn recording_without_root() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("faultline");
    // By another process: a descriptor open for writing in this one could leak into a concurrent
    // test's child, and the copy would be busy.
    assert!(
        Command::new("cp")
            .arg(BINARY)
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(directory.path(), open).unwrap();
    let mut command = Command::new(&copy);
    command.args(["record", "--", "true"]).current_dir("/tmp");
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let line = refusal(&command.output().unwrap());
    assert!(line.contains("root"), "{line}");
}

#[test]
fn a_workload_that_is_not_there() {
    let line = refusal(&faultline(&["work", "no-such-scenario", "/tmp"]));
    assert!(line.contains("no-such-scenario"), "{line}");
    let line = refusal(&faultline(&["work", "punch-vs-fault", "/no/such/place"]));
    assert!(line.contains("/no/such/place"), "{line}");
    let line = refusal(&faultline(&["work", "punch-vs-fault"]));
    assert!(line.contains("directory"), "{line}");
}

#[test]
fn a_demo_and_a_kernel_that_are_not_there() {
    let line = refusal(&faultline(&["demo", "no-such-run"]));
    assert!(line.contains("no-such-run"), "{line}");
    let line = refusal(&faultline(&[
        "vm",
        "--patch",
        "/no/such.patch",
        "--module",
        "vfat",
        "--",
        "true",
    ]));
    assert!(line.contains("vfat"), "{line}");
}

#[test]
fn the_list_of_scenarios_is_on_stdout() {
    let output = faultline(&["work", "list"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for name in ["punch-vs-fault", "truncate-vs-fault", "mkwrite-vs-punch"] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{text}");
    }
}
