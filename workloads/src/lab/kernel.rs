//! Kernels: chosen by series from what the mirrors offer today, kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::packages::{Mirror, Package};
use super::progress::{Progress, ProgressFn};
use super::version;

/// Debian's name of the only architecture the lab knows.
const ARCHITECTURE: &str = "amd64";
const KIND: &str = "kernels";
const RECORD: &str = "kernel.json";

/// A kernel series: `6.12`, `6.1`, or `7` for the newest 7.x.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSeries(pub String);

impl KernelSeries {
    /// Whether a release or a package version belongs to the series.
    pub fn contains(&self, release: &str) -> bool {
        release
            .strip_prefix(self.0.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '+']))
    }
}

/// Where a kernel came from, and so what its modules can be rebuilt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Debian's package of this version: rebuilt with its source and headers packages.
    Package(String),
    /// Built by the lab ([`super::debug_kernel`]): rebuilt in the same tree.
    Built {
        /// Version of Debian's source package.
        source: String,
        /// Tells it from others of the same source.
        key: String,
        /// The built tree.
        tree: PathBuf,
    },
    /// Given by path: not rebuilt.
    Path,
}

impl Origin {
    /// Names in the cache what is made from the kernel; `None` if nothing may be kept, as another
    /// kernel may be at the same path next time.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Package(version) => Some(version),
            Self::Built { key, .. } => Some(key),
            Self::Path => None,
        }
    }
}

/// A bootable kernel with its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `uname -r` of the kernel.
    pub release: String,
    /// Where it came from.
    pub origin: Origin,
    /// Compressed image (`bzImage`).
    pub vmlinuz: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules_dir: PathBuf,
    /// The configuration it was built with.
    pub config: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Record {
    release: String,
    version: String,
}

impl Kernel {
    /// Gets the newest kernel of a series: from the mirrors, or from the cache when it
    /// is there already or the mirrors cannot be reached.
    ///
    /// # Errors
    /// Neither the mirrors nor the cache have a kernel of that series.
    pub fn obtain(cache: &Cache, series: &KernelSeries, progress: &mut ProgressFn) -> Result<Self> {
        let error = match choose_and_fetch(cache, series, progress) {
            Ok(kernel) => return Ok(kernel),
            Err(error) => error,
        };
        match newest_cached(cache, series) {
            Some(kernel) => {
                progress(Progress::Note(format!(
                    "using the cached kernel {}: {error:#}",
                    kernel.release
                )));
                Ok(kernel)
            }
            None => Err(error.context(format!("no kernel of series {} can be had", series.0))),
        }
    }

    /// A kernel of one's own: the image, and the tree that `make modules_install` filled.
    ///
    /// # Errors
    /// Image or modules do not exist, or the modules directory has no name. A configuration that
    /// does not exist is one that cannot be looked at.
    pub fn from_paths(vmlinuz: &Path, modules_dir: &Path, config: &Path) -> Result<Self> {
        for path in [vmlinuz, modules_dir] {
            if !path.exists() {
                bail!("{} does not exist", path.display());
            }
        }
        let release = modules_dir
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| anyhow!("{} is not named after a release", modules_dir.display()))?;
        Ok(Self {
            release: release.to_owned(),
            origin: Origin::Path,
            vmlinuz: vmlinuz.to_owned(),
            modules_dir: modules_dir.to_owned(),
            config: config.to_owned(),
        })
    }

    /// `X.Y` of the release, as Debian names its source package.
    ///
    /// # Errors
    /// The release does not start with two numbers.
    pub fn source_series(&self) -> Result<String> {
        let mut parts = self.release.split(['.', '-', '+']);
        match (parts.next(), parts.next()) {
            (Some(major), Some(minor)) if minor.parse::<u32>().is_ok() => {
                Ok(format!("{major}.{minor}"))
            }
            _ => bail!("kernel release {} does not start with X.Y", self.release),
        }
    }

    /// Reads an unpacked item of the cache.
    fn load(item: &Path) -> Result<Self> {
        let record = item.join(RECORD);
        let text = fs::read_to_string(&record)
            .with_context(|| format!("cannot read {}", record.display()))?;
        let Record { release, version } = serde_json::from_str(&text)?;
        let root = item.join("root");
        let modules = first_existing(&[
            root.join("lib/modules").join(&release),
            root.join("usr/lib/modules").join(&release),
        ])?;
        let vmlinuz = first_existing(&[
            root.join(format!("boot/vmlinuz-{release}")),
            modules.join("vmlinuz"),
        ])?;
        let config = first_existing(&[
            root.join(format!("boot/config-{release}")),
            modules.join("config"),
        ])?;
        Ok(Self {
            release,
            origin: Origin::Package(version),
            vmlinuz,
            modules_dir: modules,
            config,
        })
    }
}

