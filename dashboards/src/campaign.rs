//! Trials: a stock or broken kernel in the VM, a workload under the recorder, the verdict outside.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tracer::{
    analyze::analyze,
    judge::{
        Report, Verdict,
        annotations::{Version, known_splat},
        finding::Finding,
    },
    trace::{Trace, meta::LossCause},
};
use workloads::{
    lab::{
        Cache, CommandJob, CommandOutcome, Ending, FilesystemJob, FilesystemKind, Kernel,
        ModuleOverride, Mutation, Progress, RoundSpec, Vm, VmOutcome, VmSpec, console, lockdep,
        modules, mutations::Mode, virtiofs,
    },
    scenarios::{self, Needs, Scenario},
};

use crate::confirmation::Confirmations;

/// Longest that boot, attach and detach take without KVM, on a busy machine.
const OVERHEAD: Duration = Duration::from_secs(150);

/// How much of a workload.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// For so long.
    Time(Duration),
    /// So many operations of the manipulator, however slow the machine.
    Operations(u64),
}

impl Extent {
    /// As `faultline work` takes it.
    pub fn arguments(self) -> [String; 2] {
        match self {
            Self::Time(time) => ["--time".to_owned(), format!("{}ms", time.as_millis())],
            Self::Operations(count) => ["--ops".to_owned(), count.to_string()],
        }
    }

    /// After this long it has hung.
    fn patience(self) -> Duration {
        match self {
            Self::Time(time) => OVERHEAD + time * 2,
            Self::Operations(count) => OVERHEAD + Duration::from_millis(count * 100),
        }
    }
}

/// A workload on a freshly made filesystem.
#[derive(Clone, Debug)]
pub struct Workload {
    /// On which filesystem.
    pub filesystem: FilesystemKind,
    /// Mounted with DAX, or through the page cache.
    pub dax: bool,
    /// mkfs arguments instead of the usual ones.
    pub mkfs: Option<String>,
    /// Mount options, comma separated, besides the one that says whether to use DAX.
    pub options: Option<String>,
    /// Which scenario.
    pub scenario: String,
    /// How long.
    pub extent: Extent,
    /// What all random choices follow from.
    pub seed: u64,
}

/// A kernel and the workloads to watch on it.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Names its files.
    pub name: String,
    /// How the kernel is broken, if it is.
    pub mutation: Option<Mutation<'static>>,
    /// Filesystem modules that replace the kernel's own.
    pub overrides: Vec<ModuleOverride>,
    /// What to run.
    pub workloads: Vec<Workload>,
}

/// One workload's trace and verdict.
#[derive(Debug)]
pub struct Judged {
    /// What ran.
    pub workload: Workload,
    /// Its trace.
    pub trace: PathBuf,
    /// The verdict.
    pub report: Report,
    /// From the start of the recording to each finding, in the report's order.
    pub found_after: Vec<Duration>,
    /// Recording and workload, in the guest.
    pub guest_time: Duration,
}

/// What went wrong beside the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A module could not be built.
    Build,
    /// The guest did not end of its own accord.
    Ending(Ending),
    /// The guest could not be set up, or not be taken down.
    Guest,
    /// The guest ran out of memory.
    Memory,
    /// The guest's kernel complained.
    Splat,
    /// It complained of a stall while the host kept it from running.
    Starved,
    /// The workload's own check failed: it read wrong data.
    WrongData,
    /// Threads of the workload did not come back from the kernel.
    Hung,
    /// The recorder or the workload failed.
    Command,
    /// There is no trace, or it cannot be read.
    Trace,
    /// It was not even tried.
    Untried,
}

/// One thing that went wrong, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Of which sort.
    pub trouble: Trouble,
    /// In words.
    pub text: String,
}

impl Complaint {
    /// Of a sort, in these words.
    pub fn new(trouble: Trouble, text: impl Into<String>) -> Self {
        Self {
            trouble,
            text: text.into(),
        }
    }

