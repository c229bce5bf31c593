//! The standing recorder: one process that makes one recording after the other, so that its hooks are attached once
//! for all that use the same modules.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::command::{self, End, First};
use crate::lab::job::{Answer, CommandJob, Order, STANDING_RECORDER};

/// The kernel waits for all processors for each hook that goes, and there are over a hundred.
const DETACH_LIMIT: Duration = Duration::from_secs(60);

/// A process that takes orders.
pub(super) struct Recorder {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What came of a command.
pub(super) enum Made {
    /// The recorder did what it was asked, and stays.
    Answered(Answer),
    /// The process that should do it is gone.
    Ended(End),
}

impl Recorder {
    /// Has a recording made, by a new recorder if there is none.
    ///
    /// # Errors
    /// It cannot be started, or does not keep to its protocol.
    pub(super) fn run(
        standing: &mut Option<Self>,
        job: &CommandJob,
        directory: &Path,
    ) -> Result<Made> {
        let mut recorder = match standing.take() {
            Some(recorder) => recorder,
            None => Self::start()?,
        };
        let made = recorder.make(job, directory)?;
        if matches!(made, Made::Answered(_)) {
            *standing = Some(recorder);
        }
        Ok(made)
    }

    /// Ends the recorder, if there is one, and with it its hold on the modules.
    ///
    /// # Errors
    /// It does not end.
    pub(super) fn dismiss(standing: &mut Option<Self>) -> Result<()> {
        let Some(Self {
            mut child, orders, ..
        }) = standing.take()
        else {
            return Ok(());
        };
        drop(orders);
        if !command::ends_within(&child, DETACH_LIMIT)? {
            command::end_group(&mut child)?;
            bail!(
                "the recorder did not detach within {} s",
                DETACH_LIMIT.as_secs()
            );
        }
        child.wait().context("cannot wait for the recorder")?;
        Ok(())
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn start() -> Result<Self> {
        let [program, arguments @ ..] = STANDING_RECORDER;
        let mut command = command::prepare(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command::spawn(&mut command)?;
        let orders = child.stdin.take().context("no pipe to the recorder")?;
        let answers = child.stdout.take().context("no pipe from the recorder")?;
        Ok(Self {
            child,
            orders,
            answers: BufReader::new(answers),
        })
    }

    fn make(&mut self, job: &CommandJob, directory: &Path) -> Result<Made> {
        command::check_name(job)?;
        if !job.env.is_empty() || job.console {
            bail!("the standing recorder has its own environment and no console");
        }
        let order = Order {
            argv: job.argv.clone(),
            stdout: directory.join(format!("{}.stdout", job.name)),
            stderr: directory.join(format!("{}.stderr", job.name)),
        };
        for file in [&order.stdout, &order.stderr] {
            File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let mut line = serde_json::to_vec(&order)?;
        line.push(b'\n');
        self.orders
            .write_all(&line)
            .context("the recorder takes no orders")?;
        let limit = Duration::from_secs(job.timeout_seconds);
        let words = Some(self.answers.get_ref().as_fd());
        match command::first_of(&self.child, words, limit)? {
            First::Limit => Ok(Made::Ended(command::end_group(&mut self.child)?)),
            First::End => Ok(Made::Ended(End::Exited(self.child.wait()?))),
            First::Word => {
                let mut line = String::new();
                self.answers.read_line(&mut line)?;
                if line.is_empty() {
                    // It closed its end, which it does only by ending.
                    return Ok(Made::Ended(End::Exited(self.child.wait()?)));
                }
                let answer = serde_json::from_str(&line)
                    .with_context(|| format!("the recorder answered `{}`", line.trim()))?;
                Ok(Made::Answered(answer))
            }
        }
    }
}
