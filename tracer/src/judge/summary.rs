//! From the engine's state to a report: names, losses, missing hooks, the verdict.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    hooks::{Effect, LockAction, LockClass, Mode},
    judge::{
        Judge,
        annotations::{self, ANNOTATIONS, Version},
        corruption::Proof,
        finding::{
            Act, Expected, Finding, FindingStack, FindingTask, LockHeld, Party, Range, Record,
            Role, Strength,
        },
        inode::InodeIndex,
        report::{Annotated, HookReport, NO_INSTALL, NO_WINDOW, Report, SCHEMA, Totals, Verdict},
        rules::{self, Kind},
        sentence::Facts,
        task::TaskId,
        window::FindingIndex,
    },
    trace::meta::{self, LossCause},
    units::{HookId, Nanos},
};

/// What a report is made from.
pub struct Summary<'a> {
    pub(super) judge: &'a Judge,
    hooks: &'a [meta::PlannedHook],
    footer: Option<&'a meta::Footer>,
}

impl<'a> Summary<'a> {
    /// Of the engine's state now.
    pub fn new(judge: &'a Judge, footer: Option<&'a meta::Footer>) -> Self {
        Self {
            judge,
            hooks: &judge.names.header.hooks,
            footer,
        }
    }

    /// The report.
    pub fn report(&self, incomplete: Option<String>) -> Report {
        let engine = &self.judge.engine;
        let header = &self.judge.names.header;
        let mut reasons = Vec::new();
        let mut unjudged = engine.unjudged.total();

        let missing = self.missing_groups();
        reasons.extend(missing_reasons(&missing));
        let blind = self.blind_to_locks(&missing);

        let kernel = Version::of_kernel(&header.kernel, &header.build);
        let (mut findings, mut annotated) = (Vec::new(), Vec::new());
        let proofs = self.proofs();
        for (index, record) in engine.findings.iter().enumerate() {
            if blind || self.may_be_a_miss(record) {
                unjudged += record.count;
                continue;
            }
            if engine.findings.is_told_by_another(record) {
                continue;
            }
            let proof = proofs.get(&FindingIndex(index as u32));
            let finding = self.finding(record, proof);
            let subject = annotations::Subject {
                kind: finding.kind,
                filesystem: finding.filesystem,
                operation: finding.operation,
                class: record.key.class,
                target: &finding.target,
                how: finding.how,
                kernel,
            };
            match annotations::find(ANNOTATIONS, subject) {
                Some(known) => annotated.push(Annotated {
                    finding,
                    argument: known.argument.into(),
                }),
                None => findings.push(finding),
            }
        }
        for (finding, known) in self.corruptions() {
            let subject = annotations::Subject {
                kind: Kind::Corruption,
                filesystem: finding.filesystem,
                operation: finding.operation,
                class: LockClass::InvalidateLock,
                target: "",
                how: finding.how,
                kernel,
            };
            let by_table = || Some(annotations::find(ANNOTATIONS, subject)?.argument.to_owned());
            match known.or_else(by_table) {
                Some(argument) => annotated.push(Annotated {
                    finding,
                    argument: argument.into(),
                }),
                None => findings.push(finding),
            }
        }

        let totals = self.totals();
        let reported: u64 = self.judge.names.losses.iter().map(|loss| loss.count).sum();
        let lost = reported.max(engine.missing);
        if lost > 0 {
            reasons.push(format!("{lost} events were lost{}", self.causes()));
        }
        if unjudged > 0 {
            reasons.push(self.unjudged_reason(unjudged));
        }
        if let Some(why) = &incomplete {
            reasons.push(format!("the trace is incomplete: {why}"));
        }
        if totals.windows == 0 {
            reasons.push(NO_WINDOW.to_owned());
        }
        if totals.installs == 0 {
            reasons.push(NO_INSTALL.to_owned());
        }
        let verdict = match (findings.is_empty(), reasons.is_empty()) {
            (false, _) => Verdict::Findings,
            (true, true) => Verdict::Clean,
            (true, false) => Verdict::Inconclusive,
        };
        Report {
            schema: SCHEMA,
            verdict,
            reasons,
            kernel: header.kernel.clone(),
            events: engine.events,
            lost,
            incomplete,
            unjudged,
            hooks: self.hooks(),
            coverage: engine.coverage.rows(),
            totals,
            findings,
            annotated,
        }
    }

