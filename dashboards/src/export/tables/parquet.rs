//! Apache Parquet, compressed with zstd.

use std::{fs::File, path::Path, sync::Arc};

use anyhow::{Result, bail};
use parquet::{
    basic::{Compression, LogicalType, Repetition, Type as PhysicalType, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::{Type, TypePtr},
};

use super::{Cell, Kind, Schema, Sink, create};

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

pub struct Parquet {
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
    pub fn create(path: &Path, schema: &Schema) -> Result<Self> {
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
