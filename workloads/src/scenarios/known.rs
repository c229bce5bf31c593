//! Wrong data that unmodified kernels really show, each with its argument. It is counted and told, but
//! does not fail a run.

use super::ledger::Wrong;

/// What is known of wrong data.
pub struct Facts<'a> {
    /// The filesystem's name.
    pub filesystem: &'a str,
    /// Without page cache.
    pub dax: bool,
    /// What is wrong.
    pub wrong: Wrong,
    /// A mapping shows it, and read(2) does not.
    pub stale_translation: bool,
    /// The file exchanges or shares blocks with another.
    pub exchanged: bool,
    /// The block was last written as a whole, by write(2).
    pub written: bool,
    /// The file gives its blocks to the boot loader inode and takes them back.
    pub swapped_with_boot: bool,
    /// A pipe that holds the page itself shows it.
    pub in_pipe: bool,
    /// The kernel said that it took a page from a file that was still in use.
    pub taken_in_use: bool,
}

/// A bug that unmodified kernels have.
pub struct Known {
    /// Its name in summaries.
    pub name: &'static str,
    filesystem: &'static str,
    wrong: Wrong,
    when: fn(&Facts<'_>) -> bool,
    /// Why it is true, and where it was seen.
    pub argument: &'static str,
}

/// Every known bug; all of them need DAX.
const KNOWN: [Known; 8] = [
    Known {
        name: "ext4-zeroout-zero-page",
        filesystem: "ext4",
        wrong: Wrong::Lost,
        when: |facts| facts.stale_translation && facts.written,
        argument: "A write fault or DAX write converts an unwritten extent and zeroes its small neighbours out with it \
                   (fs/ext4/extents.c:ext4_ext_convert_to_initialized). A later DAX write to such a neighbour finds it written, \
                   so fs/dax.c:dax_iomap_iter sees no IOMAP_F_NEW and leaves a zero page mapped there. Seen on 6.12.117.",
    },
    Known {
        name: "ext4-swap-boot-translations",
        filesystem: "ext4",
        wrong: Wrong::Lost,
        when: |facts| facts.stale_translation && facts.swapped_with_boot,
        argument: "EXT4_IOC_SWAP_BOOT drops DAX entries and leaves translations in place (fs/ext4/ioctl.c:swap_inode_boot_loader \
                   calls truncate_inode_pages only): a mapping goes on showing what was there between two swaps. Seen on 6.1.192.",
    },
    Known {
        name: "xfs-cow-write-stale-page",
        filesystem: "xfs",
        wrong: Wrong::Stale,
        when: |facts| facts.stale_translation && facts.written && facts.exchanged,
        argument: "A DAX write to a shared block invalidates before xfs_reflink_end_cow moves the new block into the data fork, under \
                   the IOLOCK only; a fault in between maps the old block for good. Seen on 6.12.95.",
    },
    Known {
        name: "xfs-cow-write-bus-error",
        filesystem: "xfs",
        wrong: Wrong::Bus,
        when: |facts| facts.exchanged,
        argument: "The same write, where folios of DAX count their owners: the fault in between associates the old block with the \
                   file a second time (fs/dax.c:dax_disassociate_entry warns), and later faults on it fail. Seen on 7.3.4.",
    },
    LENT_WHILE_PINNED,
    Known {
        wrong: Wrong::Garbage,
        ..LENT_WHILE_PINNED
    },
    TAKEN_IN_USE,
    Known {
        filesystem: "xfs",
        ..TAKEN_IN_USE
    },
];

const LENT_WHILE_PINNED: Known = Known {
    name: "virtiofs-lent-while-pinned",
    filesystem: "virtiofs",
    wrong: Wrong::Foreign,
    when: |facts| facts.in_pipe,
    argument: "open(2), and stat(2) of a file that has changed on the server, drop DAX entries without invalidate_lock and without \
               a look for pins (fs/fuse/file.c:fuse_open, fs/fuse/inode.c:fuse_change_attributes_i). Who takes memory of the window \
               back looks for pins in the entries only, and lends a pinned page to another file. Seen on 6.12.117 and 7.3.4.",
};

const TAKEN_IN_USE: Known = Known {
    name: "dax-write-bus-error",
    filesystem: "ext4",
    wrong: Wrong::Bus,
    when: |facts| facts.taken_in_use,
    argument: "A write(2) into a hole allocates, then fs/dax.c:dax_iomap_iter drops what the page cache has there, under i_rwsem \
               alone. A fault that comes in between with the new block loses its folio before it maps it \
               (dax_disassociate_entry warns), and fails: SIGBUS where the file has data. Seen once on 7.3.4, on ext4.",
};

/// The known bug that explains wrong data.
pub fn find(facts: &Facts<'_>) -> Option<&'static Known> {
    if !facts.dax {
        return None;
    }
    KNOWN.iter().find(|known| {
        known.filesystem == facts.filesystem && known.wrong == facts.wrong && (known.when)(facts)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_excused() {
        let zero = Facts {
            filesystem: "ext4",
            dax: true,
            wrong: Wrong::Lost,
            stale_translation: true,
            exchanged: false,
            written: true,
            swapped_with_boot: false,
            in_pipe: false,
            taken_in_use: false,
        };
        assert_eq!(find(&zero).unwrap().name, "ext4-zeroout-zero-page");
        for other in [
            Facts {
                filesystem: "xfs",
                ..zero
            },
            Facts { dax: false, ..zero },
            Facts {
                wrong: Wrong::Stale,
                ..zero
            },
            Facts {
                stale_translation: false,
                ..zero
            },
            Facts {
                written: false,
                ..zero
            },
        ] {
            assert!(find(&other).is_none());
        }
        let bus = Facts {
            filesystem: "xfs",
            wrong: Wrong::Bus,
            exchanged: true,
            ..zero
        };
        assert_eq!(find(&bus).unwrap().name, "xfs-cow-write-bus-error");
        let alone = Facts {
            exchanged: false,
            ..bus
        };
        assert!(find(&alone).is_none());
        for filesystem in ["xfs", "ext4"] {
            let warned = Facts {
                filesystem,
                taken_in_use: true,
                ..alone
            };
            assert_eq!(find(&warned).unwrap().name, "dax-write-bus-error");
            let lost = Facts {
                wrong: Wrong::Lost,
                stale_translation: false,
                ..warned
            };
            assert!(find(&lost).is_none());
        }
    }
}
