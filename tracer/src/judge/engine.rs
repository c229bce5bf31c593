//! What each event does to the state of its task and its file.

use std::mem;

use tracer_ebpf::{
    Event,
    event::{FLAG_SCOPE_OVERFLOW, FLAG_SECOND_INODE},
};

use crate::{
    hooks::{Effect, Entry, FilesystemKind, LockClass, Mode, Span, Teardown},
    judge::{
        corruption::Corruptions,
        coverage::Coverage,
        due::{disk_size, orphan, synced},
        facts::{Fact, Facts, OperationSeen, WindowSeen},
        faults::{PMD_PAGES, meet},
        finding::{Act, Findings, Key, LockSeen, Party, Role, Witness},
        hash::Map,
        inode::{Awaited, Files, InodeIndex, Sample},
        lockset::{Hold, LockSet},
        mining::{Example, Mining, Phase, Place},
        operations::{Begun, FAULT_FLAG_WRITE, begun, installed, request},
        order::{Balance, Balances, Doubts, FreezeSeen, Moment, Order, Owner, Resource},
        owed::{Broken, Sight, copies, drained, went_on},
        resample::validate,
        rules::{self, ChangeFacts, Observed, SeenAt, SizeFacts},
        task::{
            ChangeScope, FaultScope, FreshBlocks, Invalidation, Reported, Scope, Subject, Task,
            TaskId, Tasks, Unknown, doing, stack_id,
        },
        translations::{Frame, Owners},
        window::{Breach, Danger, Exposure, FindingIndex, ScopeId, Window},
    },
    trace::meta,
    units::{ByteRange, HookId, Nanos, PAGE_SHIFT, PageOffset, StackId},
};

/// Acts that could not be judged, by cause.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unjudged {
    /// A record of the task was missing.
    pub gap: u64,
    /// Its scope was full.
    pub overflow: u64,
    /// Its file was never named.
    pub inode: u64,
}

impl Unjudged {
    /// All of them.
    pub fn total(self) -> u64 {
        self.gap + self.overflow + self.inode
    }
}

/// The state of a run, tasks apart.
#[derive(Debug)]
pub struct Engine {
    pub files: Files,
    pub findings: Findings,
    /// For those who count and draw.
    pub facts: Facts,
    /// Wrong data that the workload read.
    pub corruptions: Corruptions,
    pub coverage: Coverage,
    pub unjudged: Unjudged,
    /// Events taken in.
    pub events: u64,
    /// Records missing from tasks' sequences.
    pub missing: u64,
    /// DAX entries locked.
    pub entry_locks: u64,
    /// Latest extent change with a stack, by filesystem.
    pub changes: [Option<Sample>; FilesystemKind::ALL.len()],
    /// What tasks take in which order, and who waits for whom.
    pub order: Order,
    /// Processes of threads.
    pub processes: Map<u32, u32>,
    pub(super) doubts: Doubts,
    /// Of freeze protection; none if faults are left out on purpose.
    balances: Option<Balances>,
    pub(super) cpus: u32,
    /// Pages that operations sleep for.
    pub(super) awaited: Vec<Awaited>,
    /// Which page of which file mapped a frame last.
    pub(super) owners: Owners,
    /// What the plan's hooks can show.
    pub sight: Sight,
    /// Tasks that use a mapping that they took before.
    pub(super) mappings_used: u32,
    /// Which locks are held where, if somebody asked.
    pub mining: Option<Box<Mining>>,
    /// Events are missing: nothing is proven by what was not seen.
    pub lossy: bool,
    started: Nanos,
    scopes: u64,
    /// Time of the latest event.
    pub now: Nanos,
}

impl Engine {
    /// The state before the first event.
    pub fn new(header: &meta::Header) -> Self {
        Self {
            files: Files::new(header),
            findings: Findings::default(),
            facts: Facts::default(),
            corruptions: Corruptions::default(),
            coverage: Coverage::default(),
            unjudged: Unjudged::default(),
            events: 0,
            missing: 0,
            entry_locks: 0,
            changes: [None; FilesystemKind::ALL.len()],
            order: Order::default(),
            processes: Map::default(),
            doubts: Doubts::default(),
            balances: (header.left_out == 0).then(Balances::default),
            cpus: header.cpus,
            awaited: Vec::new(),
            owners: Owners::default(),
            sight: Sight::new(header),
            mappings_used: 0,
            mining: None,
            lossy: false,
            started: header.started,
            scopes: 0,
            now: header.started,
        }
    }

    /// Takes a record's number: 0 begins a thread id's next owner, a jump is a gap.
    #[inline]
    pub fn sequence(&mut self, task: &mut Task, seq: u32) {
        if seq != task.expected {
            self.out_of_sequence(task, seq);
        }
        task.expected = seq.wrapping_add(1);
    }

