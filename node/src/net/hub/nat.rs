//! What the hub does about NATs: learning whether this machine is reached, places on relays, circuits and their ends.
//!
//! Hole punching itself is libp2p's (DCUtR): who is dialed through a relay asks the dialer to dial straight at the same
//! moment. Both dial from the socket that they listen on, so each one's first packet opens its own NAT for the other's.

use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, identify, relay};
use wattle_protocol::schedule::advert::{ADDRESSES_MAX, TEXT_MAX};

use super::dialing::is_quic;
use super::{Hub, TICK, our_id};
use crate::net::NetEvent;
use crate::net::paths::is_relayed;
use crate::net::reach::{ip, is_public, nameless};

/// Addresses of ours that lead through relays: two places, each by two addresses of the relay.
const CIRCUITS_MAX: usize = 4;
/// Connections that may be remembered as having come unasked: as many as there are at all.
const UNASKED_MAX: usize = 512;

impl Hub {
    /// Remembers a connection that no NAT would have let in: nothing has been sent to where it comes from.
    pub(super) fn note_unasked(
        &mut self,
        (peer, id): (PeerId, ConnectionId),
        end: &ConnectedPoint,
    ) {
        let ConnectedPoint::Listener { send_back_addr, .. } = end else {
            return;
        };
        let Some(from) = ip(send_back_addr).filter(|from| is_public(*from)) else {
            return;
        };
        let unasked = is_quic(send_back_addr) == self.quic_port.is_some()
            && !end.is_relayed()
            && !self.ways.has_other(&peer, id)
            && !self.connections.has_dialed(from);
        if unasked && self.unasked.len() < UNASKED_MAX {
            self.unasked.insert(id);
        }
    }

    /// Learns from what a peer says of itself and of us: under which address it sees us, and whether it relays.
    pub(super) async fn learn_reach(
        &mut self,
        (peer, connection): (PeerId, ConnectionId),
        info: &identify::Info,
    ) {
        let Some((address, dialed)) = self.ways.direct(&peer, connection) else {
            return;
        };
        let observed = nameless(&info.observed_addr);
        let relays = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        tracing::debug!(%peer, %observed, relays, "a peer says who it is, and who we are");
        if is_quic(&observed) == self.quic_port.is_some() {
            self.swarm.behaviour_mut().punch.offer(&observed);
        }
        let unasked = self.unasked.contains(&connection);
        let found = ip(&address).and_then(|by| self.reach.observed(by, &observed, unasked));
        if let Some(external) = found {
            tracing::info!(%external, "others reach this machine here");
            self.swarm.add_external_address(external);
            self.publish().await;
        }
        // What several connections say may come in another order; one that relays no more refuses.
        if relays {
            let at = |a: &&Multiaddr| !is_relayed(a) && ip(a).is_some_and(is_public);
            let dialed = dialed.then(|| nameless(&address));
            let public = dialed.clone().filter(|a| at(&a));
            let said = info.listen_addrs.iter().find(at).map(nameless);
            if let Some(address) = public.or(said).or(dialed) {
                self.relays.found(peer, address);
            }
        }
    }

    /// Asks relays for places while nobody is known to reach us otherwise.
    pub(super) fn take_places(&mut self) {
        if self.reach.is_reached() {
            return;
        }
        let me = *self.swarm.local_peer_id();
        for (relay, address) in self.relays.wanted(&me, self.ticks) {
            let circuit = address.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
            tracing::debug!(%circuit, "a relay is asked for a place");
            match self.swarm.listen_on(circuit) {
                Ok(listener) => self.relays.asked(listener, relay, self.ticks),
                Err(error) => {
                    tracing::debug!(%relay, %error, "a relay cannot be asked");
                    self.relays.refused(relay, self.ticks);
                }
            }
        }
    }

    pub(super) fn on_place_closed(&mut self, listener: ListenerId, is_refusal: bool) {
        if self.relays.closed(listener, is_refusal, self.ticks) {
            tracing::debug!(is_refusal, "a place on a relay is gone");
            self.take_places();
        }
    }

