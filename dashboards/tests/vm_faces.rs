//! The live faces in the VM, over a kernel at work: what `top` shows, what `watch` serves, and that nothing
//! stays attached, whatever way they end.
//!
//! Needs QEMU, and on the first run the package mirror: `make setup`.

mod on_terminal;
mod vm_site;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use on_terminal::OnTerminal;
use vm_site::{alone, on_site};
use workloads::lab::{CommandJob, HostBinary, RoundSpec, Vm, VmSpec};

const MOUNT: &str = "/mnt/xfs";
/// Tells this program that it runs in the guest.
const IN_GUEST: &str = "FAULTLINE_IN_GUEST";
/// For anything that is waited for in the guest, on a machine busy with other things; attaching takes longest.
const PATIENCE: Duration = Duration::from_secs(180);
/// Boot and all.
const LIMIT: Duration = Duration::from_secs(500);

/// Carries itself into the guest, where its other half has the terminal and the kernel to itself.
#[test]
fn live_faces_show_the_present_and_leave_nothing_behind() {
    if std::env::var_os(IN_GUEST).is_some() {
        return in_guest();
    }
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let (outcome, told) = on_site(directory.path(), |site, say| {
        let mut job = CommandJob::new("faces", &["/usr/bin/vm_faces", "--nocapture"]);
        job.env.insert(IN_GUEST.to_owned(), "1".to_owned());
        job.timeout_seconds = LIMIT.as_secs();
        let mut round = RoundSpec::new("round");
        round.commands = vec![job];
        let mut spec = VmSpec::new(site.kernel, site.binary, vec![round]);
        spec.host_binaries.push(HostBinary {
            source: this.to_string_lossy().into_owned(),
            target: "/usr/bin/vm_faces".to_owned(),
        });
        spec.result_dir = Some(directory.path().to_owned());
        spec.timeout = LIMIT;
        let outcome = Vm::run(site.cache, &spec, say).unwrap();
        let told: String = ["faces.stdout", "faces.stderr"]
            .iter()
            .filter_map(|name| fs::read_to_string(directory.path().join(name)).ok())
            .collect();
        (outcome, told)
    });
    eprintln!("{told}");
    assert!(
        outcome.succeeded() && told.contains("1 passed"),
        "the guest {}, {:?}, {:?}\n{}",
        outcome.ending.words(),
        outcome.outcome,
        outcome.splats,
        outcome.console_tail(30)
    );
}

/// How `faultline` is started, what is looked at, and how it ends.
type Session = (&'static [&'static str], fn(&mut OnTerminal), End);

/// What ends a session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Key(&'static str),
    Signal(Signal),
}

fn in_guest() {
    assert_eq!(attached(), 0);
    let workload = Workload::start();
    // Once is enough to have seen everything; --light has fewer hooks to attach.
    let sessions: [Session; 3] = [
        (&["top", MOUNT], look_around, End::Key("q")),
        (
            &["top", "--light", MOUNT],
            count_on,
            End::Signal(Signal::SIGTERM),
        ),
        (
            &["top", "--light", MOUNT],
            count_on,
            End::Signal(Signal::SIGKILL),
        ),
    ];
    for (arguments, look, end) in sessions {
        let started = Instant::now();
        let mut top = workload.during_change(|| {
            let mut top = OnTerminal::start("faultline", arguments, PATIENCE);
            top.until("Overview");
            top
        });
        eprintln!("attached after {:?}", started.elapsed());
        assert_ne!(attached(), 0);
        look(&mut top);
        eprintln!("seen after {:?}", started.elapsed());
        workload.during_change(|| {
            match end {
                End::Key(key) => top.press(key),
                End::Signal(signal) => top.signal(signal),
            }
            let (status, said, _) = top.ended();
            let killed = end == End::Signal(Signal::SIGKILL);
            assert_eq!(status.success(), !killed, "{end:?}: {status} {said}");
            detached(&format!("{end:?}"));
        });
        eprintln!("detached after {:?}", started.elapsed());
    }
    scrape(&workload);
}

/// Functions with a hook.
fn attached() -> usize {
    let functions = fs::read_to_string("/sys/kernel/tracing/enabled_functions").unwrap();
    functions.lines().count()
}

/// Hooks go with the last user of their programs, which the kernel lets go of in its own time.
fn detached(after: &str) {
    wait_for(&format!("no hook after {after}"), || {
        (attached() == 0).then_some(())
    });
}

