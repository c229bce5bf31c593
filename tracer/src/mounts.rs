//! Which mounted filesystems can be watched.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use procfs::process::{MountInfo, Process};

use crate::{hooks::FilesystemKind, trace::Mount, units::Device};

/// Why there is nothing to watch.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// None of the mounts uses DAX.
    #[error(
        "no xfs, ext4 or virtiofs is mounted with DAX: mount one with -o dax=always, or name a mount \
         point to watch it through the page cache"
    )]
    NoDax,
    /// A path that is not on a filesystem with a table.
    #[error(
        "{path} is on {filesystem}, for which Faultline has no table (it knows xfs, ext4 and virtiofs)"
    )]
    Unknown {
        /// As given.
        path: String,
        /// Its type in /proc/self/mountinfo.
        filesystem: String,
    },
    /// A path that cannot be used.
    #[error("cannot watch {path}")]
    Path {
        /// As given.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// No mount table.
    #[error("cannot read /proc/self/mountinfo: {0}")]
    Table(String),
}

fn table() -> Result<Vec<MountInfo>, MountError> {
    let mounts = Process::myself()
        .and_then(|process| process.mountinfo())
        .map_err(|error| MountError::Table(error.to_string()))?;
    Ok(mounts.0)
}

fn options(mount: &MountInfo) -> String {
    let render = |(name, value): (&String, &Option<String>)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.clone(),
    };
    let mut all: Vec<String> = mount.super_options.iter().map(render).collect();
    all.sort();
    all.join(",")
}

fn watchable(mount: &MountInfo, device: Device) -> Option<Mount> {
    Some(Mount {
        path: mount.mount_point.display().to_string(),
        filesystem: FilesystemKind::by_name(&mount.fs_type)?,
        device,
        source: mount.mount_source.clone().unwrap_or_default(),
        options: options(mount),
    })
}

fn device_of(path: &Path) -> Result<Device, MountError> {
    path.metadata()
        .map(|found| Device::from_stat(found.dev()))
        .map_err(|source| MountError::Path {
            path: path.display().to_string(),
            source,
        })
}

/// True if the mount's options give its files DAX (fs/xfs/xfs_super.c and fs/ext4/super.c show
/// `dax=always`; plain `dax` is the old spelling).
fn uses_dax(mount: &MountInfo) -> bool {
    match mount.super_options.get("dax") {
        Some(Some(value)) => value == "always" || value == "inode",
        Some(None) => true,
        None => false,
    }
}

/// Every mount that uses DAX, each filesystem once.
pub fn with_dax() -> Result<Vec<Mount>, MountError> {
    let mut found: Vec<Mount> = Vec::new();
    for mount in table()?.iter().filter(|mount| uses_dax(mount)) {
        let device = device_of(&mount.mount_point)?;
        if found.iter().all(|known| known.device != device)
            && let Some(mount) = watchable(mount, device)
        {
            found.push(mount);
        }
    }
    if found.is_empty() {
        Err(MountError::NoDax)
    } else {
        Ok(found)
    }
}

/// The filesystem that `path` lies on.
pub fn containing(path: &Path) -> Result<Mount, MountError> {
    let device = device_of(path)?;
    let absolute = path.canonicalize().map_err(|source| MountError::Path {
        path: path.display().to_string(),
        source,
    })?;
    let mounts = table()?;
    let mount = mounts
        .iter()
        .filter(|mount| absolute.starts_with(&mount.mount_point))
        // The last one mounted over a point is the one that shows.
        .max_by_key(|mount| (mount.mount_point.as_os_str().len(), mount.mnt_id))
        .ok_or_else(|| MountError::Table(format!("{} is on no mount", absolute.display())))?;
    watchable(mount, device).ok_or_else(|| MountError::Unknown {
        path: path.display().to_string(),
        filesystem: mount.fs_type.clone(),
    })
}
