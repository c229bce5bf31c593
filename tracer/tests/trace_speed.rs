//! Size and speed on a stream like a real one; by hand:
//! `cargo test --release -p tracer --test trace_speed -- --ignored --nocapture`

mod trace_support;

use std::{hint::black_box, time::Duration};

use nix::time::{ClockId, clock_gettime};

use trace_support::*;
use tracer::trace::{
    Trace, Writer,
    columns::{Decoder, Encoder},
};
use tracer_ebpf::{Event, Head};

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

struct Thread {
    tid: u32,
    seq: u32,
    inode: u64,
    mapping: u64,
}

/// Faults at random pages of two tasks on one CPU: enter, locks, installs, releases, leave.
fn faults(cpu: u64, count: usize) -> Vec<Event> {
    let mut random = Random(cpu + 1);
    let mut time = 1_000_000_000_000 + cpu;
    let mut threads: Vec<Thread> = (0..2)
        .map(|n| Thread {
            tid: 4000 + (cpu * 2 + n) as u32,
            seq: 0,
            inode: 0xffff_8881_0432_1000 + n * 0x4c0,
            mapping: 0x7f12_3400_0000 + n * 0x4000_0000,
        })
        .collect();
    let mut events = Vec::with_capacity(count + 16);
    while events.len() < count {
        // A time slice of one task.
        let thread = &mut threads[random.below(2) as usize];
        for _ in 0..200 {
            time += 2_000 + random.below(3_000);
            let page = random.below(1 << 18);
            let address = thread.mapping + (page << 12);
            // Extents of 4 MiB, anywhere on the medium.
            let pfn =
                0x24_0000 + ((page >> 10).wrapping_mul(0x9e37_79b1) & 0xff) * 1024 + (page & 1023);
            let write = random.below(3) == 0;
            let (invalidate, ilock) = (0x1b8_u64, (-0x98_i64) as u64);
            let at = |offset: u64| (offset, thread.inode.wrapping_add(offset));
            let mut push = |hook: u16, depth: u8, (a, b): (u64, u64), c: u64, size: u64| {
                time += 90
                    + random.below(60)
                    + if random.below(40) == 0 {
                        random.below(5_000)
                    } else {
                        0
                    };
                thread.seq += 1;
                let head = Head {
                    time,
                    task: thread.tid,
                    seq: thread.seq,
                    hook,
                    depth,
                    flags: 0,
                    stack: -1,
                };
                events.push(Event {
                    head,
                    inode: thread.inode,
                    a,
                    b,
                    c,
                    size,
                });
            };
            let size = 1 << 30;
            push(
                10,
                1,
                (page, address),
                if write { 0x255 } else { 0x254 },
                size,
            );
            push(20, 1, at(invalidate), 0, 0);
            push(20, 1, at(ilock), 0, 0);
            push(21, 1, at(ilock), 0, 0);
            if write {
                push(22, 1, at(ilock), 0, 0);
                push(23, 1, at(ilock), 0, 0);
            }
            push(if write { 31 } else { 30 }, 1, (pfn, address), 0x100, size);
            push(21, 1, at(invalidate), 0, 0);
            push(11, 0, (0x100, 0), 0, size);
        }
    }
    events.truncate(count);
    events
}

/// The thread's own, so that a busy machine does not matter.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

fn rate(events: usize, from: Duration) -> f64 {
    events as f64 / (cpu_time() - from).as_secs_f64() / 1e6
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    const EVENTS: usize = 4_000_000;
    const CHUNK: usize = 32768;
    let streams = [faults(0, EVENTS / 2), faults(1, EVENTS / 2)];

    let (mut encoder, mut raw) = (Encoder::default(), Vec::new());
    let mut batches = Vec::new();
    let start = cpu_time();
    for chunk in streams[0].chunks(CHUNK) {
        raw.clear();
        encoder.encode(chunk, &mut raw);
        batches.push((raw.clone(), chunk.len()));
    }
    println!(
        "columns, encode: {:6.1} M events/s",
        rate(EVENTS / 2, start)
    );
    let bytes: usize = batches.iter().map(|batch| batch.0.len()).sum();
    println!(
        "columns, size:   {:6.2} bytes/event",
        bytes as f64 / (EVENTS / 2) as f64
    );

    let (mut decoder, mut some) = (Decoder::default(), Vec::new());
    let start = cpu_time();
    for (raw, count) in &batches {
        decoder.start(raw, *count).unwrap();
        while decoder.left() > 0 {
            decoder.next(raw, 256, &mut some).unwrap();
            black_box(&some);
        }
    }
    println!(
        "columns, decode: {:6.1} M events/s",
        rate(EVENTS / 2, start)
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.flt");
    let mut writer = Writer::create(&path, &header()).unwrap();
    let start = cpu_time();
    for (left, right) in streams[0].chunks(1000).zip(streams[1].chunks(1000)) {
        writer.events(0, left).unwrap();
        writer.events(1, right).unwrap();
    }
    let summary = writer.finish(&footer()).unwrap();
    println!("file, write:     {:6.1} M events/s", rate(EVENTS, start));
    println!(
        "file, size:      {:6.2} bytes/event",
        summary.bytes as f64 / EVENTS as f64
    );

    let trace = Trace::open(&path).unwrap();
    for _ in 0..3 {
        let (start, mut sum) = (cpu_time(), 0_u64);
        let losses = trace.for_each(|_, event| sum = sum.wrapping_add(event.a));
        black_box(sum);
        assert!(losses.is_empty());
        println!("file, read:      {:6.1} M events/s", rate(EVENTS, start));
    }
    assert!(summary.bytes <= 8 * EVENTS as u64);
}
