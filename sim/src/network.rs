//! Directed links: one-way latency with seeded jitter for messages, first-in-first-out bandwidth for tensors.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;
use wattle_protocol::units::{Bytes, Duration, Instant, Rate};

/// A link's properties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSpec {
    /// Throughput.
    pub rate: Rate,
    /// One-way latency.
    pub latency: Duration,
    /// Most that jitter adds to the latency of a message.
    pub jitter: Duration,
}

/// All links and when each is free.
#[derive(Debug)]
pub struct Network {
    default: LinkSpec,
    special: BTreeMap<(usize, usize), LinkSpec>,
    free: BTreeMap<(usize, usize), Instant>,
    rng: ChaCha8Rng,
}

impl Network {
    /// Makes a network; the generator draws the jitter.
    pub fn new(
        default: LinkSpec,
        special: BTreeMap<(usize, usize), LinkSpec>,
        rng: ChaCha8Rng,
    ) -> Self {
        Self { default, special, free: BTreeMap::new(), rng }
    }

    /// Returns a link's properties.
    pub fn link(&self, from: usize, to: usize) -> LinkSpec {
        self.special.get(&(from, to)).copied().unwrap_or(self.default)
    }

    /// Returns how long a small message is on its way.
    pub fn travel(&mut self, from: usize, to: usize) -> Duration {
        let link = self.link(from, to);
        let most = link.jitter.micros();
        let extra = if most == 0 { 0 } else { self.rng.next_u64() % (most + 1) };
        link.latency + Duration::from_micros(extra)
    }

    /// Books a tensor whose offer has come `now`; returns when its last byte arrives. It follows its offer at once, so it
    /// has been on the link since the offer was sent.
    pub fn book(&mut self, from: usize, to: usize, size: Bytes, now: Instant) -> Instant {
        let link = self.link(from, to);
        let sent = Instant::from_micros(now.micros().saturating_sub(link.latency.micros()));
        let free = self.free.entry((from, to)).or_default();
        *free = (*free).max(sent) + size / link.rate;
        *free + link.latency
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn tensors_on_one_link_wait_for_each_other_and_on_two_do_not() {
        let rate = Rate::from_bytes_per_second(1_000_000);
        let latency = Duration::from_millis(5);
        let link = LinkSpec { rate, latency, jitter: Duration::ZERO };
        let mut network = Network::new(link, BTreeMap::new(), ChaCha8Rng::seed_from_u64(1));
        let now = Instant::from_micros(0);
        let size = Bytes::new(100_000);
        assert_eq!(network.book(0, 1, size, now).micros(), 105_000);
        assert_eq!(network.book(0, 1, size, now).micros(), 205_000);
        assert_eq!(network.book(1, 0, size, now).micros(), 105_000);
        assert_eq!(network.travel(0, 1), latency);
    }
}
