//! `faultline diff`

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tracer::{
    judge::Verdict,
    story::{Story, Timeline},
    trace::Trace,
};

use crate::{
    cli::{Diff, Format},
    diff::{Side, compare},
    output,
};

/// Compares two traces; 1 if the later one has a finding that the earlier one has not, 2 if nothing was found
/// there but not all was seen.
pub fn run(arguments: &Diff) -> Result<ExitCode> {
    let before = Trace::open(&arguments.before)?;
    let after = Trace::open(&arguments.after)?;
    let tell = |trace| Story::of(trace, Timeline::recent(), |_, _| {});
    let (before, after) = (tell(&before), tell(&after));
    let comparison = compare(
        &Side {
            story: &before.story,
            report: &before.report,
        },
        &Side {
            story: &after.story,
            report: &after.report,
        },
    );
    let text = match arguments.format {
        Format::Text => comparison.render(),
        Format::Json => {
            serde_json::to_string_pretty(&comparison)
                .context("cannot write the comparison as JSON")?
                + "\n"
        }
    };
    output::page(&text)?;
    Ok(ExitCode::from(
        match (comparison.is_worse(), comparison.verdicts.1) {
            (true, _) => 1,
            (false, Verdict::Inconclusive) => 2,
            (false, _) => 0,
        },
    ))
}