    /// True for what the kernel of a trace is known to say of itself.
    fn is_known_of(&self, trace: &Trace) -> bool {
        let header = trace.header();
        self.trouble == Trouble::Splat
            && Version::of_kernel(&header.kernel, &header.build)
                .is_some_and(|version| known_splat(&self.text, version).is_some())
    }
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// What came of a trial.
#[derive(Debug)]
pub struct TrialOutcome {
    /// Which trial.
    pub trial: Trial,
    /// Every workload's verdict, of those that left a trace.
    pub judged: Vec<Judged>,
    /// What went wrong beside the verdicts.
    pub trouble: Vec<Complaint>,
    /// What the kernel's lock validator said.
    pub validator: Validator,
}

/// The kernel's lock validator during a trial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Validator {
    /// The kernel has none, or the trial did not come so far.
    #[default]
    Absent,
    /// It had turned itself off before, so that its silence says nothing.
    Off,
    /// It was on, and said this.
    On(Vec<lockdep::Report>),
}

/// Where trials run.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The `faultline` that the guest gets.
    pub binary: &'a Path,
    /// Kernels and modules.
    pub cache: &'a Cache,
    /// What is booted.
    pub kernel: &'a Kernel,
    /// Where results stay.
    pub directory: &'a Path,
    /// Repeat, up to so many times, what merely predicted a finding, and hold tasks up meanwhile.
    pub confirm: Option<u32>,
}

/// So many rounds a boot at most: their modules lie in the guest's memory.
const ROUNDS_A_BOOT: usize = 24;

impl Trial {
    /// The unmodified kernel with punch-hole against faults on both filesystems, with DAX.
    pub fn stock(extent: Extent) -> Self {
        let workload = |filesystem| Workload {
            filesystem,
            dax: true,
            mkfs: None,
            options: None,
            scenario: "punch-vs-fault".to_owned(),
            extent,
            seed: 1,
        };
        Self {
            name: "stock".to_owned(),
            mutation: None,
            overrides: Vec::new(),
            workloads: vec![
                workload(FilesystemKind::Xfs),
                workload(FilesystemKind::Ext4),
            ],
        }
    }

    /// A broken module, with the workload that meets the bug.
    pub fn broken(mutation: Mutation<'static>, extent: Extent) -> Self {
        let workload = Workload {
            filesystem: mutation.filesystem,
            dax: mutation.mode == Mode::Dax,
            mkfs: mutation.mkfs.map(str::to_owned),
            options: mutation.options.map(str::to_owned),
            scenario: mutation.scenario.to_owned(),
            extent,
            seed: 1,
        };
        Self {
            name: mutation.name.to_owned(),
            mutation: Some(mutation),
            overrides: Vec::new(),
            workloads: vec![workload],
        }
    }

    /// Boots, runs, judges.
    ///
    /// # Errors
    /// See [`run_all`]; and a trial that left no trace at all.
    pub fn run(self, site: Site<'_>, progress: &mut dyn FnMut(Progress)) -> Result<TrialOutcome> {
        let mut outcomes = run_all(vec![self], site, progress)?;
        let outcome = outcomes.pop().context("no outcome")?;
        if outcome.judged.len() < outcome.trial.workloads.len() {
            bail!("{}: {}", outcome.trial.name, outcome.told());
        }
        Ok(outcome)
    }
}

