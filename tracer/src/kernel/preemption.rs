//! Whether the kernel takes the processor from tasks inside itself.

use std::fs;

/// Where a task in the kernel may lose the processor to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// Only where it gives it up, or offers to: `none`, `voluntary`.
    AtPoints,
    /// Nearly anywhere: `full`, `lazy`, or real-time. The kernel then skips a program for whoever comes by
    /// while a task that was preempted inside it is off that CPU.
    Anywhere,
}

impl Preemption {
    /// Asks the running kernel; where it does not say, it is taken to preempt.
    pub fn of_this_kernel() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::of(
            &read("/sys/kernel/debug/sched/preempt"),
            &read("/proc/sys/kernel/version"),
            &read("/proc/cmdline"),
        )
    }

    /// From what kernel/sched/core.c shows of its mode, e.g. `none (voluntary) full`; without debugfs from
    /// `uname -v` and the kernel's command line.
    fn of(modes: &str, version: &str, command_line: &str) -> Self {
        let chosen = modes
            .split_whitespace()
            .find_map(|mode| mode.strip_prefix('(')?.strip_suffix(')'));
        let built = version
            .split_whitespace()
            .find(|word| word.starts_with("PREEMPT"));
        let asked = command_line
            .split_whitespace()
            .rev()
            .find_map(|word| word.strip_prefix("preempt="));
        let mode = match (chosen, built) {
            (Some(mode), _) => Some(mode),
            (None, None) => Some("voluntary"),
            (None, Some("PREEMPT_DYNAMIC")) => asked,
            (None, Some(_)) => None,
        };
        match mode {
            Some("none" | "voluntary") => Self::AtPoints,
            _ => Self::Anywhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Preemption::{self, Anywhere, AtPoints};

    #[test]
    fn the_mode_is_read_from_wherever_it_stands() {
        const DYNAMIC: &str = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1";
        for (modes, version, command_line, expected) in [
            ("none (voluntary) full \n", DYNAMIC, "", AtPoints),
            ("(none) voluntary full lazy\n", DYNAMIC, "", AtPoints),
            ("none voluntary full (lazy)\n", DYNAMIC, "", Anywhere),
            ("full (lazy) \n", DYNAMIC, "preempt=none", Anywhere),
            ("", DYNAMIC, "ro preempt=voluntary quiet\n", AtPoints),
            ("", DYNAMIC, "preempt=none preempt=full", Anywhere),
            ("", DYNAMIC, "quiet", Anywhere),
            ("", "#1 SMP PREEMPT Fri Nov 27", "", Anywhere),
            ("", "#1 SMP PREEMPT_RT Fri Nov 27", "preempt=none", Anywhere),
            ("", "#1 SMP Debian 6.1.176-1", "", AtPoints),
        ] {
            assert_eq!(
                Preemption::of(modes, version, command_line),
                expected,
                "{modes} {version} {command_line}"
            );
        }
    }
}
