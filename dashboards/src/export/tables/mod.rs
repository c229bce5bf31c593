//! The trace as tables, for CSV and Parquet alike.

mod csv;
mod parquet;
mod schema;

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use tracer::{
    hooks::Mode,
    judge::{
        Owner, Resource,
        facts::{Fact, Outcome},
        operations::Operation,
    },
    story::{InodeIndex, ScopeId, Story, TaskId, Timeline, Waits},
    trace::Trace,
    units::Nanos,
};

use csv::Csv;
use parquet::Parquet;
pub use schema::{Column, Kind, SCHEMAS, Schema};

/// A value; `None` where the column may be empty.
#[derive(Clone, Debug)]
enum Cell {
    None,
    Number(u64),
    Text(Arc<str>),
    Flag(bool),
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}
impl From<Nanos> for Cell {
    fn from(value: Nanos) -> Self {
        Self::Number(value.0)
    }
}
impl From<&'static str> for Cell {
    fn from(value: &'static str) -> Self {
        Self::Text(value.into())
    }
}
impl From<Arc<str>> for Cell {
    fn from(value: Arc<str>) -> Self {
        Self::Text(value)
    }
}
impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}
impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

/// Where a table's rows go.
trait Sink {
    fn row(&mut self, cells: Vec<Cell>) -> Result<()>;
    fn finish(self: Box<Self>) -> Result<()>;
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Which files to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Comma-separated values, RFC 4180
    Csv,
    /// Apache Parquet, compressed with zstd
    Parquet,
}

