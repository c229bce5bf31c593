//! What is put to the test: a packaged kernel, or one's own, or a filesystem module of it changed.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail};
use workloads::lab::{
    Cache, FilesystemKind, Kernel, KernelSeries, ModuleOverride, kernel_tree, modules,
    progress::ProgressFn,
};

/// Something that can be booted and judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A kernel of Debian's: a series (`6.12`, `7`) or a release (`6.12.95`).
    Packaged(KernelSeries),
    /// A patch to the filesystem modules of the packaged kernel.
    Patch(PathBuf),
    /// The source of one filesystem module, `fs/xfs` or `fs/ext4` of a tree, built for the
    /// packaged kernel.
    ModuleSource(PathBuf),
    /// A built kernel tree.
    Tree(PathBuf),
    /// An image, and the modules that belong to it: `lib/modules/RELEASE`.
    Image {
        /// The image.
        image: PathBuf,
        /// Its modules.
        modules: PathBuf,
    },
    /// A kernel installed on this machine, by release.
    Installed(String),
}

/// A subject that is ready to be booted.
#[derive(Debug)]
pub struct Prepared {
    /// The kernel.
    pub kernel: Kernel,
    /// Modules that replace its own.
    pub overrides: Vec<ModuleOverride>,
    /// The filesystems that the change is about; all of them if it is not about one.
    pub filesystems: Vec<FilesystemKind>,
}

impl FromStr for Subject {
    type Err = String;

    /// By prefix (`patch:`, `source:`, `tree:`, `image:IMAGE,MODULES`, `installed:`, `kernel:`), or
    /// by looking at what is there.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((prefix, rest)) = text.split_once(':') {
            let path = || PathBuf::from(rest);
            match prefix {
                "patch" => return Ok(Self::Patch(path())),
                "source" => return Ok(Self::ModuleSource(path())),
                "tree" => return Ok(Self::Tree(path())),
                "installed" => return Ok(Self::Installed(rest.to_owned())),
                "kernel" => return Ok(Self::Packaged(KernelSeries(rest.to_owned()))),
                "image" => {
                    let (image, modules) = rest.split_once(',').ok_or_else(|| {
                        format!("{text} names no modules; write image:IMAGE,MODULES")
                    })?;
                    return Ok(Self::Image {
                        image: image.into(),
                        modules: modules.into(),
                    });
                }
                _ => {}
            }
        }
        let path = Path::new(text);
        if path.join("arch/x86/boot").is_dir() {
            return Ok(Self::Tree(path.to_owned()));
        }
        if module_of(path).is_some() {
            return Ok(Self::ModuleSource(path.to_owned()));
        }
        if path.is_file() {
            return Ok(Self::Patch(path.to_owned()));
        }
        if let Some(release) = text.strip_prefix("linux-image-") {
            let release = release.strip_suffix("-amd64").unwrap_or(release);
            return Ok(Self::Packaged(KernelSeries(release.to_owned())));
        }
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return Ok(Self::Packaged(KernelSeries(text.to_owned())));
        }
        Err(format!(
            "{text} is neither a patch, nor the source of xfs or ext4, nor a built kernel tree, nor a \
             kernel series; `faultline ci --help` shows how to say which"
        ))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packaged(series) => write!(f, "{}", series.0),
            Self::Patch(path) | Self::ModuleSource(path) | Self::Tree(path) => {
                write!(f, "{}", path.display())
            }
            Self::Image { image, .. } => write!(f, "{}", image.display()),
            Self::Installed(release) => write!(f, "installed {release}"),
        }
    }
}

impl Subject {
    /// Gets or builds it. `base` is the packaged kernel that a patch or a module is for.
    ///
    /// # Errors
    /// It cannot be had, or does not build; the message says why.
    pub fn prepare(
        &self,
        base: &KernelSeries,
        cache: &Cache,
        progress: &mut ProgressFn,
    ) -> Result<Prepared> {
        match self {
            Self::Packaged(series) => whole(Kernel::obtain(cache, series, progress)?),
            Self::Patch(path) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read the patch {}", path.display()))?;
                let kernel = Kernel::obtain(cache, base, progress)?;
                let mut overrides = Vec::new();
                let mut filesystems = Vec::new();
                for (filesystem, part) in parts(&text)? {
                    let object = modules::build(cache, &kernel, filesystem, &part, progress)?;
                    overrides.push(ModuleOverride {
                        name: filesystem.module().to_owned(),
                        object,
                    });
                    filesystems.push(filesystem);
                }
                Ok(Prepared {
                    kernel,
                    overrides,
                    filesystems,
                })
            }
            Self::ModuleSource(path) => {
                let filesystem = module_of(path).with_context(|| {
                    format!(
                        "{} is the source of neither xfs nor ext4: it has no xfs_mount.h or ext4.h",
                        path.display()
                    )
                })?;
                let kernel = Kernel::obtain(cache, base, progress)?;
                let object = modules::build_source(cache, &kernel, filesystem, path, progress)?;
                Ok(Prepared {
                    kernel,
                    overrides: vec![ModuleOverride {
                        name: filesystem.module().to_owned(),
                        object,
                    }],
                    filesystems: vec![filesystem],
                })
            }
            Self::Tree(path) => whole(built(path, cache)?),
            Self::Image { image, modules } => whole(Kernel::from_paths(
                image,
                modules,
                &first_config(modules, None),
            )?),
            Self::Installed(release) => {
                let image = PathBuf::from(format!("/boot/vmlinuz-{release}"));
                let modules = PathBuf::from(format!("/lib/modules/{release}"));
                let config = first_config(&modules, Some(release));
                whole(Kernel::from_paths(&image, &modules, &config)?)
            }
        }
    }
}

