//! A trace like a real one of XFS on DAX: two CPUs, four tasks that fault on two files, one that
//! punches holes into them, every lock held as it should be.

use std::path::Path;

use anyhow::{Context as _, Result};
use tracer::{
    hooks::{
        Effect, Entry, FilesystemKind, GENERIC, Hook, Install, LockAction, LockClass, LockPlace,
        Mode, Side, Span, Target, Teardown, xfs,
    },
    live::Item,
    trace::{Footer, Header, Inode, Mechanism, Mount, PlannedHook, Task, Writer},
    units::{Device, HookId, Ino, InodeAddress, Nanos, Pid, Tid},
};
use tracer_ebpf::{
    Event, Head,
    event::{HOOK_INODE, HOOK_TASK},
};

/// What `analysis` calls it.
pub const DESCRIPTION: &str =
    "SYNTHETIC, no trace was given: DAX faults on XFS, 2 CPUs, 4 tasks, a punched hole every 600";

const CPUS: usize = 2;
/// Faults a CPU between two holes.
const SLICE: u64 = 300;
/// Bytes of each file of a trace.
const FILE_SIZE: u64 = 1 << 30;
const FILES: [u64; 2] = [0xffff_8881_0432_1000, 0xffff_8881_0432_14c0];
const PUNCHER: u32 = 4100;
const DEVICE: Device = Device(0x10300000);

const RWSEM: u64 = 0x98;
const INVALIDATE: u64 = 0x180;
const ILOCK: u64 = (-0x80_i64) as u64;

/// A linear congruential generator's better half.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// Numbers of the rows that occur.
struct Rows {
    fault: [u16; 2],
    punch: [u16; 2],
    shared: [u16; 2],
    exclusive: [u16; 2],
    wait: u16,
    installs: [u16; 2],
    scan: u16,
    invalidate: u16,
    drain: u16,
    unmap: u16,
    exit: u16,
    evict: u16,
}

fn table() -> Vec<(Option<FilesystemKind>, &'static Hook)> {
    let generic = GENERIC.iter().flat_map(|rows| rows.iter());
    generic
        .map(|hook| (None, hook))
        .chain(
            xfs::TABLE
                .hooks
                .iter()
                .map(|hook| (Some(FilesystemKind::Xfs), hook)),
        )
        .filter(|(_, hook)| hook.stands_in_for.is_none())
        .collect()
}

fn planned() -> Vec<PlannedHook> {
    let row = |(id, (filesystem, hook)): (usize, (Option<FilesystemKind>, &Hook))| {
        let (target, mechanism) = match hook.target {
            Target::Function(name, Side::Entry) => (name, Mechanism::Fentry),
            Target::Function(name, Side::Return) => (name, Mechanism::Fexit),
            Target::Tracepoint(name) => (name, Mechanism::RawTracepoint),
        };
        PlannedHook {
            id: HookId(id as u16),
            target: target.to_owned(),
            group: hook.group.to_owned(),
            filesystem,
            effect: hook.effect,
            attached: Ok(mechanism),
        }
    };
    table().into_iter().enumerate().map(row).collect()
}

impl Rows {
    fn find(hooks: &[PlannedHook]) -> Result<Self> {
        let row = |effect: Effect| {
            hooks
                .iter()
                .find(|hook| hook.effect == effect)
                .map(|hook| hook.id.0)
                .with_context(|| format!("no hook has the effect {effect:?}"))
        };
        let pair = |one, other| Ok::<_, anyhow::Error>([row(one)?, row(other)?]);
        let lock = |mode| {
            pair(
                Effect::Lock(LockAction::Acquire(mode)),
                Effect::Lock(LockAction::Release(mode)),
            )
        };
        Ok(Self {
            fault: pair(Effect::Enter(Entry::Fault), Effect::Leave(Entry::Fault))?,
            punch: pair(
                Effect::Enter(Entry::Fallocate),
                Effect::Leave(Entry::Fallocate),
            )?,
            shared: lock(Mode::Shared)?,
            exclusive: lock(Mode::Excl)?,
            wait: row(Effect::Lock(LockAction::Wait))?,
            installs: pair(
                Effect::Install(Install::PteRead),
                Effect::Install(Install::PteWrite),
            )?,
            scan: row(Effect::LayoutScan(Span::BytesInclusive))?,
            invalidate: row(Effect::Invalidate(Span::BytesInclusive, Teardown::Both))?,
            drain: row(Effect::DrainDirect)?,
            unmap: row(Effect::ChangeExtents(Span::Blocks))?,
            exit: row(Effect::TaskExit)?,
            evict: row(Effect::Evict)?,
        })
    }
}

