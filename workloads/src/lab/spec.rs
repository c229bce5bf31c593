//! What a run is asked for: kernel, machine, filesystems and commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::depends::{ModuleFile, ModuleIndex};
use super::initramfs::{self, Archive};
use super::job::{CommandJob, FilesystemJob, FilesystemKind, Job, MODULE_DIR, ModuleJob, Round};
use super::kernel::Kernel;
use super::qemu::Accelerator;
use super::virtiofs;

/// Modules every guest needs; those the kernel has built in are skipped.
const BASE_MODULES: &[&str] = &[
    "libnvdimm",
    "nd_pmem",
    "nd_e820",
    "virtio_pci",
    "9pnet_virtio",
    "9p",
];

/// Sections of the kernel's memory model; a region that is not aligned gets no device.
const ALIGNMENT_MIB: u32 = 128;

/// The kernel and its initramfs lie below.
const LOWEST_REGION_MIB: u32 = 512;

/// A piece of the guest's memory that it sees as persistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PmemRegion {
    /// Size in MiB; XFS needs 300.
    pub size_mib: u32,
    /// Physical address in MiB; a multiple of 128, below the hole under 4 GiB.
    pub start_mib: u32,
}

/// A module that replaces the kernel's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleOverride {
    /// Module name, `xfs`.
    pub name: String,
    /// The object.
    pub object: PathBuf,
}

/// A program of the host that the guest gets too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBinary {
    /// Name looked for in `PATH`, or a path.
    pub source: String,
    /// Path in the guest.
    pub target: String,
}

impl HostBinary {
    /// A program that keeps its name, in `/usr/bin`.
    pub fn named(name: &str) -> Self {
        let base = name.rsplit('/').next().unwrap_or(name);
        Self {
            source: name.to_owned(),
            target: format!("/usr/bin/{base}"),
        }
    }
}

/// Filesystems made afresh, with the kernel's own modules or others, and what to run on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundSpec {
    /// Names it; no slash, and no other round's.
    pub name: String,
    /// Filesystem modules that replace the kernel's own during this round.
    pub overrides: Vec<ModuleOverride>,
    /// Filesystems to make and mount.
    pub filesystems: Vec<FilesystemJob>,
    /// Commands to run; their names are no other round's.
    pub commands: Vec<CommandJob>,
}

impl RoundSpec {
    /// Both filesystems with DAX and their own modules, no commands.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            overrides: Vec::new(),
            filesystems: vec![FilesystemJob::xfs_dax(), FilesystemJob::ext4_dax()],
            commands: Vec::new(),
        }
    }
}

/// What to boot and what to do there.
#[derive(Debug, Clone)]
pub struct VmSpec<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Modules to load beyond those that the rounds need.
    pub modules: Vec<String>,
    /// What to do, one after the other.
    pub rounds: Vec<RoundSpec>,
    /// Becomes `/init` and `/usr/bin/faultline`; must call [`super::guest::run`] as pid 1.
    pub binary: PathBuf,
    /// Further programs of the host.
    pub host_binaries: Vec<HostBinary>,
    /// Further files: path on the host, path in the guest.
    pub files: Vec<(PathBuf, String)>,
    /// Memory in MiB, the persistent regions included.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// Persistent memory, `/dev/pmem0` first.
    pub regions: Vec<PmemRegion>,
    /// Wall time after which QEMU is killed.
    pub timeout: Duration,
    /// Wall time after which a guest whose user space is not up is killed.
    pub boot_timeout: Duration,
    /// Wall time from one step of the guest's to the next after which it is killed: where all its
    /// processors are stuck, it cannot end a step itself.
    pub step_timeout: Duration,
    /// Where the guest leaves its results; a new temporary directory if `None`.
    pub result_dir: Option<PathBuf>,
    /// How to execute; tried out if `None`.
    pub accelerator: Option<Accelerator>,
    /// Words added to the kernel command line.
    pub kernel_arguments: Vec<String>,
}

impl<'a> VmSpec<'a> {
    /// Memory of a machine of a size that is known to work, in MiB.
    pub const MEMORY_MIB: u32 = 3072;
    /// Its virtual processors.
    pub const CPUS: u32 = 2;

