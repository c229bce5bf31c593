//! What can go wrong with a trace file, and what to do about it.

use std::{io, path::PathBuf};

/// Why a trace could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The path leads to something else.
    #[error(
        "{} is not a Faultline trace: it looks like {looks}; give a file that `faultline record` wrote",
        path.display()
    )]
    NotATrace {
        /// The file.
        path: PathBuf,
        /// What it looks like, with its article.
        looks: String,
    },
    /// A later Faultline wrote it.
    #[error(
        "{} has trace format {found}, this Faultline reads up to format {supported}: \
         read it with the version that recorded it, or update",
        path.display()
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The latest format that can be read.
        supported: u32,
    },
    /// Nothing is at the path.
    #[error(
        "there is no trace {}: record one with `faultline record`, or name another",
        path.display()
    )]
    Absent {
        /// The path.
        path: PathBuf,
    },
    /// The recording ended before anything was in the file.
    #[error(
        "{} is empty: its recording ended before anything was written; record again",
        path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// No room for the trace.
    #[error(
        "no space left for the trace {} after {written} bytes, which remain readable: \
         free some space, or record to another filesystem with -o",
        path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// Bytes in the file that hold whole chunks.
        written: u64,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A trace, but too damaged to be used.
    #[error("{} is a damaged trace: {reason}; record again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl TraceError {
    /// For a failed system call that was to write to a trace of `written` sound bytes.
    pub(super) fn writing(path: PathBuf, written: u64, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::DiskFull {
                path,
                written,
                source,
            },
            _ => Self::Io {
                path,
                action: "write to",
                source,
            },
        }
    }
}
