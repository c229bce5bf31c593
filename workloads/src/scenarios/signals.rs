//! Signals while a scenario runs: a stop request ends it in order, and SIGBUS does not end the
//! process.
//!
//! A fault beyond EOF (or on a full filesystem) raises SIGBUS. The handler maps an anonymous zero
//! page over the one that faulted, provided that it lies in a registered mapping, and counts; the
//! access then goes on, into that page. Its thread compares the count before and after each access
//! and maps the file's page back. No jump out of the handler, so no frame is skipped. Until the file's
//! page is back, other threads that access it meet the zero page: each mapping counts its repairs, so
//! that they can tell and repeat the access.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{
    SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction,
};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;

use super::pages::PAGE;

/// The signal that asked the run to stop; 0 for none.
static STOP: AtomicI32 = AtomicI32::new(0);

/// The most mappings of a run: of 62 files by 16 fault threads and some actors.
const MAPPINGS: usize = 2048;

/// Mappings whose SIGBUS is recovered: address and length, 0 when free.
static REGIONS: [(AtomicUsize, AtomicUsize); MAPPINGS] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; MAPPINGS];

/// Of the same mappings: zero pages put over pages of the file, and file pages put back.
static REPAIRS: [(AtomicU64, AtomicU64); MAPPINGS] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MAPPINGS];

/// This process is a forked child: who was in the middle of a repair is not here to end it.
static CHILD: AtomicBool = AtomicBool::new(false);

thread_local! {
    // Constant, without a destructor: reaching it from a handler neither allocates nor registers
    // anything.
    static HITS: Cell<u64> = const { Cell::new(0) };
}

/// SIGBUS recovered in this thread so far.
pub fn hits() -> u64 {
    HITS.with(Cell::get)
}

/// To be called in a forked child that goes on to access inherited mappings.
pub fn forked() {
    CHILD.store(true, Ordering::SeqCst);
}

/// A mapping's entry in the handler's table, until dropped.
pub struct Region(usize);

