//! Trials: a stock or broken kernel in the VM, a workload under the recorder, the verdict outside.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tracer::{
    analyze::analyze,
    judge::{Report, finding::Finding},
    trace::Trace,
};
use workloads::lab::{
    Cache, CommandJob, FilesystemJob, FilesystemKind, Kernel, ModuleOverride, Mutation, Progress,
    Vm, VmOutcome, VmSpec, modules,
    mutations::{self, Mode},
};

/// Longest that boot, attach and detach take without KVM, on a busy machine.
const OVERHEAD: Duration = Duration::from_secs(150);

/// How much of a workload.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// For so long.
    Time(Duration),
    /// So many operations of the manipulator, however slow the machine.
    Operations(u64),
}

impl Extent {
    fn arguments(self) -> [String; 2] {
        match self {
            Self::Time(time) => ["--time".to_owned(), format!("{}ms", time.as_millis())],
            Self::Operations(count) => ["--ops".to_owned(), count.to_string()],
        }
    }

    /// After this long it has hung.
    fn patience(self) -> Duration {
        match self {
            Self::Time(time) => OVERHEAD + time * 2,
            Self::Operations(count) => OVERHEAD + Duration::from_millis(count * 100),
        }
    }
}

/// A workload on a freshly made filesystem.
#[derive(Clone, Debug)]
pub struct Workload {
    /// On which filesystem.
    pub filesystem: FilesystemKind,
    /// Mounted with DAX, or through the page cache.
    pub dax: bool,
    /// Which scenario.
    pub scenario: String,
    /// How long.
    pub extent: Extent,
    /// What all random choices follow from.
    pub seed: u64,
}

/// A kernel and the workloads to watch on it, one after the other in one VM.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Names its files.
    pub name: String,
    /// How the kernel is broken, if it is.
    pub mutation: Option<Mutation<'static>>,
    /// What to run.
    pub workloads: Vec<Workload>,
}

/// One workload's trace and verdict.
#[derive(Debug)]
pub struct Judged {
    /// What ran.
    pub workload: Workload,
    /// Its trace.
    pub trace: PathBuf,
    /// The verdict.
    pub report: Report,
}

/// What came of a trial.
#[derive(Debug)]
pub struct TrialOutcome {
    /// Which trial.
    pub trial: Trial,
    /// Every workload's verdict.
    pub judged: Vec<Judged>,
    /// The VM's own account.
    pub vm: VmOutcome,
}

impl Trial {
    /// The unmodified kernel with punch-hole against faults on both filesystems, with DAX.
    pub fn stock(extent: Extent) -> Self {
        let workload = |filesystem| Workload {
            filesystem,
            dax: true,
            scenario: "punch-vs-fault".to_owned(),
            extent,
            seed: 1,
        };
        Self {
            name: "stock".to_owned(),
            mutation: None,
            workloads: vec![
                workload(FilesystemKind::Xfs),
                workload(FilesystemKind::Ext4),
            ],
        }
    }

    /// A broken module, with the workload that meets the bug.
    pub fn broken(mutation: Mutation<'static>, extent: Extent) -> Self {
        let workload = Workload {
            filesystem: mutation.filesystem,
            dax: mutation.mode == Mode::Dax,
            scenario: mutation.scenario.to_owned(),
            extent,
            seed: 1,
        };
        Self {
            name: mutation.name.to_owned(),
            mutation: Some(mutation),
            workloads: vec![workload],
        }
    }

    /// The stock kernel and every mutation that Faultline carries.
    pub fn all(extent: Extent) -> Result<Vec<Self>> {
        let mut trials = vec![Self::stock(extent)];
        trials.extend(
            mutations::all()?
                .into_iter()
                .map(|mutation| Self::broken(mutation, extent)),
        );
        Ok(trials)
    }

