//! virtiofs without a hypervisor: no QEMU that offers a DAX window is packaged, so the device is a module of the guest,
//! `workloads/virtiofs`, built for its kernel.

use std::path::PathBuf;

use anyhow::Result;

use super::cache::Cache;
use super::kernel::Kernel;
use super::modules;
use super::progress::ProgressFn;

/// What is mounted (workloads/virtiofs/virtiofs_host.h: VIRTIOFS_TAG).
pub const TAG: &str = "lab";
/// The module's name.
pub const DEVICE: &str = "virtiofs_device";
const SOURCES: [(&str, &str); 3] = [
    (
        "virtiofs_device.c",
        include_str!("../../virtiofs/virtiofs_device.c"),
    ),
    (
        "virtiofs_host.h",
        include_str!("../../virtiofs/virtiofs_host.h"),
    ),
    ("Makefile", include_str!("../../virtiofs/Makefile")),
];

/// Where the window is, behind the persistent regions: memory that the kernel is told to leave alone. Eight pieces of
/// 2 MiB, so that a few files are enough for one to be lent to another.
const START_MIB: u32 = 1792;
const SIZE_MIB: u32 = 16;

/// The word on the kernel's command line that keeps the window's memory free.
pub(super) fn kernel_argument() -> String {
    format!("memmap={SIZE_MIB}M${START_MIB}M")
}

/// A mount option that is the device's: attributes are asked for every time, and open(2) drops pages, as with virtiofsd's
/// `--cache auto`. Without it the client may believe that it is alone.
const SHARED: &str = "cache=auto";

/// The module's parameters for these mount options, and those that are left for mount(2).
pub(super) fn parameters(options: &str) -> (String, String) {
    let bytes = |mib: u32| u64::from(mib) << 20;
    let (shared, left): (Vec<&str>, Vec<&str>) =
        options.split(',').partition(|option| *option == SHARED);
    let parameters = format!(
        "window_start={} window_size={} cache_always={}",
        bytes(START_MIB),
        bytes(SIZE_MIB),
        u8::from(shared.is_empty())
    );
    (parameters, left.join(","))
}

/// Builds the device for a kernel, or takes it from the cache.
///
/// # Errors
/// Build tools are missing, the mirrors no longer have the kernel's headers, or the compiler fails.
pub fn device(cache: &Cache, kernel: &Kernel, progress: &mut ProgressFn) -> Result<PathBuf> {
    modules::build_external(cache, kernel, DEVICE, &SOURCES, progress)
}
