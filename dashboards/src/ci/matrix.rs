//! Which workloads on which filesystems: from a suite, `faultline.toml` or flags.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Deserialize;
use tracer::judge::annotations::Version;
use workloads::{
    lab::FilesystemKind,
    scenarios::{self, SCENARIOS},
};

use crate::campaign::{Extent, Workload, runs_on};

/// How thorough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Every scenario, with DAX and through the page cache, two seconds each; some five minutes a filesystem
    Smoke,
    /// The same for six seconds, and XFS without shared extents, ext4 without journal
    Full,
    /// The same, a minute each
    Soak,
}

impl Suite {
    fn time(self) -> Duration {
        Duration::from_secs(match self {
            Self::Smoke => 2,
            Self::Full => 6,
            Self::Soak => 60,
        })
    }
}

/// What needs extents that a huge translation can cover.
const HUGE: &str = "pmd-vs-pte";
/// Arguments of mkfs.xfs by which they come about in a small filesystem; mkfs.ext4 needs none.
const ALIGNED: &str = "-m reflink=1 -d su=2m,sw=1,agcount=2 -l size=64m";

/// A filesystem made and mounted in a way that only these scenarios are for.
struct Special {
    filesystem: FilesystemKind,
    dax: bool,
    mkfs: Option<&'static str>,
    options: Option<&'static str>,
    scenarios: &'static [&'static str],
}

const SPECIAL: [Special; 6] = [
    Special {
        filesystem: FilesystemKind::Xfs,
        dax: true,
        mkfs: Some(ALIGNED),
        options: None,
        scenarios: &[HUGE],
    },
    // Blocks smaller than a page go ways of their own through the page cache.
    Special {
        filesystem: FilesystemKind::Xfs,
        dax: false,
        mkfs: Some("-m reflink=1 -b size=1024"),
        options: None,
        scenarios: &CACHED,
    },
    Special {
        filesystem: FilesystemKind::Ext4,
        dax: false,
        mkfs: Some("-b 1024"),
        options: None,
        scenarios: &CACHED,
    },
    // So do data that are journalled. Without the insertion, by which a stock 6.1 loses stores: it empties the journal
    // before it takes the locks (fs/ext4/extents.c:ext4_insert_range); later kernels flush under them.
    Special {
        filesystem: FilesystemKind::Ext4,
        dax: false,
        mkfs: None,
        options: Some("data=journal"),
        scenarios: CACHED.split_at(4).0,
    },
    // fs/fuse/file.c:fuse_file_fallocate punches and zeroes, and moves nothing.
    Special {
        filesystem: FilesystemKind::Virtiofs,
        dax: true,
        mkfs: None,
        options: None,
        scenarios: &[
            "punch-vs-fault",
            "truncate-vs-fault",
            "mkwrite-vs-punch",
            "zero-vs-fault",
            "write-vs-fault",
            "fsync-vs-fault",
            "pmd-vs-pte",
            "private-cow",
            "fork-vs-punch",
            "remap-vs-punch",
            "unlink-mapped",
            "pinned-vs-truncate",
        ],
    },
    // open(2) and stat(2) drop what others may have changed, which no kernel so far does in the right way.
    Special {
        filesystem: FilesystemKind::Virtiofs,
        dax: true,
        mkfs: None,
        options: Some("cache=auto"),
        scenarios: &["pinned-vs-lending", "truncate-vs-fault"],
    },
];
const CACHED: [&str; 5] = [
    "punch-vs-fault",
    "truncate-vs-fault",
    "mkwrite-vs-punch",
    "zero-vs-fault",
    "insert-vs-fault",
];

/// All that a filesystem can do, in one.
const MIX: &str = "mix";

