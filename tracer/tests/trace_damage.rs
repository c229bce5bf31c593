//! Damaged files: as much as can be read is read, the rest is named, and nothing panics.

mod trace_support;

use std::{fs, path::Path};

use proptest::prelude::*;
use trace_support::*;
use tracer::{
    trace::{LossCause, Trace, TraceError, Writer, format::Kind},
    units::Nanos,
};

fn small() -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.flt");
    write_small(&path);
    let bytes = fs::read(&path).unwrap();
    (dir, path, bytes)
}

fn open(path: &Path, bytes: &[u8]) -> Result<Trace, TraceError> {
    fs::write(path, bytes).unwrap();
    Trace::open(path)
}

/// The file without its index, so that chunks are found by walking.
fn without_index(bytes: &[u8]) -> &[u8] {
    let (offset, kind, _) = *chunks(bytes).last().unwrap();
    assert_eq!(kind, Kind::Index);
    &bytes[..offset]
}

#[test]
fn the_index_is_only_a_convenience() {
    let (_dir, path, bytes) = small();
    let whole = read_all(&open(&path, &bytes).unwrap());
    let end = without_index(&bytes).len();
    for cut in end..bytes.len() {
        let trace = open(&path, &bytes[..cut]).unwrap();
        assert_eq!(trace.incomplete(), None);
        assert_eq!(trace.footer(), Some(&footer()));
        assert_eq!(read_all(&trace), whole);
    }
    for at in end..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x40;
        let trace = open(&path, &bytes).unwrap();
        assert_eq!(trace.incomplete(), None);
        assert_eq!(read_all(&trace), whole);
    }
}

#[test]
fn a_torn_tail_ends_the_trace() {
    let (_dir, path, bytes) = small();
    let (whole, _) = read_all(&open(&path, &bytes).unwrap());
    let chunks = chunks(&bytes);
    let &(start, _, length) = chunks
        .iter()
        .rfind(|chunk| chunk.1 == Kind::Events)
        .unwrap();
    for cut in start..start + length {
        let trace = open(&path, &bytes[..cut]).unwrap();
        let incomplete = trace.incomplete().unwrap();
        assert_eq!(incomplete.bytes_unread, (cut - start) as u64);
        let reason = if cut == start {
            "its recording was not closed"
        } else {
            "it ends within a chunk"
        };
        assert_eq!(incomplete.reason, reason);
        assert_eq!(trace.footer(), None);
        assert_eq!(
            (incomplete.whole_until, trace.event_count()),
            (Nanos(3900), 100)
        );
        assert_eq!(trace.time_range(), Some((Nanos(2000), Nanos(3900))));
        let (events, losses) = read_all(&trace);
        assert_eq!(losses, []);
        assert_eq!(events.len(), 80);
        let mut rest = whole.iter();
        assert!(events.iter().all(|event| rest.any(|other| other == event)));
    }
    for at in start..start + length {
        let mut bytes = bytes[..start + length].to_vec();
        bytes[at] ^= 1;
        let trace = open(&path, &bytes).unwrap();
        let incomplete = trace.incomplete().unwrap();
        assert_eq!(
            (incomplete.bytes_unread, trace.event_count()),
            (length as u64, 100)
        );
        // A length that reaches too far looks like a cut; a header with a sound checksum never does.
        assert_eq!(incomplete.reason, "its end is damaged");
    }
}

#[test]
fn a_trace_that_nobody_noted_down_as_whole_ends_with_the_first_of_its_cpus() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.flt");
    let mut writer = Writer::create(&path, &header()).unwrap();
    let events = |from| [event(from, 100, 1), event(from + 500, 100, 2)];
    writer.events(0, &events(2000)).unwrap();
    writer.flush().unwrap();
    let trace = Trace::open(&path).unwrap();
    assert_eq!(trace.incomplete().unwrap().whole_until, header().started);
    assert_eq!(read_all(&trace).0, []);
    assert_eq!(trace.event_count(), 2);

    writer.events(1, &events(1900)).unwrap();
    writer.flush().unwrap();
    let trace = Trace::open(&path).unwrap();
    assert_eq!(trace.incomplete().unwrap().whole_until, Nanos(2400));
    let times: Vec<u64> = read_all(&trace)
        .0
        .iter()
        .map(|(_, event)| event.head.time)
        .collect();
    assert_eq!(times, [1900, 2000, 2400]);

    writer.finish(&footer()).unwrap();
    assert_eq!(read_all(&Trace::open(&path).unwrap()).0.len(), 4);
}

