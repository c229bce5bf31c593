//! `faultline work` when the ground gives way: a disk that fills, a filesystem that goes away, workers
//! that are killed. On filesystems of its own, which needs root and loop devices.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        statvfs::statvfs,
    },
    unistd::Pid,
};

const BINARY: &str = env!("CARGO_BIN_EXE_faultline");
/// No run may take longer to end once it has a reason to.
const PATIENCE: Duration = Duration::from_secs(60);
const FILE: u64 = 4 << 20;

/// A filesystem in a file, mounted.
struct Mount {
    place: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    if !output.status.success() {
        eprintln!("{program}: {}", text(&output.stderr));
    }
    output.status.success()
}

impl Mount {
    fn new(kind: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test mounts filesystems and needs root"
        );
        let mount = Self {
            place: tempfile::tempdir().unwrap(),
        };
        let image = File::create(mount.image()).unwrap();
        image.set_len(320 << 20).unwrap();
        fs::create_dir(mount.path()).unwrap();
        let quiet: &[&str] = match kind {
            "xfs" => &["-q", "-m", "reflink=1"],
            _ => &["-q", "-F", "-b", "4096", "-m", "0"],
        };
        let image = mount.image();
        let arguments = [quiet, &[image.to_str().unwrap()]].concat();
        assert!(run(&format!("mkfs.{kind}"), &arguments));
        mount.mount("loop");
        mount
    }

    fn image(&self) -> PathBuf {
        self.place.path().join("image")
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("mnt")
    }

    fn mount(&self, options: &str) {
        let (image, path) = (self.image(), self.path());
        let arguments = [
            "-o",
            options,
            image.to_str().unwrap(),
            path.to_str().unwrap(),
        ];
        assert!(run("mount", &arguments), "loop devices are needed");
    }

    fn unmount(&self, how: &[&str]) {
        let path = self.path();
        assert!(run("umount", &[how, &[path.to_str().unwrap()]].concat()));
    }

    fn work(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .arg("work")
            .args(arguments)
            .arg(self.path())
            .current_dir(self.place.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A run that has filled its first file.
    fn started(&self, arguments: &[&str]) -> Child {
        let mut child = self.work(arguments).spawn().unwrap();
        let data = self.sandbox(&child).join("data.1");
        until("the run has its file", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended early: {ended:?}");
            fs::metadata(&data).is_ok_and(|data| data.len() >= FILE)
        });
        child
    }

    fn sandbox(&self, child: &Child) -> PathBuf {
        self.path().join(format!("faultline-work.{}", child.id()))
    }

    fn leaves_nothing(&self) {
        let left: Vec<_> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.to_string_lossy().starts_with("faultline-work."))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let path = self.path();
        run("umount", &["-q", "-l", path.to_str().unwrap()]);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The run's end, which must come soon.
fn ended(mut child: Child) -> Output {
    until("the run ends", || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

fn fails_with(output: &Output, words: &str) {
    let error = text(&output.stderr);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{out}{error}");
    assert!(error.contains(words), "{error}");
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

/// Processes that the run has forked.
fn children(child: &Child) -> Vec<u32> {
    let tasks = format!("/proc/{}/task", child.id());
    fs::read_dir(tasks)
        .unwrap()
        .flat_map(|task| fs::read_to_string(task.unwrap().path().join("children")))
        .flat_map(|pids| {
            let pids = pids.split_whitespace().map(|pid| pid.parse().unwrap());
            pids.collect::<Vec<_>>()
        })
        .collect()
}

fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Takes all space but so many bytes.
fn fill(directory: &Path, rest: u64) {
    let file = File::create(directory.join("ballast")).unwrap();
    let mut offset = 0;
    // In pieces, down to a block: what is free is not in one piece.
    let mut piece = 64 << 20;
    while piece >= 4096 {
        let space = statvfs(directory).unwrap();
        let free = space.blocks_available() * space.fragment_size();
        let grown = free >= rest + piece && {
            let flags = nix::fcntl::FallocateFlags::empty();
            nix::fcntl::fallocate(&file, flags, offset as i64, piece as i64).is_ok()
        };
        match grown {
            true => offset += piece,
            false => piece /= 2,
        }
    }
}

#[test]
fn a_full_disk_is_told_at_the_start_and_amid_the_run() {
    for kind in ["xfs", "ext4"] {
        let mount = Mount::new(kind);
        fill(&mount.path(), FILE / 2);
        let output = mount.work(&["punch-vs-fault"]).output().unwrap();
        fails_with(&output, "no space left");
        mount.leaves_nothing();
        fs::remove_file(mount.path().join("ballast")).unwrap();

        // Holes are punched and filled again all the time; what they leave is taken.
        let child = mount.started(&["punch-vs-fault", "--time", "5m"]);
        let mut child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while child.as_mut().unwrap().try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < deadline,
                "{kind}: it goes on without space"
            );
            fill(&mount.path(), 0);
        }
        let output = ended(child.take().unwrap());
        fails_with(&output, "no space left");
        mount.leaves_nothing();
    }
}

#[test]
fn a_filesystem_that_shuts_down_is_told_and_what_is_left_goes_later() {
    for kind in ["xfs", "ext4"] {
        let mount = Mount::new(kind);
        let child = mount.started(&["fsync-vs-fault", "--time", "5m"]);
        let root = File::open(mount.path()).unwrap();
        // Without flushing the log.
        let mut flag = 2;
        // SAFETY: the request reads the word.
        unsafe { shut_down(root.as_raw_fd(), &mut flag) }.unwrap();
        drop(root);
        let output = ended(child);
        fails_with(&output, "is gone or has shut down");
        mount.unmount(&[]);
        mount.mount("loop");
        let output = mount.work(&["punch-vs-fault", "--ops", "50"]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        mount.leaves_nothing();
    }
}

nix::ioctl_read! {
    /// XFS_IOC_GOINGDOWN of xfs_fs.h, EXT4_IOC_SHUTDOWN of ext4.h; it only reads, in spite of its
    /// number.
    shut_down, b'X', 125, u32
}

#[test]
fn a_mount_that_goes_away_is_told_and_its_files_are_removed() {
    let mount = Mount::new("xfs");
    let child = mount.started(&["punch-vs-fault", "--time", "1s"]);
    mount.unmount(&["-l"]);
    let output = ended(child);
    fails_with(&output, "was unmounted");
    until("the filesystem is let go", || {
        let (image, path) = (mount.image(), mount.path());
        run(
            "mount",
            &[
                "-o",
                "loop",
                image.to_str().unwrap(),
                path.to_str().unwrap(),
            ],
        )
    });
    mount.leaves_nothing();
}

#[test]
fn a_read_only_filesystem_and_one_that_is_not_there_are_refused() {
    let mount = Mount::new("ext4");
    mount.unmount(&[]);
    mount.mount("loop,ro");
    let output = mount.work(&["mix"]).output().unwrap();
    fails_with(&output, "read-only");
    mount.unmount(&[]);
    fs::remove_dir(mount.path()).unwrap();
    let output = mount.work(&["mix"]).output().unwrap();
    fails_with(&output, "No such file or directory");
}

#[test]
fn a_killed_worker_ends_the_run() {
    let mount = Mount::new("xfs");
    let arguments = ["punch-vs-fault", "--time", "5m", "--processes", "3"];
    let child = mount.started(&arguments);
    let mut workers = Vec::new();
    until("it has workers", || {
        workers = children(&child);
        workers.len() == 2
    });
    send(workers[0], Signal::SIGKILL);
    let output = ended(child);
    fails_with(
        &output,
        &format!("worker process {} was ended by SIGKILL", workers[0]),
    );
    until("the other ends, too", || !alive(workers[1]));
    mount.leaves_nothing();
}

#[test]
fn a_killed_run_takes_its_workers_along_and_the_next_removes_its_files() {
    let mount = Mount::new("ext4");
    let arguments = ["punch-vs-fault", "--time", "5m", "--processes", "3"];
    let mut child = mount.started(&arguments);
    let mut workers = Vec::new();
    until("it has workers", || {
        workers = children(&child);
        workers.len() == 2
    });
    let left = mount.sandbox(&child);
    child.kill().unwrap();
    child.wait().unwrap();
    until("its workers end", || !workers.iter().any(|&pid| alive(pid)));
    assert!(left.exists());
    let stranger = mount.path().join("faultline-work.mine");
    fs::create_dir(&stranger).unwrap();
    let output = mount.work(&["punch-vs-fault", "--ops", "50"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!left.exists());
    fs::remove_dir(stranger).unwrap();
    mount.leaves_nothing();
}

/// The child that freezes is killed, at a time when the filesystem is frozen as likely as not.
#[test]
fn a_filesystem_is_thawed_whoever_is_killed() {
    for whole in [false, true] {
        let mount = Mount::new("xfs");
        let mut child = mount.started(&["freeze-vs-fault", "--time", "5m"]);
        let mut helpers = Vec::new();
        until("it has its helper", || {
            helpers = children(&child);
            helpers.len() == 1
        });
        std::thread::sleep(Duration::from_millis(300));
        if whole {
            child.kill().unwrap();
            child.wait().unwrap();
            until("its helper ends", || !alive(helpers[0]));
        } else {
            send(helpers[0], Signal::SIGKILL);
            fails_with(&ended(child), "was killed");
            mount.leaves_nothing();
        }
        // It would wait for ever.
        fs::write(mount.path().join("thawed"), "yes").unwrap();
    }
}

nix::ioctl_readwrite! {
    /// FIFREEZE of linux/fs.h.
    freeze, b'X', 119, i32
}
nix::ioctl_readwrite! {
    /// FITHAW of linux/fs.h.
    thaw, b'X', 120, i32
}

/// A filesystem that is frozen until this is dropped.
struct Frozen(File);

impl Frozen {
    fn new(directory: &Path) -> Self {
        let root = File::open(directory).unwrap();
        // SAFETY: the argument is not used.
        unsafe { freeze(root.as_raw_fd(), &mut 0) }.unwrap();
        Self(root)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: the argument is not used.
        unsafe { thaw(self.0.as_raw_fd(), &mut 0) }.unwrap();
    }
}

#[test]
fn threads_that_stay_in_the_kernel_are_told_of() {
    let mount = Mount::new("xfs");
    let mut child = mount.started(&["punch-vs-fault", "--time", "2s"]);
    let frozen = Frozen::new(&mount.path());
    let mut told = String::new();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    while errors.read_line(&mut told).unwrap() > 0 && !told.contains("did not come back") {}
    assert!(told.contains("did not come back within 10 s"), "{told}");
    drop(frozen);
    let status = ended(child).status;
    assert_eq!(status.code(), Some(3));
    let output = mount.work(&["punch-vs-fault", "--ops", "50"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    mount.leaves_nothing();
}

#[test]
fn sigbus_ends_no_run_in_disorder() {
    let mount = Mount::new("xfs");
    let output = mount
        .work(&["truncate-vs-fault", "--time", "2s", "--format", "json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(summary["bus_errors"].as_u64().unwrap() > 0, "{summary:#}");

    // Sent by someone: an order to end, like others.
    let child = mount.started(&["punch-vs-fault", "--time", "5m"]);
    send(child.id(), Signal::SIGBUS);
    let output = ended(child);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("ended early by SIGBUS"));
    mount.leaves_nothing();

    // Someone cuts the file: pages within it have no block any more, and that is told.
    let child = mount.started(&["fsync-vs-fault", "--time", "3s"]);
    let data = mount.sandbox(&child).join("data.1");
    let file = File::options().write(true).open(data).unwrap();
    file.set_len(0).unwrap();
    let output = ended(child);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("SIGBUS in block"));
    mount.leaves_nothing();
}

#[test]
fn a_directory_that_is_not_its_own_is_left_alone() {
    let mount = Mount::new("ext4");
    let script = "mkdir faultline-work.$$ && echo precious > faultline-work.$$/data.1 && exec \"$0\" work mix .";
    let output = Command::new("sh")
        .args(["-c", script, BINARY])
        .current_dir(mount.path())
        .output()
        .unwrap();
    fails_with(&output, "was not made by faultline");
    let mut entries = fs::read_dir(mount.path()).unwrap().map(Result::unwrap);
    let kept = entries
        .find(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("faultline-work.")
        })
        .unwrap();
    let data = File::open(kept.path().join("data.1")).unwrap();
    let mut bytes = [0; 8];
    data.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"precious");
}
