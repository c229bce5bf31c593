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
}

/// A bug that unmodified kernels have.
pub struct Known {
    /// Its name in summaries.
    pub name: &'static str,
    filesystem: &'static str,
    wrong: Wrong,
    exchanged: bool,
    /// Why it is true, and where it was seen.
    pub argument: &'static str,
}

/// Every known bug; all of them need DAX, leave the medium right and a translation wrong, and follow a
/// write(2).
const KNOWN: [Known; 2] = [
    Known {
        name: "ext4-zeroout-zero-page",
        filesystem: "ext4",
        wrong: Wrong::Lost,
        exchanged: false,
        argument: "A write fault or DAX write converts an unwritten extent and zeroes its small neighbours out with it \
                   (fs/ext4/extents.c:ext4_ext_convert_to_initialized). A later DAX write to such a neighbour finds it written, \
                   so fs/dax.c:dax_iomap_iter sees no IOMAP_F_NEW and leaves a zero page mapped there. Seen on 6.12.117.",
    },
    Known {
        name: "xfs-cow-write-stale-page",
        filesystem: "xfs",
        wrong: Wrong::Stale,
        exchanged: true,
        argument: "A DAX write to a shared block invalidates before xfs_reflink_end_cow moves the new block into the data fork, under \
                   the IOLOCK only; a fault in between maps the old block for good. Seen on 6.12.95.",
    },
];

/// The known bug that explains wrong data.
pub fn find(facts: &Facts<'_>) -> Option<&'static Known> {
    if !(facts.dax && facts.stale_translation && facts.written) {
        return None;
    }
    KNOWN.iter().find(|known| {
        known.filesystem == facts.filesystem
            && known.wrong == facts.wrong
            && (facts.exchanged || !known.exchanged)
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
    }
}