#[test]
fn zeros_at_the_end_are_a_torn_tail() {
    let (_dir, path, bytes) = small();
    let chunks = chunks(&bytes);
    let events: Vec<usize> = (0..chunks.len())
        .filter(|&at| chunks[at].1 == Kind::Events)
        .collect();
    let keep = chunks[events[3]].0;
    let mut bytes = bytes[..keep].to_vec();
    bytes.resize(keep + 5000, 0);
    let trace = open(&path, &bytes).unwrap();
    assert_eq!(trace.incomplete().unwrap().bytes_unread, 5000);
    assert_eq!(read_all(&trace).0.len(), 40);
}

#[test]
fn a_damaged_payload_in_the_middle_is_a_loss() {
    let (_dir, path, bytes) = small();
    let (whole, _) = read_all(&open(&path, &bytes).unwrap());
    let chunk = chunks(&bytes)
        .into_iter()
        .filter(|chunk| chunk.1 == Kind::Events)
        .nth(2)
        .unwrap();
    for index in [true, false] {
        let mut bytes = if index {
            bytes.clone()
        } else {
            without_index(&bytes).to_vec()
        };
        bytes[chunk.0 + chunk.2 - 1] ^= 0x10;
        let trace = open(&path, &bytes).unwrap();
        assert_eq!(trace.incomplete(), None);
        let lost = trace.verify();
        assert_eq!(lost.len(), 1);
        assert_eq!(
            (lost[0].cpu, lost[0].count, lost[0].cause),
            (Some(0), 20, LossCause::Corrupt)
        );
        assert_eq!((lost[0].from.0, lost[0].to.0), (3000, 3190));
        let (events, losses) = read_all(&trace);
        assert_eq!(losses, [loss(2500), lost[0]]);
        let kept: Vec<_> = whole
            .iter()
            .filter(|(cpu, event)| *cpu != 0 || !(3000..=3190).contains(&event.head.time))
            .copied()
            .collect();
        assert_eq!(events, kept);
        assert_eq!(trace.for_each(|_, _| ()), lost);
    }
}

#[test]
fn a_damaged_chunk_header_in_the_middle_is_a_loss() {
    let (_dir, path, bytes) = small();
    let chunk = chunks(&bytes)
        .into_iter()
        .filter(|chunk| chunk.1 == Kind::Events)
        .nth(2)
        .unwrap();
    for at in chunk.0..chunk.0 + 48 {
        // With the index all is known of the chunk.
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let trace = open(&path, &damaged).unwrap();
        let (events, losses) = read_all(&trace);
        assert_eq!((events.len(), losses.len()), (100, 2));
        assert_eq!((losses[1].cpu, losses[1].count), (Some(0), 20));

        // Without, that something is missing, and when at the utmost.
        damaged.truncate(without_index(&bytes).len());
        let trace = open(&path, &damaged).unwrap();
        let (events, losses) = read_all(&trace);
        assert_eq!((events.len(), losses.len()), (100, 2));
        assert_eq!(trace.incomplete(), None);
        let lost = losses
            .iter()
            .find(|loss| loss.cause == LossCause::Corrupt)
            .unwrap();
        if at < chunk.0 + 40 || at >= chunk.0 + 44 {
            assert_eq!((lost.cpu, lost.count), (None, 1));
            assert!(lost.from.0 <= 3000 && lost.to.0 >= 3190);
            assert_eq!(trace.damage()[0].offset, chunk.0 as u64);
            assert_eq!(trace.damage()[0].length, chunk.2 as u64);
        }
    }
}

#[test]
fn a_damaged_table_is_named() {
    let (_dir, path, bytes) = small();
    for (kind, lost) in [(Kind::Inodes, 1), (Kind::Tasks, 0), (Kind::Stacks, 0)] {
        let chunk = chunks(&bytes)
            .into_iter()
            .find(|chunk| chunk.1 == kind)
            .unwrap();
        let mut bytes = bytes.clone();
        bytes[chunk.0 + 60] ^= 1;
        let trace = open(&path, &bytes).unwrap();
        assert_eq!(trace.damage()[0].what, kind.name());
        let corrupt = trace
            .losses()
            .iter()
            .filter(|loss| loss.cause == LossCause::Corrupt);
        assert_eq!(corrupt.count(), lost);
        assert_eq!(read_all(&trace).0.len(), 120);
    }
}