    /// These rounds, on a machine of a size that is known to work.
    pub fn new(kernel: &'a Kernel, binary: impl Into<PathBuf>, rounds: Vec<RoundSpec>) -> Self {
        Self {
            kernel,
            modules: Vec::new(),
            rounds,
            binary: binary.into(),
            host_binaries: Vec::new(),
            files: Vec::new(),
            memory_mib: Self::MEMORY_MIB,
            cpus: Self::CPUS,
            regions: vec![
                PmemRegion {
                    size_mib: 512,
                    start_mib: 1024,
                },
                PmemRegion {
                    size_mib: 256,
                    start_mib: 1536,
                },
            ],
            timeout: Duration::from_secs(180),
            boot_timeout: Duration::from_secs(60),
            step_timeout: Duration::MAX,
            result_dir: None,
            accelerator: None,
            kernel_arguments: Vec::new(),
        }
    }

    /// # Errors
    /// A region is not where the guest has memory, or overlaps another.
    pub(super) fn check_regions(&self) -> Result<()> {
        // QEMU moves what is beyond 3 GiB above the hole once it has 3.5 GiB to place.
        let end = if self.memory_mib < 3584 {
            self.memory_mib
        } else {
            3072
        };
        let mut regions = self.regions.clone();
        regions.sort_by_key(|region| region.start_mib);
        let mut free = LOWEST_REGION_MIB;
        for region in &regions {
            let region_end = region.start_mib.saturating_add(region.size_mib);
            if region.start_mib < free || region_end > end || region.start_mib % ALIGNMENT_MIB != 0
            {
                bail!(
                    "persistent region {}M!{}M does not fit: regions start at a multiple of \
                     {ALIGNMENT_MIB} MiB from {free} MiB on and end below {end} MiB",
                    region.size_mib,
                    region.start_mib
                );
            }
            free = region_end;
        }
        Ok(())
    }

    /// `loglevel=5` shows warnings, which a splat is, and little else; mitigations,
    /// address randomisation and the self-tests of the crypto code only cost time here.
    pub(super) fn command_line(&self) -> String {
        let mut line = String::from(
            "console=ttyS0 panic=-1 loglevel=5 nokaslr mitigations=off \
             random.trust_cpu=on cryptomgr.notests",
        );
        for region in &self.regions {
            line.push_str(&format!(
                " memmap={}M!{}M",
                region.size_mib, region.start_mib
            ));
        }
        if self.kinds().contains(&FilesystemKind::Virtiofs) {
            line.push(' ');
            line.push_str(&virtiofs::kernel_argument());
        }
        for argument in &self.kernel_arguments {
            line.push(' ');
            line.push_str(argument);
        }
        line
    }

    pub(super) fn archive(&self) -> Result<Archive> {
        let mut archive = Archive::new();
        archive.program(&self.binary, "init")?;
        archive.link("usr/bin/faultline", "/init");
        for kind in self.kinds().into_iter().filter(|kind| kind.is_on_disk()) {
            let mkfs = format!("mkfs.{}", kind.module());
            archive.program(&initramfs::resolve(&mkfs)?, &format!("sbin/{mkfs}"))?;
        }
        for binary in &self.host_binaries {
            archive.program(&initramfs::resolve(&binary.source)?, &binary.target)?;
        }
        for (source, target) in &self.files {
            let data =
                fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
            archive.file(target, data, false);
        }
        archive.busybox()?;
        let index = ModuleIndex::scan(&self.kernel.modules_dir)?;
        // Those of the filesystems come and go with the rounds; what they need stays.
        let (own, base): (Vec<ModuleFile>, Vec<ModuleFile>) = self
            .load_order(&index)?
            .into_iter()
            .partition(|module| self.kinds().iter().any(|kind| kind.module() == module.name));
        let modules = archive.modules(base);
        archive.modules(own);
        let overrides = self.rounds.iter().flat_map(|round| &round.overrides);
        let objects: BTreeSet<&Path> = overrides.map(|module| module.object.as_path()).collect();
        let rounds = self
            .rounds
            .iter()
            .map(|round| round.place(&index, self.kernel, &objects, &mut archive))
            .collect::<Result<_>>()?;
        archive.job(&Job { modules, rounds })?;
        Ok(archive)
    }

    fn kinds(&self) -> BTreeSet<FilesystemKind> {
        self.rounds
            .iter()
            .flat_map(|round| &round.filesystems)
            .map(|filesystem| filesystem.kind)
            .collect()
    }

