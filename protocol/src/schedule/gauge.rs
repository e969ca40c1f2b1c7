//! One figure of a link or a device, from samples: the young weigh more, outliers nothing, news at once.
//!
//! A gauge keeps the last samples. Its figure is the mean of those near their weighted median; a sample's weight
//! halves with each half-life. A few samples in a row that all lie outside on the same side are no outliers:
//! what was measured is now another, and the older samples are forgotten. Passive samples (of real transfers) and
//! active ones (of probes) count alike; both were measured here, whatever anybody claims.
//! Not here: whom to measure (`prober`). Concept: `docs/concepts/links-and-fences.md`.

use std::collections::VecDeque;

use crate::units::{Duration, Instant};

/// Samples that a gauge keeps.
const SAMPLES: usize = 8;
/// A sample's weight halves in this.
const HALF_LIFE: Duration = Duration::from_millis(60_000);
/// Halvings after which a sample weighs as little as it ever does.
const HALVINGS: u32 = 10;
/// So many samples in a row outside the bounds, on one side, are a change.
pub const CHANGE: usize = 3;
/// A sample this near to the median is never an outlier: a third of it.
const NEAR: u64 = 3;
/// A sample further from the median than this many median deviations is an outlier.
const DEVIATIONS: u64 = 3;

/// Fewer packets say nothing of loss.
const PACKETS_MIN: u64 = 200;
/// Once so many were sent, older ones count half.
const PACKETS_MAX: u64 = 100_000;

/// Packets of a link, as its transport counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// Sent.
    pub sent: u64,
    /// Lost of these, as far as is known.
    pub lost: u64,
}

impl Packets {
    /// Counts more of them.
    pub fn add(&mut self, more: Self) {
        if self.sent > PACKETS_MAX {
            (self.sent, self.lost) = (self.sent / 2, self.lost / 2);
        }
        self.sent = self.sent.saturating_add(more.sent);
        self.lost = self.lost.saturating_add(more.lost).min(self.sent);
    }

    /// Returns how many of a million are lost; None of too few.
    pub fn loss(&self) -> Option<u32> {
        let millionths = u128::from(self.lost) * 1_000_000 / u128::from(self.sent.max(1));
        (self.sent >= PACKETS_MIN).then(|| u32::try_from(millionths).unwrap_or(u32::MAX))
    }
}

/// What was measured, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    value: u64,
    at: Instant,
}

/// Samples of one figure, in whatever unit its owner has.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    samples: VecDeque<Sample>,
    /// Samples in a row outside the bounds, above (positive) or below.
    outside: isize,
}

