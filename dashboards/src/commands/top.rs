//! `faultline top` and `faultline replay`

use std::process::ExitCode;

use anyhow::{Result, bail};
use tracer::{attach::Limits, live::Live, trace::Trace};

use super::record::{extent, watched};
use crate::{
    cli::{Replay, Top},
    tui::{self, FileFeed, Palette, RingFeed},
};

/// Shows this machine.
pub fn top(arguments: &Top) -> Result<ExitCode> {
    tui::require_terminal()?;
    let live = attach(&arguments.mounts, arguments.ring, arguments.light)?;
    let (mut feed, mut model) = RingFeed::new(live);
    let ended = tui::run(&mut feed, &mut model, Palette::chosen(arguments.color));
    note!("detaching");
    drop(feed);
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Shows a trace.
pub fn replay(arguments: &Replay) -> Result<ExitCode> {
    tui::require_terminal()?;
    let trace = Trace::open(&arguments.trace)?;
    let (mut feed, mut model) = FileFeed::new(&trace);
    tui::run(&mut feed, &mut model, Palette::chosen(arguments.color))?;
    Ok(ExitCode::SUCCESS)
}

/// Attaches to the mounts that were named, or every one that uses DAX.
pub(super) fn attach(mounts: &[std::path::PathBuf], ring: u32, light: bool) -> Result<Live> {
    if !ring.is_power_of_two() || !(1..=1024).contains(&ring) {
        bail!("--ring {ring} does not fit: give a power of two from 1 to 1024 (MiB)");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("watching needs root: it loads eBPF programs (CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN)");
    }
    let limits = Limits {
        ring_bytes: ring << 20,
    };
    let mounts = watched(mounts)?;
    note!("reading the kernel's types, attaching hooks");
    Ok(Live::attach(&mounts, limits, extent(light))?)
}
