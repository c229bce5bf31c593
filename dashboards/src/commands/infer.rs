//! `faultline infer`

use std::{fmt::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use tracer::{
    analyze::infer,
    hooks::Mode,
    judge::mining::{Exception, Hypothesis},
    trace::Trace,
};

use crate::{
    cli::{Format, Infer},
    output,
    tables::Table,
};

/// States which locks a run held where.
pub fn run(arguments: &Infer) -> Result<ExitCode> {
    let trace = Trace::open(&arguments.trace)?;
    let mut found = infer(&trace);
    found.retain(|hypothesis| {
        hypothesis.acts >= arguments.acts && hypothesis.confidence() * 100.0 >= arguments.confidence
    });
    let text = match arguments.format {
        Format::Text => render(&found),
        Format::Json => {
            serde_json::to_string_pretty(&found).context("cannot write the rules as JSON")? + "\n"
        }
    };
    output::page(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn mode(mode: Option<Mode>) -> &'static str {
    mode.map_or("none", Mode::name)
}

fn percent(hypothesis: &Hypothesis) -> String {
    // Never 100 % with an exception.
    let share = hypothesis.confidence() * 100.0;
    format!("{:.1} %", (share * 10.0).floor() / 10.0)
}

/// The hypotheses as a table, then what contradicts them.
fn render(found: &[Hypothesis]) -> String {
    let mut table = Table::new(&[
        "<fs",
        "<file",
        "<operation",
        "<phase",
        "<by",
        "<lock",
        "<mode",
        "support",
        "acts",
        "share",
    ]);
    let mut contradicted = String::new();
    for hypothesis in found {
        let file = if hypothesis.dax { "dax" } else { "page-cache" };
        table.row(vec![
            hypothesis.filesystem.name().to_owned(),
            file.to_owned(),
            hypothesis.operation.name().to_owned(),
            hypothesis.phase.name().to_owned(),
            hypothesis.target.clone(),
            hypothesis.class.to_owned(),
            mode(hypothesis.mode).to_owned(),
            hypothesis.support.to_string(),
            hypothesis.acts.to_string(),
            percent(hypothesis),
        ]);
        for exception in &hypothesis.exceptions {
            exceptional(&mut contradicted, hypothesis, exception);
        }
    }
    if table.is_empty() {
        return "no act of an operation or fault was recorded with a lock that this asks for\n"
            .to_owned();
    }
    let mut text = table.render();
    if !contradicted.is_empty() {
        text.push_str("\nexceptions\n");
        text.push_str(&contradicted);
    }
    text
}

fn exceptional(out: &mut String, hypothesis: &Hypothesis, exception: &Exception) {
    let who = exception
        .task
        .map(|tid| format!(", by task {tid}"))
        .unwrap_or_default();
    let when = exception
        .time_ns
        .map(|time| {
            format!(
                " at {}.{:09} s",
                time.0 / 1_000_000_000,
                time.0 % 1_000_000_000
            )
        })
        .unwrap_or_default();
    let _ = writeln!(
        out,
        "  {} {} {}: {} {}, {} of {} times{who}{when}",
        hypothesis.filesystem.name(),
        hypothesis.operation.name(),
        hypothesis.phase.name(),
        hypothesis.class,
        mode(exception.mode),
        exception.count,
        hypothesis.acts,
    );
    for frame in &exception.frames {
        let _ = writeln!(out, "      {frame}");
    }
}

#[cfg(test)]
mod tests {
    use tracer::{
        hooks::FilesystemKind,
        judge::{mining::Phase, operations::Operation},
        units::{HookId, Nanos, Tid},
    };

    use super::*;

    #[test]
    fn hypotheses_as_text() {
        let hypothesis = |class, mode, support, exceptions| Hypothesis {
            filesystem: FilesystemKind::Xfs,
            dax: true,
            operation: Operation::PunchHole,
            phase: Phase::Change,
            hook: HookId(7),
            target: "__xfs_bunmapi".to_owned(),
            class,
            mode: Some(mode),
            support,
            acts: 2000,
            exceptions,
        };
        let exception = Exception {
            mode: None,
            count: 1,
            task: Some(Tid(711)),
            time_ns: Some(Nanos(18_665_459_119)),
            stack: None,
            frames: vec![
                "__xfs_bunmapi+0x5 [xfs]".to_owned(),
                "xfs_free_file_space+0x165 [xfs]".to_owned(),
            ],
        };
        insta::assert_snapshot!(render(&[
            hypothesis("i_rwsem", Mode::Excl, 2000, Vec::new()),
            hypothesis("invalidate_lock", Mode::Excl, 1999, vec![exception]),
        ]));
        insta::assert_snapshot!(render(&[]));
    }
}
