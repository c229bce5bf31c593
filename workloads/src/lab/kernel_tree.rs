//! A built kernel tree: its release, its image, its modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages::tail;

/// Where a built tree has its image.
const IMAGE: &str = "arch/x86/boot/bzImage";

/// The image.
///
/// # Errors
/// The tree is not built; the message says how to.
pub fn image(tree: &Path) -> Result<PathBuf> {
    let image = tree.join(IMAGE);
    if !image.is_file() {
        bail!(
            "{} is not built: it has no {IMAGE}; run `make -C {} bzImage modules`",
            tree.display(),
            tree.display()
        );
    }
    Ok(image)
}

/// `uname -r` of the built kernel.
///
/// # Errors
/// The tree does not say.
pub fn release(tree: &Path) -> Result<String> {
    let text = fs::read_to_string(tree.join("include/config/kernel.release"))
        .with_context(|| format!("{} does not say its release", tree.display()))?;
    Ok(text.trim().to_owned())
}

/// Installs the modules, stripped, below `root`; returns `root/lib/modules/RELEASE`.
///
/// # Errors
/// They are not built, or make is missing.
pub fn install_modules(tree: &Path, root: &Path) -> Result<PathBuf> {
    let output = Command::new("make")
        .arg("-C")
        .arg(tree)
        .args([
            "-s",
            "modules_install",
            "INSTALL_MOD_STRIP=1",
            "DEPMOD=true",
        ])
        .arg(format!("INSTALL_MOD_PATH={}", root.display()))
        .env_remove("MAKEFLAGS")
        .output()
        .context("cannot run make; `apt-get install make`")?;
    if !output.status.success() {
        bail!(
            "`make modules_install` failed: {}",
            tail(&String::from_utf8_lossy(&output.stderr), 6)
        );
    }
    Ok(root.join("lib/modules").join(release(tree)?))
}
