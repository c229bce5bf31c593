//! Resolves the hook tables against the running kernel.

use std::collections::BTreeSet;

use tracer_ebpf::hook::{
    Hold, HookSpec, KernelLayout, MAX_DEREFS, MORE_ARMS, MORE_FIRST, MORE_FREEZE, MORE_HELD,
    MORE_QUIET, Path, Role, SOURCE_NONE, SOURCE_RETURN, SPEC_KNOWN, SPEC_OWN, SPEC_SIZE,
    SPEC_STACK, SPEC_STACK_SAMPLED, SPEC_STATE, SPEC_UNSCOPED, SPEC_WITHIN, Turn, Watched,
};

use crate::{
    hooks::{
        Effect, EntryAction, FILESYSTEMS, Filesystem, FilesystemKind, GENERIC, Hook, LockAction,
        LockClass, LockPlace, Mode, Side, Source, Stacks, Step, Success, Target, VFS_LOCKS, Way,
        pauses::Pause,
    },
    kernel::{
        symbols::Symbols,
        types::{Function, KernelTypes, TypesError},
    },
    trace::meta::Mechanism,
    units::HookId,
};

/// Where one resolved row may attach, best way first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// BPF trampoline.
    Trampoline(Function, Side),
    /// kprobe or kretprobe.
    Probe(&'static str, Side),
    /// Raw tracepoint.
    Tracepoint(&'static str),
}

impl Candidate {
    /// What an attachment this way is.
    pub fn mechanism(&self) -> Mechanism {
        match self {
            Self::Trampoline(_, Side::Entry) => Mechanism::Fentry,
            Self::Trampoline(_, Side::Return) => Mechanism::Fexit,
            Self::Probe(_, Side::Entry) => Mechanism::Kprobe,
            Self::Probe(_, Side::Return) => Mechanism::Kretprobe,
            Self::Tracepoint(_) => Mechanism::RawTracepoint,
        }
    }
}

/// One table row on this kernel.
#[derive(Clone, Debug)]
pub struct Row {
    /// Number in events.
    pub id: HookId,
    /// The table's row.
    pub hook: &'static Hook,
    /// The only filesystem it serves.
    pub filesystem: Option<FilesystemKind>,
    /// What the program is told and where it may attach, or what is missing.
    pub resolved: Result<(HookSpec, Vec<Candidate>), String>,
}

/// Which way to attach is tried first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// Trampolines: cheapest, and they see arguments at a return.
    #[default]
    Trampolines,
    /// Probes, wherever they can do the job: to try the fallback where trampolines work.
    Probes,
}

impl Plan {
    /// Puts the preferred way of each row first.
    pub fn prefer(&mut self, prefer: Prefer) {
        for row in &mut self.rows {
            if let Ok((_, candidates)) = &mut row.resolved {
                candidates.sort_by_key(|candidate| {
                    matches!(candidate, Candidate::Probe(..)) != (prefer == Prefer::Probes)
                });
            }
        }
    }
}

/// How much is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    #[default]
    Full,
    /// One fault in [`Extent::LIGHT`] of those outside operations; no sampled
    /// stacks; no waits for pins, DAX entries and folios. Operations and their locks are as in a full recording.
    Light,
}

impl Extent {
    /// Of this many faults a light recording takes one.
    pub const LIGHT: u16 = 16;

    /// Faults left out for each that is taken.
    pub fn left_out(self) -> u16 {
        match self {
            Self::Full => 0,
            Self::Light => Self::LIGHT - 1,
        }
    }
}

impl Plan {
    /// Leaves out what an extent does not have.
    pub fn limit(&mut self, extent: Extent) {
        if extent == Extent::Full {
            return;
        }
        for row in &mut self.rows {
            let Ok((spec, _)) = &mut row.resolved else {
                continue;
            };
            match row.hook.effect {
                Effect::LayoutWait
                | Effect::EntryLock(_)
                | Effect::Resource(LockClass::FolioLock, _) => {
                    row.resolved = Err("left out of a light recording".to_owned());
                }
                Effect::Enter(entry) if entry.is_fault() => {
                    spec.left_out = extent.left_out();
                    spec.flags &= !SPEC_STACK_SAMPLED;
                }
                _ => {
                    spec.flags &= !SPEC_STACK_SAMPLED;
                    // Nobody reports the sleep any more.
                    spec.more &= !MORE_ARMS;
                }
            }
        }
    }
}

