//! Who is alive: heartbeats, suspicion, loss.
//!
//! | state   | meaning                                        | leaves by                                   |
//! |---------|------------------------------------------------|---------------------------------------------|
//! | alive   | heard within `suspect_after`                   | silence -> suspect                          |
//! | suspect | silent for longer, or its connection is gone   | any message -> alive; more silence -> lost  |
//! | lost    | silent for `lost_after` (less if disconnected) | any message -> alive                        |
//!
//! Only local monotonic time is used. Not here: what follows from a loss (`lead`).

use std::collections::BTreeMap;

use super::Config;
use crate::ids::PeerId;
use crate::units::Instant;

/// Most peers remembered; beyond, the longest silent lost one is forgotten.
const PEERS_MAX: usize = 10_000;

/// What is known of a peer's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Heard lately.
    Alive,
    /// Silent, or disconnected.
    Suspect,
    /// Silent for too long.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    connected: bool,
    heard: Instant,
    life: Life,
}

/// The peers that this one has met.
#[derive(Debug, Default)]
pub(super) struct Membership {
    peers: BTreeMap<PeerId, Seen>,
}

impl Membership {
    /// Notes a connection. Returns whether the peer comes (back) to life.
    pub(super) fn found(&mut self, peer: PeerId, now: Instant) -> bool {
        let came = self.heard(peer, now);
        if let Some(seen) = self.peers.get_mut(&peer) {
            seen.connected = true;
        }
        came
    }

    /// Notes the end of the last connection; silence runs on a shorter leash from here.
    pub(super) fn closed(&mut self, peer: PeerId) {
        if let Some(seen) = self.peers.get_mut(&peer) {
            seen.connected = false;
            if seen.life == Life::Alive {
                seen.life = Life::Suspect;
            }
        }
    }

    /// Notes a sign of life. Returns whether the peer comes (back) to life.
    pub(super) fn heard(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            let oldest = self
                .peers
                .iter()
                .filter(|(_, s)| s.life == Life::Lost)
                .min_by_key(|(id, s)| (s.heard, **id))
                .map(|(id, _)| *id);
            let Some(oldest) = oldest else {
                return false;
            };
            self.peers.remove(&oldest);
        }
        let seen = self.peers.entry(peer).or_insert(Seen {
            connected: false,
            heard: now,
            life: Life::Lost,
        });
        seen.heard = now;
        let came = seen.life == Life::Lost;
        seen.life = Life::Alive;
        came
    }

    /// Marks a peer that says goodbye. Returns whether that is a change.
    pub(super) fn left(&mut self, peer: PeerId) -> bool {
        let Some(seen) = self.peers.get_mut(&peer) else {
            return false;
        };
        let change = seen.life != Life::Lost;
        seen.life = Life::Lost;
        change
    }

    /// Lets time pass; returns who is lost by now, once each.
    pub(super) fn tick(&mut self, now: Instant, config: &Config) -> Vec<PeerId> {
        let mut lost = Vec::new();
        for (id, seen) in &mut self.peers {
            let silence = now.since(seen.heard);
            let limit = if seen.connected { config.lost_after } else { config.gone_after };
            match seen.life {
                Life::Lost => {}
                Life::Alive | Life::Suspect if silence >= limit => {
                    seen.life = Life::Lost;
                    lost.push(*id);
                }
                Life::Alive if silence >= config.suspect_after => seen.life = Life::Suspect,
                Life::Alive | Life::Suspect => {}
            }
        }
        lost
    }

    /// Says whether a peer counts as living: alive or merely suspect.
    pub(super) fn is_living(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|s| s.life != Life::Lost)
    }

    /// Says whether there is a connection.
    pub(super) fn is_connected(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|s| s.connected)
    }

    /// Returns connected peers in order.
    pub(super) fn connected(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.peers.iter().filter(|(_, s)| s.connected).map(|(id, _)| *id)
    }

    /// Returns every remembered peer and its life, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = (PeerId, Life)> + '_ {
        self.peers.iter().map(|(id, s)| (*id, s.life))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Duration;

    #[test]
    fn silence_suspects_then_loses_and_a_word_revives() {
        let config = Config::default();
        let peer = PeerId::new([1; 32]);
        let mut members = Membership::default();
        let start = Instant::from_micros(5);
        assert!(members.found(peer, start));
        assert!(members.tick(start + config.suspect_after, &config).is_empty());
        assert!(members.is_living(peer));
        assert_eq!(members.tick(start + config.lost_after, &config), vec![peer]);
        assert!(members.tick(start + config.lost_after * 2, &config).is_empty());
        assert!(members.heard(peer, start + config.lost_after * 2));
        assert!(members.is_living(peer));
    }

    #[test]
    fn a_closed_connection_shortens_the_leash() {
        let config = Config::default();
        let peer = PeerId::new([1; 32]);
        let mut members = Membership::default();
        members.found(peer, Instant::default());
        members.closed(peer);
        let soon = Instant::default() + config.gone_after;
        assert!(config.gone_after < config.lost_after && config.gone_after > Duration::ZERO);
        assert_eq!(members.tick(soon, &config), vec![peer]);
    }
}
