//! Whom the hub dials, and in which order: straight first, QUIC before TCP, then through relays.

use std::num::NonZeroU8;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, kad};
use wattle_protocol::ids::PeerId;

use super::{Hub, Order, library_id};
use crate::net::paths::is_relayed;

/// How long straight dials go ahead of those through relays: what can be reached straight is, within some round trips.
const HEAD_START: Duration = Duration::from_millis(1000);

impl Hub {
    pub(super) fn dial(&mut self, peer: Option<PeerId>, addresses: &[String]) {
        let addresses: Vec<Multiaddr> = addresses.iter().filter_map(|a| a.parse().ok()).collect();
        let Some(id) = peer.as_ref().and_then(library_id) else {
            if let Some(Err(error)) = addresses.into_iter().next().map(|a| self.swarm.dial(a)) {
                tracing::debug!(%error, "a dial did not begin");
            }
            return;
        };
        if self.swarm.is_connected(&id) || id == *self.swarm.local_peer_id() {
            return;
        }
        let (circuits, mut direct): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_relayed);
        if direct.is_empty() {
            return self.dial_circuits(id, circuits);
        }
        // One after another, QUIC first: TCP is for networks that let nothing else through.
        direct.sort_by_key(|a| !is_quic(a));
        let options = DialOpts::peer_id(id)
            .addresses(direct)
            .override_dial_concurrency_factor(NonZeroU8::MIN)
            .build();
        if let Err(error) = self.swarm.dial(options) {
            // Mostly because one is under way, to addresses that may be all dead.
            tracing::debug!(%error, "a dial did not begin");
        }
        if let Some(orders) = self.orders.upgrade().filter(|_| !circuits.is_empty()) {
            tokio::spawn(async move {
                tokio::time::sleep(HEAD_START).await;
                let order = Order::Circuit { peer: id, addresses: circuits };
                if orders.send(order).await.is_err() {
                    tracing::debug!("the network is closed");
                }
            });
        }
    }

    /// Dials through relays, unless the peer is connected.
    pub(super) fn dial_circuits(&mut self, id: libp2p::PeerId, mut circuits: Vec<Multiaddr>) {
        let me = *self.swarm.local_peer_id();
        // A circuit through ourselves would end where it begins.
        circuits.retain(|a| !a.iter().any(|part| part == Protocol::P2p(me)));
        if circuits.is_empty() || self.swarm.is_connected(&id) {
            return;
        }
        let options = DialOpts::peer_id(id)
            // Straight dials may be under way.
            .condition(PeerCondition::Disconnected)
            .addresses(circuits)
            .build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%error, "a dial through a relay did not begin");
        }
    }

    /// Kademlia dials every address of a peer at once, and TCP may win: tensors want QUIC.
    pub(super) fn prefer_quic(&mut self, peer_id: libp2p::PeerId, mut addresses: Vec<Multiaddr>) {
        addresses.retain(|a| is_quic(a) && !is_relayed(a));
        let wanted = self.quic_port.is_some() && !addresses.is_empty();
        if wanted && self.connections.best(&peer_id).is_none() {
            let dial = DialOpts::peer_id(peer_id)
                .condition(PeerCondition::NotDialing)
                .addresses(addresses)
                .build();
            if let Err(error) = self.swarm.dial(dial) {
                tracing::debug!(%error, "a dial over QUIC did not begin");
            }
        }
    }

    pub(super) fn on_kad(&mut self, event: kad::Event) {
        let found = self.lookup.on_event(event, self.swarm.local_peer_id());
        for peer in found {
            // Kademlia knows addresses from its table and from the search itself.
            match self.swarm.dial(DialOpts::peer_id(peer).build()) {
                Err(DialError::NoAddresses) => {
                    // A search for the peer asks its neighbors for them, and dials it.
                    self.swarm.behaviour_mut().kad.get_closest_peers(peer);
                }
                Err(error) => tracing::debug!(%error, "a dial did not begin"),
                Ok(()) => {}
            }
        }
    }
}

/// Says whether an address is spoken to in QUIC.
pub(super) fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}
