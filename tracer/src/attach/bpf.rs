//! bpf(2) and perf_event_open(2), as far as the loader needs them.

// The one corner of the crate that talks to the kernel without a library.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    fs, io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_btf_info, bpf_insn, bpf_link_info, bpf_prog_info};

use crate::hooks::Side;

// include/uapi/linux/bpf.h: enum bpf_cmd
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const PROG_LOAD: libc::c_int = 5;
const BTF_GET_FD_BY_ID: libc::c_int = 19;
const BTF_GET_NEXT_ID: libc::c_int = 23;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const MAP_FREEZE: libc::c_int = 22;
const LINK_CREATE: libc::c_int = 28;
const ENABLE_STATS: libc::c_int = 32;

const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
const F_RDONLY_PROG: u32 = 1 << 7;

const PROG_TYPE_KPROBE: u32 = 2;
const PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
const PROG_TYPE_TRACING: u32 = 26;
const ATTACH_FENTRY: u32 = 24;
const ATTACH_FEXIT: u32 = 25;
const ATTACH_PERF_EVENT: u32 = 41;

// include/uapi/linux/perf_event.h
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// Bytes of verifier log kept for an error message.
const LOG_SIZE: usize = 1 << 20;

/// How a program is entered.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// fentry or fexit on a function of vmlinux or, with its BTF, of a module.
    Tracing {
        side: Side,
        id: u32,
        module: Option<BorrowedFd<'a>>,
    },
    /// kprobe or kretprobe.
    Probe,
    /// Raw tracepoint.
    Tracepoint,
}