/// Runs every workload of every trial; see [`run_each`].
///
/// # Errors
/// As [`run_each`].
pub fn run_all(
    trials: Vec<Trial>,
    site: Site<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<TrialOutcome>> {
    run_each(trials, site, progress, &mut |_, _| Ok(()))
}

/// Runs every workload of every trial, in as few boots as that takes: a guest that dies or hangs
/// costs one more, and what it took down with it is told with that trial; so does one whose lock
/// validator spoke. `done` gets each trial's number and outcome at the end of the boot that ended it.
///
/// # Errors
/// The guest cannot be put together or started, or `done` fails. What goes wrong with one trial is
/// part of its outcome.
pub fn run_each(
    trials: Vec<Trial>,
    site: Site<'_>,
    progress: &mut dyn FnMut(Progress),
    done: &mut dyn FnMut(usize, &TrialOutcome) -> Result<()>,
) -> Result<Vec<TrialOutcome>> {
    fs::create_dir_all(site.directory)
        .with_context(|| format!("cannot make {}", site.directory.display()))?;
    let mut outcomes: Vec<TrialOutcome> = trials.into_iter().map(TrialOutcome::new).collect();
    let mut told = vec![false; outcomes.len()];
    let mut waiting = VecDeque::new();
    for (index, outcome) in outcomes.iter_mut().enumerate() {
        match outcome.trial.rounds(site, progress) {
            Ok(rounds) => waiting.extend(rounds.into_iter().map(|(workload, spec)| Turn {
                trial: index,
                workload,
                spec,
                spoiled: false,
                repeated: false,
            })),
            Err(error) => outcome
                .trouble
                .push(Complaint::new(Trouble::Build, format!("{error:#}"))),
        }
    }
    loop {
        for (index, outcome) in outcomes.iter().enumerate() {
            let over = waiting.iter().all(|turn| turn.trial != index);
            if over && !std::mem::replace(&mut told[index], true) {
                done(index, outcome)?;
            }
        }
        let turns: Vec<&Turn> = waiting.iter().take(ROUNDS_A_BOOT).collect();
        if turns.is_empty() {
            break;
        }
        let rounds: Vec<RoundSpec> = turns.iter().map(|turn| turn.spec.clone()).collect();
        let steps = turns
            .iter()
            .flat_map(|turn| &turn.spec.commands)
            .map(|command| Duration::from_secs(command.timeout_seconds));
        let (patience, longest) = (steps.clone().sum::<Duration>(), steps.max());
        let mut spec = VmSpec::new(site.kernel, site.binary, rounds);
        spec.result_dir = Some(boot_directory(site.directory)?);
        spec.timeout = OVERHEAD + patience;
        spec.step_timeout = OVERHEAD + longest.unwrap_or_default();
        let vm = Vm::start(site.cache, &spec, progress)?.wait(progress)?;
        settle(&mut waiting, &vm, &mut outcomes, progress)?;
    }
    Ok(outcomes)
}

/// A new directory for the results of a boot: others may boot at the same time, and what an earlier
/// run left is not overwritten.
fn boot_directory(directory: &Path) -> Result<PathBuf> {
    let mut number = 1;
    loop {
        let path = directory.join(format!("boot-{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", path.display()));
            }
        }
    }
}

/// A round that waits for its turn.
struct Turn {
    trial: usize,
    workload: Workload,
    spec: RoundSpec,
    /// The emulator spoiled it once.
    spoiled: bool,
    /// It was to be done once more, for what the kernel skipped.
    repeated: bool,
}

impl Turn {
    /// True if nothing but programs that the kernel skipped keeps a run from a verdict, and it is the first one:
    /// kernels that preempt skip some now and then, and the next run has its own luck.
    fn again(&self, trace: &Trace, report: &Report, told: &[Complaint]) -> bool {
        !self.repeated
            && told.iter().all(|one| one.is_known_of(trace))
            && report.verdict == Verdict::Inconclusive
            && report.lost > 0
            && trace
                .losses()
                .iter()
                .all(|loss| loss.cause == LossCause::Missed)
    }
}

