//! The trace as tables, for CSV and Parquet alike.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use parquet::{
    basic::{Compression, LogicalType, Repetition, Type as PhysicalType, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::{Type, TypePtr},
};
use tracer::{
    hooks::{LockClass, Mode},
    judge::{
        facts::{Fact, Outcome},
        operations::Operation,
    },
    story::{InodeIndex, ScopeId, Story, TaskId, Timeline},
    trace::Trace,
    units::Nanos,
};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An unsigned number.
    Number,
    /// Text.
    Text,
    /// Yes or no.
    Flag,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// It may be empty.
    pub optional: bool,
}

/// A table.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Its name, and that of its file.
    pub name: &'static str,
    /// Its columns, in order.
    pub columns: &'static [Column],
}

const fn number(name: &'static str) -> Column {
    Column {
        name,
        kind: Kind::Number,
        optional: false,
    }
}

const fn text(name: &'static str) -> Column {
    Column {
        name,
        kind: Kind::Text,
        optional: false,
    }
}

const fn flag(name: &'static str) -> Column {
    Column {
        name,
        kind: Kind::Flag,
        optional: false,
    }
}

const fn maybe(column: Column) -> Column {
    Column {
        optional: true,
        ..column
    }
}

/// Everything that there is.
pub const SCHEMAS: &[Schema] = &[
    Schema {
        name: "events",
        columns: &[
            number("time_ns"),
            number("cpu"),
            number("tid"),
            number("seq"),
            text("hook"),
            number("depth"),
            number("flags"),
            number("inode_address"),
            number("a"),
            number("b"),
            number("c"),
            number("size"),
            maybe(number("stack")),
        ],
    },
    Schema {
        name: "faults",
        columns: &[
            number("tid"),
            text("task"),
            maybe(text("filesystem")),
            number("inode"),
            text("path"),
            text("operation"),
            text("fault"),
            number("offset"),
            number("length"),
            number("start_ns"),
            number("end_ns"),
            maybe(number("installed_ns")),
            maybe(number("wait_start_ns")),
            maybe(number("wait_end_ns")),
            text("outcome"),
        ],
    },
    Schema {
        name: "findings",
        columns: &[
            text("kind"),
            text("strength"),
            text("filesystem"),
            text("operation"),
            number("inode"),
            text("path"),
            number("offset"),
            number("length"),
            text("lock"),
            text("observed"),
            text("target"),
            number("count"),
            number("time_ns"),
            flag("known"),
            text("sentence"),
        ],
    },
    Schema {
        name: "locks",
        columns: &[
            number("tid"),
            text("task"),
            maybe(text("filesystem")),
            number("inode"),
            text("path"),
            text("class"),
            text("mode"),
            text("operation"),
            maybe(number("wait_start_ns")),
            number("acquired_ns"),
            maybe(number("released_ns")),
        ],
    },
    Schema {
        name: "operations",
        columns: &[
            number("tid"),
            text("task"),
            maybe(text("filesystem")),
            number("inode"),
            text("path"),
            text("operation"),
            number("start_ns"),
            number("end_ns"),
        ],
    },
    Schema {
        name: "windows",
        columns: &[
            number("tid"),
            text("task"),
            maybe(text("filesystem")),
            number("inode"),
            text("path"),
            text("operation"),
            maybe(number("offset")),
            maybe(number("length")),
            number("start_ns"),
            number("end_ns"),
            maybe(text("lock_mode")),
            flag("breached"),
            number("entered"),
        ],
    },
];

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

struct Csv {
    out: BufWriter<File>,
}

impl Csv {
    fn create(path: &Path, schema: &Schema) -> Result<Self> {
        let mut out = BufWriter::new(create(path)?);
        let names: Vec<&str> = schema.columns.iter().map(|column| column.name).collect();
        writeln!(out, "{}", names.join(","))?;
        Ok(Self { out })
    }
}

impl Sink for Csv {
    fn row(&mut self, cells: Vec<Cell>) -> Result<()> {
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                self.out.write_all(b",")?;
            }
            match cell {
                Cell::None => {}
                Cell::Number(value) => write!(self.out, "{value}")?,
                Cell::Flag(value) => write!(self.out, "{value}")?,
                // RFC 4180
                Cell::Text(value) if value.contains([',', '"', '\n', '\r']) => {
                    write!(self.out, "\"{}\"", value.replace('"', "\"\""))?;
                }
                Cell::Text(value) => write!(self.out, "{value}")?,
            }
        }
        self.out.write_all(b"\n")?;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        Ok(self.out.flush()?)
    }
}

