//! Page faults: what they install, under which lock, and which windows that falls into.

use std::mem;

use tracer_ebpf::Event;

use crate::{
    hooks::{Install, LockClass},
    judge::{
        coverage::Meeting,
        engine::{Engine, moment},
        facts::{Fact, Facts, FaultSeen, Outcome},
        finding::{Act, Findings, Key, LockSeen, Party, Role, Strength, Witness},
        inode::{Awaited, Files, InodeIndex, Sample},
        lockset::{Hold, LockSet},
        operations::{FaultKind, Operation, installed, vm_fault},
        order::Doing,
        owed::Broken,
        rules::{self, Kind, Observed},
        task::{FaultScope, Scope, Task, TaskId, doing, stack_id},
        translations::{Frame, Translation},
        window::{FindingIndex, Installed, Window},
    },
    units::{HookId, Nanos, StackId},
};

/// Pages in a PMD; x86-64.
pub(super) const PMD_PAGES: u64 = 512;

impl Engine {
    pub(super) fn install(&mut self, task: &mut Task, how: Install, event: &Event) {
        let Some(Scope::Fault(fault)) = doing(&mut task.scopes) else {
            return;
        };
        if fault.address != event.inode || !installed(how, event.c) {
            return;
        }
        fault.installed = true;
        fault.installed_at = Some(Nanos(event.head.time));
        fault.freeze.acted(event.head.flags, moment(event));
        if let Some(stale) = fault.stale.take() {
            self.findings.raise(stale, Strength::Observed);
        }
        let pages = if how == Install::Pmd {
            fault.kind = FaultKind::Pmd;
            PMD_PAGES
        } else {
            1
        };
        let stack = stack_id(event.head.stack);
        if how != Install::Mkwrite {
            self.mapped_again(task.id, fault, (pages, stack), event);
        }
        let file = self.files.get_mut(fault.inode);
        if let Some(stack) = stack {
            file.fault = Some(Sample {
                task: task.id,
                stack,
            });
        }
        if how == Install::Mkwrite && self.sight.protects {
            file.made_writable(fault.page);
        }
        // A page-cache page is kept from being truncated by its own lock and a second look at its
        // mapping (mm/filemap.c); only page_mkwrite relies on the exclusion lock.
        if how != Install::Mkwrite && !file.meta.dax {
            return;
        }
        if how != Install::Mkwrite {
            let translation = Translation {
                frame: Frame(event.a),
                write: fault.write,
                at: Nanos(event.head.time),
                task: task.id,
                operation: fault.operation,
                stack: stack.or(fault.stack),
            };
            for page in Files::pages(fault.page, pages) {
                self.translated(fault.inode, page, translation);
            }
        }
        let hold = task.locks.find(fault.inode, LockClass::InvalidateLock);
        let act = if how == Install::Mkwrite {
            Act::Mkwrite
        } else {
            Act::Install
        };
        self.installed(
            task.id,
            &task.locks,
            fault,
            (hold, pages, act, stack),
            event,
        );
    }

    /// A page is mapped that an operation found in use and sleeps for, in the same file or in another one that shares
    /// the block. The kernels where mapping it is use
    /// name it by its `struct page` here too; earlier ones by its number.
    fn mapped_again(
        &mut self,
        task: TaskId,
        fault: &FaultScope,
        (pages, stack): (u64, Option<StackId>),
        event: &Event,
    ) {
        let waits = |known: &Awaited| known.page == Frame(event.a) && known.actor.task != task;
        let Some(at) = self.awaited.iter().position(waits) else {
            return;
        };
        let awaited = self.awaited.swap_remove(at);
        let Some(filesystem) = self.files.get(fault.inode).filesystem else {
            return;
        };
        let key = Key {
            kind: Kind::WaitRemapped,
            filesystem,
            operation: awaited.operation,
            class: LockClass::InvalidateLock,
            observed: Observed::Remapped,
            hook: HookId(event.head.hook),
        };
        let witness = Witness {
            scope: Some(awaited.scope),
            entered: awaited.entered,
            time: Nanos(event.head.time),
            act: Act::Install,
            inode: fault.inode,
            range: Files::page(fault.page, pages),
            size: u64::MAX,
            locks: awaited.locks,
            actor: awaited.actor,
            other: Some(Party {
                task,
                role: Role::Overlapped(fault.operation),
                stack: stack.or(fault.stack),
            }),
            more: Vec::new(),
        };
        let finding = self.report(key, &witness);
        self.findings.raise(finding, Strength::Observed);
    }

    fn installed(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        fault: &mut FaultScope,
        (hold, pages, act, stack): (Option<Hold>, u64, Act, Option<StackId>),
        event: &Event,
    ) {
        let at = Nanos(event.head.time);
        let mut install = Installed {
            task,
            frame: (act == Act::Install).then_some(Frame(event.a)),
            operation: fault.operation,
            from: hold.map_or(fault.entered, |hold| hold.since),
            at,
            range: Files::page(fault.page, pages),
            lock: hold.map(|hold| (hold.mode, hold.since)),
            stack,
            breach: None,
        };
        if let Some((kind, observed)) = rules::install(hold, fault.locked)
            && !mem::replace(&mut fault.reported, true)
        {
            install.breach =
                self.fault_breach(task, locks, fault, (kind, observed, act), &install, event);
        }
        let file = self.files.get_mut(fault.inode);
        let closed = file
            .closed
            .iter()
            .rev()
            .take_while(|window| window.end() >= install.from);
        for window in closed {
            meet(
                &mut self.findings,
                &mut self.facts,
                fault.inode,
                window,
                &install,
            );
        }
        file.keep_install(install);
    }

