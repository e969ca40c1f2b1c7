//! The adverts that a peer knows: bounded, ageing, and listed a stretch at a time.
//!
//! Who is met stays; of the others the oldest gives way to a newcomer. What was forgotten for its age is not
//! believed from whoever still spreads it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::super::membership::Membership;
use super::RENEW;
use crate::ids::PeerId;
use crate::schedule::advert::SignedAdvert;
use crate::units::{Duration, Instant};
use crate::wire::message::short_id;

/// Most adverts kept; a newcomer takes the place of the oldest of a peer that does not live.
pub(super) const KNOWN_MAX: usize = 10_000;
/// So many adverts are renewed in `RENEW`; more take longer in proportion, so that renewing costs each peer the same.
const CROWD: usize = 100;
/// An advert of a peer that is not met is forgotten after this many times what it is renewed in.
const RENEWALS: u64 = 5;
/// Entries of one digest.
pub(super) const STRETCH: usize = 64;

/// The first and the last peer that a digest speaks of.
pub(in super::super) type Span = (PeerId, PeerId);

const FIRST: PeerId = PeerId::new([0; 32]);
pub(super) const LAST: PeerId = PeerId::new([u8::MAX; 32]);
/// A digest of everything.
pub(in super::super) const WHOLE: Span = (FIRST, LAST);

/// An advert, and when it was news.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) signed: Arc<SignedAdvert>,
    pub(super) heard: Instant,
}

/// All adverts that a peer knows, its own among them.
#[derive(Debug)]
pub(super) struct View {
    me: PeerId,
    pub(super) known: BTreeMap<PeerId, Known>,
    /// What was forgotten for its age: sequence, and when.
    expired: BTreeMap<PeerId, (u64, Instant)>,
    /// Where the next digest begins.
    turn: PeerId,
}

impl View {
    pub(super) fn new(me: PeerId) -> Self {
        Self { me, known: BTreeMap::new(), expired: BTreeMap::new(), turn: FIRST }
    }

    /// Returns the time after which a peer says the same again.
    pub(super) fn renew(&self) -> Duration {
        RENEW * u64::try_from(self.known.len() / CROWD).unwrap_or(u64::MAX).max(1)
    }

    pub(super) fn insert(&mut self, signed: Arc<SignedAdvert>, now: Instant) {
        let peer = signed.advert.peer;
        self.expired.remove(&peer);
        self.known.insert(peer, Known { signed, heard: now });
    }

    pub(super) fn advert(&self, peer: PeerId) -> Option<&SignedAdvert> {
        self.known.get(&peer).map(|k| &*k.signed)
    }

    /// Returns the lowest sequence of a peer that is not news.
    pub(super) fn least(&self, peer: PeerId) -> Option<u64> {
        let said = self.advert(peer).map(|signed| signed.advert.sequence);
        said.max(self.expired.get(&peer).map(|(sequence, _)| *sequence))
    }

    /// Lists the next stretch of what is known, so that everything has its turn however much there is.
    pub(super) fn digest(&mut self) -> (Span, Vec<(u64, u64)>) {
        let from = self.turn;
        let mut last = None;
        let mut known = Vec::new();
        for (id, k) in self.known.range(from..).take(STRETCH) {
            known.push((short_id(*id), k.signed.advert.sequence));
            last = Some(*id);
        }
        let last = last.filter(|id| {
            let behind = (Bound::Excluded(*id), Bound::Unbounded);
            self.known.range(behind).next().is_some()
        });
        // Stretches overlap by one, so that nobody lies between two of them.
        self.turn = last.unwrap_or(FIRST);
        ((from, last.unwrap_or(LAST)), known)
    }

    /// Lets the next digest begin here: an answer that was cut goes on behind its last advert.
    pub(super) fn turn_to(&mut self, peer: PeerId) {
        self.turn = peer;
    }

    /// Says whether there is room for one more advert, if need be in place of the oldest of a peer that does not live.
    pub(super) fn make_room(&mut self, members: &Membership) -> bool {
        if self.known.len() < KNOWN_MAX {
            return true;
        }
        let me = self.me;
        let away = self.known.iter().filter(|(id, _)| **id != me && !members.is_living(**id));
        let oldest = away.min_by_key(|(id, k)| (k.heard, **id)).map(|(id, _)| *id);
        oldest.is_some_and(|id| self.known.remove(&id).is_some())
    }

    /// Forgets what peers said that neither live here nor have said anything in a long time; whoever still spreads it
    /// is not believed for as long again.
    pub(super) fn expire(&mut self, members: &Membership, now: Instant) {
        let (me, kept) = (self.me, self.renew() * RENEWALS);
        let old = |id: &PeerId, k: &Known| {
            *id != me && now.since(k.heard) >= kept && !members.is_living(*id)
        };
        let gone: Vec<(PeerId, u64)> = self
            .known
            .iter()
            .filter(|(id, k)| old(id, k))
            .map(|(id, k)| (*id, k.signed.advert.sequence))
            .collect();
        self.expired.retain(|_, (_, at)| now.since(*at) < kept);
        for (id, sequence) in gone {
            self.known.remove(&id);
            if self.expired.len() < KNOWN_MAX {
                self.expired.insert(id, (sequence, now));
            }
        }
    }
}
