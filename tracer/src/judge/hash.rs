//! A fast hash for keys that no adversary chooses: thread ids and kernel addresses.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// A map from small integers; iteration order never reaches a report.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

/// Multiply and rotate: a product's entropy sits in its high bits, the table indexes by low ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fold(u64);

const FACTOR: u64 = 0xf135_7aea_2e62_a9c5;

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = self.0.wrapping_add(value).wrapping_mul(FACTOR);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}