/// One CPU's clock and events.
struct Cpu {
    time: u64,
    events: Vec<Event>,
}

/// One task's place in its program order.
struct Thread {
    tid: u32,
    seq: u32,
    inode: u64,
}

impl Thread {
    fn new(tid: u32, inode: u64) -> Self {
        Self { tid, seq: 0, inode }
    }

    fn push(&mut self, cpu: &mut Cpu, hook: u16, depth: u8, payload: [u64; 3], size: u64) {
        let [a, b, c] = payload;
        let head = Head {
            time: cpu.time,
            task: self.tid,
            seq: self.seq,
            hook,
            depth,
            flags: 0,
            stack: -1,
        };
        self.seq += 1;
        cpu.events.push(Event {
            head,
            inode: self.inode,
            a,
            b,
            c,
            size,
        });
    }

    fn lock(&mut self, cpu: &mut Cpu, hook: u16, offset: u64) {
        let address = self.inode.wrapping_add(offset);
        self.push(cpu, hook, 1, [offset, address, 0], 0);
    }
}

struct Machine {
    random: Random,
    rows: Rows,
    /// Bytes of each file.
    size: u64,
}

impl Machine {
    /// The next event is a while later, sometimes after an interruption.
    fn pass(&mut self, cpu: &mut Cpu) {
        let interrupted = self.random.below(40) == 0;
        cpu.time += 90
            + self.random.below(60)
            + if interrupted {
                self.random.below(5_000)
            } else {
                0
            };
    }

    /// A whole fault; `held_off_until` is when the lock that it meets will be free.
    fn fault(&mut self, cpu: &mut Cpu, thread: &mut Thread, held_off_until: Option<u64>) {
        let page = self.random.below(self.size >> 12);
        let address = 0x7f12_3400_0000 + (page << 12);
        // Extents of 4 MiB, anywhere on the medium.
        let extent = (page >> 10).wrapping_mul(0x9e37_79b1) & 0xff;
        let pfn = 0x24_0000 + extent * 1024 + (page & 1023);
        let write = self.random.below(3) == 0;
        let [enter, leave] = self.rows.fault;
        let [acquire, release] = self.rows.shared;
        let (exclusive, wait) = (self.rows.exclusive, self.rows.wait);
        let install = self.rows.installs[usize::from(write)];
        let flags = 0x254 | u64::from(write);
        cpu.time += 2_000 + self.random.below(3_000);
        thread.push(cpu, enter, 1, [page, address, flags], self.size);
        self.pass(cpu);
        if let Some(free) = held_off_until {
            thread.lock(cpu, wait, INVALIDATE);
            cpu.time = free.max(cpu.time) + 200;
        }
        thread.lock(cpu, acquire, INVALIDATE);
        self.pass(cpu);
        thread.lock(cpu, acquire, ILOCK);
        self.pass(cpu);
        thread.lock(cpu, release, ILOCK);
        self.pass(cpu);
        if write {
            thread.lock(cpu, exclusive[0], ILOCK);
            self.pass(cpu);
            thread.lock(cpu, exclusive[1], ILOCK);
            self.pass(cpu);
        }
        thread.push(cpu, install, 1, [pfn, address, 0x100], self.size);
        self.pass(cpu);
        thread.lock(cpu, release, INVALIDATE);
        self.pass(cpu);
        thread.push(cpu, leave, 0, [0x100, 0, 0], self.size);
    }

