//! Which way leads to each connected peer: straight or through a relay, and over which transport.
//!
//! [`Ways`] are the hub's: all connections of each peer, and which of them have had their day. The [`Board`] is what the
//! rest of the node reads: the path in use to each member, and where this machine is reached.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId as LibraryId};
use tokio::sync::watch;
use wattle_protocol::ids::PeerId;

use super::Net;
use super::hub::our_id;

/// Ticks for which a relayed connection outlives what has replaced it: what is under way on it arrives.
const GRACE: u64 = 2;
/// Ticks for which a first relayed connection counts as one that may still become direct.
const TRYING: u64 = 2;
/// Ages of a relayed connection, in ticks, at which its dialer tries anew to become direct: an observed address may have
/// come late, and a NAT may be another by then.
const AGAIN: [u64; 2] = [2, 24];

/// The way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Straight.
    Direct,
    /// Through another peer, if its name is known.
    Relayed {
        /// The relay.
        via: Option<PeerId>,
        /// Whether hole punching has only begun.
        trying: bool,
    },
}

/// The path in use to a connected peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The way.
    pub way: Way,
    /// Whether it is QUIC (with a relay: as far as the relay).
    pub quic: bool,
}

impl Path {
    /// Names the transport.
    pub fn transport(&self) -> &'static str {
        if self.quic { "quic" } else { "tcp" }
    }

    /// Says whether it leads straight to the peer.
    pub fn is_direct(&self) -> bool {
        self.way == Way::Direct
    }

    /// Says whether it is relayed only until hole punching has had its time.
    pub(super) fn is_trying(&self) -> bool {
        matches!(self.way, Way::Relayed { trying: true, .. })
    }

    /// Returns the relay, where there is one whose name is known.
    pub fn via(&self) -> Option<PeerId> {
        match self.way {
            Way::Direct => None,
            Way::Relayed { via, .. } => via,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.way {
            Way::Direct => write!(f, "direct {}", self.transport()),
            Way::Relayed { via: Some(via), .. } => write!(f, "relayed via {via}"),
            Way::Relayed { via: None, .. } => f.write_str("relayed"),
        }
    }
}

/// The path in use to each connected member of the network.
pub type Paths = BTreeMap<PeerId, Path>;

/// What the hub writes and the rest of the node reads. Copies share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    pub(super) paths: Arc<watch::Sender<Paths>>,
    /// Where this machine is reached, as multiaddresses, the best first.
    pub(super) addresses: Arc<watch::Sender<Vec<String>>>,
}

/// A connection.
#[derive(Clone, Debug)]
struct Line {
    path: Path,
    /// Where it leads.
    address: Multiaddr,
    /// Whether we dialed.
    dialed: bool,
    /// The tick at which it opened.
    since: u64,
    /// Attempts to become direct that its age has brought.
    attempts: usize,
    /// Bytes that it has carried, as far as they are counted.
    bytes: u64,
}

/// All connections of all peers.
#[derive(Debug, Default)]
pub(super) struct Ways {
    lines: BTreeMap<LibraryId, BTreeMap<ConnectionId, Line>>,
    now: u64,
}

/// Says whether an address leads through a relay.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Returns the relay that an address names.
fn relay(address: &Multiaddr) -> Option<LibraryId> {
    let before = address.iter().take_while(|part| *part != Protocol::P2pCircuit);
    before.filter_map(|part| if let Protocol::P2p(id) = part { Some(id) } else { None }).last()
}

impl Ways {
    /// Notes a connection that has opened.
    pub(super) fn opened(&mut self, peer: LibraryId, id: ConnectionId, end: &ConnectedPoint) {
        let address = match end {
            ConnectedPoint::Dialer { address, .. } => address,
            // The sender of a relayed connection is named without its address; ours names the relay.
            ConnectedPoint::Listener { local_addr, .. } if end.is_relayed() => local_addr,
            ConnectedPoint::Listener { send_back_addr, .. } => send_back_addr,
        };
        let way = if end.is_relayed() {
            let via = relay(address).or_else(|| self.owner(address));
            let first = !self.lines.contains_key(&peer);
            Way::Relayed { via: via.as_ref().and_then(our_id), trying: first }
        } else {
            Way::Direct
        };
        let quic = address.iter().any(|part| part == Protocol::QuicV1);
        let path = Path { way, quic };
        let (address, dialed) = (address.clone(), end.is_dialer());
        let lines = self.lines.entry(peer).or_default();
        // A successor goes on counting, so that attempts come to an end.
        let attempts = lines.values().map(|line| line.attempts).max().unwrap_or_default();
        let line = Line { path, address, dialed, since: self.now, attempts, bytes: 0 };
        lines.insert(id, line);
    }

