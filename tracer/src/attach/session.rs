//! A running attachment: programs, maps, and the drain of the per-CPU rings.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf, StackTraceMap};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tracer_ebpf::{
    Event, InodeRecord, TaskRecord,
    event::{HOOK_INODE, HOOK_TASK, Head, lost},
    hook::{HookSpec, RELIEVED_HOOKS, Relieved, Turn, Watched},
};
use zerocopy::FromBytes as _;

use super::{
    bpf::{self, Counters, Kind, Probe},
    object::{self, Template},
};
use crate::{
    hooks::{Effect, FilesystemKind},
    kernel::preemption::Preemption,
    plan::{Candidate, Plan, Row},
    trace::meta::{Loss, LossCause, PlannedHook},
    units::{Device, HookId, Nanos, StackId},
};

/// Times that a hook's balance is asked for before it is believed.
const BALANCE_TRIES: u32 = 32;

/// Why nothing could be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Not allowed to.
    #[error(
        "loading eBPF programs is not permitted: run as root (CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN)"
    )]
    Permission,
    /// A map or the object itself.
    #[error("cannot set up eBPF {what}")]
    Setup {
        /// Which part.
        what: String,
        /// The kernel's or the library's answer.
        source: io::Error,
    },
}

/// Sizes of a session.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of ring buffer a CPU; a power of two of at least a page.
    pub ring_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ring_bytes: 16 << 20,
        }
    }
}

/// A filesystem to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Which table applies.
    pub filesystem: FilesystemKind,
    /// `s_dev`.
    pub device: Device,
}

/// What the rings deliver.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// Something a task did.
    Event(&'a Event),
    /// A file met.
    Inode(&'a InodeRecord),
    /// A task met.
    Task(&'a TaskRecord),
}

/// Losses so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Events lost, by CPU and cause.
    pub lost: BTreeMap<(u32, LossCause), u64>,
    /// Programs skipped, by hook.
    pub missed: BTreeMap<HookId, u64>,
}

impl Health {
    /// What was lost since `before`: on which CPU if that is known, how much, and why.
    pub fn since(&self, before: &Self) -> Vec<(Option<u32>, u64, LossCause)> {
        let new =
            |count: u64, known: Option<&u64>| count.saturating_sub(known.copied().unwrap_or(0));
        let lost = self.lost.iter().map(|(at, &count)| {
            let (cpu, cause) = *at;
            (Some(cpu), new(count, before.lost.get(at)), cause)
        });
        let missed = self.missed.iter().map(|(hook, &count)| {
            let count = new(count, before.missed.get(hook));
            (None, count, LossCause::Missed)
        });
        lost.chain(missed)
            .filter(|&(_, count, _)| count > 0)
            .collect()
    }
}

/// Losses of a session, told once each.
#[derive(Debug)]
pub struct LossWatch {
    health: Health,
    checked: Nanos,
}

impl LossWatch {
    /// From `now` on; what was lost before, `health`, is not told.
    pub fn new(health: Health, now: Nanos) -> Self {
        Self {
            health,
            checked: now,
        }
    }

    /// When it was last asked.
    pub fn checked(&self) -> Nanos {
        self.checked
    }

    /// What was lost since it was last asked, up to the moment that `clock` says once the session has been.
    pub fn news(&mut self, session: &mut Session, clock: impl FnOnce() -> Nanos) -> Vec<Loss> {
        let health = session.health();
        let to = clock();
        let from = std::mem::replace(&mut self.checked, to);
        let news = health.since(&self.health).into_iter();
        let news = news.map(|(cpu, count, cause)| Loss {
            cpu,
            from,
            to,
            count,
            cause,
        });
        let losses = news.collect();
        self.health = health;
        losses
    }
}

/// What the kernel counted for one hook's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Which hook.
    pub hook: HookId,
    /// Hits.
    pub count: u64,
    /// Nanoseconds that they took together.
    pub time: u64,
}

struct Attached {
    id: HookId,
    first: Program,
    relief: Option<Program>,
    /// What [`Session::balance`] would be without loss.
    before: i64,
    /// [`Relieved::made_up`] then: while it is attached, the relief is alone.
    made_up_before: u64,
    /// Hits lost since, as far as it was asked.
    skipped: u64,
}

/// A program in place.
struct Program {
    fd: OwnedFd,
    // Held only to be closed.
    _constants: OwnedFd,
    link: Link,
}

enum Link {
    Fd { _link: OwnedFd },
    Probe { probe: Probe },
}

