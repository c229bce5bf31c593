//! Whole traces: what goes in comes out, in order.

mod trace_support;

use std::{fs, path::Path};

use proptest::prelude::*;
use trace_support::*;
use tracer::{
    trace::{Item, Trace, TraceError, Writer, format::Kind},
    units::Nanos,
};
use tracer_ebpf::{Event, Head};

#[test]
fn everything_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.flt");
    let written = write_small(&path);
    let trace = Trace::open(&path).unwrap();
    assert_eq!(trace.header(), &header());
    assert_eq!(trace.footer(), Some(&footer()));
    assert_eq!(trace.incomplete(), None);
    assert_eq!(trace.losses(), [loss(2500)]);
    assert_eq!(trace.inodes().len(), 3);
    assert_eq!(trace.inodes()[1], inode(0xffff_8880_0000_1001));
    assert_eq!(trace.tasks().len(), 6);
    assert_eq!(
        trace
            .stacks()
            .iter()
            .map(|stack| stack.id.0)
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(trace.event_count(), 120);
    assert_eq!(trace.cpus().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(trace.time_range(), Some((Nanos(2000), Nanos(4195))));
    assert_eq!(trace.verify(), []);
    assert_eq!(trace.damage(), []);
    assert_eq!(read_all(&trace), (written.clone(), vec![loss(2500)]));

    let mut visited = Vec::new();
    assert_eq!(trace.for_each(|cpu, event| visited.push((cpu, *event))), []);
    assert_eq!(visited, written);
}

#[test]
fn a_loss_stands_where_it_happened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.flt");
    write_small(&path);
    let trace = Trace::open(&path).unwrap();
    let times: Vec<u64> = trace
        .events()
        .map(|item| match item {
            Item::Event { event, .. } => event.head.time,
            Item::Loss(loss) => loss.from.0,
        })
        .collect();
    assert!(times.is_sorted());
}

#[test]
fn tables_come_before_the_events_that_use_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.flt");
    write_small(&path);
    let kinds: Vec<Kind> = chunks(&fs::read(&path).unwrap())
        .iter()
        .map(|chunk| chunk.1)
        .collect();
    let round = [
        Kind::Inodes,
        Kind::Tasks,
        Kind::Stacks,
        Kind::Events,
        Kind::Events,
        Kind::Whole,
    ];
    let end = [Kind::Losses, Kind::Footer, Kind::Index];
    let mut expected = vec![Kind::Header];
    expected.extend(round.iter().chain(&round).chain(&round).chain(&end));
    assert_eq!(kinds, expected);
}

#[test]
fn a_cpu_keeps_the_order_of_its_ring() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.flt");
    let mut writer = Writer::create(&path, &header()).unwrap();
    let first = [event(50, 1, 1), event(40, 1, 2), event(60, 1, 3)];
    let second = [event(45, 2, 1), event(50, 2, 2)];
    writer.events(0, &first).unwrap();
    writer.events(7, &second).unwrap();
    writer.finish(&footer()).unwrap();
    let (events, _) = read_all(&Trace::open(&path).unwrap());
    let expected = [
        (7, second[0]),
        (0, first[0]),
        (0, first[1]),
        (7, second[1]),
        (0, first[2]),
    ];
    assert_eq!(events, expected);
}

#[test]
fn full_buffers_go_out_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.flt");
    let mut writer = Writer::create(&path, &header()).unwrap();
    let before = writer.bytes();
    let events: Vec<Event> = (0..70_000).map(|n| event(n * 7, 1, n as u32)).collect();
    writer.events(3, &events).unwrap();
    assert!(writer.bytes() > before);
    // As SIGKILL would leave it.
    let trace = Trace::open(&path).unwrap();
    assert_eq!(trace.event_count(), 65_536);
    assert_eq!(
        trace.incomplete().unwrap().reason,
        "its recording was not closed"
    );
    assert_eq!(trace.incomplete().unwrap().bytes_unread, 0);
    writer.finish(&footer()).unwrap();
    let (read, _) = read_all(&Trace::open(&path).unwrap());
    assert!(read.iter().map(|&(_, event)| event).eq(events));
}

#[test]
fn a_reader_keeps_the_file_that_a_writer_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.flt");
    let written = write_small(&path);
    let old = Trace::open(&path).unwrap();
    Writer::create(&path, &header()).unwrap();
    assert_eq!(read_all(&old).0, written);
    assert_eq!(Trace::open(&path).unwrap().event_count(), 0);
}

#[test]
fn a_trace_without_events_is_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.flt");
    Writer::create(&path, &header())
        .unwrap()
        .finish(&footer())
        .unwrap();
    let trace = Trace::open(&path).unwrap();
    assert_eq!(
        (trace.event_count(), trace.time_range(), trace.incomplete()),
        (0, None, None)
    );
    assert_eq!(trace.events().count(), 0);
}

#[test]
fn a_full_disk_is_named() {
    let error = Writer::create(Path::new("/dev/full"), &header())
        .err()
        .unwrap();
    assert!(
        matches!(error, TraceError::DiskFull { written: 0, .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("/dev/full") && text.contains("free some space"),
        "{text}"
    );
}

#[test]
fn a_missing_directory_is_named() {
    let error = Writer::create(Path::new("/nonexistent/t.flt"), &header())
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .starts_with("cannot create /nonexistent/t.flt"),
        "{error}"
    );
    let error = Trace::open("/nonexistent/t.flt").err().unwrap();
    assert!(
        error
            .to_string()
            .starts_with("there is no trace /nonexistent/t.flt: record one"),
        "{error}"
    );
}

fn any_event() -> impl Strategy<Value = Event> {
    let head = (
        0..5000_u64,
        0..3_u32,
        any::<u32>(),
        0..9_u16,
        any::<u8>(),
        any::<u8>(),
        any::<i32>(),
    );
    let payload = (
        0..3_u64,
        any::<u64>(),
        any::<u64>(),
        any::<u64>(),
        any::<u64>(),
    );
    (head, payload).prop_map(
        |((time, task, seq, hook, depth, flags, stack), (inode, a, b, c, size))| Event {
            head: Head {
                time,
                task,
                seq,
                hook,
                depth,
                flags,
                stack,
            },
            inode,
            a,
            b,
            c,
            size,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_merge_is_a_merge(
        batches in prop::collection::vec((0..4_u32, prop::collection::vec(any_event(), 0..300), any::<bool>()), 0..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.flt");
        let mut writer = Writer::create(&path, &header()).unwrap();
        for (cpu, events, flush) in &batches {
            writer.events(*cpu, events).unwrap();
            if *flush {
                writer.flush().unwrap();
            }
        }
        writer.finish(&footer()).unwrap();
        let (read, losses) = read_all(&Trace::open(&path).unwrap());
        prop_assert!(losses.is_empty());
        for cpu in 0..4 {
            let written: Vec<Event> = batches.iter().filter(|batch| batch.0 == cpu).flat_map(|batch| batch.1.clone()).collect();
            let read: Vec<Event> = read.iter().filter(|read| read.0 == cpu).map(|read| read.1).collect();
            prop_assert_eq!(written, read);
        }
    }
}
