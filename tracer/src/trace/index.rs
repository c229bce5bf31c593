//! The index: where every chunk is, so that opening a long trace does not touch each of its chunks.
//!
//! It is the last chunk, its payload ends in an [`End`], and that is how it is found.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U64};

use super::format::{CHUNK_HEADER, ChunkHeader, FILE_HEADER, Kind};

/// One chunk's place.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Place {
    /// Bytes from the start of the file.
    pub offset: U64,
    /// A copy of what is there.
    pub header: ChunkHeader,
}

impl Place {
    /// Where the chunk starts.
    pub fn start(&self) -> usize {
        self.offset.get() as usize
    }

    /// Where the chunk after it starts.
    pub fn end(&self) -> usize {
        self.start().saturating_add(self.header.length())
    }
}

const END_MAGIC: [u8; 8] = *b"FLTINDEX";

/// Last bytes of a file with an index.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct End {
    /// Where the index chunk starts.
    offset: U64,
    magic: [u8; 8],
}

/// The payload of an index chunk that starts at `offset`.
pub fn payload(places: &[Place], offset: u64) -> Vec<u8> {
    let mut payload = places.as_bytes().to_vec();
    payload.extend_from_slice(
        End {
            offset: offset.into(),
            magic: END_MAGIC,
        }
        .as_bytes(),
    );
    payload
}

/// The index at the end of a file; none unless it accounts for every byte of the file.
pub fn read(file: &[u8]) -> Option<Vec<Place>> {
    let (_, end) = End::ref_from_suffix(file).ok()?;
    if end.magic != END_MAGIC {
        return None;
    }
    let start = usize::try_from(end.offset.get()).ok()?;
    let chunk = file.get(start..)?;
    let header = ChunkHeader::read(chunk)?;
    let payload = chunk.get(CHUNK_HEADER..)?;
    if header.kind() != Some(Kind::Index)
        || header.length() != chunk.len()
        || !header.matches(payload)
    {
        return None;
    }
    let places = payload.get(..payload.len() - size_of::<End>())?;
    let places = <[Place]>::ref_from_bytes(places).ok()?;

    let mut at = FILE_HEADER;
    for place in places {
        if place.start() != at || ChunkHeader::read(place.header.as_bytes()).is_none() {
            return None;
        }
        at = place.end();
    }
    (at == start).then(|| places.to_vec())
}