    /// Groups that a verdict needs and of which no row was attached, with one row's error.
    fn missing_groups(&self) -> BTreeMap<&'a str, &'a str> {
        let mounted: BTreeSet<_> = self
            .judge
            .names
            .header
            .mounts
            .iter()
            .map(|mount| mount.filesystem)
            .collect();
        let attached: BTreeSet<&str> = self
            .hooks
            .iter()
            .filter(|hook| hook.attached.is_ok())
            .map(|hook| hook.group.as_str())
            .collect();
        let mut missing = BTreeMap::new();
        for hook in self.hooks {
            if let Err(error) = &hook.attached
                && !attached.contains(hook.group.as_str())
                && rules::needed(hook.effect)
                && hook
                    .filesystem
                    .is_none_or(|filesystem| mounted.contains(&filesystem))
            {
                missing.entry(hook.group.as_str()).or_insert(error.as_str());
            }
        }
        missing
    }

    /// True if some way to take or release a lock was not watched: then "not held" means nothing.
    fn blind_to_locks(&self, missing: &BTreeMap<&str, &str>) -> bool {
        self.hooks.iter().any(|hook| {
            missing.contains_key(hook.group.as_str())
                && matches!(hook.effect, Effect::Lock(action) if action != LockAction::Wait)
        })
    }

    /// True if lost hits of single programs, which leave no gap in a task's sequence, can explain
    /// every occurrence.
    fn may_be_a_miss(&self, record: &Record) -> bool {
        let overlaps =
            |loss: &&meta::Loss, &(from, to): &(Nanos, Nanos)| loss.from <= to && from <= loss.to;
        let missed: Vec<_> = self
            .judge
            .names
            .losses
            .iter()
            .filter(|loss| loss.cause == LossCause::Missed)
            .collect();
        // One missed hit spoils one operation, which may break a rule many times; more operations
        // than misses are no accident.
        let operations: BTreeSet<_> = record.times.iter().map(|&(entered, _)| entered).collect();
        let explained: u64 = missed
            .iter()
            .filter(|loss| record.times.iter().any(|time| overlaps(loss, time)))
            .map(|loss| loss.count)
            .sum();
        explained >= operations.len() as u64
            && record
                .times
                .iter()
                .all(|time| missed.iter().any(|loss| overlaps(loss, time)))
    }

    fn causes(&self) -> String {
        let mut causes = BTreeSet::new();
        for loss in &self.judge.names.losses {
            causes.insert(match loss.cause {
                LossCause::Ring => "ring buffer full",
                LossCause::Tasks => "task table full",
                LossCause::Scope => "too many operations or inodes open in a task",
                LossCause::Missed => "programs that the kernel skipped",
                LossCause::Corrupt => "damaged parts of the trace",
            });
        }
        if causes.is_empty() {
            return String::new();
        }
        format!(" ({})", causes.into_iter().collect::<Vec<_>>().join(", "))
    }