impl Gauge {
    /// Takes a sample in.
    pub fn add(&mut self, value: u64, now: Instant) {
        let side = match self.bounds(now) {
            Some((low, _)) if value < low => -1,
            Some((_, high)) if value > high => 1,
            Some(_) | None => 0,
        };
        self.outside = if side * self.outside > 0 { self.outside + side } else { side };
        self.samples.push_back(Sample { value, at: now });
        if self.outside.unsigned_abs() >= CHANGE {
            let old = self.samples.len().saturating_sub(CHANGE);
            self.samples.drain(..old);
            self.outside = 0;
        }
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// Returns the figure; None before any sample.
    pub fn figure(&self, now: Instant) -> Option<u64> {
        let (low, high) = self.bounds(now)?;
        let near = self.samples.iter().filter(|s| (low..=high).contains(&s.value));
        let (mut sum, mut weights) = (0u128, 0u128);
        for sample in near {
            let weight = u128::from(weight(sample, now));
            sum += weight * u128::from(sample.value);
            weights += weight;
        }
        u64::try_from(sum.checked_div(weights)?).ok()
    }

    /// Returns when the last sample was taken.
    pub fn newest(&self) -> Option<Instant> {
        self.samples.back().map(|s| s.at)
    }

    /// Says whether there is one sample alone, which nothing bears out.
    pub fn is_single(&self) -> bool {
        self.samples.len() == 1
    }

    /// Says whether the last sample does not fit the others, so that another would tell what is true.
    pub fn is_doubtful(&self) -> bool {
        self.outside != 0
    }

    /// Returns the least and the largest value that is no outlier; the median is always within.
    fn bounds(&self, now: Instant) -> Option<(u64, u64)> {
        let mut values: Vec<(u64, u64)> =
            self.samples.iter().map(|s| (s.value, weight(s, now))).collect();
        let middle = match self.samples.len() {
            // Nothing says which of two is right; the younger one was taken with fewer newcomers about.
            2 => self.samples.back()?.value,
            _ => median(&mut values)?,
        };
        let mut off: Vec<(u64, u64)> =
            values.iter().map(|(value, weight)| (value.abs_diff(middle), *weight)).collect();
        let deviation = median(&mut off)?;
        let reach = deviation.saturating_mul(DEVIATIONS).max(middle / NEAR);
        Some((middle.saturating_sub(reach), middle.saturating_add(reach)))
    }
}

/// Returns a sample's weight, a power of two.
fn weight(sample: &Sample, now: Instant) -> u64 {
    let halvings = now.since(sample.at).micros() / HALF_LIFE.micros();
    1 << (HALVINGS - u32::try_from(halvings).unwrap_or(HALVINGS).min(HALVINGS))
}

/// Returns the weighted median of (value, weight); sorts them.
fn median(values: &mut [(u64, u64)]) -> Option<u64> {
    values.sort_unstable();
    let half = values.iter().map(|(_, weight)| weight).sum::<u64>().div_ceil(2);
    let mut sum = 0;
    values
        .iter()
        .find(|(_, weight)| {
            sum += weight;
            sum >= half
        })
        .map(|(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_millis(seconds * 1000)
    }

    fn gauge(values: &[u64]) -> Gauge {
        let mut gauge = Gauge::default();
        for (second, value) in (0..).zip(values) {
            gauge.add(*value, at(second));
        }
        gauge
    }

    #[test]
    fn an_outlier_moves_nothing_and_three_in_a_row_are_news() {
        let steady = gauge(&[100, 104, 97, 101]);
        assert_eq!(steady.figure(at(4)), Some(100));
        let once = gauge(&[100, 104, 97, 101, 5]);
        assert_eq!(once.figure(at(5)), Some(100));
        assert!(once.is_doubtful() && !steady.is_doubtful());
        let often = gauge(&[100, 104, 97, 101, 5, 100, 6, 100, 5]);
        assert_eq!(often.figure(at(9)), Some(100));
        let moved = gauge(&[100, 104, 97, 101, 5, 6, 5]);
        assert_eq!(moved.figure(at(7)), Some(5));
    }

    #[test]
    fn old_samples_give_way_to_young_ones() {
        let mut gauge = gauge(&[100, 100, 100, 100, 100]);
        // Near enough to be no outlier: only age decides.
        gauge.add(130, at(600));
        assert_eq!(gauge.figure(at(600)), Some(129));
        assert_eq!(Gauge::default().figure(at(1)), None);
        // Of two that differ the younger counts, and a third is wanted.
        let two = self::gauge(&[5, 100]);
        assert_eq!(two.figure(at(2)), Some(100));
        assert!(two.is_doubtful() && !two.is_single() && self::gauge(&[5]).is_single());
    }

    #[test]
    fn loss_is_the_share_of_many_packets_and_old_ones_fade() {
        let mut packets = Packets::default();
        packets.add(Packets { sent: 199, lost: 1 });
        assert_eq!(packets.loss(), None);
        packets.add(Packets { sent: 801, lost: 9 });
        assert_eq!(packets.loss(), Some(10_000));
        for _ in 0..20 {
            packets.add(Packets { sent: 150_000, lost: 0 });
        }
        assert_eq!(packets.loss(), Some(0));
        packets.add(Packets { sent: u64::MAX, lost: u64::MAX });
        assert!(packets.loss() <= Some(1_000_000));
    }

    proptest! {
        #[test]
        fn the_figure_lies_between_the_samples(
            values in proptest::collection::vec(any::<u64>(), 1..40),
            pause in 0u64..100,
        ) {
            let mut gauge = Gauge::default();
            let mut second = 0;
            for value in &values {
                gauge.add(*value, at(second));
                second += pause;
            }
            let figure = gauge.figure(at(second)).unwrap();
            prop_assert!(values.iter().min().unwrap() <= &figure);
            prop_assert!(values.iter().max().unwrap() >= &figure);
        }

        /// Fewer than half of the samples lie, never three in a row: the figure stays with the rest.
        #[test]
        fn a_minority_of_wild_samples_moves_little(seed in any::<u64>(), wild in any::<u64>()) {
            let mut gauge = Gauge::default();
            for second in 0..16u64 {
                let honest = 1000 + (seed >> second) % 200;
                gauge.add(if second % 3 == 2 { wild } else { honest }, at(second));
            }
            let figure = gauge.figure(at(16)).unwrap();
            prop_assert!((700..=1700).contains(&figure), "{figure}");
        }
    }
}
