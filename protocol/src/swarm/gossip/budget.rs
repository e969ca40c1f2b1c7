//! Bytes that gossip may send: a steady flow and what was saved up, whatever there is to say.
//!
//! What the budget does not allow is left out: digests say it again when there is room. Heartbeats, jobs and the first
//! word to a new neighbour are not gossip.

use crate::schedule::advert::SignedAdvert;
use crate::units::{Bytes, Duration, Instant};

/// Bytes a second: a thousandth of a 100 Mbit/s line, a fifteenth of a slow home's uplink.
pub(super) const FLOW: u64 = 16 << 10;
/// Saved up at most: what a newcomer to a swarm of a hundred asks for.
pub(super) const SAVED_MAX: u64 = 256 << 10;
/// Most bytes of an entry of a digest.
pub(super) const ENTRY: u64 = 8 + 1 + 9;
/// Most bytes of a message around its adverts or entries.
pub(super) const FRAME: u64 = 80;

/// What may be sent by now.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    saved: u64,
    filled: Instant,
}

impl Default for Budget {
    fn default() -> Self {
        Self { saved: SAVED_MAX, filled: Instant::default() }
    }
}

impl Budget {
    /// Lets time pass.
    pub(super) fn fill(&mut self, now: Instant) {
        let passed: Duration = now.since(self.filled);
        let more = u128::from(passed.micros()) * u128::from(FLOW) / 1_000_000;
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        if more > 0 {
            self.filled = now;
            self.saved = self.saved.saturating_add(more).min(SAVED_MAX);
        }
    }

    /// Takes these bytes if they are there. Returns whether they are.
    pub(super) fn takes(&mut self, size: Bytes) -> bool {
        let can = self.saved >= size.count();
        if can {
            self.saved -= size.count();
        }
        can
    }

    /// Takes these bytes, or whatever is left: what is said in any case.
    pub(super) fn owes(&mut self, size: Bytes) {
        self.saved = self.saved.saturating_sub(size.count());
    }
}

/// Returns what an advert takes on the wire at most.
pub(super) fn weight(signed: &SignedAdvert) -> Bytes {
    let advert = &signed.advert;
    let addresses: usize = advert.addresses.iter().map(|a| a.len() + 3).sum();
    let device = advert.hardware.as_ref().map_or(0, |h| h.device.len() + 3 + 9 * 9);
    // Key, sequence, counts, coordinate, signature; then each link's key, rate and round trip.
    let fixed = 32 + 9 + 8 + 40 + 64;
    Bytes::of_len(fixed + addresses + device + advert.links.len() * (32 + 9 + 9 + 6))
}