/// Takes the rounds that a boot did, or died of, out of the queue.
fn settle(
    waiting: &mut VecDeque<Turn>,
    vm: &VmOutcome,
    outcomes: &mut [TrialOutcome],
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let rounds = vm.outcome.as_ref().map_or(&[][..], |answer| &answer.rounds);
    // One that died before its first round is told with the round that it had before it.
    for number in 0..rounds.len().max(1) {
        let round = rounds.get(number);
        let died = round.is_none_or(|round| !round.over);
        let Some(turn) = waiting.front_mut() else {
            return Ok(());
        };
        if died
            && !turn.spoiled
            && let Some(reason) = vm.spoiled()
        {
            turn.spoiled = true;
            progress(Progress::Note(format!("{reason}; starting it again")));
            return Ok(());
        }
        let Some(turn) = waiting.pop_front() else {
            return Ok(());
        };
        let outcome = &mut outcomes[turn.trial];
        let name = &turn.spec.name;
        outcome.validator = match round.and_then(|round| round.validated) {
            None => Validator::Absent,
            Some(false) => Validator::Off,
            Some(true) => Validator::On(vm.lockdep_of(name)),
        };
        let mut told = Vec::new();
        told.extend(
            vm.splats_of(name)
                .into_iter()
                .map(|splat| complained(splat, vm.starved)),
        );
        if vm.ran_out_of_memory(name) {
            told.push(Complaint::new(
                Trouble::Memory,
                "the guest ran out of memory and its kernel killed a process",
            ));
        }
        if died {
            told.push(Complaint::new(Trouble::Ending(vm.ending), death(vm)));
        }
        let error = round.and_then(|round| round.error.as_ref());
        told.extend(error.map(|error| Complaint::new(Trouble::Guest, error)));
        let command = vm
            .outcome
            .iter()
            .flat_map(|answer| &answer.commands)
            .find(|command| command.name == *name);
        told.extend(command.and_then(|command| complaint(vm, command)));
        let confirmed = confirmed(vm, &confirming(name)).unwrap_or_else(|complaint| {
            told.push(complaint);
            None
        });
        let trace = vm.result_dir.join(format!("{name}.flt"));
        if !trace.exists() {
            told.push(Complaint::new(
                Trouble::Trace,
                format!("{name} left no trace"),
            ));
            outcome.trouble.extend(told);
            continue;
        }
        let opened = Trace::open(&trace).map(|opened| {
            let report = analyze(&opened);
            (opened, report)
        });
        if let Ok((opened, report)) = &opened
            && turn.again(opened, report, &told)
        {
            progress(Progress::Note(format!(
                "{name}: {} events were lost to programs that the kernel skipped; once more",
                report.lost
            )));
            waiting.push_back(Turn {
                repeated: true,
                ..turn
            });
            continue;
        }
        outcome.trouble.extend(told);
        match opened {
            Ok((opened, mut report)) => {
                if let Some(confirmed) = confirmed {
                    confirmed.raise(&mut report);
                }
                let started = opened.header().started;
                outcome.judged.push(Judged {
                    workload: turn.workload,
                    trace,
                    found_after: report
                        .findings
                        .iter()
                        .map(|finding| {
                            Duration::from_nanos(finding.time_ns.0.saturating_sub(started.0))
                        })
                        .collect(),
                    report,
                    guest_time: command
                        .map(|command| Duration::from_secs_f64(command.seconds))
                        .unwrap_or_default(),
                });
            }
            Err(error) => outcome.trouble.push(Complaint::new(
                Trouble::Trace,
                format!("{:#}", anyhow::Error::from(error)),
            )),
        }
    }
    Ok(())
}

/// How the guest ended, if not of its own accord.
fn death(vm: &VmOutcome) -> String {
    let mut text = format!(
        "the guest {} after {} s",
        vm.ending.words(),
        vm.wall.as_secs()
    );
    for error in &vm.errors {
        text.push_str(&format!("; it said: {error}"));
    }
    if vm.errors.is_empty() {
        text.push_str(&format!("; its console ends:\n{}", vm.console_tail(15)));
    }
    text
}

/// The command that confirms what another one recorded.
fn confirming(name: &str) -> String {
    format!("{name}.confirm")
}

/// What confirming came to, if it was asked for and got that far.
fn confirmed(vm: &VmOutcome, name: &str) -> Result<Option<Confirmations>, Complaint> {
    let Some(command) = vm
        .outcome
        .iter()
        .flat_map(|answer| &answer.commands)
        .find(|command| command.name == name)
    else {
        return Ok(None);
    };
    if !Confirmations::answered(command.status)
        && let Some(complaint) = complaint(vm, command)
    {
        return Err(complaint);
    }
    let output = vm.result_dir.join(format!("{name}.stdout"));
    let unreadable = |error: &dyn std::fmt::Display| {
        Complaint::new(
            Trouble::Command,
            format!("cannot read {}: {error}", output.display()),
        )
    };
    let text = fs::read(&output).map_err(|error| unreadable(&error))?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| unreadable(&error))
}

