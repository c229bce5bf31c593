//! Kernel patches that break one locking rule each, kept in `workloads/mutations/`.
//!
//! A patch starts with `# key: value` lines, an empty `#` line and a description.

use anyhow::{Context, Result, anyhow, bail};

use super::job::FilesystemKind;

/// Through which path the mutated filesystem must be mounted to show the bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `dax=always`.
    Dax,
    /// `dax=never`.
    PageCache,
}

/// What a tracer should report on the mutated kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expectation<'a> {
    /// Kind of the finding, `op-unprotected`.
    pub kind: &'a str,
    /// Operation, `fallocate/PUNCH_HOLE`; with several, any will do: `a,b`.
    pub operation: &'a str,
    /// Lock class, `invalidate_lock`; `-` if the rule is about none.
    pub lock: &'a str,
}

impl Expectation<'_> {
    /// Whether a finding of this kind and operation is the one.
    pub fn met_by(&self, kind: &str, operation: &str) -> bool {
        self.kind == kind && self.operation.split(',').any(|name| name == operation)
    }
}

/// A patch with its parsed header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation<'a> {
    /// Name, `xfs-punch-unlocked`.
    pub name: &'a str,
    /// The filesystem whose module it breaks.
    pub filesystem: FilesystemKind,
    /// Class of the bug, `A`.
    pub class: &'a str,
    /// What should be found.
    pub expect: Expectation<'a>,
    /// How to mount.
    pub mode: Mode,
    /// mkfs arguments that the bug needs, instead of the usual ones.
    pub mkfs: Option<&'a str>,
    /// Mount options that it needs, besides the one for DAX.
    pub options: Option<&'a str>,
    /// The workload that meets the bug, `punch-vs-fault`.
    pub scenario: &'a str,
    /// What is wrong, in a sentence or two.
    pub description: String,
    /// The whole file: `patch` skips the header.
    pub patch: &'a str,
}

