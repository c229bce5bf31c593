//! The faces in the programs that they are for: a browser, DuckDB and Polars, Prometheus; and in the forms that
//! Perfetto and Grafana publish of what they read. `scripts/setup test`
//! installs these; without one its test fails.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_faultline");
const BROKEN: &str = "tests/traces/xfs-punch-unlocked.flt";

/// Ends a child with the test, whatever way that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; `scripts/setup test` installs what tests need")
    });
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Loads a page as a new user's browser would; gives the document as it is then.
fn browse(page: &Path, arguments: &[&str]) -> String {
    let profile = tempfile::tempdir().unwrap();
    run(Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(format!("file://{}", page.display())))
}

/// What the probe wrote into the document.
fn probed(document: &str) -> Value {
    let (_, rest) = document.split_once("<pre id=\"probe\">").unwrap();
    let (json, _) = rest.split_once("</pre>").unwrap();
    serde_json::from_str(&json.replace("&quot;", "\"")).unwrap()
}

const PROBE: &str = r#"<script>
const classes = [...document.querySelectorAll('.lock')].filter(row => row.getBoundingClientRect().height > 0).length;
const input = document.querySelector('.filter input[data-of=".lock"]');
input.value = 'ilock';
input.dispatchEvent(new Event('input'));
const shown = [...document.querySelectorAll('.lock')].filter(row => !row.hidden);
const picture = document.querySelector('svg.picture').getBoundingClientRect();
const probe = document.createElement('pre');
probe.id = 'probe';
probe.textContent = JSON.stringify({
  width: innerWidth,
  overflow: document.documentElement.scrollWidth - innerWidth,
  background: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
  picture: Math.round(picture.width),
  marks: document.querySelectorAll('svg.picture .inside').length,
  sides: getComputedStyle(document.querySelector('.sides')).gridTemplateColumns.split(' ').length,
  resources: performance.getEntriesByType('resource').length,
  classes,
  filtered: shown.map(row => row.cells[0].textContent),
});
document.body.append(probe);
</script></body>"#;

const SCRIPTLESS: &str = r#"<iframe sandbox=allow-same-origin src=report.html width=1200 height=900 style=border:0></iframe>
<script>
onload = () => {
  const page = frames[0].document;
  const box = one => one.getBoundingClientRect();
  const probe = document.createElement('pre');
  probe.id = 'probe';
  probe.textContent = JSON.stringify({
    picture: Math.round(box(page.querySelector('svg.picture')).width),
    drawn: [...page.querySelectorAll('svg.picture .inside')].filter(mark => box(mark).width + box(mark).height > 0).length,
    filter: box(page.querySelector('.filter')).height,
    classes: [...page.querySelectorAll('.lock')].filter(row => box(row).height > 0).length,
  });
  document.body.append(probe);
}
</script>"#;

#[test]
fn the_report_in_a_browser() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("report.html");
    let status = Command::new(BINARY)
        .args(["report", BROKEN, "-o"])
        .arg(&page)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let text = fs::read_to_string(&page).unwrap();
    let with_probe = directory.path().join("probed.html");
    fs::write(&with_probe, text.replace("</body>", PROBE)).unwrap();

    let light = probed(&browse(
        &with_probe,
        &[
            "--window-size=1200,900",
            "--blink-settings=preferredColorScheme=1",
        ],
    ));
    let dark = probed(&browse(
        &with_probe,
        &[
            "--window-size=1200,900",
            "--blink-settings=preferredColorScheme=0",
        ],
    ));
    // A headless window is 500 wide at least, so the page is put into a frame of a phone's width.
    let frame = directory.path().join("phone.html");
    fs::write(
        &frame,
        "<iframe src=probed.html width=390 height=800 style=border:0></iframe><script>onload = () => {\
         document.body.append(frames[0].document.getElementById('probe')) }</script>",
    )
    .unwrap();
    let phone = probed(&browse(
        &frame,
        &[
            "--allow-file-access-from-files",
            "--virtual-time-budget=3000",
        ],
    ));

    for seen in [&light, &dark, &phone] {
        assert_eq!(seen["resources"], 0, "{seen}");
        assert_eq!(seen["overflow"], 0, "{seen}");
        assert!(seen["marks"].as_u64().unwrap() > 0, "{seen}");
        let filtered = seen["filtered"].as_array().unwrap();
        assert!(
            !filtered.is_empty() && filtered.iter().all(|class| class == "ilock"),
            "{seen}"
        );
    }
    assert_eq!(light["width"], 1200);
    assert_eq!(phone["width"], 390);
    assert_ne!(light["background"], dark["background"]);
    assert_ne!(light["ink"], dark["ink"]);
    assert_eq!((&light["sides"], &phone["sides"]), (&2.into(), &1.into()));
    assert!(light["picture"].as_u64().unwrap() > 1000, "{light}");

    // Its script forbidden, the page shows the same, but for the filter.
    let frame = directory.path().join("scriptless.html");
    fs::write(&frame, SCRIPTLESS).unwrap();
    let bare = probed(&browse(
        &frame,
        &[
            "--allow-file-access-from-files",
            "--virtual-time-budget=3000",
        ],
    ));
    assert_eq!(bare["picture"], light["picture"], "{bare}");
    assert_eq!(bare["drawn"], light["marks"], "{bare}");
    assert_eq!(
        (&bare["filter"], &bare["classes"]),
        (&0.into(), &light["classes"]),
        "{bare}"
    );
}