    #[cold]
    fn out_of_sequence(&mut self, task: &mut Task, seq: u32) {
        if seq == 0 {
            self.abandon(task);
            task.unknown = None;
            task.id.reuse += 1;
            task.account.process = None;
            return;
        }
        let ahead = seq.wrapping_sub(task.expected);
        self.missing += if ahead < 1 << 31 { u64::from(ahead) } else { 1 };
        self.lose(task, Unknown::Gap);
    }

    /// From here on nothing is known about the task.
    #[cold]
    fn lose(&mut self, task: &mut Task, why: Unknown) {
        if why == Unknown::Gap {
            self.forget_translations();
        }
        if let Some(balances) = &mut self.balances {
            balances.lost();
        }
        self.abandon(task);
        task.unknown = Some(why);
    }

    /// Drops what the task had open, unjudged.
    fn abandon(&mut self, task: &mut Task) {
        self.unsampled(task);
        if !task.scopes.is_empty() || !task.locks.is_empty() {
            self.facts.tell(|| Fact::Forget { task: task.id });
        }
        for (_, scope) in task.scopes.drain(..) {
            match scope {
                Scope::Change(change) => {
                    for subject in change.iter() {
                        let file = self.files.get_mut(subject.inode);
                        file.open.retain(|window| window.scope != change.id);
                        file.end_operation(change.entry.changes());
                    }
                    self.awaited.retain(|page| page.scope != change.id);
                }
                Scope::Fault(fault) => {
                    self.files.get_mut(fault.inode).end_fault();
                    if fault.write
                        && let Some(balance) = self.balance(fault.inode)
                    {
                        balance.lost();
                    }
                }
                Scope::Part => {}
            }
        }
        task.locks.clear();
        task.account.clear();
    }

    /// Takes an event.
    pub fn event(&mut self, task: &mut Task, effect: Effect, event: &Event) {
        // Whatever it waited for, it goes on.
        task.account.waiting = None;
        if let Effect::Enter(entry) = effect {
            return self.enter(task, entry, event);
        }
        if effect == Effect::TaskExit {
            self.abandon(task);
            self.facts.tell(|| Fact::Forget { task: task.id });
            return;
        }
        if let Some(since) = task.began() {
            self.findings.acts(task.id, since);
        }
        match effect {
            Effect::Invalidate(span, how) => self.tear_down(span, how, event),
            Effect::LayoutScan(span) => self.unmapped_for_scan(span, event),
            Effect::Evict => self.evicted(event),
            Effect::Withdraw => self.tear_down(Span::Whole, Teardown::Unmap, event),
            Effect::Protect => self.protect(event),
            _ => {}
        }
        if let Some(why) = task.unknown {
            return self.unknown(why, effect);
        }
        if self.mining.is_some() {
            self.mine(task, effect, event);
        }
        match effect {
            Effect::Lock(action) => self.lock(task, action, event),
            Effect::Leave(entry) => self.leave(task, entry, event),
            Effect::Install(how) => self.install(task, how, event),
            Effect::Invalidate(span, how) => self.torn(task, span, how, event, false),
            Effect::LayoutScan(span) => self.scan(task, span, event),
            Effect::ChangeExtents(span) => {
                self.map_changed(task, span, event);
                self.due_in_one(task, span, event);
                self.change(task, span, true, event);
            }
            Effect::WriteExtents(span) => self.written(task, span, Act::Convert, event),
            Effect::ConvertExtents(span) => self.change(task, span, false, event),
            Effect::Invalidated => went_on(task, Nanos(event.head.time)),
            Effect::DrainDirect => drained(task, event.inode),
            Effect::DaxTransfer => {
                self.dax_write(task, event);
                self.written(task, Span::Bytes, Act::Data, event);
                self.transferred(task, event);
                self.may_fault(task, event);
            }
            Effect::DirectTransfer => {
                self.transferred(task, event);
                self.writes_beside_others(task, event);
            }
            Effect::Advice => self.advised(task, event),
            Effect::UnderExclusion(span) => self.due_under_exclusion(task, span, event),
            Effect::Switch(_) => self.at_its_point(task, event),
            Effect::UserMemory => self.may_fault(task, event),
            Effect::Allocate(span, fresh) => self.allocated(task, span, fresh, event),
            Effect::MapExtent => {
                task.fresh.mapped = true;
                self.map_entered(task, event);
            }
            Effect::Zero => task.fresh.zeroed = true,
            Effect::LookUp(Entry::Reserve) => self.looked_up_to_reserve(task, event),
            Effect::LookUp(_) => self.looked_up(task),
            Effect::Validate => validate(task, event),
            Effect::Validated => self.validated(task, event),
            Effect::Reserve(span) => self.reserved(task, span, event),
            Effect::DiskSize(span) => disk_size(task, span, event),
            Effect::Orphan => orphan(task, event.inode),
            Effect::Sync => synced(task, event),
            Effect::Copies => copies(task, event),
            Effect::CopiesDropped => self.copies_dropped(task, event),
            Effect::Unannounced => self.unannounced(task, event),
            Effect::EntryLock(action) => self.entry_lock(task, action, event),
            Effect::Resource(class, action) => self.resource(task, class, action, event),
            Effect::LayoutWait => self.layout_wait(task, event),
            Effect::Enter(_)
            | Effect::TaskExit
            | Effect::Evict
            | Effect::Withdraw
            | Effect::Protect
            | Effect::Pause
            | Effect::PauseUnlocked
            | Effect::Note => {}
        }
    }