/// By class, then by name.
const FILES: &[&str] = &[
    include_str!("../../mutations/ext4-collapse-unlocked.patch"),
    include_str!("../../mutations/ext4-failed-write-unlocked.patch"),
    include_str!("../../mutations/ext4-grow-unlocked.patch"),
    include_str!("../../mutations/ext4-insert-unlocked.patch"),
    include_str!("../../mutations/ext4-journal-mode-unlocked.patch"),
    include_str!("../../mutations/ext4-journal-mode-written-back.patch"),
    include_str!("../../mutations/ext4-punch-unlocked.patch"),
    include_str!("../../mutations/ext4-swap-boot-unlocked.patch"),
    include_str!("../../mutations/ext4-truncate-unlocked.patch"),
    include_str!("../../mutations/ext4-zero-resize-unlocked.patch"),
    include_str!("../../mutations/ext4-zero-unlocked.patch"),
    include_str!("../../mutations/xfs-collapse-unlocked.patch"),
    include_str!("../../mutations/xfs-exchange-relocked.patch"),
    include_str!("../../mutations/xfs-fadvise-unlocked.patch"),
    include_str!("../../mutations/xfs-insert-unlocked.patch"),
    include_str!("../../mutations/xfs-open-truncate-unlocked.patch"),
    include_str!("../../mutations/xfs-punch-unlocked.patch"),
    include_str!("../../mutations/xfs-same-file-unlocked.patch"),
    include_str!("../../mutations/xfs-short-write-unlocked.patch"),
    include_str!("../../mutations/xfs-swapext-unlocked.patch"),
    include_str!("../../mutations/xfs-trim-unlocked.patch"),
    include_str!("../../mutations/xfs-truncate-unlocked.patch"),
    include_str!("../../mutations/xfs-unshare-unlocked.patch"),
    include_str!("../../mutations/xfs-zero-unlocked.patch"),
    include_str!("../../mutations/ext4-huge-fault-unlocked.patch"),
    include_str!("../../mutations/ext4-journalled-mkwrite-unlocked.patch"),
    include_str!("../../mutations/ext4-mkwrite-unlocked.patch"),
    include_str!("../../mutations/ext4-read-fault-unlocked.patch"),
    include_str!("../../mutations/ext4-sync-fault-unlocked.patch"),
    include_str!("../../mutations/ext4-write-fault-unlocked.patch"),
    include_str!("../../mutations/xfs-huge-fault-unlocked.patch"),
    include_str!("../../mutations/xfs-mkwrite-unlocked.patch"),
    include_str!("../../mutations/xfs-pfn-mkwrite-unlocked.patch"),
    include_str!("../../mutations/xfs-read-fault-trylock.patch"),
    include_str!("../../mutations/xfs-read-fault-unlocked.patch"),
    include_str!("../../mutations/xfs-sync-fault-unlocked.patch"),
    include_str!("../../mutations/xfs-write-fault-unlocked.patch"),
    include_str!("../../mutations/ext4-collapse-shared.patch"),
    include_str!("../../mutations/ext4-dax-write-shared.patch"),
    include_str!("../../mutations/ext4-map-shared.patch"),
    include_str!("../../mutations/ext4-zero-shared.patch"),
    include_str!("../../mutations/xfs-dax-write-shared.patch"),
    include_str!("../../mutations/xfs-dio-ignores-remap.patch"),
    include_str!("../../mutations/xfs-dio-unaligned-shared.patch"),
    include_str!("../../mutations/xfs-exchange-one-mapping.patch"),
    include_str!("../../mutations/xfs-punch-shared.patch"),
    include_str!("../../mutations/xfs-remap-not-flagged.patch"),
    include_str!("../../mutations/xfs-remap-source-unlocked.patch"),
    include_str!("../../mutations/xfs-swapext-one-inode.patch"),
    include_str!("../../mutations/xfs-truncate-shared.patch"),
    include_str!("../../mutations/xfs-write-fault-ignores-remap.patch"),
    include_str!("../../mutations/ext4-collapse-flush-unlocked.patch"),
    include_str!("../../mutations/ext4-punch-early-unlock.patch"),
    include_str!("../../mutations/ext4-swap-boot-late-lock.patch"),
    include_str!("../../mutations/xfs-reflink-early-unlock.patch"),
    include_str!("../../mutations/xfs-shift-edge-kept.patch"),
    include_str!("../../mutations/xfs-truncate-late-lock.patch"),
    include_str!("../../mutations/xfs-zero-early-unlock.patch"),
    include_str!("../../mutations/ext4-delalloc-not-rechecked.patch"),
    include_str!("../../mutations/ext4-migrate-written-back.patch"),
    include_str!("../../mutations/ext4-punch-lock-cycled.patch"),
    include_str!("../../mutations/ext4-truncate-lock-cycled.patch"),
    include_str!("../../mutations/xfs-collapse-lock-cycled.patch"),
    include_str!("../../mutations/xfs-insert-lock-cycled.patch"),
    include_str!("../../mutations/xfs-insert-map-lock-cycled.patch"),
    include_str!("../../mutations/xfs-truncate-lock-cycled.patch"),
    include_str!("../../mutations/xfs-unshare-copies-dropped.patch"),
    include_str!("../../mutations/xfs-write-map-outdated.patch"),
    include_str!("../../mutations/xfs-writeback-map-outdated.patch"),
    include_str!("../../mutations/ext4-dax-fault-no-handle.patch"),
    include_str!("../../mutations/ext4-fallocate-lock-order.patch"),
    include_str!("../../mutations/ext4-move-extents-inode-order.patch"),
    include_str!("../../mutations/xfs-buffered-read-holds-mmaplock.patch"),
    include_str!("../../mutations/xfs-buffered-write-holds-mmaplock.patch"),
    include_str!("../../mutations/xfs-dax-write-holds-mmaplock.patch"),
    include_str!("../../mutations/xfs-dio-read-holds-mmaplock.patch"),
    include_str!("../../mutations/xfs-fault-takes-iolock.patch"),
    include_str!("../../mutations/xfs-fiemap-holds-mmaplock.patch"),
    include_str!("../../mutations/xfs-swapext-inode-order.patch"),
    include_str!("../../mutations/xfs-zero-range-lock-order.patch"),
    include_str!("../../mutations/ext4-fault-freeze-leak.patch"),
    include_str!("../../mutations/ext4-prealloc-leak.patch"),
    include_str!("../../mutations/ext4-truncate-interrupted-leak.patch"),
    include_str!("../../mutations/xfs-collapse-error-leak.patch"),
    include_str!("../../mutations/xfs-collapse-error-unlock-twice.patch"),
    include_str!("../../mutations/xfs-fault-freeze-leak.patch"),
    include_str!("../../mutations/xfs-setattr-leak.patch"),
    include_str!("../../mutations/ext4-dax-write-not-new.patch"),
    include_str!("../../mutations/ext4-insert-no-unmap.patch"),
    include_str!("../../mutations/ext4-punch-edges-writable.patch"),
    include_str!("../../mutations/ext4-punch-unmap-after-free.patch"),
    include_str!("../../mutations/ext4-truncate-unmap-late.patch"),
    include_str!("../../mutations/ext4-zero-unmap-late.patch"),
    include_str!("../../mutations/xfs-dax-write-not-new.patch"),
    include_str!("../../mutations/xfs-punch-unmap-late.patch"),
    include_str!("../../mutations/xfs-punch-unmap-short.patch"),
    include_str!("../../mutations/xfs-reflink-no-unmap.patch"),
    include_str!("../../mutations/xfs-shift-copies-kept.patch"),
    include_str!("../../mutations/xfs-shift-unmap-short.patch"),
    include_str!("../../mutations/xfs-swapext-copies-kept.patch"),
    include_str!("../../mutations/xfs-swapext-flush-one.patch"),
    include_str!("../../mutations/xfs-truncate-size-late.patch"),
    include_str!("../../mutations/ext4-buffered-no-dio-drain.patch"),
    include_str!("../../mutations/ext4-dio-unaligned-no-drain.patch"),
    include_str!("../../mutations/ext4-fallocate-no-dio-drain.patch"),
    include_str!("../../mutations/ext4-move-extents-no-dio-drain.patch"),
    include_str!("../../mutations/ext4-truncate-no-dio-drain.patch"),
    include_str!("../../mutations/xfs-fallocate-no-dio-drain.patch"),
    include_str!("../../mutations/xfs-zero-eof-no-dio-drain.patch"),
    include_str!("../../mutations/ext4-break-layouts-once.patch"),
    include_str!("../../mutations/ext4-break-layouts-short.patch"),
    include_str!("../../mutations/ext4-fallocate-no-dax-break.patch"),
    include_str!("../../mutations/ext4-open-truncate-no-dax-break.patch"),
    include_str!("../../mutations/ext4-truncate-no-dax-break.patch"),
    include_str!("../../mutations/xfs-break-layouts-no-retry.patch"),
    include_str!("../../mutations/xfs-same-file-no-break.patch"),
    include_str!("../../mutations/xfs-truncate-no-dax-break.patch"),
    include_str!("../../mutations/ext4-dax-no-prezero.patch"),
    include_str!("../../mutations/ext4-dax-write-no-orphan.patch"),
    include_str!("../../mutations/ext4-dax-write-synced-early.patch"),
    include_str!("../../mutations/ext4-dio-no-orphan.patch"),
    include_str!("../../mutations/ext4-dio-size-before-blocks.patch"),
    include_str!("../../mutations/ext4-dio-synced-early.patch"),
    include_str!("../../mutations/ext4-dio-written-blocks.patch"),
    include_str!("../../mutations/ext4-punch-disk-size-behind.patch"),
    include_str!("../../mutations/ext4-punch-edges-not-zeroed.patch"),
    include_str!("../../mutations/ext4-truncate-tail-kept.patch"),
    include_str!("../../mutations/xfs-dax-no-prezero.patch"),
    include_str!("../../mutations/xfs-dax-write-size-left.patch"),
    include_str!("../../mutations/xfs-dio-size-before-blocks.patch"),
    include_str!("../../mutations/xfs-extend-not-zeroed.patch"),
    include_str!("../../mutations/xfs-punch-edges-not-zeroed.patch"),
    include_str!("../../mutations/xfs-truncate-tail-kept.patch"),
    include_str!("../../mutations/xfs-written-back-size-first.patch"),
    include_str!("../../mutations/ext4-break-wait-holds-lock.patch"),
    include_str!("../../mutations/xfs-break-wait-holds-lock.patch"),
    include_str!("../../mutations/ext4-fault-freeze-order.patch"),
    include_str!("../../mutations/ext4-fault-no-freeze.patch"),
    include_str!("../../mutations/ext4-fault-txn-before-lock.patch"),
    include_str!("../../mutations/xfs-fault-freeze-order.patch"),
    include_str!("../../mutations/xfs-fault-no-freeze.patch"),
    include_str!("../../mutations/xfs-fault-txn-before-lock.patch"),
];