/// `faultline.toml`: all of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Packaged kernel that patches are for.
    pub kernel: Option<String>,
    /// How thorough.
    pub suite: Option<Suite>,
    /// Seconds a workload.
    pub seconds: Option<u64>,
    /// Percentage of operation and fault pairs that must have met.
    pub min_coverage: Option<u8>,
    /// Filesystems, instead of the suite's.
    #[serde(default)]
    pub filesystem: Vec<FilesystemConfig>,
}

/// One filesystem as it is made and mounted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FilesystemConfig {
    /// `xfs`, `ext4` or `virtiofs`.
    pub name: String,
    /// mkfs arguments instead of the usual ones.
    pub mkfs: Option<String>,
    /// Mount options, comma separated, besides the one for DAX.
    pub options: Option<String>,
    /// Through the page cache instead of DAX.
    #[serde(default)]
    pub page_cache: bool,
    /// Scenarios; default: the suite's.
    #[serde(default)]
    pub scenarios: Vec<String>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or says something that is not known.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is wrong", path.display()))
    }
}

/// A filesystem made and mounted in one way.
struct Variant {
    filesystem: FilesystemKind,
    dax: bool,
    mkfs: Option<String>,
    options: Option<String>,
    scenarios: Vec<String>,
}

/// The workloads of a suite on these filesystems, or those that the file or the flags name.
///
/// # Errors
/// A scenario or filesystem does not exist, or nothing is left to do.
pub fn workloads(
    suite: Suite,
    config: &Config,
    filesystems: &[FilesystemKind],
    only: &[String],
    time: Option<Duration>,
) -> Result<Vec<Workload>> {
    let variants = if config.filesystem.is_empty() {
        filesystems
            .iter()
            .flat_map(|filesystem| of_suite(suite, *filesystem))
            .collect()
    } else {
        config
            .filesystem
            .iter()
            .map(|one| configured(suite, one))
            .collect::<Result<Vec<_>>>()?
    };
    let time = time
        .or(config.seconds.map(Duration::from_secs))
        .unwrap_or_else(|| suite.time());
    for name in only {
        scenarios::find(name)?;
    }
    let mut workloads = Vec::new();
    for variant in variants
        .iter()
        .filter(|one| filesystems.contains(&one.filesystem))
    {
        let chosen = if only.is_empty() {
            &variant.scenarios
        } else {
            only
        };
        for name in chosen {
            let scenario = scenarios::find(name)?;
            let mkfs = variant.mkfs.as_deref();
            // A flag names others than a file does, but not what a variant of the suite is not for.
            let meant = !config.filesystem.is_empty() || variant.scenarios.contains(name);
            if !meant || !runs_on(scenario, variant.filesystem, variant.dax, mkfs) {
                continue;
            }
            workloads.push(Workload {
                filesystem: variant.filesystem,
                dax: variant.dax,
                mkfs: variant.mkfs.clone(),
                options: variant.options.clone(),
                scenario: name.clone(),
                extent: Extent::Time(time * plays(name)),
                seed: 1,
            });
        }
    }
    if workloads.is_empty() {
        bail!("nothing to run: no chosen scenario runs on a chosen filesystem");
    }
    Ok(workloads)
}

/// How many times as long as others a scenario takes: the mix plays them all.
fn plays(scenario: &str) -> u32 {
    if scenario == MIX { 3 } else { 1 }
}

