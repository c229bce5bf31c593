//! Translations of DAX files that are in place, as far as installs and teardowns show.
//!
//! A process that unmaps a file or ends takes its translations along unseen. So "in place" means: it
//! was installed, and no operation of the file's has removed it since. That is what an operation must
//! not leave behind, whether or not somebody still looks through it.

use std::collections::BTreeMap;

use crate::{
    judge::{hash::Map, inode::InodeIndex, operations::Operation, task::TaskId},
    units::{ByteRange, Nanos, PAGE_SHIFT, StackId},
};

/// A page frame: its number with the flags of a `pfn_t`, or from 6.15 on the address of its `struct
/// page`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame(pub u64);

impl Frame {
    /// The page frame number, or the `struct page`'s address.
    pub fn number(self) -> u64 {
        // PFN_FLAGS_MASK (include/linux/pfn_t.h): the page offset's bits, at the top.
        if self.0 >> 47 == 0x1_ffff {
            self.0
        } else {
            self.0 & (u64::MAX >> PAGE_SHIFT)
        }
    }

    /// False for the zero page that a hole shows: it is memory, not medium.
    ///
    /// `PFN_DEV` (include/linux/pfn_t.h); an address has that bit, too, and tells nothing.
    pub fn may_be_medium(self) -> bool {
        self.0 & 1 << 61 != 0
    }
}

/// A translation in place.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// What it names.
    pub frame: Frame,
    /// It may write: the block was the file's alone.
    pub write: bool,
    /// When it was installed.
    pub at: Nanos,
    /// By whom.
    pub task: TaskId,
    /// In which kind of fault.
    pub operation: Operation,
    /// Where.
    pub stack: Option<StackId>,
}

/// A file's translations, by page.
#[derive(Debug, Default)]
pub struct Translations {
    by_page: BTreeMap<u64, Translation>,
}

/// The pages that a range touches; an end in mid-page spares that page.
fn pages(range: ByteRange) -> std::ops::Range<u64> {
    let first = range.start.div_ceil(1 << PAGE_SHIFT);
    let last = if range.end == u64::MAX {
        u64::MAX
    } else {
        range.end >> PAGE_SHIFT
    };
    first..last.max(first)
}

impl Translations {
    /// Enters one for a page.
    pub fn install(&mut self, page: u64, translation: Translation) {
        self.by_page.insert(page, translation);
    }

    /// Removes those that lie in `range` as a whole.
    pub fn tear_down(&mut self, range: ByteRange) {
        if self.by_page.is_empty() {
            return;
        }
        let gone = pages(range);
        // Two look-ups for each that goes; splitting and joining the tree would visit all that stay.
        while let Some((&page, _)) = self.by_page.range(gone.clone()).next() {
            self.by_page.remove(&page);
        }
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.by_page.clear();
    }

    /// The one for a page.
    pub fn get(&self, page: u64) -> Option<&Translation> {
        self.by_page.get(&page)
    }

    /// The first that overlaps `range` and that `which` is true for, with its page.
    pub fn find_over(
        &self,
        range: ByteRange,
        which: impl Fn(&Translation) -> bool,
    ) -> Option<(u64, &Translation)> {
        let last = range.end.div_ceil(1 << PAGE_SHIFT);
        self.by_page
            .range(range.start >> PAGE_SHIFT..last.max(range.start >> PAGE_SHIFT))
            .map(|(&page, translation)| (page, translation))
            .find(|(_, translation)| which(translation))
    }

    /// The first that lies in `range`, with its page.
    pub fn first_in(&self, range: ByteRange) -> Option<(u64, &Translation)> {
        self.by_page
            .range(pages(range))
            .next()
            .map(|(&page, translation)| (page, translation))
    }
}

/// Who mapped a frame last.
#[derive(Debug, Default)]
pub struct Owners {
    by_frame: Map<u64, (InodeIndex, u64)>,
}

impl Owners {
    /// Makes a page of a file the frame's owner, and returns the one before if it was another page.
    pub fn take(&mut self, frame: Frame, owner: (InodeIndex, u64)) -> Option<(InodeIndex, u64)> {
        self.by_frame
            .insert(frame.0, owner)
            .filter(|&before| before != owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translation(frame: u64) -> Translation {
        Translation {
            frame: Frame(frame),
            write: true,
            at: Nanos(0),
            task: TaskId::default(),
            operation: Operation::DaxWriteFault,
            stack: None,
        }
    }

    #[test]
    fn a_teardown_spares_pages_that_it_covers_in_part() {
        let mut map = Translations::default();
        for page in 0..8 {
            map.install(page, translation(page));
        }
        map.tear_down(ByteRange {
            start: 4096 + 1,
            end: 5 * 4096 + 1,
        });
        let left: Vec<u64> = (0..8).filter(|&page| map.get(page).is_some()).collect();
        assert_eq!(left, [0, 1, 5, 6, 7]);
        map.tear_down(ByteRange {
            start: 6 * 4096,
            end: u64::MAX,
        });
        assert!(map.get(5).is_some() && map.get(6).is_none() && map.get(7).is_none());
        assert!(map.first_in(ByteRange::new(0, 4096)).is_some());
        assert!(map.first_in(ByteRange::new(1, 4096)).is_none());
    }
}
