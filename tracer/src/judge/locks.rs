//! What a task takes, holds and waits for: locks of inodes, and everything else that orders tasks.

use tracer_ebpf::Event;

use crate::{
    hooks::{EntryAction, LockAction, LockClass, Mode},
    judge::{
        engine::{Engine, moment},
        facts::Fact,
        finding::{Act, Key, LockSeen, Party, Role, Witness},
        inode::{Files, InodeIndex},
        lockset::{Held, Released},
        operations::{Operation, vm_fault},
        order::{
            Actor, Doing, Ended, Hold as OrderHold, Leak, Owner, Resource, Wait, judge_freeze,
            needs_protection,
        },
        owed::went_on,
        rules::{Kind, Observed},
        task::{FaultScope, Scope, Task, TaskId, Torn, doing, stack_id},
    },
    units::{ByteRange, HookId, Nanos, StackId},
};

/// include/trace/events/lock.h: LCB_F_WRITE
const CONTENDED_WRITE: u64 = 1 << 2;
/// include/linux/mm_types.h: FAULT_FLAG_VMA_LOCK; unused before 6.4.
const FAULT_FLAG_VMA_LOCK: u64 = 1 << 12;

impl Engine {
    pub(super) fn lock(&mut self, task: &mut Task, action: LockAction, event: &Event) {
        if event.inode == 0 {
            let owner = Owner::Process(self.process(task));
            let class = LockClass::MmapLock;
            return self.other(task, Resource { class, owner }, action, event);
        }
        let Some(inode) = task.concerned(event.inode) else {
            return;
        };
        let Some(class) = self.files.lock_class(inode, event.a as i64) else {
            return;
        };
        let now = Nanos(event.head.time);
        let resource = Resource {
            class,
            owner: Owner::Inode(inode),
        };
        match action {
            LockAction::Wait => {
                self.coverage.waited(class);
                self.tell_wait(task, resource, event);
                if class == LockClass::InvalidateLock
                    && let Some(Scope::Fault(fault)) = doing(&mut task.scopes)
                    && fault.inode == inode
                {
                    fault.waiting = Some(now);
                }
                self.waits(task, resource, event);
            }
            LockAction::Acquire(mode) | LockAction::TryAcquire(mode) => {
                self.coverage.acquired(class, mode);
                if matches!(action, LockAction::Acquire(_)) {
                    self.take(task, resource, mode, event);
                }
                if class == LockClass::InvalidateLock
                    && let Some(Scope::Fault(fault)) = doing(&mut task.scopes)
                    && fault.inode == inode
                {
                    fault.freeze.locked(event.head.flags, mode, moment(event));
                }
                self.tell_acquire(task, resource, mode, now);
                if class != LockClass::IMmapRwsem {
                    went_on(task, now);
                }
                task.locks
                    .acquire(inode, class, mode, now, stack_id(event.head.stack));
                match class {
                    LockClass::InvalidateLock => {
                        exclusion_acquired(task, inode, mode, now);
                        if mode == Mode::Excl {
                            self.taken_too_late(task, inode);
                        }
                    }
                    LockClass::IRwsem => rwsem_cycled(task, inode),
                    _ => {}
                }
            }
            LockAction::Release(mode) => {
                let released = task.locks.release(inode, class, mode);
                if let Released::Matched(held) | Released::OtherMode(held) = released {
                    self.facts.tell(|| Fact::Release {
                        task: task.id,
                        resource,
                        mode: held.hold.mode,
                        since: held.hold.since,
                        at: now,
                    });
                }
                match released {
                    Released::Matched(_) => {}
                    Released::Unseen => {
                        let mended = self.order.waits.mended(resource);
                        if !mended && taken_inside_only(class) {
                            self.released_wrongly(task, (inode, class, mode), None, event);
                        }
                    }
                    Released::OtherMode(held) => {
                        self.released_wrongly(task, (inode, class, mode), Some(held), event);
                    }
                }
                match class {
                    LockClass::InvalidateLock => self.exclusion_released(task, inode, now),
                    LockClass::IRwsem => rwsem_cycled(task, inode),
                    _ => {}
                }
            }
            LockAction::Downgrade => {
                task.locks.downgrade(inode, class, now);
                self.facts.tell(|| Fact::Downgrade {
                    task: task.id,
                    resource,
                });
                if class == LockClass::InvalidateLock {
                    self.exclusion_released(task, inode, now);
                }
            }
        }
    }