fn call(command: libc::c_int, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is initialised, and the pointers in it outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn attr() -> bpf_attr {
    // SAFETY: plain integers; zero is the kernel's default for every field.
    unsafe { zeroed() }
}

/// Creates the frozen array that holds a program's constants.
pub fn create_frozen(data: &[u8]) -> io::Result<OwnedFd> {
    let mut create = attr();
    // SAFETY: the variant of the union that MAP_CREATE reads; likewise below.
    let params = unsafe { &mut create.__bindgen_anon_1 };
    params.map_type = MAP_TYPE_ARRAY;
    params.key_size = 4;
    params.value_size = data.len() as u32;
    params.max_entries = 1;
    params.map_flags = F_RDONLY_PROG;
    let map = owned(call(MAP_CREATE, &mut create)?);
    update(&map, 0, data.as_ptr().addr() as u64)?;
    let mut freeze = attr();
    let params = unsafe { &mut freeze.__bindgen_anon_2 };
    params.map_fd = map.as_raw_fd() as u32;
    call(MAP_FREEZE, &mut freeze)?;
    Ok(map)
}

/// Creates an array of maps out of `inner`.
pub fn create_array_of_maps(inner: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
    let first = inner
        .first()
        .ok_or_else(|| io::Error::other("no inner map"))?;
    let mut create = attr();
    let params = unsafe { &mut create.__bindgen_anon_1 };
    params.map_type = MAP_TYPE_ARRAY_OF_MAPS;
    params.key_size = 4;
    params.value_size = 4;
    params.max_entries = inner.len() as u32;
    params.inner_map_fd = first.as_raw_fd() as u32;
    let map = owned(call(MAP_CREATE, &mut create)?);
    for (index, inner) in inner.iter().enumerate() {
        let fd = inner.as_raw_fd() as u32;
        update(&map, index as u32, (&raw const fd).addr() as u64)?;
    }
    Ok(map)
}

/// Writes the value at address `value` to element `key`.
fn update(map: &OwnedFd, key: u32, value: u64) -> io::Result<()> {
    let mut update = attr();
    let params = unsafe { &mut update.__bindgen_anon_2 };
    params.map_fd = map.as_raw_fd() as u32;
    params.key = (&raw const key).addr() as u64;
    params.__bindgen_anon_1.value = value;
    call(MAP_UPDATE_ELEM, &mut update).map(|_| ())
}

/// Removes every element of a hash or stack map whose keys are of `key_size` bytes.
pub fn clear(map: BorrowedFd<'_>, key_size: usize) -> io::Result<()> {
    let mut key = next_key(map, None, key_size)?;
    while let Some(current) = key {
        // Asked for first: after a key that is gone, the kernel begins with the first one again.
        key = next_key(map, Some(&current), key_size)?;
        let mut delete = attr();
        let params = unsafe { &mut delete.__bindgen_anon_2 };
        params.map_fd = map.as_raw_fd() as u32;
        params.key = current.as_ptr().addr() as u64;
        match call(MAP_DELETE_ELEM, &mut delete) {
            // A map of those used last drops some of itself.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The key after `key`, or the first one.
fn next_key(
    map: BorrowedFd<'_>,
    key: Option<&[u8]>,
    key_size: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut found = vec![0_u8; key_size];
    let mut next = attr();
    let params = unsafe { &mut next.__bindgen_anon_2 };
    params.map_fd = map.as_raw_fd() as u32;
    params.key = key.map_or(0, |key| key.as_ptr().addr() as u64);
    params.__bindgen_anon_1.next_key = found.as_mut_ptr().addr() as u64;
    match call(MAP_GET_NEXT_KEY, &mut next) {
        Ok(_) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Loads a program; on refusal the error carries the end of the verifier's log.
pub fn load(
    kind: Kind<'_>,
    instructions: &[bpf_insn],
    license: &CStr,
    name: &str,
) -> io::Result<OwnedFd> {
    let mut load = attr();
    let params = unsafe { &mut load.__bindgen_anon_3 };
    params.insn_cnt = instructions.len() as u32;
    params.insns = instructions.as_ptr().addr() as u64;
    params.license = license.as_ptr().addr() as u64;
    for (to, from) in params.prog_name.iter_mut().zip(name.bytes().take(15)) {
        *to = if from.is_ascii_alphanumeric() {
            from as libc::c_char
        } else {
            b'_' as libc::c_char
        };
    }
    match kind {
        Kind::Tracing { side, id, module } => {
            params.prog_type = PROG_TYPE_TRACING;
            params.expected_attach_type = match side {
                Side::Entry => ATTACH_FENTRY,
                Side::Return => ATTACH_FEXIT,
            };
            params.attach_btf_id = id;
            if let Some(fd) = module {
                params.__bindgen_anon_1.attach_btf_obj_fd = fd.as_raw_fd() as u32;
            }
        }
        Kind::Probe => params.prog_type = PROG_TYPE_KPROBE,
        Kind::Tracepoint => params.prog_type = PROG_TYPE_RAW_TRACEPOINT,
    }
    let error = match call(PROG_LOAD, &mut load) {
        Ok(fd) => return Ok(owned(fd)),
        Err(error) => error,
    };
    let mut log = vec![0u8; LOG_SIZE];
    let params = unsafe { &mut load.__bindgen_anon_3 };
    // BPF_LOG_STATS: what is wrong, without every path that is right.
    params.log_level = 4;
    params.log_size = LOG_SIZE as u32;
    params.log_buf = log.as_mut_ptr().addr() as u64;
    match call(PROG_LOAD, &mut load) {
        Ok(fd) => Ok(owned(fd)),
        Err(_) => {
            let text = String::from_utf8_lossy(&log);
            let text = text.trim_end_matches('\0').trim_end();
            if text.is_empty() {
                // Refused before the verifier saw it; the code stays with the error.
                return Err(error);
            }
            let from = text.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
            Err(io::Error::new(
                error.kind(),
                format!("{error}; the verifier says: …{}", &text[from..]),
            ))
        }
    }
}

/// Attaches a tracing program to the function that it was loaded for.
pub fn attach_tracing(program: &OwnedFd) -> io::Result<OwnedFd> {
    attach_tracepoint(program, None)
}

/// Attaches to a raw tracepoint, by name.
pub fn attach_tracepoint(program: &OwnedFd, name: Option<&str>) -> io::Result<OwnedFd> {
    let name = name.map(CString::new).transpose()?;
    let mut open = attr();
    let params = unsafe { &mut open.raw_tracepoint };
    params.name = name.as_ref().map_or(0, |name| name.as_ptr().addr() as u64);
    params.prog_fd = program.as_raw_fd() as u32;
    call(RAW_TRACEPOINT_OPEN, &mut open).map(owned)
}

/// An attached kprobe: closing either descriptor detaches it.
pub struct Probe {
    /// The link, which holds the program.
    link: OwnedFd,
    /// The perf event, which holds the probe.
    _event: OwnedFd,
}

impl Probe {
    /// Hits that the probe itself was skipped for: inside another's, or, at a return, because every
    /// instance was in use (10, or twice the CPUs; kernel/kprobes.c). Kernels before 6.7 do not tell: 0.
    pub fn missed(&self) -> io::Result<u64> {
        // SAFETY: plain integers.
        let mut info: bpf_link_info = unsafe { zeroed() };
        object_info(&self.link, &raw mut info)?;
        // SAFETY: the variant of a link to a kprobe, which this is; zeroes where the kernel knows none.
        Ok(unsafe {
            info.__bindgen_anon_1
                .perf_event
                .__bindgen_anon_1
                .kprobe
                .missed
        })
    }
}

/// Attaches to a function through the kprobe PMU.
pub fn attach_probe(program: &OwnedFd, function: &str, side: Side) -> io::Result<Probe> {
    const PMU: &str = "/sys/bus/event_source/devices/kprobe";
    let read = |file: &str| {
        fs::read_to_string(format!("{PMU}/{file}"))
            .map_err(|_| io::Error::other("this kernel has no kprobes (CONFIG_KPROBE_EVENTS)"))
    };
    let kind: u32 = read("type")?.trim().parse().map_err(io::Error::other)?;
    let function = CString::new(function)?;
    // include/uapi/linux/perf_event.h: struct perf_event_attr, PERF_ATTR_SIZE_VER1 (72 bytes).
    let mut event = [0u64; 9];
    event[0] = u64::from(kind) | 72 << 32;
    event[1] = match side {
        Side::Entry => 0,
        // The "retprobe" format bit.
        Side::Return => 1,
    };
    event[7] = function.as_ptr().addr() as u64;
    // SAFETY: `event` is a perf_event_attr of the size that it states; the name outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            event.as_ptr(),
            -1,
            0,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let event = owned(fd);
    let mut create = attr();
    let params = unsafe { &mut create.link_create };
    params.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    params.__bindgen_anon_2.target_fd = event.as_raw_fd() as u32;
    params.attach_type = ATTACH_PERF_EVENT;
    let link = call(LINK_CREATE, &mut create).map(owned)?;
    Ok(Probe {
        link,
        _event: event,
    })
}

/// The BTF object of a loaded module.
pub fn module_btf(module: &str) -> io::Result<OwnedFd> {
    let mut id = 0u32;
    loop {
        let mut next = attr();
        next.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
        call(BTF_GET_NEXT_ID, &mut next).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("the kernel lists no BTF of module {module}: {error}"),
            )
        })?;
        id = unsafe { next.__bindgen_anon_6.next_id };
        let mut get = attr();
        get.__bindgen_anon_6.__bindgen_anon_1.btf_id = id;
        let Ok(fd) = call(BTF_GET_FD_BY_ID, &mut get) else {
            continue;
        };
        let fd = owned(fd);
        let mut name = [0u8; 64];
        // SAFETY: plain integers.
        let mut info: bpf_btf_info = unsafe { zeroed() };
        info.name = name.as_mut_ptr().addr() as u64;
        info.name_len = name.len() as u32;
        object_info(&fd, &raw mut info)?;
        let name = CStr::from_bytes_until_nul(&name).map_err(io::Error::other)?;
        if info.kernel_btf != 0 && name.to_bytes() == module.as_bytes() {
            return Ok(fd);
        }
    }
}

fn object_info<T>(fd: &OwnedFd, info: *mut T) -> io::Result<()> {
    let mut get = attr();
    let params = unsafe { &mut get.info };
    params.bpf_fd = fd.as_raw_fd() as u32;
    params.info_len = size_of::<T>() as u32;
    params.info = info.addr() as u64;
    call(OBJ_GET_INFO_BY_FD, &mut get).map(|_| ())
}

/// What the kernel counted for a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Runs, while statistics are enabled.
    pub runs: u64,
    /// Nanoseconds that they took together.
    pub time: u64,
    /// Times it was skipped because it already ran on that CPU.
    pub missed: u64,
}

/// Reads a program's counters.
pub fn counters(program: &OwnedFd) -> io::Result<Counters> {
    // SAFETY: plain integers.
    let mut info: bpf_prog_info = unsafe { zeroed() };
    object_info(program, &raw mut info)?;
    Ok(Counters {
        runs: info.run_cnt,
        time: info.run_time_ns,
        missed: info.recursion_misses,
    })
}

/// Counts and times program runs for as long as the descriptor is open; costs two clock reads a run.
pub fn enable_run_counts() -> io::Result<OwnedFd> {
    // BPF_STATS_RUN_TIME is 0.
    call(ENABLE_STATS, &mut attr()).map(owned)
}
