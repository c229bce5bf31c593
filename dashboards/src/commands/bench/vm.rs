//! `bench fault` in the VM, where functions can be traced.

use std::{fs, process::ExitCode};

use anyhow::{Result, bail};
use workloads::lab::{
    Cache, CommandJob, HostBinary, Kernel, KernelSeries, RoundSpec, Vm, VmSpec, host,
};

use super::machine;
use crate::{campaign::own_binary, cli::BenchVm, output, progress::Line};

/// Boots, measures on both filesystems, prints what the guest printed.
pub fn run(arguments: &BenchVm) -> Result<ExitCode> {
    host::require(&host::vm_tools())?;
    // The guest cannot see what else its host is busy with.
    say!("outside the VM:\n{}\n", machine::describe())?;
    let cache = Cache::open()?;
    let mut line = Line::new();
    let mut say = |step| line.step(&step);
    let kernel = Kernel::obtain(&cache, &KernelSeries(arguments.kernel.clone()), &mut say)?;
    let mut round = RoundSpec::new("round");
    let (faults, rounds) = (arguments.faults.to_string(), arguments.rounds.to_string());
    round.commands = round
        .filesystems
        .iter()
        .map(|filesystem| {
            let argv = [
                "faultline",
                "bench",
                "fault",
                &filesystem.target,
                "--faults",
                &faults,
                "--rounds",
                &rounds,
            ];
            let mut command = CommandJob::new(filesystem.kind.module(), &argv);
            command.timeout_seconds = arguments.timeout.as_secs();
            command
        })
        .collect();
    let commands = round.commands.clone();
    let mut spec = VmSpec::new(&kernel, own_binary()?, vec![round]);
    if host::find_program("perf").is_some() {
        spec.host_binaries.push(HostBinary::named("perf"));
    }
    spec.timeout = arguments.timeout;
    let outcome = Vm::run(&cache, &spec, &mut say)?;
    drop(line);
    for command in &commands {
        let read = |stream: &str| {
            let file = format!("{}.{stream}", command.name);
            fs::read_to_string(outcome.result_dir.join(file)).unwrap_or_default()
        };
        output::pass_on(&read("stderr"));
        say!("{}", read("stdout"))?;
    }
    if !outcome.succeeded() {
        bail!(
            "the VM did not end well; its console ends:\n{}",
            outcome.console_tail(15)
        );
    }
    Ok(ExitCode::SUCCESS)
}