/// What the guest's kernel complained of; a stall while the host did not run it is the host's.
fn complained(splat: String, starved: Option<u32>) -> Complaint {
    match starved {
        Some(percent) if console::is_stall(&splat) => Complaint::new(
            Trouble::Starved,
            format!(
                "the host kept the guest waiting for a processor {percent} % of the time, and its kernel \
                 complained of a stall, which says nothing of that kernel: run fewer at a time, or on a \
                 quieter machine ({splat})"
            ),
        ),
        _ => Complaint::new(Trouble::Splat, splat),
    }
}

/// What a command that failed had to say.
fn complaint(vm: &VmOutcome, command: &CommandOutcome) -> Option<Complaint> {
    if command.succeeded() {
        return None;
    }
    if let Some(error) = &command.error {
        return Some(Complaint::new(Trouble::Command, error));
    }
    let read = |stream: &str| {
        let file = vm.result_dir.join(format!("{}.{stream}", command.name));
        fs::read_to_string(file).unwrap_or_default()
    };
    let (out, err) = (read("stdout"), read("stderr"));
    Some(failure(&command.name, command.status, &out, &err))
}

/// What a recorder that failed, or whose workload did, had to say.
pub fn failure(name: &str, status: Option<i32>, out: &str, err: &str) -> Complaint {
    let last = err.lines().last().unwrap_or("no message");
    if last.ends_with(WORKLOAD_SAW_WRONG_DATA) {
        let seen: Vec<&str> = out
            .lines()
            .skip_while(|line| !line.trim_end().ends_with("violations"))
            .map(str::trim)
            .take(4)
            .collect();
        return Complaint::new(
            Trouble::WrongData,
            format!("the workload read wrong data: {}", seen.join("; ")),
        );
    }
    if last.ends_with(WORKLOAD_HUNG) || last.contains(COMMAND_IS_STUCK) {
        let said = err.lines().find(|line| line.contains("did not come back"));
        let said = said.unwrap_or(last).trim_start_matches("faultline: ");
        return Complaint::new(Trouble::Hung, format!("{name} hung: {said}"));
    }
    let status = status.map_or("a signal".to_owned(), |status| format!("status {status}"));
    // What the recorder says after it is of no help.
    let said = err
        .lines()
        .rfind(|line| {
            ![COMMAND_ENDED, RECORDED, ATTACHED]
                .iter()
                .any(|of| line.contains(of))
        })
        .unwrap_or(last)
        .trim_start_matches("faultline: ");
    Complaint::new(
        Trouble::Command,
        format!("{name} ended with {status}: {said}"),
    )
}

/// What the recorder says of itself and of any command.
const COMMAND_ENDED: &str = "the command ended with ";
const RECORDED: &str = " lost, ";
const ATTACHED: &str = " hooks attached";

/// How the recorder tells that `faultline work` ended with its status for violations.
const WORKLOAD_SAW_WRONG_DATA: &str = "exit status: 1";
/// The same of its status for threads that did not come back.
const WORKLOAD_HUNG: &str = "exit status: 3";
/// How the recorder tells that even SIGKILL did not end the command.
pub const COMMAND_IS_STUCK: &str = "the command is stuck in the kernel";

