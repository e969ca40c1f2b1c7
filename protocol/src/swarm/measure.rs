//! What this peer measures of its links: samples into gauges, gauges into the advert, and whom to probe next.
//!
//! Passive samples come from real transfers, active ones from probes that the prober's budget allows. The advert lists
//! the fastest links and, from all others, those that a lot picks: neighbourhoods for placement, and a random graph
//! for clustering. Concept: `docs/concepts/links-and-fences.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::Peer;
use super::io::{Effect, Outbox};
use crate::ids::PeerId;
use crate::schedule::advert::{LINKS_MAX, Link};
use crate::schedule::coordinate::{Coordinate, Vivaldi};
use crate::schedule::gauge::{Gauge, Packets};
use crate::schedule::prober::{Candidate, LINKS, Prober, lot};
use crate::units::{Bytes, Duration, Instant, Rate};

/// Most links with gauges: what the prober keeps measured, and as many that transfers measure.
const GAUGES_MAX: usize = 2 * LINKS;
/// Smaller transfers say more of the round trip than of the rate.
const TRANSFER_MIN: Bytes = Bytes::new(64 << 10);
/// A transfer says something of the rate if at least this share of its time is not the round trip.
const TRAVEL_SHARE: u64 = 4;
/// A link's first sample is borne out by another after this.
const CONFIRM: Duration = Duration::from_millis(8_000);

/// One link's figures from here.
#[derive(Debug, Default)]
struct Gauges {
    rate: Gauge,
    round_trip: Gauge,
    packets: Packets,
}

impl Gauges {
    /// Says whether another sample of the rate would tell what is true: the last does not fit, or the first, which is taken
    /// while everybody who meets is measured, has been the only one for a while.
    fn is_doubtful(&self, now: Instant) -> bool {
        let is_calm = self.rate.newest().is_some_and(|at| now.since(at) >= CONFIRM);
        self.rate.is_doubtful() || (self.rate.is_single() && is_calm)
    }
}

/// All that this peer has measured of its links.
#[derive(Debug)]
pub(super) struct Meter {
    me: PeerId,
    gauges: BTreeMap<PeerId, Gauges>,
    /// Whose links the advert lists.
    listed: BTreeSet<PeerId>,
    /// Samples have come since the links were listed.
    has_news: bool,
    vivaldi: Vivaldi,
    prober: Prober,
}

impl Meter {
    pub(super) fn new(me: PeerId) -> Self {
        let (gauges, vivaldi) = (BTreeMap::new(), Vivaldi::default());
        Self {
            me,
            gauges,
            listed: BTreeSet::new(),
            has_news: false,
            vivaldi,
            prober: Prober::new(me),
        }
    }