fn first_existing(paths: &[PathBuf]) -> Result<PathBuf> {
    paths
        .iter()
        .find(|path| path.exists())
        .cloned()
        .ok_or_else(|| {
            let list: Vec<_> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            anyhow!("the kernel packages have none of {}", list.join(", "))
        })
}

/// The image package of a series, and the mirror that offers it: the host's own if it has
/// the series, else all of Debian's suites, with lists no older than a failed download.
fn choose(
    cache: &Cache,
    series: &KernelSeries,
    progress: &mut ProgressFn,
) -> Result<(Mirror, Package)> {
    let host = Mirror::of_host();
    if let Some(image) = offered(&host, series)? {
        return Ok((host, image));
    }
    let all = Mirror::of_all_suites(cache)?;
    if let Some(image) = offered(&all, series)? {
        return Ok((all, image));
    }
    let image = refreshed(&all, series, progress)?;
    Ok((all, image))
}

fn refreshed(mirror: &Mirror, series: &KernelSeries, progress: &mut ProgressFn) -> Result<Package> {
    progress(Progress::Downloading("package lists".to_owned()));
    mirror.update()?;
    offered(mirror, series)?.ok_or_else(|| {
        anyhow!(
            "no package linux-image-{}*-{ARCHITECTURE} in Debian's suites; try 6.1, 6.12 or 7",
            series.0
        )
    })
}

fn offered(mirror: &Mirror, series: &KernelSeries) -> Result<Option<Package>> {
    let known = mirror.names(&format!("linux-image-{}", series.0))?;
    for image in images_of(series, &known) {
        if let Some(package) = mirror.candidate(&image)? {
            return Ok(Some(package));
        }
    }
    Ok(None)
}

/// The ordinary image packages of a series among `names`, highest version first.
fn images_of(series: &KernelSeries, names: &[String]) -> Vec<String> {
    let mut images: Vec<(&str, &String)> = names
        .iter()
        .filter_map(|name| Some((release_of(name)?, name)))
        .filter(|(release, _)| series.contains(release))
        .collect();
    images.sort_by(|(left, _), (right, _)| version::compare(right, left));
    images.into_iter().map(|(_, name)| name.clone()).collect()
}

/// `6.12.117+deb12` of `linux-image-6.12.117+deb12-amd64`; `None` for meta packages,
/// flavours, debug symbols and unsigned images.
fn release_of(image: &str) -> Option<&str> {
    let release = image
        .strip_prefix("linux-image-")?
        .strip_suffix(ARCHITECTURE)?
        .strip_suffix('-')?;
    let numbered =
        release.split('.').count() >= 3 && release.starts_with(|c: char| c.is_ascii_digit());
    let flavoured = release.ends_with("-cloud") || release.ends_with("-rt");
    (numbered && !flavoured).then_some(release)
}

/// Mirrors keep one version: lists that are a few days old name packages that are gone.
fn choose_and_fetch(
    cache: &Cache,
    series: &KernelSeries,
    progress: &mut ProgressFn,
) -> Result<Kernel> {
    let (mirror, image) = choose(cache, series, progress)?;
    match fetch(cache, &mirror, &image, progress) {
        Ok(kernel) => Ok(kernel),
        Err(error) => {
            progress(Progress::Note(format!("{error:#}; asking again")));
            let all = Mirror::of_all_suites(cache)?;
            let image = refreshed(&all, series, progress)?;
            fetch(cache, &all, &image, progress)
        }
    }
}

