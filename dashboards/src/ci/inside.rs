//! The same on the machine that this runs on: workloads, or xfstests' own tests, under the recorder, without
//! a VM of ours. For those who have booted the kernel already, as in a VM of `vng`.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::utsname::uname;
use tracer::{
    analyze::analyze,
    trace::{Mount, Trace},
};
use workloads::lab::{FilesystemKind, console};

use super::cell::{Cell, Found, Side, Status};
use crate::{
    campaign::{Complaint, Judged, Trial, TrialOutcome, Trouble, Workload, failure, own_binary},
    confirmation::Confirmations,
};

/// What cells say instead of an accelerator.
pub const ACCELERATOR: &str = "the kernel of this machine";

/// What is run, and where.
#[derive(Debug)]
pub struct Inside {
    /// Watched, and worked on; the first one of a filesystem.
    pub mounts: Vec<Mount>,
    /// Where traces and what the programs print are kept.
    pub directory: PathBuf,
    confirm: Option<u32>,
    binary: PathBuf,
    kernel: String,
    log: KernelLog,
}

/// The kind of a mount, and whether faults on it map the medium.
pub fn kind(mount: &Mount) -> Result<(FilesystemKind, bool)> {
    let kind = FilesystemKind::parse(mount.filesystem.name())
        .with_context(|| format!("{} is neither XFS nor ext4 nor virtiofs", mount.path))?;
    let dax = |option: &str| ["dax", "dax=always"].contains(&option);
    Ok((kind, mount.options.split(',').any(dax)))
}