impl Region {
    /// Enters a mapping. Fails when the table is full.
    pub fn enter(address: usize, length: usize) -> io::Result<Self> {
        for (index, (base, size)) in REGIONS.iter().enumerate() {
            if base
                .compare_exchange(0, address, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
            {
                size.store(length, Ordering::SeqCst);
                return Ok(Self(index));
            }
        }
        Err(io::Error::other("too many mappings in one run"))
    }

    /// Waits until every page shows the file, and returns the number of zero pages put so far. In a
    /// forked child, where nobody would end a repair, `anew` must map all of the file back.
    pub fn whole(&self, anew: impl FnOnce()) -> u64 {
        let (broken, mended) = &REPAIRS[self.0];
        let mut anew = Some(anew);
        loop {
            // In this order, or a repair in between could pass for none.
            let done = mended.load(Ordering::SeqCst);
            let begun = broken.load(Ordering::SeqCst);
            if begun == done {
                return begun;
            }
            match anew.take() {
                Some(anew) if CHILD.load(Ordering::SeqCst) => {
                    anew();
                    mended.store(begun, Ordering::SeqCst);
                }
                _ => std::thread::yield_now(),
            }
        }
    }

    /// True if no zero page was put since [`Region::whole`] returned this number.
    pub fn whole_since(&self, begun: u64) -> bool {
        REPAIRS[self.0].0.load(Ordering::SeqCst) == begun
    }

    /// The file's page is back where this thread's access met SIGBUS, so many times.
    pub fn mended(&self, met: u64) {
        REPAIRS[self.0].1.fetch_add(met, Ordering::SeqCst);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let (base, size) = &REGIONS[self.0];
        size.store(0, Ordering::SeqCst);
        base.store(0, Ordering::SeqCst);
    }
}

/// What interrupts a system call.
const INTERRUPTION: Signal = Signal::SIGUSR2;

thread_local! {
    // Goes with its thread, and a signal that it sent to that with it.
    static INTERRUPTER: RefCell<Option<Timer>> = const { RefCell::new(None) };
}

/// From now on interrupts what this thread waits for, so often, with EINTR if it may be interrupted at
/// all; or no longer.
pub fn interrupt_every(period: Option<Duration>) -> io::Result<()> {
    INTERRUPTER.with_borrow_mut(|timer| {
        let timer = match timer {
            Some(timer) => timer,
            None => timer.insert(Timer::new(
                ClockId::CLOCK_MONOTONIC,
                SigEvent::new(SigevNotify::SigevThreadId {
                    signal: INTERRUPTION,
                    thread_id: gettid().as_raw(),
                    si_value: 0,
                }),
            )?),
        };
        let when = match period {
            Some(period) => Expiration::Interval(TimeSpec::from_duration(period)),
            None => Expiration::OneShot(TimeSpec::from_duration(Duration::ZERO)),
        };
        Ok(timer.set(when, TimerSetTimeFlags::empty())?)
    })
}

extern "C" fn on_interruption(_signal: libc::c_int) {}

extern "C" fn on_stop(signal: libc::c_int) {
    STOP.store(signal, Ordering::SeqCst);
}

extern "C" fn on_bus(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo_t, and a SIGBUS of its own has an address in it.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // siginfo.h: SI_FROMUSER. Another process sent it, and no access repeats.
    if code <= 0 {
        STOP.store(libc::SIGBUS, Ordering::SeqCst);
        return;
    }
    let ours = REGIONS.iter().position(|(base, size)| {
        address.wrapping_sub(base.load(Ordering::SeqCst)) < size.load(Ordering::SeqCst)
    });
    if let Some(index) = ours {
        REPAIRS[index].0.fetch_add(1, Ordering::SeqCst);
    }
    // SAFETY: errno is the interrupted code's and is put back. mmap is a bare system call. The page
    // replaced lies in a mapping of a file that `mapping` alone touches, through raw addresses; a
    // signal(2) call is async-signal-safe.
    unsafe {
        let errno = *libc::__errno_location();
        let page = (address & !(PAGE as usize - 1)) as *mut libc::c_void;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        if ours.is_none()
            || libc::mmap(page, PAGE as usize, access, flags, -1, 0) == libc::MAP_FAILED
        {
            // The access repeats on return and ends the process as it would have without us.
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
        }
        *libc::__errno_location() = errno;
    }
    HITS.with(|hits| hits.set(hits.get() + 1));
}

/// The run's handlers; the process's former ones return when this is dropped.
pub struct Handlers(Vec<(Signal, SigAction)>);

impl Handlers {
    /// Takes over SIGINT, SIGTERM, SIGHUP, SIGBUS and SIGUSR2, and forgets a stop request of an earlier run.
    pub fn install() -> io::Result<Self> {
        STOP.store(0, Ordering::SeqCst);
        let stop = SigAction::new(
            SigHandler::Handler(on_stop),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        let bus = SigAction::new(
            SigHandler::SigAction(on_bus),
            SaFlags::SA_NODEFER,
            SigSet::empty(),
        );
        // Without SA_RESTART: that is what it is for.
        let interruption = SigAction::new(
            SigHandler::Handler(on_interruption),
            SaFlags::empty(),
            SigSet::empty(),
        );
        let mut handlers = Self(Vec::new());
        for (signal, action) in [
            (Signal::SIGINT, stop),
            (Signal::SIGTERM, stop),
            (Signal::SIGHUP, stop),
            (Signal::SIGBUS, bus),
            (INTERRUPTION, interruption),
        ] {
            // SAFETY: the handlers keep to what is safe in a signal handler.
            let former = unsafe { sigaction(signal, &action) }?;
            handlers.0.push((signal, former));
        }
        Ok(handlers)
    }

    /// The stop request, if one came.
    pub fn stop_request(&self) -> Option<Signal> {
        Signal::try_from(STOP.load(Ordering::SeqCst)).ok()
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        for (signal, former) in self.0.drain(..) {
            // SAFETY: what was installed before us; a failure leaves ours, which is harmless.
            let _ = unsafe { sigaction(signal, &former) };
        }
    }
}