impl Trial {
    /// A round for each workload; builds the broken module.
    fn rounds(
        &self,
        site: Site<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<(Workload, RoundSpec)>> {
        let mut overrides = self.overrides.clone();
        if self
            .workloads
            .iter()
            .any(|workload| workload.filesystem == FilesystemKind::Virtiofs)
        {
            overrides.push(ModuleOverride {
                name: virtiofs::DEVICE.to_owned(),
                object: virtiofs::device(site.cache, site.kernel, progress)?,
            });
        }
        if let Some(mutation) = &self.mutation {
            overrides.push(ModuleOverride {
                name: mutation.filesystem.module().to_owned(),
                object: modules::build(
                    site.cache,
                    site.kernel,
                    mutation.filesystem,
                    mutation.patch,
                    progress,
                )?,
            });
        }
        Ok(self
            .workloads
            .iter()
            .map(|workload| {
                let name = format!("{}.{}", self.name, workload.name());
                let spec = RoundSpec {
                    overrides: overrides.clone(),
                    filesystems: vec![workload.filesystem()],
                    commands: std::iter::once(workload.command(&name))
                        .chain(site.confirm.map(|tries| workload.confirm(&name, tries)))
                        .collect(),
                    name,
                };
                (workload.clone(), spec)
            })
            .collect())
    }
}

/// What arguments of mkfs, or mount options, ask for, as a part of a file's name: `-m reflink=1` is `reflink`,
/// `-O ^has_journal` is `no-has-journal`.
fn features(mkfs: &str) -> impl Iterator<Item = String> {
    mkfs.split([' ', ','])
        .filter(|word| !word.is_empty() && !word.starts_with('-'))
        .map(|word| {
            let (off, word) = match (word.strip_prefix('^'), word.strip_suffix("=0")) {
                (Some(word), _) | (None, Some(word)) => ("no-", word),
                (None, None) => ("", word.strip_suffix("=1").unwrap_or(word)),
            };
            let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
            format!("{off}{}", word.chars().map(plain).collect::<String>())
        })
}

impl Workload {
    /// `xfs-punch-vs-fault`, and what is not as usual.
    pub fn name(&self) -> String {
        let mut name = format!("{}-{}", self.filesystem.module(), self.scenario);
        if !self.dax {
            name.push_str("-page-cache");
        }
        let asked = self.mkfs.iter().chain(&self.options);
        for feature in asked.flat_map(|asked| features(asked)) {
            name.push('-');
            name.push_str(&feature);
        }
        name
    }

    fn filesystem(&self) -> FilesystemJob {
        let mut job = match self.filesystem {
            FilesystemKind::Xfs => FilesystemJob::xfs_dax(),
            FilesystemKind::Ext4 => FilesystemJob::ext4_dax(),
            FilesystemKind::Virtiofs => FilesystemJob::virtiofs_dax(),
        };
        if let Some(mkfs) = &self.mkfs {
            job = job.made_with(mkfs);
        }
        let scenario = scenarios::find(&self.scenario);
        if scenario.is_ok_and(|scenario| scenario.needs == Needs::ExchangeMixed) {
            job.options = "dax=inode".to_owned();
        }
        if !self.dax {
            job = job.through_page_cache();
        }
        match &self.options {
            Some(options) => job.mounted_with(options),
            None => job,
        }
    }

    fn command(&self, name: &str) -> CommandJob {
        let target = self.filesystem().target;
        let trace = format!("/result/{name}.flt");
        let [how, much] = self.extent.arguments();
        let seed = self.seed.to_string();
        let argv = [
            "faultline",
            "record",
            "-o",
            &trace,
            "--mount",
            &target,
            "--",
            "faultline",
            "work",
            &self.scenario,
            &target,
            &how,
            &much,
            "--seed",
            &seed,
        ];
        let mut command = CommandJob::new(name, &argv);
        command.timeout_seconds = self.extent.patience().as_secs();
        command.standing = true;
        command
    }

    /// Tries what [`Self::command`] recorded again.
    fn confirm(&self, name: &str, tries: u32) -> CommandJob {
        let trace = format!("/result/{name}.flt");
        let arguments = Confirmations::arguments(tries);
        let argv: Vec<&str> = ["faultline", "confirm", &trace]
            .into_iter()
            .chain(arguments.iter().map(String::as_str))
            .collect();
        let mut command = CommandJob::new(&confirming(name), &argv);
        command.timeout_seconds = self.extent.patience().as_secs() * u64::from(tries);
        command.standing = true;
        command
    }
}

impl TrialOutcome {
    /// Of a trial that has not begun.
    pub fn new(trial: Trial) -> Self {
        Self {
            trial,
            judged: Vec::new(),
            trouble: Vec::new(),
            validator: Validator::Absent,
        }
    }

    /// All that went wrong beside the verdicts, in one line.
    pub fn told(&self) -> String {
        let words: Vec<&str> = self.trouble.iter().map(|one| one.text.as_str()).collect();
        words.join("; ")
    }

    /// From the start of the recording in which a finding was made to the moment of it.
    pub fn found_after(&self, wanted: &Finding) -> Duration {
        self.judged
            .iter()
            .flat_map(|judged| judged.report.findings.iter().zip(&judged.found_after))
            .find(|(finding, _)| std::ptr::eq(*finding, wanted))
            .map(|(_, after)| *after)
            .unwrap_or_default()
    }

