//! Gossip of signed adverts: what is fresh is pushed to a few, and digests repair what got lost.
//!
//! Anti-entropy with push and pull: each round one random neighbour gets a digest of sequences and sends back what
//! is newer; a fresh advert is forwarded once to a few neighbours. Bytes a round are bounded by the constants here.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use super::membership::Membership;
use crate::ids::PeerId;
use crate::schedule::advert::{ADDRESSES_MAX, Advert, Hardware, LINKS_MAX, Link, SignedAdvert};
use crate::units::{Duration, Rate};
use crate::wire::message::{ADVERTS_MAX, DIGEST_MAX, Message};

/// Neighbours that a fresh advert is pushed to.
const FANOUT: usize = 3;
/// Most adverts kept.
const KNOWN_MAX: usize = 10_000;
/// A link's figure is gossiped again when it moves by more than one part in this many.
const CHANGE: u64 = 10;

/// All adverts that this peer knows, its own among them.
#[derive(Debug)]
pub(super) struct Gossip {
    key: SigningKey,
    own: Advert,
    dirty: bool,
    known: BTreeMap<PeerId, SignedAdvert>,
}

/// Messages to send, with their receivers.
pub(super) type Letters = Vec<(PeerId, Message)>;

impl Gossip {
    pub(super) fn new(key: SigningKey, addresses: Vec<String>) -> Self {
        let peer = PeerId::new(key.verifying_key().to_bytes());
        let mut own = Advert { peer, sequence: 0, addresses, hardware: None, links: vec![] };
        own.addresses.truncate(ADDRESSES_MAX);
        Self { key, own, dirty: true, known: BTreeMap::new() }
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
    pub(super) fn tick(&mut self, members: &Membership, rng: &mut ChaCha8Rng) -> Letters {
        let neighbours: Vec<PeerId> = members.connected().collect();
        let mut letters = Letters::new();
        if self.dirty {
            let signed = self.publish();
            for peer in some_of(&neighbours, FANOUT, rng) {
                letters.push((peer, Message::Adverts(vec![signed.clone()])));
            }
        }
        for peer in some_of(&neighbours, 1, rng) {
            letters.push((peer, Message::Digest { known: self.digest(), answer: true }));
        }
        letters
    }

    /// Signs what this peer says of itself by now.
    pub(super) fn publish(&mut self) -> SignedAdvert {
        self.dirty = false;
        self.own.sequence += 1;
        let signed = SignedAdvert::sign(self.own.clone(), &self.key);
        self.known.insert(self.own.peer, signed.clone());
        signed
    }

    fn digest(&self) -> Vec<(PeerId, u64)> {
        self.known.iter().take(DIGEST_MAX).map(|(id, a)| (*id, a.advert.sequence)).collect()
    }

    /// Answers a digest with what is newer here.
    pub(super) fn on_digest(&self, from: PeerId, known: &[(PeerId, u64)], answer: bool) -> Letters {
        let theirs: BTreeMap<PeerId, u64> = known.iter().take(DIGEST_MAX).copied().collect();
        let newer: Vec<SignedAdvert> = self
            .known
            .iter()
            .filter(|(id, a)| theirs.get(*id).is_none_or(|s| *s < a.advert.sequence))
            .take(ADVERTS_MAX)
            .map(|(_, a)| a.clone())
            .collect();
        let mut letters = Letters::new();
        if !newer.is_empty() {
            letters.push((from, Message::Adverts(newer)));
        }
        if answer {
            letters.push((from, Message::Digest { known: self.digest(), answer: false }));
        }
        letters
    }

    /// Takes adverts in; returns the peers whose adverts are news, and what to forward.
    pub(super) fn on_adverts(
        &mut self,
        from: PeerId,
        adverts: Vec<SignedAdvert>,
        members: &Membership,
        rng: &mut ChaCha8Rng,
    ) -> (Vec<PeerId>, Letters) {
        let mut fresh = Vec::new();
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
            let known = self.known.get(&peer).map(|a| a.advert.sequence);
            let room = known.is_some() || self.known.len() < KNOWN_MAX;
            if known.is_none_or(|s| s < signed.advert.sequence) && room && signed.check().is_ok() {
                self.known.insert(peer, signed.clone());
                fresh.push(signed);
            }
        }
        let mut letters = Letters::new();
        if !fresh.is_empty() {
            let others: Vec<PeerId> = members.connected().filter(|p| *p != from).collect();
            for peer in some_of(&others, FANOUT, rng) {
                letters.push((peer, Message::Adverts(fresh.clone())));
            }
        }
        (fresh.iter().map(|a| a.advert.peer).collect(), letters)
    }

    /// Returns a peer's advert.
    pub(super) fn advert(&self, peer: PeerId) -> Option<&SignedAdvert> {
        self.known.get(&peer)
    }

    /// Returns all adverts in the order of their peers.
    pub(super) fn all(&self) -> impl Iterator<Item = &SignedAdvert> {
        self.known.values()
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
