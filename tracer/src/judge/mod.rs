//! The engine: events in merged time order go in, findings and coverage come out. Live and offline
//! run the same code.
//!
//! Whether a task held a lock when it acted is read from that task's own program order. Clocks of
//! different CPUs are compared only to raise a finding from `predicted` to `observed`. What would
//! need a lost event is not judged; it is counted, and makes a verdict `inconclusive`.

pub mod annotations;
mod corruption;
pub mod coverage;
mod direct;
mod due;
pub mod duties;
mod engine;
pub mod facts;
mod faults;
pub mod finding;
mod hash;
mod inode;
mod locks;
mod lockset;
pub mod mining;
pub mod operations;
mod order;
mod owed;
mod ranges;
pub mod report;
mod resample;
pub mod rules;
mod sentence;
mod sharing;
mod summary;
mod task;
pub mod text;
mod translations;
mod visible;
mod window;

use tracer_ebpf::{
    Event,
    event::{HOOK_BLOCKED, HOOK_INODE, HOOK_TASK, HOOK_TICK},
};

use crate::{
    hooks::{Effect, FilesystemKind, LockClass, Mode},
    judge::{
        engine::Engine, facts::Fact, hash::Map, mining::Hypothesis, operations::Operation,
        task::Tasks,
    },
    trace::meta,
    units::{HookId, Ino, Nanos},
};

pub use inode::InodeIndex;
pub use order::{Owner, Resource, documented, excludes};
pub use report::{NO_INSTALL, NO_WINDOW, Report, Verdict};
pub use task::TaskId;
pub use window::{CLOCK_SKEW_NS, FindingIndex, ScopeId};

/// A task has something, or wants it.
#[derive(Clone, Copy, Debug)]
pub struct Stake {
    /// Who.
    pub task: TaskId,
    /// What.
    pub resource: Resource,
    /// How.
    pub mode: Mode,
    /// Since when.
    pub since: Nanos,
    /// In what operation it waits; none if it has it.
    pub wants: Option<Operation>,
}

/// Judges one run.
///
/// Memory grows with the tasks and files that the run met, not with its length.
#[derive(Debug)]
pub struct Judge {
    tasks: Tasks,
    engine: Engine,
    /// What a hook's events mean, by hook id.
    effects: Vec<Option<Effect>>,
    names: Names,
}

/// Who is who, for the report.
#[derive(Debug)]
struct Names {
    header: meta::Header,
    /// By thread id: its owners, oldest first.
    tasks: Map<u32, Vec<meta::Task>>,
    losses: Vec<meta::Loss>,
}

impl Judge {
    /// An engine for the plan, the mounts and the lock places that a trace's header names.
    pub fn new(header: &meta::Header) -> Self {
        let mut effects = Vec::new();
        for hook in &header.hooks {
            let HookId(id) = hook.id;
            let id = usize::from(id);
            if effects.len() <= id {
                effects.resize(id + 1, None);
            }
            effects[id] = Some(hook.effect);
        }
        Self {
            tasks: Tasks::default(),
            engine: Engine::new(header),
            effects,
            names: Names {
                header: header.clone(),
                tasks: Map::default(),
                losses: Vec::new(),
            },
        }
    }

    /// A file: from its `since` on, its address stands for it.
    pub fn inode(&mut self, inode: &meta::Inode) {
        self.engine.files.add(inode);
    }

    /// A task; the n-th one with a thread id is that id's n-th owner.
    pub fn task(&mut self, task: &meta::Task) {
        self.engine.processes.insert(task.tid.0, task.pid.0);
        let owners = self.names.tasks.entry(task.tid.0).or_default();
        if owners.last() != Some(task) {
            owners.push(task.clone());
        }
    }

    /// What the workload said; all of it before the first event.
    pub fn mark(&mut self, mark: &meta::Mark) {
        self.engine.corruptions.mark(mark);
    }

    /// Events that are known to be missing.
    pub fn loss(&mut self, loss: &meta::Loss) {
        self.engine.forget_translations();
        self.names.losses.push(*loss);
    }

    /// A record of `tid` that took number `seq` but comes as a table entry, not as an event.
    pub fn skip(&mut self, tid: u32, seq: u32) {
        let index = self.tasks.index(tid);
        self.engine.sequence(self.tasks.get(index), seq);
    }

    /// Time has come to `now`, though there may be no event that says so.
    pub fn tick(&mut self, now: Nanos) {
        self.engine.look(&mut self.tasks, now);
    }

    /// A record of the recorder's own.
    #[cold]
    fn aside(&mut self, event: &Event) {
        match event.head.hook {
            HOOK_TICK => self.tick(Nanos(event.head.time)),
            HOOK_BLOCKED => self.blocked(event),
            _ => self.skip(event.head.task, event.head.seq),
        }
    }

    /// What a task that did not go on was in the middle of.
    fn blocked(&mut self, event: &Event) {
        if let Some(index) = self.tasks.known(event.head.task) {
            let task = self.tasks.get(index);
            task.account.blocked = Some(order::Blocked {
                time: Nanos(event.head.time),
                state: u32::try_from(event.a)
                    .ok()
                    .and_then(char::from_u32)
                    .unwrap_or('?'),
                stack: task::stack_id(event.head.stack),
            });
        }
    }

