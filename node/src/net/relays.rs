//! Relays: what one that volunteers gives at most, and on which of them this peer keeps a place.
//!
//! A peer that nobody reaches unasked keeps a reservation on a few relays that it is connected to; others then reach it
//! through them. Which ones is a lot, so that many peers spread over many relays. Not here: the protocol (libp2p's).

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::{Multiaddr, PeerId, relay};

/// Places on relays that a peer keeps: one more than is needed, for the day that a relay goes.
const HELD: usize = 2;
/// Relays that are remembered.
const KNOWN_MAX: usize = 64;
/// Ticks until a relay that has refused is asked again, times its refusals.
const PAUSE: u64 = 6;
/// Ticks until a relay that has not answered is asked again; twice as many each further time. A request that comes just
/// when a relay begins to relay may be lost on its way.
const PATIENCE: u64 = 2;
/// Most times that count for this.
const TIMES_MAX: u32 = 6;
/// Most refusals that count.
const REFUSALS_MAX: u64 = 20;

/// Reservations that a volunteer gives in all: each costs it a timer.
const RESERVATIONS: usize = 128;
/// How long one lasts; it is renewed before.
const RESERVATION: Duration = Duration::from_secs(3600);
/// Circuits that a volunteer carries at once.
const CIRCUITS: usize = 64;
/// Circuits at once whose sender is the same peer: those to the other members of a small job, twice while they are renewed.
const CIRCUITS_OF_ONE: usize = 16;
/// How long a circuit lasts; who needs it longer opens another.
const CIRCUIT: Duration = Duration::from_secs(3600);
/// Bytes that a circuit carries, both ways together.
const CIRCUIT_BYTES: u64 = 128 << 20;
/// Requests that one machine may make at once, and how long each further one takes to become possible: with
/// `CIRCUIT_BYTES` some 36 Mbit/s for one machine in the long run.
const BURST: NonZeroU32 = NonZeroU32::new(64).expect("64 is not 0");
const EVERY: Duration = Duration::from_secs(30);

/// What a volunteer gives.
pub(super) fn limits() -> relay::Config {
    let config = relay::Config {
        max_reservations: RESERVATIONS,
        max_reservations_per_peer: HELD,
        reservation_duration: RESERVATION,
        reservation_rate_limiters: Vec::new(),
        max_circuits: CIRCUITS,
        max_circuits_per_peer: CIRCUITS_OF_ONE,
        max_circuit_duration: CIRCUIT,
        max_circuit_bytes: CIRCUIT_BYTES,
        circuit_src_rate_limiters: Vec::new(),
    };
    // A household or a lab behind one NAT is one machine here; identities are free, so these alone would not do.
    config
        .reservation_rate_per_ip(BURST, EVERY)
        .reservation_rate_per_peer(BURST, EVERY)
        .circuit_src_per_ip(BURST, EVERY)
        .circuit_src_per_peer(BURST, EVERY)
}

/// A relay that does not want us, for now.
#[derive(Clone, Copy, Debug, Default)]
struct Refusal {
    count: u64,
    until: u64,
}

/// A place that is asked for, or granted.
#[derive(Clone, Copy, Debug)]
struct Place {
    relay: PeerId,
    asked: u64,
    times: u32,
    is_granted: bool,
}

impl Place {
    fn is_late(&self, now: u64) -> bool {
        let patience = PATIENCE << self.times.min(TIMES_MAX);
        !self.is_granted && now >= self.asked.saturating_add(patience)
    }
}

/// Relays that are known, and places on them.
#[derive(Debug, Default)]
pub(super) struct Relays {
    known: BTreeMap<PeerId, Multiaddr>,
    held: HashMap<ListenerId, Place>,
    refusals: BTreeMap<PeerId, Refusal>,
    /// What relays say that a circuit through them may last, in ticks, and carry, in bytes.
    limits: BTreeMap<PeerId, (u64, u64)>,
}

/// Orders relays differently at each peer.
fn lot(me: &PeerId, relay: &PeerId) -> [u8; 32] {
    *blake3::hash(&[me.to_bytes(), relay.to_bytes()].concat()).as_bytes()
}

impl Relays {
    /// Notes that a connected peer relays.
    pub(super) fn found(&mut self, relay: PeerId, address: Multiaddr) {
        if self.known.len() < KNOWN_MAX || self.known.contains_key(&relay) {
            self.known.insert(relay, address);
        }
    }

    /// Notes that a peer does not relay, or is gone.
    pub(super) fn lost(&mut self, relay: &PeerId) {
        self.known.remove(relay);
        self.limits.remove(relay);
    }

    /// Returns relays to ask for a place, with their addresses.
    pub(super) fn wanted(&self, me: &PeerId, now: u64) -> Vec<(PeerId, Multiaddr)> {
        let is_open = |relay: &PeerId| {
            !self.held.values().any(|held| held.relay == *relay)
                && self.refusals.get(relay).is_none_or(|refusal| refusal.until <= now)
        };
        let mut open: Vec<&PeerId> = self.known.keys().filter(|relay| is_open(relay)).collect();
        open.sort_by_key(|relay| lot(me, relay));
        open.truncate(HELD.saturating_sub(self.held.len()));
        let late = self.held.values().filter(|place| place.is_late(now)).map(|place| &place.relay);
        open.extend(late.filter(|relay| self.known.contains_key(relay)));
        open.into_iter().map(|relay| (*relay, self.known[relay].clone())).collect()
    }

