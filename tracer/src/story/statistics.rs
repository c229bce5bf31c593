//! Counts and distributions of locks, faults, operations and windows, in memory that does not grow with
//! the run.

use std::collections::{BTreeMap, HashMap};

use hdrhistogram::Histogram;

use crate::{
    hooks::{FilesystemKind, LockClass, Mode},
    judge::{
        InodeIndex, Owner, Resource, TaskId,
        facts::{Fact, Outcome},
        operations::{FaultKind, Operation},
    },
    units::{Nanos, StackId},
};

/// Locks that are told apart by owner. When there are more, the less used half is told apart no longer.
const INSTANCES: usize = 512;
/// Stacks of waits that are told apart.
const WAIT_STACKS: usize = 4096;
/// Bins of a series before two become one.
const BINS: usize = 512;
/// Width of a bin at first, nanoseconds.
const BIN_NS: u64 = 10_000_000;

/// A distribution of durations in nanoseconds, with its exact count, sum and extremes.
#[derive(Clone, Debug)]
pub struct Spans {
    histogram: Histogram<u32>,
    total: u64,
    shortest: u64,
    longest: u64,
}

/// Significant decimal digits of a percentile.
const DIGITS: u8 = 2;

impl Default for Spans {
    fn default() -> Self {
        let mut histogram = Histogram::new_with_bounds(1, 2, DIGITS)
            .unwrap_or_else(|_| unreachable!("bounds of 1..2 with two digits are valid"));
        histogram.auto(true);
        Self {
            histogram,
            total: 0,
            shortest: u64::MAX,
            longest: 0,
        }
    }
}

impl Spans {
    fn add(&mut self, ns: u64) {
        // Of a growing histogram, only a value beyond every bucket could be refused.
        let _ = self.histogram.record(ns);
        self.total = self.total.saturating_add(ns);
        self.shortest = self.shortest.min(ns);
        self.longest = self.longest.max(ns);
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Their sum, nanoseconds.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The shortest, 0 if there is none.
    pub fn shortest(&self) -> u64 {
        if self.count() == 0 { 0 } else { self.shortest }
    }

    /// The longest.
    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// The duration that this share of them, 0 to 1, does not exceed, to two digits.
    pub fn quantile(&self, share: f64) -> u64 {
        self.histogram.value_at_quantile(share).min(self.longest)
    }

    /// How many lie in each span of `edges[n - 1]..edges[n]`, first below `edges[0]`, last above all.
    pub fn binned(&self, edges: &[u64]) -> Vec<u64> {
        let mut bins = vec![0; edges.len() + 1];
        for step in self.histogram.iter_recorded() {
            let at = edges.partition_point(|&edge| edge < step.value_iterated_to());
            bins[at] += step.count_since_last_iteration();
        }
        bins
    }

    /// Every recorded value, to two digits, and how many there are of it.
    pub fn recorded(&self) -> Vec<(u64, u64)> {
        self.histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
            .collect()
    }
}

/// How a lock, or many, was used.
#[derive(Clone, Debug, Default)]
pub struct Use {
    /// Acquisitions in shared mode.
    pub shared: u64,
    /// Acquisitions in exclusive mode.
    pub exclusive: u64,
    /// Waits that began.
    pub waits: u64,
    /// Waits that ended with the lock.
    pub waited: Spans,
    /// Holds that ended.
    pub held: Spans,
}

impl Use {
    fn acquired(&mut self, mode: Mode, waited: Option<u64>) {
        match mode {
            Mode::Shared => self.shared += 1,
            Mode::Excl => self.exclusive += 1,
        }
        if let Some(ns) = waited {
            self.waited.add(ns);
        }
    }

    /// Acquisitions.
    pub fn acquisitions(&self) -> u64 {
        self.shared + self.exclusive
    }
}

/// Who holds a lock.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// Who.
    pub task: TaskId,
    /// How.
    pub mode: Mode,
    /// Since when.
    pub since: Nanos,
    /// In what it was taken.
    pub within: Operation,
    /// The file that this was on.
    on: InodeIndex,
}

/// Who waits for a lock.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// Who.
    pub task: TaskId,
    /// Since when.
    pub since: Nanos,
    /// In what.
    pub within: Operation,
    /// Where, if a stack was taken.
    pub stack: Option<StackId>,
}

/// A lock as it stands.
#[derive(Clone, Debug, Default)]
pub struct Locked {
    /// Who has it.
    pub holders: Vec<Holder>,
    /// Who wants it.
    pub waiters: Vec<Waiter>,
}