fn cache() -> PathBuf {
    let set = std::env::var_os("FAULTLINE_CACHE").map(PathBuf::from);
    let xdg = || Some(PathBuf::from(std::env::var_os("XDG_CACHE_HOME")?).join("faultline"));
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/faultline"));
    set.or_else(xdg).or_else(home).unwrap()
}

/// Code of one language in a document.
fn code<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    document
        .split(&format!("```{language}\n"))
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

#[test]
fn the_queries_of_the_documentation() {
    let directory = tempfile::tempdir().unwrap();
    let status = Command::new(BINARY)
        .args(["export", BROKEN, "--format", "parquet", "-o"])
        .arg(directory.path())
        .status()
        .unwrap();
    assert!(status.success());
    let document = fs::read_to_string("../docs/export.md").unwrap();
    let python = cache().join("python/bin/python");
    let queries = code(&document, "sql");
    assert_eq!(queries.len(), 3);
    let mut answers = Vec::new();
    for query in queries {
        let script = "import duckdb, json, sys; \
                      print(json.dumps([[str(c) for c in row] for row in duckdb.sql(sys.argv[1]).fetchall()]))";
        let answer = run(Command::new(&python)
            .args(["-c", script, query.trim().trim_end_matches(';')])
            .current_dir(directory.path()));
        let rows: Vec<Vec<String>> = serde_json::from_str(&answer).unwrap();
        assert!(!rows.is_empty(), "nothing from {query}");
        answers.push(rows);
    }
    let faults: u64 = answers[1]
        .iter()
        .map(|row| row[2].parse::<u64>().unwrap())
        .sum();
    let report = run(Command::new(BINARY).args(["stats", BROKEN, "--format", "json"]));
    let stats: Value = serde_json::from_str(&report).unwrap();
    let outcomes = stats["outcomes"].as_object().unwrap();
    let counted: u64 = outcomes.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(faults, counted);
    for script in code(&document, "python") {
        let table = run(Command::new(&python)
            .args(["-c", script])
            .current_dir(directory.path()));
        assert!(table.contains("invalidate_lock"), "{table}");
    }
}

/// Counts what is in a trace by the message definitions that Perfetto publishes, and what these do not have.
const PERFETTO: &str = r#"
import json, sys
from collections import Counter
from google.protobuf.unknown_fields import UnknownFieldSet
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as published
trace = published.Trace()
trace.ParseFromString(open(sys.argv[1], 'rb').read())
seen = Counter()
def walk(message):
    seen['unknown'] += len(UnknownFieldSet(message))
    for field, value in message.ListFields():
        if field.message_type:
            for part in value if field.is_repeated else [value]:
                walk(part)
walk(trace)
kind = published.TrackEvent
for packet in trace.packet:
    if packet.HasField('track_descriptor'):
        track = packet.track_descriptor
        seen['thread' if track.HasField('thread') else 'process' if track.HasField('process') else track.name] += 1
    if packet.HasField('track_event'):
        event = packet.track_event
        seen[kind.Type.Name(event.type)] += 1
        seen['flows'] += len(event.flow_ids)
        for category in event.categories:
            seen['of ' + category] += 1
print(json.dumps(seen))
"#;

