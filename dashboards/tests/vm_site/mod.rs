//! Where the tests in the VM run, one at a time.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use dashboards::campaign::{Extent, Site, Trial, TrialOutcome, run_all};
use workloads::lab::{Cache, Kernel, KernelSeries, Progress, mutations};

pub const BINARY: &str = env!("CARGO_BIN_EXE_faultline");
pub const SERIES: &str = "6.12";

/// One VM at a time: two would take each other's processors.
pub fn alone() -> MutexGuard<'static, ()> {
    static VM: Mutex<()> = Mutex::new(());
    VM.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does something with the packaged kernel, results in `directory`.
pub fn on_site<T>(
    directory: &Path,
    act: impl FnOnce(Site<'_>, &mut dyn FnMut(Progress)) -> T,
) -> T {
    let cache = Cache::open().unwrap();
    let mut say = |step| eprintln!("{step:?}");
    let kernel = Kernel::obtain(&cache, &KernelSeries(SERIES.to_owned()), &mut say).unwrap();
    let site = Site {
        binary: Path::new(BINARY),
        cache: &cache,
        kernel: &kernel,
        directory,
        confirm: None,
    };
    act(site, &mut say)
}

/// Broken modules, each with the workload that meets the bug.
pub fn broken(names: &[&str], extent: Extent) -> Vec<Trial> {
    names
        .iter()
        .map(|name| Trial::broken(mutations::find(name).unwrap(), extent))
        .collect()
}

/// Runs broken modules, in as few boots as they take.
pub fn run_broken(names: &[&str], extent: Extent, directory: &Path) -> Vec<TrialOutcome> {
    let trials = broken(names, extent);
    let outcomes = on_site(directory, |site, say| run_all(trials, site, say)).unwrap();
    assert_eq!(outcomes.len(), names.len());
    outcomes
}