    /// Punches a hole; returns when the lock was taken and when it was free again.
    fn punch(&mut self, cpu: &mut Cpu, thread: &mut Thread) -> (u64, u64) {
        const LENGTH: u64 = 1 << 16;
        const PUNCH_HOLE: u64 = 0x03;
        let offset = self.random.below(self.size / LENGTH) * LENGTH;
        let [acquire, release] = self.rows.exclusive;
        let last = offset + LENGTH - 1;
        cpu.time += 2_000;
        thread.push(
            cpu,
            self.rows.punch[0],
            1,
            [offset, LENGTH, PUNCH_HOLE],
            self.size,
        );
        for lock in [RWSEM, INVALIDATE] {
            self.pass(cpu);
            thread.lock(cpu, acquire, lock);
        }
        let taken = cpu.time;
        self.pass(cpu);
        thread.push(cpu, self.rows.scan, 1, [offset, last, 0], self.size);
        self.pass(cpu);
        thread.push(cpu, self.rows.drain, 1, [0; 3], self.size);
        self.pass(cpu);
        thread.push(cpu, self.rows.invalidate, 1, [offset, last, 0], self.size);
        cpu.time += 5_000 + self.random.below(10_000);
        thread.lock(cpu, acquire, ILOCK);
        self.pass(cpu);
        thread.push(
            cpu,
            self.rows.unmap,
            1,
            [offset >> 12, LENGTH >> 12, 0],
            self.size,
        );
        cpu.time += 5_000 + self.random.below(10_000);
        thread.lock(cpu, release, ILOCK);
        self.pass(cpu);
        thread.lock(cpu, release, INVALIDATE);
        let free = cpu.time;
        self.pass(cpu);
        thread.lock(cpu, release, RWSEM);
        self.pass(cpu);
        thread.push(cpu, self.rows.punch[1], 0, [0, 0, 0], self.size);
        (taken, free)
    }
}

/// The run, as far as it is made up.
pub struct Synthetic {
    header: Header,
    machine: Machine,
    cpus: [Cpu; CPUS],
    threads: [[Thread; 2]; CPUS],
    puncher: Thread,
    /// Addresses and numbers of the files.
    files: [(u64, u64); FILES.len()],
    rounds: u64,
}

impl Synthetic {
    /// A run that has just begun, on files of `size` bytes, a power of two of at least 64 KiB.
    pub fn new(size: u64) -> Result<Self> {
        let header = header();
        let machine = Machine {
            random: Random(1),
            rows: Rows::find(&header.hooks)?,
            size,
        };
        let start = header.started.0 + 1_000;
        let mut cpus: [Cpu; CPUS] = std::array::from_fn(|index| Cpu {
            time: start + index as u64,
            events: Vec::new(),
        });
        let mut threads: [[Thread; 2]; CPUS] = std::array::from_fn(|cpu| {
            std::array::from_fn(|index| Thread::new(4000 + (cpu * 2 + index) as u32, FILES[index]))
        });
        let mut puncher = Thread::new(PUNCHER, FILES[0]);
        let faulters = threads
            .iter_mut()
            .enumerate()
            .flat_map(|(cpu, two)| two.iter_mut().map(move |thread| (cpu, thread)));
        for (cpu, thread) in faulters.chain([(0, &mut puncher)]) {
            thread.push(&mut cpus[cpu], HOOK_TASK, 0, [0; 3], 0);
        }
        for (index, thread) in threads[0].iter_mut().enumerate() {
            thread.inode = FILES[index];
            thread.push(&mut cpus[0], HOOK_INODE, 0, [0; 3], 0);
        }
        Ok(Self {
            header,
            machine,
            cpus,
            threads,
            puncher,
            files: std::array::from_fn(|index| (FILES[index], index as u64)),
            rounds: 0,
        })
    }

    /// What it is a run of.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its files.
    pub fn inodes(&self) -> Vec<Inode> {
        let since = self.header.started.0;
        let files = self.files.iter();
        files
            .map(|&(address, number)| inode(address, number, since))
            .collect()
    }

    /// Its tasks.
    pub fn tasks(&self) -> Vec<Task> {
        let faulters = self.threads.iter().flatten();
        faulters
            .chain([&self.puncher])
            .map(|thread| task(thread.tid))
            .collect()
    }

    /// Goes on by a hole and the faults around it; gives each CPU's events.
    pub fn round(&mut self, mut take: impl FnMut(u32, &[Event]) -> Result<()>) -> Result<()> {
        for (cpu, threads) in self.cpus.iter_mut().zip(&mut self.threads) {
            for _ in 0..SLICE {
                let thread = &mut threads[self.machine.random.below(2) as usize];
                self.machine.fault(cpu, thread, None);
            }
        }
        let together = self.now();
        let [first, second] = &mut self.cpus;
        first.time = together;
        let file = self.machine.random.below(2) as usize;
        self.puncher.inode = self.files[file].0;
        let (taken, free) = self.machine.punch(first, &mut self.puncher);
        // So that its entry, up to 5 us later, comes after the lock was taken.
        second.time = taken;
        self.machine
            .fault(second, &mut self.threads[1][file], Some(free));
        for (index, cpu) in self.cpus.iter_mut().enumerate() {
            take(index as u32, &cpu.events)?;
            cpu.events.clear();
        }
        Ok(())
    }

