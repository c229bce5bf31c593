//! One program, three ways in: trampoline (fentry/fexit), kprobe and raw tracepoint.
//!
//! User space loads a copy per hook, each with its own frozen [`tracer_ebpf::HookSpec`].

#![no_std]
#![no_main]

mod args;
mod identity;
mod pause;
mod relief;
mod ring;
mod role;
mod scope;
mod spec;

use aya_ebpf::{
    macros::{fentry, kprobe, raw_tracepoint},
    programs::{FEntryContext, ProbeContext, RawTracePointContext},
};

use crate::args::{Registers, Tracepoint, Trampoline};

#[fentry]
fn trampoline(ctx: FEntryContext) -> i32 {
    relief::run(&Trampoline::new(&ctx));
    0
}

#[kprobe]
fn probe(ctx: ProbeContext) -> u32 {
    role::run(&Registers::new(&ctx));
    0
}

#[raw_tracepoint]
fn tracepoint(ctx: RawTracePointContext) -> i32 {
    role::run(&Tracepoint::new(&ctx));
    0
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
