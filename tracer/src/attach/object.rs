//! The object file, relocated once per hook.

use std::{
    collections::HashSet,
    ffi::CString,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use aya_obj::{Map, Object, generated::bpf_insn, maps::LegacyMap};
use tracer_ebpf::hook::{HookSpec, KernelLayout};

use super::bpf;

/// Name under which the object's constants are kept.
const CONSTANTS: &str = ".rodata";

/// Built by the build script, or the kept copy.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/faultline-hooks"));

/// The program's three ways in; the names of its functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// fentry, fexit
    Trampoline,
    /// kprobe, kretprobe
    Probe,
    /// raw tracepoint
    Tracepoint,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Trampoline => "trampoline",
            Self::Probe => "probe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// The parsed object.
pub struct Template {
    object: Object,
}

/// Instructions ready to load, with the constants that they refer to.
pub struct Instance {
    /// Relocated instructions.
    pub instructions: Vec<bpf_insn>,
    /// Keeps the constants alive.
    pub constants: OwnedFd,
}

impl Template {
    /// Parses the object.
    pub fn parse() -> io::Result<Self> {
        Object::parse(OBJECT)
            .map(|object| Self { object })
            .map_err(io::Error::other)
    }

    /// The licence in the object.
    pub fn license(&self) -> &CString {
        &self.object.license
    }

    /// The definition of a map, to create it from.
    pub fn map(&self, name: &str) -> io::Result<Map> {
        self.object
            .maps
            .get(name)
            .cloned()
            .ok_or_else(|| io::Error::other(format!("the eBPF object has no map {name}")))
    }

    /// A copy for one hook.
    pub fn instantiate(
        &self,
        program: Program,
        spec: &HookSpec,
        layout: &KernelLayout,
        maps: &[(&str, RawFd)],
    ) -> io::Result<Instance> {
        let mut object = self.object.clone();
        let globals = [("SPEC", bytes_of(spec)), ("LAYOUT", bytes_of(layout))]
            .into_iter()
            .map(|(name, data)| (name, (data, true)))
            .collect();
        object.patch_map_data(globals).map_err(io::Error::other)?;
        let Some(Map::Legacy(LegacyMap { data, .. })) = object.maps.get(CONSTANTS) else {
            return Err(io::Error::other("the eBPF object has no constants"));
        };
        let constants = bpf::create_frozen(data)?;
        let definitions = object.maps.clone();
        let fds = maps
            .iter()
            .copied()
            .chain([(CONSTANTS, constants.as_raw_fd())])
            .filter_map(|(name, fd)| definitions.get(name).map(|map| (name, fd, map)));
        let text: HashSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        object.relocate_maps(fds, &text).map_err(io::Error::other)?;
        object.relocate_calls(&text).map_err(io::Error::other)?;
        let name = program.name();
        let found = object
            .programs
            .get(name)
            .and_then(|program| object.functions.get(&program.function_key()))
            .ok_or_else(|| io::Error::other(format!("the eBPF object has no program {name}")))?;
        Ok(Instance {
            instructions: found.instructions.clone(),
            constants,
        })
    }
}

/// The bytes of a `repr(C)` value without padding.
#[allow(unsafe_code)]
fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: only called with the ABI's own structs, whose fields leave no padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
