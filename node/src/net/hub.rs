//! The libp2p loop: connections, identify, ping, Kademlia, mDNS, control frames, and tensors for peers without QUIC.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU8;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::{self, Keypair};
use libp2p::kad::{self, store::MemoryStore};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{self, OutboundRequestId, ProtocolSupport, ResponseChannel};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, StreamProtocol, Swarm, SwarmBuilder, identify, mdns, memory_connection_limits,
    noise, ping, tcp, yamux,
};
use tokio::sync::{mpsc, oneshot};
use wattle_protocol::ids::{JobId, PeerId};

use super::bulk::{self, Desk, Kind};
use super::rpc::{CHUNK, Codec, Request};
use super::transport::{Connections, OneQuic, quic_address};
use super::{BUNDLE_MAX, NetConfig, NetEvent};

/// Unidirectional streams that an admitted peer may have open at once: bundles, probes and receipts.
const STREAMS: u32 = 256;
/// Bundles that may be in the middle of arriving over TCP, from all peers.
const INCOMING_MAX: usize = 64;
/// A request that is not answered by then has failed.
const REQUEST: Duration = Duration::from_secs(30);
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
    FindProviders(JobId),
    /// A request of the TCP fallback; answered yes or no.
    Request {
        to: PeerId,
        request: Request,
        reply: oneshot::Sender<bool>,
    },
    /// The driver's answer to an offer that came over TCP.
    Answer {
        from: PeerId,
        nonce: u64,
        incoming: Incoming,
        channel: ResponseChannel<bool>,
        take: bool,
    },
    Stop(oneshot::Sender<()>),
}

/// A bundle that arrives over TCP.
#[derive(Debug)]
pub(super) struct Incoming {
    length: u64,
    hash: [u8; 32],
    header: Vec<u8>,
    payload: BytesMut,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    // Limits first: they are asked first and deny cheaply.
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
    mdns: Toggle<mdns::tokio::Behaviour>,
    rpc: request_response::Behaviour<Codec>,
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
    incoming: BTreeMap<(PeerId, u64), Incoming>,
    searches: HashMap<kad::QueryId, JobId>,
    /// Lets answers of the driver find their way back into the loop; weak, so that the loop ends with its handles.
    orders: mpsc::WeakSender<Order>,
    addresses: Vec<String>,
    kad_name: StreamProtocol,
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

fn job_key(job: JobId) -> kad::RecordKey {
    kad::RecordKey::new(&[b"wattle-job:", job.bytes().as_slice()].concat())
}

impl Hub {
    pub(super) fn new(
        config: &NetConfig,
        connections: Connections,
        desk: Desk,
        (events, orders): (mpsc::Sender<NetEvent>, mpsc::WeakSender<Order>),
    ) -> anyhow::Result<Self> {
        let key = Keypair::ed25519_from_bytes(config.identity).context("a bad identity")?;
        let name = |what: &str| {
            StreamProtocol::try_from_owned(format!("/{}/{what}/1", config.network))
                .with_context(|| format!("\"{}\" is no network name", config.network))
        };
        let (kad_name, rpc_name) = (name("kad")?, name("rpc")?);
        let identify_name = format!("/{}/1", config.network);
        let (mdns, kad) = (config.mdns, kad_name.clone());
        let behaviour = move |key: &Keypair| behaviour(key, kad, rpc_name, identify_name, mdns);
        let builder = SwarmBuilder::with_existing_identity(key).with_tokio().with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )?;
        let tune = |c: libp2p::swarm::Config| {
            c.with_idle_connection_timeout(Duration::from_secs(3600))
                .with_max_negotiating_inbound_streams(256)
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
            desk,
            events,
            asked: BTreeMap::new(),
            sent: BTreeSet::new(),
            incoming: BTreeMap::new(),
            searches: HashMap::new(),
            orders,
            addresses: Vec::new(),
            kad_name,
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
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event).await,
                order = orders.recv() => match order {
                    Some(Order::Stop(done)) => {
                        self.stop().await;
                        done.send(()).unwrap_or_default();
                        return;
                    }
                    Some(order) => self.on_order(order).await,
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

    async fn on_order(&mut self, order: Order) {
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
                if let Err(error) = self.swarm.behaviour_mut().kad.start_providing(job_key(job)) {
                    tracing::warn!(%error, "the job cannot be announced");
                }
            }
            Order::FindProviders(job) => {
                let query = self.swarm.behaviour_mut().kad.get_providers(job_key(job));
                self.searches.insert(query, job);
            }
            Order::Request { to, request, reply } => {
                if let Some(id) = library_id(&to) {
                    let request = self.swarm.behaviour_mut().rpc.send_request(&id, request);
                    self.asked.insert(request, reply);
                }
            }
            Order::Answer { from, nonce, incoming, channel, take } => {
                if take && self.incoming.len() < INCOMING_MAX {
                    self.incoming.insert((from, nonce), incoming);
                }
                self.swarm.behaviour_mut().rpc.send_response(channel, take).unwrap_or_default();
            }
            Order::Stop(_) => {}
        }
    }

