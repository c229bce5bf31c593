//! One trace, the same figures on every face; and each face as people and programs read it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use dashboards::{
    export::{PerfettoTrace, track_event::Type},
    tui::{FileFeed, Palette, State, View, draw},
};
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, Row},
};
use prost::Message as _;
use ratatui::{Terminal, backend::TestBackend};
use serde_json::Value;
use tracer::{
    analyze::analyze,
    story::{Story, Timeline},
    trace::Trace,
};

const BINARY: &str = env!("CARGO_BIN_EXE_faultline");
const BROKEN: &str = "tests/traces/xfs-punch-unlocked.flt";
const STOCK: &str = "tests/traces/xfs-stock.flt";

fn faultline(arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .env("PAGER", "cat")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = faultline(arguments);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn rows(directory: &Path, table: &str) -> Vec<Row> {
    let file = File::open(directory.join(format!("{table}.parquet"))).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    reader
        .get_row_iter(None)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

fn field<'a>(row: &'a Row, name: &str) -> &'a Field {
    let (_, field) = row
        .get_column_iter()
        .find(|(column, _)| *column == name)
        .unwrap();
    field
}

fn number(row: &Row, name: &str) -> Option<u64> {
    match field(row, name) {
        Field::ULong(value) => Some(*value),
        Field::Null => None,
        other => panic!("{name} is {other:?}"),
    }
}

