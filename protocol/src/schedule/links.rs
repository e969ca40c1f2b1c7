//! The graph of links between peers, from what both ends have measured.
//!
//! A pair that nobody has measured is predicted: its rate is the median between the fences of its ends, and no more
//! than what the sender has ever been seen to send and the receiver to receive (their last miles); its round trip is what
//! both coordinates say. Where the fences say nothing it is as slow as the slowest measurement that touches
//! either end; where there is none at all, as a slow home uplink. Our rule: an unknown link must not look attractive.
//! Concept: `docs/concepts/links-and-fences.md`.

use std::collections::BTreeMap;

use super::advert::{Advert, Link};
use super::cluster;
use super::coordinate::Coordinate;
use crate::ids::PeerId;
use crate::units::{Bytes, Duration, Rate};

/// What an unmeasured link is taken to reach: 10 Mbit/s.
const RATE_UNKNOWN: Rate = Rate::from_bytes_per_second(1_250_000);
/// So many links in one direction show what a peer's line can do.
const MILE_LINKS: usize = 12;
/// Round trip of an unmeasured link.
const ROUND_TRIP_UNKNOWN: Duration = Duration::from_millis(50);

/// What is known of one end of links.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    /// The slowest link and the longest round trip that touch it.
    slowest: Option<(Rate, Duration)>,
    /// The most that it has been seen to send and to receive, and to and from how many others.
    miles: [(Rate, usize); 2],
    coordinate: Coordinate,
    fence: Option<usize>,
}

impl End {
    /// Returns what the line does in one direction, where enough links were measured to know.
    fn mile(&self, way: usize) -> Option<Rate> {
        let (rate, count) = self.miles[way];
        (count >= MILE_LINKS).then_some(rate)
    }
}

/// Directed links between peers.
#[derive(Clone, Debug, Default)]
pub struct Links {
    measured: BTreeMap<(PeerId, PeerId), (Rate, Duration)>,
    ends: BTreeMap<PeerId, End>,
    /// Medians from fence to fence, where any link is known.
    typical: BTreeMap<(usize, usize), (Rate, Duration)>,
}

impl Links {
    /// Gathers the links of many adverts, and learns from them to predict what is missing.
    ///
    /// *Cost*: that of [`cluster::fences`] where any pair of them is missing.
    pub fn of(adverts: &[&Advert]) -> Self {
        let mut links = Self::measured_by(adverts);
        let peers: Vec<PeerId> = adverts.iter().map(|a| a.peer).collect();
        let all = |a: &PeerId| peers.iter().all(|b| a == b || links.is_measured(*a, *b));
        if !peers.iter().all(all) {
            let fences = cluster::fences(&peers, &links);
            links.learn(&fences);
        }
        links
    }

    /// Gathers the links of many adverts and predicts nothing by fences.
    pub fn measured_by(adverts: &[&Advert]) -> Self {
        let mut links = Self::default();
        for advert in adverts {
            links.ends.entry(advert.peer).or_default().coordinate = advert.coordinate;
            for link in &advert.links {
                links.insert(advert.peer, *link);
            }
        }
        links
    }

    /// Takes fences as what tells typical links from one another.
    pub fn learn(&mut self, fences: &[Vec<PeerId>]) {
        for end in self.ends.values_mut() {
            end.fence = None;
        }
        for (place, fence) in fences.iter().enumerate() {
            for peer in fence {
                self.ends.entry(*peer).or_default().fence = Some(place);
            }
        }
        let fence = |peer: &PeerId| self.ends.get(peer).and_then(|end| end.fence);
        let mut blocks: BTreeMap<(usize, usize), (Vec<Rate>, Vec<Duration>)> = BTreeMap::new();
        for ((from, to), (rate, round_trip)) in &self.measured {
            if let Some(ends) = fence(from).zip(fence(to)) {
                let block = blocks.entry(ends).or_default();
                block.0.push(*rate);
                block.1.push(*round_trip);
            }
        }
        self.typical.clear();
        for (ends, (mut rates, mut trips)) in blocks {
            rates.sort_unstable();
            trips.sort_unstable();
            let middle = (rates[(rates.len() - 1) / 2], trips[trips.len() / 2]);
            self.typical.insert(ends, middle);
        }
    }