/// Counts over time: one more bin for each step, and when there are too many, two become one.
#[derive(Clone, Debug)]
pub struct Series {
    from: u64,
    width: u64,
    bins: Vec<u64>,
}

impl Series {
    fn new(from: Nanos) -> Self {
        Self {
            from: from.0,
            width: BIN_NS,
            bins: Vec::new(),
        }
    }

    fn add(&mut self, at: Nanos, count: u64) {
        let mut bin = at.0.saturating_sub(self.from) / self.width;
        while bin >= BINS as u64 {
            self.bins = self.bins.chunks(2).map(|two| two.iter().sum()).collect();
            self.width *= 2;
            bin /= 2;
        }
        let bin = bin as usize;
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += count;
    }

    /// CLOCK_MONOTONIC of the first bin's start.
    pub fn from(&self) -> Nanos {
        Nanos(self.from)
    }

    /// Width of a bin, nanoseconds.
    pub fn width(&self) -> u64 {
        self.width
    }

    /// Counts.
    pub fn bins(&self) -> &[u64] {
        &self.bins
    }

    /// The last `count` bins, as rates a second; the one in progress is left out.
    pub fn rates(&self, count: usize) -> Vec<u64> {
        let whole = &self.bins[..self.bins.len().saturating_sub(1)];
        let from = whole.len().saturating_sub(count);
        whole[from..]
            .iter()
            .map(|&bin| (bin as f64 * 1e9 / self.width as f64).round() as u64)
            .collect()
    }
}

/// What is counted over time.
#[derive(Clone, Debug)]
pub struct Rates {
    /// Events.
    pub events: Series,
    /// Faults that returned.
    pub faults: Series,
    /// Windows that ended.
    pub windows: Series,
    /// Faults that a lock held off while a window was open.
    pub held_off: Series,
    /// Broken rules.
    pub found: Series,
}

/// Everything counted.
#[derive(Debug)]
pub struct Statistics {
    started: Nanos,
    now: Nanos,
    /// Over time.
    pub rates: Rates,
    /// By class of lock.
    pub classes: BTreeMap<(FilesystemKind, LockClass), Use>,
    /// By class and by what the task was doing.
    pub callers: BTreeMap<(FilesystemKind, LockClass, Operation), Use>,
    /// By lock, those of a file's pages together, for as many as are told apart.
    pub instances: HashMap<Resource, Use>,
    /// Acquisitions of locks that are not in `instances` any more.
    pub others: u64,
    /// Operations that returned, by how long they took.
    pub operations: BTreeMap<(FilesystemKind, Operation), Spans>,
    /// Faults that returned, by how long they took.
    pub faults: BTreeMap<(FilesystemKind, FaultKind), Spans>,
    /// Windows that ended, by how long they were open.
    pub windows: BTreeMap<(FilesystemKind, Operation), Spans>,
    /// Where locks were waited for: how often, and how long together.
    pub wait_stacks: HashMap<(LockClass, Operation, StackId), (u64, u64)>,
    /// How often a lock of one class was taken by a task that held one of another, outer class first. A class
    /// that follows itself is of two files.
    pub nested: BTreeMap<(FilesystemKind, LockClass, LockClass), u64>,
    /// Locks that are held or wanted now.
    pub locked: BTreeMap<Resource, Locked>,
    /// Which locks a task appears in.
    involved: HashMap<TaskId, Vec<Resource>>,
}

impl Statistics {
    /// Nothing counted yet.
    pub fn new(started: Nanos) -> Self {
        let series = || Series::new(started);
        Self {
            started,
            now: started,
            rates: Rates {
                events: series(),
                faults: series(),
                windows: series(),
                held_off: series(),
                found: series(),
            },
            classes: BTreeMap::new(),
            callers: BTreeMap::new(),
            instances: HashMap::new(),
            others: 0,
            operations: BTreeMap::new(),
            faults: BTreeMap::new(),
            windows: BTreeMap::new(),
            wait_stacks: HashMap::new(),
            nested: BTreeMap::new(),
            locked: BTreeMap::new(),
            involved: HashMap::new(),
        }
    }

    /// When recording began.
    pub fn started(&self) -> Nanos {
        self.started
    }

    /// Time of the latest event.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Nanoseconds from the start to the latest event.
    pub fn elapsed(&self) -> u64 {
        self.now.0.saturating_sub(self.started.0)
    }