    /// Counts the locks that an act came with.
    #[cold]
    fn mine(&mut self, task: &mut Task, effect: Effect, event: &Event) {
        let phase = match effect {
            Effect::LayoutScan(_) => Phase::Scan,
            Effect::Invalidate(..) => Phase::Invalidate,
            Effect::ChangeExtents(_) | Effect::ConvertExtents(_) => Phase::Change,
            Effect::Allocate(..) => Phase::Allocate,
            Effect::Install(how) if installed(how, event.c) => Phase::Install,
            Effect::DaxTransfer => Phase::Transfer,
            _ => return,
        };
        let (operation, inode, inherited) = match doing(&mut task.scopes) {
            Some(Scope::Fault(fault)) if fault.address == event.inode => {
                (fault.operation, fault.inode, None)
            }
            Some(Scope::Change(change)) => match change.subject(event.inode) {
                Some(subject) => (
                    change.operation,
                    subject.inode,
                    (change.entry == Entry::SetSize && !subject.rwsem_cycled)
                        .then_some((LockClass::IRwsem, Mode::Excl)),
                ),
                None => return,
            },
            _ => return,
        };
        let file = self.files.get(inode);
        let Some(filesystem) = file.filesystem else {
            return;
        };
        let place = Place {
            filesystem,
            dax: file.meta.dax,
            operation,
            phase,
            hook: HookId(event.head.hook),
        };
        let example = Example {
            task: task.id,
            time: Nanos(event.head.time),
            stack: stack_id(event.head.stack),
        };
        if let Some(mining) = &mut self.mining {
            mining.act(place, inode, &task.locks, inherited, example);
        }
    }

    /// Takes translations of the span out of the books.
    fn tear_down(&mut self, span: Span, how: Teardown, event: &Event) {
        let known = self.files.at(event.inode, Nanos(event.head.time));
        let Some(file) = known.map(|inode| self.files.get_mut(inode)) else {
            return;
        };
        let range = span.bytes(event.a, event.b, file.meta.block_bits);
        if file.meta.dax && how.unmaps(true) {
            file.translations.tear_down(range);
        }
        if how.unmaps(file.meta.dax) {
            file.protected(range);
        }
    }

    /// The inode goes; its address will stand for another.
    fn evicted(&mut self, event: &Event) {
        self.tear_down(Span::Whole, Teardown::Both, event);
        if let Some(inode) = self.files.at(event.inode, Nanos(event.head.time)) {
            self.files.get_mut(inode).gone = true;
        }
    }

    /// A look for pins unmaps a DAX file, and does nothing to one of the page cache
    /// (fs/dax.c:dax_layout_busy_page_range).
    fn unmapped_for_scan(&mut self, span: Span, event: &Event) {
        let known = self.files.at(event.inode, Nanos(event.head.time));
        if known.is_some_and(|inode| self.files.get(inode).meta.dax) {
            self.tear_down(span, Teardown::Unmap, event);
        }
    }

    /// A folio is write-protected. How large it is is not said: no larger than a PMD.
    fn protect(&mut self, event: &Event) {
        if let Some(inode) = self.files.at(event.inode, Nanos(event.head.time)) {
            let folio = ByteRange::new(PageOffset(event.a).byte(), PMD_PAGES << PAGE_SHIFT);
            self.files.get_mut(inode).protected(folio);
        }
    }

    /// After a loss no translation is known to be in place, and any fault may be under way.
    pub fn forget_translations(&mut self) {
        self.lossy = true;
        self.balances = None;
        for index in self.files.indexes() {
            self.files.get_mut(index).translations.clear();
        }
    }

    #[cold]
    fn unknown(&mut self, why: Unknown, effect: Effect) {
        if !matches!(
            effect,
            Effect::ChangeExtents(_) | Effect::ConvertExtents(_) | Effect::Install(_)
        ) {
            return;
        }
        match why {
            Unknown::BeforeStart => {}
            Unknown::Gap => self.unjudged.gap += 1,
            Unknown::Overflow => self.unjudged.overflow += 1,
            Unknown::Inode => self.unjudged.inode += 1,
        }
    }

