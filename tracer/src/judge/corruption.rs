//! Wrong data that the workload read, and what explains it: the last window before on the block that
//! was read, or on the one that the data belongs to; where no window was recorded, the last operation
//! that the workload tells of. If that window broke a rule about these bytes, the wrong data proves it.

use std::collections::BTreeMap;

use crate::{
    hooks::{FilesystemKind, LockClass, Mode},
    judge::{
        finding::{Expected, Finding, FindingStack, FindingTask, LockHeld, Range, Strength},
        inode::InodeIndex,
        operations::Operation,
        rules::{Kind, Observed},
        summary::Summary,
        task::TaskId,
        text::{duration, span},
        window::{FindingIndex, Window},
    },
    trace::meta::{self, CorruptionMark, Mark, OperationMark},
    units::{ByteRange, Nanos, StackId, Tid},
};

/// What the workload said, and what was seen that has to do with it.
#[derive(Debug, Default)]
pub struct Corruptions {
    seen: Vec<Seen>,
    operations: Vec<OperationMark>,
}

/// Wrong data.
#[derive(Debug)]
struct Seen {
    mark: CorruptionMark,
    /// The last window before it on a block concerned.
    cause: Option<Cause>,
}

/// A window that explains wrong data.
#[derive(Debug)]
struct Cause {
    inode: InodeIndex,
    task: TaskId,
    operation: Operation,
    from: Nanos,
    lock: Option<(Mode, Nanos)>,
    stack: Option<StackId>,
    /// What its operation did wrong with the block.
    broken: Vec<FindingIndex>,
}

/// Wrong data that an operation left behind in bytes about which it broke a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof<'a> {
    mark: &'a CorruptionMark,
    after_ns: u64,
}

impl Proof<'_> {
    /// As a finding's sentence ends.
    pub fn sentence(&self) -> String {
        let mark = self.mark;
        format!(
            "Wrong data followed: {} at {} of inode {}, {} after one such window opened.",
            mark.wrong,
            span(mark.offset, mark.length),
            mark.ino.0,
            duration(self.after_ns),
        )
    }
}

impl Seen {
    /// Whether a change of these bytes of a file concerns the block or where its data belongs.
    fn concerns(&self, device: u32, ino: u64, range: ByteRange) -> bool {
        let mark = &self.mark;
        let at = |offset: u64| ByteRange::new(offset, mark.length).overlaps(range);
        device == mark.device.0
            && ((ino == mark.ino.0 && at(mark.offset))
                || mark
                    .origin
                    .is_some_and(|origin| ino == origin.ino.0 && at(origin.offset)))
    }
}

impl Corruptions {
    /// Takes what the workload said. All of it must be known before the first event.
    pub fn mark(&mut self, mark: &Mark) {
        match mark {
            Mark::Operation(mark) => self.operations.push(mark.clone()),
            Mark::Corruption(mark) => self.seen.push(Seen {
                mark: mark.clone(),
                cause: None,
            }),
        }
    }

    /// A window is over.
    #[inline]
    pub fn window(&mut self, file: &meta::Inode, inode: InodeIndex, window: &Window) {
        if !self.seen.is_empty() {
            self.join(file, inode, window);
        }
    }

    #[cold]
    fn join(&mut self, file: &meta::Inode, inode: InodeIndex, window: &Window) {
        let Some(danger) = window.danger else {
            return;
        };
        for seen in &mut self.seen {
            if window.from <= seen.mark.at
                && seen
                    .cause
                    .as_ref()
                    .is_none_or(|cause| cause.from <= window.from)
                && seen.concerns(file.device.0, file.ino.0, danger.range)
            {
                seen.cause = Some(Cause {
                    inode,
                    task: window.task,
                    operation: window.operation,
                    from: window.from,
                    lock: window.lock,
                    stack: window.stack,
                    broken: window
                        .broken
                        .iter()
                        .filter(|(_, range)| seen.concerns(file.device.0, file.ino.0, *range))
                        .map(|(finding, _)| *finding)
                        .collect(),
                });
            }
        }
    }

