//! Which file an inode address stands for at this moment.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use tracer_ebpf::{
    event::{
        FLAG_FREEZE_FREE, FLAG_FREEZE_HELD, HOOK_INODE, Head, InodeRecord, NAME_DEPTH, NAME_LEN,
    },
    hook::Watched,
};

use crate::{
    ring::{INODES, WATCHED, publish},
    scope::{Task, current, next_seq},
    spec::{LAYOUT, frozen, peek},
};

/// Counters of more CPUs are not read.
const MAX_CPUS: u64 = 128;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InodeIdentity {
    number: u64,
    device: u32,
    generation: u32,
}

#[inline(always)]
fn device(inode: u64) -> Option<u32> {
    let sb = peek::<u64>(inode + u64::from(frozen(&LAYOUT.inode_sb)))?;
    peek::<u32>(sb + u64::from(frozen(&LAYOUT.sb_dev)))
}

/// Device and bounds of a watched filesystem's inode, or `None` if nobody watches it.
#[inline(always)]
pub fn watched(inode: u64) -> Option<(u32, Watched)> {
    let device = device(inode)?;
    // SAFETY: watch entries are written before the hooks attach and never change.
    unsafe { WATCHED.get(device) }.map(|bounds| (device, *bounds))
}

/// `i_size` in bytes.
#[inline(always)]
pub fn size(inode: u64) -> u64 {
    peek::<u64>(inode + u64::from(frozen(&LAYOUT.inode_size))).unwrap_or(0)
}

/// `i_data.nrpages`: pages of the page cache, or DAX entries.
#[inline(always)]
pub fn pages(inode: u64) -> u64 {
    peek::<u64>(inode + u64::from(frozen(&LAYOUT.inode_pages))).unwrap_or(0)
}

/// `i_dio_count`: direct I/O in flight.
#[inline(always)]
pub fn direct_io(inode: u64) -> u32 {
    peek::<u32>(inode + u64::from(frozen(&LAYOUT.inode_direct))).unwrap_or(0)
}

/// The sum over CPUs of the readers of the superblock's freeze protection against page faults
/// (include/linux/percpu-rwsem.h), or `None` if it cannot be read.
#[inline(always)]
fn freeze_readers(inode: u64) -> Option<u32> {
    let superblock = peek::<u64>(inode + u64::from(frozen(&LAYOUT.inode_sb)))?;
    let counter = peek::<u64>(superblock + u64::from(frozen(&LAYOUT.sb_pagefault)))?;
    let cpus = u64::from(frozen(&LAYOUT.cpus));
    let mut sum = 0u32;
    let mut cpu = 0u64;
    while cpu < MAX_CPUS {
        if cpu >= cpus {
            break;
        }
        let offset = peek::<u64>(frozen(&LAYOUT.per_cpu_offset) + cpu * 8)?;
        sum = sum.wrapping_add(peek::<u32>(counter.wrapping_add(offset))?);
        cpu += 1;
    }
    Some(sum)
}

/// `FLAG_FREEZE_*` for the superblock of `inode`, or 0 if it is not to be known. Where a zero accuses the
/// task, two in a row: a reader that moves between CPUs may be counted on neither.
#[inline(always)]
pub fn freeze_protection(inode: u64, look: Look) -> u8 {
    if frozen(&LAYOUT.sb_pagefault) == 0 {
        return 0;
    }
    match (freeze_readers(inode), look) {
        (None, _) => return 0,
        (Some(0), Look::Once) => return FLAG_FREEZE_FREE,
        (Some(0), Look::Twice) => {}
        (Some(_), _) => return FLAG_FREEZE_HELD,
    }
    match freeze_readers(inode) {
        None => 0,
        Some(0) => FLAG_FREEZE_FREE,
        Some(_) => FLAG_FREEZE_HELD,
    }
}

/// How surely a zero must be one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Once,
    Twice,
}

/// True if user space was told about `inode`, or about the file that its address stood for before.
#[inline(always)]
pub fn introduced(inode: u64) -> bool {
    // SAFETY: only asked whether it is there.
    unsafe { INODES.get(inode) }.is_some()
}

/// Tells user space which file `inode` is, if that is news.
#[inline(always)]
pub fn introduce(task: *mut Task, inode: u64, device: u32) {
    let number = peek::<u64>(inode + u64::from(frozen(&LAYOUT.inode_ino))).unwrap_or(0);
    let generation = peek::<u32>(inode + u64::from(frozen(&LAYOUT.inode_generation))).unwrap_or(0);
    let identity = InodeIdentity {
        number,
        device,
        generation,
    };
    // SAFETY: the value is copied out for comparison only.
    if let Some(known) = unsafe { INODES.get(inode) }
        && *known == identity
    {
        return;
    }
    // A full table only means that the file is introduced again.
    let _ = INODES.insert(inode, &identity, 0);
    let seq = next_seq(task);
    publish(|record: *mut InodeRecord, time| {
        // SAFETY: `record` is this ring's reservation.
        unsafe {
            (*record).head = Head {
                time,
                task: current(),
                seq,
                hook: HOOK_INODE,
                depth: (*task).depth,
                flags: 0,
                stack: -1,
            };
            (*record).inode = inode;
            (*record).number = number;
            (*record).size = size(inode);
            (*record).device = device;
            (*record).generation = generation;
            (*record).flags =
                peek::<u32>(inode + u64::from(frozen(&LAYOUT.inode_flags))).unwrap_or(0);
            (*record).block_bits = u32::from(
                peek::<u8>(inode + u64::from(frozen(&LAYOUT.inode_blkbits))).unwrap_or(0),
            );
            names(&raw mut (*record).names, inode);
        }
    });
}

/// Writes the names of the inode's first alias and of its parents, leaf first.
#[inline(always)]
unsafe fn names(names: *mut [[u8; NAME_LEN]; NAME_DEPTH], inode: u64) {
    let alias = peek::<u64>(inode + u64::from(frozen(&LAYOUT.inode_dentry))).unwrap_or(0);
    let mut dentry = if alias == 0 {
        0
    } else {
        alias - u64::from(frozen(&LAYOUT.dentry_alias))
    };
    let mut i = 0;
    while i < NAME_DEPTH {
        // SAFETY: `i` is below NAME_DEPTH.
        let slot = unsafe { names.cast::<[u8; NAME_LEN]>().add(i).cast::<u8>() };
        unsafe { *slot = 0 };
        if dentry != 0 {
            let name = peek::<u64>(dentry + u64::from(frozen(&LAYOUT.dentry_name))).unwrap_or(0);
            // SAFETY: the helper writes at most NAME_LEN bytes into the reservation.
            let _ = unsafe {
                bpf_probe_read_kernel_str(
                    slot.cast::<c_void>(),
                    NAME_LEN as u32,
                    name as *const c_void,
                )
            };
            let parent =
                peek::<u64>(dentry + u64::from(frozen(&LAYOUT.dentry_parent))).unwrap_or(0);
            dentry = if parent == dentry { 0 } else { parent };
        }
        i += 1;
    }
}