    fn enter(&mut self, task: &mut Task, entry: Entry, event: &Event) {
        let head = &event.head;
        if head.flags & FLAG_SCOPE_OVERFLOW != 0 {
            return self.lose(task, Unknown::Overflow);
        }
        if head.flags & FLAG_SECOND_INODE != 0 {
            return self.enter_second(task, event);
        }
        let now = Nanos(head.time);
        if head.depth == 1 {
            // Whatever was unknown or left over ends here: nothing is held at a task's outermost entry.
            self.abandon(task);
            task.unknown = None;
            task.fresh = FreshBlocks::default();
            if now < self.started {
                return self.lose(task, Unknown::BeforeStart);
            }
        } else if task.unknown.is_some() {
            return;
        }
        if usize::from(head.depth) != task.scopes.len() + 1 {
            return self.lose(task, Unknown::Gap);
        }
        // A file's generation may change meanwhile (ext4's swap-boot): for what is open it stays the same.
        let known = task
            .concerned(event.inode)
            .or_else(|| self.files.entered(event.inode, now));
        let Some(inode) = known.filter(|&inode| self.files.get(inode).filesystem.is_some()) else {
            return self.lose(task, Unknown::Inode);
        };
        if nests_wrongly(task, entry, inode, event.a) {
            return self.lose(task, Unknown::Gap);
        }
        let part = match doing(&mut task.scopes) {
            Some(Scope::Fault(fault)) => entry.is_fault() && fault.inode == inode,
            Some(Scope::Change(change)) => {
                !entry.is_fault() && change.iter().any(|subject| subject.inode == inode)
            }
            Some(Scope::Part) | None => false,
        };
        let part = part
            || (entry.is_part() && !task.scopes.is_empty())
            || !self.files.get(inode).is_judged();
        if entry == Entry::CopyOnWrite {
            self.sampled(task, event);
        }
        if part {
            task.scopes.push((entry, Scope::Part));
            return;
        }
        let mapped = if entry.is_fault() {
            self.mapping_held(task, event)
        } else {
            None
        };
        if entry.is_fault()
            && event.c & FAULT_FLAG_WRITE != 0
            && let Some(balance) = self.balance(inode)
        {
            balance.begins(head.flags, now);
        }
        let file = self.files.get_mut(inode);
        let number = if entry.is_fault() {
            file.begin_fault();
            None
        } else {
            file.begin_operation(entry.changes(), event.size)
        };
        let dax = file.meta.dax;
        let begun = begun(entry, event.a, event.c, event.size, dax);
        self.facts.tell(|| {
            let (Begun::Fault(operation, _) | Begun::Change(operation, _)) = begun;
            Fact::Enter {
                task: task.id,
                inode,
                operation,
                at: now,
            }
        });
        let scope = match begun {
            Begun::Fault(operation, kind) => Scope::Fault(FaultScope {
                operation,
                kind,
                address: event.inode,
                inode,
                entered: now,
                page: event.a,
                write: event.c & FAULT_FLAG_WRITE != 0,
                stack: stack_id(head.stack),
                waiting: None,
                waited: None,
                locked: false,
                looked_up_unlocked: false,
                installed: false,
                installed_at: None,
                reported: false,
                freeze: FreezeSeen::default(),
                mapped,
                stale: None,
            }),
            Begun::Change(operation, destroys) => {
                self.scopes += 1;
                // notify_change is called under i_rwsem; everything else takes it itself.
                let stable = entry == Entry::SetSize;
                let mut subject = Subject::new(event.inode, inode, event.size, stable);
                subject.begun = number;
                Scope::Change(Box::new(ChangeScope {
                    id: ScopeId(self.scopes),
                    entry,
                    operation,
                    destroys,
                    entered: now,
                    request: request(entry, event.a, event.b, event.c),
                    transfer: None,
                    subjects: (subject, None),
                }))
            }
        };
        task.scopes.push((entry, scope));
    }

    /// The count of write faults under freeze protection of a file's filesystem.
    pub(super) fn balance(&mut self, inode: InodeIndex) -> Option<&mut Balance> {
        let file = self.files.get(inode);
        let filesystem = file.filesystem?;
        Some(self.balances.as_mut()?.of(file.meta.device, filesystem))
    }

    fn enter_second(&mut self, task: &mut Task, event: &Event) {
        if task.unknown.is_some() {
            return;
        }
        let known = self.files.at(event.inode, Nanos(event.head.time));
        let depth = task.scopes.len();
        match (task.scopes.last_mut(), known) {
            (Some((_, Scope::Change(change))), Some(inode))
                if usize::from(event.head.depth) == depth =>
            {
                let subject = Subject::new(event.inode, inode, event.size, false);
                if change.subjects.1.replace(subject).is_none() {
                    self.files.get_mut(inode).begin_operation(true, event.size);
                }
            }
            (_, None) => self.lose(task, Unknown::Inode),
            _ => self.lose(task, Unknown::Gap),
        }
    }