    /// A lock was released that the task holds in another mode, or not at all.
    #[cold]
    fn released_wrongly(
        &mut self,
        task: &mut Task,
        (inode, class, mode): (InodeIndex, LockClass, Mode),
        held: Option<Held>,
        event: &Event,
    ) {
        let Some(operation) = doing_what(task) else {
            return;
        };
        let now = Nanos(event.head.time);
        let mut all = LockSeen::all(task.id, &task.locks, now);
        all.extend(held.map(|held| LockSeen {
            task: task.id,
            inode: Some(inode),
            class,
            mode: held.hold.mode,
            held_ns: now.0.saturating_sub(held.hold.since.0),
        }));
        let (observed, stack) = match held {
            Some(held) => (Observed::ReleasedAs(held.hold.mode, mode), held.stack),
            None => (Observed::ReleasedUnheld(mode), None),
        };
        let left = (inode, class, stack);
        self.leak(task.id, left, observed, operation, Act::Release, all, event);
    }

    /// Locks whose release will not be seen, since a caller that is in no operation makes it.
    pub(super) fn handed_on(&mut self, task: &mut Task) {
        task.locks.take_leaked(|_| true);
        self.facts.tell(|| Fact::Forget { task: task.id });
    }

    /// Locks that outlive the last scope that lets their release be seen.
    pub(super) fn leaked(
        &mut self,
        task: &mut Task,
        operation: Operation,
        entered: Nanos,
        event: &Event,
    ) {
        let all = LockSeen::all(task.id, &task.locks, Nanos(event.head.time));
        let Task {
            scopes, locks, id, ..
        } = task;
        let leaked = locks.take_leaked(|inode| {
            !scopes.iter().any(|(_, scope)| match scope {
                Scope::Change(change) => change.iter().any(|subject| subject.inode == inode),
                Scope::Fault(fault) => fault.inode == inode,
                Scope::Part => false,
            })
        });
        if !leaked.is_empty() {
            self.facts.tell(|| Fact::Forget { task: *id });
        }
        for held in leaked {
            let observed = Observed::StillHeld(held.hold.mode);
            self.order.waits.leaked(Leak {
                resource: Resource {
                    class: held.class,
                    owner: Owner::Inode(held.inode),
                },
                mode: held.hold.mode,
                task: *id,
                operation,
                returned: Nanos(event.head.time),
                stack: held.stack.or(stack_id(event.head.stack)),
            });
            self.leak(
                *id,
                (held.inode, held.class, held.stack),
                observed,
                (operation, entered),
                Act::Return,
                all.clone(),
                event,
            );
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one finding")]
    fn leak(
        &mut self,
        task: TaskId,
        (inode, class, stack): (InodeIndex, LockClass, Option<StackId>),
        observed: Observed,
        (operation, entered): (Operation, Nanos),
        act: Act,
        locks: Vec<LockSeen>,
        event: &Event,
    ) {
        let Some(filesystem) = self.files.get(inode).filesystem else {
            return;
        };
        let key = Key {
            kind: Kind::LockLeak,
            filesystem,
            operation,
            class,
            observed,
            hook: HookId(event.head.hook),
        };
        let witness = Witness {
            scope: None,
            entered,
            time: Nanos(event.head.time),
            act,
            inode,
            range: ByteRange::new(0, event.size),
            size: event.size,
            locks,
            actor: Party {
                task,
                role: Role::Actor(operation),
                stack: stack_id(event.head.stack).or(stack),
            },
            other: None,
            more: Vec::new(),
        };
        self.report(key, &witness);
    }

    pub(super) fn process(&self, task: &mut Task) -> u32 {
        let tid = task.id.tid.0;
        let known = || self.processes.get(&tid).copied().unwrap_or(tid);
        *task.account.process.get_or_insert_with(known)
    }

    /// What the task is in the middle of.
    fn doing(&self, task: &mut Task) -> Option<Doing> {
        let (operation, inode, entered) = match doing(&mut task.scopes)? {
            Scope::Change(change) => (change.operation, change.subjects.0.inode, change.entered),
            Scope::Fault(fault) => (fault.operation, fault.inode, fault.entered),
            Scope::Part => return None,
        };
        Some(Doing {
            operation,
            inode,
            filesystem: self.files.get(inode).filesystem?,
            entered,
        })
    }

    /// The task took a resource for which it would have waited.
    fn take(&mut self, task: &mut Task, resource: Resource, mode: Mode, event: &Event) {
        if let Some(doing) = self.doing(task) {
            let wanted = (resource, mode);
            let actor = &mut Actor::of(task);
            let told = (&mut self.findings, &self.files);
            self.order.take(told, actor, doing, wanted, moment(event));
        }
    }

    /// The task waits.
    fn waits(&mut self, task: &mut Task, resource: Resource, event: &Event) {
        let mode = match event.c & CONTENDED_WRITE {
            0 => Mode::Shared,
            _ => Mode::Excl,
        };
        let Some(doing) = self.doing(task) else {
            return;
        };
        let moment = moment(event);
        task.account.waiting = Some(Wait {
            resource,
            mode,
            since: moment.time,
            operation: doing.operation,
            inode: doing.inode,
            entered: doing.entered,
            hook: moment.hook,
            stack: moment.stack,
        });
    }

    /// What happens to a resource that is no lock of an inode.
    fn other(&mut self, task: &mut Task, resource: Resource, action: LockAction, event: &Event) {
        match action {
            LockAction::Wait => {
                self.coverage.waited(resource.class);
                self.tell_wait(task, resource, event);
                self.waits(task, resource, event);
            }
            LockAction::Acquire(mode) | LockAction::TryAcquire(mode) => {
                self.coverage.acquired(resource.class, mode);
                if matches!(action, LockAction::Acquire(_)) {
                    self.take(task, resource, mode, event);
                }
                let now = Nanos(event.head.time);
                self.tell_acquire(task, resource, mode, now);
                task.account.others.push(OrderHold {
                    resource,
                    mode,
                    since: now,
                    stack: stack_id(event.head.stack),
                });
            }
            LockAction::Release(_) => {
                if let Some(held) = task.account.release(resource) {
                    self.tell_release(task.id, &held, event);
                }
            }
            LockAction::Downgrade => {
                task.account.downgrade(resource);
                self.facts.tell(|| Fact::Downgrade {
                    task: task.id,
                    resource,
                });
            }
        }
    }

    fn tell_wait(&mut self, task: &mut Task, resource: Resource, event: &Event) {
        if let Some((within, on)) = doing_on(task) {
            self.facts.tell(|| Fact::Wait {
                task: task.id,
                resource,
                within,
                on,
                at: Nanos(event.head.time),
                stack: stack_id(event.head.stack),
            });
        }
    }

    fn tell_acquire(&mut self, task: &mut Task, resource: Resource, mode: Mode, at: Nanos) {
        if let Some((within, on)) = doing_on(task) {
            self.facts.tell(|| Fact::Acquire {
                task: task.id,
                resource,
                mode,
                within,
                on,
                at,
            });
        }
    }

    fn tell_release(&mut self, task: TaskId, held: &OrderHold, event: &Event) {
        self.facts.tell(|| Fact::Release {
            task,
            resource: held.resource,
            mode: held.mode,
            since: held.since,
            at: Nanos(event.head.time),
        });
    }

    /// Ends holds of anything but inode locks whose release no hook sees.
    pub(super) fn lapse(&mut self, task: &mut Task, over: impl Fn(LockClass) -> bool) {
        let facts = &mut self.facts;
        let id = task.id;
        task.account.others.retain(|held| {
            let over = over(held.resource.class);
            if over {
                facts.tell(|| Fact::Lapse {
                    task: id,
                    resource: held.resource,
                    since: held.since,
                });
            }
            !over
        });
    }

    pub(super) fn resource(
        &mut self,
        task: &mut Task,
        class: LockClass,
        action: LockAction,
        event: &Event,
    ) {
        let owner = if class == LockClass::FolioLock {
            // Of the folio's mapping; block devices have folios too.
            match self.files.at(event.a, Nanos(event.head.time)) {
                Some(inode) => Owner::Page(inode, event.b),
                None => return,
            }
        } else {
            Owner::Filesystem(event.a)
        };
        self.other(task, Resource { class, owner }, action, event);
    }

    pub(super) fn entry_lock(&mut self, task: &mut Task, action: EntryAction, event: &Event) {
        let Some(inode) = task.concerned(event.inode) else {
            return;
        };
        let class = LockClass::DaxEntry;
        let resource = Resource {
            class,
            owner: Owner::Page(inode, event.a),
        };
        match action {
            EntryAction::Wait => {
                self.tell_wait(task, resource, event);
                self.waits(task, resource, event);
                if let Some(wait) = &mut task.account.waiting {
                    wait.mode = Mode::Excl;
                }
            }
            EntryAction::Acquire => {
                self.entry_locks += 1;
                // include/linux/xarray.h:xa_is_internal: an error code, not an entry.
                if event.c & 3 != 2 {
                    if let Some(Scope::Fault(fault)) = doing(&mut task.scopes)
                        && fault.inode == inode
                    {
                        let hold = task.locks.find(inode, LockClass::InvalidateLock);
                        fault.looked_up_unlocked |= hold.is_none();
                    }
                    let action = LockAction::Acquire(Mode::Excl);
                    self.other(task, resource, action, event);
                }
            }
            EntryAction::Release => {
                for held in task.account.release_class(class) {
                    self.tell_release(task.id, &held, event);
                }
            }
        }
    }

    /// A fault comes with the lock of its address space or mapping, taken before any hook.
    pub(super) fn mapping_held(&mut self, task: &mut Task, event: &Event) -> Option<LockClass> {
        let class = match event.c & FAULT_FLAG_VMA_LOCK {
            0 => LockClass::MmapLock,
            _ => LockClass::VmaLock,
        };
        let owner = Owner::Process(self.process(task));
        let resource = Resource { class, owner };
        let others = &task.account.others;
        if others.iter().any(|held| held.resource == resource) {
            return None;
        }
        if !task.scopes.is_empty() {
            self.take(task, resource, Mode::Shared, event);
        }
        task.account.others.push(OrderHold {
            resource,
            mode: Mode::Shared,
            since: Nanos(event.head.time),
            stack: None,
        });
        Some(class)
    }

    /// User memory is about to be copied, of which any page may fault: as if it did, if the task holds
    /// what that would want (mm/filemap.c, head comment: mmap_lock comes first, but for i_rwsem).
    pub(super) fn may_fault(&mut self, task: &mut Task, event: &Event) {
        let alone = task
            .locks
            .iter()
            .all(|held| held.class == LockClass::IRwsem)
            && task
                .account
                .others
                .iter()
                .all(|held| !held.resource.class.is_journal());
        if alone {
            return;
        }
        let resource = Resource {
            class: LockClass::MmapLock,
            owner: Owner::Process(self.process(task)),
        };
        self.take(task, resource, Mode::Shared, event);
    }

    pub(super) fn layout_wait(&mut self, task: &mut Task, event: &Event) {
        let Some(inode) = task.concerned(event.inode) else {
            return;
        };
        if let Some(doing) = self.doing(task) {
            let actor = &Actor::of(task);
            self.order
                .wait_for_pins(&mut self.findings, actor, doing, inode, moment(event));
        }
        let resource = Resource {
            class: LockClass::PagePin,
            owner: Owner::Inode(inode),
        };
        self.waits(task, resource, event);
    }

    pub(super) fn end_freeze(&mut self, task: &mut Task, fault: &FaultScope, event: &Event) {
        if fault.write
            && let Some(balance) = self.balance(fault.inode)
        {
            let ended = Ended {
                task: task.id,
                operation: fault.operation,
                inode: fault.inode,
                range: Files::page(fault.page, 1),
                failed: event.a & vm_fault::ERROR != 0,
                hook: HookId(event.head.hook),
                stack: stack_id(event.head.stack).or(fault.stack),
            };
            balance.ends(ended, Nanos(event.head.time));
        }
        if !needs_protection(fault.operation) {
            return;
        }
        if let Some(filesystem) = self.files.get(fault.inode).filesystem {
            let doing = Doing {
                operation: fault.operation,
                inode: fault.inode,
                filesystem,
                entered: fault.entered,
            };
            let (findings, doubts) = (&mut self.findings, &mut self.doubts);
            let actor = &Actor::of(task);
            judge_freeze(findings, doubts, self.cpus, &fault.freeze, actor, doing);
        }
    }

    /// Ends the task's window on the inode, until it changes or invalidates more.
    pub(super) fn exclusion_released(&mut self, task: &Task, inode: InodeIndex, now: Nanos) {
        for (_, scope) in &task.scopes {
            if let Scope::Change(change) = scope
                && change
                    .iter()
                    .any(|subject| subject.inode == inode && subject.window)
                && let Some(window) = self.window(inode, change.id)
            {
                window.to = Some(now);
            }
        }
    }
}

/// True if nobody holds it when an operation begins. i_rwsem may be the caller's, who has it released and
/// taken back: the VFS calls notify_change under it.
fn taken_inside_only(class: LockClass) -> bool {
    matches!(
        class,
        LockClass::InvalidateLock | LockClass::Ilock | LockClass::IDataSem
    )
}

fn exclusion_acquired(task: &mut Task, inode: InodeIndex, mode: Mode, now: Nanos) {
    for (_, scope) in &mut task.scopes {
        match scope {
            Scope::Fault(fault) if fault.inode == inode => {
                fault.locked = true;
                if let Some(from) = fault.waiting.take() {
                    let longest = fault.waited.map_or(0, |(from, to)| to.0 - from.0);
                    if now.0.saturating_sub(from.0) >= longest {
                        fault.waited = Some((from, now.max(from)));
                    }
                }
            }
            Scope::Change(change) => {
                let (first, second) = &mut change.subjects;
                for subject in std::iter::once(first).chain(second) {
                    if subject.inode == inode {
                        subject.since_size = subject.since_size.max(Some(mode));
                        // Faults may have come in before.
                        subject.torn = Torn::default();
                    }
                }
            }
            Scope::Fault(_) | Scope::Part => {}
        }
    }
}

/// Others may have changed the size while i_rwsem was free, or before it was taken.
fn rwsem_cycled(task: &mut Task, inode: InodeIndex) {
    for (_, scope) in &mut task.scopes {
        if let Scope::Change(change) = scope {
            let (first, second) = &mut change.subjects;
            for subject in std::iter::once(first).chain(second) {
                if subject.inode == inode {
                    subject.last_size = None;
                    subject.rwsem_cycled = true;
                    subject.was_drained = std::mem::take(&mut subject.drained);
                }
            }
        }
    }
}

/// What the task is in the middle of, and on which file.
fn doing_on(task: &mut Task) -> Option<(Operation, InodeIndex)> {
    match doing(&mut task.scopes)? {
        Scope::Change(change) => Some((change.operation, change.subjects.0.inode)),
        Scope::Fault(fault) => Some((fault.operation, fault.inode)),
        Scope::Part => None,
    }
}

fn doing_what(task: &mut Task) -> Option<(Operation, Nanos)> {
    match doing(&mut task.scopes)? {
        Scope::Change(change) => Some((change.operation, change.entered)),
        Scope::Fault(fault) => Some((fault.operation, fault.entered)),
        Scope::Part => None,
    }
}
