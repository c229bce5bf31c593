//! Kernel symbols: which functions exist, and what an address is called.

use std::{collections::HashSet, fs, io};

/// Where the kernel lists its symbols.
pub const KALLSYMS: &str = "/proc/kallsyms";

/// Where kallsyms puts eBPF programs and trampolines.
const BPF: &str = "bpf";
/// No function is longer; what lies further from a symbol has none.
const LONGEST_FUNCTION: u64 = 1 << 20;

struct Symbol {
    address: u64,
    name: Box<str>,
    module: Option<Box<str>>,
}

/// Text symbols of the kernel and its loaded modules.
pub struct Symbols {
    by_address: Vec<Symbol>,
    names: HashSet<Box<str>>,
    per_cpu_offset: u64,
}

impl Symbols {
    /// Reads /proc/kallsyms. Addresses are zero without CAP_SYSLOG; names are still good then.
    pub fn load() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string(KALLSYMS)?))
    }

    fn parse(text: &str) -> Self {
        let mut by_address = Vec::with_capacity(text.len() / 45);
        let mut per_cpu_offset = 0;
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if name == "__per_cpu_offset" {
                per_cpu_offset = u64::from_str_radix(address, 16).unwrap_or(0);
            }
            if !matches!(kind, "t" | "T" | "w" | "W") {
                continue;
            }
            let Ok(address) = u64::from_str_radix(address, 16) else {
                continue;
            };
            let module = words
                .next()
                .map(|word| word.trim_matches(['[', ']']).into());
            by_address.push(Symbol {
                address,
                name: name.into(),
                module,
            });
        }
        by_address.sort_by_key(|symbol| symbol.address);
        let names = by_address
            .iter()
            .map(|symbol| symbol.name.clone())
            .collect();
        Self {
            by_address,
            names,
            per_cpu_offset,
        }
    }

    /// The address of `__per_cpu_offset`, where each CPU's copies of per-CPU data begin; 0 if it is not
    /// to be known (CONFIG_KALLSYMS_ALL, CAP_SYSLOG).
    pub fn per_cpu_offset(&self) -> u64 {
        self.per_cpu_offset
    }

    /// True if a function of exactly this name exists.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn find(&self, address: u64) -> Option<(&Symbol, u64)> {
        let after = self
            .by_address
            .partition_point(|symbol| symbol.address <= address);
        let symbol = self.by_address.get(after.checked_sub(1)?)?;
        let offset = address - symbol.address;
        (symbol.address != 0 && offset < LONGEST_FUNCTION).then_some((symbol, offset))
    }

    /// `symbol+0xoffset [module]` for an address in kernel text.
    pub fn name(&self, address: u64) -> String {
        match self.find(address) {
            Some((symbol, offset)) => match &symbol.module {
                Some(module) => format!("{}+{offset:#x} [{module}]", symbol.name),
                None => format!("{}+{offset:#x}", symbol.name),
            },
            None => format!("{address:#x}"),
        }
    }

    /// Names a stack, innermost first, leaving out what tracing itself put there: programs and
    /// trampolines, and the call into a trampoline from a function whose body stands right before.
    pub fn stack(&self, addresses: &[u64]) -> Vec<String> {
        let mut frames: Vec<String> = Vec::with_capacity(addresses.len());
        let mut kept: Option<&str> = None;
        let mut traced = false;
        for &address in addresses {
            let found = self.find(address);
            if found.is_some_and(|(symbol, _)| symbol.module.as_deref() == Some(BPF)) {
                traced = true;
                continue;
            }
            let name = found.map(|(symbol, _)| &*symbol.name);
            let repeated = traced && name.is_some() && name == kept;
            traced = false;
            if !repeated {
                frames.push(self.name(address));
                kept = name;
            }
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ffffffff81000000 T _stext\nffffffff81000100 t helper\n\
                        ffffffff82000000 D some_data\nffffffffc0000000 t xfs_ilock\t[xfs]\n";

    #[test]
    fn names_addresses() {
        let symbols = Symbols::parse(TEXT);
        assert_eq!(symbols.name(0xffff_ffff_8100_0110), "helper+0x10");
        assert_eq!(symbols.name(0xffff_ffff_c000_0008), "xfs_ilock+0x8 [xfs]");
        assert_eq!(symbols.name(0x10), "0x10");
        assert!(symbols.has("xfs_ilock") && !symbols.has("some_data"));
    }

    #[test]
    fn leaves_tracing_out_of_stacks() {
        let text = "ffffffff81000000 T vfs_fallocate\nffffffff81001000 T __x64_sys_fallocate\n\
                    ffffffffc0000000 t xfs_file_fallocate\t[xfs]\n\
                    ffffffffc1000000 t bpf_prog_6deef7357e7b4530_faultline\t[bpf]\n\
                    ffffffffc1001000 t bpf_trampoline_6442\t[bpf]\n";
        let stack = [
            0xffff_ffff_c100_0010,
            0xffff_ffff_c100_1020,
            0xffff_ffff_c000_0005,
            0xffff_ffff_8100_0120,
            0xffff_ffff_c100_1069,
            0xffff_ffff_8100_0009,
            0xffff_ffff_8100_1043,
        ];
        assert_eq!(
            Symbols::parse(text).stack(&stack),
            [
                "xfs_file_fallocate+0x5 [xfs]",
                "vfs_fallocate+0x120",
                "__x64_sys_fallocate+0x43"
            ]
        );
    }
}
