//! The guest's system calls: mounts, modules, devices, the loopback interface, power.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};

use crate::lab::job::{FilesystemJob, MODULE_DIR, RESULT_DIR, RESULT_TAG};

/// Pseudo filesystem, mount point, options, whether the guest cannot do without it.
type Pseudo = (&'static str, &'static str, &'static str, bool);

const PSEUDO: &[Pseudo] = &[
    ("proc", "/proc", "", true),
    ("sysfs", "/sys", "", true),
    ("devtmpfs", "/dev", "", true),
    ("tmpfs", "/tmp", "mode=1777", true),
    ("tmpfs", "/run", "mode=755", true),
    ("tmpfs", "/dev/shm", "mode=1777", false),
    ("devpts", "/dev/pts", "ptmxmode=666", false),
    ("tracefs", "/sys/kernel/tracing", "", false),
    ("debugfs", "/sys/kernel/debug", "", false),
    ("bpf", "/sys/fs/bpf", "", false),
    ("cgroup2", "/sys/fs/cgroup", "", false),
];

/// Large messages and mmap; nothing is kept back from the host.
const SHARE_OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=262144,cache=mmap";

/// Mounts the pseudo filesystems; returns what failed and may be missing.
///
/// # Errors
/// One of those that must be there cannot be mounted.
pub(super) fn mount_pseudo_filesystems() -> Result<Vec<String>> {
    let mut failed = Vec::new();
    for (kind, target, options, required) in PSEUDO {
        let mounted = fs::create_dir_all(target)
            .map_err(anyhow::Error::from)
            .and_then(|()| mount_at(kind, kind, target, options));
        match mounted {
            Ok(()) => {}
            Err(error) if *required => return Err(error),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    Ok(failed)
}

fn mount_at(source: &str, kind: &str, target: &str, options: &str) -> Result<()> {
    match mount(
        Some(source),
        target,
        Some(kind),
        MsFlags::empty(),
        Some(options),
    ) {
        // The kernel mounts devtmpfs by itself when configured so.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("cannot mount {kind} on {target}")),
    }
}

/// Mounts the directory shared with the host.
///
/// # Errors
/// The 9p modules are not loaded or QEMU offers no such tag.
pub(super) fn mount_share() -> Result<()> {
    fs::create_dir_all(RESULT_DIR)?;
    mount_at(RESULT_TAG, "9p", RESULT_DIR, SHARE_OPTIONS)
}

/// Mounts a filesystem of the job.
///
/// # Errors
/// mount(2) fails; the kernel log says why.
pub(super) fn mount_filesystem(filesystem: &FilesystemJob) -> Result<()> {
    fs::create_dir_all(&filesystem.target)?;
    let kind = filesystem.kind.module();
    mount(
        Some(filesystem.device.as_str()),
        filesystem.target.as_str(),
        Some(kind),
        MsFlags::empty(),
        Some(filesystem.options.as_str()),
    )
    .with_context(|| {
        format!(
            "cannot mount it; the kernel log ends with: {}",
            last_log_line()
        )
    })
}

/// The line of `/proc/mounts` for a mount point.
pub(super) fn mount_line(target: &str) -> Option<String> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == Some(target))
        .map(str::to_owned)
}

/// Loads a module from the initramfs, with its parameters.
///
/// # Errors
/// The kernel refuses it; its log says why.
pub(super) fn load_module(name: &str, parameters: &str) -> Result<()> {
    let path = Path::new(MODULE_DIR).join(name);
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let parameters = CString::new(parameters)?;
    match finit_module(&file, &parameters, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno).with_context(|| {
            format!(
                "cannot load {name}; the kernel log ends with: {}",
                last_log_line()
            )
        }),
    }
}

