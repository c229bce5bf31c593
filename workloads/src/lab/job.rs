//! What the host asks of a guest, and what the guest answers; both as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::virtiofs;

/// Path of the job inside the guest.
pub const JOB_PATH: &str = "/etc/faultline/job.json";
/// Directory of the modules inside the guest.
pub const MODULE_DIR: &str = "/lib/faultline";
/// Mount point of the directory shared with the host, and its mount tag.
pub const RESULT_DIR: &str = "/result";
/// Mount tag of the shared directory.
pub const RESULT_TAG: &str = "result";
/// Name of the answer inside the shared directory.
pub const OUTCOME_NAME: &str = "outcome.json";
/// Name of the kernel log inside the shared directory; what was said within a round is in
/// [`round_log`].
pub const DMESG_NAME: &str = "dmesg.txt";
/// What starts every line the guest program prints on the console.
pub const CONSOLE_PREFIX: &str = "faultline-guest: ";

/// Name of a round's kernel log inside the shared directory.
pub fn round_log(round: &str) -> String {
    format!("{round}.dmesg")
}

/// A filesystem the lab can make, mount and rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilesystemKind {
    /// XFS.
    Xfs,
    /// ext4.
    Ext4,
    /// virtiofs, of a device inside the kernel; mounted, and no more.
    Virtiofs,
}

impl FilesystemKind {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Xfs, Self::Ext4, Self::Virtiofs];

    /// Name of the kernel module, and of the type for mount(2).
    pub fn module(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Ext4 => "ext4",
            Self::Virtiofs => "virtiofs",
        }
    }

    /// The kernel's configuration option.
    pub fn option(self) -> &'static str {
        match self {
            Self::Xfs => "CONFIG_XFS_FS",
            Self::Ext4 => "CONFIG_EXT4_FS",
            Self::Virtiofs => "CONFIG_VIRTIO_FS",
        }
    }

    /// mkfs arguments without which it would ask or chatter.
    fn quietly(self) -> &'static [&'static str] {
        match self {
            Self::Xfs => &["-q", "-f"],
            Self::Ext4 => &["-q", "-F"],
            Self::Virtiofs => &[],
        }
    }

    /// Whether it is made on a block device, by a module that can be rebuilt: whatever a patch or a mutation changes.
    pub fn is_on_disk(self) -> bool {
        self != Self::Virtiofs
    }

    /// Name from text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.module() == text)
    }
}

/// A filesystem to be made and mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemJob {
    /// Which one.
    pub kind: FilesystemKind,
    /// Block device, `/dev/pmem0`; of virtiofs the tag.
    pub device: String,
    /// Arguments of mkfs before the device.
    pub mkfs: Vec<String>,
    /// Ranges can be exchanged between files, which mkfs.xfs knows since 6.10 only.
    #[serde(default)]
    pub exchange: bool,
    /// Mount options, comma separated.
    pub options: String,
    /// Mount point; created.
    pub target: String,
}

impl FilesystemJob {
    /// XFS with DAX on `/dev/pmem0` at `/mnt/xfs`.
    pub fn xfs_dax() -> Self {
        Self {
            kind: FilesystemKind::Xfs,
            device: "/dev/pmem0".into(),
            mkfs: Vec::new(),
            exchange: false,
            options: "dax=always".into(),
            target: "/mnt/xfs".into(),
        }
        .made_with("-m reflink=0")
    }

    /// ext4 with DAX on `/dev/pmem1` at `/mnt/ext4`.
    pub fn ext4_dax() -> Self {
        Self {
            kind: FilesystemKind::Ext4,
            device: "/dev/pmem1".into(),
            mkfs: Vec::new(),
            exchange: false,
            options: "dax=always".into(),
            target: "/mnt/ext4".into(),
        }
        .made_with("-b 4096")
    }

    /// virtiofs with DAX at `/mnt/virtiofs`.
    pub fn virtiofs_dax() -> Self {
        Self {
            kind: FilesystemKind::Virtiofs,
            device: virtiofs::TAG.into(),
            mkfs: Vec::new(),
            exchange: false,
            options: "dax=always".into(),
            target: "/mnt/virtiofs".into(),
        }
    }

    /// The same filesystem through the page cache.
    pub fn through_page_cache(mut self) -> Self {
        self.options = "dax=never".into();
        self
    }

