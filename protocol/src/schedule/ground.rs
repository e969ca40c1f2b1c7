//! The peers that a placement may use, by number, with their links in a table: what inner loops read.
//!
//! Not here: choosing among them. A number is a place in the list that the ground was made from.

use std::collections::BTreeMap;

use super::advert::Hardware;
use super::carrying::lengthened;
use super::footprint::Room;
use super::links::Links;
use super::load::Load;
use crate::ids::PeerId;
use crate::units::{Bytes, Duration, Rate};

/// Peers with hardware and links.
#[derive(Debug)]
pub(super) struct Ground<'a> {
    peers: Vec<PeerId>,
    hardware: Vec<Option<&'a Hardware>>,
    /// Number of the shared machine of each peer, if it says that it shares one.
    host: Vec<Option<usize>>,
    /// Rate and one-way travel, by sender and receiver.
    links: Vec<(Rate, Duration)>,
}

/// How many thousandths of its own speed each shared machine leaves to its peers; empty where none is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Crowd {
    /// Demand and capacity by machine.
    machines: Vec<(u64, u64)>,
}

impl Crowd {
    /// Says whether no peer tells of the machine that it shares.
    pub(super) fn is_nobody(&self) -> bool {
        self.machines.is_empty()
    }
}

impl<'a> Ground<'a> {
    /// Lays out peers in this order; one without hardware can only be talked to.
    ///
    /// *Cost*: O(peers^2 log links).
    pub(super) fn new(list: &[(PeerId, Option<&'a Hardware>)], links: &Links) -> Self {
        let peers: Vec<PeerId> = list.iter().map(|(peer, _)| *peer).collect();
        let mut hosts = BTreeMap::new();
        let host = list
            .iter()
            .map(|(_, hardware)| {
                let hardware = (*hardware)?;
                if hardware.host == 0 || hardware.host_capacity == 0 {
                    return None;
                }
                let next = hosts.len();
                Some(*hosts.entry(hardware.host).or_insert(next))
            })
            .collect();
        let mut table = Vec::with_capacity(peers.len() * peers.len());
        for from in &peers {
            for to in &peers {
                let (rate, round_trip) = links.link(*from, *to);
                table.push((rate, Duration::from_micros(round_trip.micros() / 2)));
            }
        }
        Self { peers, hardware: list.iter().map(|(_, h)| *h).collect(), host, links: table }
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn peer(&self, number: usize) -> PeerId {
        self.peers[number]
    }

    pub(super) fn number(&self, peer: PeerId) -> Option<usize> {
        self.peers.iter().position(|p| *p == peer)
    }

    /// Returns the memory that a peer offers.
    pub(super) fn memory(&self, number: usize) -> Bytes {
        self.hardware[number].map_or(Bytes::ZERO, |h| h.memory)
    }

    /// Returns the room that a peer has for stages.
    pub(super) fn room(&self, number: usize) -> Room {
        let nothing = Room { memory: Bytes::ZERO, threads: 1 };
        self.hardware[number].map_or(nothing, Room::of)
    }

    /// Returns rate and one-way travel from one peer to another.
    pub(super) fn link(&self, from: usize, to: usize) -> (Rate, Duration) {
        self.links[from * self.peers.len() + to]
    }

    /// Returns how long some bytes occupy a link, and how long the last one travels; nothing within a peer.
    pub(super) fn transfer(&self, from: usize, to: usize, size: Bytes) -> (Duration, Duration) {
        if from == to {
            return (Duration::ZERO, Duration::ZERO);
        }
        let (rate, travel) = self.link(from, to);
        (size / rate, travel)
    }

    /// Returns what the peers that compute ask of the machines that they share.
    ///
    /// Our rule: peers of one machine that ask for more than it has share it in proportion, for the whole step. A
    /// pipeline's stages are not all busy all the time, so this is on the careful side.
    pub(super) fn crowd(&self, computing: impl IntoIterator<Item = usize>) -> Crowd {
        let Some(machines) = self.host.iter().flatten().max() else {
            return Crowd::default();
        };
        let mut crowd = Crowd { machines: vec![(0, 0); machines + 1] };
        let mut counted = vec![false; self.peers.len()];
        for number in computing {
            let (Some(host), Some(hardware)) = (self.host[number], self.hardware[number]) else {
                continue;
            };
            if !std::mem::replace(&mut counted[number], true) {
                let machine = &mut crowd.machines[host];
                machine.0 += u64::from(hardware.demand);
                machine.1 = u64::from(hardware.host_capacity);
            }
        }
        crowd
    }

    /// Predicts by how many microseconds so many picoseconds of a processor, used beside what a peer computes, lengthen that.
    pub(super) fn beside(&self, number: usize, work: u64, crowd: &Crowd) -> u64 {
        let machine = self.host[number].and_then(|host| crowd.machines.get(host));
        let (Some(machine), Some(hardware)) = (machine, self.hardware[number]) else {
            return 0;
        };
        lengthened(hardware, work, *machine)
    }

    /// Predicts how long some work takes at a peer whose machine is shared like this; forever without hardware.
    pub(super) fn time(&self, number: usize, load: Load, crowd: &Crowd) -> Duration {
        let Some(hardware) = self.hardware[number] else {
            return Duration::MAX;
        };
        let alone = hardware.time(load);
        let shared = self.host[number].and_then(|host| crowd.machines.get(host));
        match shared {
            Some((demand, capacity)) if demand > capacity => {
                Duration::from_micros(alone.micros().saturating_mul(*demand) / capacity)
            }
            _ => alone,
        }
    }
}
