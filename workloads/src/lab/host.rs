//! What the host must have, and the one command that installs what it lacks.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// How the presence of a requirement is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// A program in `PATH` or in an `sbin` directory.
    Program,
    /// A header below `/usr/include`.
    Header,
}

/// Something the lab calls or compiles with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Program or header.
    pub name: String,
    /// How it is looked for.
    pub probe: Probe,
    /// Debian package that has it.
    pub package: String,
    /// What does not work without it.
    pub needed_for: &'static str,
}

/// Program or header, how to look for it, package, purpose.
type Row = (&'static str, Probe, &'static str, &'static str);

const BOOT: &str = "booting a VM";
const FETCH: &str = "getting kernels";
const MKFS: &str = "making filesystems in the guest";
const BUILD: &str = "building patched modules";

const VM: &[Row] = &[
    (
        "qemu-system-x86_64",
        Probe::Program,
        "qemu-system-x86",
        BOOT,
    ),
    ("ldd", Probe::Program, "libc-bin", BOOT),
    ("xz", Probe::Program, "xz-utils", BOOT),
    ("apt-get", Probe::Program, "apt", FETCH),
    ("apt-cache", Probe::Program, "apt", FETCH),
    ("dpkg", Probe::Program, "dpkg", FETCH),
    ("mkfs.xfs", Probe::Program, "xfsprogs", MKFS),
    ("mkfs.ext4", Probe::Program, "e2fsprogs", MKFS),
];

const TOOLS: &[Row] = &[
    ("make", Probe::Program, "make", BUILD),
    ("patch", Probe::Program, "patch", BUILD),
    ("tar", Probe::Program, "tar", BUILD),
    ("xz", Probe::Program, "xz-utils", BUILD),
    ("bc", Probe::Program, "bc", BUILD),
    ("flex", Probe::Program, "flex", BUILD),
    ("bison", Probe::Program, "bison", BUILD),
    ("pahole", Probe::Program, "dwarves", BUILD),
    ("strip", Probe::Program, "binutils", BUILD),
    ("libelf.h", Probe::Header, "libelf-dev", BUILD),
    ("openssl/ssl.h", Probe::Header, "libssl-dev", BUILD),
];

/// What booting a stock kernel needs.
pub fn vm_tools() -> Vec<Requirement> {
    VM.iter().map(requirement).collect()
}

/// What building a module needs; `compiler` is the one the kernel was built with
/// (`gcc-12`), the default one if it is not known yet.
pub fn build_tools(compiler: Option<&str>) -> Vec<Requirement> {
    let mut tools: Vec<Requirement> = TOOLS.iter().map(requirement).collect();
    let compiler = compiler.unwrap_or("gcc");
    tools.push(Requirement {
        name: compiler.to_owned(),
        probe: Probe::Program,
        package: compiler.to_owned(),
        needed_for: BUILD,
    });
    tools
}

fn requirement(&(name, probe, package, needed_for): &Row) -> Requirement {
    Requirement {
        name: name.to_owned(),
        probe,
        package: package.to_owned(),
        needed_for,
    }
}

/// Those of the requirements that this host lacks.
pub fn missing(requirements: &[Requirement]) -> Vec<Requirement> {
    requirements
        .iter()
        .filter(|requirement| !is_present(requirement))
        .cloned()
        .collect()
}

/// The one command that installs what is missing; `None` if nothing is.
pub fn install_line(missing: &[Requirement]) -> Option<String> {
    let mut packages: Vec<&str> = missing.iter().map(|item| item.package.as_str()).collect();
    packages.sort_unstable();
    packages.dedup();
    (!packages.is_empty()).then(|| format!("apt-get install {}", packages.join(" ")))
}

/// Fails if anything is missing, naming it and the command that cures it.
///
/// # Errors
/// A requirement is missing.
pub fn require(requirements: &[Requirement]) -> Result<()> {
    let missing = missing(requirements);
    let Some(line) = install_line(&missing) else {
        return Ok(());
    };
    let names: Vec<String> = missing
        .iter()
        .map(|item| format!("{} ({})", item.name, item.needed_for))
        .collect();
    bail!("not installed: {}; run `{line}`", names.join(", "));
}

fn is_present(requirement: &Requirement) -> bool {
    match requirement.probe {
        Probe::Program => find_program(&requirement.name).is_some(),
        Probe::Header => {
            Path::new("/usr/include").join(&requirement.name).exists()
                || Path::new("/usr/include/x86_64-linux-gnu")
                    .join(&requirement.name)
                    .exists()
        }
    }
}

/// Finds a program in `PATH` or in the `sbin` directories, which a user's `PATH` lacks.
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_installs_each_package_once() {
        let rows = [VM[3], VM[4], VM[0]].map(|row| requirement(&row));
        assert_eq!(
            install_line(&rows).as_deref(),
            Some("apt-get install apt qemu-system-x86")
        );
        assert_eq!(install_line(&[]), None);
    }

    #[test]
    fn a_program_is_found_by_name_or_path() {
        let shell = find_program("sh");
        assert!(shell.is_some());
        assert_eq!(find_program("/bin/sh"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find_program("./sh"), None);
        assert!(find_program("./Cargo.toml").is_some());
    }

    #[test]
    fn what_is_missing_is_named() {
        let absent = requirement(&("no-such-program", Probe::Program, "no-such-package", BOOT));
        let error = require(std::slice::from_ref(&absent))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no-such-program (booting a VM)"), "{error}");
        assert!(error.contains("apt-get install no-such-package"), "{error}");
        let shell = requirement(&("sh", Probe::Program, "dash", BOOT));
        assert!(missing(&[shell]).is_empty());
    }
}
