//! Comma-separated values, as RFC 4180 has them.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

use anyhow::Result;

use super::{Cell, Schema, Sink, create};

pub struct Csv {
    out: BufWriter<File>,
}

impl Csv {
    pub fn create(path: &Path, schema: &Schema) -> Result<Self> {
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
