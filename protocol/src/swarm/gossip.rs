//! Gossip of signed adverts: what is fresh is pushed to a few, and digests repair what got lost.
//!
//! Anti-entropy with push and pull: each round one random neighbour gets a digest of sequences and sends back what
//! is newer; a fresh advert is forwarded once to a few neighbours. Bytes a round are bounded by the constants here, and
//! so is what a stranger with many keys can fill: adverts age, and those of peers that nobody meets go first.

use std::collections::BTreeMap;
use std::ops::Bound;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use super::membership::Membership;
use crate::ids::PeerId;
use crate::schedule::advert::{ADDRESSES_MAX, Advert, Hardware, LINKS_MAX, Link, SignedAdvert};
use crate::units::{Duration, Instant, Rate};
use crate::wire::message::{ADVERTS_MAX, DIGEST_MAX, Message};

/// Neighbours that a fresh advert is pushed to.
const FANOUT: usize = 3;
/// A peer says the same again after this, so that silence means something.
const RENEW: Duration = Duration::from_millis(120_000);
/// An advert of a peer that is not met is forgotten after this: a few times what it renews it in.
const KEPT: Duration = Duration::from_millis(600_000);
/// Most adverts kept; a newcomer takes the place of the oldest of a peer that does not live.
const KNOWN_MAX: usize = 10_000;
/// A link's figure is gossiped again when it moves by more than one part in this many.
const CHANGE: u64 = 10;

/// All adverts that this peer knows, its own among them.
#[derive(Debug)]
pub(super) struct Gossip {
    key: SigningKey,
    own: Advert,
    dirty: bool,
    /// When the own advert was signed last.
    signed: Instant,
    known: BTreeMap<PeerId, Known>,
    /// What was forgotten for its age: sequence, and when.
    expired: BTreeMap<PeerId, (u64, Instant)>,
    /// Where the next digest begins.
    turn: PeerId,
}

/// An advert, and when it was news.
#[derive(Debug)]
struct Known {
    signed: SignedAdvert,
    heard: Instant,
}

/// The first and the last peer that a digest speaks of.
pub(super) type Span = (PeerId, PeerId);

const FIRST: PeerId = PeerId::new([0; 32]);
const LAST: PeerId = PeerId::new([u8::MAX; 32]);
/// A digest of everything.
pub(super) const WHOLE: Span = (FIRST, LAST);

/// Messages to send, with their receivers.
pub(super) type Letters = Vec<(PeerId, Message)>;

impl Gossip {
    pub(super) fn new(key: SigningKey, addresses: Vec<String>) -> Self {
        let peer = PeerId::new(key.verifying_key().to_bytes());
        let mut own = Advert { peer, sequence: 0, addresses, hardware: None, links: vec![] };
        own.addresses.truncate(ADDRESSES_MAX);
        Self {
            key,
            own,
            dirty: true,
            signed: Instant::default(),
            known: BTreeMap::new(),
            expired: BTreeMap::new(),
            turn: FIRST,
        }
    }

    pub(super) fn measured(&mut self, hardware: Hardware) {
        self.own.hardware = Some(hardware);
        self.dirty = true;
    }

    /// The device is gone: this peer offers nothing until it is measured again.
    pub(super) fn lose_device(&mut self) {
        self.own.hardware = None;
        self.dirty = true;
    }

    /// Says whether this peer can compute.
    pub(super) fn has_device(&self) -> bool {
        self.own.hardware.is_some()
    }

    pub(super) fn listens(&mut self, address: String) {
        if self.own.addresses.len() < ADDRESSES_MAX && !self.own.addresses.contains(&address) {
            self.own.addresses.push(address);
            self.dirty = true;
        }
    }

