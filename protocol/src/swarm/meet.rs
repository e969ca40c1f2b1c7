//! Meeting peers: who is found hears what is known, who is heard of is dialled, a bounded number a round.

use std::collections::BTreeSet;

use super::Peer;
use super::gossip::Letters;
use super::io::{Effect, Event, Outbox};
use crate::ids::PeerId;
use crate::units::Instant;

/// Most dials in one round of gossip: adverts are free, connections are not.
const DIALS_MAX: usize = 16;
/// Most peers that wait to be dialled; more will be heard of again.
const WAITING_MAX: usize = 256;

/// Dials of this round, and what is left for later ones.
#[derive(Debug, Default)]
pub(super) struct Dials {
    done: usize,
    waiting: BTreeSet<PeerId>,
}

impl Peer {
    /// Returns how many peers' adverts are known here.
    pub fn adverts_known(&self) -> usize {
        self.gossip.all().count()
    }

    pub(super) fn on_found(&mut self, peer: PeerId, now: Instant, out: &mut Outbox) {
        if peer == self.me {
            return;
        }
        if self.membership.found(peer, now) {
            out.push(Effect::Notify(Event::PeerAlive(peer)));
        }
        send_all(self.gossip.greet(peer), out);
        self.measure_first(peer, now, out);
    }

    /// Dials a peer, or notes it for a later round where this one has dialled enough.
    pub(super) fn dial(&mut self, peer: PeerId, out: &mut Outbox) {
        if peer == self.me || self.membership.is_connected(peer) {
            return;
        }
        if self.dials.done >= DIALS_MAX {
            if self.dials.waiting.len() < WAITING_MAX {
                self.dials.waiting.insert(peer);
            }
            return;
        }
        if let Some(signed) = self.gossip.advert(peer) {
            let addresses = signed.advert.addresses.clone();
            if !addresses.is_empty() {
                self.dials.done += 1;
                out.push(Effect::Dial { peer, addresses });
            }
        }
    }

    pub(super) fn gossip_round(&mut self, now: Instant, out: &mut Outbox) {
        self.dials.done = 0;
        for _ in 0..DIALS_MAX {
            if let Some(peer) = self.dials.waiting.pop_first() {
                self.dial(peer, out);
            }
        }
        self.fence_round();
        self.measure_round(now, out);
        send_all(self.gossip.tick(&self.membership, now, &mut self.rng), out);
    }
}

pub(super) fn send_all(letters: Letters, out: &mut Outbox) {
    for (to, message) in letters {
        out.push(Effect::Send { to, message: Box::new(message) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::advert::{Advert, SignedAdvert};
    use crate::swarm::Config;
    use crate::swarm::io::{Input, Timer};
    use crate::wire::message::Message;
    use ed25519_dalek::SigningKey;

    #[test]
    fn many_adverts_are_dialled_over_many_rounds() {
        let mut peer = Peer::new(&[1; 32], Config::default());
        let mut out = Outbox::new();
        let now = Instant::from_micros(1);
        for n in 2..42u8 {
            let key = SigningKey::from_bytes(&[n; 32]);
            let id = PeerId::new(key.verifying_key().to_bytes());
            let addresses = vec!["/ip4/192.0.2.1/udp/1/quic-v1".into()];
            let advert = Advert { sequence: 1, addresses, ..Advert::new(id) };
            let message = Box::new(Message::Adverts(vec![SignedAdvert::sign(advert, &key)]));
            peer.handle(now, Input::Received { from: id, message }, &mut out);
        }
        let mut dials = || {
            let count = out.drain().filter(|e| matches!(e, Effect::Dial { .. })).count();
            peer.handle(now, Input::TimerFired(Timer::Gossip), &mut out);
            count
        };
        assert_eq!([dials(), dials(), dials(), dials()], [16, 16, 8, 0]);
    }
}