    pub(super) fn event(&mut self, at: Nanos) {
        self.now = self.now.max(at);
        self.rates.events.add(at, 1);
    }

    pub(super) fn fact(
        &mut self,
        fact: &Fact,
        filesystem: impl Fn(InodeIndex) -> Option<FilesystemKind>,
    ) {
        match *fact {
            Fact::Enter { .. } | Fact::Open { .. } | Fact::Inside { .. } => {}
            Fact::Operation(seen) => {
                if let Some(kind) = filesystem(seen.inode) {
                    self.operations
                        .entry((kind, seen.operation))
                        .or_default()
                        .add(seen.to.0.saturating_sub(seen.from.0));
                }
            }
            Fact::Fault(seen) => {
                self.rates.faults.add(seen.to, 1);
                if seen.outcome == Outcome::HeldOff {
                    self.rates.held_off.add(seen.to, 1);
                }
                if let Some(kind) = filesystem(seen.inode) {
                    self.faults
                        .entry((kind, seen.kind))
                        .or_default()
                        .add(seen.to.0.saturating_sub(seen.from.0));
                }
            }
            Fact::Window(seen) => {
                self.rates.windows.add(seen.to, 1);
                if let Some(kind) = filesystem(seen.inode) {
                    self.windows
                        .entry((kind, seen.operation))
                        .or_default()
                        .add(seen.to.0.saturating_sub(seen.from.0));
                }
            }
            Fact::Wait {
                task,
                resource,
                within,
                on,
                at,
                stack,
            } => {
                let locked = self.locked.entry(resource).or_default();
                locked.waiters.push(Waiter {
                    task,
                    since: at,
                    within,
                    stack,
                });
                self.involve(task, resource);
                self.uses(resource, within, filesystem(on), |uses| uses.waits += 1);
            }
            Fact::Acquire {
                task,
                resource,
                mode,
                within,
                on,
                at,
            } => {
                let holder = Holder {
                    task,
                    mode,
                    since: at,
                    within,
                    on,
                };
                self.acquired(resource, holder, filesystem(on));
            }
            Fact::Release {
                task,
                resource,
                mode,
                since,
                at,
            } => {
                let ns = at.0.saturating_sub(since.0);
                if let Some(holder) = self.released(task, resource, mode) {
                    let kind = filesystem(holder.on);
                    self.uses(resource, holder.within, kind, |uses| uses.held.add(ns));
                }
            }
            Fact::Lapse { task, resource, .. } => {
                self.released(task, resource, Mode::Shared);
            }
            Fact::Downgrade { task, resource } => {
                if let Some(locked) = self.locked.get_mut(&resource)
                    && let Some(holder) = locked
                        .holders
                        .iter_mut()
                        .rev()
                        .find(|holder| holder.task == task && holder.mode == Mode::Excl)
                {
                    holder.mode = Mode::Shared;
                }
            }
            Fact::Forget { task } => {
                for key in self.involved.remove(&task).unwrap_or_default() {
                    if let Some(locked) = self.locked.get_mut(&key) {
                        locked.holders.retain(|holder| holder.task != task);
                        locked.waiters.retain(|waiter| waiter.task != task);
                        if locked.holders.is_empty() && locked.waiters.is_empty() {
                            self.locked.remove(&key);
                        }
                    }
                }
            }
            Fact::Found { at, .. } => self.rates.found.add(at, 1),
        }
    }

    fn involve(&mut self, task: TaskId, resource: Resource) {
        let involved = self.involved.entry(task).or_default();
        if !involved.contains(&resource) {
            involved.push(resource);
        }
    }

    fn acquired(&mut self, resource: Resource, holder: Holder, kind: Option<FilesystemKind>) {
        let Holder { task, within, .. } = holder;
        if let Some(kind) = kind {
            for outer in self.involved.get(&task).into_iter().flatten() {
                let held = self
                    .locked
                    .get(outer)
                    .is_some_and(|locked| locked.holders.iter().any(|holder| holder.task == task));
                if held && *outer != resource {
                    *self
                        .nested
                        .entry((kind, outer.class, resource.class))
                        .or_default() += 1;
                }
            }
        }
        let locked = self.locked.entry(resource).or_default();
        let waiting = locked
            .waiters
            .iter()
            .position(|waiter| waiter.task == task)
            .map(|place| locked.waiters.remove(place));
        locked.holders.push(holder);
        self.involve(task, resource);
        let waited = waiting.map(|waiter| holder.since.0.saturating_sub(waiter.since.0));
        if let (Some(waiter), Some(ns)) = (waiting, waited)
            && let Some(stack) = waiter.stack
        {
            let place = (resource.class, within, stack);
            if self.wait_stacks.len() < WAIT_STACKS || self.wait_stacks.contains_key(&place) {
                let (count, total) = self.wait_stacks.entry(place).or_default();
                *count += 1;
                *total += ns;
            }
        }
        self.uses(resource, within, kind, |uses| {
            uses.acquired(holder.mode, waited);
        });
    }