fn of_suite(suite: Suite, filesystem: FilesystemKind) -> Vec<Variant> {
    let variant = |dax, mkfs: Option<&str>| Variant {
        filesystem,
        dax,
        mkfs: mkfs.map(str::to_owned),
        options: None,
        scenarios: SCENARIOS
            .iter()
            .map(|scenario| scenario.name.to_owned())
            .collect(),
    };
    let thorough = suite != Suite::Smoke;
    let special = SPECIAL.iter().filter(|one| one.filesystem == filesystem);
    let special = special.map(|one| Variant {
        options: one.options.map(str::to_owned),
        scenarios: one.scenarios.iter().map(|&name| name.to_owned()).collect(),
        ..variant(one.dax, one.mkfs)
    });
    match filesystem {
        FilesystemKind::Xfs => {
            let (shared, exchange) = (Some("-m reflink=1"), Some("-i exchange=1"));
            let unshared = thorough.then(|| variant(true, None));
            unshared
                .into_iter()
                .chain([
                    variant(true, shared),
                    variant(false, shared),
                    variant(true, exchange),
                    variant(false, exchange),
                ])
                .chain(special)
                .collect()
        }
        FilesystemKind::Virtiofs => special.collect(),
        FilesystemKind::Ext4 => {
            let no_journal = thorough.then(|| variant(true, Some("-b 4096 -O ^has_journal")));
            [variant(true, None), variant(false, None)]
                .into_iter()
                .chain(no_journal)
                .chain(special)
                .collect()
        }
    }
}

/// Takes out what a kernel is too old for; returns the names of those scenarios.
pub fn fit(workloads: &mut Vec<Workload>, kernel: Option<Version>) -> BTreeSet<String> {
    let mut unfit = BTreeSet::new();
    workloads.retain(|workload| {
        let needed = scenarios::find(&workload.scenario)
            .ok()
            .and_then(|scenario| scenario.needs.since());
        let fits = match (needed, kernel) {
            (Some(needed), Some(kernel)) => kernel >= needed,
            _ => true,
        };
        if !fits {
            unfit.insert(workload.scenario.clone());
        }
        fits
    });
    unfit
}

fn configured(suite: Suite, one: &FilesystemConfig) -> Result<Variant> {
    let filesystem = FilesystemKind::parse(&one.name).with_context(|| {
        format!(
            "filesystem {} is neither xfs nor ext4 nor virtiofs",
            one.name
        )
    })?;
    for name in &one.scenarios {
        scenarios::find(name)?;
    }
    let scenarios = if one.scenarios.is_empty() {
        of_suite(suite, filesystem)
            .into_iter()
            .find(|variant| variant.dax != one.page_cache)
            .map(|variant| variant.scenarios)
            .unwrap_or_default()
    } else {
        one.scenarios.clone()
    };
    Ok(Variant {
        filesystem,
        dax: !one.page_cache,
        mkfs: one.mkfs.clone(),
        options: one.options.clone(),
        scenarios,
    })
}

/// Part `I` of `N`, counted from 1: `2/5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is no part; write 1/4 for the first of four");
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let index: usize = index.parse().map_err(|_| wrong())?;
        let count: usize = count.parse().map_err(|_| wrong())?;
        if index == 0 || index > count {
            return Err(wrong());
        }
        Ok(Self { index, count })
    }
}

impl Shard {
    /// Every so-many-th thing, so that long and short ones are shared out.
    pub fn of<T>(self, things: Vec<T>) -> Vec<T> {
        things
            .into_iter()
            .skip(self.index - 1)
            .step_by(self.count)
            .collect()
    }
}

