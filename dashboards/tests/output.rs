//! What is printed, into what others put there: a pipe that nobody reads, a pager, a terminal without colours.

mod on_terminal;

use std::{
    io,
    process::{Command, Output, Stdio},
    time::Duration,
};

use on_terminal::OnTerminal;

const BINARY: &str = env!("CARGO_BIN_EXE_faultline");
const BROKEN: &str = "tests/traces/xfs-punch-unlocked.flt";
const STOCK: &str = "tests/traces/xfs-stock.flt";
const PATIENCE: Duration = Duration::from_secs(20);

/// A pipe whose reader has gone.
fn unread() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Every command that prints without the privileges or the tools that others need.
const PRINTING: [&[&str]; 16] = [
    &["--help"],
    &["analyze", BROKEN],
    &["analyze", BROKEN, "--format", "json"],
    &["bench", "analysis", BROKEN, "--passes", "1"],
    &["completions", "bash"],
    &["diff", STOCK, BROKEN],
    &["doctor"],
    &["export", BROKEN, "--format", "csv", "-o", "-"],
    &["export", BROKEN, "--format", "folded", "-o", "-"],
    &["export", BROKEN, "--format", "perfetto", "-o", "-"],
    &["infer", BROKEN],
    &["report", BROKEN, "-o", "-"],
    &["rules"],
    &["stats", BROKEN],
    &["stats", BROKEN, "--format", "json"],
    &["work", "list"],
];

fn quiet(arguments: &[&str], output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    for word in ["panicked", "Broken pipe", "os error 32"] {
        assert!(!said.contains(word), "{arguments:?}: {said}");
    }
    assert!(
        output.status.code().is_some(),
        "{arguments:?}: {}",
        output.status
    );
    assert_ne!(output.status.code(), Some(101), "{arguments:?}: {said}");
}

#[test]
fn a_reader_who_leaves_early_is_no_error() {
    for arguments in PRINTING {
        let output = Command::new(BINARY)
            .args(arguments)
            .stdout(unread())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        quiet(arguments, &output);
    }
}

#[test]
fn nor_is_one_who_does_not_listen_to_complaints() {
    let wrong: [&[&str]; 4] = [
        &["analyze", "/no/such/trace"],
        &["work", "no-such-scenario", "/tmp"],
        &["report", BROKEN, "-o", "/dev/null"],
        &["no-such-command"],
    ];
    for arguments in wrong {
        let output = Command::new(BINARY)
            .args(arguments)
            .stderr(unread())
            .output()
            .unwrap();
        quiet(arguments, &output);
        assert_ne!(output.status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn on_a_terminal_what_does_not_fit_goes_through_the_pager() {
    for (pager, shown) in [
        ("sed 's/^/paged: /'", "paged: "),
        ("cat", "xfs"),
        ("no-such-pager", "xfs"),
    ] {
        let script = format!("FAULTLINE_PAGER=\"{pager}\" {BINARY} rules");
        let mut session = OnTerminal::start("sh", &["-c", &script], PATIENCE);
        session.until(shown);
        let (status, said, _) = session.ended();
        assert!(status.success(), "{pager}: {said}");
    }
}

/// `NO_COLOR` and `--color never` leave the screen to the terminal's own colour, and the selection reversed.
#[test]
fn colours_only_where_they_are_wanted() {
    for (environment, arguments, coloured) in [
        ("", "", true),
        ("NO_COLOR=1", "", false),
        ("NO_COLOR=", "", true),
        ("NO_COLOR=1", "--color always", true),
        ("", "--color never", false),
    ] {
        let script = format!("{environment} exec {BINARY} replay {BROKEN} {arguments}");
        let mut session = OnTerminal::start("sh", &["-c", &script], PATIENCE);
        session.until("hooks attached");
        assert_eq!(session.has_colours(), coloured, "{environment} {arguments}");
        session.press("q");
        assert!(session.ended().0.success());
    }
}
