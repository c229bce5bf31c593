//! `faultline doctor`

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result};
use tracer::{
    attach::Limits,
    hooks::{Filesystem, FilesystemKind},
    judge::rules,
    kernel::types::KernelTypes,
    plan::Extent,
    record::{attach, resolve_plan},
    trace::{Mount, PlannedHook},
    units::Device,
};
use workloads::lab::{Cache, CommandJob, Kernel, KernelSeries, RoundSpec, Vm, VmSpec, host};

use super::record::watched;
use crate::{campaign::own_binary, cli::Doctor, output, progress::Line};

/// Prints what this kernel offers. 0: everything needed is there; 2: something is not.
pub fn run(arguments: &Doctor) -> Result<ExitCode> {
    match &arguments.kernel {
        Some(series) => elsewhere(series),
        None => here(arguments),
    }
}

fn here(arguments: &Doctor) -> Result<ExitCode> {
    let read = |file: &str| {
        fs::read_to_string(file)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    say!(
        "kernel      {} {}",
        read("/proc/sys/kernel/osrelease"),
        read("/proc/sys/kernel/version")
    )?;
    let root = nix::unistd::geteuid().is_root();
    say!(
        "privileges  {}",
        if root {
            "root"
        } else {
            "not root: hooks cannot be attached; run as root"
        }
    )?;
    let tables: Vec<&Filesystem> = FilesystemKind::ALL
        .into_iter()
        .filter_map(FilesystemKind::table)
        .collect();
    let modules: Vec<&str> = tables.iter().map(|table| table.module).collect();
    let here: Vec<FilesystemKind> = match KernelTypes::load(&modules) {
        Ok(types) => {
            let mut words = vec!["vmlinux"];
            words.extend(types.modules());
            say!("BTF         {}", words.join(", "))?;
            let (here, absent): (Vec<&Filesystem>, Vec<&Filesystem>) = tables
                .into_iter()
                .partition(|table| types.struct_size(table.inode.0).is_ok());
            for table in absent {
                say!(
                    "absent      {}: neither built in nor loaded",
                    table.kind.name()
                )?;
            }
            here.into_iter().map(|table| table.kind).collect()
        }
        Err(error) => {
            say!("BTF         {:#}", anyhow::Error::from(error))?;
            return Ok(ExitCode::from(2));
        }
    };
    let mounts = match watched(&arguments.mounts) {
        Ok(mounts) => mounts,
        Err(error) => {
            say!("mounts      {error:#}")?;
            // The plan is worth seeing anyway.
            here.into_iter().map(nowhere).collect()
        }
    };
    for mount in mounts.iter().filter(|mount| !mount.path.is_empty()) {
        say!(
            "mount       {} {} {} {}",
            mount.path,
            mount.filesystem.name(),
            mount.source,
            mount.options
        )?;
    }
    let plan = resolve_plan(&mounts, Extent::Full, None)?;
    if !root {
        for row in &plan.rows {
            if let Err(missing) = &row.resolved {
                say!(
                    "hook        {:32} {missing}",
                    format!("{:?}", row.hook.target)
                )?;
            }
        }
        return Ok(ExitCode::from(2));
    }
    let session = attach(
        &plan,
        &mounts,
        Limits {
            ring_bytes: 1 << 16,
        },
    )?;
    print_hooks(session.hooks())
}

/// A mount that does not exist, to plan for.
fn nowhere(filesystem: FilesystemKind) -> Mount {
    Mount {
        path: String::new(),
        filesystem,
        device: Device(0),
        source: String::new(),
        options: String::new(),
    }
}

fn print_hooks(hooks: &[PlannedHook]) -> Result<ExitCode> {
    let (mut missing, mut absent) = (Vec::new(), Vec::new());
    for hook in hooks {
        let how = match &hook.attached {
            Ok(mechanism) => mechanism.name().to_owned(),
            Err(reason) => format!("- {}", reason.lines().next().unwrap_or_default()),
        };
        say!("hook        {:30} {:28} {how}", hook.target, hook.group)?;
        let served = hooks
            .iter()
            .any(|other| other.group == hook.group && other.attached.is_ok());
        let unserved = if rules::needed(hook.effect) {
            &mut missing
        } else {
            &mut absent
        };
        if !served && !unserved.contains(&hook.group) {
            unserved.push(hook.group.clone());
        }
    }
    let attached = hooks.iter().filter(|hook| hook.attached.is_ok()).count();
    say!("hooks       {attached} of {} attached", hooks.len())?;
    if !absent.is_empty() {
        say!("absent      {}", absent.join(", "))?;
    }
    if missing.is_empty() {
        say!("verdict     everything that a verdict rests on can be seen")?;
        Ok(ExitCode::SUCCESS)
    } else {
        say!(
            "verdict     cannot be seen, so not judged: {}",
            missing.join(", ")
        )?;
        Ok(ExitCode::from(2))
    }
}

/// Asks the doctor inside a VM.
fn elsewhere(series: &str) -> Result<ExitCode> {
    host::require(&host::vm_tools())?;
    let cache = Cache::open()?;
    let mut line = Line::new();
    let mut say = |step| line.step(&step);
    let kernel = Kernel::obtain(&cache, &KernelSeries(series.to_owned()), &mut say)?;
    let mut round = RoundSpec::new("round");
    round.commands = vec![CommandJob::new("doctor", &["faultline", "doctor"])];
    let spec = VmSpec::new(&kernel, own_binary()?, vec![round]);
    let outcome = Vm::run(&cache, &spec, &mut say)?;
    drop(line);
    let text = fs::read_to_string(outcome.result_dir.join("doctor.stdout")).with_context(|| {
        format!(
            "the VM gave no answer; its console ends:\n{}",
            outcome.console_tail(15)
        )
    })?;
    output::print(text.as_bytes())?;
    let complaints =
        fs::read_to_string(outcome.result_dir.join("doctor.stderr")).unwrap_or_default();
    output::pass_on(&complaints);
    for splat in &outcome.splats {
        note!("the guest's kernel complained: {splat}");
    }
    let status = outcome
        .outcome
        .and_then(|answer| answer.commands.first().and_then(|command| command.status));
    Ok(ExitCode::from(
        u8::try_from(status.unwrap_or(2)).unwrap_or(2),
    ))
}