fn word(row: &Row, name: &str) -> String {
    match field(row, name) {
        Field::Str(value) => value.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

fn exported(trace: &str, format: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let output = faultline(&[
        "export",
        trace,
        "--format",
        format,
        "-o",
        path.to_str().unwrap(),
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (directory, path)
}

fn screen(view: View, trace: &str) -> String {
    let trace = Trace::open(trace).unwrap();
    let (mut feed, mut model) = FileFeed::new(&trace);
    feed.finish(&mut model);
    let mut terminal = Terminal::new(TestBackend::new(250, 60)).unwrap();
    let mut state = State {
        view,
        ..State::default()
    };
    terminal
        .draw(|frame| draw(frame, &model, &mut state, None, Palette::new(false)))
        .unwrap();
    terminal.backend().to_string()
}

/// Digits of the report are set apart by thin spaces.
fn html(trace: &str) -> String {
    let output = faultline(&["report", trace, "-o", "-"]);
    text(&output).replace('\u{202f}', "")
}

#[test]
fn a_story_is_judged_as_its_trace_is() {
    for path in [BROKEN, STOCK] {
        let trace = Trace::open(path).unwrap();
        let told = Story::of(&trace, Timeline::recent(), |_, _| {});
        assert_eq!(told.report, analyze(&trace));
    }
}

#[test]
fn screen_report_json_and_parquet_have_the_same_figures() {
    for trace in [BROKEN, STOCK] {
        let stats = json(&["stats", trace, "--format", "json"]);
        let report = json(&["analyze", trace, "--format", "json"]);
        let (_directory, tables) = exported(trace, "parquet");
        let page = html(trace);
        let locks_screen = screen(View::Locks, trace);
        let overview = screen(View::Overview, trace);

        assert_eq!(stats["events"], report["events"]);
        assert!(page.contains(&format!("<b>{}</b><span>events", stats["events"])));
        assert!(overview.contains(&format!("{} events", stats["events"])));

        let locks = rows(&tables, "locks");
        for class in stats["locks"].as_array().unwrap() {
            let name = class["class"].as_str().unwrap();
            let of = |mode: &str| {
                locks
                    .iter()
                    .filter(|row| word(row, "class") == name && word(row, "mode") == mode)
                    .count() as u64
            };
            assert_eq!(class["shared"], of("SHARED"), "{name}");
            assert_eq!(class["exclusive"], of("EXCL"), "{name}");
            let held: Vec<u64> = locks
                .iter()
                .filter(|row| word(row, "class") == name)
                .filter_map(|row| {
                    Some(number(row, "released_ns")? - number(row, "acquired_ns").unwrap())
                })
                .collect();
            assert_eq!(class["hold"]["count"], held.len() as u64, "{name}");
            assert_eq!(
                class["hold"]["total_ns"],
                held.iter().sum::<u64>(),
                "{name}"
            );
            assert_eq!(
                class["hold"]["max_ns"],
                held.iter().copied().max().unwrap_or(0),
                "{name}"
            );
            let waited: Vec<u64> = locks
                .iter()
                .filter(|row| word(row, "class") == name)
                .filter_map(|row| {
                    Some(number(row, "acquired_ns").unwrap() - number(row, "wait_start_ns")?)
                })
                .collect();
            assert_eq!(class["wait"]["count"], waited.len() as u64, "{name}");
            assert_eq!(
                class["wait"]["total_ns"],
                waited.iter().sum::<u64>(),
                "{name}"
            );

            let longest = class["hold"]["max_ns"].as_u64().unwrap();
            let longest = tracer::judge::text::duration(longest);
            let line = locks_screen
                .lines()
                .find(|line| line.contains(&format!("xfs {name} ")))
                .unwrap();
            for cell in [
                class["waits"].to_string(),
                class["shared"].to_string(),
                longest.clone(),
            ] {
                assert!(line.contains(&format!(" {cell}")), "{cell} in {line}");
            }
            let cells = format!(
                "xfs {name}<td>{}<td>{}<td>{}",
                class["shared"], class["exclusive"], class["waits"]
            );
            assert!(page.contains(&cells), "{cells}");
            assert!(page.contains(&longest));
        }

        let faults = rows(&tables, "faults");
        assert_eq!(report["totals"]["faults"], faults.len() as u64);
        for (key, name) in [
            ("clear", "clear"),
            ("beside", "beside"),
            ("held_off", "held-off"),
            ("inside", "inside"),
        ] {
            let count = faults
                .iter()
                .filter(|row| word(row, "outcome") == name)
                .count() as u64;
            assert_eq!(stats["outcomes"][key], count, "{name} in {trace}");
            assert!(overview.contains(&format!("{count} ")));
        }
        let inside = &stats["outcomes"]["inside"];
        assert!(page.contains(&format!("<b>{inside}</b><span>faults inside a window")));

        let windows = rows(&tables, "windows");
        assert_eq!(report["totals"]["windows"], windows.len() as u64);
        let longest = windows
            .iter()
            .map(|row| number(row, "end_ns").unwrap() - number(row, "start_ns").unwrap())
            .max();
        let stated = stats["windows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["max_ns"].as_u64().unwrap())
            .max();
        assert_eq!(longest, stated);

        let findings = rows(&tables, "findings");
        let known = report["findings"].as_array().unwrap();
        assert_eq!(findings.len(), known.len());
        for (row, finding) in findings.iter().zip(known) {
            assert_eq!(word(row, "kind"), finding["kind"].as_str().unwrap());
            assert_eq!(number(row, "count"), finding["count"].as_u64());
            assert!(page.contains(&format!("{} times; this one", finding["count"])));
        }
        // Records that introduce a file or a task are events of the trace, not of the judge.
        let events = rows(&tables, "events");
        let judged = events
            .iter()
            .filter(|row| !word(row, "hook").starts_with('('))
            .count() as u64;
        assert_eq!(stats["events"], judged);
    }
}

#[test]
fn csv_has_what_parquet_has() {
    let (_one, parquet) = exported(BROKEN, "parquet");
    let (_other, csv) = exported(BROKEN, "csv");
    for schema in dashboards::export::tables::SCHEMAS {
        let text = fs::read_to_string(csv.join(format!("{}.csv", schema.name))).unwrap();
        let mut lines = text.lines();
        let head: Vec<&str> = lines.next().unwrap().split(',').collect();
        let names: Vec<&str> = schema.columns.iter().map(|column| column.name).collect();
        assert_eq!(head, names);
        assert_eq!(lines.count(), rows(&parquet, schema.name).len());
    }
}

#[test]
fn perfetto_slices_are_nested_and_every_flow_has_two_ends() {
    let (_directory, path) = exported(BROKEN, "perfetto");
    let trace = PerfettoTrace::decode(&fs::read(path).unwrap()[..]).unwrap();
    let mut tracks = std::collections::BTreeSet::new();
    let mut open: std::collections::BTreeMap<u64, Vec<String>> = Default::default();
    let (mut begun, mut ended) = (Vec::<u64>::new(), Vec::<u64>::new());
    let mut names = std::collections::BTreeSet::new();
    let mut events: Vec<_> = Vec::new();
    for packet in &trace.packet {
        assert!(packet.trusted_packet_sequence_id.is_some());
        if let Some(track) = &packet.track_descriptor {
            if let Some(parent) = track.parent_uuid {
                assert!(tracks.contains(&parent), "a track before its parent");
            }
            assert!(tracks.insert(track.uuid.unwrap()));
        }
        if let Some(event) = &packet.track_event {
            assert!(tracks.contains(&event.track_uuid.unwrap()));
            events.push((packet.timestamp.unwrap(), event));
        }
    }
    // As readers do: by time, those of the same time as they come.
    events.sort_by_key(|(time, _)| *time);
    for (_, event) in events {
        let stack = open.entry(event.track_uuid.unwrap()).or_default();
        begun.extend(&event.flow_ids);
        ended.extend(&event.terminating_flow_ids);
        match event.r#type() {
            Type::SliceBegin => {
                let name = event.name.clone().unwrap();
                names.insert(name.clone());
                stack.push(name);
            }
            Type::SliceEnd => assert!(stack.pop().is_some(), "an end without a beginning"),
            Type::Instant => {
                names.insert(event.name.clone().unwrap());
            }
            Type::Unspecified => panic!("no type"),
        }
    }
    for (track, stack) in open {
        assert!(stack.is_empty(), "{stack:?} never end on {track}");
    }
    begun.sort_unstable();
    ended.sort_unstable();
    assert_eq!(begun, ended);
    assert!(!begun.is_empty());
    for name in [
        "fallocate/PUNCH_HOLE",
        "dax-read-fault",
        "wait for invalidate_lock",
        "invalidate_lock SHARED",
        "fault inside",
    ] {
        assert!(names.contains(name), "no {name} in {names:?}");
    }
    assert!(
        names
            .iter()
            .any(|name| name.starts_with("op-unprotected ("))
    );
}

#[test]
fn chrome_json_is_balanced() {
    let (_directory, path) = exported(BROKEN, "chrome-json");
    let trace: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let count = |kind: &str| events.iter().filter(|event| event["ph"] == kind).count();
    assert_eq!(count("B"), count("E"));
    assert_eq!(count("s"), count("f"));
    assert!(count("B") > 1000 && count("M") > 5);
}

#[test]
fn folded_stacks_weigh_what_was_waited() {
    let (_directory, path) = exported(BROKEN, "folded");
    let text = fs::read_to_string(path).unwrap();
    let sum: u64 = text
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    let stats = json(&["stats", BROKEN, "--format", "json"]);
    let waited: u64 = stats["locks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|class| class["wait"]["total_ns"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, waited);
    assert!(text.contains("asm_exc_page_fault;") && text.contains("_[xfs];"));
}

#[test]
fn figures_as_tables() {
    insta::assert_snapshot!(text(&faultline(&["stats", BROKEN])));
}

#[test]
fn a_difference_as_text() {
    let output = faultline(&["diff", STOCK, BROKEN]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(text(&output));
    let same = faultline(&["diff", STOCK, STOCK]);
    assert_eq!(same.status.code(), Some(0));
    assert!(!text(&same).contains("longer\n"), "{}", text(&same));
    let mended = faultline(&["diff", BROKEN, STOCK]);
    assert_eq!(mended.status.code(), Some(0));
    assert!(text(&mended).contains("findings lost: 1"));
}

#[test]
fn the_report_as_a_page() {
    let page = text(&faultline(&["report", BROKEN, "-o", "-"]));
    // Nothing from elsewhere, and nothing left open.
    for forbidden in ["http:", "https:", "src=", "@import", "url(//"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    for tag in [
        "article", "figure", "svg", "table", "details", "div", "ul", "pre", "script",
    ] {
        let opened =
            page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    // A line each, so that a difference can be read.
    insta::assert_snapshot!(page.replace("><", ">\n<"));
}

#[test]
fn man_pages_and_completions() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    assert!(faultline(&["man", place]).status.success());
    let page = fs::read_to_string(directory.path().join("faultline-report.1")).unwrap();
    assert!(page.contains("faultline\\-report"), "{page}");
    assert!(directory.path().join("faultline.1").exists());
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&faultline(&["completions", shell]));
        assert!(script.contains("replay"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "({BINARY} export {BROKEN} --format chrome-json -o -; echo $? >&2) | head -1"
        ))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(status.stderr).unwrap(), "0\n");
}
