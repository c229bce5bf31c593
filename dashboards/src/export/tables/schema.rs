//! Which tables there are, and their columns.

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
            maybe(number("inode")),
            maybe(text("path")),
            maybe(number("page")),
            maybe(number("process")),
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
