//! How many guests this machine bears at a time.

use std::{fs, num::NonZeroUsize};

use workloads::lab::VmSpec;

/// What QEMU takes beside the guest's memory, in MiB.
const QEMU_MIB: u64 = 256;

/// Processors and free memory.
#[derive(Clone, Copy, Debug)]
struct Means {
    processors: usize,
    /// In MiB; `None` if the kernel does not say.
    memory_mib: Option<u64>,
}

impl Means {
    fn of_this_machine() -> Self {
        Self {
            processors: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            memory_mib: fs::read_to_string("/proc/meminfo")
                .ok()
                .and_then(|text| available_mib(&text)),
        }
    }

    /// As many as have memory.
    fn by_memory(self) -> usize {
        let guest = u64::from(VmSpec::MEMORY_MIB) + QEMU_MIB;
        self.memory_mib.map_or(usize::MAX, |free| {
            usize::try_from(free / guest).unwrap_or(usize::MAX).max(1)
        })
    }

    /// As many as have processors, too, but one for each kernel: putting the recorder's programs in and
    /// taking them out again is mostly waiting, so two guests on two processors take little longer than one.
    fn guests(self, kernels: usize) -> usize {
        let processors = usize::try_from(VmSpec::CPUS).unwrap_or(usize::MAX);
        self.by_memory()
            .min((self.processors / processors).max(kernels))
            .max(1)
    }
}

/// As many as were asked for and have memory, with a note if that is less; else as many as have processors, too.
pub fn guests_for(asked: Option<NonZeroUsize>, kernels: usize) -> (usize, Option<String>) {
    asked.map_or_else(|| (guests(kernels), None), bounded)
}

/// As many as have processors and memory to themselves; one for each kernel, if memory allows.
fn guests(kernels: usize) -> usize {
    Means::of_this_machine().guests(kernels)
}

/// As many as were asked for, if they have memory, and else a note that they have not.
fn bounded(asked: NonZeroUsize) -> (usize, Option<String>) {
    let most = Means::of_this_machine().by_memory();
    if asked.get() <= most {
        return (asked.get(), None);
    }
    let note = format!("there is memory for {most} guests at a time, not for {asked}");
    (most, Some(note))
}

fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_and_memory_both_bound() {
        let guests = |processors, memory_mib, kernels| {
            Means {
                processors,
                memory_mib,
            }
            .guests(kernels)
        };
        assert_eq!(guests(2, Some(24 << 10), 1), 1);
        assert_eq!(guests(2, Some(24 << 10), 2), 2);
        assert_eq!(guests(2, Some(4 << 10), 2), 1);
        assert_eq!(guests(8, Some(24 << 10), 2), 4);
        assert_eq!(guests(16, Some(8 << 10), 1), 2);
        assert_eq!(guests(1, Some(1 << 10), 2), 1);
        assert_eq!(guests(8, None, 1), 4);
    }

    #[test]
    fn the_kernel_says_what_is_free() {
        let text = "MemTotal:       24000000 kB\nMemFree: 1 kB\nMemAvailable:   10485760 kB\n";
        assert_eq!(available_mib(text), Some(10240));
        assert_eq!(available_mib("MemTotal: 1 kB\n"), None);
    }
}