    pub(super) fn on_circuit(&mut self, event: relay::client::Event) {
        tracing::debug!(?event, "a relay");
        match event {
            relay::client::Event::ReservationReqAccepted { relay_peer_id, .. } => {
                self.relays.granted(&relay_peer_id);
            }
            relay::client::Event::OutboundCircuitEstablished { relay_peer_id, limit } => {
                let limit = limit.as_ref();
                let time = limit.and_then(|l| l.duration());
                let ticks = time.map_or(u64::MAX, |time| time.as_secs() / TICK.as_secs());
                let bytes = limit.and_then(|l| l.data_in_bytes());
                self.relays.allows(relay_peer_id, ticks, bytes.unwrap_or(u64::MAX));
            }
            relay::client::Event::InboundCircuitEstablished { .. } => {}
        }
    }

    /// Notes that this peer is reached through a relay.
    pub(super) async fn on_circuit_address(&mut self, address: &Multiaddr) {
        // Whoever reads it knows whose address it is; so it is short enough for an advert.
        let text = without_end(address).to_string();
        if self.circuits.len() < CIRCUITS_MAX && !self.circuits.contains(&text) {
            self.circuits.push(text);
            self.circuits.sort_by_key(|a| !a.contains("/quic-v1"));
            self.publish().await;
        }
    }

    pub(super) async fn on_address_gone(&mut self, address: &Multiaddr) {
        let text = without_end(address).to_string();
        let before = self.circuits.len() + self.listening.len();
        self.circuits.retain(|known| *known != text);
        self.listening.retain(|known| *known != address.to_string());
        if self.circuits.len() + self.listening.len() < before {
            self.publish().await;
        }
    }

    /// Says where this machine is reached, the best first and no more than an advert holds: public addresses, circuits,
    /// and those of its own network.
    pub(super) async fn publish(&mut self) {
        let external: Vec<String> = self.reach.external().map(ToString::to_string).collect();
        let is_near = |text: &String| {
            let address: Option<Multiaddr> = text.parse().ok();
            !address.as_ref().and_then(ip).is_some_and(is_public)
        };
        let (near, public): (Vec<_>, Vec<_>) = self.listening.iter().cloned().partition(is_near);
        let mut addresses: Vec<String> = Vec::new();
        for text in external.into_iter().chain(public).chain(self.circuits.clone()).chain(near) {
            let fits = text.len() <= TEXT_MAX && addresses.len() < ADDRESSES_MAX;
            if fits && !addresses.contains(&text) {
                addresses.push(text);
            }
        }
        let said = addresses.clone();
        let differs = |known: &mut Vec<String>| {
            let differs = *known != said;
            *known = said;
            differs
        };
        if self.board.addresses.send_if_modified(differs) {
            self.tell(NetEvent::Listening { addresses }).await;
        }
    }

    /// Lets go of circuits that have had their day, and opens successors of those that near their end.
    pub(super) async fn tend_circuits(&mut self) {
        for connection in self.ways.tick() {
            self.swarm.close_connection(connection);
        }
        let peers: Vec<PeerId> = self.members.iter().copied().collect();
        for peer in peers {
            self.show_path(peer).await;
        }
        if std::mem::take(&mut self.is_to_tell) {
            let members: Vec<PeerId> = self.members.iter().copied().collect();
            self.swarm.behaviour_mut().identify.push(members);
        }
        let relays = &self.relays;
        let limit =
            |via: Option<wattle_protocol::ids::PeerId>| relays.allowed(&super::library_id(&via?)?);
        for (peer, address) in self.ways.renewals(limit) {
            tracing::debug!(%peer, %address, "a circuit gets a successor");
            let options = DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(vec![address])
                .build();
            if let Err(error) = self.swarm.dial(options) {
                tracing::debug!(%error, "a circuit does not get a successor");
            }
        }
        self.take_places();
    }

    /// Shows the path in use to a member, and says so where a relay has come or gone.
    pub(super) async fn show_path(&mut self, peer_id: PeerId) {
        let member = our_id(&peer_id).filter(|_| self.members.contains(&peer_id));
        let (Some(peer), Some(path)) = (member, self.ways.best(&peer_id)) else {
            return;
        };
        let mut before = None;
        self.board.paths.send_if_modified(|paths| {
            before = paths.insert(peer, path);
            before != Some(path)
        });
        let Some(before) = before else {
            return;
        };
        if before.is_direct() != path.is_direct() {
            tracing::info!(%peer, %path, "the path has changed");
            // Whoever was to measure the link while it was being punched waits for just this.
            if !before.is_trying() {
                self.tell(NetEvent::PathChanged { peer }).await;
            }
        }
    }
}

/// Takes the name after a circuit off: the listener's own.
fn without_end(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}
