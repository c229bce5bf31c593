//! The frozen globals, and the walk from an argument to a value.

use core::{ffi::c_void, ptr::read_volatile};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use tracer_ebpf::hook::{HookSpec, KernelLayout, MAX_DEREFS, Path, SOURCE_NONE, SOURCE_RETURN};

use crate::args::Args;

/// Written by the loader before the map is frozen.
#[unsafe(no_mangle)]
pub static SPEC: HookSpec = HookSpec {
    id: 0,
    pair: 0,
    role: 0,
    flags: 0,
    hold: 0,
    success: 0,
    needs: 0,
    more: 0,
    left_out: 0,
    turn: 0,
    reserved: [0; 3],
    guard: 0,
    without: 0,
    exactly: 0,
    delay: 0,
    inodes: [Path::NONE; 2],
    payload: [Path::NONE; 3],
    second: [Path::NONE; 3],
};

/// Written by the loader before the map is frozen.
#[unsafe(no_mangle)]
pub static LAYOUT: KernelLayout = KernelLayout {
    inode_sb: 0,
    sb_dev: 0,
    inode_ino: 0,
    inode_generation: 0,
    inode_flags: 0,
    inode_size: 0,
    inode_blkbits: 0,
    inode_dentry: 0,
    dentry_alias: 0,
    dentry_parent: 0,
    dentry_name: 0,
    inode_pages: 0,
    inode_direct: 0,
    task_mm: 0,
    mm_lock: 0,
    sb_pagefault: 0,
    cpus: 0,
    freeze_mask: 0,
    per_cpu_offset: 0,
};

/// A frozen value. Volatile: the compiler must not fold the zeroes above; the verifier folds the
/// loader's values.
#[inline(always)]
pub fn frozen<T: Copy>(field: &'static T) -> T {
    // SAFETY: a reference is valid to read from.
    unsafe { read_volatile(field) }
}

/// Reads a `T` from kernel memory.
#[inline(always)]
pub fn peek<T: Copy + Default>(address: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the helper bounds the write by the size given and faults safely on a bad source.
    let status = unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast::<c_void>(),
            size_of::<T>() as u32,
            address as *const c_void,
        )
    };
    (status == 0).then_some(value)
}

/// Follows `path` from the arguments.
#[inline(always)]
pub fn follow(args: &impl Args, path: *const Path) -> Option<u64> {
    // SAFETY: `path` points into the static SPEC.
    let (source, derefs, width, keep, add) = unsafe {
        (
            read_volatile(&raw const (*path).source),
            read_volatile(&raw const (*path).derefs),
            read_volatile(&raw const (*path).width),
            read_volatile(&raw const (*path).keep),
            read_volatile(&raw const (*path).add),
        )
    };
    if source == SOURCE_NONE {
        return None;
    }
    let mut value = if source == SOURCE_RETURN {
        args.ret()?
    } else {
        args.arg(source)?
    };
    let mut step = 0;
    while step < MAX_DEREFS {
        if step >= derefs as usize {
            break;
        }
        // SAFETY: `step` is below MAX_DEREFS.
        let offset = unsafe { read_volatile((&raw const (*path).offsets).cast::<i32>().add(step)) };
        value = peek::<u64>(value.wrapping_add_signed(i64::from(offset)))?;
        step += 1;
    }
    value = value.wrapping_add_signed(i64::from(add));
    match width {
        0 if keep == 4 => Some(value & 0xffff_ffff),
        0 => Some(value),
        1 => peek::<u8>(value).map(u64::from),
        2 => peek::<u16>(value).map(u64::from),
        4 => peek::<u32>(value).map(u64::from),
        _ => peek::<u64>(value),
    }
}
