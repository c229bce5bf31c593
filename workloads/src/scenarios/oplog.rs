//! What the actors did, operation by operation; and which of their rounds to make again.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::block::FileId;
use super::error::Error;
use super::extents::Operation;
use super::pages::PageRange;

/// The clock that the kernel's events are stamped with too (`CLOCK_MONOTONIC`), in nanoseconds.
pub fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    })
}

/// An operation of an actor.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Who.
    pub actor: usize,
    /// In which of its rounds.
    pub round: u64,
    /// The how-manieth round that it made: a script makes a round over and over.
    pub turn: u64,
    /// What.
    pub operation: Operation,
    /// To which file.
    pub file: FileId,
    /// To which pages.
    pub range: PageRange,
    /// From when, by [`now`].
    pub begin: u64,
    /// To when.
    pub end: u64,
    /// 0, or the error.
    pub errno: i32,
}

impl Done {
    /// An operation that begins now.
    pub fn begin(
        actor: usize,
        (round, turn): (u64, u64),
        operation: Operation,
        file: FileId,
        range: PageRange,
    ) -> Self {
        Self {
            actor,
            round,
            turn,
            operation,
            file,
            range,
            begin: now(),
            end: 0,
            errno: 0,
        }
    }

    /// It has returned.
    pub fn end(&mut self, outcome: &io::Result<()>) {
        self.end = now();
        self.errno = match outcome {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
    }

    /// As a line of a log; `start` is when the run began, by [`now`].
    pub(super) fn step(&self, start: u64) -> Step {
        Step {
            actor: self.actor,
            round: self.round,
            turn: self.turn,
            operation: self.operation.name().into(),
            file: format!("data.{}", self.file.0),
            offset: self.range.offset(),
            length: self.range.bytes(),
            begin: self.begin.saturating_sub(start),
            end: self.end.saturating_sub(start),
            errno: self.errno,
        }
    }
}

/// The rounds that each actor makes, over and over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Script(pub Vec<Vec<u64>>);

impl Script {
    /// Those of one actor.
    pub fn rounds(&self, actor: usize) -> &[u64] {
        self.0.get(actor).map_or(&[], Vec::as_slice)
    }

    /// How many in all.
    pub fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Whether nobody does anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An operation in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Who.
    pub actor: usize,
    /// In which of its rounds.
    pub round: u64,
    /// The how-manieth round that it made.
    pub turn: u64,
    /// What.
    pub operation: String,
    /// To which file.
    pub file: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Nanoseconds since the run began.
    pub begin: u64,
    /// When it returned.
    pub end: u64,
    /// 0, or the error.
    pub errno: i32,
}

/// How a failing run was made, and the way to make it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// The format of the log.
    pub version: u32,
    /// The scenario's name.
    pub scenario: String,
    /// The filesystem's name.
    pub filesystem: String,
    /// What all random choices follow from.
    pub seed: u64,
    /// Fault threads of each process.
    pub threads: usize,
    /// Processes.
    #[serde(default = "one")]
    pub processes: usize,
    /// Bytes of each file.
    pub file_size: u64,
    /// Whether threads were bound to CPUs.
    pub pin_cpus: bool,
    /// Milliseconds until the first wrong data.
    pub milliseconds: u64,
    /// What was wrong.
    pub violation: String,
    /// The rounds made.
    pub rounds: Script,
}

/// What logs without the number mean.
fn one() -> usize {
    1
}

/// The format that is written, and the only one read.
const VERSION: u32 = 1;

impl Recipe {
    pub(super) const VERSION: u32 = VERSION;
}

/// A failing run: a line of JSON with its [`Recipe`], then a line for each [`Step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How to make it again.
    pub recipe: Recipe,
    /// The last operations, in the order of their ends.
    pub steps: Vec<Step>,
}

impl Log {
    /// Writes it. The file is replaced.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let write = || {
            let mut out = BufWriter::new(File::create(path)?);
            serde_json::to_writer(&mut out, &self.recipe)?;
            writeln!(out)?;
            for step in &self.steps {
                serde_json::to_writer(&mut out, step)?;
                writeln!(out)?;
            }
            out.flush()
        };
        write().map_err(|error: io::Error| Error::path(path, error))
    }

    /// Reads one.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bad = |line: usize, why: String| Error::Log {
            path: path.into(),
            line,
            why,
        };
        let file = File::open(path).map_err(|error| Error::path(path, error))?;
        let mut lines = BufReader::new(file).lines();
        let mut next = || lines.next().transpose();
        let first = next().map_err(|error| Error::path(path, error))?;
        let first = first.ok_or_else(|| bad(1, "it is empty".into()))?;
        let recipe: Recipe =
            serde_json::from_str(&first).map_err(|error| bad(1, error.to_string()))?;
        if recipe.version != VERSION {
            let why = format!(
                "its format is version {}, known is {VERSION}",
                recipe.version
            );
            return Err(bad(1, why));
        }
        let mut steps = Vec::new();
        while let Some(line) = next().map_err(|error| Error::path(path, error))? {
            let step = serde_json::from_str(&line);
            steps.push(step.map_err(|error| bad(steps.len() + 2, error.to_string()))?);
        }
        Ok(Self { recipe, steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Log {
        let step = Step {
            actor: 1,
            round: 7,
            turn: 9,
            operation: "fallocate/PUNCH_HOLE".into(),
            file: "data.1".into(),
            offset: 4096,
            length: 8192,
            begin: 5,
            end: 9,
            errno: 0,
        };
        Log {
            recipe: Recipe {
                version: VERSION,
                scenario: "mix".into(),
                filesystem: "xfs".into(),
                seed: 7,
                threads: 2,
                processes: 1,
                file_size: 1 << 20,
                pin_cpus: false,
                milliseconds: 1500,
                violation: "lost store in block 3 of data.1".into(),
                rounds: Script(vec![vec![1, 2], vec![1, 2, 7]]),
            },
            steps: vec![step.clone(), step],
        }
    }

    #[test]
    fn a_log_survives_the_round_trip() {
        let file = tempfile::NamedTempFile::new().unwrap();
        log().write(file.path()).unwrap();
        assert_eq!(Log::read(file.path()).unwrap(), log());
    }

    #[test]
    fn what_is_no_log_is_refused_with_its_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        log().write(file.path()).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let refused = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            match Log::read(file.path()).unwrap_err() {
                Error::Log { line, .. } => line,
                other => panic!("{other}"),
            }
        };
        assert_eq!(refused(""), 1);
        assert_eq!(refused("hello\n"), 1);
        assert_eq!(refused(&text.replace("\"version\":1", "\"version\":2")), 1);
        assert_eq!(refused(&text.replace("\"errno\":0}\n", "")), 2);
    }
}
