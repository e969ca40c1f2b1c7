//! Gossip of signed adverts: what is fresh is pushed to a few, and digests repair what got lost.
//!
//! Anti-entropy with push and pull: each round one random neighbour gets a digest of sequences and sends back what
//! is newer; a fresh advert is forwarded once to a few neighbours. All of it stays within a budget of bytes, and
//! what a stranger with many keys can fill is bounded: adverts age, and those of peers that nobody meets go first.
//! Reading order: [`own`] (what this peer says), [`view`] (what it knows), [`budget`]. Concept:
//! `docs/concepts/links-and-fences.md`.

mod budget;
mod own;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use super::membership::Membership;
use crate::ids::PeerId;
use crate::schedule::advert::{Advert, Hardware, Link, SignedAdvert};
use crate::schedule::coordinate::Coordinate;
use crate::units::{Bytes, Duration, Instant};
use crate::wire::message::{ADVERTS_MAX, DIGEST_MAX, Message, short_id};
use budget::{Budget, ENTRY, FRAME, weight};
use own::Own;
use view::{STRETCH, View};
pub(super) use view::{Span, WHOLE};

/// Neighbours that a fresh advert is pushed to.
const FANOUT: usize = 3;
/// A peer says the same again after this, so that silence means something; in large swarms less often.
const RENEW: Duration = Duration::from_millis(120_000);
/// So many fresh adverts in one answer: there are probably more where they come from.
const MANY: usize = 16;

/// All adverts that this peer knows, its own among them.
#[derive(Debug)]
pub(super) struct Gossip {
    own: Own,
    view: View,
    budget: Budget,
}

/// Messages to send, with their receivers.
pub(super) type Letters = Vec<(PeerId, Message)>;

impl Gossip {
    pub(super) fn new(key: SigningKey, addresses: Vec<String>) -> Self {
        let own = Own::new(key, addresses);
        Self { view: View::new(own.peer()), own, budget: Budget::default() }
    }

    pub(super) fn measured(&mut self, hardware: Hardware) {
        self.own.set_hardware(Some(hardware));
    }

    /// The device is gone: this peer offers nothing until it is measured again.
    pub(super) fn lose_device(&mut self) {
        self.own.set_hardware(None);
    }

    /// Says whether this peer can compute.
    pub(super) fn has_device(&self) -> bool {
        self.own.has_device()
    }

    pub(super) fn listens(&mut self, addresses: Vec<String>) {
        self.own.listens(addresses);
    }

    /// Takes the links to list, in the order of their peers, and where this peer lies.
    pub(super) fn set_links(&mut self, links: Vec<Link>, coordinate: Coordinate) {
        self.own.set_links(links, coordinate);
    }

    /// Lets a round pass: signs what has changed and pushes it, and asks one neighbour what else there is.
    pub(super) fn tick(
        &mut self,
        members: &Membership,
        now: Instant,
        rng: &mut ChaCha8Rng,
    ) -> Letters {
        self.view.expire(members, now);
        self.budget.fill(now);
        let neighbours: Vec<PeerId> = members.connected().collect();
        let mut letters = Letters::new();
        if self.own.is_due(now, self.view.renew()) {
            let signed = self.publish(now);
            for peer in some_of(&neighbours, FANOUT, rng) {
                self.budget.owes(weight(&signed));
                letters.push((peer, Message::Adverts(vec![signed.clone()])));
            }
        }
        for peer in some_of(&neighbours, 1, rng) {
            letters.extend(self.digest(true).map(|digest| (peer, digest)));
        }
        letters
    }

    /// Signs what this peer says of itself by now.
    pub(super) fn publish(&mut self, now: Instant) -> SignedAdvert {
        let signed = self.own.sign(now);
        self.view.insert(Arc::new(signed.clone()), now);
        signed
    }

    /// Lists the next stretch of what is known, if the budget allows it.
    fn digest(&mut self, answer: bool) -> Option<Message> {
        let entries = u64::try_from(self.view.known.len().min(STRETCH)).unwrap_or(u64::MAX);
        if !self.budget.takes(Bytes::new(FRAME + entries * ENTRY)) {
            return None;
        }
        let (span, known) = self.view.digest();
        Some(Message::Digest { span, known, answer })
    }

