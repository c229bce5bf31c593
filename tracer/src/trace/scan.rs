//! Finding the chunks of a file without an index, whatever happened to it.

use zerocopy::IntoBytes;

use super::{
    format::{CHUNK_HEADER, CHUNK_MAGIC, ChunkHeader, FILE_HEADER},
    index::Place,
};

/// Where things are in a file.
#[derive(Default)]
pub struct Layout {
    /// Chunks with a sound header, in file order; their payload was not looked at.
    pub chunks: Vec<Place>,
    /// Bytes between chunks that are none.
    pub gaps: Vec<Gap>,
    /// The end of the file is no whole chunk.
    pub torn: Option<Torn>,
}

/// Bytes that are no chunk, with chunks after them.
pub struct Gap {
    /// Bytes from the start of the file.
    pub offset: usize,
    /// Bytes.
    pub length: usize,
    /// How many chunks lie before it.
    pub before: usize,
}

/// An end that is no whole chunk.
pub struct Torn {
    /// Where it starts.
    pub offset: usize,
    /// What is the matter with it.
    pub reason: &'static str,
}

/// The file stops where there should be more.
pub const CUT: &str = "it ends within a chunk";
/// The file goes on, but not as a trace.
pub const GARBLED: &str = "its end is damaged";

/// Goes from chunk header to chunk header; over what is none, to the next.
pub fn walk(file: &[u8]) -> Layout {
    let mut layout = Layout::default();
    let mut at = FILE_HEADER;
    while at < file.len() {
        let rest = &file[at..];
        match ChunkHeader::read(rest) {
            Some(header) if header.length() <= rest.len() => {
                layout.chunks.push(Place {
                    offset: (at as u64).into(),
                    header,
                });
                at += header.length();
            }
            Some(_) => {
                layout.torn = Some(Torn {
                    offset: at,
                    reason: CUT,
                });
                break;
            }
            None => match resync(rest) {
                Some(length) => {
                    layout.gaps.push(Gap {
                        offset: at,
                        length,
                        before: layout.chunks.len(),
                    });
                    at += length;
                }
                None => {
                    let cut = rest.len() < CHUNK_HEADER
                        && rest.iter().zip(CHUNK_MAGIC.as_bytes()).all(|(a, b)| a == b);
                    let reason = if cut { CUT } else { GARBLED };
                    layout.torn = Some(Torn { offset: at, reason });
                    break;
                }
            },
        }
    }
    layout
}

/// How far it is to the next sound chunk header.
fn resync(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += bytes
            .get(at..)?
            .iter()
            .position(|&byte| byte == CHUNK_MAGIC[0])?;
        if ChunkHeader::read(&bytes[at..]).is_some() {
            return Some(at);
        }
        at += 1;
    }
}