    fn leave(&mut self, task: &mut Task, entry: Entry, event: &Event) {
        let matches = task.scopes.last().is_some_and(|&(at, _)| at == entry)
            && usize::from(event.head.depth) + 1 == task.scopes.len();
        if !matches {
            return self.lose(task, Unknown::Gap);
        }
        let Some((_, scope)) = task.scopes.pop() else {
            return;
        };
        if entry == Entry::CopyOnWrite {
            self.sample_used(task, event);
        }
        if entry.is_fault() {
            // A fault leaves no entry locked (fs/dax.c: every way out of it unlocks).
            self.lapse(task, |class| class == LockClass::DaxEntry);
        }
        let operation = match scope {
            Scope::Fault(fault) => {
                if let Some(class) = fault.mapped {
                    let owner = Owner::Process(task.account.process.unwrap_or_default());
                    task.account.release(Resource { class, owner });
                }
                self.end_freeze(task, &fault, event);
                self.looked_up_unlocked(task, &fault, event);
                self.end_fault(task.id, &task.locks, &fault, event);
                self.files.get_mut(fault.inode).end_fault();
                Some((fault.operation, fault.entered))
            }
            Scope::Change(mut change) => {
                self.sized(task.id, &task.locks, &mut change, event, SeenAt::Later);
                self.settle(&mut change);
                self.written_through(task.id, &change, event);
                self.tail_zeroed(task, &mut change, event);
                self.size_lasts(task, &mut change, event);
                self.size_followed(task, &mut change, event);
                self.write_returned(change.operation, event);
                self.end_change(&change, Nanos(event.head.time));
                if let Some(subject) = change.subject(event.inode) {
                    self.files.get_mut(subject.inode).sized(event.size);
                }
                self.facts.tell(|| {
                    let (first, second) = &change.subjects;
                    Fact::Operation(OperationSeen {
                        task: task.id,
                        inode: first.inode,
                        second: second.as_ref().map(|subject| subject.inode),
                        operation: change.operation,
                        from: change.entered,
                        to: Nanos(event.head.time),
                    })
                });
                Some((change.operation, change.entered))
            }
            Scope::Part => {
                if let Some(Scope::Change(change)) = doing(&mut task.scopes) {
                    self.sized(task.id, &task.locks, change, event, SeenAt::Later);
                }
                None
            }
        };
        if !task.locks.is_empty()
            && let Some((operation, entered)) = operation
        {
            match entry.hands_locks_on() {
                // Inside another operation their release will be seen.
                true if !task.scopes.is_empty() => {}
                true => self.handed_on(task),
                false => self.leaked(task, operation, entered, event),
            }
        }
        if task.scopes.is_empty() {
            self.lapse(task, |_| true);
        }
    }

    /// Looks for waits that will not end.
    pub fn look(&mut self, tasks: &mut Tasks, now: Nanos) {
        self.now = self.now.max(now);
        self.order.look(tasks, &mut self.findings, &self.files, now);
    }

    /// Tells what cycles the order of resources has.
    pub fn predict(&mut self) {
        self.order.predict(&mut self.findings, &self.files);
    }

    pub(super) fn window(&mut self, inode: InodeIndex, scope: ScopeId) -> Option<&mut Window> {
        self.files
            .get_mut(inode)
            .open
            .iter_mut()
            .find(|window| window.scope == scope)
    }

    /// Opens the operation's window on a subject, or keeps it open.
    fn open_window(
        &mut self,
        task: TaskId,
        change: &mut ChangeScope,
        address: u64,
        from: Nanos,
    ) -> Option<&mut Window> {
        let (id, operation) = (change.id, change.operation);
        let subject = change.subject_mut(address)?;
        let inode = subject.inode;
        let file = self.files.get_mut(inode);
        if !mem::replace(&mut subject.window, true) {
            self.facts.tell(|| Fact::Open {
                scope: id,
                task,
                inode,
                operation,
                at: from,
            });
            file.open.push(Window {
                scope: id,
                task,
                filesystem: file.filesystem?,
                operation,
                from,
                to: None,
                danger: None,
                lock: None,
                stack: None,
                breaches: Vec::new(),
                broken: Vec::new(),
                exposures: Vec::new(),
            });
        }
        let window = self.window(inode, id)?;
        window.to = None;
        Some(window)
    }