    /// Returns the gauges of a link; the longest unmeasured ones give way.
    fn gauges(&mut self, peer: PeerId) -> &mut Gauges {
        if self.gauges.len() >= GAUGES_MAX && !self.gauges.contains_key(&peer) {
            let oldest = self.gauges.iter().min_by_key(|(id, g)| (g.rate.newest(), **id));
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.gauges.remove(&oldest);
            }
        }
        self.gauges.entry(peer).or_default()
    }

    fn probed(
        &mut self,
        peer: PeerId,
        (rate, round_trip, packets): (Rate, Duration, Packets),
        said: &Coordinate,
        now: Instant,
    ) {
        let direction = lot(self.me, peer);
        if self.gauges.get(&peer).is_none_or(|g| g.rate.newest().is_none()) {
            self.prober.has_found(rate);
        }
        let gauges = self.gauges(peer);
        gauges.rate.add(rate.bytes_per_second(), now);
        gauges.round_trip.add(round_trip.micros(), now);
        gauges.packets.add(packets);
        // The gauge has thrown outliers away.
        let steady = gauges.round_trip.figure(now).map_or(round_trip, Duration::from_micros);
        self.vivaldi.sample(said, steady, direction);
    }

    /// Takes a transfer as a sample. Returns whether it says something of the rate.
    fn used(&mut self, peer: PeerId, size: Bytes, took: Duration, now: Instant) -> bool {
        let Some(gauges) = self.gauges.get_mut(&peer).filter(|_| size >= TRANSFER_MIN) else {
            return false;
        };
        let trip = gauges.round_trip.figure(now).map_or(Duration::ZERO, Duration::from_micros);
        if took < trip {
            // The receipt is back sooner than a round trip: that has become shorter.
            gauges.round_trip.add(took.micros(), now);
        }
        let travel = took - trip;
        let is_clear = travel * TRAVEL_SHARE >= took;
        let micros = u128::from(if is_clear { travel } else { took }.micros().max(1));
        let rate = u128::from(size.count()) * 1_000_000 / micros;
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        // With the round trip in it a rate is only a lower bound.
        let says = is_clear || gauges.rate.figure(now).is_none_or(|known| rate > known);
        if says {
            gauges.rate.add(rate, now);
        }
        says
    }

    fn link(&self, peer: PeerId, gauges: &Gauges, now: Instant) -> Option<Link> {
        let rate = Rate::from_bytes_per_second(gauges.rate.figure(now)?);
        let round_trip = Duration::from_micros(gauges.round_trip.figure(now)?);
        Some(Link { peer, rate, round_trip, loss: gauges.packets.loss() })
    }

    /// Returns the links to advertise, in the order of their peers: half the fastest, half by lot.
    fn list(&mut self, now: Instant) -> Vec<Link> {
        let mut links: Vec<Link> =
            self.gauges.iter().filter_map(|(peer, g)| self.link(*peer, g, now)).collect();
        // Who is listed stays unless others are clearly faster: noise is no news.
        let rank = |l: &Link| {
            let rate = l.rate.bytes_per_second();
            if self.listed.contains(&l.peer) { rate.saturating_add(rate / 2) } else { rate }
        };
        links.sort_unstable_by_key(|l| (std::cmp::Reverse(rank(l)), l.peer));
        let fast = links.len().min(LINKS_MAX / 2);
        links[fast..].sort_unstable_by_key(|l| (lot(self.me, l.peer), l.peer));
        links.truncate(LINKS_MAX);
        links.sort_unstable_by_key(|l| l.peer);
        self.listed = links.iter().map(|l| l.peer).collect();
        links
    }

    /// Returns what this machine's line reaches at least: its fastest link.
    fn line(&self, now: Instant) -> Option<Rate> {
        let rates = self.gauges.values().filter_map(|g| g.rate.figure(now));
        rates.max().map(Rate::from_bytes_per_second)
    }
}

impl Peer {
    pub(super) fn on_link_measured(
        &mut self,
        peer: PeerId,
        measured: (Rate, Duration, Packets),
        now: Instant,
    ) {
        let said = self.gossip.advert(peer).map(|s| s.advert.coordinate).unwrap_or_default();
        self.meter.probed(peer, measured, &said, now);
        self.meter.has_news = true;
    }

    /// Forgets a link that is another one now, and measures it.
    pub(super) fn on_path_changed(&mut self, peer: PeerId, now: Instant, out: &mut Outbox) {
        self.meter.gauges.remove(&peer);
        self.measure_first(peer, now, out);
    }

    pub(super) fn on_link_used(&mut self, peer: PeerId, size: Bytes, took: Duration, now: Instant) {
        self.meter.has_news |= self.meter.used(peer, size, took, now);
    }

    /// Says whether tensors may cross the link to a peer: both ends compute. Who only watches or submits is not worth the
    /// bytes, and who has yet to measure its device would be measured beside that.
    fn is_worth_measuring(&self, peer: PeerId) -> bool {
        let other = self.gossip.advert(peer);
        self.gossip.has_device() && other.is_some_and(|s| s.advert.hardware.is_some())
    }

    /// Measures a peer that has just been met, unless its link is known or enough others are.
    pub(super) fn measure_first(&mut self, peer: PeerId, now: Instant, out: &mut Outbox) {
        let line = self.meter.line(now);
        let count = self.meter.gauges.len();
        let is_new = !self.meter.gauges.contains_key(&peer) && self.is_worth_measuring(peer);
        if is_new && self.meter.prober.first(now, line, count) {
            out.push(Effect::Probe(peer));
        }
    }