fn wait_for<T>(sought: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{sought}: not within {PATIENCE:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Punches holes beside page faults, from the beginning to the end.
struct Workload(Child);

impl Workload {
    fn start() -> Self {
        let child = Command::new("faultline")
            .args(["work", "punch-vs-fault", MOUNT, "--time", "1h"])
            .process_group(0)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    /// Does something while the workload stands still: hooks come and go by patching code, and the
    /// emulator may trip over its own translation of what is being patched.
    fn during_change<T>(&self, act: impl FnOnce() -> T) -> T {
        self.signal(Signal::SIGSTOP);
        wait_for("a workload that stands still", || {
            self.stands_still().then_some(())
        });
        let done = act();
        self.signal(Signal::SIGCONT);
        done
    }

    fn stands_still(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        tasks
            .map(|task| task.unwrap().path().join("stat"))
            .all(|path| {
                let stat = fs::read_to_string(path).unwrap_or_default();
                stat.rsplit_once(") ")
                    .is_some_and(|(_, rest)| rest.starts_with('T'))
            })
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// The numbers in the first row that begins with these words.
fn numbers(screen: &str, row: &str) -> Vec<f64> {
    let rest = screen
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(row));
    rest.unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// A number in a row, once it is more than `least`.
fn more(top: &mut OnTerminal, row: &str, least: f64) -> f64 {
    top.look(&format!("{row} above {least}"), |screen| {
        numbers(screen, row)
            .first()
            .copied()
            .filter(|&number| number > least)
    })
}

/// Rows of the screen but for the tabs, heads and the bottom.
fn body(screen: &str) -> impl Iterator<Item = &str> {
    let count = screen.lines().count();
    screen.lines().skip(2).take(count.saturating_sub(4))
}

/// Waits for a row of the body with these words.
fn until_row(top: &mut OnTerminal, words: &str) {
    top.look(words, |screen| {
        body(screen).find(|line| line.contains(words)).map(drop)
    });
}

fn look_around(top: &mut OnTerminal) {
    for row in ["events", "faults", "windows"] {
        more(top, row, 0.0);
    }
    // The first such row is that of all events.
    more(top, "now", 0.0);
    top.press("2");
    let taken = more(top, "xfs invalidate_lock", 0.0);
    more(top, "xfs invalidate_lock", taken);
    top.press("g");
    top.until("xfs i_rwsem in fallocate/PUNCH_HOLE");
    top.press("4");
    until_row(top, " holds ");
    top.press("6");
    // An event of a fault.
    until_row(top, "xfs_filemap_");
    top.press("5");
    top.until("no finding so far");
    top.press("3");
    // A window.
    until_row(top, "░");
    top.press("?");
    top.until("keys in Windows");
    top.press("?1");
    top.until("hooks attached");
    count_on(top);
}

/// Waits until more events have been told than there were.
fn count_on(top: &mut OnTerminal) {
    let seen = more(top, "live", 0.0);
    more(top, "live", seen);
}

fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    answer
}

/// The sum of a metric over its labels.
fn sum(metrics: &str, name: &str) -> f64 {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
    lines
        .filter(|rest| rest.starts_with(['{', ' ']))
        .map(|rest| rest.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum()
}

fn scrape(workload: &Workload) {
    let (mut watch, address) = workload.during_change(|| {
        let mut watch = Command::new("faultline")
            .args(["watch", "--listen", "127.0.0.1:0", MOUNT])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(watch.stderr.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let address = lines
            .filter_map(|line| {
                Some(
                    line.split_once("http://")?
                        .1
                        .trim_end_matches("/metrics")
                        .to_owned(),
                )
            })
            .next();
        (watch, address.expect("it ended without an address"))
    });
    assert_ne!(attached(), 0);
    let mut last = [0.0; 3];
    for _ in 0..3 {
        last = wait_for("counters that rise", || {
            let metrics = get(&address);
            let now = [
                "faultline_events_total",
                "faultline_lock_acquisitions_total",
                "faultline_window_duration_seconds_count",
            ]
            .map(|name| sum(&metrics, name));
            now.iter()
                .zip(last)
                .all(|(now, last)| *now > last)
                .then_some(now)
        });
    }
    let metrics = get(&address);
    assert_eq!(sum(&metrics, "faultline_findings"), 0.0, "{metrics}");
    assert_eq!(
        sum(&metrics, "faultline_events_lost_total"),
        0.0,
        "{metrics}"
    );
    workload.during_change(|| {
        kill(Pid::from_raw(watch.id() as i32), Signal::SIGTERM).unwrap();
        assert!(watch.wait().unwrap().success());
        detached("watch");
    });
}