#[test]
fn the_trace_in_perfettos_own_messages() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace.pftrace");
    let status = Command::new(BINARY)
        .args(["export", BROKEN, "--format", "perfetto", "-o"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    let python = cache().join("python/bin/python");
    let seen = run(Command::new(python).args(["-c", PERFETTO]).arg(&path));
    let seen: Value = serde_json::from_str(&seen).unwrap();
    let count = |name: &str| seen[name].as_u64().unwrap_or(0);
    assert_eq!(count("unknown"), 0, "{seen}");
    assert_eq!(count("TYPE_SLICE_BEGIN"), count("TYPE_SLICE_END"), "{seen}");

    let stats = run(Command::new(BINARY).args(["stats", BROKEN, "--format", "json"]));
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let sum = |table: &str, column: &str| -> u64 {
        let rows = stats[table].as_array().unwrap();
        rows.iter().map(|row| row[column].as_u64().unwrap()).sum()
    };
    assert_eq!(
        count("of lock"),
        sum("locks", "shared") + sum("locks", "exclusive")
    );
    assert_eq!(count("of fault"), sum("faults", "count"));
    assert_eq!(count("of window"), sum("windows", "count"));
    assert_eq!(count("of finding"), 1, "{seen}");
    for track in [
        "thread",
        "process",
        "locks held",
        "windows by file",
        "windows",
    ] {
        assert!(count(track) > 0, "no track {track}: {seen}");
    }
    assert!(count("flows") > 0, "{seen}");
}

/// Reads a board by the schema that Grafana publishes, writes it again, and says what did not come through.
const GRAFANA: &str = r#"
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
register_default_plugins()
board = json.load(open(sys.argv[1]))
again = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
def walk(mine, theirs, path):
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key, value in mine.items():
            walk(value, theirs.get(key), path + '.' + key)
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for index, (one, other) in enumerate(zip(mine, theirs)):
            walk(one, other, f'{path}[{index}]')
    elif mine != theirs:
        print(path, mine, theirs)
walk(board, again, 'board')
"#;

#[test]
fn the_board_in_grafanas_schema() {
    let python = cache().join("python/bin/python");
    let differences = run(Command::new(python).args(["-c", GRAFANA, "grafana/faultline.json"]));
    assert_eq!(differences, "");
}

/// A server's answer to a request for a path.
fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// The answer of Prometheus to a query.
fn query(address: &str, expression: &str) -> Option<Value> {
    let answer = get(
        address,
        &format!("/api/v1/query?query={}", encoded(expression)),
    )
    .ok()?;
    let body = answer.split_once("\r\n\r\n")?.1;
    // It may come in chunks, each after a line with its length.
    let json = body.get(body.find('{')?..=body.rfind('}')?)?;
    serde_json::from_str(json).ok()
}

#[test]
fn metrics_in_prometheus_and_the_board_over_them() {
    let mut watch = Running(
        Command::new(BINARY)
            .args(["watch", "--listen", "127.0.0.1:0", "--trace", BROKEN])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    BufReader::new(watch.0.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let (_, url) = line.trim().split_once("http://").unwrap();
    let target = url.trim_end_matches("/metrics");
    let metrics = get(target, "/metrics").unwrap();
    assert!(metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"));
    assert!(
        get(target, "/elsewhere")
            .unwrap()
            .starts_with("HTTP/1.1 404")
    );

    let directory = tempfile::tempdir().unwrap();
    let configuration = directory.path().join("prometheus.yml");
    fs::write(
        &configuration,
        format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: faultline, static_configs: [{{targets: ['{target}']}}]}}]\n"
        ),
    )
    .unwrap();
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let log = fs::File::create(directory.path().join("log")).unwrap();
    let _prometheus = Running(
        Command::new("prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}/data",
                directory.path().display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("`scripts/setup test` installs prometheus"),
    );
    let events = loop_until(Duration::from_secs(60), || {
        let answer = query(&address, "faultline_events_total")?;
        let value = answer["data"]["result"].get(0)?["value"][1]
            .as_str()?
            .to_owned();
        value.parse::<f64>().ok()
    });
    let stats = run(Command::new(BINARY).args(["stats", BROKEN, "--format", "json"]));
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(events, stats["events"].as_f64().unwrap());

    let board: Value =
        serde_json::from_str(&fs::read_to_string("grafana/faultline.json").unwrap()).unwrap();
    let mut tried = 0;
    for panel in board["panels"].as_array().unwrap() {
        let place = &panel["gridPos"];
        assert!(
            place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24,
            "{panel}"
        );
        for of in panel["targets"].as_array().unwrap() {
            let expression = of["expr"].as_str().unwrap();
            let filled = expression
                .replace("$instance", ".*")
                .replace("$__rate_interval", "1m");
            // Rates need two scrapes.
            let found = loop_until(Duration::from_secs(30), || {
                let answer = query(&address, &filled)?;
                assert_eq!(answer["status"], "success", "{filled}: {answer}");
                (!answer["data"]["result"].as_array()?.is_empty()).then_some(true)
            });
            assert!(found, "{filled}");
            tried += 1;
        }
    }
    assert!(tried >= 15, "{tried} queries");
}

/// Asks until there is an answer.
fn loop_until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < limit, "no answer within {limit:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
