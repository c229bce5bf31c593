//! The command under test: started, waited for, ended.

use std::{
    ffi::OsString,
    fs, io,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use super::RecordError;
use crate::marks::Receiver;

/// How long a command that was told to end may take.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// How the command under test ended.
pub(super) enum Ended {
    /// There is none.
    Not,
    /// By itself, or as it was told.
    Command(ExitStatus),
    /// Not even SIGKILL ends it.
    Stuck,
}

/// Starts the command, if there is one, with a pipe for its marks.
pub(super) fn spawn(
    command: &[OsString],
    aside: bool,
) -> Result<(Option<Child>, Option<Receiver>), RecordError> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok((None, None));
    };
    let failed = |source| RecordError::Command {
        command: program.to_string_lossy().into_owned(),
        source,
    };
    let mut command = Command::new(program);
    command.args(arguments);
    if aside {
        command.stdout(io::stderr());
    }
    let mut marks = Receiver::attach(&mut command).map_err(failed)?;
    let child = command.spawn().map_err(failed)?;
    marks.started();
    Ok((Some(child), Some(marks)))
}

/// Asks the command to end, kills it if it does not, and gives up if that does not help: a task that is
/// stuck in the kernel cannot be waited for, and the trace of it is what matters.
pub(super) fn end(child: &mut Child) -> io::Result<Ended> {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    // It may have ended by itself meanwhile.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    if let Some(status) = wait_for(child)? {
        return Ok(Ended::Command(status));
    }
    child.kill()?;
    Ok(wait_for(child)?.map_or(Ended::Stuck, Ended::Command))
}

/// False for a command whose main thread is at its end, which nobody learns of while another of its threads is stuck
/// in the kernel.
pub(super) fn goes_on(child: &Child) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    // (proc_pid_stat(5)) the name, in parentheses, may hold any byte.
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    !state.is_some_and(|state| state.starts_with(['Z', 'X']))
}

fn wait_for(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(None)
}
