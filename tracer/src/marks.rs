//! What a workload says about itself while it is recorded: its operations, and wrong data that it
//! read. It goes through a pipe whose number is in the environment, as lines of JSON, and is stamped
//! with the clock of the events.

use std::{
    collections::VecDeque,
    env,
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    process::Command,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::trace::meta::Mark;

/// The environment variable that tells a command under test the number of its pipe.
pub const VARIABLE: &str = "FAULTLINE_MARKS";
/// The longest line: a pipe takes it whole or not at all (pipe(7): PIPE_BUF).
pub const LINE: usize = 4096;
/// Milliseconds to wait for room in the pipe for what must not be dropped.
const PATIENCE: u16 = 2000;

/// The workload's end.
#[derive(Debug)]
pub struct Sender {
    pipe: PipeWriter,
    /// Lines that found no room.
    dropped: u64,
}

impl Sender {
    /// The pipe that the environment names; none if nobody records, or if it is no pipe.
    ///
    /// To be called once, before other threads open files: the number is taken for its own.
    pub fn from_environment() -> Option<Self> {
        let number: RawFd = env::var(VARIABLE).ok()?.parse().ok()?;
        // SAFETY: fstat of a plain number.
        let is_pipe = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            libc::fstat(number, &mut stat) == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFIFO
        };
        if number < 3 || !is_pipe {
            return None;
        }
        // SAFETY: the recorder opened it for this process, and nothing else uses the number.
        let pipe = PipeWriter::from(unsafe { OwnedFd::from_raw_fd(number) });
        fcntl(&pipe, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
        Some(Self { pipe, dropped: 0 })
    }

    /// Sends a mark. An operation is dropped when the recorder does not keep up; wrong data is waited
    /// with. An error is the recorder's end.
    pub fn send(&mut self, mark: &Mark) -> io::Result<()> {
        let mut line = serde_json::to_vec(mark)?;
        line.push(b'\n');
        if line.len() > LINE {
            self.dropped += 1;
            return Ok(());
        }
        loop {
            match self.pipe.write(&line) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let patient = matches!(mark, Mark::Corruption(_));
                    if !patient || !self.has_room()? {
                        self.dropped += 1;
                        return Ok(());
                    }
                }
                other => return other.map(drop),
            }
        }
    }

    fn has_room(&self) -> io::Result<bool> {
        let mut poll_fd = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut poll_fd, PollTimeout::from(PATIENCE)) {
            Err(nix::errno::Errno::EINTR) => Ok(true),
            other => Ok(other? > 0),
        }
    }
}

/// The recorder's end.
#[derive(Debug)]
pub struct Receiver {
    pipe: PipeReader,
    /// None once the command is started.
    other_end: Option<PipeWriter>,
    rest: VecDeque<u8>,
    /// Lines that were no marks.
    pub strange: u64,
}

impl Receiver {
    /// Makes the pipe and tells `command` of it.
    pub fn attach(command: &mut Command) -> io::Result<Self> {
        let (pipe, other_end) = io::pipe()?;
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // The command must find it open.
        fcntl(&other_end, FcntlArg::F_SETFD(FdFlag::empty()))?;
        command.env(VARIABLE, other_end.as_raw_fd().to_string());
        Ok(Self {
            pipe,
            other_end: Some(other_end),
            rest: VecDeque::new(),
            strange: 0,
        })
    }

    /// The command is started, and has its end.
    pub fn started(&mut self) {
        self.other_end = None;
    }

    /// What has arrived.
    pub fn take(&mut self, marks: &mut Vec<Mark>) -> io::Result<()> {
        let mut buffer = [0; 1 << 14];
        loop {
            match self.pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.rest.extend(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let rest = self.rest.make_contiguous();
        let Some(end) = rest.iter().rposition(|&byte| byte == b'\n') else {
            // Not from a workload that keeps to the rule.
            if rest.len() > LINE {
                self.strange += 1;
                self.rest.clear();
            }
            return Ok(());
        };
        for line in rest[..end].split(|&byte| byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(mark) => marks.push(mark),
                Err(_) => self.strange += 1,
            }
        }
        self.rest.drain(..=end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        trace::meta::OperationMark,
        units::{Device, Ino, Nanos, Tid},
    };

    fn mark(offset: u64) -> Mark {
        Mark::Operation(OperationMark {
            from: Nanos(1),
            to: Nanos(2),
            tid: Tid(3),
            device: Device(4),
            ino: Ino(5),
            operation: "fallocate/PUNCH_HOLE".into(),
            offset,
            length: 4096,
            errno: 0,
        })
    }

    #[test]
    fn marks_arrive_whole_and_in_order() {
        let mut command = Command::new("true");
        let mut receiver = Receiver::attach(&mut command).unwrap();
        let writer = receiver.other_end.take().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut sender = Sender {
            pipe: writer,
            dropped: 0,
        };
        let mut marks = Vec::new();
        receiver.take(&mut marks).unwrap();
        assert!(marks.is_empty());
        for offset in 0..100 {
            sender.send(&mark(offset)).unwrap();
        }
        sender.pipe.write_all(b"what is this\n{\"half").unwrap();
        receiver.take(&mut marks).unwrap();
        let expected: Vec<_> = (0..100).map(mark).collect();
        assert_eq!(marks, expected);
        assert_eq!(receiver.strange, 1);
        // A recorder that does not read costs operations, not time.
        for offset in 0..10_000 {
            sender.send(&mark(offset)).unwrap();
        }
        assert!(sender.dropped > 0);
        drop(receiver);
        assert!(sender.send(&mark(0)).is_err());
    }
}