impl Program {
    /// Hits that it was skipped for.
    fn missed(&self) -> u64 {
        let Counters { missed, .. } = bpf::counters(&self.fd).unwrap_or_default();
        let probe = match &self.link {
            Link::Fd { .. } => 0,
            Link::Probe { probe } => probe.missed().unwrap_or_default(),
        };
        missed + probe
    }
}

type WatchList = HashMap<MapData, u32, [u8; size_of::<Watched>()]>;

/// A map in which the programs remember what they saw.
struct Remembered {
    what: &'static str,
    map: OwnedFd,
    key_size: usize,
}

/// Attached programs and their maps; dropping it detaches everything.
pub struct Session {
    attached: Vec<Attached>,
    hooks: Vec<PlannedHook>,
    rings: Vec<RingBuf<MapData>>,
    stacks: StackTraceMap<MapData>,
    lost: PerCpuArray<MapData, u64>,
    relieved: PerCpuArray<MapData, [u64; 2]>,
    epoll: Epoll,
    watched: WatchList,
    memory: Vec<Remembered>,
    // Programs hold references; the descriptor is kept for symmetry with the rest.
    _strangers: MapData,
    _outer: OwnedFd,
    run_counts: Option<OwnedFd>,
}

fn setup<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &str,
) -> impl Fn(E) -> AttachError {
    let what = what.to_owned();
    move |error| {
        let source = io::Error::other(error);
        AttachError::Setup {
            what: what.clone(),
            source,
        }
    }
}