/// A task is held up, so that others run into its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Where.
    pub at: Pause,
    /// For how long at most, nanoseconds.
    pub ns: u64,
}

impl Delay {
    /// For how long a row of this effect holds the task up, nanoseconds.
    fn of(self, effect: Effect) -> u64 {
        match effect {
            Effect::Pause | Effect::PauseUnlocked => self.ns,
            _ if self.at.holds(effect) => self.ns,
            _ => 0,
        }
    }
}

/// The whole plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Every row that was considered.
    pub rows: Vec<Row>,
    /// Offsets every program needs.
    pub layout: KernelLayout,
    /// Where the locks of an inode are.
    pub locks: Vec<LockPlace>,
    /// Bounds of an inode, a filesystem each.
    pub bounds: Vec<(FilesystemKind, Watched)>,
}

impl Plan {
    /// Resolves the generic rows and those of `filesystems`; with `small_blocks`, those too that matter where a page
    /// has several blocks.
    ///
    /// # Errors
    /// Only what no hook can do without: the layout of inodes. Anything less is kept in its row.
    pub fn resolve(
        types: &KernelTypes,
        symbols: &Symbols,
        filesystems: &BTreeSet<FilesystemKind>,
        small_blocks: bool,
        delay: Option<Delay>,
    ) -> Result<Self, TypesError> {
        let tables: Vec<&'static Filesystem> = FILESYSTEMS
            .iter()
            .filter(|table| filesystems.contains(&table.kind))
            .collect();
        let hooks = GENERIC
            .iter()
            .copied()
            .chain(delay.map(|delay| delay.at.hooks()))
            .flat_map(|rows| rows.iter().map(|hook| (None, hook)))
            .filter(|(_, hook)| small_blocks || !hook.small_blocks)
            .chain(
                tables
                    .iter()
                    .flat_map(|table| table.hooks.iter().map(|hook| (Some(table.kind), hook))),
            );
        let mut rows: Vec<Row> = hooks
            .enumerate()
            .map(|(index, (filesystem, hook))| {
                let id = HookId(index as u16);
                Row {
                    id,
                    hook,
                    filesystem,
                    resolved: resolve(types, symbols, hook, id, delay),
                }
            })
            .collect();
        pair(&mut rows);
        let mut locks = Vec::new();
        let mut bounds = Vec::new();
        for table in tables {
            let (structure, embedded) = table.inode;
            let vfs = i64::from(types.field(structure, embedded)?.offset);
            for &(class, field) in VFS_LOCKS {
                let offset = i64::from(types.field("inode", field)?.offset);
                locks.push(LockPlace {
                    filesystem: table.kind,
                    class,
                    offset,
                });
            }
            for &(class, owner, field) in table.locks {
                let offset = i64::from(types.field(owner, field)?.offset) - vfs;
                locks.push(LockPlace {
                    filesystem: table.kind,
                    class,
                    offset,
                });
            }
            let size = i64::from(types.struct_size(structure)?);
            let watched = Watched {
                first: -vfs as i32,
                last: (size - vfs) as i32,
                exclusion: types.field("inode", "i_data.invalidate_lock")?.offset as i32,
                reserved: 0,
            };
            bounds.push((table.kind, watched));
        }
        Ok(Self {
            rows,
            layout: layout(types, symbols)?,
            locks,
            bounds,
        })
    }
}

/// Counters of more CPUs are not read (tracer-ebpf: identity.rs).
const MAX_CPUS: u32 = 128;
/// Reading as many counters costs less than a fault's other records.
const FEW_CPUS: u32 = 4;
/// include/linux/fs.h: SB_FREEZE_PAGEFAULT is 2; its semaphore is the second.
const PAGEFAULT_LEVEL: u32 = 1;

/// Where a superblock's count of write faults under freeze protection is.
fn freeze_readers(types: &KernelTypes) -> Result<u32, TypesError> {
    let semaphores = types.field("super_block", "s_writers.rw_sem")?.offset;
    let size = types.struct_size("percpu_rw_semaphore")?;
    let count = types.field("percpu_rw_semaphore", "read_count")?.offset;
    Ok(semaphores + PAGEFAULT_LEVEL * size + count)
}