    /// Findings that the trial's mutation explains, and those that nothing does.
    pub fn sorted(&self) -> (Vec<&Finding>, Vec<&Finding>) {
        self.judged
            .iter()
            .flat_map(|judged| &judged.report.findings)
            .partition(|finding| {
                self.trial.mutation.as_ref().is_some_and(|mutation| {
                    finding.filesystem.name() == mutation.filesystem.module()
                        && mutation
                            .expect
                            .met_by(finding.kind.name(), finding.operation.name())
                })
            })
    }
}

/// The mkfs.xfs argument by which files may share extents.
pub const SHARED: &str = "reflink=1";

/// The mkfs.xfs argument by which ranges of files may be exchanged.
pub const EXCHANGE: &str = "exchange=1";

/// Whether a filesystem was made with a feature.
pub fn made_with(mkfs: Option<&str>, feature: &str) -> bool {
    mkfs.is_some_and(|mkfs| mkfs.contains(feature))
}

/// Whether a scenario can do its work on a filesystem made and mounted so.
pub fn runs_on(
    scenario: &Scenario,
    filesystem: FilesystemKind,
    dax: bool,
    mkfs: Option<&str>,
) -> bool {
    let made_with = |feature| made_with(mkfs, feature);
    scenario.needs.met(filesystem.module(), dax)
        && match scenario.needs {
            Needs::Reflink | Needs::ReflinkPageCache => made_with(SHARED),
            // What else there is runs without that feature, which kernels have since 6.10 only.
            Needs::Exchange => made_with(EXCHANGE),
            Needs::ExchangeMixed => made_with(EXCHANGE) && dax,
            _ => !made_with(EXCHANGE),
        }
}

/// Removes what an earlier run left in a directory of results.
///
/// # Errors
/// It is there and cannot be removed.
pub fn empty(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot empty {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a result as JSON, whole or not at all, and makes its directory if that is missing.
///
/// # Errors
/// The directory cannot be written.
pub fn keep(path: &Path, result: &impl Serialize) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let partial = path.with_extension("partial");
    fs::write(&partial, serde_json::to_vec_pretty(result)?)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// This executable, which is also the guest's init and recorder.
pub fn own_binary() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find the running executable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_that_differ_have_names_that_do() {
        let named = |mkfs| features(mkfs).collect::<Vec<_>>().join("-");
        assert_eq!(named("-m reflink=1 -i exchange=1"), "reflink-exchange");
        assert_eq!(named("-m reflink=0,rmapbt=1"), "no-reflink-rmapbt");
        assert_eq!(named("-O ^has_journal"), "no-has-journal");
        assert_eq!(named("-b size=1024"), "size-1024");
    }

    #[test]
    fn a_hang_is_told_from_a_failure() {
        let of = |err: &str| failure("candidate.xfs-mix", Some(2), "", err);
        let hung = of(
            "faultline: 4 threads did not come back within 10 s\nfaultline: 9 events, 0 lost\n\
             faultline: the command ended with exit status: 3\n",
        );
        assert_eq!(hung.trouble, Trouble::Hung);
        assert!(hung.text.contains("4 threads did not come back"), "{hung}");
        let stuck = format!("faultline: {COMMAND_IS_STUCK} and cannot be killed; more\n");
        assert_eq!(of(&stuck).trouble, Trouble::Hung);
        let failed =
            of("faultline: no space left\nfaultline: the command ended with exit status: 2\n");
        assert_eq!(failed.trouble, Trouble::Command);
        assert!(failed.text.ends_with("status 2: no space left"), "{failed}");
    }

    #[test]
    fn a_starved_guest_is_not_blamed_for_its_stalls() {
        let of = |splat: &str, starved| complained(splat.to_owned(), starved).trouble;
        let stall = "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [work:91]";
        let blocked = "INFO: task work:91 blocked for more than 30 seconds.";
        assert_eq!(of(stall, Some(40)), Trouble::Starved);
        assert_eq!(of(stall, None), Trouble::Splat);
        assert_eq!(of(blocked, Some(40)), Trouble::Splat);
    }
}
