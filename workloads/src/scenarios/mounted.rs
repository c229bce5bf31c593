//! The mount that a path lies on.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use procfs::process::{MountInfo, Process};

/// A mount, as /proc/self/mountinfo has it.
pub struct Mounted {
    /// The type that it was mounted as.
    pub kind: String,
    point: PathBuf,
    flags: MsFlags,
    options: String,
}

/// What holds for the mount, not for the filesystem, and is lost unless it is said again.
const FLAGS: [(&str, MsFlags); 6] = [
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodiratime", MsFlags::MS_NODIRATIME),
    ("relatime", MsFlags::MS_RELATIME),
];

impl Mounted {
    /// Of a path. Not found where the table does not reach, as in a chroot.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let table = Process::myself().and_then(|process| process.mountinfo());
        let mount = table
            .map_err(io::Error::other)?
            .0
            .into_iter()
            .filter(|mount| path.starts_with(&mount.mount_point))
            // The last one mounted over a point is the one that shows.
            .max_by_key(|mount| (mount.mount_point.as_os_str().len(), mount.mnt_id))
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            flags: flags(&mount),
            options: options(&mount),
            kind: mount.fs_type,
            point: mount.mount_point,
        })
    }

    /// Mounts it again as it is, or tries to make it read-only: EBUSY while files are open for
    /// writing.
    pub fn remount(&self, read_only: bool) -> io::Result<()> {
        let mut flags = self.flags | MsFlags::MS_REMOUNT;
        flags.set(MsFlags::MS_RDONLY, read_only);
        let options = Some(self.options.as_str());
        mount(None::<&str>, &self.point, None::<&str>, flags, options)?;
        Ok(())
    }
}

fn flags(mount: &MountInfo) -> MsFlags {
    FLAGS
        .into_iter()
        .filter(|(name, _)| mount.mount_options.contains_key(*name))
        .map(|(_, flag)| flag)
        .collect()
}

/// The filesystem's own options: one that is not said again may fall back to its default.
fn options(mount: &MountInfo) -> String {
    let own = mount.super_options.iter();
    let words: Vec<String> = own
        .filter(|(name, _)| !matches!(name.as_str(), "rw" | "ro"))
        .map(|(name, value)| match value {
            Some(value) => format!("{name}={value}"),
            None => name.clone(),
        })
        .collect();
    words.join(",")
}