/// CPUs that the kernel may ever have, from a list like `0-3,8`; 0 if it says nothing.
fn possible_cpus() -> u32 {
    std::fs::read_to_string("/sys/devices/system/cpu/possible")
        .ok()
        .and_then(|list| {
            let last = list.trim().rsplit([',', '-']).next()?;
            last.parse::<u32>().ok()
        })
        .map_or(0, |last| last + 1)
}

fn layout(types: &KernelTypes, symbols: &Symbols) -> Result<KernelLayout, TypesError> {
    let per_cpu_offset = symbols.per_cpu_offset();
    let cpus = possible_cpus();
    let offset = |structure, field| types.field(structure, field).map(|found| found.offset);
    Ok(KernelLayout {
        inode_sb: offset("inode", "i_sb")?,
        sb_dev: offset("super_block", "s_dev")?,
        inode_ino: offset("inode", "i_ino")?,
        inode_generation: offset("inode", "i_generation")?,
        inode_flags: offset("inode", "i_flags")?,
        inode_size: offset("inode", "i_size")?,
        inode_blkbits: offset("inode", "i_blkbits")?,
        inode_dentry: offset("inode", "i_dentry")?,
        // The union has no name any more in 7.3.
        dentry_alias: offset("dentry", "d_u.d_alias").or_else(|_| offset("dentry", "d_alias"))?,
        dentry_parent: offset("dentry", "d_parent")?,
        dentry_name: offset("dentry", "d_name.name")?,
        inode_pages: offset("inode", "i_data.nrpages")?,
        inode_direct: offset("inode", "i_dio_count")?,
        task_mm: offset("task_struct", "mm")?,
        mm_lock: offset("mm_struct", "mmap_lock")?,
        sb_pagefault: if per_cpu_offset == 0 || cpus > MAX_CPUS {
            0
        } else {
            freeze_readers(types).unwrap_or(0)
        },
        cpus,
        freeze_mask: if cpus <= FEW_CPUS { 0 } else { 63 },
        per_cpu_offset,
    })
}

/// Gives every `Leave` the id of the `Enter` on the same function, every `LookUp` and `Switch` that of its operation's,
/// whatever counts within one operation only that of its,
/// whatever arms a sleep the id under which that is reported, and resources their kind.
fn pair(rows: &mut [Row]) {
    let asleep = rows
        .iter()
        .find(|row| row.hook.effect == Effect::LayoutWait)
        .map(|row| row.id);
    for row in rows.iter_mut() {
        let Ok((spec, _)) = &mut row.resolved else {
            continue;
        };
        match (row.hook.effect, asleep) {
            (Effect::LayoutScan(_), Some(id)) => spec.pair = id.0,
            (Effect::EntryLock(EntryAction::Wait), _) => spec.pair = row.id.0,
            (Effect::Resource(class, _), _) => spec.pair = class as u16,
            _ => {}
        }
    }
    for index in 0..rows.len() {
        let (entry, function) = match (rows[index].hook.effect, rows[index].hook.target) {
            (Effect::Leave(entry), Target::Function(function, _)) => (Some(entry), Some(function)),
            (Effect::LookUp(entry) | Effect::Switch(entry), _) => (Some(entry), None),
            _ if rows[index].hook.within.is_some() => (None, None),
            _ => continue,
        };
        let within = rows[index].hook.within;
        let enter = rows.iter().find(|row| {
            matches!(row.hook.effect, Effect::Enter(begun) if entry.is_none_or(|entry| entry == begun))
                && within.is_none_or(|group| row.hook.group == group)
                && function.is_none_or(|function| {
                    matches!(row.hook.target, Target::Function(name, _) if name == function)
                })
        });
        let pair = enter.map(|row| row.id);
        if let Ok((spec, _)) = &mut rows[index].resolved {
            match pair {
                Some(id) => spec.pair = id.0,
                None => rows[index].resolved = Err("no entry hook to match".to_owned()),
            }
        }
    }
}

