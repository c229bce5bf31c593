//! The one place in the user's directory that a run touches.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::Error;

const MARKER: &str = ".made-by-faultline";
const PREFIX: &str = "data.";

/// `<directory>/faultline-work.<pid>`, marked as ours; removed when dropped.
///
/// What SIGKILL leaves behind disturbs no later run: other pids use other names, and the same pid
/// (as in a VM, whose pids repeat) takes over a directory that carries the marker.
#[derive(Debug)]
pub struct Sandbox {
    path: PathBuf,
    removed: bool,
}

impl Sandbox {
    /// Makes it. Errors: not a directory, read-only, in use by something else, no space.
    pub fn create(directory: &Path) -> Result<Self, Error> {
        let kind = fs::metadata(directory).map_err(|e| Error::path(directory, e))?;
        if !kind.is_dir() {
            return Err(Error::NotADirectory(directory.into()));
        }
        let path = directory.join(format!("faultline-work.{}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !is_ours(&path) {
                    return Err(Error::NotOurs(path));
                }
                remove_files(&path).map_err(|e| Error::path(&path, e))?;
            }
            Err(error) => return Err(Error::path(path, error)),
        }
        let sandbox = Self {
            path,
            removed: false,
        };
        let marker = sandbox.path.join(MARKER);
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&marker);
        if let Err(error) = opened.and_then(|mut file| file.write_all(b"faultline\n")) {
            // Without its marker the directory would be refused, and left.
            let _ = fs::remove_file(&marker);
            let _ = fs::remove_dir(&sandbox.path);
            return Err(Error::path(marker, error));
        }
        Ok(sandbox)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new empty file in it, and its path.
    pub fn file(&self, number: u8) -> Result<(File, PathBuf), Error> {
        let path = self.path.join(format!("{PREFIX}{number}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|e| Error::path(&path, e))?;
        Ok((file, path))
    }

    /// A file in it that is never written to: what it says of itself holds for those to come.
    pub fn probe(&self) -> Result<File, Error> {
        let marker = self.path.join(MARKER);
        File::open(&marker).map_err(|e| Error::path(marker, e))
    }

    /// Removes it, telling of what stands in the way.
    pub fn remove(mut self) -> Result<(), Error> {
        self.clear()
    }

    /// Leaves it where it is, as SIGKILL would.
    #[cfg(test)]
    fn abandon(mut self) {
        self.removed = true;
    }

    fn clear(&mut self) -> Result<(), Error> {
        self.removed = true;
        remove_files(&self.path).map_err(|e| Error::path(&self.path, e))?;
        // The marker goes last, so that an interrupted removal can be taken up again.
        let marker = self.path.join(MARKER);
        if let Some(stranger) = strangers(&self.path) {
            return Err(Error::Leftover {
                path: self.path.clone(),
                source: io::Error::other(stranger),
            });
        }
        fs::remove_file(&marker).map_err(|e| Error::path(&marker, e))?;
        fs::remove_dir(&self.path).map_err(|source| Error::Leftover {
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.removed {
            let _ = self.clear();
        }
    }
}

fn is_ours(path: &Path) -> bool {
    let directory = fs::symlink_metadata(path).is_ok_and(|kind| kind.is_dir());
    directory && fs::symlink_metadata(path.join(MARKER)).is_ok_and(|kind| kind.is_file())
}

/// Removes what [`Sandbox::file`] may have made, and nothing else.
fn remove_files(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if is_data(&entry) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_data(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let ours = name
        .to_str()
        .and_then(|name| name.strip_prefix(PREFIX))
        .is_some_and(|n| n.parse::<u8>().is_ok());
    ours && entry.file_type().is_ok_and(|kind| kind.is_file())
}

fn strangers(path: &Path) -> Option<String> {
    let mut entries = fs::read_dir(path).ok()?.flatten();
    entries
        .find(|entry| entry.file_name() != MARKER)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    fn work(directory: &Path) -> PathBuf {
        directory.join(format!("faultline-work.{}", std::process::id()))
    }

    fn serial() -> MutexGuard<'static, ()> {
        static LOCK: Mutex<()> = Mutex::new(());
        LOCK.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn leaves_nothing() {
        let (_lock, directory) = (serial(), tempfile::tempdir().unwrap());
        let sandbox = Sandbox::create(directory.path()).unwrap();
        sandbox.file(1).unwrap();
        sandbox.remove().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        drop(Sandbox::create(directory.path()).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn refuses_a_directory_it_did_not_make() {
        let (_lock, directory) = (serial(), tempfile::tempdir().unwrap());
        let path = work(directory.path());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("data.1"), "precious").unwrap();
        assert!(matches!(
            Sandbox::create(directory.path()),
            Err(Error::NotOurs(_))
        ));
        assert_eq!(fs::read_to_string(path.join("data.1")).unwrap(), "precious");
    }

    #[test]
    fn refuses_what_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(
            Sandbox::create(file.path()),
            Err(Error::NotADirectory(_))
        ));
        assert!(matches!(
            Sandbox::create(Path::new("/nonexistent/x")),
            Err(Error::Path { .. })
        ));
    }

    #[test]
    fn takes_over_what_a_dead_run_of_its_pid_left() {
        let (_lock, directory) = (serial(), tempfile::tempdir().unwrap());
        let dead = Sandbox::create(directory.path()).unwrap();
        dead.file(1).unwrap();
        dead.abandon();
        let sandbox = Sandbox::create(directory.path()).unwrap();
        sandbox.file(1).unwrap();
        sandbox.remove().unwrap();
        assert!(!work(directory.path()).exists());
    }

    #[test]
    fn spares_strangers_in_its_own_directory() {
        let (_lock, directory) = (serial(), tempfile::tempdir().unwrap());
        let sandbox = Sandbox::create(directory.path()).unwrap();
        fs::write(sandbox.path().join("notes"), "precious").unwrap();
        let path = sandbox.path().to_owned();
        assert!(matches!(sandbox.remove(), Err(Error::Leftover { .. })));
        assert!(path.join("notes").exists());
    }
}
