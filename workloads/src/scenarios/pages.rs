//! Page numbers and page ranges: never mixed up with byte offsets.

use serde::{Deserialize, Serialize};

use super::rng::Rng;

/// Bytes in a page. Other base page sizes are refused when a run starts.
pub const PAGE: u64 = 4096;

/// A page's number within its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Page(pub u32);

impl Page {
    /// Byte offset of the page in its file.
    pub fn offset(self) -> u64 {
        u64::from(self.0) * PAGE
    }
}

/// A run of pages, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    first: u32,
    count: u32,
}

impl PageRange {
    /// `count` pages from `first`; a count of 0 is taken as 1.
    pub fn new(first: Page, count: u32) -> Self {
        Self {
            first: first.0,
            count: count.max(1),
        }
    }

    /// A random range inside `self` of `least..=most` pages, cut to what fits.
    pub fn choose(self, rng: &mut Rng, least: u32, most: u32) -> Self {
        let most = most.clamp(1, self.count);
        let least = least.clamp(1, most);
        let count = least + rng.below(most - least + 1);
        let first = self.first + rng.below(self.count - count + 1);
        Self { first, count }
    }

    /// The first page.
    pub fn first(self) -> Page {
        Page(self.first)
    }

    /// The page behind the last.
    pub fn end(self) -> Page {
        Page(self.first + self.count)
    }

    /// How many pages.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Byte offset of the first page.
    pub fn offset(self) -> u64 {
        self.first().offset()
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.count) * PAGE
    }

    /// The pages between the first and the last, if there are any.
    pub fn inner(self) -> Option<Self> {
        (self.count() > 2).then(|| Self::new(Page(self.first().0 + 1), self.count() - 2))
    }

    /// The pages in order.
    pub fn pages(self) -> impl Iterator<Item = Page> {
        (self.first..self.first + self.count).map(Page)
    }

    /// The `n`-th page, counted round from the last to the first again.
    pub fn nth(self, n: u32) -> Page {
        Page(self.first + n % self.count)
    }

    /// Both halves in one word, so that a range can be published atomically.
    pub fn pack(self) -> u64 {
        u64::from(self.first) << 32 | u64::from(self.count)
    }

    /// The inverse of [`PageRange::pack`].
    pub fn unpack(word: u64) -> Self {
        Self::new(Page((word >> 32) as u32), word as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_ranges_stay_inside() {
        let whole = PageRange::new(Page(10), 50);
        let mut rng = Rng::stream(1, 1);
        for _ in 0..10_000 {
            let range = whole.choose(&mut rng, 16, 64);
            assert!(range.first() >= whole.first() && range.end() <= whole.end());
            assert!(range.count() >= 16);
            assert_eq!(PageRange::unpack(range.pack()), range);
        }
    }
}