    /// Boots, runs, judges. `binary` is the `faultline` that the guest gets; results stay in `directory`.
    pub fn run(
        self,
        binary: &Path,
        cache: &Cache,
        kernel: &Kernel,
        directory: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<TrialOutcome> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut spec = VmSpec::new(kernel, binary);
        if let Some(mutation) = &self.mutation {
            let object =
                modules::build(cache, kernel, mutation.filesystem, mutation.patch, progress)?;
            spec.overrides = vec![ModuleOverride {
                name: mutation.filesystem.module().to_owned(),
                object,
            }];
        }
        spec.filesystems = self.workloads.iter().map(Workload::filesystem).collect();
        spec.commands = self.workloads.iter().map(Workload::command).collect();
        spec.result_dir = Some(directory.to_owned());
        spec.timeout = OVERHEAD
            + self
                .workloads
                .iter()
                .map(|workload| workload.extent.patience())
                .sum::<Duration>();
        let vm = Vm::run(cache, &spec, progress)?;
        let mut judged = Vec::new();
        for workload in &self.workloads {
            let trace = directory.join(workload.trace());
            if !trace.exists() {
                bail!(
                    "the VM left no {}; {}",
                    workload.trace(),
                    account(&vm, &workload.name())
                );
            }
            let report = analyze(&Trace::open(&trace)?);
            judged.push(Judged {
                workload: workload.clone(),
                trace,
                report,
            });
        }
        Ok(TrialOutcome {
            trial: self,
            judged,
            vm,
        })
    }
}

impl Workload {
    fn name(&self) -> String {
        format!("{}-{}", self.filesystem.module(), self.scenario)
    }

    fn trace(&self) -> String {
        format!("{}.flt", self.name())
    }

    fn filesystem(&self) -> FilesystemJob {
        let job = match self.filesystem {
            FilesystemKind::Xfs => FilesystemJob::xfs_dax(),
            FilesystemKind::Ext4 => FilesystemJob::ext4_dax(),
        };
        if self.dax {
            job
        } else {
            job.through_page_cache()
        }
    }

    fn command(&self) -> CommandJob {
        let target = self.filesystem().target;
        let trace = format!("/result/{}", self.trace());
        let [how, much] = self.extent.arguments();
        let seed = self.seed.to_string();
        let argv = [
            "faultline",
            "record",
            "-o",
            &trace,
            "--mount",
            &target,
            "--",
            "faultline",
            "work",
            &self.scenario,
            &target,
            &how,
            &much,
            "--seed",
            &seed,
        ];
        let mut command = CommandJob::new(&self.name(), &argv);
        command.timeout_seconds = self.extent.patience().as_secs();
        command
    }
}

impl TrialOutcome {
    /// Findings that the trial's mutation explains, and those that nothing does.
    pub fn sorted(&self) -> (Vec<&Finding>, Vec<&Finding>) {
        self.judged
            .iter()
            .flat_map(|judged| &judged.report.findings)
            .partition(|finding| {
                self.trial.mutation.as_ref().is_some_and(|mutation| {
                    finding.kind.name() == mutation.expect.kind
                        && finding.filesystem.name() == mutation.filesystem.module()
                        && finding.operation.name() == mutation.expect.operation
                })
            })
    }

    /// What went wrong in the VM itself, if something did.
    pub fn trouble(&self) -> Option<String> {
        (!self.vm.succeeded()).then(|| {
            let name = self
                .trial
                .workloads
                .first()
                .map(Workload::name)
                .unwrap_or_default();
            account(&self.vm, &name)
        })
    }
}

/// The VM's end in a few words, for an error message.
fn account(vm: &VmOutcome, command: &str) -> String {
    let mut parts = Vec::new();
    if vm.timed_out {
        parts.push(format!("killed after {} s", vm.wall.as_secs()));
    }
    parts.extend(vm.splats.iter().map(|splat| format!("kernel: {splat}")));
    parts.extend(vm.errors.iter().map(|error| format!("guest: {error}")));
    if let Some(outcome) = &vm.outcome {
        parts.extend(outcome.error.clone());
        for command in outcome
            .commands
            .iter()
            .filter(|command| !command.succeeded())
        {
            let stderr = fs::read_to_string(vm.result_dir.join(format!("{}.stderr", command.name)))
                .unwrap_or_default();
            let last = stderr.lines().last().unwrap_or("no message").to_owned();
            parts.push(format!(
                "{} ended with {:?}: {last}",
                command.name, command.status
            ));
        }
    } else {
        parts.push(format!(
            "it never answered about {command}; its console ends:\n{}",
            vm.console_tail(15)
        ));
    }
    parts.join("; ")
}

/// This executable, which is also the guest's init and recorder.
pub fn own_binary() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find the running executable")
}
