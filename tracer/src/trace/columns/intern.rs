//! Numbers for keys, in order of first appearance.

/// An open-addressing table that keeps its memory when it is cleared.
#[derive(Default)]
pub struct Interner {
    /// Number plus one, 0 when free; a power of two, at most half full.
    slots: Vec<u32>,
    keys: Vec<u64>,
}

impl Interner {
    /// Forgets every key.
    pub fn clear(&mut self) {
        self.slots.fill(0);
        self.keys.clear();
    }

    /// The keys by number.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// The key's number, and whether it is new.
    #[inline]
    pub fn number(&mut self, key: u64) -> (u32, bool) {
        if self.keys.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let at = self.find(key);
        match self.slots[at] {
            0 => {
                self.keys.push(key);
                self.slots[at] = self.keys.len() as u32;
                (self.keys.len() as u32 - 1, true)
            }
            number => (number - 1, false),
        }
    }

    /// The key's slot, or the free one where it belongs.
    #[inline]
    fn find(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask;
        loop {
            match self.slots[at] {
                0 => return at,
                number if self.keys[number as usize - 1] == key => return at,
                _ => at = (at + 1) & mask,
            }
        }
    }

    #[cold]
    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(64);
        self.slots.clear();
        self.slots.resize(size, 0);
        for index in 0..self.keys.len() {
            let at = self.find(self.keys[index]);
            self.slots[at] = index as u32 + 1;
        }
    }
}