    /// The next event, which `cpu` recorded. Events of one task must come in its program order.
    pub fn event(&mut self, cpu: u32, event: &Event) {
        if event.head.hook >= HOOK_BLOCKED {
            return self.aside(event);
        }
        self.engine.events += 1;
        self.engine.now = Nanos(event.head.time);
        let index = self.tasks.index_on(cpu, event.head.task);
        let task = self.tasks.get(index);
        self.engine.sequence(task, event.head.seq);
        let effect = self
            .effects
            .get(usize::from(event.head.hook))
            .copied()
            .flatten();
        if let Some(effect) = effect {
            self.engine.event(task, effect, event);
            if effect == Effect::TaskExit {
                self.tasks.end(event.head.task);
            }
        }
        let now = Nanos(event.head.time);
        if self.engine.order.waits.due(now) {
            self.engine.look(&mut self.tasks, now);
        }
    }

    /// Counts locksets from now on, for [`Self::hypotheses`].
    pub fn mine(&mut self) {
        self.engine.mining = Some(Box::default());
    }

    /// Which locks are held where, as far as counting says.
    pub fn hypotheses(&self) -> Vec<Hypothesis> {
        let mut found = self
            .engine
            .mining
            .as_ref()
            .map_or_else(Vec::new, |mining| mining.hypotheses());
        for hypothesis in &mut found {
            let hook = self
                .names
                .header
                .hooks
                .iter()
                .find(|hook| hook.id == hypothesis.hook);
            hypothesis.target = hook.map(|hook| hook.target.clone()).unwrap_or_default();
        }
        found
    }

    /// Keeps facts from now on, for [`Self::facts`].
    pub fn want_facts(&mut self) {
        self.engine.facts.want();
    }

    /// Exchanges the facts since the last time for `list`, which is emptied.
    pub fn facts(&mut self, list: &mut Vec<Fact>) {
        self.engine.facts.swap(list);
    }

    /// The next record of any kind, as a trace or a ring has it.
    #[inline]
    pub fn record(&mut self, cpu: u32, event: &Event) {
        match event.head.hook {
            HOOK_INODE | HOOK_TASK => self.skip(event.head.task, event.head.seq),
            HOOK_TICK => self.tick(Nanos(event.head.time)),
            HOOK_BLOCKED => self.blocked(event),
            _ => self.event(cpu, event),
        }
    }

    /// Looks for cycles in the order of resources so far.
    pub fn predict(&mut self) {
        self.engine.predict();
    }

    /// The run is over: ends the windows that are still open, and says what only its end tells.
    pub fn close(&mut self, footer: Option<&meta::Footer>) {
        self.engine.close_all();
        let ended = footer.map_or(Nanos(0), |footer| footer.ended);
        let now = ended.max(self.engine.now);
        self.engine.look(&mut self.tasks, now);
        self.engine.predict();
    }

    /// Events taken in.
    pub fn events(&self) -> u64 {
        self.engine.events
    }

    /// A task as the trace introduced it; none if it did not.
    pub fn who(&self, task: TaskId) -> Option<&meta::Task> {
        let owners = self.names.tasks.get(&task.tid.0)?;
        owners.get(task.reuse as usize).or_else(|| owners.last())
    }

    /// A file: its filesystem if it is watched, its number, and its path, empty if not known.
    pub fn file(&self, index: InodeIndex) -> (Option<FilesystemKind>, Ino, String) {
        let file = self.engine.files.get(index);
        (
            file.filesystem,
            file.meta.ino,
            self.engine.files.path(index),
        )
    }

    /// The filesystem of a file.
    pub fn filesystem(&self, index: InodeIndex) -> Option<FilesystemKind> {
        self.engine.files.get(index).filesystem
    }

    /// Everything that tasks hold or wait for at this moment.
    pub fn stakes(&self) -> Vec<Stake> {
        let mut stakes = Vec::new();
        for task in self.tasks.iter() {
            stakes.extend(task.account.held(&task.locks).map(|hold| Stake {
                task: task.id,
                resource: hold.resource,
                mode: hold.mode,
                since: hold.since,
                wants: None,
            }));
            stakes.extend(task.account.waiting.map(|wait| Stake {
                task: task.id,
                resource: wait.resource,
                mode: wait.mode,
                since: wait.since,
                wants: Some(wait.operation),
            }));
        }
        stakes
    }

    /// Pairs of classes of which one was taken by a task that held the other: the held one first.
    pub fn order(&self) -> Vec<(FilesystemKind, LockClass, LockClass)> {
        self.engine.order.pairs()
    }

    /// What a hook's events mean.
    pub fn effect(&self, hook: u16) -> Option<Effect> {
        self.effects.get(usize::from(hook)).copied().flatten()
    }

    /// What the run amounts to so far. Operations still open are not in it.
    pub fn report(&self, footer: Option<&meta::Footer>, incomplete: Option<String>) -> Report {
        summary::Summary::new(self, footer).report(incomplete)
    }

    /// What the run amounts to. `incomplete` says why the trace ends early, if it does.
    pub fn finish(mut self, footer: Option<&meta::Footer>, incomplete: Option<String>) -> Report {
        self.close(footer);
        self.report(footer, incomplete)
    }
}
