//! The libp2p loop: connections, who belongs to the network, control frames, and what else the handle orders.
//!
//! A peer counts as connected once it has named our network; until then its tensor streams stay shut, and one that
//! names another is sent away. Not here: libp2p's settings (`behaviour`), tensors (`bulk`, `fallback`), jobs (`lookup`).

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU8;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use libp2p::core::upgrade::Version;
use libp2p::identity::{self, Keypair};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{self, OutboundRequestId, ResponseChannel};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, Swarm, SwarmBuilder, identify, kad, mdns, noise, tcp, yamux};
use tokio::sync::{mpsc, oneshot};
use wattle_protocol::ids::{JobId, PeerId};

use super::behaviour::{Behaviour, BehaviourEvent, Names};
use super::bulk;
use super::desk::Desk;
use super::fallback::{Chunked, Inbox, Offered};
use super::lookup::Lookup;
use super::rpc::Request;
use super::transport::{Connections, OneQuic, quic_address};
use super::{BUNDLE_MAX, NetConfig, NetEvent};

/// Unidirectional streams that an admitted peer may have open at once: bundles, probes and receipts.
const STREAMS: u32 = 256;
/// Addresses that are kept of a peer.
const ADDRESSES_MAX: usize = 8;
/// Peers of other networks that are remembered, so that local discovery does not dial them again and again.
const STRANGERS_MAX: usize = 1024;
/// How often searches are repeated.
const TICK: Duration = Duration::from_secs(5);
/// Ticks from one sweep of the bundles that arrive over TCP to the next.
const SWEEP: u64 = REQUEST.as_secs() / TICK.as_secs();
/// A request that is not answered by then has failed.
pub(super) const REQUEST: Duration = Duration::from_secs(30);
/// Longest time that a closing node waits for its last frames to be heard.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Time to find out the first addresses that this machine listens at.
const LISTEN: Duration = Duration::from_secs(5);

/// What the handle asks of the loop.
#[derive(Debug)]
pub(super) enum Order {
    Frame {
        to: PeerId,
        bytes: Vec<u8>,
    },
    Dial {
        peer: Option<PeerId>,
        addresses: Vec<String>,
    },
    Announce(JobId),
    Withdraw(JobId),
    Seek(JobId),
    /// A request of the TCP fallback; answered yes or no.
    Request {
        to: PeerId,
        request: Request,
        reply: oneshot::Sender<bool>,
    },
    /// The driver's answer to an offer that came over TCP.
    Answer {
        from: PeerId,
        offered: Offered,
        channel: ResponseChannel<bool>,
        take: bool,
    },
    Stop(oneshot::Sender<()>),
}

/// The loop's state.
pub(super) struct Hub {
    swarm: Swarm<Behaviour>,
    connections: Connections,
    desk: Desk,
    events: mpsc::Sender<NetEvent>,
    asked: BTreeMap<OutboundRequestId, oneshot::Sender<bool>>,
    /// Frames that are on their way.
    sent: BTreeSet<OutboundRequestId>,
    /// Connected peers that have named our network.
    members: BTreeSet<libp2p::PeerId>,
    /// Peers that have named another.
    strangers: BTreeSet<libp2p::PeerId>,
    inbox: Inbox,
    lookup: Lookup,
    /// Lets answers of the driver find their way back into the loop; weak, so that the loop ends with its handles.
    orders: mpsc::WeakSender<Order>,
    addresses: Vec<String>,
    names: Names,
    quic_port: Option<u16>,
}

/// Turns our id into libp2p's, if it is a key.
pub(super) fn library_id(peer: &PeerId) -> Option<libp2p::PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(peer.bytes()).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// Turns libp2p's id into ours, if it is an inlined ed25519 key.
fn our_id(peer: &libp2p::PeerId) -> Option<PeerId> {
    let hash: &libp2p::multihash::Multihash<64> = peer.as_ref();
    let key = identity::PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    let key = key.try_into_ed25519().ok()?;
    Some(PeerId::new(key.to_bytes()))
}