/// Writes the named tables, or all, into `directory`.
///
/// # Errors
/// A table that does not exist, or a file that cannot be written.
pub fn write(trace: &Trace, directory: &Path, encoding: Encoding, only: &[String]) -> Result<()> {
    if let Some(unknown) = only
        .iter()
        .find(|name| SCHEMAS.iter().all(|schema| schema.name != **name))
    {
        let names: Vec<&str> = SCHEMAS.iter().map(|schema| schema.name).collect();
        bail!(
            "there is no table {unknown}; there are {}",
            names.join(", ")
        );
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let mut sinks: HashMap<&'static str, Box<dyn Sink>> = HashMap::new();
    for schema in SCHEMAS {
        if !only.is_empty() && !only.iter().any(|name| name == schema.name) {
            continue;
        }
        let sink: Box<dyn Sink> = match encoding {
            Encoding::Csv => Box::new(Csv::create(
                &directory.join(format!("{}.csv", schema.name)),
                schema,
            )?),
            Encoding::Parquet => Box::new(Parquet::create(
                &directory.join(format!("{}.parquet", schema.name)),
                schema,
            )?),
        };
        sinks.insert(schema.name, sink);
    }
    let mut tables = Tables {
        sinks,
        inside: HashSet::new(),
        entered: HashMap::new(),
        names: HashMap::new(),
        files: HashMap::new(),
        holds: HashMap::new(),
        waits: Waits::default(),
        error: None,
    };
    tables.write_all(trace)?;
    for (_, sink) in tables.sinks {
        sink.finish()?;
    }
    Ok(())
}

/// A hold that has not ended.
struct Hold {
    resource: Resource,
    mode: Mode,
    within: Operation,
    on: InodeIndex,
    waited: Option<Nanos>,
    since: Nanos,
}

struct Tables {
    sinks: HashMap<&'static str, Box<dyn Sink>>,
    /// Installs that came into a window, which is known only after their faults.
    inside: HashSet<(TaskId, Nanos)>,
    entered: HashMap<ScopeId, u64>,
    names: HashMap<TaskId, Arc<str>>,
    files: HashMap<InodeIndex, [Cell; 3]>,
    holds: HashMap<TaskId, Vec<Hold>>,
    waits: Waits,
    error: Option<anyhow::Error>,
}

impl Tables {
    fn write_all(&mut self, trace: &Trace) -> Result<()> {
        // The first pass learns what only the end of the run tells.
        let told = Story::of(trace, Timeline::around(Vec::new()), |_, fact| {
            if let Fact::Inside {
                task, at, scope, ..
            } = *fact
                && self.inside.insert((task, at))
            {
                *self.entered.entry(scope).or_default() += 1;
            }
        });
        self.findings(&told.report)?;
        drop(told);
        if self.sinks.contains_key("events") {
            self.events(trace)?;
        }
        if !["faults", "locks", "operations", "windows"]
            .iter()
            .any(|name| self.sinks.contains_key(name))
        {
            return Ok(());
        }
        Story::of(trace, Timeline::around(Vec::new()), |story, fact| {
            if self.error.is_none()
                && let Err(error) = self.fact(story, fact)
            {
                self.error = Some(error);
            }
        });
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        Ok(())
    }

    fn row(&mut self, table: &str, cells: Vec<Cell>) -> Result<()> {
        match self.sinks.get_mut(table) {
            Some(sink) => sink.row(cells),
            None => Ok(()),
        }
    }

    fn events(&mut self, trace: &Trace) -> Result<()> {
        let hooks: HashMap<u16, Arc<str>> = trace
            .header()
            .hooks
            .iter()
            .map(|hook| (hook.id.0, hook.target.as_str().into()))
            .collect();
        let nameless: Arc<str> = "".into();
        let mut failed = None;
        trace.for_each(|cpu, event| {
            if failed.is_some() {
                return;
            }
            let head = &event.head;
            let hook = match head.hook {
                tracer_ebpf::event::HOOK_INODE => "(file)".into(),
                tracer_ebpf::event::HOOK_TASK => "(task)".into(),
                id => hooks.get(&id).unwrap_or(&nameless).clone(),
            };
            let cells = vec![
                Cell::Number(head.time),
                Cell::Number(cpu.into()),
                Cell::Number(head.task.into()),
                Cell::Number(head.seq.into()),
                Cell::Text(hook),
                Cell::Number(head.depth.into()),
                Cell::Number(head.flags.into()),
                Cell::Number(event.inode),
                Cell::Number(event.a),
                Cell::Number(event.b),
                Cell::Number(event.c),
                Cell::Number(event.size),
                u64::try_from(head.stack).ok().into(),
            ];
            failed = self.row("events", cells).err();
        });
        failed.map_or(Ok(()), Err)
    }

    fn findings(&mut self, report: &tracer::judge::Report) -> Result<()> {
        let known = report.annotated.iter().map(|known| (&known.finding, true));
        let all = report.findings.iter().map(|finding| (finding, false));
        for (finding, known) in all.chain(known) {
            let owned = |text: &str| Cell::Text(text.into());
            self.row(
                "findings",
                vec![
                    finding.kind.name().into(),
                    finding.strength.name().into(),
                    finding.filesystem.name().into(),
                    finding.operation.name().into(),
                    finding.inode.0.into(),
                    owned(&finding.path),
                    finding.range.offset.into(),
                    finding.range.length.into(),
                    finding.expected.class.into(),
                    owned(&finding.observed),
                    owned(&finding.target),
                    finding.count.into(),
                    finding.time_ns.into(),
                    known.into(),
                    owned(&finding.sentence),
                ],
            )?;
        }
        Ok(())
    }

    /// Thread and name.
    fn task(&mut self, story: &Story, task: TaskId) -> [Cell; 2] {
        let name = self
            .names
            .entry(task)
            .or_insert_with(|| {
                let who = story.judge().who(task);
                who.map_or("", |who| who.name.as_str()).into()
            })
            .clone();
        [u64::from(task.tid.0).into(), name.into()]
    }

    /// Filesystem, inode and path.
    fn file(&mut self, story: &Story, inode: InodeIndex) -> [Cell; 3] {
        self.files
            .entry(inode)
            .or_insert_with(|| {
                let file = story.file(inode);
                let path: Arc<str> = file.path.as_str().into();
                [
                    file.filesystem.map(|kind| kind.name()).into(),
                    file.ino.0.into(),
                    path.into(),
                ]
            })
            .clone()
    }

    /// A row about what a task did on a file.
    fn act<const N: usize>(
        &mut self,
        story: &Story,
        table: &str,
        (task, inode): (TaskId, InodeIndex),
        rest: [Cell; N],
    ) -> Result<()> {
        let mut cells = Vec::with_capacity(5 + N);
        cells.extend(self.task(story, task));
        cells.extend(self.file(story, inode));
        cells.extend(rest);
        self.row(table, cells)
    }

    fn fact(&mut self, story: &Story, fact: &Fact) -> Result<()> {
        match *fact {
            Fact::Operation(seen) => {
                let rest = [
                    seen.operation.name().into(),
                    seen.from.into(),
                    seen.to.into(),
                ];
                self.act(story, "operations", (seen.task, seen.inode), rest)
            }
            Fact::Fault(seen) => {
                let inside = seen
                    .installed
                    .is_some_and(|at| self.inside.contains(&(seen.task, at)));
                let outcome = if inside {
                    Outcome::Inside
                } else {
                    seen.outcome
                };
                let rest = [
                    seen.operation.name().into(),
                    seen.kind.name().into(),
                    seen.range.start.into(),
                    (seen.range.end - seen.range.start).into(),
                    seen.from.into(),
                    seen.to.into(),
                    seen.installed.into(),
                    seen.waited.map(|(from, _)| from).into(),
                    seen.waited.map(|(_, to)| to).into(),
                    outcome.name().into(),
                ];
                self.act(story, "faults", (seen.task, seen.inode), rest)
            }
            Fact::Window(seen) => {
                let entered = self.entered.get(&seen.scope).copied().unwrap_or(0);
                let rest = [
                    seen.operation.name().into(),
                    seen.range.map(|range| range.start).into(),
                    seen.range.map(|range| range.end - range.start).into(),
                    seen.from.into(),
                    seen.to.into(),
                    seen.lock.map(|mode| mode.name()).into(),
                    seen.breached.into(),
                    entered.into(),
                ];
                self.act(story, "windows", (seen.task, seen.inode), rest)
            }
            Fact::Wait {
                task, resource, at, ..
            } => {
                self.waits.begin(task, resource, at);
                Ok(())
            }
            Fact::Acquire {
                task,
                resource,
                mode,
                within,
                on,
                at,
            } => {
                let waited = self.waits.end(task, resource);
                self.holds.entry(task).or_default().push(Hold {
                    resource,
                    mode,
                    within,
                    on,
                    waited,
                    since: at,
                });
                Ok(())
            }
            Fact::Release {
                task,
                resource,
                since,
                at,
                ..
            } => self.over(story, task, (resource, since), Some(at)),
            Fact::Lapse {
                task,
                resource,
                since,
            } => self.over(story, task, (resource, since), None),
            Fact::Forget { task } => {
                self.waits.forget(task);
                for hold in self.holds.remove(&task).unwrap_or_default() {
                    self.hold(story, task, &hold, None)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A hold is over, if its beginning was seen.
    fn over(
        &mut self,
        story: &Story,
        task: TaskId,
        which: (Resource, Nanos),
        released: Option<Nanos>,
    ) -> Result<()> {
        let held = self.holds.get_mut(&task).and_then(|holds| {
            let of = |hold: &Hold| (hold.resource, hold.since) == which;
            Some(holds.remove(holds.iter().rposition(of)?))
        });
        held.map_or(Ok(()), |hold| self.hold(story, task, &hold, released))
    }

    fn hold(
        &mut self,
        story: &Story,
        task: TaskId,
        hold: &Hold,
        released: Option<Nanos>,
    ) -> Result<()> {
        let [filesystem, ..] = self.file(story, hold.on);
        let owner = hold.resource.owner;
        let [_, inode, path] = match owner.inode() {
            Some(inode) => self.file(story, inode),
            None => [Cell::None, Cell::None, Cell::None],
        };
        let (page, process) = match owner {
            Owner::Page(_, page) => (page.into(), Cell::None),
            Owner::Process(pid) => (Cell::None, u64::from(pid).into()),
            Owner::Inode(_) | Owner::Filesystem(_) => (Cell::None, Cell::None),
        };
        let [tid, name] = self.task(story, task);
        self.row(
            "locks",
            vec![
                tid,
                name,
                filesystem,
                inode,
                path,
                page,
                process,
                hold.resource.class.name().into(),
                hold.mode.name().into(),
                hold.within.name().into(),
                hold.waited.into(),
                hold.since.into(),
                released.into(),
            ],
        )
    }
}