#[test]
fn a_damaged_footer_makes_it_incomplete() {
    let (_dir, path, bytes) = small();
    let chunk = chunks(&bytes)
        .into_iter()
        .find(|chunk| chunk.1 == Kind::Footer)
        .unwrap();
    let mut bytes = bytes.clone();
    bytes[chunk.0 + 60] ^= 1;
    let trace = open(&path, &bytes).unwrap();
    assert_eq!(trace.incomplete().unwrap().reason, "its end is damaged");
    assert_eq!(read_all(&trace).0.len(), 120);
}

#[test]
fn a_damaged_header_is_an_error() {
    let (_dir, path, bytes) = small();
    for at in [16, 20, 64, 100] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let error = open(&path, &bytes).err().unwrap();
        assert!(matches!(error, TraceError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn a_file_cut_in_its_header_is_empty() {
    let (_dir, path, bytes) = small();
    let (start, kind, length) = chunks(&bytes)[0];
    assert_eq!((start, kind), (16, Kind::Header));
    for cut in 0..start + length {
        let error = open(&path, &bytes[..cut]).err().unwrap();
        assert!(matches!(error, TraceError::Empty { .. }), "{cut}: {error}");
    }
    assert!(open(&path, &bytes[..start + length]).is_ok());
}

#[test]
fn a_newer_version_names_both_and_the_cure() {
    let (_dir, path, mut bytes) = small();
    bytes[8] = 9;
    let error = open(&path, &bytes).err().unwrap();
    assert!(matches!(
        error,
        TraceError::NewerVersion {
            found: 9,
            supported: 1,
            ..
        }
    ));
    let text = error.to_string();
    assert!(
        text.contains("format 9") && text.contains("up to format 1") && text.contains("update"),
        "{text}"
    );
}

#[test]
fn what_is_no_trace_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.flt");
    let looks = |result: Result<Trace, TraceError>| match result.err().unwrap() {
        TraceError::NotATrace { looks, .. } => looks,
        error => panic!("{error}"),
    };
    assert_eq!(looks(Trace::open(dir.path())), "a directory");
    assert_eq!(looks(Trace::open("/dev/null")), "a character device");
    assert_eq!(looks(open(&path, b"hello\nworld\n")), "a text file");
    assert_eq!(
        looks(open(&path, "grüße".repeat(99).as_bytes())),
        "a text file"
    );
    assert_eq!(looks(open(&path, b" {\"schema\": 1}")), "a JSON file");
    assert_eq!(looks(open(&path, b"PERFILE2........")), "a perf.data file");
    assert_eq!(looks(open(&path, b"\x7fELF\x02")), "an ELF file");
    assert_eq!(looks(open(&path, &[0; 999])), "a file of zeros");
    assert_eq!(
        looks(open(&path, &[1, 2, 0xff, 4])),
        "binary data of another kind"
    );
    assert!(matches!(open(&path, b""), Err(TraceError::Empty { .. })));
}

/// Opens and reads all there is.
fn survive(path: &Path, bytes: &[u8]) {
    if let Ok(trace) = open(path, bytes) {
        let (events, _) = read_all(&trace);
        assert!(events.len() as u64 <= trace.event_count());
        trace.verify();
        trace.incomplete();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn flipped_and_cut_files_are_survived(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let (_dir, path, mut bytes) = small();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        survive(&path, &bytes);
    }

    /// With the checksums made good again, so that the damage reaches the decoders.
    #[test]
    fn sealed_damage_is_survived(
        which in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        use tracer::trace::format::ChunkHeader;
        use zerocopy::{FromBytes, IntoBytes};
        let (_dir, path, mut bytes) = small();
        let chunks = chunks(&bytes);
        let (start, _, length) = chunks[which.index(chunks.len())];
        let chunk = &mut bytes[start..start + length];
        for (at, byte) in flips {
            let at = 4 + at.index(length - 4);
            // The length stays, or this is no chunk any more.
            if !(20..24).contains(&at) {
                chunk[at] = byte;
            }
        }
        let mut header = ChunkHeader::read_from_prefix(chunk).unwrap().0;
        header.seal(&chunk[48..]);
        chunk[..48].copy_from_slice(header.as_bytes());
        survive(&path, &bytes);
        let end = bytes.len() - 1;
        survive(&path, &bytes[..end]);
    }

    #[test]
    fn any_bytes_after_a_header_are_survived(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let (_dir, path, mut bytes) = small();
        let (start, _, length) = chunks(&bytes)[0];
        bytes.truncate(start + length);
        bytes.extend(tail);
        survive(&path, &bytes);
    }
}
