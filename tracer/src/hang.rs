//! Notices that tasks under test do not go on, while they do not: the recorder asks /proc what they are
//! in the middle of, and time goes on in the trace though no event may come any more.
//!
//! Nothing here touches the filesystem under test: /proc/TID/stack and /proc/TID/stat take none of its
//! locks.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
};

use tracer_ebpf::{
    Event, Head,
    event::{HOOK_BLOCKED, HOOK_TICK},
};

use crate::{
    analyze::analyze,
    hooks::{Effect, EntryAction, LockAction},
    judge::rules::Kind,
    trace::{Stack, Trace, meta::PlannedHook},
    units::{HookId, Nanos, StackId},
};

/// A wait this old is looked into.
const OLD: u64 = 400_000_000;
/// A task that still waits is looked into again after this long.
const AGAIN: u64 = 5_000_000_000;
/// Numbers of stacks that the kernel side did not take.
const FIRST_STACK: u32 = 1 << 24;
/// Tasks looked into at once.
const TASKS: usize = 256;

/// Tasks that wait, and what was read of them.
#[derive(Debug)]
pub struct HangWatch {
    /// By hook id: its events say that a task begins to wait.
    waits: Vec<bool>,
    waiting: HashMap<u32, Nanos>,
    tasks: Vec<u32>,
    looked: HashMap<u32, (Nanos, u64)>,
    stacks: u32,
    trace: PathBuf,
    verdict: Option<Receiver<Vec<String>>>,
    told: HashSet<String>,
    suspected: bool,
}

impl HangWatch {
    /// For a recording with these hooks into the file `trace`.
    pub fn new(hooks: &[PlannedHook], trace: &Path) -> Self {
        let mut waits = Vec::new();
        for hook in hooks {
            let HookId(id) = hook.id;
            let id = usize::from(id);
            if waits.len() <= id {
                waits.resize(id + 1, false);
            }
            waits[id] = matches!(
                hook.effect,
                Effect::Lock(LockAction::Wait)
                    | Effect::Resource(_, LockAction::Wait)
                    | Effect::EntryLock(EntryAction::Wait)
                    | Effect::LayoutWait
            );
        }
        Self {
            waits,
            waiting: HashMap::new(),
            tasks: Vec::new(),
            looked: HashMap::new(),
            stacks: FIRST_STACK,
            trace: trace.to_owned(),
            verdict: None,
            told: HashSet::new(),
            suspected: false,
        }
    }

    /// A task that the recording met.
    pub fn task(&mut self, tid: u32) {
        self.tasks.push(tid);
    }

    /// An event. Those of one task may come out of order, from different CPUs.
    #[inline]
    pub fn event(&mut self, event: &Event) {
        let wait = self
            .waits
            .get(usize::from(event.head.hook))
            .is_some_and(|&wait| wait);
        if wait {
            self.waiting.insert(event.head.task, Nanos(event.head.time));
        } else if !self.waiting.is_empty() {
            let over = self
                .waiting
                .get(&event.head.task)
                .is_some_and(|since| event.head.time > since.0);
            if over {
                self.waiting.remove(&event.head.task);
            }
        }
    }

