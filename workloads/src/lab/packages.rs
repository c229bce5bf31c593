//! Debian packages without installing them: what the mirrors offer, `apt-get download`,
//! `dpkg -x`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use super::cache::Cache;
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

/// One of Debian's archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Archive {
    Main,
    Security,
}

impl Archive {
    /// The `Label` in its Release files.
    fn label(self) -> &'static str {
        match self {
            Self::Main => "Debian",
            Self::Security => "Debian-Security",
        }
    }
}

/// Where the archives are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Addresses {
    main: String,
    security: String,
}

impl Addresses {
    /// `FAULTLINE_MIRROR`, or else the mirror that the host's apt is set up with.
    ///
    /// # Errors
    /// apt is missing, or knows no Debian mirror.
    fn find() -> Result<Self> {
        let format = "$(LABEL) $(REPO_URI)";
        let targets = output(
            "apt-get",
            &[
                "indextargets".as_ref(),
                "--format".as_ref(),
                format.as_ref(),
            ],
        )?;
        let named = std::env::var("FAULTLINE_MIRROR").ok();
        Self::choose(named.as_deref(), &targets).context(
            "apt knows no Debian mirror; name one in FAULTLINE_MIRROR, as http://HOST/debian",
        )
    }

    /// From a name and from lines of label and address.
    fn choose(named: Option<&str>, targets: &str) -> Option<Self> {
        let known = |archive: Archive| {
            targets.lines().find_map(|line| {
                let (label, address) = line.split_once(' ')?;
                (label == archive.label()).then_some(address)
            })
        };
        let main = named
            .or_else(|| known(Archive::Main))?
            .trim_end_matches('/')
            .to_owned();
        // Mirrors keep the one beside the other.
        let security = known(Archive::Security).map_or_else(
            || format!("{main}-security"),
            |address| address.trim_end_matches('/').to_owned(),
        );
        Some(Self { main, security })
    }

    fn of(&self, archive: Archive) -> &str {
        match archive {
            Archive::Main => &self.main,
            Archive::Security => &self.security,
        }
    }
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Suites that between them have every kernel series Debian still builds, and the
/// sources and headers of each.
const SUITES: &[(Archive, &str)] = &[
    (Archive::Main, "bookworm"),
    (Archive::Security, "bookworm-security"),
    (Archive::Main, "bookworm-backports"),
    (Archive::Main, "trixie-backports"),
    (Archive::Main, "sid"),
];

/// Where packages come from: apt with one set of package lists.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Options of every `apt-get` and `apt-cache`.
    options: Vec<OsString>,
    /// The cache that has lists of our own, which need neither root nor a change to the
    /// host's apt.
    own_lists: Option<Cache>,
}

impl Mirror {
    /// What the host's apt is set up with.
    pub fn of_host() -> Self {
        Self {
            options: Vec::new(),
            own_lists: None,
        }
    }

