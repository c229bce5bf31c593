//! Sets of bytes of a file.

use crate::units::ByteRange;

/// Pieces that a set keeps apart.
const PIECES: usize = 64;

/// A set of bytes. With more pieces than it can keep apart it becomes everything: what is built on it
/// falls silent then, and never cries wolf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByteRanges {
    /// Disjoint, not touching, in order.
    pieces: Vec<ByteRange>,
}

impl ByteRanges {
    /// Adds bytes.
    pub fn add(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.pieces.partition_point(|piece| piece.end < range.start);
        let last = self
            .pieces
            .partition_point(|piece| piece.start <= range.end);
        let joined = self.pieces[first..last]
            .iter()
            .fold(range, |joined, piece| joined.union(*piece));
        self.pieces.splice(first..last, [joined]);
        if self.pieces.len() > PIECES {
            self.pieces = vec![ByteRange::ALL];
        }
    }

    /// True if every byte of `range` is in the set.
    pub fn covers(&self, range: ByteRange) -> bool {
        range.is_empty()
            || self
                .pieces
                .iter()
                .any(|piece| piece.start <= range.start && range.end <= piece.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange { start, end }
    }

    #[test]
    fn touching_pieces_are_one() {
        let mut set = ByteRanges::default();
        set.add(range(0, 10));
        set.add(range(20, 30));
        assert!(!set.covers(range(5, 25)));
        set.add(range(10, 20));
        assert!(set.covers(range(0, 30)));
        assert!(!set.covers(range(0, 31)));
        assert!(set.covers(range(40, 40)));
    }

    proptest! {
        #[test]
        fn a_set_covers_what_its_bytes_cover(
            added in prop::collection::vec((0u64..64, 0u64..64), 0..12),
            (start, end) in (0u64..64, 0u64..64),
        ) {
            let mut set = ByteRanges::default();
            let mut bytes = [false; 64];
            for (start, end) in added {
                set.add(range(start, end));
                for byte in start..end {
                    bytes[byte as usize] = true;
                }
            }
            let covered = (start..end).all(|byte| bytes[byte as usize]);
            prop_assert_eq!(set.covers(range(start, end)), covered);
        }
    }
}
