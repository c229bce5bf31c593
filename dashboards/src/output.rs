//! stdout as git treats it: a pager on a terminal, nothing but the text into a pipe, and a reader who
//! leaves early is no error.

use std::{
    ffi::OsString,
    fmt::Arguments,
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Write},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

/// Prints a line on stdout, as `println!` would. Fails with [`ReaderLeft`] if nobody reads on.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::output::line(format_args!($($text)*))
    };
}

/// Says a line on stderr, for people. Nobody may be there to read it, which is no reason to fail.
macro_rules! note {
    ($($text:tt)*) => {
        $crate::output::pass_on(&format!("faultline: {}\n", format_args!($($text)*)))
    };
}

/// Whoever read stdout closed it, so what was still to be done is not wanted.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads what is printed")]
pub struct ReaderLeft;

/// Prints a line; see [`say!`].
pub fn line(text: Arguments<'_>) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.write_all(b"\n")) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderLeft.into()),
        other => other.context("cannot print"),
    }
}

/// Writes to stderr as it is.
pub fn pass_on(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Prints `text`, through a pager if stdout is a terminal that it would not fit on.
pub fn page(text: &str) -> Result<()> {
    if io::stdout().is_terminal()
        && !fits(text)
        && let Some(command) = pager()
        && let Ok(()) = through(&command, text)
    {
        return Ok(());
    }
    print(text.as_bytes())
}

/// Prints bytes as they are.
pub fn print(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    ignore_closed(out.write_all(bytes).and_then(|()| out.flush())).context("cannot print")
}

/// A reader that closed its pipe has seen enough.
fn ignore_closed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn fits(text: &str) -> bool {
    let rows = crossterm::terminal::size().map_or(24, |(_, rows)| usize::from(rows));
    text.lines().count() < rows
}

/// `FAULTLINE_PAGER`, else `PAGER`, else less; empty or `cat` is none.
fn pager() -> Option<OsString> {
    let named = ["FAULTLINE_PAGER", "PAGER"]
        .into_iter()
        .find_map(std::env::var_os)
        .unwrap_or_else(|| "less".into());
    (!named.is_empty() && named != "cat").then_some(named)
}

fn through(command: &OsString, text: &str) -> io::Result<()> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped());
    // As git does: quit if it fits, keep colours, chop nothing, leave the screen.
    if std::env::var_os("LESS").is_none() {
        shell.env("LESS", "FRX");
    }
    let mut child = shell.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        ignore_closed(stdin.write_all(text.as_bytes()))?;
    }
    let status = child.wait()?;
    // sh's status for a command that is not there.
    if status.code() == Some(127) {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(())
}

/// True if the reader closed its pipe, whichever layer says so.
fn is_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind);
        kind.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}

/// Writes to a file, or to stdout for `-`.
pub fn to(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if path == Path::new("-") {
        let mut out = BufWriter::new(io::stdout().lock());
        let result = write(&mut out).and_then(|()| out.flush().context("cannot print"));
        return match result {
            Err(error) if is_closed(&error) => Ok(()),
            other => other,
        };
    }
    let file = File::create(path)
        .with_context(|| format!("cannot write {}: choose another with -o", path.display()))?;
    let mut out = BufWriter::new(file);
    write(&mut out)
        .and_then(|()| out.flush().map_err(Into::into))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Says what to do next, to a person and not to a log.
pub fn hint(text: &str) {
    if io::stderr().is_terminal() {
        note!("{text}");
    }
}
