//! Arguments and return value of the hooked function, whichever way the program was entered.

use core::{ffi::c_void, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_func_arg, bpf_get_func_ret},
    programs::{FEntryContext, ProbeContext, RawTracePointContext},
};

use crate::spec::peek;

/// What a role needs from its context.
pub trait Args {
    /// Argument `index`, or `None` beyond what this way in can show.
    fn arg(&self, index: u8) -> Option<u64>;
    /// The return value, at a return.
    fn ret(&self) -> Option<u64>;
    /// The raw context, for stack walks.
    fn context(&self) -> *mut c_void;
}

pub struct Trampoline(*mut c_void);

impl Trampoline {
    #[inline(always)]
    pub fn new(ctx: &FEntryContext) -> Self {
        Self(ctx.as_ptr())
    }
}

impl Args for Trampoline {
    #[inline(always)]
    fn arg(&self, index: u8) -> Option<u64> {
        let mut value = 0u64;
        // SAFETY: a helper call on this program's own context; it checks the index.
        (unsafe { bpf_get_func_arg(self.0, u32::from(index), &raw mut value) } == 0)
            .then_some(value)
    }

    #[inline(always)]
    fn ret(&self) -> Option<u64> {
        let mut value = 0u64;
        // SAFETY: a helper call on this program's own context; it fails at fentry.
        (unsafe { bpf_get_func_ret(self.0, &raw mut value) } == 0).then_some(value)
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.0
    }
}

/// Registers are copied out at fixed offsets first: the verifier refuses a context pointer to which
/// the compiler has added an index.
pub struct Registers {
    context: *mut c_void,
    args: [u64; 6],
    ret: u64,
}

impl Registers {
    #[inline(always)]
    pub fn new(ctx: &ProbeContext) -> Self {
        let regs = ctx.regs;
        // SAFETY: the pt_regs of a probe context.
        unsafe {
            Self {
                context: ctx.as_ptr(),
                args: [
                    read_volatile(&raw const (*regs).rdi),
                    read_volatile(&raw const (*regs).rsi),
                    read_volatile(&raw const (*regs).rdx),
                    read_volatile(&raw const (*regs).rcx),
                    read_volatile(&raw const (*regs).r8),
                    read_volatile(&raw const (*regs).r9),
                ],
                ret: read_volatile(&raw const (*regs).rax),
            }
        }
    }
}

impl Args for Registers {
    #[inline(always)]
    fn arg(&self, index: u8) -> Option<u64> {
        pick(&self.args, index)
    }

    #[inline(always)]
    fn ret(&self) -> Option<u64> {
        Some(self.ret)
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.context
    }
}

/// Reads its arguments as memory: a tracepoint refuses a program that looks at its context beyond
/// the arguments that it has, and the compiler would merge constant offsets into such a look.
pub struct Tracepoint(*mut c_void);

impl Tracepoint {
    #[inline(always)]
    pub fn new(ctx: &RawTracePointContext) -> Self {
        Self(ctx.as_ptr())
    }
}

impl Args for Tracepoint {
    #[inline(always)]
    fn arg(&self, index: u8) -> Option<u64> {
        peek::<u64>(self.0 as u64 + u64::from(index) * 8)
    }

    #[inline(always)]
    fn ret(&self) -> Option<u64> {
        None
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.0
    }
}

#[inline(always)]
fn pick(args: &[u64; 6], index: u8) -> Option<u64> {
    match index {
        0 => Some(args[0]),
        1 => Some(args[1]),
        2 => Some(args[2]),
        3 => Some(args[3]),
        4 => Some(args[4]),
        5 => Some(args[5]),
        _ => None,
    }
}
