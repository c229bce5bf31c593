//! Does the kernel under test have what judging it needs?

use std::path::Path;

/// An option, and what lacks without it. Any one of several will do.
const NEEDED: &[(&[&str], &str)] = &[
    (&["CONFIG_FS_DAX"], "mounts with DAX"),
    (
        &["CONFIG_DEBUG_INFO_BTF"],
        "the types that hooks are placed by",
    ),
    (&["CONFIG_BPF_SYSCALL"], "eBPF programs"),
    (
        &["CONFIG_KPROBES", "CONFIG_FUNCTION_TRACER"],
        "hooks on functions",
    ),
    (&["CONFIG_BLK_DEV_PMEM"], "persistent memory"),
    (&["CONFIG_X86_PMEM_LEGACY"], "persistent memory by memmap="),
    (&["CONFIG_BLK_DEV_INITRD"], "an initramfs"),
    (&["CONFIG_RD_ZSTD"], "an initramfs under zstd"),
    (&["CONFIG_DEVTMPFS"], "device nodes"),
    (&["CONFIG_SERIAL_8250_CONSOLE"], "a serial console"),
    (&["CONFIG_VIRTIO_PCI"], "QEMU's devices"),
    (&["CONFIG_NET_9P_VIRTIO"], "bringing results out"),
    (&["CONFIG_9P_FS"], "bringing results out"),
];

/// Lines to add to the configuration, each with the reason; empty if it will do.
///
/// `None` if there is no configuration to look at.
pub fn lacking(config: &Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(config).ok()?;
    Some(lacking_in(&text))
}

fn lacking_in(config: &str) -> Vec<String> {
    let has = |option: &str| {
        config.lines().any(|line| {
            line.strip_prefix(option)
                .is_some_and(|rest| rest == "=y" || rest == "=m")
        })
    };
    NEEDED
        .iter()
        .filter(|(options, _)| !options.iter().any(|option| has(option)))
        .map(|(options, purpose)| format!("{}=y ({purpose})", options[0]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_is_named_with_its_purpose() {
        let whole: String = NEEDED
            .iter()
            .map(|(options, _)| format!("{}=m\n", options[options.len() - 1]))
            .collect();
        assert!(lacking_in(&whole).is_empty());
        let without = whole.replace("CONFIG_FS_DAX=m", "# CONFIG_FS_DAX is not set");
        assert_eq!(lacking_in(&without), ["CONFIG_FS_DAX=y (mounts with DAX)"]);
    }
}
