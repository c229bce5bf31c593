//! A batch of one CPU's events as columns.
//!
//! Kernel code repeats itself, so nearly every field of nearly every event follows from what came
//! before. A [`model`] predicts each field; the *shape* of an event says which predictions held,
//! and only the fields that broke theirs cost bytes, each in a column of its own. Both sides run
//! the same model over the same events, which keeps them in step.
//!
//! Layout, all integers little-endian: a [`Preface`] of counts and column lengths, the shapes, the
//! task ids, the inode addresses, then the columns, all varints.

mod decode;
mod encode;
mod intern;
mod model;
mod varint;

#[cfg(test)]
mod tests;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

pub use decode::Decoder;
pub use encode::Encoder;

/// The bytes are not what [`Encoder`] writes; says where they went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed event columns: {0}")]
pub struct Malformed(pub &'static str);

const COLUMNS: usize = 10;

/// What each column holds, by its place.
mod column {
    pub const TIME: usize = 0;
    pub const SHAPE: usize = 1;
    pub const TASK: usize = 2;
    pub const SEQ: usize = 3;
    pub const STACK: usize = 4;
    pub const INODE: usize = 5;
    pub const A: usize = 6;
    pub const B: usize = 7;
    pub const C: usize = 8;
    pub const SIZE: usize = 9;
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct Preface {
    shapes: U32,
    tasks: U32,
    inodes: U32,
    columns: [U32; COLUMNS],
}

/// [`model::Shape`] in a file.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct RawShape {
    hook: U16,
    modes: U16,
    depth: u8,
    flags: u8,
}

type RawTask = U32;
type RawInode = U64;
