//! Names of the files and tasks that the rings deliver.

use tracer_ebpf::{
    InodeRecord, TaskRecord,
    event::{NAME_DEPTH, NAME_LEN},
};

use crate::{
    trace::{Inode, Task},
    units::{Device, Ino, InodeAddress, Nanos, Pid, Tid},
};

/// include/linux/fs.h: S_DAX
const S_DAX: u32 = 1 << 13;

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

pub(crate) fn task(record: &TaskRecord) -> Task {
    Task {
        tid: Tid(record.head.task),
        pid: Pid(record.process),
        name: text(&record.name),
    }
}

pub(crate) fn inode(record: &InodeRecord) -> Inode {
    Inode {
        since: Nanos(record.head.time),
        address: InodeAddress(record.inode),
        ino: Ino(record.number),
        generation: record.generation,
        device: Device(record.device),
        block_bits: record.block_bits,
        dax: record.flags & S_DAX != 0,
        path: path(&record.names),
    }
}

/// Joins leaf-first names, below the mount point; what lies above the last known one is shown as `…`.
fn path(names: &[[u8; NAME_LEN]; NAME_DEPTH]) -> String {
    let mut parts: Vec<String> = names
        .iter()
        .map(|name| text(name))
        .take_while(|name| !name.is_empty())
        .collect();
    match parts.last_mut() {
        None => return String::new(),
        Some(root) if root == "/" => {
            parts.pop();
        }
        Some(_) => parts.push("…".to_owned()),
    }
    parts.reverse();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> [[u8; NAME_LEN]; NAME_DEPTH] {
        let mut names = [[0; NAME_LEN]; NAME_DEPTH];
        for (slot, word) in names.iter_mut().zip(words) {
            slot[..word.len()].copy_from_slice(word.as_bytes());
        }
        names
    }

    #[test]
    fn joins_names_leaf_first() {
        assert_eq!(path(&names(&["a", "dir", "/"])), "dir/a");
        assert_eq!(path(&names(&["a", "/"])), "a");
        assert_eq!(path(&names(&["d", "c", "b", "a"])), "…/a/b/c/d");
        assert_eq!(path(&names(&[])), "");
    }
}