    /// Notes that a place is asked for, in place of an earlier request that was not answered.
    pub(super) fn asked(&mut self, listener: ListenerId, relay: PeerId, now: u64) {
        let before = self.held.values().find(|place| place.relay == relay);
        let times = before.map_or(0, |place| place.times.saturating_add(1));
        self.held.retain(|_, place| place.relay != relay);
        self.held.insert(listener, Place { relay, asked: now, times, is_granted: false });
    }

    /// Notes that a relay does not want us.
    pub(super) fn refused(&mut self, relay: PeerId, now: u64) {
        if self.refusals.len() >= KNOWN_MAX {
            self.refusals.retain(|_, refusal| refusal.until > now);
            if self.refusals.len() >= KNOWN_MAX {
                self.refusals.pop_first();
            }
        }
        let refusal = self.refusals.entry(relay).or_default();
        refusal.count = (refusal.count + 1).min(REFUSALS_MAX);
        refusal.until = now + refusal.count * PAUSE;
    }

    /// Notes that a place is lost; returns whether it was one.
    pub(super) fn closed(&mut self, listener: ListenerId, is_refusal: bool, now: u64) -> bool {
        let Some(place) = self.held.remove(&listener) else {
            return false;
        };
        if is_refusal {
            self.refused(place.relay, now);
        }
        true
    }

    /// Notes that a place is granted: earlier refusals are forgiven.
    pub(super) fn granted(&mut self, relay: &PeerId) {
        self.refusals.remove(relay);
        for place in self.held.values_mut().filter(|place| place.relay == *relay) {
            place.is_granted = true;
        }
    }

    /// Notes what a relay allows a circuit.
    pub(super) fn allows(&mut self, relay: PeerId, ticks: u64, bytes: u64) {
        if self.limits.len() < KNOWN_MAX || self.limits.contains_key(&relay) {
            self.limits.insert(relay, (ticks, bytes));
        }
    }

    /// Returns what a relay allows a circuit, in ticks and bytes.
    pub(super) fn allowed(&self, relay: &PeerId) -> Option<(u64, u64)> {
        self.limits.get(relay).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Multiaddr {
        "/ip4/203.0.113.1/udp/1/quic-v1".parse().unwrap()
    }

    #[test]
    fn a_few_places_are_kept_and_a_lost_one_is_replaced() {
        let me = PeerId::random();
        let mut relays = Relays::default();
        assert!(relays.wanted(&me, 0).is_empty());
        for _ in 0..2 * KNOWN_MAX {
            relays.found(PeerId::random(), address());
        }
        assert_eq!(relays.known.len(), KNOWN_MAX);
        let first = relays.wanted(&me, 0);
        assert_eq!(first.len(), HELD);
        let listeners: Vec<ListenerId> = first.iter().map(|_| ListenerId::next()).collect();
        for (listener, (relay, _)) in listeners.iter().zip(&first) {
            relays.asked(*listener, *relay, 0);
        }
        assert!(relays.wanted(&me, 0).is_empty());
        assert!(relays.closed(listeners[0], false, 0));
        assert!(!relays.closed(listeners[0], false, 0));
        relays.lost(&first[0].0);
        let next = relays.wanted(&me, 0);
        assert!(next.len() == 1 && !first.contains(&next[0]));
    }

    #[test]
    fn a_relay_that_does_not_answer_is_asked_again() {
        let (me, relay) = (PeerId::random(), PeerId::random());
        let mut relays = Relays::default();
        relays.found(relay, address());
        relays.asked(ListenerId::next(), relay, 0);
        assert!(relays.wanted(&me, PATIENCE - 1).is_empty());
        assert_eq!(relays.wanted(&me, PATIENCE).len(), 1);
        relays.asked(ListenerId::next(), relay, PATIENCE);
        assert_eq!(relays.held.len(), 1);
        assert!(relays.wanted(&me, 3 * PATIENCE - 1).is_empty());
        assert_eq!(relays.wanted(&me, 3 * PATIENCE).len(), 1);
        relays.granted(&relay);
        assert!(relays.wanted(&me, 1000).is_empty());
    }

    #[test]
    fn a_relay_that_refuses_is_asked_again_later_and_later() {
        let (me, relay) = (PeerId::random(), PeerId::random());
        let mut relays = Relays::default();
        relays.found(relay, address());
        for count in 1..=3 {
            let listener = ListenerId::next();
            relays.asked(listener, relay, 100);
            relays.closed(listener, true, 100);
            assert!(relays.wanted(&me, 100 + count * PAUSE - 1).is_empty());
            assert_eq!(relays.wanted(&me, 100 + count * PAUSE).len(), 1);
        }
        for _ in 0..2 * KNOWN_MAX {
            relays.refused(PeerId::random(), 100);
        }
        assert!(relays.refusals.len() <= KNOWN_MAX);
    }
}
