//! A small kernel with the lock validator (Documentation/locking/lockdep-design.rst), built from Debian's
//! source package: what the kernel's own checks say of a broken filesystem module.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::cache::{Cache, Staging};
use super::host;
use super::kernel::{Kernel, Origin};
use super::kernel_tree;
use super::modules::{digest, unpack_source};
use super::packages::tail;
use super::progress::{Progress, ProgressFn};

/// What it has beyond nothing.
const FRAGMENT: &str = include_str!("../../kernel/lockdep.config");

/// Builds the kernel from the source of a packaged one, or takes it from the cache.
///
/// # Errors
/// The kernel is not Debian's, build tools are missing, the mirrors no longer have this version's source,
/// its Kconfig knows an option no longer, or the compiler fails.
pub fn build(cache: &Cache, packaged: &Kernel, progress: &mut ProgressFn) -> Result<Kernel> {
    let Origin::Package(source) = &packaged.origin else {
        bail!(
            "kernel {} is not one of Debian's packages, so there is no source package of it",
            packaged.release
        )
    };
    let key = format!("{source}+lockdep.{}", digest(FRAGMENT));
    let item = cache.item(&format!("built/{key}"), |staging| {
        host::require(&host::build_tools(None))?;
        fill(cache, packaged, source, staging, progress)
    })?;
    let tree = item.join("tree");
    let release = kernel_tree::release(&tree)?;
    let mut kernel = Kernel::from_paths(
        &kernel_tree::image(&tree)?,
        &item.join("lib/modules").join(release),
        &tree.join(".config"),
    )?;
    kernel.origin = Origin::Built {
        source: source.clone(),
        key,
        tree,
    };
    Ok(kernel)
}

fn fill(
    cache: &Cache,
    packaged: &Kernel,
    source: &str,
    staging: &Staging,
    progress: &mut ProgressFn,
) -> Result<()> {
    let tree = staging.dir.join("tree");
    unpack_source(
        cache,
        &packaged.source_series()?,
        source,
        &[],
        &tree,
        progress,
    )?;
    progress(Progress::BuildingKernel(format!(
        "{source} with the lock validator (once)"
    )));
    let fragment = staging.dir.join("lockdep.config");
    fs::write(&fragment, FRAGMENT)?;
    let log = staging.dir.join("build.log");
    make(
        &tree,
        &["allnoconfig"],
        &[("KCONFIG_ALLCONFIG", fragment.as_os_str())],
        &log,
    )?;
    let config = fs::read_to_string(tree.join(".config")).context("there is no .config")?;
    let dropped = dropped(FRAGMENT, &config);
    if !dropped.is_empty() {
        bail!(
            "the configuration of {source} has lost {}: their dependencies have changed",
            dropped.join(", ")
        );
    }
    let jobs = std::thread::available_parallelism().map_or(1, |count| count.get());
    make(
        &tree,
        &[&format!("-j{jobs}"), "bzImage", "modules"],
        &[],
        &log,
    )?;
    kernel_tree::install_modules(&tree, &staging.dir)?;
    // Modules are built with what is left: headers, scripts, vmlinux for its types, symbol versions.
    remove_objects(&tree).context("cannot tidy the built tree up")
}

/// Lines of the fragment that did not make it into the configuration.
fn dropped<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    fragment
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|line| config.lines().all(|other| other != *line))
        .collect()
}

fn make(tree: &Path, arguments: &[&str], environment: &[(&str, &OsStr)], log: &Path) -> Result<()> {
    let log_file = fs::File::create(log).context("cannot create the build log")?;
    let status = Command::new("make")
        .arg("-C")
        .arg(tree)
        .args(arguments)
        .env_remove("MAKEFLAGS")
        .env("LC_ALL", "C")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(log_file.try_clone()?)
        .stderr(log_file)
        .status()
        .context("cannot run make; `apt-get install make`")?;
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        bail!(
            "`make {}` failed ({status}):\n{}",
            arguments.join(" "),
            tail(&text, 25)
        );
    }
    Ok(())
}

fn remove_objects(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove_objects(&path)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "o" || extension == "a")
        {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_configuration_dropped_is_named() {
        let fragment = "# why\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_C=12\n";
        assert!(dropped(fragment, "CONFIG_C=12\nCONFIG_A=y\nCONFIG_B=m\n").is_empty());
        assert_eq!(
            dropped(fragment, "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=10\n"),
            ["CONFIG_B=m", "CONFIG_C=12"]
        );
    }

    #[test]
    fn the_fragment_asks_for_the_validator_and_for_modules_to_break() {
        for line in [
            "CONFIG_PROVE_LOCKING=y",
            "CONFIG_XFS_FS=m",
            "CONFIG_EXT4_FS=m",
        ] {
            assert!(FRAGMENT.lines().any(|other| other == line), "{line}");
        }
    }
}