fn fetch(
    cache: &Cache,
    mirror: &Mirror,
    image: &Package,
    progress: &mut ProgressFn,
) -> Result<Kernel> {
    let release = image
        .name
        .strip_prefix("linux-image-")
        .ok_or_else(|| anyhow!("{} is no image package", image.name))?;
    let item = cache.item(&format!("{KIND}/{release}_{}", image.version), |staging| {
        let root = staging.dir.join("root");
        fs::create_dir_all(&root)?;
        mirror.unpack_into(image, &root, progress)?;
        // Since 7.x the image package is empty: linux-base-RELEASE, linux-binary-RELEASE and
        // linux-modules-RELEASE hold configuration, image and modules.
        let parts = mirror.dependencies(&image.name);
        for part in parts.iter().filter(|name| {
            name.strip_prefix("linux-")
                .and_then(|rest| rest.strip_suffix(release))
                .is_some_and(|part| part.ends_with('-'))
        }) {
            let package = Package {
                name: part.clone(),
                version: image.version.clone(),
            };
            mirror.unpack_into(&package, &root, progress)?;
        }
        let record = Record {
            release: release.to_owned(),
            version: image.version.clone(),
        };
        fs::write(
            staging.dir.join(RECORD),
            serde_json::to_vec_pretty(&record)?,
        )?;
        Kernel::load(&staging.dir).map(drop)
    })?;
    Kernel::load(&item)
}

fn newest_cached(cache: &Cache, series: &KernelSeries) -> Option<Kernel> {
    cache
        .list(KIND)
        .iter()
        .filter_map(|name| Kernel::load(&cache.get(&format!("{KIND}/{name}"))?).ok())
        .filter(|kernel| series.contains(&kernel.release))
        .max_by(|left, right| {
            let [left, right] = [left, right].map(|kernel| kernel.origin.key().unwrap_or_default());
            version::compare(left, right)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    const OFFER: &[&str] = &[
        "linux-image-6.12-amd64",
        "linux-image-6.12.95+deb12-amd64",
        "linux-image-6.12.117+deb12-amd64",
        "linux-image-6.12.117+deb12-amd64-dbg",
        "linux-image-6.12.117+deb12-amd64-unsigned",
        "linux-image-6.12.118+deb12-cloud-amd64",
        "linux-image-6.12.119+deb12-rt-amd64",
        "linux-image-6.1.0-9-amd64",
        "linux-image-6.1.0-47-amd64",
        "linux-image-amd64",
    ];

    #[test]
    fn a_series_takes_its_highest_ordinary_image() {
        let images = images_of(&KernelSeries("6.12".into()), &names(OFFER));
        assert_eq!(
            images,
            [
                "linux-image-6.12.117+deb12-amd64",
                "linux-image-6.12.95+deb12-amd64"
            ]
        );
        let images = images_of(&KernelSeries("6.1".into()), &names(OFFER));
        assert_eq!(
            images,
            ["linux-image-6.1.0-47-amd64", "linux-image-6.1.0-9-amd64"]
        );
        assert!(images_of(&KernelSeries("7".into()), &names(OFFER)).is_empty());
    }

    #[test]
    fn a_number_is_not_taken_for_the_start_of_another() {
        let dependencies = names(&["linux-image-6.1.0-56-amd64"]);
        assert!(images_of(&KernelSeries("6.12".into()), &dependencies).is_empty());
        assert_eq!(images_of(&KernelSeries("6".into()), &dependencies).len(), 1);
    }

    #[test]
    fn a_split_kernel_is_found_below_usr() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("root/usr/lib/modules/7.3.4+deb13-amd64");
        fs::create_dir_all(&modules).unwrap();
        fs::create_dir_all(dir.path().join("root/boot")).unwrap();
        fs::write(modules.join("vmlinuz"), "").unwrap();
        fs::write(dir.path().join("root/boot/config-7.3.4+deb13-amd64"), "").unwrap();
        fs::write(
            dir.path().join(RECORD),
            r#"{"release":"7.3.4+deb13-amd64","version":"7.3.4-1"}"#,
        )
        .unwrap();
        let kernel = Kernel::load(dir.path()).unwrap();
        assert_eq!(kernel.vmlinuz, modules.join("vmlinuz"));
        assert_eq!(kernel.source_series().unwrap(), "7.3");
    }
}