/// So many parts, fewer if there are not enough things, long and short ones shared out.
pub fn split<T>(things: Vec<T>, parts: usize) -> Vec<Vec<T>> {
    let count = parts.min(things.len());
    let mut split: Vec<Vec<T>> = (0..count).map(|_| Vec::new()).collect();
    for (part, thing) in (0..count).cycle().zip(things) {
        split[part].push(thing);
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_everything_out_once() {
        let all: Vec<usize> = (0..10).collect();
        let mut seen: Vec<usize> = (1..=3)
            .flat_map(|index| {
                format!("{index}/3")
                    .parse::<Shard>()
                    .unwrap()
                    .of(all.clone())
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, all);
        for wrong in ["0/3", "4/3", "3", "a/b"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_are_as_even_as_can_be() {
        assert_eq!(split((0..5).collect(), 2), [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(split((0..2).collect(), 4), [vec![0], vec![1]]);
        assert!(split(Vec::<u8>::new(), 4).is_empty());
    }

    #[test]
    fn a_suite_runs_what_the_filesystem_can() {
        let both = [FilesystemKind::Xfs, FilesystemKind::Ext4];
        let smoke = workloads(Suite::Smoke, &Config::default(), &both, &[], None).unwrap();
        assert!(
            smoke
                .iter()
                .any(|one| one.scenario == "punch-vs-fault" && one.dax)
        );
        assert!(
            !smoke.iter().any(
                |one| one.filesystem == FilesystemKind::Ext4 && one.scenario == "swap-vs-fault"
            )
        );
        let names: BTreeSet<String> = smoke.iter().map(Workload::name).collect();
        assert_eq!(names.len(), smoke.len(), "every cell has a name of its own");
        let only = ["punch-vs-fault".to_owned()];
        let one = workloads(Suite::Full, &Config::default(), &both[1..], &only, None).unwrap();
        // Without a journal, with small blocks, and with journalled data, too.
        assert_eq!(one.len(), 5);
        let of_xfs = |name: &str| {
            let only = [name.to_owned()];
            let chosen = workloads(Suite::Smoke, &Config::default(), &both[..1], &only, None);
            chosen.unwrap().len()
        };
        assert_eq!((of_xfs("punch-vs-fault"), of_xfs(HUGE)), (3, 3));
        assert!(
            workloads(
                Suite::Full,
                &Config::default(),
                &both,
                &["x".to_owned()],
                None
            )
            .is_err()
        );
    }

    #[test]
    fn smoke_leaves_no_scenario_out_and_full_no_workload_of_smoke() {
        let all = FilesystemKind::ALL;
        let of = |suite| workloads(suite, &Config::default(), &all, &[], None).unwrap();
        let (smoke, full) = (of(Suite::Smoke), of(Suite::Full));
        let played: BTreeSet<&str> = smoke.iter().map(|one| one.scenario.as_str()).collect();
        let mut all: BTreeSet<&str> = SCENARIOS.iter().map(|one| one.name).collect();
        // No kernel so far survives it.
        assert!(all.remove("pinned-vs-reclaim"));
        assert_eq!(played, all);
        let names = |of: &[Workload]| of.iter().map(Workload::name).collect::<BTreeSet<_>>();
        assert!(names(&smoke).is_subset(&names(&full)));
        assert!(smoke.len() < full.len());
    }

    #[test]
    fn an_old_kernel_is_not_asked_for_what_came_later() {
        let left = |kernel| {
            let xfs = [FilesystemKind::Xfs];
            let mut found = workloads(Suite::Smoke, &Config::default(), &xfs, &[], None).unwrap();
            let unfit: Vec<String> = fit(&mut found, kernel).into_iter().collect();
            let exchanges = found
                .iter()
                .filter(|one| one.scenario.starts_with("exchange"));
            (unfit, exchanges.count())
        };
        let all = [
            "behind-eof",
            "exchange-mixed",
            "exchange-vs-fault",
            "exchange-within-file",
        ];
        let all = all.map(str::to_owned).to_vec();
        assert_eq!(left(Some(Version(6, 1, 192))), (all, 0));
        assert_eq!(left(Some(Version(6, 12, 117))), (Vec::new(), 5));
        assert_eq!(left(None), (Vec::new(), 5));
    }

    #[test]
    fn the_file_says_what_it_does_not_know() {
        let config: Config = toml::from_str(
            "suite = \"full\"\nseconds = 3\nmin-coverage = 40\n\
             [[filesystem]]\nname = \"xfs\"\nmkfs = \"-m reflink=1\"\nscenarios = [\"punch-vs-fault\"]\n",
        )
        .unwrap();
        let found = workloads(Suite::Full, &config, &[FilesystemKind::Xfs], &[], None).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name(), "xfs-punch-vs-fault-reflink");
        assert!(toml::from_str::<Config>("sweet = 1").is_err());
    }
}