    fn dial(&mut self, peer: Option<PeerId>, addresses: &[String]) {
        let mut addresses: Vec<Multiaddr> =
            addresses.iter().filter_map(|a| a.parse().ok()).collect();
        // One after another, QUIC first: TCP is for networks that let nothing else through.
        addresses.sort_by_key(|a| !a.iter().any(|part| part == Protocol::QuicV1));
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
            SwarmEvent::ConnectionEstablished { peer_id, num_established, .. } => {
                let Some(peer) = our_id(&peer_id) else {
                    self.swarm.disconnect_peer_id(peer_id).unwrap_or_default();
                    return;
                };
                for connection in self.connections.unserved(&peer_id) {
                    connection.set_max_concurrent_uni_streams(STREAMS.into());
                    let (desk, events) = (self.desk.clone(), self.events.clone());
                    tokio::spawn(bulk::serve(connection, peer, desk, events));
                }
                if num_established.get() == 1 {
                    let quic = self.connections.best(&peer_id).is_some();
                    self.tell(NetEvent::Connected { peer, quic }).await;
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                if let Some(peer) = our_id(&peer_id) {
                    self.incoming.retain(|(from, _), _| *from != peer);
                    self.tell(NetEvent::Disconnected { peer }).await;
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                if info.protocols.contains(&self.kad_name) {
                    for address in info.listen_addrs.into_iter().take(8) {
                        self.swarm.behaviour_mut().kad.add_address(&peer_id, address);
                    }
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(list))) => {
                let mut found: BTreeMap<PeerId, Vec<String>> = BTreeMap::new();
                for (id, address) in list {
                    if let Some(peer) = our_id(&id) {
                        found.entry(peer).or_default().push(address.to_string());
                    }
                }
                for (peer, addresses) in found {
                    self.dial(Some(peer), &addresses);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Rpc(event)) => self.on_rpc(event).await,
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.on_kad(event).await,
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

    async fn on_kad(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed { id, result, step, .. } = event else {
            return;
        };
        if let kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders {
            providers,
            ..
        })) = result
            && let Some(job) = self.searches.get(&id).copied()
        {
            for provider in providers {
                if let Some(peer) = our_id(&provider) {
                    let event = NetEvent::Provider { job, peer, addresses: Vec::new() };
                    self.tell(event).await;
                }
            }
        }
        if step.last {
            self.searches.remove(&id);
        }
    }

    async fn on_rpc(&mut self, event: request_response::Event<Request, bool>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    if let Some(from) = our_id(&peer) {
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
                self.swarm.behaviour_mut().rpc.send_response(channel, true).unwrap_or_default();
            }
            Request::Offer { nonce, length, hash, header } => {
                let incoming =
                    Incoming { length, hash, header: header.clone(), payload: BytesMut::new() };
                let Some(orders) = self.orders.upgrade().filter(|_| length <= BUNDLE_MAX) else {
                    self.swarm
                        .behaviour_mut()
                        .rpc
                        .send_response(channel, false)
                        .unwrap_or_default();
                    return;
                };
                let (reply, answer) = oneshot::channel();
                self.tell(NetEvent::Offer { from, header, length, reply }).await;
                tokio::spawn(async move {
                    let take = answer.await.unwrap_or(false);
                    let order = Order::Answer { from, nonce, incoming, channel, take };
                    if orders.send(order).await.is_err() {
                        tracing::debug!("the network is closed");
                    }
                });
            }
            Request::Probe(_) => {
                self.swarm.behaviour_mut().rpc.send_response(channel, true).unwrap_or_default();
            }
            Request::Chunk { nonce, bytes } => {
                let good = self.on_chunk(from, nonce, &bytes).await;
                self.swarm.behaviour_mut().rpc.send_response(channel, good).unwrap_or_default();
            }
        }
    }

    async fn on_chunk(&mut self, from: PeerId, nonce: u64, bytes: &[u8]) -> bool {
        let Some(incoming) = self.incoming.get_mut(&(from, nonce)) else {
            return false;
        };
        let have = incoming.payload.len() as u64 + bytes.len() as u64;
        if have > incoming.length {
            self.incoming.remove(&(from, nonce));
            return false;
        }
        incoming.payload.extend_from_slice(bytes);
        if have < incoming.length {
            return true;
        }
        let Some(done) = self.incoming.remove(&(from, nonce)) else {
            return false;
        };
        let payload = done.payload.freeze();
        if blake3::hash(&payload).as_bytes() != &done.hash {
            return false;
        }
        self.tell(NetEvent::Arrived { from, header: done.header, payload }).await;
        true
    }
}

/// Sends a bundle or a probe to a peer without QUIC: an offer, then chunk after chunk.
pub(super) async fn carry(
    orders: &mpsc::Sender<Order>,
    desk: &Desk,
    to: PeerId,
    kind: Kind,
    header: &[u8],
    payload: Vec<Bytes>,
) -> bool {
    let ask = async |request: Request| {
        let (reply, answer) = oneshot::channel();
        let sent = orders.send(Order::Request { to, request, reply }).await.is_ok();
        sent && answer.await.unwrap_or(false)
    };
    if kind == Kind::Probe {
        for part in payload {
            if part.is_empty() && !ask(Request::Probe(Vec::new())).await {
                return false;
            }
            for chunk in part.chunks(CHUNK) {
                if !ask(Request::Probe(chunk.to_vec())).await {
                    return false;
                }
            }
        }
        return true;
    }
    let length: u64 = payload.iter().map(|p| p.len() as u64).sum();
    let (nonce, hash) = (desk.nonce(), bulk::hash(&payload));
    if !ask(Request::Offer { nonce, length, hash, header: header.to_vec() }).await {
        return false;
    }
    if length == 0 {
        return ask(Request::Chunk { nonce, bytes: Vec::new() }).await;
    }
    for part in payload {
        for chunk in part.chunks(CHUNK) {
            if !ask(Request::Chunk { nonce, bytes: chunk.to_vec() }).await {
                return false;
            }
        }
    }
    true
}

fn behaviour(
    key: &Keypair,
    kad_name: StreamProtocol,
    rpc_name: StreamProtocol,
    identify_name: String,
    with_mdns: bool,
) -> Result<Behaviour, Box<dyn std::error::Error + Send + Sync>> {
    let me = key.public().to_peer_id();
    let mut kad_config = kad::Config::new(kad_name);
    kad_config
        .set_query_timeout(Duration::from_secs(20))
        .set_provider_record_ttl(Some(Duration::from_secs(1800)))
        .set_provider_publication_interval(Some(Duration::from_secs(600)))
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .disjoint_query_paths(true)
        .set_max_packet_size(8 * 1024);
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(64))
        .with_max_pending_outgoing(Some(64))
        .with_max_established_incoming(Some(256))
        .with_max_established_outgoing(Some(256))
        .with_max_established(Some(400))
        .with_max_established_per_peer(Some(4));
    let mdns =
        with_mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), me)).transpose()?;
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        memory: memory_connection_limits::Behaviour::with_max_percentage(0.95),
        identify: identify::Behaviour::new(
            identify::Config::new(identify_name, key.public())
                .with_agent_version(concat!("wattle/", env!("CARGO_PKG_VERSION")).into())
                .with_push_listen_addr_updates(true),
        ),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(15))),
        kad: kad::Behaviour::with_config(me, MemoryStore::new(me), kad_config),
        mdns: mdns.into(),
        rpc: request_response::Behaviour::with_codec(
            Codec,
            [(rpc_name, ProtocolSupport::Full)],
            request_response::Config::default()
                .with_request_timeout(REQUEST)
                .with_max_concurrent_streams(1024),
        ),
    })
}