impl Session {
    /// Loads and attaches every row that can be. Rows that cannot are named in [`Session::hooks`].
    pub fn attach(plan: &Plan, mounts: &[Mounted], limits: Limits) -> Result<Self, AttachError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(AttachError::Permission);
        }
        let template = Template::parse().map_err(setup("programs"))?;
        let map = |name: &str| {
            let definition = template.map(name).map_err(setup(name))?;
            MapData::create(definition, name, None).map_err(setup(name))
        };
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| setup("per-CPU rings")(error))?;
        let rings = (0..cpus)
            .map(|_| {
                // BPF_MAP_TYPE_RINGBUF
                let definition = aya_obj::Map::new_from_params(27, 0, 0, limits.ring_bytes, 0);
                let data =
                    MapData::create(definition, "RING", None).map_err(setup("ring buffer"))?;
                RingBuf::try_from(Map::RingBuf(data)).map_err(setup("ring buffer"))
            })
            .collect::<Result<Vec<_>, AttachError>>()?;
        let inner: Vec<_> = rings.iter().map(AsFd::as_fd).collect();
        let outer = bpf::create_array_of_maps(&inner).map_err(setup("per-CPU rings"))?;
        let pause = map("PAUSE")?;
        let (relieved, strangers, tasks, inodes, seen, watched, lost, stacks) = (
            map("RELIEVED")?,
            map("STRANGERS")?,
            map("TASKS")?,
            map("INODES")?,
            map("SEEN")?,
            map("WATCHED")?,
            map("LOST")?,
            map("STACKS")?,
        );
        let fds: Vec<(&str, RawFd)> = vec![
            ("RINGS", outer.as_raw_fd()),
            ("RELIEVED", relieved.fd().as_fd().as_raw_fd()),
            ("STRANGERS", strangers.fd().as_fd().as_raw_fd()),
            ("TASKS", tasks.fd().as_fd().as_raw_fd()),
            ("INODES", inodes.fd().as_fd().as_raw_fd()),
            ("SEEN", seen.fd().as_fd().as_raw_fd()),
            ("WATCHED", watched.fd().as_fd().as_raw_fd()),
            ("LOST", lost.fd().as_fd().as_raw_fd()),
            ("STACKS", stacks.fd().as_fd().as_raw_fd()),
            ("PAUSE", pause.fd().as_fd().as_raw_fd()),
        ];

        let memory = [
            ("tasks", &tasks, size_of::<u32>()),
            ("files", &inodes, size_of::<u64>()),
            ("states", &seen, size_of::<u64>()),
            ("stacks", &stacks, size_of::<u32>()),
        ]
        .into_iter()
        .map(|(what, map, key_size)| {
            let map = map.fd().as_fd().try_clone_to_owned();
            map.map(|map| Remembered {
                what,
                map,
                key_size,
            })
        })
        .collect::<Result<_, _>>()
        .map_err(setup("maps"))?;
        let mut watched = HashMap::try_from(Map::HashMap(watched)).map_err(setup("watch list"))?;
        watch(&mut watched, plan, mounts)?;

        let mut module_btf = BTreeMap::new();
        let mut attached = Vec::new();
        let mut hooks: Vec<PlannedHook> = plan
            .rows
            .iter()
            .map(|row| PlannedHook {
                id: row.id,
                target: target_name(row.hook.target).to_owned(),
                group: row.hook.group.to_owned(),
                filesystem: row.filesystem,
                effect: row.hook.effect,
                attached: Err("not tried".to_owned()),
            })
            .collect();
        // Scopes must not open before everything that may happen inside them is watched; whether a
        // stand-in is called for is known after that.
        let mut rows: Vec<&Row> = plan.rows.iter().collect();
        rows.sort_by_key(|row| {
            let opens = matches!(row.hook.effect, Effect::Enter(_));
            (row.hook.stands_in_for.is_some(), opens)
        });
        let relieves = Preemption::of_this_kernel() == Preemption::Anywhere;
        let mut spared = BTreeSet::new();
        for row in rows {
            if let Some(group) = row.hook.stands_in_for
                && hooks
                    .iter()
                    .any(|hook| hook.group == group && hook.attached.is_ok())
            {
                spared.insert(row.id);
                continue;
            }
            let outcome = match &row.resolved {
                Err(missing) => Err(missing.clone()),
                Ok((spec, candidates)) => {
                    let mut outcome = Err(String::new());
                    for candidate in candidates {
                        let mut place = |turn: Turn| {
                            let spec = HookSpec {
                                turn: turn as u8,
                                ..*spec
                            };
                            let instantiate =
                                |program| template.instantiate(program, &spec, &plan.layout, &fds);
                            attach(candidate, &instantiate, template.license(), &mut module_btf)
                        };
                        let trampoline = matches!(candidate, Candidate::Trampoline(..));
                        let relieved =
                            trampoline && relieves && u32::from(row.id.0) < RELIEVED_HOOKS;
                        // What is attached last runs first (kernel/bpf/trampoline.c,
                        // __bpf_trampoline_link_prog).
                        let pair = if relieved {
                            place(Turn::Relief)
                                .and_then(|relief| Ok((place(Turn::First)?, Some(relief))))
                        } else {
                            place(Turn::Only).map(|only| (only, None))
                        };
                        match pair {
                            Ok((first, relief)) => {
                                attached.push(Attached {
                                    id: row.id,
                                    first,
                                    relief,
                                    before: 0,
                                    made_up_before: 0,
                                    skipped: 0,
                                });
                                outcome = Ok(candidate.mechanism());
                                break;
                            }
                            Err(error) => {
                                if let Err(reasons) = &mut outcome {
                                    let separator = if reasons.is_empty() { "" } else { "; " };
                                    let way = candidate.mechanism().name();
                                    reasons.push_str(&format!("{separator}{way}: {error}"));
                                }
                            }
                        }
                    }
                    if outcome.as_ref().is_err_and(String::is_empty) {
                        outcome = Err("no way to attach".to_owned());
                    }
                    outcome
                }
            };
            hooks[usize::from(row.id.0)].attached = outcome;
        }
        hooks.retain(|hook| !spared.contains(&hook.id));

        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(setup("epoll"))?;
        for (cpu, ring) in rings.iter().enumerate() {
            epoll
                .add(ring, EpollEvent::new(EpollFlags::EPOLLIN, cpu as u64))
                .map_err(setup("epoll"))?;
        }
        let mut session = Self {
            attached,
            hooks,
            rings,
            stacks: StackTraceMap::try_from(Map::StackTraceMap(stacks)).map_err(setup("stacks"))?,
            lost: PerCpuArray::try_from(Map::PerCpuArray(lost)).map_err(setup("loss counters"))?,
            relieved: PerCpuArray::try_from(Map::PerCpuArray(relieved))
                .map_err(setup("relief counters"))?,
            epoll,
            watched,
            memory,
            _strangers: strangers,
            _outer: outer,
            run_counts: None,
        };
        for index in 0..session.attached.len() {
            let before = session.balance(&session.attached[index], i64::MIN);
            let made_up_before = session.relieved(session.attached[index].id).made_up;
            let hook = &mut session.attached[index];
            (hook.before, hook.made_up_before) = (before, made_up_before);
        }
        Ok(session)
    }

    /// Begins anew with `mounts`: what was seen of tasks and files is forgotten, as is what nobody drained. Nothing
    /// that was watched may be in use.
    pub fn renew(&mut self, plan: &Plan, mounts: &[Mounted]) -> Result<(), AttachError> {
        let devices: Vec<u32> = self.watched.keys().filter_map(Result::ok).collect();
        for device in devices {
            self.watched.remove(&device).map_err(setup("watch list"))?;
        }
        while self.drain(|_, _| ()) > 0 {}
        for Remembered {
            what,
            map,
            key_size,
        } in &self.memory
        {
            bpf::clear(map.as_fd(), *key_size).map_err(setup(what))?;
        }
        watch(&mut self.watched, plan, mounts)
    }

    /// Every row but stand-ins that were not called for, and how it was attached.
    pub fn hooks(&self) -> &[PlannedHook] {
        &self.hooks
    }

    /// CPUs that have a ring.
    pub fn cpus(&self) -> u32 {
        self.rings.len() as u32
    }

    /// Returns when a ring has filled up to its mark, or after `limit`.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 16];
        let limit = EpollTimeout::try_from(limit).unwrap_or(EpollTimeout::MAX);
        match self.epoll.wait(&mut events, limit) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands over what the rings hold, CPU by CPU, each in its ring's order. Returns the number of records.
    pub fn drain(&mut self, mut take: impl FnMut(u32, Record<'_>)) -> u64 {
        let mut count = 0;
        for (cpu, ring) in self.rings.iter_mut().enumerate() {
            let cpu = cpu as u32;
            while let Some(item) = ring.next() {
                let Ok((head, _)) = Head::ref_from_prefix(&item) else {
                    continue;
                };
                count += 1;
                match head.hook {
                    HOOK_INODE => {
                        if let Ok((record, _)) = InodeRecord::ref_from_prefix(&item) {
                            take(cpu, Record::Inode(record));
                        }
                    }
                    HOOK_TASK => {
                        if let Ok((record, _)) = TaskRecord::ref_from_prefix(&item) {
                            take(cpu, Record::Task(record));
                        }
                    }
                    _ => {
                        if let Ok((record, _)) = Event::ref_from_prefix(&item) {
                            take(cpu, Record::Event(record));
                        }
                    }
                }
            }
        }
        count
    }

    /// Addresses of a stack, innermost first, without the frames of the tracing itself.
    pub fn stack(&self, id: StackId) -> Option<Vec<u64>> {
        let trace = self.stacks.get(&id.0, 0).ok()?;
        Some(
            trace
                .frames()
                .iter()
                .map(|frame| frame.ip)
                .filter(|&ip| ip != 0)
                .collect(),
        )
    }

    /// Has the kernel count and time every program's runs from here on, which costs two clock reads
    /// a run.
    pub fn count_runs(&mut self) -> io::Result<()> {
        self.run_counts = Some(bpf::enable_run_counts()?);
        Ok(())
    }

    /// What [`Session::count_runs`] yielded so far.
    pub fn runs(&self) -> io::Result<Vec<Runs>> {
        self.attached
            .iter()
            .map(|hook| {
                let mut sum = bpf::counters(&hook.first.fd)?;
                if let Some(relief) = &hook.relief {
                    // Its runs are the first's: only the time adds up.
                    sum.time += bpf::counters(&relief.fd)?.time;
                }
                Ok(Runs {
                    hook: hook.id,
                    count: sum.runs,
                    time: sum.time,
                })
            })
            .collect()
    }

    /// Hits that the kernel skipped a hook's program for, less those that its relief saw; as much more than
    /// `expected` as it is sure to be. It is too high for a moment while a task is between the two programs.
    fn balance(&self, hook: &Attached, expected: i64) -> i64 {
        let mut missed = hook.first.missed() as i64;
        if hook.relief.is_none() {
            return missed;
        }
        let mut sure = None;
        let mut last = missed;
        for _ in 0..BALANCE_TRIES {
            let relieved = self.relieved(hook.id);
            let missed_before = std::mem::replace(&mut missed, hook.first.missed() as i64);
            last = missed - relieved.made_up as i64 - relieved.strangers as i64;
            if missed == missed_before {
                sure = Some(sure.map_or(last, |sure: i64| sure.min(last)));
            }
            if sure.is_some_and(|sure| sure <= expected) {
                break;
            }
        }
        sure.unwrap_or(last)
    }

    fn relieved(&self, hook: HookId) -> Relieved {
        let mut sum = Relieved::default();
        if let Ok(values) = self.relieved.get(&u32::from(hook.0), 0) {
            for &[made_up, strangers] in values.iter() {
                sum.made_up += made_up;
                sum.strangers += strangers;
            }
        }
        sum
    }

    /// Hits that reliefs took because the kernel had skipped a program.
    pub fn made_up(&self) -> u64 {
        let relieved = self.attached.iter().filter(|hook| hook.relief.is_some());
        relieved
            .map(|hook| self.relieved(hook.id).made_up - hook.made_up_before)
            .sum()
    }

    /// What was lost since everything was attached.
    pub fn health(&mut self) -> Health {
        let mut health = Health::default();
        for (slot, cause) in [
            (lost::RING, LossCause::Ring),
            (lost::TASKS, LossCause::Tasks),
            (lost::SCOPE, LossCause::Scope),
        ] {
            if let Ok(values) = self.lost.get(&slot, 0) {
                for (cpu, &count) in values.iter().enumerate() {
                    if count > 0 {
                        health.lost.insert((cpu as u32, cause), count);
                    }
                }
            }
        }
        for index in 0..self.attached.len() {
            let hook = &self.attached[index];
            let expected = hook.before + hook.skipped as i64;
            let more = self.balance(hook, expected) - expected;
            let hook = &mut self.attached[index];
            if more < 0 {
                // Whoever was inside the function when the first was attached returns past the relief alone.
                hook.before += more;
            } else {
                hook.skipped += more as u64;
            }
            if hook.skipped > 0 {
                health.missed.insert(hook.id, hook.skipped);
            }
        }
        health
    }
}