    /// Finds whose connection an address belongs to: what a relay that has dialed us is called.
    fn owner(&self, circuit: &Multiaddr) -> Option<LibraryId> {
        let prefix: Multiaddr = circuit.iter().take_while(|p| *p != Protocol::P2pCircuit).collect();
        let is_there = |line: &Line| line.path.is_direct() && line.address == prefix;
        self.lines.iter().find(|(_, lines)| lines.values().any(is_there)).map(|(peer, _)| *peer)
    }

    /// Notes that a connection is gone.
    pub(super) fn closed(&mut self, peer: LibraryId, id: ConnectionId) {
        if let Some(lines) = self.lines.get_mut(&peer) {
            lines.remove(&id);
            if lines.is_empty() {
                self.lines.remove(&peer);
            }
        }
    }

    /// Returns the path in use: a direct one if there is any, QUIC first; else the newest relayed one.
    pub(super) fn best(&self, peer: &LibraryId) -> Option<Path> {
        let lines = self.lines.get(peer)?;
        let rank = |line: &Line| (line.path.is_direct(), line.path.is_direct() && line.path.quic);
        let best = lines.iter().max_by_key(|(id, line)| (rank(line), **id));
        best.map(|(_, line)| line.path)
    }

    /// Says whether a peer is connected otherwise than by this connection.
    pub(super) fn has_other(&self, peer: &LibraryId, id: ConnectionId) -> bool {
        self.lines.get(peer).is_some_and(|lines| lines.keys().any(|known| *known != id))
    }

    /// Returns where a direct connection leads, and whether we dialed it.
    pub(super) fn direct(&self, peer: &LibraryId, id: ConnectionId) -> Option<(Multiaddr, bool)> {
        let line = self.lines.get(peer)?.get(&id)?;
        line.path.is_direct().then(|| (line.address.clone(), line.dialed))
    }

    /// Counts bytes towards or from a peer, where they go through a relay.
    pub(super) fn carried(&mut self, peer: &LibraryId, bytes: usize) {
        let lines = self.lines.get_mut(peer).into_iter().flatten().map(|(_, line)| line);
        for line in lines.filter(|line| !line.path.is_direct()) {
            line.bytes = line.bytes.saturating_add(bytes as u64);
        }
    }

    /// Lets a tick pass. Returns relayed connections that something better or newer has replaced for long enough.
    pub(super) fn tick(&mut self) -> Vec<ConnectionId> {
        self.now += 1;
        let now = self.now;
        let mut past = Vec::new();
        for lines in self.lines.values_mut() {
            let settled = |line: &&Line| line.since + GRACE <= now;
            let direct = lines.values().filter(settled).any(|line| line.path.is_direct());
            let newest = lines.iter().filter(|(_, l)| settled(l)).map(|(id, _)| *id).max();
            for (id, line) in lines.iter_mut() {
                if let Way::Relayed { via, .. } = line.path.way {
                    let trying = line.since + TRYING > now && line.attempts == 0;
                    line.path.way = Way::Relayed { via, trying };
                    if direct || newest.is_some_and(|newest| *id < newest) {
                        past.push(*id);
                    }
                }
            }
        }
        past
    }

    /// Returns relayed connections that want a successor, with where to dial: those whose limits come near, and those
    /// that may try again to become direct. Only who dialed acts, so that one successor comes and not two.
    pub(super) fn renewals(
        &mut self,
        limit: impl Fn(Option<PeerId>) -> Option<(u64, u64)>,
    ) -> Vec<(LibraryId, Multiaddr)> {
        let mut wanted = Vec::new();
        let now = self.now;
        for (peer, lines) in &mut self.lines {
            if lines.values().any(|line| line.path.is_direct()) {
                continue;
            }
            let Some((_, line)) = lines.iter_mut().next_back() else {
                continue;
            };
            if !line.dialed {
                continue;
            }
            let age = now.saturating_sub(line.since);
            let again = AGAIN.get(line.attempts).is_some_and(|at| age >= *at);
            let near = limit(line.path.via())
                .is_some_and(|(ticks, bytes)| age > ticks / 2 || line.bytes > bytes / 3);
            if again || (near && age >= GRACE) {
                line.attempts += 1;
                wanted.push((*peer, line.address.clone()));
            }
        }
        wanted
    }
}