    /// One thread ends and another begins; now and then a file goes out of memory and another comes. Tells
    /// who came; the events are the next round's first.
    pub fn turn_over(&mut self, take: &mut impl FnMut(Item<'_>)) {
        /// A file lives for as many turns.
        const LIFE: u64 = 2;
        self.rounds += 1;
        let together = self.now();
        let cpu = &mut self.cpus[0];
        cpu.time = together + 1_000;
        let slot = (self.rounds % 2) as usize;
        let tid = PUNCHER + self.rounds as u32;
        let mut old = std::mem::replace(
            &mut self.threads[0][slot],
            Thread::new(tid, self.files[slot].0),
        );
        if self.rounds.is_multiple_of(LIFE) {
            let (address, number) = &mut self.files[slot];
            old.inode = *address;
            old.push(cpu, self.machine.rows.evict, 0, [0; 3], self.machine.size);
            cpu.time += 1_000;
            *address += 0x1000;
            *number += FILES.len() as u64;
            for threads in &mut self.threads {
                threads[slot].inode = *address;
            }
            take(Item::Inode(inode(*address, *number, cpu.time)));
        }
        old.push(cpu, self.machine.rows.exit, 0, [0; 3], 0);
        cpu.time += 1_000;
        let new = &mut self.threads[0][slot];
        take(Item::Task(task(tid)));
        new.push(cpu, HOOK_TASK, 0, [0; 3], 0);
        if self.rounds.is_multiple_of(LIFE) {
            new.push(cpu, HOOK_INODE, 0, [0; 3], 0);
        }
        let now = cpu.time;
        self.cpus[1].time = now;
    }

    fn now(&self) -> u64 {
        let times = self.cpus.iter().map(|cpu| cpu.time);
        times.max().unwrap_or_default()
    }
}

/// Writes a trace of at least `events` events.
pub fn write(path: &Path, events: u64) -> Result<()> {
    let mut run = Synthetic::new(FILE_SIZE)?;
    let mut writer = Writer::create(path, run.header())?;
    writer.inodes(&run.inodes());
    for task in run.tasks() {
        writer.tasks(&[task]);
    }
    let mut written = 0;
    while written < events {
        run.round(|cpu, events| {
            written += events.len() as u64;
            Ok(writer.events(cpu, events)?)
        })?;
    }
    writer.finish(&Footer {
        ended: Nanos(run.now()),
        command_status: None,
        runs: Vec::new(),
    })?;
    Ok(())
}

fn header() -> Header {
    let place = |class, offset: u64| LockPlace {
        filesystem: FilesystemKind::Xfs,
        class,
        offset: offset as i64,
    };
    Header {
        kernel: "6.12.0".to_owned(),
        build: String::new(),
        host: "synthetic".to_owned(),
        cpus: CPUS as u32,
        recorder: env!("CARGO_PKG_VERSION").to_owned(),
        command: Vec::new(),
        realtime_offset: 0,
        started: Nanos(1_000_000_000_000),
        mounts: vec![Mount {
            path: "/synthetic".to_owned(),
            filesystem: FilesystemKind::Xfs,
            device: DEVICE,
            source: "none".to_owned(),
            options: "dax=always".to_owned(),
        }],
        hooks: planned(),
        locks: vec![
            place(LockClass::IRwsem, RWSEM),
            place(LockClass::InvalidateLock, INVALIDATE),
            place(LockClass::Ilock, ILOCK),
        ],
        left_out: 0,
    }
}

fn inode(address: u64, number: u64, since: u64) -> Inode {
    Inode {
        since: Nanos(since),
        address: InodeAddress(address),
        ino: Ino(131 + number),
        generation: 1,
        device: DEVICE,
        block_bits: 12,
        dax: true,
        path: format!("file{number}"),
    }
}

fn task(tid: u32) -> Task {
    Task {
        tid: Tid(tid),
        pid: Pid(4000),
        name: if tid == PUNCHER { "punch" } else { "fault" }.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tracer::{analyze::analyze, judge::Verdict, trace::Trace};

    use super::*;

    #[test]
    fn is_judged_clean_and_meets_windows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.flt");
        write(&path, 20_000).unwrap();
        let trace = Trace::open(&path).unwrap();
        assert!(trace.event_count() >= 20_000);
        let report = analyze(&trace);
        assert_eq!(report.verdict, Verdict::Clean, "{:?}", report.reasons);
        assert!(report.totals.met > 0 && report.totals.met == report.totals.held_off);
        assert_eq!(report.totals.tasks, 5);
    }
}