    /// Takes one measured link in.
    pub fn insert(&mut self, from: PeerId, link: Link) {
        self.measured.insert((from, link.peer), (link.rate, link.round_trip));
        for (peer, way) in [(from, 0), (link.peer, 1)] {
            let end = self.ends.entry(peer).or_default();
            let (rate, trip) = end.slowest.unwrap_or((link.rate, link.round_trip));
            end.slowest = Some((rate.min(link.rate), trip.max(link.round_trip)));
            let mile = &mut end.miles[way];
            *mile = (mile.0.max(link.rate), mile.1 + 1);
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

    /// Says whether a pair was measured from either end.
    pub fn is_measured(&self, a: PeerId, b: PeerId) -> bool {
        self.measured.contains_key(&(a, b)) || self.measured.contains_key(&(b, a))
    }

    /// Returns what a peer's line sends and receives, where enough links were measured to know.
    pub fn last_mile(&self, peer: PeerId) -> (Option<Rate>, Option<Rate>) {
        let end = self.ends.get(&peer).copied().unwrap_or_default();
        (end.mile(0), end.mile(1))
    }

    /// Returns rate and round trip from one peer to another.
    pub fn link(&self, from: PeerId, to: PeerId) -> (Rate, Duration) {
        if let Some(link) = self.measured.get(&(from, to)) {
            return *link;
        }
        if let Some(reverse) = self.measured.get(&(to, from)) {
            return *reverse;
        }
        self.predict(from, to)
    }

    fn predict(&self, from: PeerId, to: PeerId) -> (Rate, Duration) {
        let [a, b] = [from, to].map(|peer| self.ends.get(&peer).copied().unwrap_or_default());
        let slow = match (a.slowest, b.slowest) {
            (Some(a), Some(b)) => (a.0.min(b.0), a.1.max(b.1)),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => (RATE_UNKNOWN, ROUND_TRIP_UNKNOWN),
        };
        let typical = a.fence.zip(b.fence).and_then(|(a, b)| {
            self.typical.get(&(a, b)).or_else(|| self.typical.get(&(b, a))).copied()
        });
        let (mut rate, mut round_trip) = typical.unwrap_or(slow);
        for mile in [a.mile(0), b.mile(1)].into_iter().flatten() {
            rate = rate.min(mile);
        }
        if a.coordinate.is_sure() && b.coordinate.is_sure() {
            round_trip = a.coordinate.round_trip(&b.coordinate);
        }
        (rate, round_trip)
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
    use super::super::planted::Planted;
    use super::*;

    #[test]
    fn an_unmeasured_link_is_as_slow_as_what_touches_it() {
        let peer = |n: u8| PeerId::new([n; 32]);
        let advert = |n: u8, links: Vec<Link>| Advert { links, ..Advert::new(peer(n)) };
        let link = |n: u8, mbit: f64| Link {
            peer: peer(n),
            rate: Rate::from_mbit(mbit),
            round_trip: Duration::from_millis(10),
            loss: None,
        };
        let a = advert(1, vec![link(2, 100.0), link(3, 8.0)]);
        let links = Links::of(&[&a]);
        assert_eq!(links.link(peer(1), peer(2)).0, Rate::from_mbit(100.0));
        assert_eq!(links.link(peer(2), peer(1)).0, Rate::from_mbit(100.0));
        assert_eq!(links.link(peer(2), peer(3)).0, Rate::from_mbit(8.0));
        assert_eq!(links.link(peer(8), peer(9)).0, RATE_UNKNOWN);
        assert_eq!(links.transfer(peer(1), peer(1), Bytes::new(9)).0, Duration::ZERO);
    }

    #[test]
    fn a_missing_link_is_as_its_fences_are_and_within_both_last_miles() {
        let mut planted = Planted::new(5, 40, 3);
        let all = planted.links_few(16);
        let adverts: Vec<Advert> = planted
            .peers
            .iter()
            .map(|from| {
                let listed = all.measured().filter(|((f, _), _)| f == from);
                let link =
                    |((_, peer), (rate, round_trip))| Link { peer, rate, round_trip, loss: None };
                Advert { links: listed.map(link).collect(), ..Advert::new(*from) }
            })
            .collect();
        let links = Links::of(&adverts.iter().collect::<Vec<_>>());
        let mut missing = 0;
        for (a, from) in planted.peers.iter().enumerate() {
            for (b, to) in planted.peers.iter().enumerate() {
                if a == b || links.is_measured(*from, *to) {
                    continue;
                }
                missing += 1;
                let rate = links.link(*from, *to).0;
                let truth = planted.rates[planted.fence[a]][planted.fence[b]];
                assert!(
                    (rate.mbit() / truth - 1.0).abs() < 0.3,
                    "{} for {truth} Mbit/s",
                    rate.mbit()
                );
                for mile in [links.last_mile(*from).0, links.last_mile(*to).1] {
                    assert!(mile.is_none_or(|mile| rate <= mile));
                }
            }
        }
        assert!(missing > 100, "{missing} pairs are missing");
    }
}
