//! What the kernel said of itself, from /dev/kmsg.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
};

/// The longest record (kernel/printk/internal.h: PRINTK_MESSAGE_MAX).
const RECORD: usize = 2048;

/// Whether the kernel's log, as far back as it goes, has this word; false where it may not be read.
pub fn mentions(word: &str) -> bool {
    let log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg");
    let Ok(mut log) = log else {
        return false;
    };
    let mut record = [0; RECORD];
    loop {
        match log.read(&mut record) {
            Ok(0) => return false,
            Ok(length) => {
                if String::from_utf8_lossy(&record[..length]).contains(word) {
                    return true;
                }
            }
            // EPIPE: records were overwritten; the next read goes on behind them.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}