    #[cold]
    fn fault_breach(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        fault: &FaultScope,
        (kind, observed, act): (Kind, Observed, Act),
        install: &Installed,
        event: &Event,
    ) -> Option<Box<(FindingIndex, Witness)>> {
        let key = Key {
            kind,
            filesystem: self.files.get(fault.inode).filesystem?,
            operation: fault.operation,
            class: LockClass::InvalidateLock,
            observed,
            hook: HookId(event.head.hook),
        };
        let witness = Witness {
            scope: None,
            entered: fault.entered,
            time: install.at,
            act,
            inode: fault.inode,
            range: install.range,
            size: u64::MAX,
            locks: LockSeen::all(task, locks, install.at),
            actor: Party {
                task,
                role: Role::Actor(fault.operation),
                stack: install.stack.or(fault.stack),
            },
            other: None,
            more: Vec::new(),
        };
        let finding = self.report(key, &witness);
        Some(Box::new((finding, witness)))
    }

    /// A fault on a DAX file looked blocks up without the exclusion lock, and then mapped nothing that was judged: the
    /// blocks did not suit a huge translation, or were copied. All of fs/dax.c:dax_iomap_fault is due under it.
    pub(super) fn looked_up_unlocked(&mut self, task: &Task, fault: &FaultScope, event: &Event) {
        let Some(filesystem) = self.files.get(fault.inode).filesystem else {
            return;
        };
        if fault.looked_up_unlocked && !fault.reported {
            let doing = Doing {
                operation: fault.operation,
                inode: fault.inode,
                filesystem,
                entered: fault.entered,
            };
            let broken = Broken {
                kind: Kind::FaultUnprotected,
                observed: Observed::Unheld,
                class: LockClass::InvalidateLock,
                act: Act::LookUp,
            };
            self.broke(task, doing, broken, Files::page(fault.page, 1), event);
        }
    }

    pub(super) fn end_fault(
        &mut self,
        task: TaskId,
        locks: &LockSet,
        fault: &FaultScope,
        event: &Event,
    ) {
        let now = Nanos(event.head.time);
        let mut fault = *fault;
        if event.a & vm_fault::DONE_COW != 0 && event.a & vm_fault::ERROR == 0 {
            fault.kind = FaultKind::PrivateCopy;
            fault.installed = true;
        }
        // page_mkwrite of a page-cache file: the page becomes writable when this says so.
        if fault.operation == Operation::PageMkwrite
            && !fault.installed
            && event.a & vm_fault::LOCKED != 0
            && event.a & vm_fault::ERROR == 0
        {
            fault.installed = true;
            fault.installed_at = Some(now);
            if !fault.locked {
                let how = (None, 1, Act::Mkwrite, stack_id(event.head.stack));
                self.installed(task, locks, &mut fault, how, event);
            }
        }
        let file = self.files.get(fault.inode);
        let Some(filesystem) = file.filesystem else {
            return;
        };
        self.coverage.fault(filesystem, fault.kind, fault.installed);
        let mut outcome = Outcome::Clear;
        for window in file.windows_since(fault.entered) {
            if window.task == task || !window.met(fault.entered, now) {
                continue;
            }
            let waited = fault
                .waited
                .filter(|&(from, to)| window.overlap(from, to) > 0);
            outcome = outcome.max(if waited.is_some() {
                Outcome::HeldOff
            } else {
                Outcome::Beside
            });
            self.coverage.met(Meeting {
                filesystem,
                operation: window.operation,
                fault: fault.kind,
                installed: fault.installed,
                waited_ns: waited.map(|(from, to)| to.0 - from.0),
            });
        }
        self.facts.tell(|| {
            let pages = if fault.kind == FaultKind::Pmd {
                PMD_PAGES
            } else {
                1
            };
            Fact::Fault(FaultSeen {
                task,
                inode: fault.inode,
                operation: fault.operation,
                kind: fault.kind,
                range: Files::page(fault.page, pages),
                from: fault.entered,
                to: now,
                installed: fault.installed_at,
                waited: fault.waited,
                outcome,
            })
        });
    }
}

/// Raises findings of either side if the install came into the window.
pub(super) fn meet(
    findings: &mut Findings,
    facts: &mut Facts,
    inode: InodeIndex,
    window: &Window,
    install: &Installed,
) {
    if window.task == install.task || (window.breaches.is_empty() && install.breach.is_none()) {
        return;
    }
    let mut inside = false;
    for breach in &window.breaches {
        if install.came_into(breach.danger, window.end()) {
            inside = true;
            findings.observe(breach.finding, breach.witness.met_by(install));
        }
        if window.outlived_by(install) {
            findings.raise(breach.finding, Strength::Proven);
        }
    }
    if let (Some(breach), Some(danger)) = (&install.breach, window.danger)
        && install.came_into(danger, window.end())
    {
        inside = true;
        let (finding, witness) = &**breach;
        findings.observe(*finding, witness.met_window(window));
    }
    if inside {
        facts.tell(|| Fact::Inside {
            task: install.task,
            inode,
            at: install.at,
            scope: window.scope,
        });
    }
}
