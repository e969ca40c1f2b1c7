//! The fences as this peer sees them: computed from the adverts that gossip brought, changed with reluctance.
//!
//! Nobody is asked: whoever knows the same adverts finds the same fences. New fences replace those in force if they
//! describe the links better by a margin, summed over looks in a row; so noise on the links changes nothing, and a peer
//! that has moved changes its fence soon. Concept: `docs/concepts/links-and-fences.md`.

use std::collections::BTreeMap;

use super::Peer;
use crate::ids::PeerId;
use crate::schedule::advert::{Advert, SignedAdvert};
use crate::schedule::cluster::regroup;
use crate::schedule::links::Links;

/// Rounds of gossip between two looks in a small swarm.
const EVERY: usize = 4;
/// One more round for so many peers: a look at 10,000 peers takes about a second.
const PEERS_A_ROUND: usize = 20;
/// So many looks in a row must find better fences.
const LOOKS: u32 = 3;
/// How much better they must describe the links, summed over looks in a row, in nats: what is plain changes soon, what is
/// slight but lasts changes too.
const GAIN: f64 = 20.0;
/// Less than this is noise, in nats.
const GAIN_MIN: f64 = 1.0;

/// Fences in force, and what speaks against them.
#[derive(Debug, Default)]
pub(super) struct Fencing {
    fences: Vec<Vec<PeerId>>,
    place: BTreeMap<PeerId, usize>,
    /// Looks in a row that have found better ones.
    streak: u32,
    /// What these gained in all.
    gained: f64,
    /// What was found at the last look, and its gain.
    better: Option<(Vec<Vec<PeerId>>, f64)>,
    /// Which adverts that was found in.
    stamp: u64,
    /// Rounds until the next look.
    wait: usize,
}

impl Fencing {
    /// Lets a round of gossip pass.
    fn round<'a>(&mut self, adverts: impl Iterator<Item = &'a SignedAdvert>) {
        if self.wait > 0 {
            self.wait -= 1;
            return;
        }
        let able: Vec<&Advert> =
            adverts.map(|s| &s.advert).filter(|a| a.hardware.is_some()).collect();
        self.wait = EVERY - 1 + able.len() / PEERS_A_ROUND;
        let stamp = stamp(&able);
        if stamp != self.stamp {
            self.stamp = stamp;
            self.look(&able);
        }
        let Some((fences, gain)) = &self.better else {
            (self.streak, self.gained) = (0, 0.0);
            return;
        };
        self.streak += 1;
        self.gained += gain;
        if self.streak >= LOOKS && self.gained >= GAIN {
            let fences = fences.clone();
            (self.streak, self.gained, self.better) = (0, 0.0, None);
            self.take(fences);
        }
    }

    fn look(&mut self, able: &[&Advert]) {
        let peers: Vec<PeerId> = able.iter().map(|a| a.peer).collect();
        let found = regroup(&self.fences, &peers, &Links::measured_by(able));
        // Who came or left changes the fences in force at once; nobody else moves by that.
        self.take(found.kept);
        self.better = (found.gain > GAIN_MIN).then_some((found.best, found.gain));
    }

    fn take(&mut self, fences: Vec<Vec<PeerId>>) {
        let place = |(i, fence): (usize, &Vec<PeerId>)| -> Vec<_> {
            fence.iter().map(|p| (*p, i)).collect()
        };
        self.place = fences.iter().enumerate().flat_map(place).collect();
        self.fences = fences;
    }

    /// Says whether two peers are known to be of different fences.
    pub(super) fn is_apart(&self, a: PeerId, b: PeerId) -> bool {
        self.place.get(&a).zip(self.place.get(&b)).is_some_and(|(a, b)| a != b)
    }
}

/// Returns a number that changes when any advert does.
fn stamp(adverts: &[&Advert]) -> u64 {
    adverts.iter().fold(1, |stamp: u64, advert| {
        let mut head = [0; 8];
        head.copy_from_slice(&advert.peer.bytes()[..8]);
        (stamp.rotate_left(5) ^ u64::from_le_bytes(head) ^ advert.sequence)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

impl Peer {
    /// Returns the fences of all peers that compute, as this one sees them; each in the order of its peers.
    pub fn fences(&self) -> &[Vec<PeerId>] {
        &self.fencing.fences
    }

    pub(super) fn fence_round(&mut self) {
        self.fencing.round(self.gossip.all());
    }
}