impl Inside {
    /// Nothing has run yet. With `confirm`, findings that are merely predicted are tried again so often.
    ///
    /// # Errors
    /// Not root, or the directory or the kernel's log cannot be had.
    pub fn new(mounts: Vec<Mount>, directory: PathBuf, confirm: Option<u32>) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!(
                "--inside needs root: it loads eBPF programs (CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN)"
            );
        }
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let kernel = uname().context("cannot tell the running kernel")?;
        Ok(Self {
            mounts,
            directory,
            confirm,
            binary: own_binary()?,
            kernel: kernel.release().to_string_lossy().into_owned(),
            log: KernelLog::from_here()?,
        })
    }

    /// `uname -r`.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Runs a workload on its filesystem's mount.
    ///
    /// # Errors
    /// A program cannot be started, or what it prints not be kept.
    pub fn workload(&mut self, workload: &Workload) -> Result<Cell> {
        let mount = self.mount_of(workload)?.clone();
        let mut command: Vec<OsString> = vec![
            self.binary.clone().into(),
            "work".into(),
            workload.scenario.clone().into(),
            mount.path.clone().into(),
        ];
        command.extend(workload.extent.arguments().map(OsString::from));
        command.extend(["--seed".into(), workload.seed.to_string().into()]);
        let mut outcome = self.record(workload, &[&mount], &command, None)?;
        if let Some(tries) = self.confirm {
            self.confirm(workload, tries, &mut outcome)?;
        }
        Ok(self.cell(workload, &outcome))
    }

    /// Repeats what was merely predicted, with tasks held up.
    fn confirm(
        &mut self,
        workload: &Workload,
        tries: u32,
        outcome: &mut TrialOutcome,
    ) -> Result<()> {
        let Some(judged) = outcome.judged.first_mut() else {
            return Ok(());
        };
        let status = Command::new(&self.binary)
            .arg("confirm")
            .arg(&judged.trace)
            .args(Confirmations::arguments(tries))
            .stdout(self.keep(workload, "confirm.stdout")?)
            .stderr(self.keep(workload, "confirm.stderr")?)
            .status()
            .context("cannot run the recorder again")?;
        let splats = console::splats(&self.log.said()?);
        if Confirmations::answered(status.code()) {
            let text = self.printed(workload, "confirm.stdout");
            let confirmed: Confirmations =
                serde_json::from_str(&text).context("cannot read what confirm printed")?;
            confirmed.raise(&mut judged.report);
        } else {
            let name = format!("{} again", workload.name());
            let said = self.printed(workload, "confirm.stderr");
            outcome
                .trouble
                .push(failure(&name, status.code(), "", &said));
        }
        let complaints = splats
            .into_iter()
            .map(|text| Complaint::new(Trouble::Splat, text));
        outcome.trouble.extend(complaints);
        Ok(())
    }

    /// Runs xfstests' `check` in its directory with these arguments, and adds each test that it says failed.
    ///
    /// # Errors
    /// As of [`Self::workload`].
    pub fn xfstests(&mut self, tests: &Path, arguments: &[OsString]) -> Result<Cell> {
        if !tests.join("check").is_file() {
            bail!("{} has no `check`: name a built xfstests", tests.display());
        }
        let Some(first) = self.mounts.first() else {
            bail!("name the mounted TEST_DIR, and the SCRATCH_MNT if there is one, with --mount");
        };
        let (filesystem, dax) = kind(first)?;
        let workload = Workload {
            filesystem,
            dax,
            mkfs: None,
            options: None,
            scenario: "xfstests".to_owned(),
            extent: crate::campaign::Extent::Operations(0),
            seed: 0,
        };
        let mut command: Vec<OsString> = vec!["./check".into()];
        command.extend_from_slice(arguments);
        let mounts = self.mounts.clone();
        let mounts: Vec<&Mount> = mounts.iter().collect();
        let outcome = self.record(&workload, &mounts, &command, Some(tests))?;
        let mut cell = self.cell(&workload, &outcome);
        let printed = self.printed(&workload, "stdout");
        let told = Told::of(&printed);
        if !told.over {
            cell.reasons.push("check did not get to its end".to_owned());
        } else {
            // Its status says no more than what it printed.
            cell.reasons
                .retain(|reason| !reason.contains(" ended with "));
            if cell.status == Status::Failed && cell.reasons.is_empty() {
                cell.status = Status::Clean;
            }
        }
        for test in told.failed {
            cell.findings.push(Found::plain(
                "xfstests",
                filesystem.module(),
                test,
                &format!("{test} failed; see {}/results", tests.display()),
            ));
            cell.status = Status::Findings;
        }
        Ok(cell)
    }

    fn mount_of(&self, workload: &Workload) -> Result<&Mount> {
        self.mounts
            .iter()
            .find(|mount| kind(mount).is_ok_and(|kind| kind == (workload.filesystem, workload.dax)))
            .with_context(|| format!("no mount for {}", workload.name()))
    }

    fn cell(&self, workload: &Workload, outcome: &TrialOutcome) -> Cell {
        let subject = format!("running {}", self.kernel);
        let side = Side::Candidate;
        Cell::new(side, &subject, &self.kernel, ACCELERATOR, workload, outcome)
    }

    fn path(&self, workload: &Workload, suffix: &str) -> PathBuf {
        self.directory.join(format!("{}.{suffix}", workload.name()))
    }

    /// Where what a program prints is kept.
    fn keep(&self, workload: &Workload, stream: &str) -> Result<File> {
        let path = self.path(workload, stream);
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))
    }

    fn printed(&self, workload: &Workload, stream: &str) -> String {
        fs::read(self.path(workload, stream)).map_or(String::new(), |bytes| {
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }

    /// Runs a command under the recorder.
    fn record(
        &mut self,
        workload: &Workload,
        mounts: &[&Mount],
        command: &[OsString],
        place: Option<&Path>,
    ) -> Result<TrialOutcome> {
        let trace = fs::canonicalize(&self.directory)
            .with_context(|| format!("cannot find {}", self.directory.display()))?
            .join(format!("{}.flt", workload.name()));
        let mut recorder = Command::new(&self.binary);
        recorder.args(["record", "-o"]).arg(&trace);
        for mount in mounts {
            recorder.arg("--mount").arg(&mount.path);
        }
        recorder
            .arg("--")
            .args(command)
            .stdout(self.keep(workload, "stdout")?)
            .stderr(self.keep(workload, "stderr")?);
        if let Some(place) = place {
            recorder.current_dir(place);
        }
        self.log.said()?;
        let started = Instant::now();
        let status = recorder.status().context("cannot run the recorder")?;
        let guest_time = started.elapsed();
        let complaints = console::splats(&self.log.said()?);
        let mut outcome = TrialOutcome::new(Trial {
            name: Side::Candidate.name().to_owned(),
            mutation: None,
            overrides: Vec::new(),
            workloads: vec![workload.clone()],
        });
        let complaints = complaints.into_iter();
        outcome
            .trouble
            .extend(complaints.map(|text| Complaint::new(Trouble::Splat, text)));
        if !status.success() {
            let (out, err) = (
                self.printed(workload, "stdout"),
                self.printed(workload, "stderr"),
            );
            let name = workload.name();
            outcome.trouble.push(match place {
                // Only `faultline work` means wrong data by its status.
                Some(_) => Complaint::new(Trouble::Command, format!("{name} ended with {status}")),
                None => failure(&name, status.code(), &out, &err),
            });
        }
        match Trace::open(&trace) {
            Ok(opened) => {
                let report = analyze(&opened);
                let begun = opened.header().started;
                let after = |at: u64| Duration::from_nanos(at.saturating_sub(begun.0));
                let findings = report.findings.iter();
                outcome.judged.push(Judged {
                    workload: workload.clone(),
                    trace,
                    found_after: findings.map(|finding| after(finding.time_ns.0)).collect(),
                    report,
                    guest_time,
                });
            }
            Err(error) => outcome.trouble.push(Complaint::new(
                Trouble::Trace,
                format!("{:#}", anyhow::Error::from(error)),
            )),
        }
        Ok(outcome)
    }
}

/// What xfstests' `check` printed, in the end.
#[derive(Debug, PartialEq, Eq)]
struct Told<'a> {
    /// It got to its end.
    over: bool,
    /// Tests that failed.
    failed: Vec<&'a str>,
}

