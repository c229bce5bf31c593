//! `perf record` of the same facts, as far as the kernel has tracepoints for them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tracer::hooks::FilesystemKind;
use workloads::lab::host;

/// Where tracepoints are listed.
const TRACEFS: &str = "/sys/kernel/tracing";
/// Faults on DAX, on any filesystem.
const DAX: &[&str] = &[
    "fs_dax:dax_pte_fault",
    "fs_dax:dax_pte_fault_done",
    "fs_dax:dax_pmd_fault",
    "fs_dax:dax_pmd_fault_done",
    "fs_dax:dax_insert_mapping",
];
/// Faults and locks of XFS.
const XFS: &[&str] = &[
    "xfs:xfs_filemap_fault",
    "xfs:xfs_read_fault",
    "xfs:xfs_write_fault",
    "xfs:xfs_ilock",
    "xfs:xfs_ilock_nowait",
    "xfs:xfs_ilock_demote",
    "xfs:xfs_iunlock",
];
/// ext4 traces neither faults nor the locks that matter to them.
const EXT4: &[&str] = &[];

/// A perf that can be run here.
#[derive(Debug)]
pub struct Peer {
    program: PathBuf,
    /// Its version, in its own words.
    pub version: String,
    /// Tracepoints that this kernel has.
    pub events: Vec<&'static str>,
    _tracefs: Option<Tracefs>,
}

/// A mount of our own, taken back in the end.
#[derive(Debug)]
struct Tracefs;

impl Drop for Tracefs {
    fn drop(&mut self) {
        // Somebody else may use it by now.
        let _ = umount2(TRACEFS, MntFlags::empty());
    }
}

/// What a perf.data holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Samples, one an event.
    pub samples: u64,
    /// Bytes of the records, without headers and tables.
    pub bytes: u64,
    /// Events that perf says it lost.
    pub lost: u64,
}

impl Peer {
    /// Looks for perf and for tracepoints.
    ///
    /// # Errors
    /// Why there is nothing to compare with.
    pub fn find(filesystem: FilesystemKind) -> Result<Self> {
        let program = host::find_program("perf").context("perf is not installed (linux-perf)")?;
        let answer = Command::new(&program)
            .arg("--version")
            .output()
            .context("perf cannot be run")?;
        if !answer.status.success() {
            let words = String::from_utf8_lossy(&answer.stderr);
            bail!("perf cannot be run: {}", first_line(&words));
        }
        let events = Path::new(TRACEFS).join("events");
        let tracefs = if events.exists() {
            None
        } else {
            mount(
                Some("tracefs"),
                TRACEFS,
                Some("tracefs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .with_context(|| format!("cannot mount tracefs at {TRACEFS}"))?;
            Some(Tracefs)
        };
        let own = match filesystem {
            FilesystemKind::Xfs => XFS,
            FilesystemKind::Ext4 => EXT4,
            FilesystemKind::Virtiofs => &[],
        };
        let found: Vec<&str> = own
            .iter()
            .chain(DAX)
            .copied()
            .filter(|event| events.join(event.replace(':', "/")).exists())
            .collect();
        if found.is_empty() {
            bail!("this kernel has no tracepoints of faults and locks that perf could record");
        }
        Ok(Self {
            program,
            version: String::from_utf8_lossy(&answer.stdout).trim().to_owned(),
            events: found,
            _tracefs: tracefs,
        })
    }

    /// The command that records to `output` while `command` runs, on all CPUs and with as much
    /// buffer as Faultline.
    pub fn record(&self, output: &Path, command: &Command) -> Command {
        let mut perf = Command::new(&self.program);
        perf.args(["record", "-q", "-a", "-B", "-N", "-m", "16M", "-o"])
            .arg(output);
        for event in &self.events {
            perf.args(["-e", event]);
        }
        perf.arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        perf
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("it says nothing")
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*bytes))
}

/// Counts the records of a perf.data (tools/perf/Documentation/perf.data-file-format.txt).
///
/// # Errors
/// The file cannot be read, or is none.
pub fn contents(path: &Path) -> Result<Contents> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    count(&data).with_context(|| format!("{} is no perf.data", path.display()))
}

fn count(data: &[u8]) -> Option<Contents> {
    // include/uapi/linux/perf_event.h: enum perf_event_type
    const LOST: u32 = 2;
    const SAMPLE: u32 = 9;
    const LOST_SAMPLES: u32 = 13;
    if !data.starts_with(b"PERFILE2") {
        return None;
    }
    // Magic, size, size of an attribute, then sections of attributes and data: offset, size.
    let (start, bytes) = (u64_at(data, 40)?, u64_at(data, 48)?);
    let section = data.get(start as usize..(start + bytes) as usize)?;
    let mut found = Contents {
        bytes,
        ..Contents::default()
    };
    let mut at = 0;
    while at < section.len() {
        let head = u64_at(section, at)?;
        let (kind, size) = (head as u32, (head >> 48) as usize);
        match kind {
            SAMPLE => found.samples += 1,
            LOST => found.lost += u64_at(section, at + 16)?,
            LOST_SAMPLES => found.lost += u64_at(section, at + 8)?,
            _ => {}
        }
        if size < 8 {
            return None;
        }
        at += size;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_samples_and_losses() {
        let mut data = b"PERFILE2".to_vec();
        for word in [104_u64, 144, 0, 0, 104, 8 + 16 + 24 + 16] {
            data.extend(word.to_ne_bytes());
        }
        data.resize(104, 0);
        let mut record = |kind: u64, size: u64, words: &[u64]| {
            data.extend((size << 48 | kind).to_ne_bytes());
            words
                .iter()
                .for_each(|word| data.extend(word.to_ne_bytes()));
        };
        record(68, 8, &[]);
        record(9, 16, &[1]);
        record(2, 24, &[7, 5]);
        record(13, 16, &[2]);
        let expected = Contents {
            samples: 1,
            bytes: 64,
            lost: 7,
        };
        assert_eq!(count(&data), Some(expected));
        assert_eq!(count(&data[..120]), None);
        assert_eq!(count(b"nothing"), None);
    }
}
