//! Traces to test with.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::Path;

use tracer::{
    hooks::{Effect, Entry, FilesystemKind, LockClass, LockPlace},
    trace::{
        Footer, Header, Inode, Item, Loss, LossCause, Mechanism, Mount, PlannedHook, Stack, Task,
        Trace, Writer,
    },
    units::{Device, HookId, Ino, InodeAddress, Nanos, Pid, StackId, Tid},
};
use tracer_ebpf::{Event, Head};

pub fn header() -> Header {
    let hook = |id, attached| PlannedHook {
        id: HookId(id),
        target: "dax_iomap_fault".to_owned(),
        group: "fault".to_owned(),
        filesystem: None,
        effect: Effect::Enter(Entry::Fault),
        attached,
    };
    Header {
        kernel: "7.3.0".to_owned(),
        build: "#1 SMP".to_owned(),
        host: "box".to_owned(),
        cpus: 2,
        recorder: "0.1.0".to_owned(),
        command: vec!["true".to_owned()],
        realtime_offset: -5,
        started: Nanos(1000),
        mounts: vec![Mount {
            path: "/mnt/pmem".to_owned(),
            filesystem: FilesystemKind::Xfs,
            device: Device(0x10300000),
            source: "/dev/pmem0".to_owned(),
            options: "dax=always".to_owned(),
        }],
        hooks: vec![
            hook(0, Ok(Mechanism::Fentry)),
            hook(1, Err("not in BTF".to_owned())),
        ],
        locks: vec![LockPlace {
            filesystem: FilesystemKind::Xfs,
            class: LockClass::Ilock,
            offset: -120,
        }],
        left_out: 0,
    }
}

pub fn footer() -> Footer {
    Footer {
        ended: Nanos(9_000_000),
        command_status: Some(0),
        runs: vec![(HookId(0), 12)],
    }
}

pub fn inode(address: u64) -> Inode {
    Inode {
        since: Nanos(1500),
        address: InodeAddress(address),
        ino: Ino(131),
        generation: 7,
        device: Device(0x10300000),
        block_bits: 12,
        dax: true,
        path: "a/file".to_owned(),
    }
}

pub fn task(tid: u32) -> Task {
    Task {
        tid: Tid(tid),
        pid: Pid(tid),
        name: "fio".to_owned(),
    }
}

pub fn stack(id: u32) -> Stack {
    Stack {
        id: StackId(id),
        frames: vec!["xfs_filemap_fault+0x12 [xfs]".to_owned()],
    }
}

pub fn loss(from: u64) -> Loss {
    Loss {
        cpu: Some(1),
        from: Nanos(from),
        to: Nanos(from + 50),
        count: 3,
        cause: LossCause::Ring,
    }
}

/// A plain event.
pub fn event(time: u64, task: u32, seq: u32) -> Event {
    let head = Head {
        time,
        task,
        seq,
        hook: (seq % 5) as u16,
        depth: 1,
        flags: 0,
        stack: -1,
    };
    Event {
        head,
        inode: 0xffff_8880_0000_1000,
        a: u64::from(seq) * 3,
        b: 9,
        c: 0,
        size: 4096,
    }
}

/// Three flushes of two CPUs and every kind of table.
pub fn write_small(path: &Path) -> Vec<(u32, Event)> {
    let mut writer = Writer::create(path, &header()).unwrap();
    let mut all = Vec::new();
    for round in 0..3_u64 {
        writer.inodes(&[inode(0xffff_8880_0000_1000 + round)]);
        writer.tasks(&[task(100), task(101)]);
        writer.stacks(&[stack(round as u32)]);
        for cpu in 0..2_u32 {
            let events: Vec<Event> = (0..20)
                .map(|n| {
                    event(
                        2000 + round * 1000 + n * 10 + u64::from(cpu) * 5,
                        100 + cpu,
                        (round * 20 + n) as u32 + 1,
                    )
                })
                .collect();
            all.extend(events.iter().map(|&event| (cpu, event)));
            writer.events(cpu, &events).unwrap();
        }
        writer.whole(Nanos(2900 + round * 1000)).unwrap();
    }
    writer.loss(&loss(2500));
    let summary = writer.finish(&footer()).unwrap();
    assert_eq!(summary.events, 120);
    assert_eq!(summary.bytes, std::fs::metadata(path).unwrap().len());
    all.sort_by_key(|&(cpu, event)| (event.head.time, cpu));
    all
}

pub fn read_all(trace: &Trace) -> (Vec<(u32, Event)>, Vec<Loss>) {
    let (mut events, mut losses) = (Vec::new(), Vec::new());
    for item in trace.events() {
        match item {
            Item::Event { cpu, event } => events.push((cpu, event)),
            Item::Loss(loss) => losses.push(loss),
        }
    }
    (events, losses)
}

/// A file's chunks as (offset, kind, length), by the format's own numbers.
pub fn chunks(file: &[u8]) -> Vec<(usize, tracer::trace::format::Kind, usize)> {
    use tracer::trace::format::{ChunkHeader, FILE_HEADER};
    let mut at = FILE_HEADER;
    let mut chunks = Vec::new();
    while at < file.len() {
        let header = ChunkHeader::read(&file[at..]).unwrap();
        chunks.push((at, header.kind().unwrap(), header.length()));
        at += header.length();
    }
    chunks
}