/// The mutations this build carries.
///
/// # Errors
/// A header is malformed; the tests exclude it.
pub fn all() -> Result<Vec<Mutation<'static>>> {
    FILES.iter().map(|text| parse(text)).collect()
}

/// The mutation of a name.
///
/// # Errors
/// There is none; the message lists those there are.
pub fn find(name: &str) -> Result<Mutation<'static>> {
    let mutations = all()?;
    let names: Vec<&str> = mutations.iter().map(|mutation| mutation.name).collect();
    let known = names.join(", ");
    mutations
        .into_iter()
        .find(|mutation| mutation.name == name)
        .ok_or_else(|| anyhow!("no mutation {name}; there are {known}"))
}

/// Parses a patch with a header.
///
/// # Errors
/// A key is missing or has a value that is not known.
pub fn parse(text: &str) -> Result<Mutation<'_>> {
    let header: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix('#'))
        .collect();
    let split = header
        .iter()
        .position(|line| line.trim().is_empty())
        .unwrap_or(header.len());
    let (keys, prose) = header.split_at(split);
    let value = |key: &str| {
        keys.iter()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim())
            .with_context(|| format!("the patch header has no line `# {key}:`"))
    };
    let filesystem = value("filesystem")?;
    let mode = value("mode")?;
    Ok(Mutation {
        name: value("name")?,
        filesystem: FilesystemKind::parse(filesystem)
            .filter(|kind| kind.is_on_disk())
            .ok_or_else(|| anyhow!("`{filesystem}` is neither xfs nor ext4"))?,
        class: value("class")?,
        expect: parse_expectation(value("expect")?)?,
        mode: match mode {
            "dax" => Mode::Dax,
            "page-cache" => Mode::PageCache,
            other => bail!("mode `{other}` is neither dax nor page-cache"),
        },
        mkfs: value("mkfs").ok(),
        options: value("options").ok(),
        scenario: value("scenario")?,
        description: prose
            .iter()
            .map(|line| line.trim())
            .collect::<Vec<_>>()
            .join(" ")
            .trim()
            .to_owned(),
        patch: text,
    })
}

