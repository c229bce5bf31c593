//! Why a run failed.

use std::io;
use std::path::{Path, PathBuf};

/// Why a run failed, as opposed to what it found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No scenario of that name.
    #[error("no scenario is called {0}")]
    Unknown(String),
    /// An option out of bounds.
    #[error("{0}")]
    Option(String),
    /// The directory to work in is none.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The filesystem is mounted read-only.
    #[error("{} is on a read-only filesystem", .0.display())]
    ReadOnly(PathBuf),
    /// The working directory exists and has no marker of ours.
    #[error("{} exists and was not made by faultline: remove or rename it first", .0.display())]
    NotOurs(PathBuf),
    /// The working directory's path leads elsewhere now.
    #[error(
        "the filesystem of {} was unmounted, or the directory moved, while the run went on: its result says nothing of \
         what is there now; the files it made are removed", .0.display()
    )]
    Unmounted(PathBuf),
    /// Something that the run did not make is left in its directory.
    #[error("{} holds files that faultline did not make; they are left alone", path.display())]
    Leftover {
        /// The working directory.
        path: PathBuf,
        /// Why it was not removed.
        source: io::Error,
    },
    /// Another error on a path.
    #[error("{}", path.display())]
    Path {
        /// What it happened on.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// ENOSPC or EDQUOT, or SIGBUS on a full filesystem.
    #[error(
        "no space left on the filesystem, at {operation}: give it more room or the run a smaller file"
    )]
    NoSpace {
        /// The operation that met it.
        operation: &'static str,
    },
    /// The filesystem lacks the operation.
    #[error("{filesystem} does not support {operation} here{}", .hint.map(|h| format!(" ({h})")).unwrap_or_default())]
    Unsupported {
        /// The filesystem's name.
        filesystem: String,
        /// The operation.
        operation: &'static str,
        /// What would make it work.
        hint: Option<&'static str>,
    },
    /// A log that cannot be read.
    #[error("{} is no operation log of a failing run: line {line}: {why}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Where in it.
        line: usize,
        /// What is wrong there.
        why: String,
    },
    /// The device or the mount went away, or the filesystem shut down.
    #[error(
        "{operation}: the filesystem at {} is gone or has shut down, as the kernel log should say",
        path.display()
    )]
    Gone {
        /// The operation that met it.
        operation: &'static str,
        /// The directory that was to be exercised.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// An operation failed in a way that it never should.
    #[error("{operation}")]
    Operation {
        /// The operation.
        operation: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The run was told to stop, and its threads did not come back from the kernel.
    #[error(
        "{threads} threads did not come back within {seconds} s after the end, the last operation being {operation}: \
         they are blocked in the kernel, or fault without end; {} is left{found}", path.display()
    )]
    Stuck {
        /// How many, the actors included.
        threads: usize,
        /// How long was waited.
        seconds: u64,
        /// The last operation begun.
        operation: &'static str,
        /// The working directory, which cannot be removed.
        path: PathBuf,
        /// Wrong data that was read before.
        found: String,
    },
    /// A worker process met an error.
    #[error("a worker process ended the run: {why}")]
    Worker {
        /// The error, with its causes.
        why: String,
    },
    /// A worker process ended before the run did.
    #[error("worker process {pid} was ended by {by}, and the run with it")]
    Killed {
        /// Which.
        pid: i32,
        /// A signal, or what it returned.
        by: String,
    },
    /// A thread panicked: a bug in the workload.
    #[error("a workload thread panicked: {0}")]
    Panicked(String),
}

impl Error {
    /// A system call that failed in a way that it never should.
    pub(crate) fn call(operation: &'static str, source: io::Error) -> Self {
        Self::Operation { operation, source }
    }

    /// The same error, if it says that the filesystem went away, as one that says where.
    pub(crate) fn at(self, directory: &Path) -> Self {
        let gone = |source: &io::Error| {
            matches!(
                source.raw_os_error(),
                Some(libc::EIO | libc::ENXIO | libc::ENODEV | libc::ESHUTDOWN)
            )
        };
        let (operation, source) = match self {
            Self::Operation { operation, source } if gone(&source) => (operation, source),
            Self::Path { source, .. } if gone(&source) => ("set-up", source),
            other => return other,
        };
        Self::Gone {
            operation,
            path: directory.into(),
            source,
        }
    }

    /// An I/O error on a path, told apart as far as the user can act on it.
    pub(crate) fn path(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.raw_os_error() {
            Some(libc::EROFS) => Self::ReadOnly(path),
            Some(libc::ENOTDIR) => Self::NotADirectory(path),
            Some(libc::ENOSPC | libc::EDQUOT) => Self::NoSpace { operation: "write" },
            _ => Self::Path { path, source },
        }
    }
}