    /// Says what was measured since the last round, and measures one more link, if the budget allows it and any wants it.
    pub(super) fn measure_round(&mut self, now: Instant, out: &mut Outbox) {
        if std::mem::take(&mut self.meter.has_news) {
            let links = self.meter.list(now);
            self.gossip.set_links(links, self.meter.vivaldi.coordinate());
        }
        let line = self.meter.line(now);
        if !self.meter.prober.is_ready(now, line) {
            return;
        }
        let here = self.meter.vivaldi.coordinate();
        let candidate = |peer: PeerId| {
            let gauges = self.meter.gauges.get(&peer);
            let said = self.gossip.advert(peer).map(|s| s.advert.coordinate).unwrap_or_default();
            let rate = gauges.and_then(|g| g.rate.figure(now)).map(Rate::from_bytes_per_second);
            Candidate {
                peer,
                measured: gauges.and_then(|g| g.rate.newest()).zip(rate),
                near: here.round_trip(&said),
                is_doubtful: gauges.is_some_and(|g| g.is_doubtful(now)),
                is_across: self.fencing.is_apart(self.meter.me, peer),
            }
        };
        let connected = self.membership.connected().filter(|peer| self.is_worth_measuring(*peer));
        let candidates: Vec<Candidate> = connected.map(candidate).collect();
        if let Some(peer) = self.meter.prober.next(now, line, &candidates) {
            out.push(Effect::Probe(peer));
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::small_world::tasks::hardware;
    use super::*;
    use crate::schedule::advert::{Advert, SignedAdvert};
    use crate::swarm::Config;
    use crate::swarm::io::{Input, Timer};
    use crate::wire::message::Message;

    /// A peer that computes, and another that it is connected to.
    struct Pair {
        peer: Peer,
        key: SigningKey,
        other: PeerId,
    }

    impl Pair {
        fn new() -> Self {
            let key = SigningKey::from_bytes(&[2; 32]);
            let other = PeerId::new(key.verifying_key().to_bytes());
            let mut pair = Self { peer: Peer::new(&[1; 32], Config::default()), key, other };
            pair.probes(1, Input::Measured(hardware(1)));
            pair
        }

        /// Returns how often the other is probed once this has come, at so many seconds.
        fn probes(&mut self, second: u64, input: Input) -> usize {
            let mut out = Outbox::new();
            self.peer.handle(Instant::from_micros(second * 1_000_000), input, &mut out);
            out.drain().filter(|e| *e == Effect::Probe(self.other)).count()
        }

        fn round(&mut self, second: u64) -> usize {
            self.probes(second, Input::TimerFired(Timer::Gossip))
        }

        fn says(&mut self, second: u64, computes: bool) -> usize {
            let hardware = computes.then(|| hardware(1));
            let advert = Advert { sequence: second, hardware, ..Advert::new(self.other) };
            let message = Box::new(Message::Adverts(vec![SignedAdvert::sign(advert, &self.key)]));
            self.probes(second, Input::Received { from: self.other, message })
        }

        fn measured(&mut self, second: u64) -> usize {
            let (rate, round_trip) = (Rate::from_mbit(20.0), Duration::from_millis(10));
            let (peer, packets) = (self.other, Packets::default());
            self.probes(second, Input::LinkMeasured { peer, rate, round_trip, packets })
        }
    }

    #[test]
    fn who_only_watches_is_not_measured_until_it_computes() {
        let mut pair = Pair::new();
        assert_eq!(pair.probes(1, Input::PeerFound(pair.other)), 0);
        assert_eq!(pair.says(2, false), 0);
        assert_eq!((3..60).map(|second| pair.round(second)).sum::<usize>(), 0);
        pair.says(60, true);
        assert_eq!(pair.round(61), 1);
    }

    #[test]
    fn a_first_sample_is_borne_out_by_a_second_and_another_path_begins_anew() {
        let mut pair = Pair::new();
        pair.says(1, true);
        assert_eq!(pair.probes(2, Input::PeerFound(pair.other)), 1);
        pair.measured(2);
        assert_eq!((3..10).map(|second| pair.round(second)).sum::<usize>(), 0);
        assert_eq!(pair.round(10), 1);
        pair.measured(10);
        assert_eq!((11..300).map(|second| pair.round(second)).sum::<usize>(), 0);
        assert_eq!(pair.probes(300, Input::PathChanged(pair.other)), 1);
    }
}