    /// Takes a measured link; where the list is full the slowest link gives way.
    pub(super) fn link(&mut self, peer: PeerId, rate: Rate, round_trip: Duration) {
        let links = &mut self.own.links;
        match links.binary_search_by_key(&peer, |l| l.peer) {
            Ok(place) => {
                let link = &mut links[place];
                let moved = link.rate.bytes_per_second().abs_diff(rate.bytes_per_second());
                self.dirty |= moved > link.rate.bytes_per_second() / CHANGE;
                *link = Link { peer, rate, round_trip };
            }
            Err(place) => {
                links.insert(place, Link { peer, rate, round_trip });
                if links.len() > LINKS_MAX {
                    let slowest = (0..links.len()).min_by_key(|i| (links[*i].rate, *i));
                    links.remove(slowest.expect("the list is over its limit, so not empty"));
                }
                self.dirty = true;
            }
        }
    }

    /// Lets a round pass: signs what has changed and pushes it, and asks one neighbour what else there is.
    pub(super) fn tick(
        &mut self,
        members: &Membership,
        now: Instant,
        rng: &mut ChaCha8Rng,
    ) -> Letters {
        self.expire(members, now);
        let neighbours: Vec<PeerId> = members.connected().collect();
        let mut letters = Letters::new();
        if self.dirty || now.since(self.signed) >= RENEW {
            let signed = self.publish(now);
            for peer in some_of(&neighbours, FANOUT, rng) {
                letters.push((peer, Message::Adverts(vec![signed.clone()])));
            }
        }
        for peer in some_of(&neighbours, 1, rng) {
            let (span, known) = self.digest();
            letters.push((peer, Message::Digest { span, known, answer: true }));
        }
        letters
    }

    /// Signs what this peer says of itself by now.
    pub(super) fn publish(&mut self, now: Instant) -> SignedAdvert {
        self.dirty = false;
        self.signed = now;
        self.own.sequence += 1;
        let signed = SignedAdvert::sign(self.own.clone(), &self.key);
        self.known.insert(self.own.peer, Known { signed: signed.clone(), heard: now });
        signed
    }

    /// Lists the next stretch of what is known, so that everything has its turn however much there is.
    fn digest(&mut self) -> (Span, Vec<(PeerId, u64)>) {
        let from = self.turn;
        let known: Vec<(PeerId, u64)> = self
            .known
            .range(from..)
            .take(DIGEST_MAX)
            .map(|(id, k)| (*id, k.signed.advert.sequence))
            .collect();
        let last = known.last().map(|(id, _)| *id).filter(|id| {
            let behind = (Bound::Excluded(*id), Bound::Unbounded);
            self.known.range(behind).next().is_some()
        });
        // Stretches overlap by one, so that nobody lies between two of them.
        self.turn = last.unwrap_or(FIRST);
        let to = last.unwrap_or(LAST);
        ((from, to), known)
    }

    /// Answers a digest with what is newer here.
    pub(super) fn on_digest(
        &mut self,
        from: PeerId,
        span: Span,
        known: &[(PeerId, u64)],
        answer: bool,
    ) -> Letters {
        let theirs: BTreeMap<PeerId, u64> = known.iter().take(DIGEST_MAX).copied().collect();
        let me = self.own.peer;
        let newer = |id: &PeerId, advert: &Advert| match theirs.get(id) {
            Some(sequence) => *sequence < advert.sequence,
            // Who only watches is its neighbours' business.
            None => advert.hardware.is_some() || *id == me,
        };
        let span = if span.0 <= span.1 { span } else { WHOLE };
        let newer: Vec<SignedAdvert> = self
            .known
            .range(span.0..=span.1)
            .filter(|(id, k)| newer(id, &k.signed.advert))
            .take(ADVERTS_MAX)
            .map(|(_, k)| k.signed.clone())
            .collect();
        let mut letters = Letters::new();
        if !newer.is_empty() {
            letters.push((from, Message::Adverts(newer)));
        }
        if answer {
            let (span, known) = self.digest();
            letters.push((from, Message::Digest { span, known, answer: false }));
        }
        letters
    }

