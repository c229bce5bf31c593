//! Debian packages without installing them: what the configured mirrors offer,
//! `apt-get download`, `dpkg -x`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use super::progress::{Progress, ProgressFn};

/// A package at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Package name.
    pub name: String,
    /// Debian version.
    pub version: String,
}

/// Runs a program and returns its stdout.
///
/// # Errors
/// The program is missing or fails; the message carries the end of its stderr.
pub(crate) fn output(program: &str, arguments: &[&OsStr]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .with_context(|| format!("cannot run {program}; is it installed?"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let line = arguments.join(OsStr::new(" "));
        bail!(
            "`{program} {}` failed ({}): {}",
            line.display(),
            output.status,
            tail(&stderr, 6)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last `count` lines of a text.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Names of the known packages that start with `prefix`.
///
/// Names that only other packages mention are among them: see [`candidate`].
///
/// # Errors
/// `apt-cache` is missing or fails.
pub fn names(prefix: &str) -> Result<Vec<String>> {
    let text = output("apt-cache", &["pkgnames".as_ref(), prefix.as_ref()])?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The version the mirrors offer for a package; `None` if they know none.
///
/// # Errors
/// `apt-cache` is missing or fails.
pub fn candidate(name: &str) -> Result<Option<Package>> {
    let text = output("apt-cache", &["policy".as_ref(), name.as_ref()])?;
    Ok(parse_candidate(&text).map(|version| Package {
        name: name.to_owned(),
        version,
    }))
}

/// Direct dependencies of a package; empty if it is unknown.
pub fn dependencies(name: &str) -> Vec<String> {
    output("apt-cache", &["depends".as_ref(), name.as_ref()])
        .map(|text| parse_depends(&text))
        .unwrap_or_default()
}

/// Refreshes the package lists; needs root.
///
/// # Errors
/// `apt-get update` fails: no network, or not root.
pub fn update() -> Result<()> {
    output("apt-get", &["-q".as_ref(), "update".as_ref()])
        .context("cannot refresh the package lists; run `apt-get update` as root")?;
    Ok(())
}

/// Downloads a package at exactly this version and unpacks it below `root`.
///
/// # Errors
/// The mirrors no longer offer this version, there is no network, or the disk is full.
pub fn unpack_into(package: &Package, root: &Path, progress: &mut ProgressFn) -> Result<()> {
    progress(Progress::Downloading(format!(
        "{} {}",
        package.name, package.version
    )));
    let scratch = tempfile::Builder::new()
        .prefix(".download-")
        .tempdir_in(root.parent().unwrap_or(root))
        .context("cannot create a directory for the download")?;
    let deb = download(package, scratch.path())?;
    output("dpkg", &["-x".as_ref(), deb.as_os_str(), root.as_os_str()])?;
    Ok(())
}

fn download(package: &Package, directory: &Path) -> Result<PathBuf> {
    let output = Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
        .arg(format!("{}={}", package.name, package.version))
        .current_dir(directory)
        .env("LC_ALL", "C")
        .output()
        .context("cannot run apt-get")?;
    if !output.status.success() {
        bail!(
            "cannot download {} {}: {}\n(no network, or the mirror has moved on: \
             `apt-get update` and try again)",
            package.name,
            package.version,
            tail(&String::from_utf8_lossy(&output.stderr), 4)
        );
    }
    std::fs::read_dir(directory)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| anyhow!("apt-get downloaded no .deb for {}", package.name))
}

fn parse_candidate(policy: &str) -> Option<String> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))
        .map(str::trim)
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
}

fn parse_depends(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends:"))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.starts_with('<'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_gives_the_candidate() {
        let text = "linux-image-6.12-amd64:\n  Installed: (none)\n  Candidate: 6.12.117-1~deb12u1\n  Version table:\n";
        assert_eq!(parse_candidate(text).as_deref(), Some("6.12.117-1~deb12u1"));
        assert_eq!(
            parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"),
            None
        );
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn depends_lists_names_only() {
        let text = "linux-image-7.3.4+deb13-amd64\n  Depends: linux-binary-7.3.4+deb13-amd64\n \
                    |Depends: kmod\n  Depends: <linux-initramfs-tool>\n    dracut\n  Recommends: apparmor\n";
        assert_eq!(
            parse_depends(text),
            ["linux-binary-7.3.4+deb13-amd64", "kmod"]
        );
    }
}