    /// The last operation before wrong data that the workload tells of and that has a name here.
    fn told(&self, seen: &Seen, dax: bool) -> Option<(&OperationMark, Operation)> {
        self.operations
            .iter()
            .filter(|mark| {
                let range = ByteRange::new(mark.offset, mark.length);
                mark.errno == 0
                    && mark.from <= seen.mark.at
                    && seen.concerns(mark.device.0, mark.ino.0, range)
            })
            .filter_map(|mark| Some((mark, named(&mark.operation, dax)?)))
            .max_by_key(|(mark, _)| mark.from)
    }
}

/// What explains wrong data.
struct Explanation<'a> {
    /// The file that was read, as it was then.
    file: Option<InodeIndex>,
    dax: bool,
    /// The last operation that the workload tells of.
    told: Option<(&'a OperationMark, Operation)>,
    /// The window, unless that operation began later: an operation's window opens inside it.
    cause: Option<&'a Cause>,
}

/// A workload does not know whether its write(2) goes to DAX.
fn named(name: &str, dax: bool) -> Option<Operation> {
    let find = |name: &str| {
        Operation::ALL
            .into_iter()
            .find(|known| known.name() == name)
    };
    let own = dax.then(|| find(&format!("dax-{name}")));
    own.flatten().or_else(|| find(name))
}

/// What a finding of wrong data is looked for and merged by.
#[derive(PartialEq)]
struct Same<'a> {
    wrong: &'a str,
    filesystem: FilesystemKind,
    operation: Operation,
    known: Option<&'a str>,
}

