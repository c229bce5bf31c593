//! QEMU's command line, and which accelerator works on this host.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::cache::Cache;
use super::depends::decompress;
use super::kernel::Kernel;

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// A kernel under KVM panics for want of a root within two seconds.
const PROBE_LIMIT: Duration = Duration::from_secs(15);

/// How the guest's instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By translation; slower, works everywhere.
    Tcg,
}

impl Accelerator {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// One machine.
#[derive(Debug)]
pub struct Machine<'a> {
    /// How to execute.
    pub accelerator: Accelerator,
    /// Image given to `-kernel`: a bzImage, or an ELF with a PVH entry.
    pub image: &'a Path,
    /// The guest's root, if any.
    pub initramfs: Option<&'a Path>,
    /// Kernel command line.
    pub command_line: &'a str,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// Directory shared over 9p with its mount tag.
    pub share: Option<(&'a Path, &'a str)>,
}

impl Machine<'_> {
    /// The command; the serial console is its stdout.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(PROGRAM);
        command
            .args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"])
            .args(["-serial", "stdio"])
            .args(self.accelerator.arguments())
            .args(["-smp", &self.cpus.to_string()])
            .args(["-m", &format!("{}M", self.memory_mib)])
            .arg("-kernel")
            .arg(self.image)
            .args(["-append", self.command_line]);
        if let Some(initramfs) = self.initramfs {
            command.arg("-initrd").arg(initramfs);
        }
        if let Some((directory, tag)) = self.share {
            let path = directory
                .to_str()
                .filter(|path| !path.contains(','))
                .ok_or_else(|| {
                    anyhow!(
                        "{} cannot be shared: its name has a comma or is no UTF-8",
                        directory.display()
                    )
                })?;
            command.arg("-virtfs").arg(format!(
                "local,path={path},mount_tag={tag},security_model=none,multidevs=remap"
            ));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        die_with_parent(&mut command);
        Ok(command)
    }
}

/// Lets the kernel kill the child when the thread that starts it ends.
fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
}

/// A running QEMU that does not outlive its owner.
#[derive(Debug)]
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The accelerator that works here; tried once in a process by booting the kernel,
/// because `/dev/kvm` may exist and still not run a guest.
pub fn accelerator(kernel: &Kernel) -> Accelerator {
    static ANSWER: OnceLock<Accelerator> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let usable = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        if usable && boots_under_kvm(&kernel.vmlinuz).unwrap_or(false) {
            Accelerator::Kvm
        } else {
            Accelerator::Tcg
        }
    })
}

/// Without a root the kernel panics, and with `panic=-1` QEMU then ends by itself.
fn boots_under_kvm(image: &Path) -> Result<bool> {
    let machine = Machine {
        accelerator: Accelerator::Kvm,
        image,
        initramfs: None,
        command_line: "panic=-1 quiet",
        memory_mib: 512,
        cpus: 2,
        share: None,
    };
    let mut command = machine.command()?;
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = Guarded(command.spawn().with_context(missing_program)?);
    let started = Instant::now();
    while started.elapsed() < PROBE_LIMIT {
        if let Some(status) = child.0.try_wait()? {
            return Ok(status.success());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}

pub(crate) fn missing_program() -> String {
    format!("cannot run {PROGRAM}; `apt-get install qemu-system-x86`")
}

/// The uncompressed kernel, taken out of the bzImage once: booted through its PVH entry
/// it saves the guest the decompression, half a second without KVM. The bzImage itself
/// if that does not work.
pub fn boot_image(cache: &Cache, kernel: &Kernel) -> PathBuf {
    let Some(key) = kernel.origin.key() else {
        return kernel.vmlinuz.clone();
    };
    let item = cache.item(&format!("images/{key}"), |staging| {
        let image = fs::read(&kernel.vmlinuz)?;
        let mut file = fs::File::create(staging.dir.join("vmlinux"))?;
        file.write_all(&uncompressed(&image)?)?;
        Ok(())
    });
    item.map_or_else(|_| kernel.vmlinuz.clone(), |item| item.join("vmlinux"))
}

/// The payload of a bzImage (Documentation/arch/x86/boot.rst, protocol 2.08).
fn uncompressed(image: &[u8]) -> Result<Vec<u8>> {
    let field = |at: usize| -> Result<usize> {
        let bytes = image
            .get(at..at + 4)
            .ok_or_else(|| anyhow!("the image is cut short"))?;
        Ok(usize::try_from(u32::from_le_bytes(bytes.try_into()?))?)
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("not a bzImage");
    }
    let sectors = match image[0x1f1] {
        0 => 4,
        count => usize::from(count),
    };
    let start = (sectors + 1) * 512 + field(0x248)?;
    // The last four bytes are the size of the uncompressed kernel.
    let end = start + field(0x24c)?.saturating_sub(4);
    let payload = image
        .get(start..end)
        .ok_or_else(|| anyhow!("the image is cut short"))?;
    let kernel = decompress(payload.to_vec())?;
    if !kernel.starts_with(b"\x7fELF") || !has_pvh_note(&kernel) {
        bail!("the kernel has no PVH entry");
    }
    Ok(kernel)
}

/// Looks for the note `Xen`, type 18 (XEN_ELFNOTE_PHYS32_ENTRY).
fn has_pvh_note(kernel: &[u8]) -> bool {
    let mut wanted = [4u32.to_le_bytes(), 8u32.to_le_bytes(), 18u32.to_le_bytes()].concat();
    wanted.extend_from_slice(b"Xen\0");
    let notes = super::elf::section(kernel, ".notes").unwrap_or_default();
    notes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_what_was_asked_for() {
        let machine = Machine {
            accelerator: Accelerator::Tcg,
            image: Path::new("/k/vmlinux"),
            initramfs: Some(Path::new("/k/initramfs")),
            command_line: "console=ttyS0",
            memory_mib: 3072,
            cpus: 2,
            share: Some((Path::new("/tmp/out"), "result")),
        };
        let command = machine.command().unwrap();
        let line: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        let line = line.join(" ");
        assert!(
            line.contains("-accel tcg,thread=multi -cpu max -smp 2 -m 3072M"),
            "{line}"
        );
        assert!(
            line.contains("local,path=/tmp/out,mount_tag=result"),
            "{line}"
        );
        let comma = Machine {
            share: Some((Path::new("/tmp/a,b"), "result")),
            ..machine
        };
        assert!(comma.command().is_err());
    }

    #[test]
    fn what_is_no_bzimage_is_refused() {
        assert!(uncompressed(b"").is_err());
        assert!(uncompressed(&[0; 4096]).is_err());
    }
}