fn whole(kernel: Kernel) -> Result<Prepared> {
    Ok(Prepared {
        kernel,
        overrides: Vec::new(),
        filesystems: FilesystemKind::ALL.to_vec(),
    })
}

/// Which filesystem's source a directory is.
fn module_of(path: &Path) -> Option<FilesystemKind> {
    [
        (FilesystemKind::Xfs, "xfs_mount.h"),
        (FilesystemKind::Ext4, "ext4.h"),
    ]
    .into_iter()
    .find(|(_, header)| path.join(header).is_file())
    .map(|(kind, _)| kind)
}

/// The parts of a patch that concern each filesystem.
fn parts(patch: &str) -> Result<Vec<(FilesystemKind, String)>> {
    let mut parts: Vec<(FilesystemKind, String)> = Vec::new();
    let mut elsewhere = Vec::new();
    let mut current: Option<FilesystemKind> = None;
    let mut lines = patch.lines().peekable();
    while let Some(line) = lines.next() {
        let starts =
            line.starts_with("--- ") && lines.peek().is_some_and(|next| next.starts_with("+++ "));
        if starts {
            let next = lines.peek().copied().unwrap_or_default();
            // A file that is new or goes has /dev/null on one side.
            let path = [next, line]
                .into_iter()
                .filter_map(|side| side.get(4..)?.split(['\t', ' ']).next())
                .find(|path| *path != "/dev/null")
                .unwrap_or_default();
            let path = path.split_once('/').map_or(path, |(_, path)| path);
            current = FilesystemKind::ALL
                .into_iter()
                .find(|kind| path.starts_with(&format!("fs/{}/", kind.module())));
            if current.is_none() {
                elsewhere.push(path.to_owned());
            }
        }
        let Some(kind) = current else { continue };
        let index = match parts.iter().position(|(of, _)| *of == kind) {
            Some(index) => index,
            None => {
                parts.push((kind, String::new()));
                parts.len() - 1
            }
        };
        if line.starts_with("diff --git ") {
            continue;
        }
        let part = &mut parts[index].1;
        part.push_str(line);
        part.push('\n');
    }
    if let Some(first) = elsewhere.first() {
        bail!(
            "the patch changes {first}, which is not part of the xfs or ext4 module: build the kernel \
             and give its tree, or image:IMAGE,MODULES"
        );
    }
    if parts.is_empty() {
        bail!("there is no patch to fs/xfs or fs/ext4 in it");
    }
    Ok(parts)
}

/// Where the configuration of modules may lie; the last place if nowhere, which is then told.
fn first_config(modules: &Path, installed: Option<&str>) -> PathBuf {
    let mut places = vec![modules.join("config"), modules.join("build/.config")];
    places.extend(installed.map(|release| PathBuf::from(format!("/boot/config-{release}"))));
    places
        .iter()
        .find(|place| place.is_file())
        .or(places.last())
        .cloned()
        .unwrap_or_default()
}

/// Image and modules of a built tree; the modules are installed into the cache.
fn built(tree: &Path, cache: &Cache) -> Result<Kernel> {
    let image = kernel_tree::image(tree)?;
    let root = cache
        .root()
        .join("installed")
        .join(kernel_tree::release(tree)?);
    let modules = kernel_tree::install_modules(tree, &root)?;
    Kernel::from_paths(&image, &modules, &tree.join(".config"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "From: someone\n\ndiff --git a/fs/xfs/x.c b/fs/xfs/x.c\n--- a/fs/xfs/x.c\n+++ b/fs/xfs/x.c\n\
                       @@ -1 +1 @@\n-a\n+b\n--- /dev/null\n+++ b/fs/ext4/new.c\n@@ -0,0 +1 @@\n+c\n";

    #[test]
    fn a_patch_is_split_by_filesystem() {
        let parts = parts(TWO).unwrap();
        let kinds: Vec<_> = parts.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [FilesystemKind::Xfs, FilesystemKind::Ext4]);
        assert_eq!(
            parts[0].1,
            "--- a/fs/xfs/x.c\n+++ b/fs/xfs/x.c\n@@ -1 +1 @@\n-a\n+b\n"
        );
        assert!(
            parts[1]
                .1
                .starts_with("--- /dev/null\n+++ b/fs/ext4/new.c\n")
        );
    }

    #[test]
    fn a_patch_to_the_image_is_refused_by_name() {
        let error = parts("--- a/fs/dax.c\n+++ b/fs/dax.c\n@@ -1 +1 @@\n-a\n+b\n").unwrap_err();
        assert!(error.to_string().contains("fs/dax.c"), "{error}");
        assert!(parts("nothing\n").is_err());
    }

    #[test]
    fn subjects_are_told_apart() {
        let series = |text: &str| Subject::Packaged(KernelSeries(text.into()));
        assert_eq!("6.12".parse(), Ok(series("6.12")));
        assert_eq!(
            "linux-image-6.12.95+deb12-amd64".parse(),
            Ok(series("6.12.95+deb12"))
        );
        assert_eq!(
            "patch:a.patch".parse(),
            Ok(Subject::Patch("a.patch".into()))
        );
        assert_eq!(
            "image:b,c".parse(),
            Ok(Subject::Image {
                image: "b".into(),
                modules: "c".into()
            })
        );
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ext4.h"), "").unwrap();
        let text = directory.path().to_str().unwrap();
        assert_eq!(text.parse(), Ok(Subject::ModuleSource(text.into())));
        assert!("nonsense".parse::<Subject>().is_err());
    }
}
