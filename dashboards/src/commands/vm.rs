//! `faultline vm`

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use workloads::lab::{
    Cache, CommandJob, Ending, FilesystemKind, HostBinary, Kernel, KernelSeries, ModuleOverride,
    RoundSpec, Vm as Guest, VmSpec, host, modules, mutations,
};

use crate::{
    campaign::own_binary,
    cli::Vm,
    output,
    progress::{self, Line},
};

/// Commands the guest has by itself.
const BUILT_IN: &[&str] = &["faultline", "sh"];

/// Boots a VM, runs the command there, prints its output, and ends as it ended.
pub fn run(arguments: &Vm) -> Result<ExitCode> {
    host::require(&host::vm_tools())?;
    let changed = match (&arguments.mutation, &arguments.patch) {
        (Some(name), _) => {
            let mutation = mutations::find(name)?;
            Some((mutation.filesystem, mutation.patch.to_owned()))
        }
        (None, Some(patch)) => {
            let module = arguments.module.as_deref().unwrap_or_default();
            let filesystem = FilesystemKind::parse(module)
                .filter(|kind| kind.is_on_disk())
                .with_context(|| {
                    format!("--module {module} is not a module that can be rebuilt: xfs or ext4")
                })?;
            let text = fs::read_to_string(patch)
                .with_context(|| format!("cannot read the patch {}", patch.display()))?;
            Some((filesystem, text))
        }
        (None, None) => None,
    };
    let cache = Cache::open()?;
    let mut line = Line::new();
    let verbose = arguments.verbose;
    let mut say = |step| {
        let (words, lasting) = progress::lab_step(&step);
        if verbose && !lasting {
            line.keep(&words)
        } else {
            line.say(&words, lasting)
        }
    };
    let kernel = Kernel::obtain(&cache, &KernelSeries(arguments.kernel.clone()), &mut say)?;
    let mut round = RoundSpec::new("round");
    if let Some((filesystem, patch)) = changed {
        host::require(&host::build_tools(None))?;
        let object = modules::build(&cache, &kernel, filesystem, &patch, &mut say)?;
        round.overrides.push(ModuleOverride {
            name: filesystem.module().to_owned(),
            object,
        });
    }
    if arguments.page_cache {
        round.filesystems = round
            .filesystems
            .into_iter()
            .map(|job| job.through_page_cache())
            .collect();
    }
    for job in &mut round.filesystems {
        let kind = job.kind;
        if let Some((_, mkfs)) = arguments.mkfs.iter().rfind(|(of, _)| *of == kind) {
            *job = job.clone().made_with(mkfs);
        }
        if let Some((_, options)) = arguments.options.iter().rfind(|(of, _)| *of == kind) {
            job.options.clone_from(options);
        }
    }
    let Some(program) = arguments.command.first() else {
        bail!("name a command to run in the guest")
    };
    let argv: Vec<&str> = arguments.command.iter().map(String::as_str).collect();
    let mut job = CommandJob::new("command", &argv);
    job.timeout_seconds = arguments.timeout.as_secs();
    round.commands = vec![job];
    let mut spec = VmSpec::new(&kernel, own_binary()?, vec![round]);
    for carried in &arguments.program {
        if host::find_program(carried).is_none() {
            bail!("{carried} is no program of this machine")
        }
        spec.host_binaries.push(HostBinary::named(carried));
    }
    if !BUILT_IN.contains(&program.as_str()) && host::find_program(program).is_some() {
        spec.host_binaries.push(HostBinary::named(program));
    }
    spec.timeout = arguments.timeout;
    spec.result_dir = arguments.result.clone();
    let outcome = Guest::run(&cache, &spec, &mut say)?;
    drop(line);
    for (name, error) in [("command.stdout", false), ("command.stderr", true)] {
        let text = fs::read_to_string(outcome.result_dir.join(name)).unwrap_or_default();
        if error {
            output::pass_on(&text);
        } else {
            output::print(text.as_bytes())?;
        }
    }
    for splat in &outcome.splats {
        note!("the guest's kernel complained: {splat}");
    }
    if outcome.ending != Ending::PoweredOff {
        bail!(
            "the guest {}, after {} s; its console is {}",
            outcome.ending.words(),
            outcome.wall.as_secs(),
            outcome.console.display()
        );
    }
    let Some(answer) = &outcome.outcome else {
        bail!(
            "the guest never answered; its console ends:\n{}",
            outcome.console_tail(15)
        );
    };
    let rounds = answer
        .rounds
        .iter()
        .filter_map(|round| round.error.as_ref());
    if let Some(error) = answer.error.iter().chain(rounds).next() {
        bail!("the guest failed: {error}");
    }
    let status = answer.commands.first().and_then(|command| command.status);
    match status {
        Some(status) => Ok(ExitCode::from(u8::try_from(status).unwrap_or(2))),
        None => bail!("the command was killed by a signal or by its time limit"),
    }
}
