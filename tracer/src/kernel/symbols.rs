//! Kernel symbols: which functions exist, and what an address is called.

use std::{collections::HashSet, fs, io};

/// Where the kernel lists its symbols.
pub const KALLSYMS: &str = "/proc/kallsyms";

struct Symbol {
    address: u64,
    name: Box<str>,
    module: Option<Box<str>>,
}

/// Text symbols of the kernel and its loaded modules.
pub struct Symbols {
    by_address: Vec<Symbol>,
    names: HashSet<Box<str>>,
}

impl Symbols {
    /// Reads /proc/kallsyms. Addresses are zero without CAP_SYSLOG; names are still good then.
    pub fn load() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string(KALLSYMS)?))
    }

    fn parse(text: &str) -> Self {
        let mut by_address = Vec::with_capacity(text.len() / 45);
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
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
        Self { by_address, names }
    }

    /// True if a function of exactly this name exists.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// `symbol+0xoffset [module]` for an address in kernel text.
    pub fn name(&self, address: u64) -> String {
        let after = self
            .by_address
            .partition_point(|symbol| symbol.address <= address);
        match after
            .checked_sub(1)
            .and_then(|index| self.by_address.get(index))
        {
            Some(symbol) if symbol.address != 0 => {
                let offset = address - symbol.address;
                match &symbol.module {
                    Some(module) => format!("{}+{offset:#x} [{module}]", symbol.name),
                    None => format!("{}+{offset:#x}", symbol.name),
                }
            }
            _ => format!("{address:#x}"),
        }
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
}