/// Rows that are held back until they are written as one row group.
const ROW_GROUP: usize = 1 << 16;

enum Values {
    Number(Vec<i64>),
    Text(Vec<ByteArray>),
    Flag(Vec<bool>),
}

struct Held {
    values: Values,
    /// 1 where there is a value.
    present: Vec<i16>,
    optional: bool,
}

struct Parquet {
    writer: SerializedFileWriter<File>,
    columns: Vec<Held>,
    rows: usize,
}

fn parquet_schema(schema: &Schema) -> Result<TypePtr> {
    let mut fields = Vec::new();
    for column in schema.columns {
        let repetition = if column.optional {
            Repetition::OPTIONAL
        } else {
            Repetition::REQUIRED
        };
        let (physical, logical) = match column.kind {
            Kind::Number => (PhysicalType::INT64, Some(LogicalType::integer(64, false))),
            Kind::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
            Kind::Flag => (PhysicalType::BOOLEAN, None),
        };
        let field = Type::primitive_type_builder(column.name, physical)
            .with_repetition(repetition)
            .with_logical_type(logical)
            .build()?;
        fields.push(Arc::new(field));
    }
    Ok(Arc::new(
        Type::group_type_builder(schema.name)
            .with_fields(fields)
            .build()?,
    ))
}

impl Parquet {
    fn create(path: &Path, schema: &Schema) -> Result<Self> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(format!("faultline {}", env!("CARGO_PKG_VERSION")))
            .build();
        let writer = SerializedFileWriter::new(
            create(path)?,
            parquet_schema(schema)?,
            Arc::new(properties),
        )?;
        let columns = schema
            .columns
            .iter()
            .map(|column| Held {
                values: match column.kind {
                    Kind::Number => Values::Number(Vec::new()),
                    Kind::Text => Values::Text(Vec::new()),
                    Kind::Flag => Values::Flag(Vec::new()),
                },
                present: Vec::new(),
                optional: column.optional,
            })
            .collect();
        Ok(Self {
            writer,
            columns,
            rows: 0,
        })
    }

    fn flush(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        let mut columns = self.columns.iter_mut();
        while let (Some(mut out), Some(held)) = (group.next_column()?, columns.next()) {
            let levels = held.optional.then_some(&held.present[..]);
            match &mut held.values {
                Values::Number(values) => {
                    out.typed::<Int64Type>().write_batch(values, levels, None)?;
                    values.clear();
                }
                Values::Text(values) => {
                    out.typed::<ByteArrayType>()
                        .write_batch(values, levels, None)?;
                    values.clear();
                }
                Values::Flag(values) => {
                    out.typed::<BoolType>().write_batch(values, levels, None)?;
                    values.clear();
                }
            }
            held.present.clear();
            out.close()?;
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }
}

impl Sink for Parquet {
    fn row(&mut self, cells: Vec<Cell>) -> Result<()> {
        for (held, cell) in self.columns.iter_mut().zip(cells) {
            held.present.push(1);
            match (&mut held.values, cell) {
                (Values::Number(values), Cell::Number(value)) => values.push(value as i64),
                (Values::Text(values), Cell::Text(value)) => values.push((&*value).into()),
                (Values::Flag(values), Cell::Flag(value)) => values.push(value),
                (_, Cell::None) if held.optional => {
                    if let Some(last) = held.present.last_mut() {
                        *last = 0;
                    }
                }
                (_, cell) => bail!("a table's row does not fit its columns: {cell:?}"),
            }
        }
        self.rows += 1;
        if self.rows == ROW_GROUP {
            self.flush()?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.flush()?;
        self.writer.finish()?;
        Ok(())
    }
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
        waits: HashMap::new(),
        error: None,
    };
    tables.write_all(trace)?;
    for (_, sink) in tables.sinks {
        sink.finish()?;
    }
    Ok(())
}

/// A hold that has not ended: whose, how, in what, since when waited for, since when held.
struct Hold {
    inode: InodeIndex,
    class: LockClass,
    mode: Mode,
    within: Operation,
    waited: Option<Nanos>,
    since: Nanos,
}

struct FileCells {
    filesystem: Cell,
    inode: Cell,
    path: Cell,
}