/// Removes a module; what still holds it right after an unmount lets go within moments.
///
/// # Errors
/// Something holds it on, or the removal hangs.
pub(super) fn remove_module_within(name: &str, limit: Duration) -> Result<()> {
    let (sender, receiver) = mpsc::channel();
    let module = CString::new(name)?;
    std::thread::spawn(move || {
        let deadline = Instant::now() + limit;
        let result = loop {
            match delete_module(&module, DeleteModuleFlags::O_NONBLOCK) {
                Err(Errno::EAGAIN | Errno::EBUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => break result,
            }
        };
        // The receiver is gone if the time was up.
        let _ = sender.send(result);
    });
    receiver
        .recv_timeout(limit * 2)
        .with_context(|| format!("removing module {name} hangs for {} s", limit.as_secs() * 2))?
        .with_context(|| format!("cannot remove module {name}"))
}

/// Waits until a device node is there.
///
/// # Errors
/// It does not appear in time.
pub(super) fn wait_for(device: &Path, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !device.exists() {
        if Instant::now() >= deadline {
            bail!(
                "{} did not appear within {} s; there are: {}",
                device.display(),
                limit.as_secs(),
                pmem_devices().join(" ")
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn pmem_devices() -> Vec<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Gives tasks long time slices. With lazy preemption (the only mode of 7.x but full) the tick
/// takes the processor from a task inside an eBPF program, and the kernel then skips that
/// program for others on this processor (kernel/bpf/trampoline.c); emulated programs last long
/// enough for that to spoil whole runs. No-one is starved: a task that sleeps leaves anyway.
///
/// # Errors
/// The scheduler has no such knob.
pub(super) fn lengthen_slices() -> Result<()> {
    const SLICE: &str = "/sys/kernel/debug/sched/base_slice_ns";
    fs::write(SLICE, "100000000").with_context(|| format!("cannot write {SLICE}"))
}

/// Whether the kernel's lock validator is on (kernel/locking/lockdep_proc.c); `None` if there is none.
pub(super) fn lock_validator() -> Option<bool> {
    let text = fs::read_to_string("/proc/lockdep_stats").ok()?;
    let value = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("debug_locks:"))?;
    Some(value.trim() != "0")
}

/// Brings `lo` up.
///
/// # Errors
/// The kernel has no network or refuses.
pub(super) fn raise_loopback() -> Result<()> {
    // SAFETY: plain system call; the result is checked.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error()).context("cannot bring lo up: no socket");
    }
    // SAFETY: the descriptor was just opened and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request lives across the call and has the type the command expects.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot bring lo up");
    }
    Ok(())
}

/// Seconds since the kernel started.
pub(super) fn uptime() -> f64 {
    fs::read_to_string("/proc/uptime")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or_default()
}

/// `uname -r`.
pub(super) fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Prints a line on the console in one write, so that it is not torn by the kernel's.
pub(super) fn console_line(line: &str) -> io::Result<()> {
    let text = format!("{line}\n");
    match File::options().write(true).open("/dev/console") {
        Ok(mut console) => console.write_all(text.as_bytes()),
        Err(_) => io::stderr().write_all(text.as_bytes()),
    }
}

/// The kernel's log since it was last taken, which it is herewith.
pub(super) fn take_kernel_log() -> String {
    const SYSLOG_ACTION_READ_CLEAR: libc::c_int = 4;
    read_log(SYSLOG_ACTION_READ_CLEAR)
}

fn read_log(action: libc::c_int) -> String {
    const SYSLOG_ACTION_SIZE_BUFFER: libc::c_int = 10;
    // SAFETY: this action takes no buffer.
    let size = unsafe { libc::klogctl(SYSLOG_ACTION_SIZE_BUFFER, std::ptr::null_mut(), 0) }.max(0);
    let mut buffer = vec![0u8; usize::try_from(size).unwrap_or_default()];
    // SAFETY: the buffer is as large as said.
    let read = unsafe { libc::klogctl(action, buffer.as_mut_ptr().cast(), size) };
    buffer.truncate(usize::try_from(read).unwrap_or_default());
    String::from_utf8_lossy(&buffer).into_owned()
}

fn last_log_line() -> String {
    const SYSLOG_ACTION_READ_ALL: libc::c_int = 3;
    read_log(SYSLOG_ACTION_READ_ALL)
        .lines()
        .last()
        .unwrap_or("(nothing)")
        .to_owned()
}

/// Syncs and unmounts, the last mounted first.
///
/// # Errors
/// It is not done in time: something hangs in the kernel. Or a mount is still in use, and
/// was detached.
pub(super) fn unmount_within(targets: Vec<String>, limit: Duration) -> Result<()> {
    if targets.is_empty() {
        return Ok(());
    }
    let (sender, receiver) = mpsc::channel();
    let names = targets.join(", ");
    std::thread::spawn(move || {
        // The receiver is gone if the time was up.
        let _ = sender.send(unmount_all(&targets));
    });
    receiver
        .recv_timeout(limit)
        .with_context(|| format!("unmounting {names} hangs for {} s", limit.as_secs()))?
}

fn unmount_all(targets: &[String]) -> Result<()> {
    let mut result = Ok(());
    for target in targets.iter().rev() {
        match umount2(target.as_str(), MntFlags::empty()) {
            // Nothing is mounted there: a command was at it before.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => {
                // Detaching never fails on a mount point, and the next sync still covers it.
                let _ = umount2(target.as_str(), MntFlags::MNT_DETACH);
                result = Err(errno).with_context(|| format!("cannot unmount {target}"));
            }
        }
    }
    result
}

/// Ends the machine.
pub(super) fn power_off() -> ! {
    // Returns only on an error, and then pid 1's end stops the machine all the same.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    std::process::exit(1)
}