fn resolve(
    types: &KernelTypes,
    symbols: &Symbols,
    hook: &Hook,
    id: HookId,
    delay: Option<Delay>,
) -> Result<(HookSpec, Vec<Candidate>), String> {
    if let Some((structure, field)) = hook.only_with
        && types.field(structure, field).is_err()
    {
        return Err(format!(
            "this kernel's takes other arguments: no {structure}.{field}"
        ));
    }
    let candidates = match hook.target {
        Target::Tracepoint(name) => {
            // The typedef that every tracepoint leaves in BTF is module-bound; the open tells.
            vec![Candidate::Tracepoint(name)]
        }
        Target::Function(name, side) => {
            if !symbols.has(name) {
                return Err("no such function in this kernel".to_owned());
            }
            let mut ways = Vec::new();
            if let Some(function) = types.function(name) {
                ways.push(Candidate::Trampoline(function, side));
            }
            // A kretprobe no longer sees the arguments: good only for rows that need none.
            let needs_arguments = hook.inode.is_some() && !matches!(hook.effect, Effect::Leave(_));
            if side == Side::Entry || !needs_arguments {
                ways.push(Candidate::Probe(name, side));
            }
            ways
        }
    };
    let way = |way: Option<Way>| way.map_or(Ok(Path::NONE), |way| path(types, way));
    let spec = (|| {
        Ok::<_, TypesError>(HookSpec {
            id: id.0,
            pair: 0,
            role: role(hook.effect) as u8,
            flags: flags(hook),
            hold: hold(hook.effect) as u8,
            success: success(hook.success) as u8,
            needs: match hook.needs {
                None => 0,
                Some(Mode::Shared) => 1,
                Some(Mode::Excl) => 2,
            },
            more: more(hook),
            left_out: 0,
            turn: Turn::Only as u8,
            reserved: [0; 3],
            guard: if hook.dirty {
                types.marks_of_dirty_pages()
            } else {
                hook.guard
            },
            without: hook.without,
            exactly: hook.exactly,
            delay: delay.map_or(0, |delay| delay.of(hook.effect)),
            inodes: [way(hook.inode)?, way(hook.second)?],
            payload: [
                way(hook.payload[0])?,
                way(hook.payload[1])?,
                way(hook.payload[2])?,
            ],
            second: [
                way(hook.second_payload[0])?,
                way(hook.second_payload[1])?,
                way(hook.second_payload[2])?,
            ],
        })
    })()
    .map_err(|error| error.to_string())?;
    Ok((spec, candidates))
}

fn role(effect: Effect) -> Role {
    match effect {
        Effect::Enter(_) => Role::Enter,
        Effect::Leave(_) => Role::Leave,
        Effect::Lock(_) | Effect::PauseUnlocked => Role::Lock,
        Effect::TaskExit => Role::Exit,
        Effect::Resource(..) => Role::Resource,
        Effect::LayoutWait => Role::Sleep,
        Effect::Invalidate(..)
        | Effect::LayoutScan(_)
        | Effect::ChangeExtents(_)
        | Effect::ConvertExtents(_)
        | Effect::WriteExtents(_)
        | Effect::Install(_)
        | Effect::EntryLock(_)
        | Effect::Invalidated
        | Effect::DrainDirect
        | Effect::DaxTransfer
        | Effect::DirectTransfer
        | Effect::Advice
        | Effect::UserMemory
        | Effect::Allocate(..)
        | Effect::MapExtent
        | Effect::Zero
        | Effect::Validate
        | Effect::Validated
        | Effect::Reserve(_)
        | Effect::DiskSize(_)
        | Effect::Orphan
        | Effect::Sync
        | Effect::Copies
        | Effect::CopiesDropped
        | Effect::Unannounced
        | Effect::LookUp(_)
        | Effect::Switch(_)
        | Effect::UnderExclusion(_)
        | Effect::Evict
        | Effect::Withdraw
        | Effect::Protect
        | Effect::Pause
        | Effect::Note => Role::Act,
    }
}

fn hold(effect: Effect) -> Hold {
    match effect {
        Effect::Lock(
            LockAction::Acquire(Mode::Shared)
            | LockAction::TryAcquire(Mode::Shared)
            | LockAction::Downgrade,
        ) => Hold::Shared,
        Effect::Lock(LockAction::Acquire(Mode::Excl) | LockAction::TryAcquire(Mode::Excl)) => {
            Hold::Exclusive
        }
        Effect::Lock(LockAction::Release(_)) | Effect::Resource(_, LockAction::Release(_)) => {
            Hold::Drop
        }
        Effect::PauseUnlocked => Hold::Only,
        _ => Hold::Keep,
    }
}

