//! The one place in the user's directory that a run touches.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::error::Error;

const MARKER: &str = ".made-by-faultline";
/// The marker before it is locked.
const DRAFT: &str = ".made-by-faultline.new";
const OWN: &str = "faultline-work.";
const PREFIX: &str = "data.";

/// `<directory>/faultline-work.<pid>`, marked as ours, the marker locked while the run lives; removed
/// when dropped.
///
/// What SIGKILL or a filesystem that went away left behind has a marker that nobody holds: the next
/// run in the same directory removes it.
#[derive(Debug)]
pub struct Sandbox {
    path: PathBuf,
    /// The directory that it is in, and the directory itself: they serve also when the mount is gone.
    above: File,
    inside: File,
    marker: Option<Flock<File>>,
}

impl Sandbox {
    /// Makes it. Errors: not a directory, read-only, in use by something else, no space.
    pub fn create(directory: &Path) -> Result<Self, Error> {
        let kind = fs::metadata(directory).map_err(|e| Error::path(directory, e))?;
        if !kind.is_dir() {
            return Err(Error::NotADirectory(directory.into()));
        }
        let above = File::open(directory).map_err(|e| Error::path(directory, e))?;
        sweep(directory);
        let path = directory.join(format!("{OWN}{}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::NotOurs(path));
            }
            Err(error) => return Err(Error::path(path, error)),
        }
        let made = File::open(&path).and_then(|inside| Ok((inside, mark(&path)?)));
        let (inside, marker) = made.map_err(|error| {
            // Without its marker the directory would be refused, and left.
            for name in [DRAFT, MARKER] {
                let _ = fs::remove_file(path.join(name));
            }
            let _ = fs::remove_dir(&path);
            Error::path(&path, error)
        })?;
        Ok(Self {
            path,
            above,
            inside,
            marker: Some(marker),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Itself.
    pub fn directory(&self) -> &File {
        &self.inside
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

    /// Removes it, telling of what stands in the way; and whether another filesystem is at its place.
    pub fn remove(mut self) -> Result<(), Error> {
        let moved = self.moved();
        self.clear()?;
        match moved {
            true => Err(Error::Unmounted(self.path.clone())),
            false => Ok(()),
        }
    }

    /// Whether its path does not lead to it any more.
    fn moved(&self) -> bool {
        let place = |data: fs::Metadata| (data.dev(), data.ino());
        let here = fs::metadata(&self.path).map(place);
        let made = self.inside.metadata().map(place);
        made.is_ok_and(|made| here.is_ok_and(|here| here != made) || !self.path.exists())
    }

    /// Leaves it where it is, as SIGKILL would.
    #[cfg(test)]
    fn abandon(mut self) {
        self.marker = None;
    }

    fn clear(&mut self) -> Result<(), Error> {
        let Some(marker) = self.marker.take() else {
            return Ok(());
        };
        let name = self.path.file_name().unwrap_or_default();
        let cleared = clear(&self.above, name.as_ref(), &self.inside, marker);
        cleared.map_err(|error| match error {
            Uncleared::Stranger(name) => Error::Leftover {
                path: self.path.clone(),
                source: io::Error::other(name.to_string_lossy().into_owned()),
            },
            Uncleared::Failed(source) => Error::path(&self.path, source),
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

/// Makes the marker, which nobody sees unlocked.
fn mark(path: &Path) -> io::Result<Flock<File>> {
    let draft = path.join(DRAFT);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&draft)?;
    let mut file = lock(file)?;
    file.write_all(b"faultline\n")?;
    fs::rename(draft, path.join(MARKER))?;
    Ok(file)
}

fn lock(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

/// Removes what dead runs left in the directory. One that cannot be removed is left: it stands in
/// nobody's way.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.as_bytes().starts_with(OWN.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let _ = (|| {
            let open = |path: &Path| {
                let mut options = OpenOptions::new();
                options.read(true).custom_flags(libc::O_NOFOLLOW).open(path)
            };
            let (above, inside) = (open(directory)?, open(&path)?);
            let marker = lock(open(&path.join(MARKER))?)?;
            clear(&above, Path::new(&name), &inside, marker).map_err(|_| io::Error::other("left"))
        })();
    }
}

enum Uncleared {
    /// A file that no run makes.
    Stranger(OsString),
    Failed(io::Error),
}

impl<E: Into<io::Error>> From<E> for Uncleared {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Removes a directory of ours, `name` in `above`: what [`Sandbox::file`] may have made, and nothing
/// else.
fn clear(above: &File, name: &Path, inside: &File, marker: Flock<File>) -> Result<(), Uncleared> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let mut stranger = None;
    for entry in Dir::openat(inside, ".", flags, Mode::empty())?.iter() {
        let entry = entry?;
        let this = entry.file_name();
        if is_data(this.to_bytes()) && is_file(inside, this) {
            unlinkat(inside, this, UnlinkatFlags::NoRemoveDir)?;
        } else if ![&b"."[..], b"..", MARKER.as_bytes()].contains(&this.to_bytes()) {
            stranger.get_or_insert_with(|| std::ffi::OsStr::from_bytes(this.to_bytes()).into());
        }
    }
    // The marker goes last, so that an interrupted removal can be taken up again.
    if let Some(stranger) = stranger {
        return Err(Uncleared::Stranger(stranger));
    }
    unlinkat(inside, MARKER, UnlinkatFlags::NoRemoveDir)?;
    unlinkat(above, name, UnlinkatFlags::RemoveDir)?;
    drop(marker);
    Ok(())
}

fn is_data(name: &[u8]) -> bool {
    let number = name.strip_prefix(PREFIX.as_bytes());
    number
        .and_then(|number| std::str::from_utf8(number).ok())
        .is_some_and(|number| number.parse::<u8>().is_ok())
}

fn is_file(inside: &File, name: &std::ffi::CStr) -> bool {
    fstatat(inside, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG)
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
    fn removes_what_dead_runs_left_and_nothing_else() {
        let (_lock, directory) = (serial(), tempfile::tempdir().unwrap());
        let dead = Sandbox::create(directory.path()).unwrap();
        dead.file(1).unwrap();
        dead.abandon();
        let other = directory.path().join("faultline-work.0");
        fs::rename(work(directory.path()), &other).unwrap();
        let precious = directory.path().join("faultline-work.precious");
        fs::create_dir(&precious).unwrap();
        let living = Sandbox::create(directory.path()).unwrap();
        living.file(1).unwrap();
        assert!(!other.exists(), "dead");
        let place = directory.path().join("faultline-work.1");
        fs::rename(work(directory.path()), &place).unwrap();
        drop(Sandbox::create(directory.path()).unwrap());
        assert!(place.join("data.1").exists(), "still in use");
        assert!(precious.exists(), "not ours");
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