impl<'a> Told<'a> {
    /// From its output (xfstests: check, _wrapup).
    fn of(text: &'a str) -> Self {
        let after = |start: &str| text.lines().rev().find_map(|line| line.strip_prefix(start));
        let failed: Vec<&str> =
            after("Failures: ").map_or_else(Vec::new, |names| names.split_whitespace().collect());
        let passed = after("Passed all ").is_some();
        Self {
            over: passed || after("Failed ").is_some(),
            failed,
        }
    }
}

/// The kernel's log, from some moment on.
#[derive(Debug)]
struct KernelLog {
    file: File,
}

impl KernelLog {
    fn from_here() -> Result<Self> {
        let file = File::options()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("cannot read the kernel's log, /dev/kmsg")?;
        let mut log = Self { file };
        log.said()?;
        Ok(log)
    }

    /// What was said since the last time, in the form of a console.
    fn said(&mut self) -> Result<String> {
        let mut text = String::new();
        let mut record = [0; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => text.push_str(&line(&String::from_utf8_lossy(&record[..length]))),
                // EPIPE: records were overwritten before they were read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("cannot read the kernel's log"),
            }
        }
        Ok(text)
    }
}

/// A record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg) as a console shows it.
fn line(record: &str) -> String {
    let Some((head, rest)) = record.split_once(';') else {
        return String::new();
    };
    let message = rest.lines().next().unwrap_or_default();
    let stamp = head
        .split(',')
        .nth(2)
        .and_then(|stamp| stamp.parse::<u64>().ok());
    let seconds = stamp.unwrap_or_default() as f64 / 1e6;
    format!("[{seconds:12.6}] {message}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_log_is_a_line_of_the_console() {
        let record =
            "4,339,5140900,-;WARNING: CPU: 1 PID: 7 at fs/dax.c:400 x+0x1/0x2\n SUBSYSTEM=x\n";
        let said = line(record);
        assert_eq!(
            said,
            "[    5.140900] WARNING: CPU: 1 PID: 7 at fs/dax.c:400 x+0x1/0x2\n"
        );
        assert_eq!(console::splats(&said).len(), 1);
        assert!(
            console::splats(&line("6,340,5140901,-;XFS (loop0): Ending clean mount\n")).is_empty()
        );
    }

    #[test]
    fn what_check_says_in_the_end() {
        let bad = "Ran: generic/001 generic/413\nFailures: generic/413\nFailed 1 of 2 tests\n";
        let told = Told::of(bad);
        assert_eq!((told.over, told.failed), (true, vec!["generic/413"]));
        let good = Told::of("generic/001 2s ...  2s\nRan: generic/001\nPassed all 1 tests\n");
        assert_eq!((good.over, good.failed.len()), (true, 0));
        assert!(!Told::of("generic/001 2s ... ").over);
    }
}