fn success(success: Success) -> tracer_ebpf::hook::Success {
    match success {
        Success::Always => tracer_ebpf::hook::Success::Always,
        Success::Zero => tracer_ebpf::hook::Success::Zero,
        Success::NonZero => tracer_ebpf::hook::Success::NonZero,
    }
}

fn flags(hook: &Hook) -> u8 {
    let scope = match hook.effect {
        Effect::Lock(_) | Effect::EntryLock(_) | Effect::TaskExit => 0,
        // Its scope would be opened by what it stands in for.
        Effect::Note => SPEC_UNSCOPED,
        Effect::Evict | Effect::Withdraw | Effect::Protect => SPEC_UNSCOPED | SPEC_KNOWN,
        Effect::Zero | Effect::Invalidated | Effect::UserMemory => SPEC_OWN,
        Effect::Sync => SPEC_OWN | SPEC_SIZE,
        Effect::LookUp(_) => SPEC_WITHIN,
        Effect::Switch(_) => SPEC_WITHIN | SPEC_OWN | SPEC_SIZE,
        Effect::MapExtent | Effect::Validate | Effect::Pause | Effect::PauseUnlocked => 0,
        Effect::ChangeExtents(_)
        | Effect::ConvertExtents(_)
        | Effect::WriteExtents(_)
        | Effect::Invalidate(..)
        | Effect::Allocate(..) => SPEC_SIZE | SPEC_STATE,
        _ => SPEC_SIZE,
    };
    let stacks = match hook.stacks {
        Stacks::Unguarded => 0,
        Stacks::Sampled => SPEC_STACK_SAMPLED,
        Stacks::Always => SPEC_STACK,
    };
    let within = match hook.within {
        Some(_) => SPEC_WITHIN,
        None => 0,
    };
    scope | within | stacks
}

fn more(hook: &Hook) -> u8 {
    match hook.effect {
        Effect::Lock(LockAction::Acquire(_) | LockAction::TryAcquire(_)) => {
            MORE_FIRST | MORE_FREEZE
        }
        Effect::Resource(_, LockAction::Acquire(_) | LockAction::TryAcquire(_)) => MORE_FIRST,
        Effect::Enter(entry) if entry.is_fault() => MORE_FREEZE,
        Effect::Install(_) => MORE_FREEZE,
        Effect::LayoutScan(_) => MORE_ARMS,
        Effect::EntryLock(EntryAction::Wait) => MORE_QUIET,
        Effect::UserMemory => MORE_HELD,
        _ => 0,
    }
}

fn path(types: &KernelTypes, way: Way) -> Result<Path, TypesError> {
    let mut path = Path::NONE;
    path.source = match way.from {
        Source::Arg(index) => index,
        Source::Return => SOURCE_RETURN,
    };
    debug_assert_ne!(path.source, SOURCE_NONE);
    let mut pending = 0i32;
    for &step in way.steps {
        match step {
            Step::Deref(structure, field) => {
                let slot = usize::from(path.derefs);
                if slot == MAX_DEREFS {
                    return Err(TypesError::Missing {
                        what: format!(
                            "room for more than {MAX_DEREFS} dereferences ({structure}.{field})"
                        ),
                    });
                }
                path.offsets[slot] = pending + types.field(structure, field)?.offset as i32;
                path.derefs += 1;
                pending = 0;
            }
            Step::Into(structure, field) => pending += types.field(structure, field)?.offset as i32,
            Step::Out(structure, field) => pending -= types.field(structure, field)?.offset as i32,
            Step::Read(structure, field) => {
                let found = types.field(structure, field)?;
                pending += found.offset as i32;
                path.width = match found.size {
                    1 | 2 | 4 | 8 => found.size as u8,
                    _ => {
                        return Err(TypesError::Missing {
                            what: format!("plain integer {structure}.{field}"),
                        });
                    }
                };
            }
            Step::Value(width) => path.width = width,
            Step::Low32 => path.keep = 4,
        }
    }
    path.add = pending;
    Ok(path)
}