    /// A look for pinned pages: it unmaps what it looks at, and says whether it found one.
    fn scan(&mut self, task: &mut Task, span: Span, event: &Event) {
        let found = event.c != 0;
        if let Some(Scope::Change(change)) = doing(&mut task.scopes)
            && let (id, operation, entered) = (change.id, change.operation, change.entered)
            && let Some(subject) = change.subject_mut(event.inode)
        {
            self.awaited.retain(|known| known.scope != id);
            if found {
                let time = Nanos(event.head.time);
                self.awaited.push(Awaited {
                    page: Frame(event.c),
                    scope: id,
                    operation,
                    entered,
                    actor: Party {
                        task: task.id,
                        role: Role::Actor(operation),
                        stack: stack_id(event.head.stack),
                    },
                    locks: LockSeen::all(task.id, &task.locks, time),
                });
            }
            let block_bits = self.files.get(subject.inode).meta.block_bits;
            let range = span.bytes(event.a, event.b, block_bits);
            subject.torn.pinned = found;
            if !found {
                subject.torn.scanned.add(range);
            }
        }
        if !found {
            self.torn(task, span, Teardown::Unmap, event, true);
        }
    }

    fn torn(&mut self, task: &mut Task, span: Span, how: Teardown, event: &Event, scan: bool) {
        let Some(Scope::Change(change)) = doing(&mut task.scopes) else {
            return;
        };
        let Some(subject) = change.subject(event.inode) else {
            return;
        };
        let inode = subject.inode;
        let meta = &self.files.get(inode).meta;
        let (dax, block_bits) = (meta.dax, meta.block_bits);
        let seen = if scan {
            SeenAt::Later
        } else {
            SeenAt::Teardown
        };
        self.sized(task.id, &task.locks, change, event, seen);
        // A scan of a file whose pages are in the page cache finds and unmaps nothing.
        if scan && !dax {
            return;
        }
        let time = Nanos(event.head.time);
        let hold = task.locks.find(inode, LockClass::InvalidateLock);
        let range = span.bytes(event.a, event.b, block_bits);
        if how.drops() {
            self.dropped_entries(task.id, &task.locks, change, range, event);
        }
        if let Some(subject) = change.subject_mut(event.inode) {
            subject.invalidated(Invalidation {
                range,
                time,
                hold,
                scan,
            });
            if how.unmaps(dax) {
                subject.torn.unmapped.add(range);
            }
            if how.drops() {
                subject.torn.dropped.add(range);
            }
            subject.tearing = true;
        }
        if how.drops() {
            self.dropped(task.id, &task.locks, change, range, event);
        }
        self.torn_later(change, event.inode, range, (how.unmaps(dax), how.drops()));
        if let Some(window) = self.window(inode, change.id) {
            window.cover(range);
        }
        if hold.is_some_and(Hold::excludes) && change.destroys(event.inode) {
            self.open_window(task.id, change, event.inode, time);
        }
    }

    pub(super) fn change(
        &mut self,
        task: &mut Task,
        span: Span,
        under_extent_lock: bool,
        event: &Event,
    ) {
        let Some(Scope::Change(change)) = doing(&mut task.scopes) else {
            return;
        };
        let Some(subject) = change.subject(event.inode) else {
            return;
        };
        let inode = subject.inode;
        let time = Nanos(event.head.time);
        let stack = stack_id(event.head.stack);
        if let Some(stack) = stack {
            let sample = Some(Sample {
                task: task.id,
                stack,
            });
            let file = self.files.get_mut(inode);
            file.change = sample;
            if let Some(filesystem) = file.filesystem {
                self.changes[filesystem as usize] = sample;
            }
        }
        self.sized(task.id, &task.locks, change, event, SeenAt::Later);
        if !change.destroys(event.inode) {
            return;
        }
        self.files.get_mut(inode).changed_by = Some(change.operation);
        self.remapped(task.id, &task.locks, change, span, event);
        let duties = change.operation.duties();
        if !duties.exclusion {
            self.owed(task.id, &task.locks, change, span, under_extent_lock, event);
            return;
        }
        // Faults check i_size under the lock (fs/dax.c:dax_iomap_pte_fault): no fault gets at what
        // lies beyond, however the blocks there are treated.
        let block_bits = self.files.get(inode).meta.block_bits;
        let range = span.bytes(event.a, event.b, block_bits).below(event.size);
        let hold = task.locks.find(inode, LockClass::InvalidateLock);
        self.open_window(task.id, change, event.inode, time);
        if range.is_empty() {
            self.owed(task.id, &task.locks, change, span, under_extent_lock, event);
            return;
        }
        let other_inode = other_inode_locked(change, &task.locks, event.inode);
        let Some(subject) = change.subject_mut(event.inode) else {
            return;
        };
        let last = subject.last_invalidation(range);
        let danger = Danger {
            from: last.map_or(time, |last| last.time),
            range,
        };
        let exposure = Exposure {
            torn: subject.torn_by.unwrap_or(time),
            changed: time,
            range,
        };
        let facts = ChangeFacts {
            now: hold,
            invalidation: last.map(|last| last.hold),
            changed_exclusively: subject.changed_exclusively,
            other_inode,
        };
        subject.changed_exclusively |= hold.is_some_and(Hold::excludes);
        self.endanger(inode, change.id, danger, hold, stack);
        match rules::change(facts) {
            Some((kind, observed)) => {
                let broken = Broken {
                    kind,
                    observed,
                    class: LockClass::InvalidateLock,
                    act: Act::Change,
                };
                self.breach(task.id, &task.locks, change, broken, danger, event);
                if !self.lossy
                    && let Some(window) = self.window(inode, change.id)
                {
                    window.expose(exposure);
                }
            }
            None => self.owed(task.id, &task.locks, change, span, under_extent_lock, event),
        }
    }

