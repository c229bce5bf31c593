//! Places where a task is held up to have a predicted overlap seen: only `faultline confirm` attaches
//! these rows, and only on the filesystems that it watches.

use serde::{Deserialize, Serialize};

use super::{
    Effect, Hook, Side, Target, Way, arg,
    generic::{MAPPING, VMA, VMF},
};

/// Where the task whose window it is waits for others to come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pause {
    /// Before extents change, after translations were torn down.
    BeforeChange,
    /// After the teardown, before the lock is taken.
    AfterTeardown,
    /// After the exclusion lock was released, before it is retaken.
    AfterUnlock,
    /// In a fault: after the look-up, before the translation is installed.
    BeforeInstall,
}

impl Pause {
    /// Where that is, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeChange => "before extents change",
            Self::AfterTeardown => "after translations are torn down",
            Self::AfterUnlock => "after the exclusion lock is released",
            Self::BeforeInstall => "before a translation is installed",
        }
    }

    /// True if an ordinary row of this effect holds the task up.
    pub fn holds(self, effect: Effect) -> bool {
        self == Self::BeforeChange
            && matches!(effect, Effect::ChangeExtents(_) | Effect::ConvertExtents(_))
    }

    /// Rows of its own.
    pub fn hooks(self) -> &'static [Hook] {
        match self {
            Self::BeforeChange => &[],
            Self::AfterTeardown => AFTER_TEARDOWN,
            Self::AfterUnlock => AFTER_UNLOCK,
            Self::BeforeInstall => BEFORE_INSTALL,
        }
    }
}

const fn at(function: &'static str, side: Side, group: &'static str, inode: Way) -> Hook {
    Hook::new(Target::Function(function, side), Effect::Pause, group).inode(inode)
}

const AFTER_TEARDOWN: &[Hook] = &[
    at(
        "truncate_pagecache",
        Side::Return,
        "pause/truncate",
        arg(0, &[]),
    ),
    at(
        "truncate_pagecache_range",
        Side::Return,
        "pause/range",
        arg(0, &[]),
    ),
    at(
        "invalidate_inode_pages2_range",
        Side::Return,
        "pause/pages2",
        arg(0, MAPPING),
    ),
];

const AFTER_UNLOCK: &[Hook] = &[Hook::new(
    Target::Function("up_write", Side::Return),
    Effect::PauseUnlocked,
    "pause/up_write",
)
.inode(arg(0, &[]))];

const BEFORE_INSTALL: &[Hook] = &[
    at(
        "vmf_insert_mixed",
        Side::Entry,
        "pause/pte-read",
        arg(0, VMA),
    ),
    at(
        "vmf_insert_mixed_mkwrite",
        Side::Entry,
        "pause/pte-write",
        arg(0, VMA),
    ),
    at(
        "vmf_insert_page_mkwrite",
        Side::Entry,
        "pause/pte-write",
        arg(0, VMF),
    ),
    at("vmf_insert_pfn_pmd", Side::Entry, "pause/pmd", arg(0, VMF)),
    at(
        "vmf_insert_pfn_pmd_prot",
        Side::Entry,
        "pause/pmd",
        arg(0, VMF),
    ),
    at(
        "vmf_insert_folio_pmd",
        Side::Entry,
        "pause/pmd",
        arg(0, VMF),
    ),
    at(
        "iomap_page_mkwrite",
        Side::Return,
        "pause/mkwrite-iomap",
        arg(0, VMF),
    ),
    at(
        "block_page_mkwrite",
        Side::Return,
        "pause/mkwrite-buffer",
        arg(1, VMF),
    ),
];
