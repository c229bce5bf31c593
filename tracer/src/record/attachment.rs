//! Hooks that stay in place from one recording to the next: attaching and detaching take several times as long as
//! a short workload where the processor is emulated, since for each hook that goes the kernel waits for all CPUs
//! (kernel/trace/ftrace.c, ftrace_shutdown).

use std::{
    collections::BTreeSet, os::unix::process::ExitStatusExt as _, sync::atomic::AtomicBool,
    time::Instant,
};

use super::{
    Options, Progress, RecordError, Summary, attach,
    command::{self, Ended},
    drain::Recording,
    header, now, resolve_plan, small_blocks, watched,
};
use crate::{
    attach::Session,
    hooks::FilesystemKind,
    kernel::symbols::Symbols,
    plan::{Delay, Extent, Plan, Prefer},
    trace::{Footer, Writer},
};

/// Hooks in place; dropping it detaches them.
pub struct Attachment {
    terms: Terms,
    plan: Plan,
    session: Session,
    symbols: Symbols,
    used: bool,
}

/// What recordings that share hooks have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Terms {
    filesystems: BTreeSet<FilesystemKind>,
    prefer: Prefer,
    extent: Extent,
    delay: Option<Delay>,
    ring_bytes: u32,
    small_blocks: bool,
}

impl Terms {
    fn of(options: &Options) -> Self {
        let kinds = options.mounts.iter().map(|mount| mount.filesystem);
        Self {
            filesystems: kinds.collect(),
            prefer: options.prefer,
            extent: options.extent,
            delay: options.delay,
            ring_bytes: options.limits.ring_bytes,
            small_blocks: small_blocks(&options.mounts),
        }
    }
}

impl Attachment {
    /// Records until the command ends, the limit is over, or `stop` is set; with the hooks that are `present` if they
    /// are what `options` asks for, and with others in their place if not. The modules of the filesystems must be those
    /// that were loaded when they were attached. After an error nothing is attached.
    ///
    /// # Errors
    /// The kernel does not say what its types are, a permission is missing, nothing can be attached, the file cannot
    /// be written, or the command not be run.
    pub fn record(
        present: &mut Option<Self>,
        options: &Options,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Summary, RecordError> {
        // Those that do not fit go before others come.
        let fitting = present
            .take()
            .filter(|present| present.terms == Terms::of(options));
        let mut attachment = match fitting {
            Some(attachment) => attachment,
            None => Self::new(options, progress)?,
        };
        let summary = attachment.once(options, stop, progress)?;
        *present = Some(attachment);
        Ok(summary)
    }

    fn new(options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Self, RecordError> {
        progress(Progress::Attaching);
        let mut plan = resolve_plan(&options.mounts, options.extent, options.delay)?;
        plan.prefer(options.prefer);
        // The file first: a full disk or a bad path must not cost an attach.
        let header = header(&options.command, &options.mounts, &plan, options.extent);
        drop(Writer::create(&options.output, &header)?);
        let session = attach(&plan, &options.mounts, options.limits)?;
        Ok(Self {
            terms: Terms::of(options),
            plan,
            session,
            // After the attach: the programs and trampolines have symbols by now.
            symbols: Symbols::load().map_err(RecordError::Symbols)?,
            used: false,
        })
    }

    fn once(
        &mut self,
        options: &Options,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Summary, RecordError> {
        if std::mem::replace(&mut self.used, true) {
            self.session.renew(&self.plan, &watched(&options.mounts))?;
        }
        let mut header = header(
            &options.command,
            &options.mounts,
            &self.plan,
            options.extent,
        );
        header.hooks = self.session.hooks().to_vec();
        header.cpus = self.session.cpus();
        let (before, made_up_before) = (self.session.health(), self.session.made_up());
        // What began before the last hook was in place is not judged.
        header.started = now();
        let started = Instant::now();
        let mut recording =
            Recording::new(&mut self.session, &self.symbols, &header, options, before)?;
        let attached = header
            .hooks
            .iter()
            .filter(|hook| hook.attached.is_ok())
            .count();
        progress(Progress::Attached {
            hooks: attached,
            missing: header.hooks.len() - attached,
        });

        let (mut child, marks) = command::spawn(&options.command, options.aside)?;
        recording.marks = marks;
        let outcome = recording.follow(child.as_mut(), options.limit, stop, progress);
        let (status, stuck) = match (outcome, child) {
            (Ok(Ended::Not), _) => (None, false),
            (Ok(Ended::Command(status)), _) => (Some(status), false),
            (Ok(Ended::Stuck), _) => (None, true),
            (Err(error), child) => {
                // The command must not outlive the recorder that it ran under.
                if let Some(mut child) = child {
                    command::end(&mut child).map_err(RecordError::Wait)?;
                }
                return Err(error);
            }
        };
        let footer = Footer {
            ended: now(),
            command_status: status.map(|status| {
                status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
            }),
            // Counting would cost every program two clock reads.
            runs: Vec::new(),
        };
        let (written, lost) = recording.finish(&footer)?;
        Ok(Summary {
            events: written.events,
            bytes: written.bytes,
            lost,
            made_up: self.session.made_up() - made_up_before,
            status,
            stuck,
            elapsed: started.elapsed(),
        })
    }
}