impl Net {
    /// Returns the paths in use to connected peers.
    pub fn paths(&self) -> Paths {
        self.board.paths.borrow().clone()
    }

    /// Returns a view of the paths that says when they change.
    pub fn watch_paths(&self) -> watch::Receiver<Paths> {
        self.board.paths.subscribe()
    }

    /// Returns a view of where this machine is reached that says when it changes.
    pub fn watch_addresses(&self) -> watch::Receiver<Vec<String>> {
        self.board.addresses.subscribe()
    }

    /// Waits until hole punching towards a peer has succeeded or has had its time: before, a link is not what it will be.
    pub(super) async fn settled(&self, peer: PeerId) {
        let is_settled = |paths: &Paths| paths.get(&peer).is_none_or(|path| !path.is_trying());
        let mut paths = self.watch_paths();
        // The hub ends it within some ticks; if the hub is gone, there is nothing to wait for.
        drop(paths.wait_for(is_settled).await);
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::Endpoint;
    use libp2p::core::transport::PortUse;
    use libp2p::identity::Keypair;

    use super::*;

    const FAR: &str = "/ip4/203.0.113.1/udp/1/quic-v1";

    fn somebody() -> LibraryId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    fn dialed(address: &str) -> ConnectedPoint {
        ConnectedPoint::Dialer {
            address: address.parse().unwrap(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        }
    }

    fn through(relay: &LibraryId) -> ConnectedPoint {
        dialed(&format!("{FAR}/p2p/{relay}/p2p-circuit"))
    }

    #[test]
    fn a_direct_connection_comes_before_a_relayed_one_and_replaces_it() {
        let (peer, relay) = (somebody(), somebody());
        let mut ways = Ways::default();
        ways.opened(peer, id(1), &through(&relay));
        let path = ways.best(&peer).unwrap();
        assert!(!path.is_direct() && path.is_trying() && path.quic);
        assert_eq!(path.via(), our_id(&relay));
        ways.opened(peer, id(2), &dialed("/ip4/203.0.113.2/tcp/1"));
        assert_eq!(ways.best(&peer).unwrap().to_string(), "direct tcp");
        ways.opened(peer, id(3), &dialed("/ip4/203.0.113.2/udp/1/quic-v1"));
        assert_eq!(ways.best(&peer).unwrap().to_string(), "direct quic");
        let past: Vec<ConnectionId> = (0..GRACE).flat_map(|_| ways.tick()).collect();
        assert_eq!(past, [id(1)]);
        ways.closed(peer, id(2));
        ways.closed(peer, id(3));
        assert!(!ways.best(&peer).unwrap().is_direct());
        ways.closed(peer, id(1));
        assert_eq!(ways.best(&peer), None);
    }

    #[test]
    fn an_incoming_circuit_names_its_relay_even_where_that_has_dialed_us() {
        let (peer, relay) = (somebody(), somebody());
        let end = |local: &str, back: &str| ConnectedPoint::Listener {
            local_addr: local.parse().unwrap(),
            send_back_addr: back.parse().unwrap(),
        };
        let mut ways = Ways::default();
        ways.opened(relay, id(1), &end("/ip4/192.168.1.2/udp/9/quic-v1", FAR));
        let circuit = end(&format!("{FAR}/p2p-circuit"), &format!("/p2p/{peer}"));
        ways.opened(peer, id(2), &circuit);
        assert_eq!(ways.best(&peer).unwrap().via(), our_id(&relay));
    }

    #[test]
    fn a_circuit_gets_successors_by_age_and_by_use_and_only_from_its_dialer() {
        let (peer, relay) = (somebody(), somebody());
        let mut ways = Ways::default();
        ways.opened(peer, id(1), &through(&relay));
        let mut renewed = 0;
        for number in 2..200 {
            for past in ways.tick() {
                ways.closed(peer, past);
            }
            for (whose, address) in ways.renewals(|_| None) {
                assert_eq!(whose, peer);
                ways.opened(peer, id(number), &dialed(&address.to_string()));
                renewed += 1;
            }
        }
        assert_eq!(renewed, AGAIN.len());
        assert!(!ways.best(&peer).unwrap().is_trying());
        ways.carried(&peer, 400);
        assert!(ways.renewals(|_| Some((u64::MAX, 3000))).is_empty());
        assert_eq!(ways.renewals(|_| Some((u64::MAX, 900))).len(), 1);
        assert_eq!(ways.renewals(|_| Some((10, u64::MAX))).len(), 1);
    }
}
