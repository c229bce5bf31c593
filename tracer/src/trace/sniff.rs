//! What a file that is no trace seems to be.

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;

const SIGNATURES: &[(&[u8], &str)] = &[
    (b"PERFILE2", "a perf.data file"),
    (b"\x17\x08\x44tracing", "a trace-cmd trace.dat file"),
    (b"\x7fELF", "an ELF file"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (b"\xfd7zXZ", "xz-compressed data"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\n", "a text file"),
];

/// Names anything but a regular file.
pub fn special(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_char_device() {
        Some("a character device")
    } else if kind.is_block_device() {
        Some("a block device")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a special file")
    }
}

/// Guesses from a file's first bytes.
pub fn contents(bytes: &[u8]) -> String {
    if let Some((_, name)) = SIGNATURES
        .iter()
        .find(|(start, _)| bytes.starts_with(start))
    {
        return (*name).to_owned();
    }
    let start = &bytes[..bytes.len().min(512)];
    if start.iter().all(|&byte| byte == 0) {
        return "a file of zeros".to_owned();
    }
    // A cut in the middle of a character is no reason to call a text binary.
    let text = match str::from_utf8(start) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(&start[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    match text {
        Some(text) if text.trim_start().starts_with(['{', '[']) => "a JSON file".to_owned(),
        Some(text) if !text.contains(|c: char| c.is_control() && !c.is_whitespace()) => {
            "a text file".to_owned()
        }
        _ => "binary data of another kind".to_owned(),
    }
}
