//! Plain tables: columns as wide as their contents, numbers to the right.

use std::fmt::Write as _;

/// Where a column's cells go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text
    Left,
    /// Numbers
    Right,
}

/// A table in the making.
#[derive(Debug)]
pub struct Table {
    heads: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table; a head that begins with `<` is of a column of text.
    pub fn new(heads: &[&'static str]) -> Self {
        let heads = heads
            .iter()
            .map(|head| match head.strip_prefix('<') {
                Some(head) => (head, Align::Left),
                None => (*head, Align::Right),
            })
            .collect();
        Self {
            heads,
            rows: Vec::new(),
        }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table, each line after two blanks.
    pub fn render(&self) -> String {
        let mut widths: Vec<usize> = self
            .heads
            .iter()
            .map(|(head, _)| head.chars().count())
            .collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::from(" ");
            for ((cell, width), (_, align)) in cells.zip(&widths).zip(&self.heads) {
                let _ = match align {
                    Align::Left => write!(text, " {cell:<width$}"),
                    Align::Right => write!(text, " {cell:>width$}"),
                };
            }
            out.push_str(text.trim_end());
            out.push('\n');
        };
        line(&mut self.heads.iter().map(|&(head, _)| head));
        for row in &self.rows {
            line(&mut row.iter().map(String::as_str));
        }
        out
    }
}

/// A duration in at most four digits and a unit, or a dash for none.
pub fn time(ns: u64) -> String {
    if ns == 0 {
        "-".to_owned()
    } else {
        tracer::judge::text::duration(ns)
    }
}