    /// All of [`SUITES`], with lists in the cache; the host's apt stays as it is.
    ///
    /// # Errors
    /// The cache cannot be written, or no mirror is known.
    pub fn of_all_suites(cache: &Cache) -> Result<Self> {
        let root = cache.root().join("apt");
        for directory in ["lists/partial", "cache/archives/partial"] {
            let path = root.join(directory);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        let list = root.join("sources.list");
        fs::write(&list, sources(&Addresses::find()?))
            .with_context(|| format!("cannot write {}", list.display()))?;
        let set = |name: &str, value: &Path| {
            let mut option = OsString::from(format!("{name}="));
            option.push(value);
            [OsString::from("-o"), option]
        };
        let mut options: Vec<OsString> = [
            set("Dir::Etc::sourcelist", &list),
            set("Dir::Etc::sourceparts", Path::new("/dev/null")),
            set("Dir::State::lists", &root.join("lists")),
            set("Dir::Cache", &root.join("cache")),
        ]
        .concat();
        options.extend(
            [
                "-o",
                "Acquire::Languages=none",
                "-o",
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            ]
            .map(OsString::from),
        );
        Ok(Self {
            options,
            own_lists: Some(cache.clone()),
        })
    }

    fn ask(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let line: Vec<&OsStr> = self
            .options
            .iter()
            .map(OsString::as_os_str)
            .chain(arguments.iter().map(OsStr::new))
            .collect();
        output(program, &line)
    }

    /// Names of the known packages that start with `prefix`.
    ///
    /// Names that only other packages mention are among them: see [`Mirror::candidate`].
    ///
    /// # Errors
    /// `apt-cache` is missing or fails.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = self.ask("apt-cache", &["pkgnames", prefix])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The version offered of a package; `None` if it is not known.
    ///
    /// # Errors
    /// `apt-cache` is missing or fails.
    pub fn candidate(&self, name: &str) -> Result<Option<Package>> {
        let text = self.ask("apt-cache", &["policy", name])?;
        Ok(parse_candidate(&text).map(|version| Package {
            name: name.to_owned(),
            version,
        }))
    }

    /// Direct dependencies of a package; empty if it is unknown.
    pub fn dependencies(&self, name: &str) -> Vec<String> {
        self.ask("apt-cache", &["depends", name])
            .map(|text| parse_depends(&text))
            .unwrap_or_default()
    }

    /// Refreshes the package lists; those of the host only as root.
    ///
    /// # Errors
    /// `apt-get update` fails: no network, or not root.
    pub fn update(&self) -> Result<()> {
        // Two at once, and apt would refuse the second.
        let _lock = match &self.own_lists {
            Some(cache) => Some(cache.lock("apt")?),
            None => None,
        };
        let cure = if self.own_lists.is_some() {
            "cannot fetch the package lists; is there a network, or a mirror for FAULTLINE_MIRROR?"
        } else {
            "cannot refresh the package lists; run `apt-get update` as root"
        };
        self.ask(
            "apt-get",
            &["-q", "-o", "APT::Sandbox::User=root", "update"],
        )
        .context(cure)?;
        Ok(())
    }

    /// Downloads a package at exactly this version and unpacks it below `root`.
    ///
    /// # Errors
    /// This version is no longer offered, there is no network, or the disk is full.
    pub fn unpack_into(
        &self,
        package: &Package,
        root: &Path,
        progress: &mut ProgressFn,
    ) -> Result<()> {
        progress(Progress::Downloading(format!(
            "{} {}",
            package.name, package.version
        )));
        let scratch = tempfile::Builder::new()
            .prefix(".download-")
            .tempdir_in(root.parent().unwrap_or(root))
            .context("cannot create a directory for the download")?;
        let deb = self.download(package, scratch.path())?;
        output("dpkg", &["-x".as_ref(), deb.as_os_str(), root.as_os_str()])?;
        Ok(())
    }

    fn download(&self, package: &Package, directory: &Path) -> Result<PathBuf> {
        let output = Command::new("apt-get")
            .args(&self.options)
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
        fs::read_dir(directory)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .ok_or_else(|| anyhow!("apt-get downloaded no .deb for {}", package.name))
    }
}

fn sources(addresses: &Addresses) -> String {
    SUITES
        .iter()
        .map(|&(archive, suite)| {
            let address = addresses.of(archive);
            format!("deb [signed-by={KEYRING}] {address} {suite} main\n")
        })
        .collect()
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
    fn every_suite_is_listed_at_the_chosen_mirror() {
        let known =
            "Debian http://mirror.test/debian/\nDebian-Security http://safe.test/security/\n";
        let text = sources(&Addresses::choose(None, known).unwrap());
        assert_eq!(text.lines().count(), SUITES.len());
        assert!(
            text.contains("] http://mirror.test/debian sid main\n"),
            "{text}"
        );
        assert!(
            text.contains("] http://safe.test/security bookworm-security main\n"),
            "{text}"
        );
        let named = Addresses::choose(Some("http://other.test/debian"), "").unwrap();
        assert_eq!(named.security, "http://other.test/debian-security");
        assert_eq!(Addresses::choose(None, "Ubuntu http://other.test/\n"), None);
    }

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