    fn endanger(
        &mut self,
        inode: InodeIndex,
        scope: ScopeId,
        danger: Danger,
        hold: Option<Hold>,
        stack: Option<StackId>,
    ) {
        if let Some(window) = self.window(inode, scope) {
            window.danger = Some(window.danger.map_or(danger, |known| known.join(danger)));
            window.lock = hold.map(|hold| (hold.mode, hold.since));
            window.stack = stack.or(window.stack);
        }
    }

    /// Watches `i_size`, as long as nobody but this task can have changed it.
    fn sized(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        change: &mut ChangeScope,
        event: &Event,
        seen: SeenAt,
    ) {
        let entry = change.entry;
        let Some(subject) = change.subject_mut(event.inode) else {
            return;
        };
        let inode = subject.inode;
        let rwsem = locks.find(inode, LockClass::IRwsem);
        let stable =
            rwsem.is_some_and(Hold::excludes) || (entry == Entry::SetSize && !subject.rwsem_cycled);
        let hold = locks.find(inode, LockClass::InvalidateLock);
        if stable && subject.stable_size.is_none() {
            subject.stable_size = Some(event.size);
        }
        let before = mem::replace(&mut subject.last_size, stable.then_some(event.size));
        let since = mem::replace(&mut subject.since_size, hold.map(|hold| hold.mode));
        let Some(before) = before.filter(|&before| stable && event.size != before) else {
            return;
        };
        let raised = event.size > before;
        // Writes raise it under i_rwsem alone, once what it covers is there.
        if raised && entry != Entry::SetSize {
            return;
        }
        let time = Nanos(event.head.time);
        let range = ByteRange {
            start: before.min(event.size),
            end: before.max(event.size),
        };
        let danger = Danger { from: time, range };
        let mut facts = SizeFacts {
            seen,
            now: hold,
            since,
            torn_down: false,
            other_inode: false,
        };
        // Nothing is cut off where it rises.
        if !raised {
            facts.torn_down = subject.torn_down(range);
            facts.other_inode = other_inode_locked(change, locks, event.inode);
            self.open_window(task, change, event.inode, time);
            self.endanger(inode, change.id, danger, hold, stack_id(event.head.stack));
        }
        let Some((kind, observed)) = rules::size_changed(facts) else {
            return;
        };
        let act = Act::SizeChanged {
            from: before,
            to: event.size,
        };
        if !raised && observed == Observed::Unheld {
            self.too_early(task, locks, change, (act, danger), event);
            return;
        }
        let broken = Broken {
            kind,
            observed,
            class: LockClass::InvalidateLock,
            act,
        };
        self.breach(task, locks, change, broken, danger, event);
    }

    /// Counts an occurrence of a finding, and tells it to those who draw.
    pub(super) fn report(&mut self, key: Key, witness: &Witness) -> FindingIndex {
        let finding = self.findings.add(key, witness);
        self.facts.tell(|| Fact::Found {
            finding,
            task: witness.actor.task,
            inode: witness.inode,
            at: witness.time,
        });
        finding
    }

