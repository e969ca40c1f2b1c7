//! An order of samples that is a permutation without a table: place -> sample, for any count and key.
//!
//! A four-round Feistel network over the next even power of two, walked until it lands inside the count
//! (Black and Rogaway 2002, cycle walking).

use crate::exec::host::activation::mix;

/// Returns the sample at one place of the endless sequence of passes over `count` samples.
pub fn sample(seed: u64, place: u64, count: u64) -> u64 {
    let (pass, mut at) = (place / count.max(1), place % count.max(1));
    let key = mix(mix(seed) ^ pass);
    let half = (64 - count.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..4u64 {
            let next = left ^ (mix(key ^ (right << 8) ^ round) & mask);
            left = right;
            right = next;
        }
        at = (left << half) | right;
        if at < count {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_pass_visits_each_sample_once(seed: u64, count in 1u64..600, pass in 0u64..3) {
            let mut seen: Vec<u64> = (0..count).map(|i| sample(seed, pass * count + i, count)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn passes_differ() {
        let order =
            |pass: u64| (0..100).map(|i| sample(3, pass * 100 + i, 100)).collect::<Vec<_>>();
        assert_ne!(order(0), order(1));
    }
}
