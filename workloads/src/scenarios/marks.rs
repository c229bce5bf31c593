//! What a recorder is told, if one listens: operations and wrong data, as marks in its trace.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use nix::unistd::gettid;
use tracer::marks::Sender;
use tracer::trace::meta::{CorruptionMark, Mark, OperationMark, Origin};
use tracer::units::{Device, Ino, Nanos, Tid};

use super::oplog::{Done, now};
use super::pages::{PAGE, Page};

/// The process's pipe to its recorder. None without one, and from an error on.
static SENDER: LazyLock<Mutex<Option<Sender>>> =
    LazyLock::new(|| Mutex::new(Sender::from_environment()));

/// A file, as the recorder knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    device: Device,
    number: Ino,
}

impl Inode {
    /// Its number, as stat(2) tells it.
    pub fn number(&self) -> u64 {
        self.number.0
    }

    /// Of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        let data = file.metadata()?;
        Ok(Self {
            device: Device::from_stat(data.dev()),
            number: Ino(data.ino()),
        })
    }
}

/// Takes the pipe for its own, before other threads open files.
pub fn connect() {
    LazyLock::force(&SENDER);
}

fn send(mark: impl FnOnce() -> Mark) {
    let mut sender = SENDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pipe) = &mut *sender
        && pipe.send(&mark()).is_err()
    {
        // The recorder is gone; the run goes on without it.
        *sender = None;
    }
}

fn me() -> Tid {
    Tid(gettid().as_raw() as u32)
}

/// Tells of an operation that has returned.
pub fn operation(done: &Done, inode: Inode) {
    send(|| {
        Mark::Operation(OperationMark {
            from: Nanos(done.begin),
            to: Nanos(done.end),
            tid: me(),
            device: inode.device,
            ino: inode.number,
            operation: done.operation.name().into(),
            offset: done.range.offset(),
            length: done.range.bytes(),
            errno: done.errno,
        })
    });
}

/// Wrong data in a block.
pub struct Corruption<'a> {
    /// Of which file.
    pub inode: Inode,
    /// Where that is.
    pub path: &'a Path,
    /// Which block.
    pub page: Page,
    /// Who read it, if not the calling thread.
    pub by: Option<Tid>,
    /// What is wrong, in two words.
    pub wrong: &'a str,
    /// Whose data it is and why it cannot be right.
    pub story: &'a str,
    /// The block that the data belongs to.
    pub origin: Option<(Inode, Page)>,
    /// Why unmodified kernels show it, if it is known that they do.
    pub known: Option<&'a str>,
}

/// Tells of wrong data.
pub fn corruption(what: &Corruption<'_>) {
    send(|| {
        Mark::Corruption(CorruptionMark {
            at: Nanos(now()),
            tid: what.by.unwrap_or_else(me),
            device: what.inode.device,
            ino: what.inode.number,
            path: what.path.display().to_string(),
            offset: what.page.offset(),
            length: PAGE,
            wrong: what.wrong.into(),
            story: what.story.into(),
            origin: what.origin.map(|(inode, page)| Origin {
                ino: inode.number,
                offset: page.offset(),
            }),
            known: what.known.map(str::to_owned),
        })
    });
}
