//! The trace as tracks with slices, for Perfetto and Chrome alike: a track per task with its operations,
//! faults and waits nested, below it one for the locks that it holds; a track per file with its windows.

use std::collections::HashMap;

use anyhow::Result;
use tracer::{
    judge::{
        Resource,
        facts::{Fact, Outcome},
        text::span,
    },
    story::{InodeIndex, ScopeId, Story, TaskId, Timeline},
    trace::Trace,
    units::Nanos,
};

/// A track's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrackId(pub u64);

/// What a track is.
#[derive(Clone, Debug)]
pub enum TrackKind {
    /// A process.
    Process {
        /// Process.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// A thread.
    Thread {
        /// Process.
        pid: u32,
        /// Thread.
        tid: u32,
        /// Its name.
        name: String,
    },
    /// Anything else.
    Named(String),
}

/// An argument's value.
#[derive(Clone, Debug)]
pub enum Value {
    /// A number.
    Number(u64),
    /// Text.
    Text(String),
}

/// Arguments.
pub type Arguments = Vec<(&'static str, Value)>;

/// One thing to write; slices and instants come in the order of time.
#[derive(Clone, Debug)]
pub enum Piece {
    /// A track, before anything on it.
    Track {
        /// Its number.
        id: TrackId,
        /// What it hangs below.
        parent: Option<TrackId>,
        /// What it is.
        kind: TrackKind,
    },
    /// A slice begins.
    Begin {
        /// Where.
        track: TrackId,
        /// When.
        at: Nanos,
        /// Its name.
        name: String,
        /// Its category.
        category: &'static str,
        /// Its arguments.
        arguments: Arguments,
        /// Flows that begin in it.
        flows: Vec<u64>,
    },
    /// The innermost slice ends.
    End {
        /// Where.
        track: TrackId,
        /// When.
        at: Nanos,
        /// What became of it.
        arguments: Arguments,
    },
    /// A moment.
    Instant {
        /// Where.
        track: TrackId,
        /// When.
        at: Nanos,
        /// Its name.
        name: String,
        /// Its category.
        category: &'static str,
        /// Its arguments.
        arguments: Arguments,
        /// The flow that ends in it.
        flow: Option<u64>,
    },
}

/// Gives every piece of the trace to `write`.
pub fn of(trace: &Trace, mut write: impl FnMut(Piece) -> Result<()>) -> Result<()> {
    let mut slicer = Slicer::default();
    let mut failed = None;
    let told = Story::of(trace, Timeline::around(Vec::new()), |story, fact| {
        slicer.fact(story, fact);
        for piece in slicer.pieces.drain(..) {
            if failed.is_none() {
                failed = write(piece).err();
            }
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    // What a report says of a finding is known only now; readers sort by time.
    let known = told.report.annotated.iter().map(|known| &known.finding);
    for finding in told.report.findings.iter().chain(known) {
        let track = slicer.file(&told.story, finding.file);
        slicer.pieces.push(Piece::Instant {
            track,
            at: finding.time_ns,
            name: format!("{} ({})", finding.kind.name(), finding.strength.name()),
            category: "finding",
            arguments: vec![
                ("sentence", Value::Text(finding.sentence.clone())),
                ("count", Value::Number(finding.count)),
                ("target", Value::Text(finding.target.clone())),
                (
                    "range",
                    Value::Text(span(finding.range.offset, finding.range.length)),
                ),
            ],
            flow: None,
        });
    }
    slicer.close(told.story.statistics().now());
    slicer.pieces.drain(..).try_for_each(write)
}

/// The tracks of what a thread holds, or a file's windows: as many as overlap.
#[derive(Debug, Default)]
struct Lanes<K> {
    tracks: Vec<(TrackId, Option<K>)>,
}

#[derive(Debug)]
struct Thread {
    track: TrackId,
    /// Slices open on it.
    depth: u32,
    /// A wait's slice is the innermost one.
    waiting: Option<Resource>,
    locks: Lanes<(Resource, Nanos)>,
}

#[derive(Debug)]
struct FileTracks {
    track: TrackId,
    windows: Lanes<ScopeId>,
}

#[derive(Default)]
struct Slicer {
    tracks: u64,
    flows: u64,
    processes: HashMap<u32, TrackId>,
    threads: HashMap<TaskId, Thread>,
    files: HashMap<InodeIndex, FileTracks>,
    windows: Option<TrackId>,
    pieces: Vec<Piece>,
}

impl Slicer {
    fn new_track(&mut self, parent: Option<TrackId>, kind: TrackKind) -> TrackId {
        self.tracks += 1;
        // Beyond the numbers that readers give to tracks of their own.
        let id = TrackId(0xfa17 << 32 | self.tracks);
        self.pieces.push(Piece::Track { id, parent, kind });
        id
    }

    fn thread(&mut self, story: &Story, task: TaskId) -> TrackId {
        if let Some(thread) = self.threads.get(&task) {
            return thread.track;
        }
        let who = story.judge().who(task);
        let tid = task.tid.0;
        let pid = who.map_or(tid, |who| who.pid.0);
        let name = who.map(|who| who.name.clone()).unwrap_or_default();
        let process = match self.processes.get(&pid) {
            Some(&track) => track,
            None => {
                let named = |who: &tracer::trace::Task| who.tid.0 == pid;
                let name = who
                    .filter(|who| named(who))
                    .map_or_else(String::new, |who| who.name.clone());
                let track = self.new_track(None, TrackKind::Process { pid, name });
                self.processes.insert(pid, track);
                track
            }
        };
        let track = self.new_track(Some(process), TrackKind::Thread { pid, tid, name });
        self.threads.insert(
            task,
            Thread {
                track,
                depth: 0,
                waiting: None,
                locks: Lanes { tracks: Vec::new() },
            },
        );
        track
    }

    fn file(&mut self, story: &Story, inode: InodeIndex) -> TrackId {
        if let Some(file) = self.files.get(&inode) {
            return file.track;
        }
        let root = match self.windows {
            Some(root) => root,
            None => {
                let root = self.new_track(None, TrackKind::Named("windows by file".to_owned()));
                self.windows = Some(root);
                root
            }
        };
        let file = story.file(inode);
        let name = format!(
            "{} {} (inode {})",
            file.filesystem.map_or("", |kind| kind.name()),
            file.short(),
            file.ino
        );
        let track = self.new_track(Some(root), TrackKind::Named(name));
        self.files.insert(
            inode,
            FileTracks {
                track,
                windows: Lanes { tracks: Vec::new() },
            },
        );
        track
    }

    fn begin(
        &mut self,
        story: &Story,
        task: TaskId,
        at: Nanos,
        (name, category): (String, &'static str),
        arguments: Arguments,
        flows: Vec<u64>,
    ) {
        let track = self.thread(story, task);
        if let Some(thread) = self.threads.get_mut(&task) {
            thread.depth += 1;
        }
        self.pieces.push(Piece::Begin {
            track,
            at,
            name,
            category,
            arguments,
            flows,
        });
    }

    fn end(&mut self, task: TaskId, at: Nanos, arguments: Arguments) {
        let Some(thread) = self.threads.get_mut(&task) else {
            return;
        };
        if thread.depth > 0 {
            thread.depth -= 1;
            self.pieces.push(Piece::End {
                track: thread.track,
                at,
                arguments,
            });
        }
    }

    fn end_wait(&mut self, task: TaskId, at: Nanos) {
        if let Some(thread) = self.threads.get_mut(&task)
            && thread.waiting.take().is_some()
        {
            self.end(task, at, Vec::new());
        }
    }

    fn fact(&mut self, story: &Story, fact: &Fact) {
        match *fact {
            Fact::Enter {
                task,
                inode,
                operation,
                at,
            } => {
                let file = story.file(inode);
                let arguments = vec![
                    ("inode", Value::Number(file.ino.0)),
                    ("path", Value::Text(file.path)),
                ];
                let category = if operation.is_fault() {
                    "fault"
                } else {
                    "operation"
                };
                let name = (operation.name().to_owned(), category);
                self.begin(story, task, at, name, arguments, Vec::new());
            }
            Fact::Operation(seen) => {
                self.end_wait(seen.task, seen.to);
                self.end(seen.task, seen.to, Vec::new());
            }
            Fact::Fault(seen) => {
                self.end_wait(seen.task, seen.to);
                let range = span(seen.range.start, seen.range.end - seen.range.start);
                let mut arguments = vec![("bytes", Value::Text(range))];
                if seen.outcome != Outcome::Clear {
                    let outcome = seen.outcome.name().to_owned();
                    arguments.push(("window", Value::Text(outcome)));
                }
                self.end(seen.task, seen.to, arguments);
            }
            Fact::Wait {
                task, resource, at, ..
            } => self.wait(story, task, resource, at),
            Fact::Acquire {
                task,
                resource,
                mode,
                at,
                ..
            } => {
                let waited = self.threads.get(&task).and_then(|thread| thread.waiting);
                if waited == Some(resource) {
                    self.end_wait(task, at);
                }
                let parent = self.thread(story, task);
                let track = self.lock_lane(task, parent, (resource, at));
                self.pieces.push(Piece::Begin {
                    track,
                    at,
                    name: format!("{} {}", resource.class.name(), mode.name()),
                    category: "lock",
                    arguments: vec![("of", Value::Text(story.owner_name(resource.owner)))],
                    flows: Vec::new(),
                });
            }
            Fact::Release {
                task,
                resource,
                since,
                at,
                ..
            } => self.end_hold(task, (resource, since), at),
            Fact::Lapse {
                task,
                resource,
                since,
            } => self.end_hold(task, (resource, since), story.statistics().now()),
            Fact::Open {
                scope,
                inode,
                operation,
                task,
                at,
            } => {
                let parent = self.file(story, inode);
                let track = self.window_lane(inode, parent, scope);
                let by = Value::Text(story.task_name(task));
                self.pieces.push(Piece::Begin {
                    track,
                    at,
                    name: operation.name().to_owned(),
                    category: "window",
                    arguments: vec![("by", by)],
                    flows: Vec::new(),
                });
            }
            Fact::Window(seen) => {
                let mut arguments = Vec::new();
                if let Some(range) = seen.range {
                    let range = span(range.start, range.end - range.start);
                    arguments.push(("bytes", Value::Text(range)));
                }
                if seen.breached {
                    arguments.push(("breached", Value::Text("yes".to_owned())));
                }
                if let Some(file) = self.files.get_mut(&seen.inode)
                    && let Some((track, open)) = file
                        .windows
                        .tracks
                        .iter_mut()
                        .find(|(_, open)| *open == Some(seen.scope))
                {
                    *open = None;
                    // A window's end is known when its operation returns; the slice must not end before
                    // what began on its track since.
                    self.pieces.push(Piece::End {
                        track: *track,
                        at: seen.to,
                        arguments,
                    });
                }
            }
            Fact::Inside {
                task, inode, at, ..
            } => {
                let track = self.file(story, inode);
                self.pieces.push(Piece::Instant {
                    track,
                    at,
                    name: "fault inside".to_owned(),
                    category: "breach",
                    arguments: vec![("task", Value::Text(story.task_name(task)))],
                    flow: None,
                });
            }
            Fact::Forget { task } => self.forget(task, story.statistics().now()),
            Fact::Downgrade { .. } | Fact::Found { .. } => {}
        }
    }

    fn end_hold(&mut self, task: TaskId, key: (Resource, Nanos), at: Nanos) {
        let Some(thread) = self.threads.get_mut(&task) else {
            return;
        };
        let mut lanes = thread.locks.tracks.iter_mut();
        if let Some((track, held)) = lanes.find(|(_, held)| *held == Some(key)) {
            *held = None;
            self.pieces.push(Piece::End {
                track: *track,
                at,
                arguments: Vec::new(),
            });
        }
    }

    /// The wait's slice, and a flow from it to each lock slice that it waits for.
    fn wait(&mut self, story: &Story, task: TaskId, resource: Resource, at: Nanos) {
        self.end_wait(task, at);
        let mut flows = Vec::new();
        let waiter = story.task_name(task);
        for (holder, thread) in &self.threads {
            let of = |held: &Option<(Resource, Nanos)>| held.is_some_and(|(of, _)| of == resource);
            let held = thread.locks.tracks.iter().find(|(_, held)| of(held));
            if let Some(&(track, _)) = held
                && *holder != task
            {
                self.flows += 1;
                flows.push((self.flows, track));
            }
        }
        self.begin(
            story,
            task,
            at,
            (format!("wait for {}", resource.class.name()), "wait"),
            vec![("of", Value::Text(story.owner_name(resource.owner)))],
            flows.iter().map(|&(flow, _)| flow).collect(),
        );
        for (flow, track) in flows {
            self.pieces.push(Piece::Instant {
                track,
                at,
                name: format!("waited for by {waiter}"),
                category: "wait",
                arguments: Vec::new(),
                flow: Some(flow),
            });
        }
        if let Some(thread) = self.threads.get_mut(&task) {
            thread.waiting = Some(resource);
        }
    }

    fn lock_lane(&mut self, task: TaskId, parent: TrackId, key: (Resource, Nanos)) -> TrackId {
        if let Some(thread) = self.threads.get_mut(&task)
            && let Some((track, held)) = thread
                .locks
                .tracks
                .iter_mut()
                .find(|(_, held)| held.is_none())
        {
            *held = Some(key);
            return *track;
        }
        let track = self.new_track(Some(parent), TrackKind::Named("locks held".to_owned()));
        if let Some(thread) = self.threads.get_mut(&task) {
            thread.locks.tracks.push((track, Some(key)));
        }
        track
    }

    fn window_lane(&mut self, inode: InodeIndex, parent: TrackId, scope: ScopeId) -> TrackId {
        if let Some(file) = self.files.get_mut(&inode)
            && let Some((track, open)) = file
                .windows
                .tracks
                .iter_mut()
                .find(|(_, open)| open.is_none())
        {
            *open = Some(scope);
            return *track;
        }
        let track = self.new_track(Some(parent), TrackKind::Named("windows".to_owned()));
        if let Some(file) = self.files.get_mut(&inode) {
            file.windows.tracks.push((track, Some(scope)));
        }
        track
    }

    fn forget(&mut self, task: TaskId, at: Nanos) {
        let Some(thread) = self.threads.get_mut(&task) else {
            return;
        };
        thread.waiting = None;
        let mut open: Vec<TrackId> = vec![thread.track; thread.depth as usize];
        thread.depth = 0;
        for (track, held) in &mut thread.locks.tracks {
            if held.take().is_some() {
                open.push(*track);
            }
        }
        for track in open {
            self.pieces.push(Piece::End {
                track,
                at,
                arguments: Vec::new(),
            });
        }
    }

    fn close(&mut self, at: Nanos) {
        let tasks: Vec<TaskId> = self.threads.keys().copied().collect();
        for task in tasks {
            self.forget(task, at);
        }
    }
}
