//! Quantities that must not be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unit!(
    /// CLOCK_MONOTONIC, nanoseconds.
    Nanos(u64)
);
unit!(
    /// Thread id in the initial pid namespace.
    Tid(u32)
);
unit!(
    /// Process id in the initial pid namespace.
    Pid(u32)
);
unit!(
    /// `i_ino`.
    Ino(u64)
);
unit!(
    /// `s_dev` in the kernel's own encoding: major above 20 minor bits (include/linux/kdev_t.h).
    Device(u32)
);
unit!(
    /// Address of a `struct inode`; names a file only between two inode records.
    InodeAddress(u64)
);
unit!(
    /// Index into a page cache or mapping, in pages of 4 KiB.
    PageOffset(u64)
);
unit!(
    /// Page frame number of a DAX page.
    Pfn(u64)
);
unit!(
    /// A hook's number in the plan of one trace.
    HookId(u16)
);
unit!(
    /// A kernel stack's number in one trace.
    StackId(u32)
);

/// log2 of the page size; x86-64.
pub const PAGE_SHIFT: u32 = 12;

impl PageOffset {
    /// First byte of the page.
    pub fn byte(self) -> u64 {
        self.0.saturating_mul(1 << PAGE_SHIFT)
    }
}

impl Device {
    /// From user space's `st_dev`.
    pub fn from_stat(dev: libc::dev_t) -> Self {
        Self((libc::major(dev) << 20) | (libc::minor(dev) & 0xf_ffff))
    }

    /// The major number.
    pub fn major(self) -> u32 {
        self.0 >> 20
    }

    /// The minor number.
    pub fn minor(self) -> u32 {
        self.0 & 0xf_ffff
    }
}

/// Bytes of a file, `start` included, `end` excluded. `u64::MAX` as end means "to the end, wherever it is".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// Every byte of a file.
    pub const ALL: Self = Self {
        start: 0,
        end: u64::MAX,
    };

    /// From a start and a length, clipped at the end of the address space.
    pub fn new(start: u64, length: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(length),
        }
    }

    /// True if no byte is in it.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// True if a byte is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.start.max(other.start) < self.end.min(other.end)
    }

    /// The smallest range around both.
    pub fn union(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }

    /// The bytes that are in both.
    pub fn intersection(self, other: Self) -> Self {
        Self {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        }
    }

    /// The bytes before `size`.
    pub fn below(self, size: u64) -> Self {
        Self {
            start: self.start,
            end: self.end.min(size),
        }
    }
}