    /// The hold that is over, if its beginning was seen.
    fn released(&mut self, task: TaskId, resource: Resource, mode: Mode) -> Option<Holder> {
        let locked = self.locked.get_mut(&resource)?;
        let own = |holder: &Holder| holder.task == task;
        let place = locked
            .holders
            .iter()
            .rposition(|holder| own(holder) && holder.mode == mode)
            .or_else(|| locked.holders.iter().rposition(own))?;
        let holder = locked.holders.remove(place);
        let left = locked.holders.iter().any(own);
        if locked.holders.is_empty() && locked.waiters.is_empty() {
            self.locked.remove(&resource);
        }
        if !left && let Some(involved) = self.involved.get_mut(&task) {
            involved.retain(|known| *known != resource);
        }
        Some(holder)
    }

    fn uses(
        &mut self,
        resource: Resource,
        within: Operation,
        kind: Option<FilesystemKind>,
        change: impl Fn(&mut Use),
    ) {
        let class = resource.class;
        if let Some(kind) = kind {
            change(self.classes.entry((kind, class)).or_default());
            change(self.callers.entry((kind, class, within)).or_default());
        }
        let owner = match resource.owner {
            Owner::Page(inode, _) => Owner::Inode(inode),
            other => other,
        };
        let instance = Resource { class, owner };
        if self.instances.len() == INSTANCES && !self.instances.contains_key(&instance) {
            self.forget_instances();
        }
        change(self.instances.entry(instance).or_default());
    }

    #[cold]
    fn forget_instances(&mut self) {
        let mut counts: Vec<u64> = self.instances.values().map(Use::acquisitions).collect();
        let (_, &mut middle, _) = counts.select_nth_unstable(INSTANCES / 2);
        let others = &mut self.others;
        self.instances.retain(|_, uses| {
            let count = uses.acquisitions();
            let keep = count > middle;
            if !keep {
                *others += count;
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_keeps_its_sum_however_long_it_gets() {
        let mut series = Series::new(Nanos(0));
        for step in 0..10_000 {
            series.add(Nanos(step * BIN_NS), 1);
        }
        assert!(series.bins().len() <= BINS);
        assert_eq!(series.bins().iter().sum::<u64>(), 10_000);
    }

    #[test]
    fn locks_that_are_used_most_stay_told_apart() {
        let mut statistics = Statistics::new(Nanos(0));
        let lock = |number| Resource {
            class: LockClass::Ilock,
            owner: Owner::Inode(InodeIndex(number)),
        };
        let (busy, new) = (INSTANCES as u32 / 4, INSTANCES as u32 * 3);
        let mut count = 0;
        for number in 0..new {
            let uses = if number < busy { 5 } else { 1 };
            for _ in 0..uses {
                count += 1;
                statistics.uses(lock(number), Operation::PunchHole, None, |uses| {
                    uses.shared += 1
                });
            }
        }
        assert!(statistics.instances.len() <= INSTANCES);
        for number in 0..busy {
            assert_eq!(statistics.instances[&lock(number)].acquisitions(), 5);
        }
        let told: u64 = statistics.instances.values().map(Use::acquisitions).sum();
        assert_eq!(told + statistics.others, count);
    }

    #[test]
    fn percentiles_are_right_to_two_digits() {
        let mut spans = Spans::default();
        for ns in 1..=10_000 {
            spans.add(ns);
        }
        assert_eq!(
            (spans.count(), spans.shortest(), spans.longest()),
            (10_000, 1, 10_000)
        );
        for share in [0.5, 0.9, 0.99] {
            let exact = share * 10_000.0;
            let error = (spans.quantile(share) as f64 - exact).abs() / exact;
            assert!(error < 0.01, "{share}: {error}");
        }
        assert_eq!(spans.binned(&[100, 1000]).iter().sum::<u64>(), 10_000);
    }
}