fn parse_expectation(text: &str) -> Result<Expectation<'_>> {
    let field = |name: &str| {
        text.split_whitespace()
            .filter_map(|word| word.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .with_context(|| format!("`expect: {text}` has no {name}="))
    };
    Ok(Expectation {
        kind: field("kind")?,
        operation: field("op")?,
        lock: field("lock")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_carried_patch_parses() {
        let mutations = all().unwrap();
        assert_eq!(mutations.len(), FILES.len());
        for mutation in &mutations {
            assert!(mutation.name.starts_with(mutation.filesystem.module()));
            assert!(
                mutation
                    .patch
                    .contains(&format!("+++ b/fs/{}/", mutation.filesystem.module()))
            );
            assert!(mutation.description.ends_with('.'), "{}", mutation.name);
        }
        let punch = find("xfs-punch-unlocked").unwrap();
        assert_eq!(punch.class, "A");
        assert_eq!(punch.mode, Mode::Dax);
        assert_eq!(punch.scenario, "punch-vs-fault");
        let expected = Expectation {
            kind: "op-unprotected",
            operation: "fallocate/PUNCH_HOLE",
            lock: "invalidate_lock",
        };
        assert_eq!(punch.expect, expected);
    }

    #[test]
    fn a_header_that_lacks_something_says_what() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert!(error("--- a/fs/xfs/xfs_file.c\n").contains("# filesystem:"));
        let text = "# name: x\n# filesystem: xfs\n# class: A\n# expect: kind=k op=o lock=l\n\
                    # mode: dax\n# scenario: s\n";
        assert!(parse(text).is_ok());
        assert!(error(&text.replace(" lock=l", "")).contains("lock="));
        assert!(error(&text.replace(" xfs\n", " btrfs\n")).contains("btrfs"));
        assert!(error(&text.replace("mode: dax", "mode: fast")).contains("fast"));
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        assert!(
            find("nothing")
                .unwrap_err()
                .to_string()
                .contains("xfs-truncate-shared")
        );
    }
}
