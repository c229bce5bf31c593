//! What a word in a file says about itself: which file, which page, which store, and whether it is
//! whole.
//!
//! A stamp is one aligned 8-byte word, which the CPU stores and loads in one piece: a racing load
//! sees an old or a new stamp, never half of one. Mapped stores go to a page's first and last word
//! ([`Cell`]); each is judged by itself, so stores of one cell while the other still shows what the
//! block held before are possible. A write of a whole block fills it with one stamp.

use serde::{Deserialize, Serialize};

use super::pages::{PAGE, Page};
use super::rng::mix;

/// Which file of the run, 1 to 62; [`FileId::MAX`] is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileId(pub u8);

impl FileId {
    /// The largest that a stamp can carry; no file has it.
    pub const MAX: FileId = FileId(63);
}

/// Which store to its page, from 1; 26 bits, fewer in a run on files with more than 2^20 pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

/// Bits of a stamp for page and generation together.
const PLACE_BITS: u32 = 46;
/// Bits for the page, at least; the rest is for generations.
const PAGE_BITS: u32 = 20;
/// The most pages a file may have for its page numbers to fit a stamp and leave room for 2^20
/// generations.
pub const MAX_PAGES: u32 = 1 << 26;

/// One of the two places in a page that carry a stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// The page's first word.
    Head = 0,
    /// The page's last word.
    Tail = 1,
}

impl Cell {
    /// Both, in the order of their offsets.
    pub const BOTH: [Cell; 2] = [Cell::Head, Cell::Tail];

    /// Byte offset within the page.
    pub fn offset(self) -> u64 {
        match self {
            Cell::Head => 0,
            Cell::Tail => PAGE - 8,
        }
    }
}

/// The content of a word that this run wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The file it was written to.
    pub file: FileId,
    /// The page it was written to.
    pub page: Page,
    /// Which store of that page.
    pub generation: Generation,
}

/// What a word turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A hole, a block not yet written, or one zeroed.
    Zero,
    /// A stamp of this run, of whichever file and page.
    Stamp(Stamp),
    /// Neither: another program's or another run's data, or a torn word.
    Garbage(u64),
}

/// How this run's stamps are made: so that they differ from those that an earlier run left in now free
/// blocks, and have room for its page numbers.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    secret: u64,
    page_bits: u32,
}

const CHECK_BITS: u32 = 12;

impl Key {
    /// For files of so many pages, at most [`MAX_PAGES`].
    pub fn new(secret: u64, pages: u32) -> Self {
        let page_bits = pages.max(1).next_power_of_two().trailing_zeros();
        Self {
            secret,
            page_bits: page_bits.clamp(PAGE_BITS, MAX_PAGES.trailing_zeros()),
        }
    }

    fn generation_bits(self) -> u32 {
        PLACE_BITS - self.page_bits
    }

    /// The largest generation that a stamp can carry.
    pub fn last_generation(self) -> Generation {
        Generation((1 << self.generation_bits()) - 1)
    }

    fn check(self, payload: u64) -> u64 {
        mix(payload ^ self.secret) >> (64 - CHECK_BITS)
    }

    /// The word for a stamp; never 0, since file ids start at 1.
    pub fn seal(self, stamp: Stamp) -> u64 {
        let page = stamp.page.0 & ((1 << self.page_bits) - 1);
        let payload = u64::from(stamp.file.0 & FileId::MAX.0) << PLACE_BITS
            | u64::from(page) << self.generation_bits()
            | u64::from(stamp.generation.0 & self.last_generation().0);
        payload << CHECK_BITS | self.check(payload)
    }

    /// What a word is.
    pub fn open(self, word: u64) -> Content {
        let payload = word >> CHECK_BITS;
        if word == 0 {
            return Content::Zero;
        }
        if payload >> PLACE_BITS == 0 || self.check(payload) != word & ((1 << CHECK_BITS) - 1) {
            return Content::Garbage(word);
        }
        Content::Stamp(Stamp {
            file: FileId((payload >> PLACE_BITS) as u8),
            page: Page((payload >> self.generation_bits()) as u32 & ((1 << self.page_bits) - 1)),
            generation: Generation(payload as u32 & self.last_generation().0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    /// Files of 4 MiB.
    const PAGES: u32 = 1024;

    fn random_stamp(rng: &mut Rng) -> Stamp {
        Stamp {
            file: FileId(1 + rng.below(63) as u8),
            page: Page(rng.below(PAGES)),
            generation: Generation(rng.below(1 << 26)),
        }
    }

    #[test]
    fn every_stamp_survives_the_round_trip() {
        let (key, mut rng) = (Key::new(42, PAGES), Rng::stream(1, 0));
        for _ in 0..10_000 {
            let stamp = random_stamp(&mut rng);
            assert_eq!(key.open(key.seal(stamp)), Content::Stamp(stamp));
        }
        for pages in [1, PAGES, 1 << 20, (1 << 20) + 1, 1 << 24, MAX_PAGES] {
            let key = Key::new(42, pages);
            let last = Stamp {
                file: FileId::MAX,
                page: Page(pages - 1),
                generation: key.last_generation(),
            };
            assert_eq!(key.open(key.seal(last)), Content::Stamp(last));
        }
    }

    #[test]
    fn zero_is_zero_and_another_key_is_garbage() {
        let (key, mut rng) = (Key::new(42, PAGES), Rng::stream(2, 0));
        assert_eq!(key.open(0), Content::Zero);
        let strange = (0..10_000)
            .filter(|_| {
                matches!(
                    Key::new(43, PAGES).open(key.seal(random_stamp(&mut rng))),
                    Content::Garbage(_)
                )
            })
            .count();
        assert!(strange > 9_980, "{strange}");
    }

    #[test]
    fn a_word_torn_between_two_stamps_is_garbage() {
        let (key, mut rng) = (Key::new(42, PAGES), Rng::stream(3, 0));
        let caught = (0..10_000)
            .filter(|_| {
                let (old, new) = (
                    key.seal(random_stamp(&mut rng)),
                    key.seal(random_stamp(&mut rng)),
                );
                let torn = old & 0xffff_ffff | new & !0xffff_ffff;
                matches!(key.open(torn), Content::Garbage(_))
            })
            .count();
        assert!(caught > 9_980, "{caught}");
    }
}
