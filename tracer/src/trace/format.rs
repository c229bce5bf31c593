//! The bytes of a trace file: a file header, then chunks. All integers are little-endian.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

/// First bytes of every trace.
pub const FILE_MAGIC: [u8; 8] = *b"FAULTLN\n";
/// The format written, and the latest one read.
pub const VERSION: u32 = 1;
/// First bytes of every chunk; never text, so that a resync seldom stops at a wrong place.
pub const CHUNK_MAGIC: [u8; 4] = [0xfa, b'C', 0x17, 0x9e];
/// Events in a chunk, at most.
pub const MAX_EVENTS: usize = 32768;
/// Bytes of a chunk before compression, at most.
pub const MAX_RAW: usize = 64 << 20;
/// Bytes of an event before compression, at most: every column at its widest, entries in all tables.
const MAX_EVENT: usize = 96;
/// `ChunkHeader::cpu` of chunks that belong to none.
pub const NO_CPU: u32 = u32::MAX;

/// What a file begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct FileHeader {
    /// [`FILE_MAGIC`]
    pub magic: [u8; 8],
    /// [`VERSION`]
    pub version: U32,
    /// 0
    pub reserved: U32,
}

/// Bytes of a [`FileHeader`].
pub const FILE_HEADER: usize = size_of::<FileHeader>();

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`super::meta::Header`] as JSON; the first chunk.
    Header = 1,
    /// Events of one CPU as [`super::columns`].
    Events = 2,
    /// A JSON array of [`super::meta::Inode`].
    Inodes = 3,
    /// A JSON array of [`super::meta::Task`].
    Tasks = 4,
    /// A JSON array of [`super::meta::Stack`].
    Stacks = 5,
    /// A JSON array of [`super::meta::Loss`].
    Losses = 6,
    /// [`super::meta::Footer`] as JSON; the last chunk but for the index.
    Footer = 7,
    /// Offset and header of every chunk, not compressed; only a convenience.
    Index = 8,
    /// A JSON array of [`super::meta::Mark`].
    Marks = 9,
    /// Nothing in it: every CPU's events up to its `last` stand before it.
    Whole = 10,
}

impl Kind {
    /// By its number in a file.
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Header,
            2 => Self::Events,
            3 => Self::Inodes,
            4 => Self::Tasks,
            5 => Self::Stacks,
            6 => Self::Losses,
            7 => Self::Footer,
            8 => Self::Index,
            9 => Self::Marks,
            10 => Self::Whole,
            _ => return None,
        })
    }

    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Events => "events",
            Self::Inodes => "inodes",
            Self::Tasks => "tasks",
            Self::Stacks => "stacks",
            Self::Losses => "losses",
            Self::Footer => "footer",
            Self::Index => "index",
            Self::Marks => "marks",
            Self::Whole => "whole",
        }
    }
}

/// What a chunk begins with; its payload follows.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct ChunkHeader {
    /// [`CHUNK_MAGIC`]
    pub magic: [u8; 4],
    /// [`Kind`]; a reader skips what it does not know.
    pub kind: U32,
    /// The CPU that the events come from, or [`NO_CPU`].
    pub cpu: U32,
    /// Events, or entries of a table.
    pub count: U32,
    /// Bytes of the payload before compression.
    pub raw: U32,
    /// Bytes of the payload in the file.
    pub stored: U32,
    /// Earliest time in the chunk, nanoseconds; 0 if it has none.
    pub first: U64,
    /// Latest time in the chunk.
    pub last: U64,
    /// CRC-32 of the fields above and the payload.
    pub checksum: U32,
    /// CRC-32 of the fields above, so that a length can be trusted without reading the payload.
    pub header_checksum: U32,
}

/// Bytes of a [`ChunkHeader`].
pub const CHUNK_HEADER: usize = size_of::<ChunkHeader>();
const BEFORE_CHECKSUM: usize = CHUNK_HEADER - 8;
const BEFORE_HEADER_CHECKSUM: usize = CHUNK_HEADER - 4;

impl ChunkHeader {
    /// Fills in the magic and both checksums.
    pub fn seal(&mut self, payload: &[u8]) {
        self.magic = CHUNK_MAGIC;
        self.checksum = self.payload_checksum(payload).into();
        self.header_checksum = self.own_checksum().into();
    }

    /// The header at the start of `bytes`, if it is whole and its lengths are within bounds.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (header, _) = Self::read_from_prefix(bytes).ok()?;
        let sound = header.magic == CHUNK_MAGIC
            && header.header_checksum.get() == header.own_checksum()
            && header.is_bounded();
        sound.then_some(header)
    }

    /// What the chunk holds, if this version knows it.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_number(self.kind.get())
    }

    /// Bytes of the whole chunk in the file.
    pub fn length(&self) -> usize {
        CHUNK_HEADER + self.stored.get() as usize
    }

    /// True if the payload is the one that was written.
    pub fn matches(&self, payload: &[u8]) -> bool {
        self.checksum.get() == self.payload_checksum(payload)
    }

    fn is_bounded(&self) -> bool {
        let (raw, count) = (self.raw.get() as usize, self.count.get() as usize);
        let limit = match self.kind() {
            Some(Kind::Events) if count > MAX_EVENTS => return false,
            Some(Kind::Events) => MAX_RAW.min((count + 1) * MAX_EVENT),
            _ => MAX_RAW,
        };
        raw <= limit
    }

    fn payload_checksum(&self, payload: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.as_bytes()[..BEFORE_CHECKSUM]);
        hasher.update(payload);
        hasher.finalize()
    }

    fn own_checksum(&self) -> u32 {
        crc32fast::hash(&self.as_bytes()[..BEFORE_HEADER_CHECKSUM])
    }
}