    fn unjudged_reason(&self, unjudged: u64) -> String {
        let causes = self.judge.engine.unjudged;
        let told: Vec<_> = [
            (causes.gap, "after a gap in their task's events"),
            (causes.overflow, "in operations nested too deeply"),
            (causes.inode, "on files that the trace does not name"),
            (
                unjudged - causes.total(),
                "where lock events may be missing",
            ),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{count} {why}"))
        .collect();
        format!("acts could not be judged: {}", told.join(", "))
    }

    fn totals(&self) -> Totals {
        let engine = &self.judge.engine;
        let rows = engine.coverage.rows();
        let inodes = engine.files.indexes();
        Totals {
            tasks: self.judge.tasks.len() as u64,
            inodes: inodes.len() as u64,
            dax_inodes: inodes
                .filter(|&index| engine.files.get(index).meta.dax)
                .count() as u64,
            faults: engine.coverage.faults(),
            installs: engine.coverage.installs(),
            windows: engine.coverage.windows(),
            met: rows.iter().map(|row| row.met).sum(),
            held_off: rows.iter().map(|row| row.held_off).sum(),
            locks: engine.coverage.locks(),
            entry_locks: engine.entry_locks,
        }
    }

    fn hooks(&self) -> Vec<HookReport> {
        let runs: BTreeMap<_, _> = self
            .footer
            .map(|footer| footer.runs.iter().copied().collect())
            .unwrap_or_default();
        self.hooks
            .iter()
            .map(|hook| HookReport {
                id: hook.id,
                target: hook.target.clone(),
                group: hook.group.clone(),
                mechanism: hook
                    .attached
                    .as_ref()
                    .ok()
                    .map(|mechanism| mechanism.name()),
                error: hook.attached.as_ref().err().cloned(),
                runs: runs.get(&hook.id).copied(),
            })
            .collect()
    }

    fn target(&self, id: HookId) -> String {
        self.hooks
            .iter()
            .find(|hook| hook.id == id)
            .map(|hook| hook.target.clone())
            .unwrap_or_default()
    }

    fn who(&self, task: TaskId) -> Option<&meta::Task> {
        self.judge.who(task)
    }

    fn party(&self, party: &Party) -> FindingTask {
        let who = self.who(party.task);
        FindingTask {
            tid: party.task.tid,
            pid: who.map(|who| who.pid),
            name: who.map(|who| who.name.clone()).unwrap_or_default(),
            role: party.role.text(),
            sampled: party.role.is_sampled(),
        }
    }

    /// A stack of the other side from another time, for findings of which only one side was seen.
    fn sampled(&self, record: &Record) -> Option<Party> {
        if record.key.kind.is_about_order() {
            return None;
        }
        let engine = &self.judge.engine;
        let file = engine.files.get(record.witness.inode);
        let (sample, role) = match record.key.kind {
            Kind::LockLeak
            | Kind::DioUndrained
            | Kind::LayoutUnbroken
            | Kind::StaleData
            | Kind::SizeOrder
            | Kind::StaleTranslation => return None,
            _ if record.key.class != LockClass::InvalidateLock => return None,
            Kind::FaultUnprotected => {
                let anywhere = engine.changes[record.key.filesystem as usize];
                (file.change.or(anywhere)?, Role::SampledChange)
            }
            _ => (file.fault?, Role::SampledFault),
        };
        Some(Party {
            task: sample.task,
            role,
            stack: Some(sample.stack),
        })
    }

    /// Each party's stack. Stacks of acts that broke no rule are taken now and then only: a party
    /// whose own was not taken shows one of its kind, and says so.
    fn stacks(&self, record: &Record, parties: &[Party]) -> Vec<FindingStack> {
        let like = |party: &Party| {
            let stack = matches!(party.role, Role::Overlapped(_)).then(|| self.sampled(record));
            stack.flatten().and_then(|sample| sample.stack)
        };
        parties
            .iter()
            .filter_map(|party| {
                let own = party.stack;
                own.or_else(|| like(party)).map(|id| FindingStack {
                    task: party.task.tid,
                    role: party.role.text(),
                    sampled: own.is_none() || party.role.is_sampled(),
                    id,
                    frames: Vec::new(),
                })
            })
            .collect()
    }

    /// How a task takes part in a cycle or a stall, for the sentence.
    fn takes_part(&self, party: &Party) -> Option<String> {
        let what = match party.role {
            Role::Blocked { inode, .. } => {
                let inode = inode.map_or(String::new(), |inode| {
                    format!(" of inode {}", self.judge.engine.files.get(inode).meta.ino)
                });
                format!("{}{inode}", party.role.text())
            }
            Role::Inverse { .. } | Role::Left { .. } | Role::Holds { .. } => party.role.text(),
            _ => return None,
        };
        let name = self.who(party.task).map_or("task", |who| who.name.as_str());
        Some(format!("{name}/{}, {what}", party.task.tid))
    }

    /// `i_ino`, and the path if it is known.
    fn named(&self, inode: InodeIndex) -> String {
        let files = &self.judge.engine.files;
        let (ino, path) = (files.get(inode).meta.ino, files.path(inode));
        if path.is_empty() {
            ino.to_string()
        } else {
            format!("{ino} ({path})")
        }
    }

    fn finding(&self, record: &Record, proof: Option<&Proof<'_>>) -> Finding {
        let engine = &self.judge.engine;
        let witness = &record.witness;
        let key = record.key;
        let file = &engine.files.get(witness.inode).meta;
        let path = engine.files.path(witness.inode);
        let clipped = witness.range.below(witness.size);
        let range = Range {
            offset: clipped.start,
            length: clipped.end.saturating_sub(clipped.start),
        };
        let other = witness.other.or_else(|| self.sampled(record));
        let parties: Vec<_> = std::iter::once(witness.actor)
            .chain(other)
            .chain(witness.more.iter().copied())
            .collect();
        let tasks: Vec<_> = parties
            .iter()
            .filter(|party| !matches!(party.role, Role::Took { .. }))
            .map(|party| self.party(party))
            .collect();
        let named = self.named(witness.inode);
        let met = witness.other.map(|other| {
            let name = self.who(other.task).map_or("task", |who| who.name.as_str());
            match other.role {
                Role::Actor(operation) | Role::Overlapped(operation) => {
                    format!("{name}/{}, {}", other.task.tid, operation.name())
                }
                _ => format!("{name}/{}", other.task.tid),
            }
        });
        let others: Vec<_> = witness
            .more
            .iter()
            .filter_map(|party| self.takes_part(party))
            .collect();
        let owner = match witness.act {
            Act::Outlived { by: Some(by), .. } => Some(self.named(by)),
            _ => None,
        };
        let strength = match proof {
            Some(_) => Strength::Proven,
            None => record.strength,
        };
        let facts = Facts {
            key,
            act: witness.act,
            range,
            inode: &named,
            owner: owner.as_deref(),
            met: met.as_deref(),
            others: &others,
            strength,
        };
        let sentence = match proof {
            Some(proof) => format!("{} {}", facts.sentence(), proof.sentence()),
            None => facts.sentence(),
        };
        Finding {
            kind: key.kind,
            strength,
            filesystem: key.filesystem,
            operation: key.operation,
            inode: file.ino,
            path,
            range,
            locks_held: witness
                .locks
                .iter()
                .map(|lock| LockHeld {
                    class: lock.class.name(),
                    mode: lock.mode,
                    inode: lock.inode.map(|inode| engine.files.get(inode).meta.ino),
                    task: lock.task.tid,
                    held_ns: lock.held_ns,
                })
                .collect(),
            expected: Expected {
                class: key.kind.rule().asks.unwrap_or(key.class.name()),
                mode: match (key.kind, witness.act) {
                    (Kind::LockLeak, _) => None,
                    (kind, _) if kind.is_about_order() => None,
                    (kind, _) if kind.rule().asks.is_some() => None,
                    (_, Act::Install | Act::Mkwrite) => Some(Mode::Shared),
                    _ => Some(Mode::Excl),
                },
            },
            observed: key.observed.text(),
            how: key.observed,
            target: self.target(key.hook),
            tasks,
            stacks: self.stacks(record, &parties),
            sentence,
            count: record.count,
            time_ns: witness.time,
            file: witness.inode,
            entered: witness.entered,
        }
    }
}

/// One sentence an error: a kernel that refuses one way to attach refuses it to many groups.
fn missing_reasons(missing: &BTreeMap<&str, &str>) -> Vec<String> {
    let mut by_error = BTreeMap::<&str, Vec<&str>>::new();
    for (group, error) in missing {
        by_error.entry(error).or_default().push(group);
    }
    by_error
        .into_iter()
        .map(|(error, groups)| match &groups[..] {
            [group] => format!("no hook of group {group} could be attached: {error}"),
            groups => format!(
                "no hook of {} groups could be attached ({error}): {}",
                groups.len(),
                groups.join(", ")
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_fail_alike_share_a_sentence() {
        let missing = BTreeMap::from([
            ("op/fallocate", "no kprobes"),
            ("rwsem/up_read", "no kprobes"),
            ("xfs/fault", "no such function"),
        ]);
        assert_eq!(
            missing_reasons(&missing),
            [
                "no hook of 2 groups could be attached (no kprobes): op/fallocate, rwsem/up_read",
                "no hook of group xfs/fault could be attached: no such function",
            ]
        );
    }
}
