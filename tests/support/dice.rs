//! Chance that can be repeated.

use std::time::Duration;

/// A random but repeatable sequence (SplitMix64).
pub struct Dice(u64);

impl Dice {
    /// One of several sequences of the same seed.
    pub fn nth(n: u64, seed: u64) -> Self {
        Self(seed.wrapping_mul(1_000_003).wrapping_add(n))
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.roll(of.len() as u64)).expect("small")]
    }

    /// Shorter than this many milliseconds.
    pub fn under(&mut self, ms: u64) -> Duration {
        Duration::from_millis(self.roll(ms))
    }
}