    /// The same filesystem mounted with these options, comma separated, besides those that say how.
    pub fn mounted_with(mut self, options: &str) -> Self {
        self.options = format!("{},{options}", self.options);
        self
    }

    /// The same filesystem made with these mkfs arguments instead of its usual ones
    /// (`-m reflink=0`, `-b 4096`): mkfs.xfs refuses an option given twice. `-i exchange=1` is done
    /// for it.
    pub fn made_with(mut self, arguments: &str) -> Self {
        let quietly = self.kind.quietly();
        self.mkfs = quietly.iter().map(|&word| word.to_owned()).collect();
        let mut words = arguments.split_whitespace().peekable();
        while let Some(word) = words.next() {
            if (self.kind, word) == (FilesystemKind::Xfs, "-i")
                && words.next_if_eq(&"exchange=1").is_some()
            {
                self.exchange = true;
            } else {
                self.mkfs.push(word.to_owned());
            }
        }
        self
    }
}

/// A command to be run in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandJob {
    /// Names its output files, `NAME.stdout` and `NAME.stderr`; no slash.
    pub name: String,
    /// Program and arguments; the program is looked for in `PATH`.
    pub argv: Vec<String>,
    /// Added to the guest's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Seconds after which it is killed.
    pub timeout_seconds: u64,
    /// Whether its output also goes to the serial console.
    #[serde(default)]
    pub console: bool,
    /// Whether it is for the standing recorder, whose hooks stay in place from one to the next.
    #[serde(default)]
    pub standing: bool,
}

/// What is asked of the standing recorder, a line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// A whole command line, `faultline record …` or `faultline confirm …`.
    pub argv: Vec<String>,
    /// Where standard output goes.
    pub stdout: PathBuf,
    /// Where standard error goes.
    pub stderr: PathBuf,
}

/// What the standing recorder answers, a line of JSON each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What would have been the command's exit status.
    pub status: u8,
}

/// Command line of the standing recorder.
pub const STANDING_RECORDER: [&str; 2] = ["/usr/bin/faultline", "orders"];

impl CommandJob {
    /// A command with no environment of its own, killed after a minute.
    pub fn new(name: &str, argv: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            env: BTreeMap::new(),
            timeout_seconds: 60,
            console: false,
            standing: false,
        }
    }
}

/// A module in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleJob {
    /// Its name, for removing it.
    pub name: String,
    /// File name below [`MODULE_DIR`].
    pub file: String,
    /// Its parameters, as on insmod's command line.
    #[serde(default)]
    pub parameters: String,
}

/// Modules loaded, filesystems made afresh and mounted, commands run on them, and all of it
/// taken down again: many rounds cost one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Names it, and its kernel log, `NAME.dmesg`; no slash.
    pub name: String,
    /// Modules of this round, in order of loading.
    pub modules: Vec<ModuleJob>,
    /// Filesystems to make and mount, in order.
    pub filesystems: Vec<FilesystemJob>,
    /// Commands to run, in order; one that fails does not stop the next.
    pub commands: Vec<CommandJob>,
}

/// All a guest has to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Modules to load first, in order: file names below [`MODULE_DIR`].
    pub modules: Vec<String>,
    /// What to do then, one after the other; one that cannot be taken down is the last, and one in which
    /// the kernel's lock validator spoke, which it does once.
    pub rounds: Vec<Round>,
}

/// How far the guest came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestStage {
    /// User space is up.
    #[default]
    Boot,
    /// Loading modules.
    Modules,
    /// Waiting for the block devices.
    Devices,
    /// Doing the rounds.
    Rounds,
    /// Everything was done.
    Done,
}

/// What became of a filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOutcome {
    /// Mount point.
    pub target: String,
    /// The line of `/proc/mounts`: the options that hold, not those asked for.
    pub mounted: String,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandOutcome {
    /// Name from the job.
    pub name: String,
    /// Exit status; `None` if it was killed or did not start.
    pub status: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Whether its time ran out.
    pub timed_out: bool,
    /// Wall time in the guest.
    pub seconds: f64,
    /// Why it did not start, or what its tasks were waiting for when its time ran out.
    pub error: Option<String>,
}

impl CommandOutcome {
    /// Whether it ran to its end with status 0.
    pub fn succeeded(&self) -> bool {
        self.status == Some(0)
    }
}