    /// Introduces this peer to one that it has just met, and, while it knows few, asks and tells what else there is.
    pub(super) fn greet(&mut self, peer: PeerId) -> Letters {
        if self.view.known.len() <= STRETCH {
            return self.on_digest(peer, WHOLE, &[], true);
        }
        let own = self.view.advert(self.own.peer()).cloned();
        own.map(|signed| (peer, Message::Adverts(vec![signed]))).into_iter().collect()
    }

    /// Answers a digest with what is newer here.
    pub(super) fn on_digest(
        &mut self,
        from: PeerId,
        span: Span,
        known: &[(u64, u64)],
        answer: bool,
    ) -> Letters {
        let theirs: BTreeMap<u64, u64> = known.iter().take(DIGEST_MAX).copied().collect();
        let me = self.own.peer();
        let newer = |id: &PeerId, advert: &Advert| match theirs.get(&short_id(*id)) {
            Some(sequence) => *sequence < advert.sequence,
            // Who only watches is its neighbours' business.
            None => advert.hardware.is_some() || *id == me,
        };
        let span = if span.0 <= span.1 { span } else { WHOLE };
        let budget = &mut self.budget;
        let newer: Vec<SignedAdvert> = self
            .view
            .known
            .range(span.0..=span.1)
            .filter(|(id, k)| newer(id, &k.signed.advert))
            .take(ADVERTS_MAX)
            .take_while(|(_, k)| budget.takes(weight(&k.signed)))
            .map(|(_, k)| (*k.signed).clone())
            .collect();
        let mut letters = Letters::new();
        if !newer.is_empty() {
            letters.push((from, Message::Adverts(newer)));
        }
        if answer {
            letters.extend(self.digest(false).map(|digest| (from, digest)));
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
            if peer == self.own.peer() {
                // An earlier life of this peer: speak with a higher sequence than it did.
                if signed.advert.sequence > self.own.sequence() && signed.check().is_ok() {
                    self.own.outdo(signed.advert.sequence);
                }
                continue;
            }
            let known = self.view.advert(peer).map(|k| &k.advert);
            let is_known = known.is_some();
            let offered = known.is_some_and(|advert| advert.hardware.is_some());
            let computes = signed.advert.hardware.is_some();
            // Who only watches is its neighbours' business; who gives its device up is everybody's.
            let wanted = computes || offered || from == peer;
            if !wanted || self.view.least(peer).is_some_and(|s| s >= signed.advert.sequence) {
                continue;
            }
            if signed.check().is_err() || !(is_known || self.view.make_room(members)) {
                continue;
            }
            let signed = Arc::new(signed);
            self.view.insert(signed.clone(), now);
            fresh.push(peer);
            if computes || offered {
                forward.push(signed);
            }
        }
        if let Some(last) = fresh.last().filter(|_| fresh.len() >= MANY) {
            self.view.turn_to(*last);
        }
        (fresh, self.forward(from, &forward, members, rng))
    }

    /// Hands fresh adverts on to a few neighbours, as far as the budget goes; the rest is left to digests.
    fn forward(
        &mut self,
        from: PeerId,
        fresh: &[Arc<SignedAdvert>],
        members: &Membership,
        rng: &mut ChaCha8Rng,
    ) -> Letters {
        if fresh.is_empty() {
            return Letters::new();
        }
        let others: Vec<PeerId> = members.connected().filter(|p| *p != from).collect();
        let mut letters = Letters::new();
        for peer in some_of(&others, FANOUT, rng) {
            let within = fresh.iter().take_while(|signed| self.budget.takes(weight(signed)));
            let list: Vec<SignedAdvert> = within.map(|signed| (**signed).clone()).collect();
            if !list.is_empty() {
                letters.push((peer, Message::Adverts(list)));
            }
        }
        letters
    }

    /// Returns a peer's advert.
    pub(super) fn advert(&self, peer: PeerId) -> Option<&SignedAdvert> {
        self.view.advert(peer)
    }

    /// Returns all adverts in the order of their peers.
    pub(super) fn all(&self) -> impl Iterator<Item = &SignedAdvert> {
        self.view.known.values().map(|k| &*k.signed)
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