impl Summary<'_> {
    /// Findings of operations that left wrong data behind, each with the first such data.
    pub(super) fn proofs(&self) -> BTreeMap<FindingIndex, Proof<'_>> {
        let corruptions = &self.judge.engine.corruptions;
        let mut proofs = BTreeMap::<FindingIndex, Proof<'_>>::new();
        for seen in &corruptions.seen {
            let Some(cause) = self.explain(corruptions, seen).cause else {
                continue;
            };
            let proof = Proof {
                mark: &seen.mark,
                after_ns: seen.mark.at.0.saturating_sub(cause.from.0),
            };
            for &finding in &cause.broken {
                let first = proofs.entry(finding).or_insert(proof);
                if proof.mark.at < first.mark.at {
                    *first = proof;
                }
            }
        }
        proofs
    }

    /// One finding for each kind of wrong data and operation; with the argument why unmodified kernels
    /// show it, if the workload knows one.
    pub(super) fn corruptions(&self) -> Vec<(Finding, Option<String>)> {
        let corruptions = &self.judge.engine.corruptions;
        let mut findings: Vec<(Same<'_>, Finding)> = Vec::new();
        for seen in &corruptions.seen {
            let Some(finding) = self.corruption(corruptions, seen) else {
                continue;
            };
            let same = Same {
                wrong: &seen.mark.wrong,
                filesystem: finding.filesystem,
                operation: finding.operation,
                known: seen.mark.known.as_deref(),
            };
            match findings.iter_mut().find(|(other, _)| *other == same) {
                Some((_, known)) => known.count += 1,
                None => findings.push((same, finding)),
            }
        }
        findings
            .into_iter()
            .map(|(same, finding)| (finding, same.known.map(str::to_owned)))
            .collect()
    }

    /// None if the file's filesystem is not watched.
    fn corruption(&self, corruptions: &Corruptions, seen: &Seen) -> Option<Finding> {
        let engine = &self.judge.engine;
        let mark = &seen.mark;
        let filesystem = self
            .judge
            .names
            .header
            .mounts
            .iter()
            .find(|mount| mount.device == mark.device)?
            .filesystem;
        let Explanation {
            file,
            dax,
            told,
            cause,
        } = self.explain(corruptions, seen);
        let operation = match (cause, told) {
            (Some(cause), _) => cause.operation,
            (None, Some((_, operation))) => operation,
            // Nothing changed the block: whatever is wrong came with the fault that mapped it.
            (None, None) if dax => Operation::DaxReadFault,
            (None, None) => Operation::ReadFault,
        };
        let reader = FindingTask {
            tid: mark.tid,
            pid: self.task(mark.tid).map(|task| task.pid),
            name: self
                .task(mark.tid)
                .map(|task| task.name.clone())
                .unwrap_or_default(),
            role: "read it".to_owned(),
            sampled: false,
        };
        let culprit = |tid: Tid, name: String, pid| FindingTask {
            tid,
            pid,
            name,
            role: operation.name().to_owned(),
            sampled: false,
        };
        let (actor, when) = match (cause, told) {
            (Some(cause), _) => {
                let who = self.judge.who(cause.task);
                let name = who.map(|who| who.name.clone()).unwrap_or_default();
                let actor = culprit(cause.task.tid, name, who.map(|who| who.pid));
                (Some(actor), Some(cause.from))
            }
            (None, Some((told, _))) => {
                let who = self.task(told.tid);
                let name = who.map(|who| who.name.clone()).unwrap_or_default();
                let actor = culprit(told.tid, name, who.map(|who| who.pid));
                (Some(actor), Some(told.from))
            }
            (None, None) => (None, None),
        };
        let after = match (&actor, when) {
            (Some(actor), Some(when)) => format!(
                ", {} after {} of {}/{} began on that block",
                duration(mark.at.0.saturating_sub(when.0)),
                operation.name(),
                actor.name,
                actor.tid,
            ),
            _ => String::new(),
        };
        let sentence = format!(
            "{}: {} at {} of inode {} ({}){after}: {}.",
            filesystem.name(),
            mark.wrong,
            span(mark.offset, mark.length),
            mark.ino.0,
            mark.path,
            mark.story,
        );
        let role = operation.name().to_owned();
        let stacks = cause.and_then(|cause| cause.stack).map(|id| FindingStack {
            task: actor.as_ref().map_or(mark.tid, |actor| actor.tid),
            role,
            sampled: false,
            id,
            frames: Vec::new(),
        });
        let locks_held = cause.and_then(|cause| cause.lock.map(|lock| (cause, lock)));
        Some(Finding {
            kind: Kind::Corruption,
            strength: Strength::Proven,
            filesystem,
            operation,
            inode: mark.ino,
            path: mark.path.clone(),
            range: Range {
                offset: mark.offset,
                length: mark.length,
            },
            locks_held: locks_held
                .into_iter()
                .map(|(cause, (mode, since))| LockHeld {
                    class: LockClass::InvalidateLock.name(),
                    mode,
                    inode: Some(engine.files.get(cause.inode).meta.ino),
                    task: cause.task.tid,
                    held_ns: cause.from.0.saturating_sub(since.0),
                })
                .collect(),
            expected: Expected {
                class: "-",
                mode: None,
            },
            observed: mark.wrong.clone(),
            how: Observed::Unheld,
            target: "workload".to_owned(),
            tasks: std::iter::once(reader).chain(actor).collect(),
            stacks: stacks.into_iter().collect(),
            sentence,
            count: 1,
            time_ns: mark.at,
            // The files of a workload are in its trace, or it recorded no fault at all.
            file: file
                .or(cause.map(|cause| cause.inode))
                .or_else(|| engine.files.indexes().next())?,
            entered: when.unwrap_or(mark.at),
        })
    }

    fn explain<'a>(&self, corruptions: &'a Corruptions, seen: &'a Seen) -> Explanation<'a> {
        let files = &self.judge.engine.files;
        let mark = &seen.mark;
        let file = files
            .indexes()
            .filter(|&index| {
                let file = &files.get(index).meta;
                (file.device, file.ino) == (mark.device, mark.ino) && file.since <= mark.at
            })
            .last();
        let dax = file.is_some_and(|index| files.get(index).meta.dax);
        let told = corruptions.told(seen, dax);
        let cause = seen
            .cause
            .as_ref()
            .filter(|cause| told.is_none_or(|(told, _)| told.from <= cause.from));
        Explanation {
            file,
            dax,
            told,
            cause,
        }
    }

    /// The latest owner of a thread id.
    fn task(&self, tid: Tid) -> Option<&meta::Task> {
        self.judge.names.tasks.get(&tid.0)?.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::window::{Danger, ScopeId},
        trace::meta::Origin,
        units::{Device, Ino, InodeAddress},
    };

    const DEVICE: Device = Device(7);

    fn file(ino: u64) -> meta::Inode {
        meta::Inode {
            since: Nanos(0),
            address: InodeAddress(ino),
            ino: Ino(ino),
            generation: 1,
            device: DEVICE,
            block_bits: 12,
            dax: true,
            path: "a".to_owned(),
        }
    }

    fn corruption(at: u64, ino: u64, offset: u64, origin: Option<Origin>) -> Mark {
        Mark::Corruption(CorruptionMark {
            at: Nanos(at),
            tid: Tid(1),
            device: DEVICE,
            ino: Ino(ino),
            path: "/mnt/a".to_owned(),
            offset,
            length: 4096,
            wrong: "stale data".to_owned(),
            story: "story".to_owned(),
            origin,
            known: None,
        })
    }

    fn window(from: u64, start: u64) -> Window {
        Window {
            scope: ScopeId(from),
            task: TaskId::default(),
            filesystem: FilesystemKind::Xfs,
            operation: Operation::PunchHole,
            from: Nanos(from),
            to: Some(Nanos(from + 10)),
            danger: Some(Danger {
                from: Nanos(from),
                range: ByteRange::new(start, 8192),
            }),
            lock: None,
            stack: None,
            breaches: Vec::new(),
            broken: Vec::new(),
            exposures: Vec::new(),
        }
    }

    fn told(from: u64, operation: &str, errno: i32) -> Mark {
        Mark::Operation(OperationMark {
            from: Nanos(from),
            to: Nanos(from + 10),
            tid: Tid(2),
            device: DEVICE,
            ino: Ino(131),
            operation: operation.to_owned(),
            offset: 0,
            length: 1 << 20,
            errno,
        })
    }

    fn joined(corruptions: &Corruptions) -> Option<u64> {
        corruptions.seen[0].cause.as_ref().map(|cause| cause.from.0)
    }

    #[test]
    fn the_last_window_before_on_the_block_is_the_cause() {
        let mut corruptions = Corruptions::default();
        corruptions.mark(&corruption(1000, 131, 4096, None));
        for (ino, from, start) in [
            (131, 300, 4096),
            (131, 500, 0),
            // Before, after, beside, and another file's.
            (131, 400, 4096),
            (131, 1001, 4096),
            (131, 700, 8192),
            (132, 800, 4096),
        ] {
            corruptions.window(&file(ino), InodeIndex(0), &window(from, start));
        }
        assert_eq!(joined(&corruptions), Some(500));
    }

    #[test]
    fn a_window_on_the_block_that_the_data_belongs_to_explains_it_too() {
        let mut corruptions = Corruptions::default();
        let origin = Origin {
            ino: Ino(132),
            offset: 1 << 20,
        };
        corruptions.mark(&corruption(1000, 131, 4096, Some(origin)));
        corruptions.window(&file(132), InodeIndex(1), &window(600, 4096));
        assert_eq!(joined(&corruptions), None, "another block of that file");
        corruptions.window(&file(132), InodeIndex(1), &window(600, 1 << 20));
        assert_eq!(joined(&corruptions), Some(600));
    }

    #[test]
    fn what_the_workload_tells_counts_where_no_window_was_seen() {
        let mut corruptions = Corruptions::default();
        for mark in [
            corruption(1000, 131, 4096, None),
            told(400, "fallocate/PUNCH_HOLE", 0),
            told(600, "write", 0),
            told(700, "FICLONERANGE", libc::EINVAL),
            told(800, "what nobody knows", 0),
            told(1200, "fallocate/ZERO_RANGE", 0),
        ] {
            corruptions.mark(&mark);
        }
        let operation = |dax| {
            let (mark, operation) = corruptions.told(&corruptions.seen[0], dax).unwrap();
            (mark.from.0, operation)
        };
        assert_eq!(operation(true), (600, Operation::DaxWrite));
        assert_eq!(operation(false), (600, Operation::BufferedWrite));
    }
}
