//! `faultline work` as its user meets it, on whatever filesystem holds temporary files.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const BINARY: &str = env!("CARGO_BIN_EXE_faultline");

fn work(arguments: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command
        .arg("work")
        .args(arguments)
        .arg(directory)
        .current_dir(directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The run's first file, once the run has filled it.
fn data(directory: &Path, child: &mut Child) -> PathBuf {
    let path = directory
        .join(format!("faultline-work.{}", child.id()))
        .join("data.1");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fs::metadata(&path).is_ok_and(|data| data.len() >= 4 << 20) {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        assert!(Instant::now() < deadline, "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    path
}

fn leaves_nothing(directory: &Path) {
    let left: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with("faultline-work."))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn lists_what_it_can_do() {
    let output = Command::new(BINARY)
        .args(["work", "list"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let list = text(&output.stdout);
    assert!(list.lines().count() >= 14, "{list}");
    assert!(list.lines().any(|line| line.starts_with("mix ")), "{list}");
}

#[test]
fn the_mix_finds_a_right_kernel_right() {
    let directory = tempfile::tempdir().unwrap();
    for processes in ["1", "3"] {
        let mut arguments = vec!["mix", "--time", "3s", "--seed", "7", "--format", "json"];
        arguments.extend(["--processes", processes, "--pin"]);
        let output = work(&arguments, directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(summary["violation_count"], 0, "{summary:#}");
        let kinds = summary["operations"].as_object().unwrap().len();
        assert!(kinds >= 8, "{summary:#}");
        leaves_nothing(directory.path());
    }
}

/// Someone else's data in a block that the run knows; worker processes read it, too.
fn spoiled(directory: &Path) -> Output {
    let mut arguments = vec!["fsync-vs-fault", "--time", "4s", "--log", "failed.log"];
    arguments.extend(["--processes", "2"]);
    let mut child = work(&arguments, directory).spawn().unwrap();
    let path = data(directory, &mut child);
    let file = File::options().write(true).open(path).unwrap();
    let block = [0x5a; 4096];
    for page in 0..1024 {
        file.write_all_at(&block, page * 4096).unwrap();
    }
    child.wait_with_output().unwrap()
}

#[test]
fn wrong_data_is_told_written_down_and_looked_for_again() {
    let directory = tempfile::tempdir().unwrap();
    let output = spoiled(directory.path());
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{error}");
    assert!(out.contains("garbage in block"), "{out}");
    assert!(error.contains("work fsync-vs-fault"), "{error}");
    assert!(error.contains("work shrink failed.log"), "{error}");
    leaves_nothing(directory.path());

    // It came from outside, so the same rounds are right.
    let log = directory.path().join("failed.log");
    let replay = work(&["replay", log.to_str().unwrap()], directory.path());
    let replay = { replay }.output().unwrap();
    assert!(replay.status.success(), "{}", text(&replay.stdout));
    let shrink = work(
        &["shrink", log.to_str().unwrap(), "--time", "2s"],
        directory.path(),
    );
    let shrink = { shrink }.output().unwrap();
    let error = text(&shrink.stderr);
    assert_eq!(shrink.status.code(), Some(2), "{error}");
    assert!(error.contains("did not fail again"), "{error}");
    leaves_nothing(directory.path());
}

#[test]
fn a_run_that_is_asked_to_end_ends_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = work(&["punch-vs-fault", "--time", "5m"], directory.path())
        .spawn()
        .unwrap();
    data(directory.path(), &mut child);
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("ended early by SIGTERM"));
    leaves_nothing(directory.path());
}

#[test]
fn what_cannot_be_done_is_told() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, words) in [
        (&["nonsense"][..], "no scenario"),
        (&["replay"], "name a log"),
        (&["punch-vs-fault", "--threads", "0"], "1 to 16"),
        (&["punch-vs-fault", "--processes", "9"], "1 to 16"),
        (&["replay", "/dev/null"], "no operation log"),
    ] {
        let output = work(arguments, directory.path()).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
}
