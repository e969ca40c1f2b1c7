//! The graph of links between peers, from what both ends have measured.
//!
//! A pair that nobody has measured is taken to be as slow as the slowest measurement that touches either end;
//! where there is none at all, as a slow home uplink. Our rule: an unknown link must not look attractive.

use std::collections::BTreeMap;

use super::advert::{Advert, Link};
use crate::ids::PeerId;
use crate::units::{Bytes, Duration, Rate};

/// What an unmeasured link is taken to reach: 10 Mbit/s.
const RATE_UNKNOWN: Rate = Rate::from_bytes_per_second(1_250_000);
/// Round trip of an unmeasured link.
const ROUND_TRIP_UNKNOWN: Duration = Duration::from_millis(50);

/// Directed links between peers.
#[derive(Clone, Debug, Default)]
pub struct Links {
    measured: BTreeMap<(PeerId, PeerId), (Rate, Duration)>,
    slowest: BTreeMap<PeerId, (Rate, Duration)>,
}

impl Links {
    /// Gathers the links of many adverts.
    pub fn of(adverts: &[&Advert]) -> Self {
        let mut links = Self::default();
        for advert in adverts {
            for link in &advert.links {
                links.insert(advert.peer, *link);
            }
        }
        links
    }

    /// Takes one measured link in.
    pub fn insert(&mut self, from: PeerId, link: Link) {
        self.measured.insert((from, link.peer), (link.rate, link.round_trip));
        for end in [from, link.peer] {
            let slot = self.slowest.entry(end).or_insert((link.rate, link.round_trip));
            *slot = (slot.0.min(link.rate), slot.1.max(link.round_trip));
        }
    }

    /// Returns what has been measured, in the order of both ends.
    pub fn measured(&self) -> impl Iterator<Item = ((PeerId, PeerId), (Rate, Duration))> {
        self.measured.iter().map(|(ends, link)| (*ends, *link))
    }

    /// Returns what has been measured in this direction, if anything.
    pub fn measurement(&self, from: PeerId, to: PeerId) -> Option<(Rate, Duration)> {
        self.measured.get(&(from, to)).copied()
    }

    /// Returns rate and round trip from one peer to another.
    pub fn link(&self, from: PeerId, to: PeerId) -> (Rate, Duration) {
        if let Some(link) = self.measured.get(&(from, to)) {
            return *link;
        }
        if let Some(reverse) = self.measured.get(&(to, from)) {
            return *reverse;
        }
        match (self.slowest.get(&from), self.slowest.get(&to)) {
            (Some(a), Some(b)) => (a.0.min(b.0), a.1.max(b.1)),
            (Some(a), None) | (None, Some(a)) => *a,
            (None, None) => (RATE_UNKNOWN, ROUND_TRIP_UNKNOWN),
        }
    }

    /// Returns how long some bytes occupy a link, and how long the last one travels; nothing within a peer.
    pub fn transfer(&self, from: PeerId, to: PeerId, size: Bytes) -> (Duration, Duration) {
        if from == to {
            return (Duration::ZERO, Duration::ZERO);
        }
        let (rate, round_trip) = self.link(from, to);
        (size / rate, Duration::from_micros(round_trip.micros() / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmeasured_link_is_as_slow_as_what_touches_it() {
        let peer = |n: u8| PeerId::new([n; 32]);
        let advert = |n: u8, links: Vec<Link>| Advert {
            peer: peer(n),
            sequence: 1,
            addresses: vec![],
            hardware: None,
            links,
        };
        let link = |n: u8, mbit: f64| Link {
            peer: peer(n),
            rate: Rate::from_mbit(mbit),
            round_trip: Duration::from_millis(10),
        };
        let a = advert(1, vec![link(2, 100.0), link(3, 8.0)]);
        let links = Links::of(&[&a]);
        assert_eq!(links.link(peer(1), peer(2)).0, Rate::from_mbit(100.0));
        assert_eq!(links.link(peer(2), peer(1)).0, Rate::from_mbit(100.0));
        assert_eq!(links.link(peer(2), peer(3)).0, Rate::from_mbit(8.0));
        assert_eq!(links.link(peer(8), peer(9)).0, RATE_UNKNOWN);
        assert_eq!(links.transfer(peer(1), peer(1), Bytes::new(9)).0, Duration::ZERO);
    }
}