    /// Takes adverts in; returns the peers whose adverts are news, and what to forward.
    pub(super) fn on_adverts(
        &mut self,
        from: PeerId,
        adverts: Vec<SignedAdvert>,
        (members, now): (&Membership, Instant),
        rng: &mut ChaCha8Rng,
    ) -> (Vec<PeerId>, Letters) {
        let mut fresh = Vec::new();
        let mut forward = Vec::new();
        for signed in adverts.into_iter().take(ADVERTS_MAX) {
            let peer = signed.advert.peer;
            if peer == self.own.peer {
                // An earlier life of this peer: speak with a higher sequence than it did.
                if signed.advert.sequence > self.own.sequence && signed.check().is_ok() {
                    self.own.sequence = signed.advert.sequence;
                    self.dirty = true;
                }
                continue;
            }
            let known = self.known.get(&peer).map(|k| &k.signed.advert);
            let offered = known.is_some_and(|advert| advert.hardware.is_some());
            let said = known.map(|advert| advert.sequence);
            let least = said.max(self.expired.get(&peer).map(|(sequence, _)| *sequence));
            let computes = signed.advert.hardware.is_some();
            // Who only watches is its neighbours' business; who gives its device up is everybody's.
            let wanted = computes || offered || from == peer;
            if !wanted || least.is_some_and(|s| s >= signed.advert.sequence) {
                continue;
            }
            if signed.check().is_err() || !(said.is_some() || self.make_room(members)) {
                continue;
            }
            self.expired.remove(&peer);
            self.known.insert(peer, Known { signed: signed.clone(), heard: now });
            fresh.push(peer);
            if computes || offered {
                forward.push(signed);
            }
        }
        let mut letters = Letters::new();
        if !forward.is_empty() {
            let others: Vec<PeerId> = members.connected().filter(|p| *p != from).collect();
            for peer in some_of(&others, FANOUT, rng) {
                letters.push((peer, Message::Adverts(forward.clone())));
            }
        }
        (fresh, letters)
    }

    /// Says whether there is room for one more advert, if need be in place of the oldest of a peer that does not live.
    fn make_room(&mut self, members: &Membership) -> bool {
        if self.known.len() < KNOWN_MAX {
            return true;
        }
        let me = self.own.peer;
        let away = self.known.iter().filter(|(id, _)| **id != me && !members.is_living(**id));
        let oldest = away.min_by_key(|(id, k)| (k.heard, **id)).map(|(id, _)| *id);
        oldest.is_some_and(|id| self.known.remove(&id).is_some())
    }

    /// Forgets what peers said that neither live here nor have said anything in a long time; whoever still spreads it
    /// is not believed for as long again.
    fn expire(&mut self, members: &Membership, now: Instant) {
        let me = self.own.peer;
        let old = |id: &PeerId, k: &Known| {
            *id != me && !members.is_living(*id) && now.since(k.heard) >= KEPT
        };
        let gone: Vec<(PeerId, u64)> = self
            .known
            .iter()
            .filter(|(id, k)| old(id, k))
            .map(|(id, k)| (*id, k.signed.advert.sequence))
            .collect();
        self.expired.retain(|_, (_, at)| now.since(*at) < KEPT);
        for (id, sequence) in gone {
            self.known.remove(&id);
            if self.expired.len() < KNOWN_MAX {
                self.expired.insert(id, (sequence, now));
            }
        }
    }

    /// Returns a peer's advert.
    pub(super) fn advert(&self, peer: PeerId) -> Option<&SignedAdvert> {
        self.known.get(&peer).map(|k| &k.signed)
    }

    /// Returns all adverts in the order of their peers.
    pub(super) fn all(&self) -> impl Iterator<Item = &SignedAdvert> {
        self.known.values().map(|k| &k.signed)
    }
}

/// Draws up to `count` different elements.
fn some_of(list: &[PeerId], count: usize, rng: &mut ChaCha8Rng) -> Vec<PeerId> {
    let mut pool = list.to_vec();
    let mut drawn = Vec::new();
    while drawn.len() < count && !pool.is_empty() {
        let span = u64::try_from(pool.len()).unwrap_or(u64::MAX);
        let place = usize::try_from(rng.next_u64() % span).unwrap_or(0);
        drawn.push(pool.swap_remove(place));
    }
    drawn
}

#[cfg(test)]
mod tests;