impl Hub {
    pub(super) fn new(
        config: &NetConfig,
        connections: Connections,
        desk: Desk,
        (events, orders): (mpsc::Sender<NetEvent>, mpsc::WeakSender<Order>),
    ) -> anyhow::Result<Self> {
        let key = Keypair::ed25519_from_bytes(config.identity).context("a bad identity")?;
        let names = Names::new(&config.network)?;
        let (mdns, spoken) = (config.mdns, names.clone());
        let behaviour = move |key: &Keypair| Behaviour::new(key, spoken, mdns);
        let builder = SwarmBuilder::with_existing_identity(key).with_tokio().with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )?;
        let tune = |c: libp2p::swarm::Config| {
            c.with_idle_connection_timeout(Duration::from_secs(3600))
                .with_max_negotiating_inbound_streams(256)
                // The name of the protocol goes with the first bytes: a frame travels once, and not there, back and there.
                .with_substream_upgrade_protocol_override(Version::V1Lazy)
        };
        let mut quic_port = None;
        let mut swarm = if config.quic {
            let (listen, own) = (config.listen, connections.clone());
            let built = builder
                .with_other_transport(move |key| {
                    OneQuic::new(key, listen, own)
                        .map_err(Box::<dyn std::error::Error + Send + Sync>::from)
                })
                .with_context(|| format!("while binding UDP {}", config.listen))?;
            built.with_dns()?.with_behaviour(behaviour)?.with_swarm_config(tune).build()
        } else {
            builder.with_dns()?.with_behaviour(behaviour)?.with_swarm_config(tune).build()
        };
        swarm.behaviour_mut().kad.set_mode(Some(kad::Mode::Server));
        if config.quic {
            swarm
                .listen_on(quic_address(std::net::SocketAddr::new(config.listen.ip(), 0)))
                .with_context(|| format!("while listening at UDP {}", config.listen))?;
            quic_port = Some(0);
        }
        let tcp_address =
            Multiaddr::from(config.listen.ip()).with(Protocol::Tcp(config.listen.port()));
        swarm
            .listen_on(tcp_address)
            .with_context(|| format!("while listening at TCP {}", config.listen))?;
        Ok(Self {
            swarm,
            connections,
            inbox: Inbox::new(desk.clone()),
            desk,
            events,
            asked: BTreeMap::new(),
            sent: BTreeSet::new(),
            members: BTreeSet::new(),
            strangers: BTreeSet::new(),
            lookup: Lookup::default(),
            orders,
            addresses: Vec::new(),
            names,
            quic_port,
        })
    }

    pub(super) async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        ready: oneshot::Sender<Vec<String>>,
    ) {
        // Listening is known within milliseconds; the first addresses go into tickets.
        let listening = tokio::time::timeout(LISTEN, async {
            while !self.is_listening() {
                let event = self.swarm.select_next_some().await;
                self.on_event(event).await;
            }
        });
        if listening.await.is_err() {
            tracing::warn!("no address to listen at was found");
        }
        ready.send(self.addresses.clone()).unwrap_or_default();
        let (mut ticks, mut tick) = (0_u64, tokio::time::interval(TICK));
        // A loop that was late must not sweep twice at once.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    ticks += 1;
                    self.on_tick(ticks);
                }
                event = self.swarm.select_next_some() => self.on_event(event).await,
                order = orders.recv() => match order {
                    Some(Order::Stop(done)) => {
                        self.stop().await;
                        done.send(()).unwrap_or_default();
                        return;
                    }
                    Some(order) => self.on_order(order),
                    None => return,
                },
            }
        }
    }

    fn is_listening(&self) -> bool {
        let has = |what: &str| self.addresses.iter().any(|a| a.contains(what));
        has("/tcp/") && (self.quic_port.is_none() || has("/quic-v1"))
    }

    async fn tell(&mut self, event: NetEvent) {
        if self.events.send(event).await.is_err() {
            tracing::debug!("nobody listens to the network");
        }
    }

    async fn stop(&mut self) {
        // What was said last, such as a goodbye, is heard before the connections close.
        let heard = async {
            while !self.sent.is_empty() {
                let event = self.swarm.select_next_some().await;
                self.on_event(event).await;
            }
        };
        tokio::time::timeout(LAST_WORDS, heard).await.unwrap_or_default();
        let peers: Vec<libp2p::PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            for connection in self.connections.all(&peer) {
                connection.close(0u32.into(), b"leaves");
            }
            self.swarm.disconnect_peer_id(peer).unwrap_or_default();
        }
        // The closing packets leave while the loop still turns.
        let turning = async { while self.swarm.next().await.is_some() {} };
        tokio::time::timeout(Duration::from_millis(100), turning).await.unwrap_or(());
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Frame { to, bytes } => {
                if let Some(id) = library_id(&to) {
                    let rpc = &mut self.swarm.behaviour_mut().rpc;
                    let request = rpc.send_request(&id, Request::Frame(bytes));
                    self.sent.insert(request);
                }
            }
            Order::Dial { peer, addresses } => self.dial(peer, &addresses),
            Order::Announce(job) => {
                self.lookup.announce(job, &mut self.swarm.behaviour_mut().kad);
            }
            Order::Withdraw(job) => {
                self.lookup.withdraw(job, &mut self.swarm.behaviour_mut().kad);
            }
            Order::Seek(job) => self.lookup.seek(job, &mut self.swarm.behaviour_mut().kad),
            Order::Request { to, request, reply } => {
                if let Some(id) = library_id(&to) {
                    let request = self.swarm.behaviour_mut().rpc.send_request(&id, request);
                    self.asked.insert(request, reply);
                }
            }
            Order::Answer { from, offered, channel, take } => {
                let connected = library_id(&from).is_some_and(|id| self.members.contains(&id));
                let taken = take && connected && self.inbox.take(from, offered);
                self.answer(channel, taken);
            }
            Order::Stop(_) => {}
        }
    }

    fn dial(&mut self, peer: Option<PeerId>, addresses: &[String]) {
        let mut addresses: Vec<Multiaddr> =
            addresses.iter().filter_map(|a| a.parse().ok()).collect();
        // One after another, QUIC first: TCP is for networks that let nothing else through.
        addresses.sort_by_key(|a| !is_quic(a));
        let id = peer.as_ref().and_then(library_id);
        let dialed = match id {
            Some(id) if self.swarm.is_connected(&id) || id == *self.swarm.local_peer_id() => return,
            Some(id) => self.swarm.dial(
                DialOpts::peer_id(id)
                    .addresses(addresses)
                    .override_dial_concurrency_factor(NonZeroU8::MIN)
                    .build(),
            ),
            None => match addresses.into_iter().next() {
                Some(address) => self.swarm.dial(address),
                None => return,
            },
        };
        if let Err(error) = dialed {
            tracing::debug!(%error, "a dial did not begin");
        }
    }

    async fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => self.on_address(address).await,
            SwarmEvent::ConnectionEstablished { peer_id, .. } => match our_id(&peer_id) {
                Some(peer) if self.members.contains(&peer_id) => self.serve(&peer_id, peer),
                // Identify is under way.
                Some(_) => {}
                None => self.swarm.disconnect_peer_id(peer_id).unwrap_or_default(),
            },
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                if let Some(peer) = our_id(&peer_id).filter(|_| self.members.remove(&peer_id)) {
                    self.inbox.forget(peer);
                    self.tell(NetEvent::Disconnected { peer }).await;
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => {
                self.on_identify(event).await;
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(list))) => {
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
            SwarmEvent::Behaviour(BehaviourEvent::Rpc(event)) => self.on_rpc(event).await,
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.on_kad(event),
            other => tracing::trace!(?other, "libp2p"),
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
            let text = address.to_string();
            if !self.addresses.contains(&text) {
                self.addresses.push(text.clone());
                self.tell(NetEvent::Listening { address: text }).await;
            }
        }
        // QUIC first: a ticket is dialed in order of preference.
        self.addresses.sort_by_key(|a| !a.contains("/quic-v1"));
    }

    async fn on_identify(&mut self, event: identify::Event) {
        let (peer_id, info) = match event {
            identify::Event::Received { peer_id, info, .. } => (peer_id, info),
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
        let addresses: Vec<Multiaddr> = info.listen_addrs.into_iter().take(ADDRESSES_MAX).collect();
        if info.protocols.contains(&self.names.kad) {
            for address in addresses.clone() {
                self.swarm.behaviour_mut().kad.add_address(&peer_id, address);
            }
            self.lookup.came(&mut self.swarm.behaviour_mut().kad);
        }
        self.admit(peer_id, peer).await;
        self.prefer_quic(peer_id, addresses);
    }

    /// Counts a peer of our network as connected, and opens its tensor streams.
    async fn admit(&mut self, peer_id: libp2p::PeerId, peer: PeerId) {
        if self.members.contains(&peer_id) || !self.swarm.is_connected(&peer_id) {
            return;
        }
        self.serve(&peer_id, peer);
        self.members.insert(peer_id);
        self.strangers.remove(&peer_id);
        let quic = self.connections.best(&peer_id).is_some();
        self.tell(NetEvent::Connected { peer, quic }).await;
    }

    fn serve(&self, peer_id: &libp2p::PeerId, peer: PeerId) {
        for connection in self.connections.unserved(peer_id) {
            connection.set_max_concurrent_uni_streams(STREAMS.into());
            let (desk, events) = (self.desk.clone(), self.events.clone());
            tokio::spawn(bulk::serve(connection, peer, desk, events));
        }
    }

    /// Kademlia dials every address of a peer at once, and TCP may win: tensors want QUIC.
    fn prefer_quic(&mut self, peer_id: libp2p::PeerId, mut addresses: Vec<Multiaddr>) {
        addresses.retain(is_quic);
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

    fn on_kad(&mut self, event: kad::Event) {
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

    fn on_tick(&mut self, ticks: u64) {
        let members = &self.members;
        let kad = &mut self.swarm.behaviour_mut().kad;
        self.lookup.tick(kad, |peer| members.contains(peer));
        if ticks.is_multiple_of(SWEEP) {
            self.inbox.sweep();
        }
    }

    fn answer(&mut self, channel: ResponseChannel<bool>, answer: bool) {
        // Who asked may be gone.
        self.swarm.behaviour_mut().rpc.send_response(channel, answer).unwrap_or_default();
    }

    async fn on_rpc(&mut self, event: request_response::Event<Request, bool>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    if let Some(from) = our_id(&peer) {
                        // The name of the protocol is the network's: identify may take longer than this.
                        self.admit(peer, from).await;
                        self.on_request(from, request, channel).await;
                    }
                }
                request_response::Message::Response { request_id, response } => {
                    self.sent.remove(&request_id);
                    if let Some(reply) = self.asked.remove(&request_id) {
                        reply.send(response).unwrap_or_default();
                    }
                }
            },
            request_response::Event::OutboundFailure { request_id, error, peer, .. } => {
                tracing::debug!(%peer, %error, "a request failed");
                self.sent.remove(&request_id);
                // Dropping the reply tells the one who waits.
                drop(self.asked.remove(&request_id));
            }
            request_response::Event::InboundFailure { .. }
            | request_response::Event::ResponseSent { .. } => {}
        }
    }

    async fn on_request(&mut self, from: PeerId, request: Request, channel: ResponseChannel<bool>) {
        match request {
            Request::Frame(bytes) => {
                self.tell(NetEvent::Frame { from, bytes }).await;
                self.answer(channel, true);
            }
            Request::Offer(offered) => {
                let length = offered.length;
                let Some(orders) = self.orders.upgrade().filter(|_| length <= BUNDLE_MAX) else {
                    self.answer(channel, false);
                    return;
                };
                let (reply, answer) = oneshot::channel();
                let header = offered.header.clone();
                self.tell(NetEvent::Offer { from, header, length, reply }).await;
                tokio::spawn(async move {
                    let take = answer.await.unwrap_or(false);
                    let order = Order::Answer { from, offered, channel, take };
                    if orders.send(order).await.is_err() {
                        tracing::debug!("the network is closed");
                    }
                });
            }
            Request::Probe(_) => self.answer(channel, true),
            Request::Chunk { nonce, bytes } => {
                let good = match self.inbox.chunk(from, nonce, &bytes) {
                    Chunked::More => true,
                    Chunked::Refused => false,
                    Chunked::Whole { header, payload } => {
                        self.tell(NetEvent::Arrived { from, header, payload }).await;
                        true
                    }
                };
                self.answer(channel, good);
            }
        }
    }
}

fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}
