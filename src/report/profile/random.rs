//! Random numbers, good enough to choose the point of a sample.

use std::hash::{BuildHasher, RandomState};

/// Xorshift, with 64 bits of state.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    /// Begins at a random state, as std's maps do. The state must not be 0.
    pub(super) fn new() -> Self {
        Self(RandomState::new().hash_one(0_u8) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let product = u128::from(self.0) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_evenly_below_the_bound() {
        let mut random = Random::new();
        let mut tenths = [0; 10];
        for _ in 0..100_000 {
            tenths[usize::try_from(random.below(1000) / 100).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|&count| (9_000..11_000).contains(&count)), "{tenths:?}");
        assert_eq!(random.below(1), 0);
    }
}