    fn load_order(&self, index: &ModuleIndex) -> Result<Vec<ModuleFile>> {
        let mut wanted: Vec<&str> = BASE_MODULES.to_vec();
        wanted.extend(self.kinds().iter().map(|kind| kind.module()));
        wanted.extend(self.modules.iter().map(String::as_str));
        index.load_order(&wanted)
    }
}

impl RoundSpec {
    /// Adds the device that virtiofs is mounted from to the archive.
    fn device(&self, parameters: String, archive: &mut Archive) -> Result<ModuleJob> {
        let name = virtiofs::DEVICE;
        let device = self.overrides.iter().find(|module| module.name == name);
        let object = &device
            .with_context(|| format!("there is no module {name} for virtiofs"))?
            .object;
        let data = fs::read(object)
            .with_context(|| format!("cannot read the module {}", object.display()))?;
        let file = format!("{name}.ko");
        archive.file(&format!("{MODULE_DIR}/{file}"), data, false);
        Ok(ModuleJob {
            name: name.to_owned(),
            file,
            parameters,
        })
    }

    /// Adds the round's own modules, which are among `objects`, to the archive; returns what the guest is told.
    fn place(
        &self,
        index: &ModuleIndex,
        kernel: &Kernel,
        objects: &BTreeSet<&Path>,
        archive: &mut Archive,
    ) -> Result<Round> {
        let mut modules = Vec::new();
        for filesystem in &self.filesystems {
            let name = filesystem.kind.module();
            let other = self.overrides.iter().find(|module| module.name == name);
            let file = match other {
                None if index.is_builtin(name) => continue,
                None => format!("{name}.ko"),
                Some(_) if index.is_builtin(name) => bail!(
                    "{name} is built into kernel {} and cannot be replaced; take another image",
                    kernel.release
                ),
                Some(module) => {
                    // Rounds with the same one have it in common, and are not told apart by it.
                    let number = objects.iter().position(|object| *object == module.object);
                    let file = format!("{}/{name}.ko", number.unwrap_or(objects.len()));
                    let object = fs::read(&module.object).with_context(|| {
                        format!("cannot read the module {}", module.object.display())
                    })?;
                    archive.file(&format!("{MODULE_DIR}/{file}"), object, false);
                    file
                }
            };
            modules.push(ModuleJob {
                name: name.to_owned(),
                file,
                parameters: String::new(),
            });
        }
        let mut filesystems = self.filesystems.clone();
        for filesystem in &mut filesystems {
            if filesystem.kind == FilesystemKind::Virtiofs {
                let (parameters, options) = virtiofs::parameters(&filesystem.options);
                filesystem.options = options;
                modules.push(self.device(parameters, archive)?);
            }
        }
        Ok(Round {
            name: self.name.clone(),
            modules,
            filesystems,
            commands: self.commands.clone(),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::lab::kernel::Origin;

    pub(in crate::lab) fn kernel() -> Kernel {
        Kernel {
            release: "6.12.117+deb12-amd64".into(),
            origin: Origin::Package("6.12.117-1".into()),
            vmlinuz: "/k/vmlinuz".into(),
            modules_dir: "/k/modules".into(),
            config: "/k/config".into(),
        }
    }

    #[test]
    fn the_command_line_carries_regions_and_arguments() {
        let kernel = kernel();
        let mut spec = VmSpec::new(&kernel, "/init", Vec::new());
        spec.kernel_arguments.push("slub_debug=FZ".into());
        let line = spec.command_line();
        assert!(
            line.contains("memmap=512M!1024M memmap=256M!1536M"),
            "{line}"
        );
        assert!(line.ends_with("slub_debug=FZ"), "{line}");
    }

    #[test]
    fn regions_must_fit() {
        let kernel = kernel();
        let with = |regions: &[(u32, u32)]| {
            let regions = regions
                .iter()
                .map(|&(size_mib, start_mib)| PmemRegion {
                    size_mib,
                    start_mib,
                })
                .collect();
            VmSpec {
                regions,
                ..VmSpec::new(&kernel, "/init", Vec::new())
            }
            .check_regions()
        };
        assert!(with(&[(512, 1024), (256, 1536)]).is_ok());
        assert!(with(&[(512, 1024), (256, 1408)]).is_err());
        assert!(with(&[(512, 1000)]).is_err());
        assert!(with(&[(512, 2688)]).is_err());
    }
}