fn watch(list: &mut WatchList, plan: &Plan, mounts: &[Mounted]) -> Result<(), AttachError> {
    for mount in mounts {
        let bounds = plan
            .bounds
            .iter()
            .find(|(kind, _)| *kind == mount.filesystem);
        if let Some((_, bounds)) = bounds {
            list.insert(mount.device.0, watched_bytes(bounds), 0)
                .map_err(setup("watch list"))?;
        }
    }
    Ok(())
}

fn target_name(target: crate::hooks::Target) -> &'static str {
    match target {
        crate::hooks::Target::Function(name, _) | crate::hooks::Target::Tracepoint(name) => name,
    }
}

fn watched_bytes(bounds: &Watched) -> [u8; size_of::<Watched>()] {
    let mut bytes = [0; size_of::<Watched>()];
    bytes[0..4].copy_from_slice(&bounds.first.to_ne_bytes());
    bytes[4..8].copy_from_slice(&bounds.last.to_ne_bytes());
    bytes[8..12].copy_from_slice(&bounds.exclusion.to_ne_bytes());
    bytes
}

fn attach(
    candidate: &Candidate,
    instantiate: &dyn Fn(object::Program) -> io::Result<object::Instance>,
    license: &std::ffi::CStr,
    module_btf: &mut BTreeMap<String, OwnedFd>,
) -> io::Result<Program> {
    match candidate {
        Candidate::Trampoline(function, side) => {
            let module = match &function.module {
                None => None,
                Some(name) => {
                    if !module_btf.contains_key(name) {
                        module_btf.insert(name.clone(), bpf::module_btf(name)?);
                    }
                    module_btf.get(name).map(AsFd::as_fd)
                }
            };
            let instance = instantiate(object::Program::Trampoline)?;
            let kind = Kind::Tracing {
                side: *side,
                id: function.id,
                module,
            };
            let program = bpf::load(kind, &instance.instructions, license, "faultline")?;
            let link = bpf::attach_tracing(&program)?;
            Ok(Program {
                fd: program,
                _constants: instance.constants,
                link: Link::Fd { _link: link },
            })
        }
        Candidate::Probe(name, side) => {
            let instance = instantiate(object::Program::Probe)?;
            let program = bpf::load(Kind::Probe, &instance.instructions, license, "faultline")?;
            let probe = bpf::attach_probe(&program, name, *side)?;
            Ok(Program {
                fd: program,
                _constants: instance.constants,
                link: Link::Probe { probe },
            })
        }
        Candidate::Tracepoint(name) => {
            let instance = instantiate(object::Program::Tracepoint)?;
            let program = bpf::load(
                Kind::Tracepoint,
                &instance.instructions,
                license,
                "faultline",
            )?;
            let link = bpf::attach_tracepoint(&program, Some(name))?;
            Ok(Program {
                fd: program,
                _constants: instance.constants,
                link: Link::Fd { _link: link },
            })
        }
    }
}