struct Tables {
    sinks: HashMap<&'static str, Box<dyn Sink>>,
    /// Installs that came into a window, which is known only after their faults.
    inside: HashSet<(TaskId, Nanos)>,
    entered: HashMap<ScopeId, u64>,
    names: HashMap<TaskId, Arc<str>>,
    files: HashMap<InodeIndex, (Cell, Cell, Cell)>,
    holds: HashMap<TaskId, Vec<Hold>>,
    waits: HashMap<TaskId, (InodeIndex, LockClass, Nanos)>,
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

    fn task(&mut self, story: &Story, task: TaskId) -> (Cell, Cell) {
        let name = self
            .names
            .entry(task)
            .or_insert_with(|| {
                let who = story.judge().who(task);
                who.map_or("", |who| who.name.as_str()).into()
            })
            .clone();
        (Cell::Number(task.tid.0.into()), Cell::Text(name))
    }

    fn file(&mut self, story: &Story, inode: InodeIndex) -> FileCells {
        let (filesystem, number, path) = self
            .files
            .entry(inode)
            .or_insert_with(|| {
                let file = story.file(inode);
                let path: Arc<str> = file.path.as_str().into();
                (
                    file.filesystem.map(|kind| kind.name()).into(),
                    file.ino.0.into(),
                    path.into(),
                )
            })
            .clone();
        FileCells {
            filesystem,
            inode: number,
            path,
        }
    }

    fn fact(&mut self, story: &Story, fact: &Fact) -> Result<()> {
        match *fact {
            Fact::Operation(seen) => {
                let (tid, task) = self.task(story, seen.task);
                let file = self.file(story, seen.inode);
                self.row(
                    "operations",
                    vec![
                        tid,
                        task,
                        file.filesystem,
                        file.inode,
                        file.path,
                        seen.operation.name().into(),
                        seen.from.into(),
                        seen.to.into(),
                    ],
                )
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
                let (tid, task) = self.task(story, seen.task);
                let file = self.file(story, seen.inode);
                self.row(
                    "faults",
                    vec![
                        tid,
                        task,
                        file.filesystem,
                        file.inode,
                        file.path,
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
                    ],
                )
            }
            Fact::Window(seen) => {
                let entered = self.entered.get(&seen.scope).copied().unwrap_or(0);
                let (tid, task) = self.task(story, seen.task);
                let file = self.file(story, seen.inode);
                self.row(
                    "windows",
                    vec![
                        tid,
                        task,
                        file.filesystem,
                        file.inode,
                        file.path,
                        seen.operation.name().into(),
                        seen.range.map(|range| range.start).into(),
                        seen.range.map(|range| range.end - range.start).into(),
                        seen.from.into(),
                        seen.to.into(),
                        seen.lock.map(|mode| mode.name()).into(),
                        seen.breached.into(),
                        entered.into(),
                    ],
                )
            }
            Fact::Wait {
                task,
                inode,
                class,
                at,
                ..
            } => {
                self.waits.insert(task, (inode, class, at));
                Ok(())
            }
            Fact::Acquire {
                task,
                inode,
                class,
                mode,
                within,
                at,
            } => {
                let waited = self
                    .waits
                    .get(&task)
                    .filter(|(file, which, _)| (*file, *which) == (inode, class))
                    .map(|&(.., from)| from);
                if waited.is_some() {
                    self.waits.remove(&task);
                }
                self.holds.entry(task).or_default().push(Hold {
                    inode,
                    class,
                    mode,
                    within,
                    waited,
                    since: at,
                });
                Ok(())
            }
            Fact::Release {
                task,
                inode,
                class,
                since,
                at,
                ..
            } => {
                let held = self.holds.get_mut(&task).and_then(|holds| {
                    let place = holds.iter().rposition(|hold| {
                        (hold.inode, hold.class, hold.since) == (inode, class, since)
                    })?;
                    Some(holds.remove(place))
                });
                match held {
                    Some(hold) => self.hold(story, task, &hold, Some(at)),
                    None => Ok(()),
                }
            }
            Fact::Forget { task } => {
                self.waits.remove(&task);
                for hold in self.holds.remove(&task).unwrap_or_default() {
                    self.hold(story, task, &hold, None)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn hold(
        &mut self,
        story: &Story,
        task: TaskId,
        hold: &Hold,
        released: Option<Nanos>,
    ) -> Result<()> {
        let (tid, name) = self.task(story, task);
        let file = self.file(story, hold.inode);
        self.row(
            "locks",
            vec![
                tid,
                name,
                file.filesystem,
                file.inode,
                file.path,
                hold.class.name().into(),
                hold.mode.name().into(),
                hold.within.name().into(),
                hold.waited.into(),
                hold.since.into(),
                released.into(),
            ],
        )
    }
}
