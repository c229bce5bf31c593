//! The cache directory: kernels, headers, sources and built modules.
//!
//! An item is a directory that is either complete or absent: it is filled under a
//! temporary name beside its place, under a lock of its own, and renamed when done.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};

/// A directory of complete items.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Where an item is filled, and where it will stand.
#[derive(Debug)]
pub struct Staging {
    /// Write here.
    pub dir: PathBuf,
    /// The path the item has once complete, for contents that name their own place.
    pub destination: PathBuf,
}

impl Cache {
    /// Opens the user's cache: `$FAULTLINE_CACHE`, else `$XDG_CACHE_HOME/faultline`,
    /// else `~/.cache/faultline`.
    ///
    /// # Errors
    /// None of the three variables is set, or the directory cannot be created.
    pub fn open() -> Result<Self> {
        let root = locate(|name| std::env::var_os(name).map(PathBuf::from)).ok_or_else(|| {
            anyhow!("no cache directory: HOME is not set; set FAULTLINE_CACHE to a writable path")
        })?;
        Self::at(root)
    }

    /// Opens a cache at a given place.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(root.join("locks")).with_context(|| {
            format!(
                "cannot create the cache directory {}; set FAULTLINE_CACHE to a writable path",
                root.display()
            )
        })?;
        // Contents name their own place (make files, `.cmd` files), so it must be absolute.
        let root = root
            .canonicalize()
            .context("cannot resolve the cache directory")?;
        Ok(Self { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a complete item, if it is there.
    pub fn get(&self, name: &str) -> Option<PathBuf> {
        let path = self.root.join(name);
        path.is_dir().then_some(path)
    }

    /// Names of the complete items of one kind (`kernels`, `headers` …), sorted.
    pub fn list(&self, kind: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(kind)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }

    /// Returns the item `name` (`kind/key`), filling it first if it is absent.
    ///
    /// Waits while another process fills the same item. What `fill` leaves behind when
    /// it fails, or when the process is killed, is never taken for the item.
    ///
    /// # Errors
    /// Whatever `fill` returns, or the cache directory cannot be written.
    pub fn item(&self, name: &str, fill: impl FnOnce(&Staging) -> Result<()>) -> Result<PathBuf> {
        if let Some(path) = self.get(name) {
            return Ok(path);
        }
        let _lock = self.lock(name)?;
        if let Some(path) = self.get(name) {
            return Ok(path);
        }
        let destination = self.root.join(name);
        let dir = partial_path(&destination)?;
        remove_tree(&dir)?;
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let staging = Staging { dir, destination };
        let filled = fill(&staging);
        if let Err(error) = filled {
            // The first error is the one worth reporting.
            let _ = remove_tree(&staging.dir);
            return Err(error);
        }
        fs::rename(&staging.dir, &staging.destination)
            .with_context(|| format!("cannot move {} into place", staging.destination.display()))?;
        Ok(staging.destination)
    }

    /// Takes the lock of an item, waiting for it; released on drop.
    ///
    /// # Errors
    /// The lock file cannot be created or locked.
    pub fn lock(&self, name: &str) -> Result<Flock<File>> {
        let path = self.root.join("locks").join(name.replace('/', "_"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("cannot lock {}", path.display()))
    }
}

fn locate(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|path| !path.as_os_str().is_empty());
    set("FAULTLINE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|path| path.join("faultline")))
        .or_else(|| set("HOME").map(|path| path.join(".cache/faultline")))
}

fn partial_path(destination: &Path) -> Result<PathBuf> {
    let name = destination
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| anyhow!("{} is no item name", destination.display()))?;
    Ok(destination.with_file_name(format!(".{name}.partial")))
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn the_directory_follows_the_variables_in_order() {
        let of = |pairs: &'static [(&str, &str)]| {
            locate(|name| {
                pairs
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| PathBuf::from(value))
            })
        };
        assert_eq!(
            of(&[("FAULTLINE_CACHE", "/a"), ("HOME", "/h")]),
            Some("/a".into())
        );
        assert_eq!(
            of(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]),
            Some("/x/faultline".into())
        );
        assert_eq!(
            of(&[("FAULTLINE_CACHE", ""), ("HOME", "/h")]),
            Some("/h/.cache/faultline".into())
        );
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_failed_fill_leaves_no_item() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let failed = cache.item("kernels/a", |staging| {
            fs::write(staging.dir.join("half"), "")?;
            bail!("stopped")
        });
        assert!(failed.is_err());
        assert_eq!(cache.get("kernels/a"), None);
        assert!(cache.list("kernels").is_empty());
    }

    #[test]
    fn what_a_killed_fill_left_behind_is_removed_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join("kernels/.a.partial")).unwrap();
        fs::write(dir.path().join("kernels/.a.partial/half"), "").unwrap();
        let path = cache.item("kernels/a", |staging| {
            Ok(fs::write(staging.dir.join("whole"), "")?)
        });
        let path = path.unwrap();
        assert!(path.join("whole").exists());
        assert!(!path.join("half").exists());
        assert_eq!(cache.list("kernels"), ["a"]);
        cache.item("kernels/a", |_| bail!("filled twice")).unwrap();
    }
}
