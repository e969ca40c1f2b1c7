//! Who comes and goes: connections, what peers say of themselves, and who belongs to the network.

use std::collections::BTreeMap;

use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, identify, mdns, relay};
use wattle_protocol::ids::PeerId;

use super::{Hub, our_id};
use crate::net::behaviour::BehaviourEvent;
use crate::net::paths::is_relayed;
use crate::net::{NetEvent, bulk};

/// Unidirectional streams that an admitted peer may have open at once: bundles, probes and receipts.
const STREAMS: u32 = 256;
/// Addresses that are kept of a peer.
const ADDRESSES_MAX: usize = 8;
/// Peers of other networks that are remembered, so that local discovery does not dial them again and again.
const STRANGERS_MAX: usize = 1024;

impl Hub {
    pub(super) async fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                if is_relayed(&address) {
                    self.on_circuit_address(&address).await;
                } else {
                    self.on_address(address).await;
                }
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_address_gone(&address).await,
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                for address in &addresses {
                    self.on_address_gone(address).await;
                }
                self.on_place_closed(listener_id, reason.is_err());
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connection((peer_id, connection_id), &endpoint).await;
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed((peer_id, connection_id), num_established == 0).await;
            }
            SwarmEvent::Behaviour(event) => self.on_behaviour(event).await,
            other => tracing::trace!(?other, "libp2p"),
        }
    }

    async fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(event) => self.on_identify(event).await,
            BehaviourEvent::Mdns(mdns::Event::Discovered(list)) => {
                let mut found: BTreeMap<PeerId, Vec<String>> = BTreeMap::new();
                for (id, address) in list {
                    if let Some(peer) = our_id(&id).filter(|_| !self.strangers.contains(&id)) {
                        found.entry(peer).or_default().push(address.to_string());
                    }
                }
                for (peer, addresses) in found {
                    self.dial(Some(peer), &addresses);
                }
            }
            BehaviourEvent::Rpc(event) => self.on_rpc(event).await,
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Circuits(event) => self.on_circuit(event),
            BehaviourEvent::Relay(event) => {
                tracing::debug!(?event, "relaying");
                if matches!(event, relay::Event::StatusChanged { .. }) {
                    self.is_to_tell = true;
                }
            }
            BehaviourEvent::Punch(event) => {
                let (peer, result) = (event.remote_peer_id, event.result);
                tracing::debug!(%peer, ?result, "a hole punch has ended");
            }
            other => tracing::trace!(?other, "libp2p"),
        }
    }

    async fn on_connection(
        &mut self,
        (peer_id, id): (libp2p::PeerId, ConnectionId),
        end: &ConnectedPoint,
    ) {
        let Some(peer) = our_id(&peer_id) else {
            self.swarm.disconnect_peer_id(peer_id).unwrap_or_default();
            return;
        };
        self.note_unasked((peer_id, id), end);
        self.ways.opened(peer_id, id, end);
        tracing::debug!(%peer, ?end, "a connection is open");
        // Who is no member yet is so once identify is through.
        if self.members.contains(&peer_id) {
            self.serve(&peer_id, peer);
            self.show_path(peer_id).await;
        }
    }

    async fn on_closed(&mut self, (peer_id, id): (libp2p::PeerId, ConnectionId), last: bool) {
        self.ways.closed(peer_id, id);
        self.unasked.remove(&id);
        if !last {
            self.show_path(peer_id).await;
            return;
        }
        self.relays.lost(&peer_id);
        if let Some(peer) = our_id(&peer_id).filter(|_| self.members.remove(&peer_id)) {
            self.inbox.forget(peer);
            self.board.paths.send_if_modified(|paths| paths.remove(&peer).is_some());
            self.tell(NetEvent::Disconnected { peer }).await;
        }
    }

    async fn on_address(&mut self, address: Multiaddr) {
        let mut found = vec![address.clone()];
        let parts: Vec<Protocol<'_>> = address.iter().collect();
        match parts.as_slice() {
            [ip @ (Protocol::Ip4(_) | Protocol::Ip6(_)), Protocol::Udp(port), Protocol::QuicV1] => {
                self.quic_port = Some(*port);
                let any = matches!(ip, Protocol::Ip4(a) if a.is_unspecified())
                    || matches!(ip, Protocol::Ip6(a) if a.is_unspecified());
                if any {
                    // The QUIC socket does not list interfaces; the TCP listener does, below.
                    found.clear();
                }
            }
            [ip, Protocol::Tcp(_)] => {
                if let Some(port) = self.quic_port.filter(|p| *p != 0) {
                    let quic = Multiaddr::empty().with(ip.clone()).with(Protocol::Udp(port));
                    found.insert(0, quic.with(Protocol::QuicV1));
                }
            }
            _ => {}
        }
        for address in found {
            self.reach.listens(&address);
            let text = address.to_string();
            if !self.listening.contains(&text) {
                self.listening.push(text);
            }
        }
        // QUIC first: a ticket is dialed in order of preference.
        self.listening.sort_by_key(|a| !a.contains("/quic-v1"));
        self.publish().await;
    }

    async fn on_identify(&mut self, event: identify::Event) {
        let (peer_id, connection, info) = match event {
            identify::Event::Received { peer_id, connection_id, info } => {
                (peer_id, connection_id, info)
            }
            identify::Event::Error { peer_id, error, .. } => {
                tracing::debug!(peer = %peer_id, %error, "a peer does not say who it is");
                if !self.members.contains(&peer_id) {
                    self.swarm.disconnect_peer_id(peer_id).unwrap_or_default();
                }
                return;
            }
            identify::Event::Sent { .. } | identify::Event::Pushed { .. } => return,
        };
        let Some(peer) = our_id(&peer_id) else {
            return;
        };
        if info.protocol_version != self.names.network {
            let (theirs, ours) = (&info.protocol_version, &self.names.network);
            tracing::info!(%peer, theirs, ours, "a peer of another network is sent away");
            if self.strangers.len() >= STRANGERS_MAX {
                self.strangers.clear();
            }
            self.strangers.insert(peer_id);
            self.swarm.disconnect_peer_id(peer_id).unwrap_or_default();
            return;
        }
        self.learn_reach((peer_id, connection), &info).await;
        let addresses: Vec<Multiaddr> = info.listen_addrs.into_iter().take(ADDRESSES_MAX).collect();
        if info.protocols.contains(&self.names.kad) {
            for address in addresses.clone() {
                self.swarm.behaviour_mut().kad.add_address(&peer_id, address);
            }
            self.lookup.came(&mut self.swarm.behaviour_mut().kad);
        }
        self.admit(peer_id, peer).await;
        self.prefer_quic(peer_id, addresses);
        self.take_places();
    }

    /// Counts a peer of our network as connected, and opens its tensor streams.
    pub(super) async fn admit(&mut self, peer_id: libp2p::PeerId, peer: PeerId) {
        if self.members.contains(&peer_id) || !self.swarm.is_connected(&peer_id) {
            return;
        }
        self.serve(&peer_id, peer);
        self.members.insert(peer_id);
        self.strangers.remove(&peer_id);
        let quic = self.connections.best(&peer_id).is_some();
        self.show_path(peer_id).await;
        self.tell(NetEvent::Connected { peer, quic }).await;
    }

    fn serve(&self, peer_id: &libp2p::PeerId, peer: PeerId) {
        for connection in self.connections.unserved(peer_id) {
            connection.set_max_concurrent_uni_streams(STREAMS.into());
            let (desk, events) = (self.desk.clone(), self.events.clone());
            tokio::spawn(bulk::serve(connection, peer, desk, events));
        }
    }
}