    /// Reports a broken rule, once per operation, inode and rule.
    #[cold]
    pub(super) fn breach(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        change: &mut ChangeScope,
        Broken {
            kind,
            observed,
            class,
            act,
        }: Broken,
        danger: Danger,
        event: &Event,
    ) -> Option<FindingIndex> {
        let (id, operation, entered) = (change.id, change.operation, change.entered);
        let subject = change.subject_mut(event.inode)?;
        let inode = subject.inode;
        if let Some(reported) = subject
            .reported
            .iter()
            .find(|reported| (reported.kind, reported.class) == (kind, class))
        {
            let finding = reported.finding;
            self.findings.extend(finding, id, danger.range);
            if let Some(window) = self.window(inode, id) {
                window.broke(finding, danger.range);
                if let Some(breach) = window.breaches.iter_mut().find(|b| b.finding == finding) {
                    breach.danger = breach.danger.join(danger);
                    breach.witness.range = breach.danger.range;
                }
            }
            return Some(finding);
        }
        let filesystem = self.files.get(inode).filesystem?;
        let time = Nanos(event.head.time);
        let key = Key {
            kind,
            filesystem,
            operation,
            class,
            observed,
            hook: HookId(event.head.hook),
        };
        let witness = Witness {
            scope: Some(id),
            entered,
            time,
            act,
            inode,
            range: danger.range,
            size: match act {
                Act::SizeChanged { from, to } => from.max(to),
                _ => subject.entry_size.max(event.size),
            },
            locks: LockSeen::all(task, locks, time),
            actor: Party {
                task,
                role: Role::Actor(operation),
                stack: stack_id(event.head.stack),
            },
            other: None,
            more: Vec::new(),
        };
        let finding = self.report(key, &witness);
        subject.reported.push(Reported {
            kind,
            class,
            finding,
        });
        if let Some(window) = self.window(inode, id) {
            window.broke(finding, danger.range);
            if class == LockClass::InvalidateLock {
                window.breaches.push(Breach {
                    finding,
                    witness,
                    danger,
                });
            }
        }
        Some(finding)
    }

    fn end_change(&mut self, change: &ChangeScope, now: Nanos) {
        for subject in change.iter() {
            self.close_window(change, subject, now);
            let changes = change.entry.changes();
            let file = self.files.get_mut(subject.inode);
            file.end_operation(changes);
        }
        self.awaited.retain(|page| page.scope != change.id);
    }

    fn close_window(&mut self, change: &ChangeScope, subject: &Subject, now: Nanos) {
        if subject.window {
            let file = self.files.get_mut(subject.inode);
            let Some(at) = file
                .open
                .iter()
                .position(|window| window.scope == change.id)
            else {
                return;
            };
            let mut window = file.open.swap_remove(at);
            window.to = Some(window.to.unwrap_or(now));
            self.coverage.window(window.filesystem, window.operation);
            for install in &file.installs {
                meet(
                    &mut self.findings,
                    &mut self.facts,
                    subject.inode,
                    &window,
                    install,
                );
            }
            self.corruptions.window(&file.meta, subject.inode, &window);
            self.facts.tell(|| closed(&window, subject.inode, now));
            file.keep_window(window);
        }
    }

    /// Judges the windows that are still open when the run ends, and what was left behind.
    pub fn close_all(&mut self) {
        if let Some(balances) = &mut self.balances {
            balances.judge(&mut self.findings);
        }
        for index in self.files.indexes() {
            let file = self.files.get_mut(index);
            for window in mem::take(&mut file.open) {
                self.coverage.window(window.filesystem, window.operation);
                for install in &file.installs {
                    meet(&mut self.findings, &mut self.facts, index, &window, install);
                }
                self.corruptions.window(&file.meta, index, &window);
                self.facts.tell(|| closed(&window, index, self.now));
            }
        }
    }
}

pub(super) fn moment(event: &Event) -> Moment {
    Moment {
        time: Nanos(event.head.time),
        hook: HookId(event.head.hook),
        stack: stack_id(event.head.stack),
    }
}

fn closed(window: &Window, inode: InodeIndex, now: Nanos) -> Fact {
    Fact::Window(WindowSeen {
        scope: window.scope,
        task: window.task,
        inode,
        operation: window.operation,
        from: window.from,
        to: window.to.unwrap_or(now),
        range: window.danger.map(|danger| danger.range),
        lock: window.lock.map(|(mode, _)| mode),
        breached: !window.breaches.is_empty(),
    })
}

/// True if this cannot begin inside what the task is doing: the end of that was never seen, as when
/// the kernel skipped the program that should have told.
fn nests_wrongly(task: &mut Task, entry: Entry, inode: InodeIndex, page: u64) -> bool {
    match doing(&mut task.scopes) {
        // ext4_dax_fault calls ext4_dax_huge_fault for the same page; allocation is a part of a fault.
        Some(Scope::Fault(fault)) if entry.is_fault() => (fault.inode, fault.page) != (inode, page),
        Some(Scope::Fault(_)) => !entry.is_part(),
        Some(Scope::Change(change)) => {
            !entry.nests()
                && change.entry == entry
                && change.iter().any(|subject| subject.inode == inode)
        }
        Some(Scope::Part) | None => false,
    }
}

pub(super) fn other_inode_locked(change: &ChangeScope, locks: &LockSet, address: u64) -> bool {
    change.iter().any(|subject| {
        subject.address != address
            && locks
                .find(subject.inode, LockClass::InvalidateLock)
                .is_some_and(Hold::excludes)
    })
}
