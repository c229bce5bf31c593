//! Where the figures come from.

use std::fs;

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The first value of `key` in /proc/cpuinfo.
fn cpuinfo<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
}

fn kind(model: &str, flags: &str) -> &'static str {
    if model.contains("TCG") {
        "emulated by QEMU TCG: compare columns, believe no absolute figure"
    } else if flags.split(' ').any(|flag| flag == "hypervisor") {
        "a virtual machine"
    } else {
        "not virtual"
    }
}

/// Processor, kernel, clock and load, in two lines.
pub fn describe() -> String {
    let text = read("/proc/cpuinfo");
    let model = cpuinfo(&text, "model name").unwrap_or("unknown processor");
    let flags = cpuinfo(&text, "flags").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(2).collect();
    format!(
        "machine   {model}, {cpus} CPUs, {}\nkernel    {}, clock {}, load average {} at the start",
        kind(model, flags),
        read("/proc/sys/kernel/osrelease"),
        read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        load.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_machines_apart() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t\t: fpu hypervisor\n";
        let flags = cpuinfo(text, "flags").unwrap();
        assert_eq!(cpuinfo(text, "model name"), Some("A CPU @ 2 GHz"));
        assert_eq!(kind("A CPU", flags), "a virtual machine");
        assert_eq!(kind("A CPU", "fpu"), "not virtual");
        assert!(kind("QEMU TCG CPU version 2.5+", flags).starts_with("emulated"));
    }
}