    /// What to write down at `now` about tasks that do not go on; nothing if all do.
    pub fn look(&mut self, now: Nanos) -> (Vec<Event>, Vec<Stack>) {
        let (mut events, mut stacks) = (Vec::new(), Vec::new());
        self.waiting
            .retain(|tid, _| Path::new(&format!("/proc/{tid}")).exists());
        let old = |since: &Nanos| now.0.saturating_sub(since.0) >= OLD;
        self.suspected = self.waiting.values().any(old);
        if !self.suspected {
            return (events, stacks);
        }
        let own = |hook, task, stack, a| Event {
            head: Head {
                time: now.0,
                task,
                hook,
                stack,
                ..Head::default()
            },
            a,
            ..Event::default()
        };
        for &tid in self.tasks.iter().take(TASKS) {
            let waits = self.waiting.get(&tid).is_some_and(old);
            let Some(state) = state(tid) else {
                continue;
            };
            if !waits && state != 'D' {
                continue;
            }
            let Some(frames) = stack(tid) else {
                continue;
            };
            let mark = fingerprint(&frames);
            if let Some(&(at, known)) = self.looked.get(&tid)
                && known == mark
                && now.0.saturating_sub(at.0) < AGAIN
            {
                continue;
            }
            self.looked.insert(tid, (now, mark));
            let id = self.stacks;
            self.stacks += 1;
            stacks.push(Stack {
                id: StackId(id),
                frames,
            });
            events.push(own(HOOK_BLOCKED, tid, id as i32, u64::from(state as u32)));
        }
        events.push(own(HOOK_TICK, 0, -1, 0));
        (events, stacks)
    }

    /// Judges what is in the trace so far, beside the recording. It has to be in the file.
    pub fn judge(&mut self) {
        if !self.suspected || self.verdict.is_some() {
            return;
        }
        let (send, receive) = mpsc::channel();
        let path = self.trace.clone();
        let judging = move || {
            let Ok(trace) = Trace::open(&path) else {
                return;
            };
            let sentences = analyze(&trace)
                .findings
                .into_iter()
                .filter(|finding| matches!(finding.kind, Kind::Deadlock | Kind::Stall))
                .map(|finding| format!("{}: {}", finding.kind.name(), finding.sentence))
                .collect();
            // Nobody listens any more once the recording is over.
            let _ = send.send(sentences);
        };
        if thread::Builder::new()
            .name("faultline-hang".to_owned())
            .spawn(judging)
            .is_ok()
        {
            self.verdict = Some(receive);
        }
    }

    /// What the judgement came to, each sentence once.
    pub fn news(&mut self) -> Vec<String> {
        let sentences = match self.verdict.as_ref().map(Receiver::try_recv) {
            None | Some(Err(TryRecvError::Empty)) => return Vec::new(),
            Some(Ok(sentences)) => sentences,
            Some(Err(TryRecvError::Disconnected)) => Vec::new(),
        };
        self.verdict = None;
        sentences
            .into_iter()
            .filter(|sentence| self.told.insert(without_times(sentence)))
            .collect()
    }
}

/// A sentence without its numbers, which grow as the wait goes on.
fn without_times(sentence: &str) -> String {
    sentence
        .chars()
        .filter(|letter| !letter.is_ascii_digit() && *letter != '.')
        .collect()
}

fn fingerprint(frames: &[String]) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    frames.hash(&mut hasher);
    hasher.finish()
}

/// `R`, `S`, `D` ... of a thread, if it is there.
fn state(tid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    // The name before it may hold anything, a parenthesis too.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// A thread's kernel stack, innermost first.
fn stack(tid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{tid}/stack")).ok()?;
    Some(frames(&text))
}

/// `[<0>] name+0x1c/0x90 [module]` without address and size.
fn frames(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let rest = line.split_once("] ").map_or(line, |(_, rest)| rest);
            let mut words = rest.split_whitespace();
            let place = words.next()?;
            let place = place.split_once('/').map_or(place, |(place, _)| place);
            Some(match words.next() {
                Some(module) => format!("{place} {module}"),
                None => place.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_as_the_tracer_writes_them() {
        let text =
            "[<0>] rwsem_down_write_slowpath+0x2c5/0x4b0\n[<0>] xfs_ilock+0x5d/0x100 [xfs]\n";
        assert_eq!(
            frames(text),
            ["rwsem_down_write_slowpath+0x2c5", "xfs_ilock+0x5d [xfs]"]
        );
    }

    #[test]
    fn a_sentence_is_news_once_however_long_it_takes() {
        assert_eq!(
            without_times("waits for 1.50 s"),
            without_times("waits for 22.9 s")
        );
    }
}