/// What became of a round.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RoundOutcome {
    /// Name from the job.
    pub name: String,
    /// Filesystems mounted.
    pub mounts: Vec<MountOutcome>,
    /// Whether the kernel's lock validator was on when the round began; `None` if it has none.
    #[serde(default)]
    pub validated: Option<bool>,
    /// Whether it came to its end, good or bad, and was taken down.
    pub over: bool,
    /// The error that stopped it or kept it from being taken down.
    pub error: Option<String>,
}

/// The guest's answer; written again after every step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// How far the guest came.
    pub stage: GuestStage,
    /// `uname -r`.
    pub release: String,
    /// Kernel's clock when user space came up, in seconds.
    pub boot_seconds: f64,
    /// Kernel's clock when the first command started, in seconds.
    pub ready_seconds: Option<f64>,
    /// Rounds that began.
    pub rounds: Vec<RoundOutcome>,
    /// Commands that ended, of all rounds.
    pub commands: Vec<CommandOutcome>,
    /// The error that stopped the job.
    pub error: Option<String>,
    /// Things that failed and did not stop the job.
    pub warnings: Vec<String>,
    /// End of the kernel log, if the job was stopped or a command failed.
    pub dmesg_tail: Vec<String>,
}

impl Outcome {
    /// Whether the guest came to its last word, good or bad.
    pub fn ended(&self) -> bool {
        self.stage == GuestStage::Done || self.error.is_some()
    }

    /// Whether the guest did all it was asked and every command succeeded.
    pub fn succeeded(&self) -> bool {
        self.stage == GuestStage::Done
            && self.error.is_none()
            && self.rounds.iter().all(|round| round.error.is_none())
            && self.commands.iter().all(CommandOutcome::succeeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_survives_json() {
        let job = Job {
            modules: vec!["libnvdimm.ko".into()],
            rounds: vec![Round {
                name: "a".into(),
                modules: vec![ModuleJob {
                    name: "xfs".into(),
                    file: "a/xfs.ko".into(),
                    parameters: String::new(),
                }],
                filesystems: vec![
                    FilesystemJob::xfs_dax(),
                    FilesystemJob::ext4_dax().through_page_cache(),
                ],
                commands: vec![CommandJob {
                    env: BTreeMap::from([("RUST_BACKTRACE".into(), "1".into())]),
                    console: true,
                    ..CommandJob::new("list", &["ls", "/mnt/xfs"])
                }],
            }],
        };
        let text = serde_json::to_string(&job).unwrap();
        assert!(text.contains(r#""kind":"xfs""#), "{text}");
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);
    }

    #[test]
    fn env_and_console_may_be_left_out() {
        let text = r#"{"name":"a","argv":["true"],"timeout_seconds":5}"#;
        let command: CommandJob = serde_json::from_str(text).unwrap();
        assert!(command.env.is_empty() && !command.console && !command.standing);
    }

    #[test]
    fn mkfs_arguments_replace_the_usual_ones() {
        let usual = FilesystemJob::xfs_dax();
        assert_eq!(usual.mkfs, ["-q", "-f", "-m", "reflink=0"]);
        let shared = usual.made_with("-m reflink=1");
        assert_eq!(shared.mkfs, ["-q", "-f", "-m", "reflink=1"]);
        assert!(!shared.exchange);
        let exchanging = FilesystemJob::xfs_dax().made_with("-i exchange=1 -m reflink=1");
        assert_eq!(exchanging.mkfs, shared.mkfs);
        assert!(exchanging.exchange);
        let bare = FilesystemJob::ext4_dax().made_with("-b 4096 -O ^has_journal");
        assert_eq!(bare.mkfs, ["-q", "-F", "-b", "4096", "-O", "^has_journal"]);
    }

    #[test]
    fn success_needs_the_last_stage_and_every_command() {
        let mut outcome = Outcome {
            stage: GuestStage::Done,
            ..Outcome::default()
        };
        assert!(outcome.succeeded());
        outcome.commands.push(CommandOutcome {
            name: "a".into(),
            status: Some(1),
            signal: None,
            timed_out: false,
            seconds: 0.1,
            error: None,
        });
        assert!(!outcome.succeeded());
        let text = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome);
    }
}
