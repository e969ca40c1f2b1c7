//! libp2p's transport over our own QUIC endpoint: one UDP socket, one connection a peer.
//!
//! libp2p's protocols ride on bidirectional streams, tensors on unidirectional streams of the same connection
//! (decision 0002). Replaces libp2p-quic, whose socket buffers, windows and statistics are out of reach.
//! Not here: libp2p's view of a connection (`muxer`), who punches holes when (`hub`), and the migration of connections (the other side redials).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libp2p::core::Transport;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::congestion::Windows;
use super::muxer::Muxer;
use super::tls;

/// Socket buffers: below this the kernel drops packets at 1 Gbit/s (measured: 209 against 926 Mbit/s).
const SOCKET_BUFFER: usize = 4 << 20;
/// Receive window of one stream, and of a connection: covers 1 Gbit/s at 128 ms.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Packets for one acknowledgement: each costs both ends a packet, and 1 Gbit/s are 86,000 packets a second.
const ACKNOWLEDGED: u32 = 10;
/// None waits longer: at 8 Mbit/s ten packets take 15 ms, for which a window would have to be larger.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_millis(5);
/// Machines that were dialed and are remembered.
const DIALED_MAX: usize = 4096;
/// A dial or handshake that takes longer has failed.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A silent connection is closed after this; keep-alives are sent three times as often.
const IDLE: Duration = Duration::from_secs(15);

/// A live connection, and whether its tensor streams are served. The flag lives with the connection, since quinn's
/// stable ids are those of memory and come again.
#[derive(Debug)]
struct Live {
    connection: quinn::Connection,
    served: bool,
}

/// Live QUIC connections by peer, for the data plane. One leaves when libp2p drops it.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Mutex<BTreeMap<PeerId, Vec<Live>>>>, Arc<Mutex<Dialed>>);

/// Machines to which packets have gone, so that a NAT would let theirs in.
type Dialed = BTreeSet<IpAddr>;

impl Connections {
    /// Returns the peer's best connection: the one with the lowest round trip.
    pub(super) fn best(&self, peer: &PeerId) -> Option<quinn::Connection> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(peer)?.iter().map(|l| &l.connection).min_by_key(|c| c.rtt()).cloned()
    }

    /// Returns all connections of a peer.
    pub(super) fn all(&self, peer: &PeerId) -> Vec<quinn::Connection> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(peer).into_iter().flatten().map(|l| l.connection.clone()).collect()
    }

    /// Returns the peer's connections that nobody serves yet; each is returned once.
    pub(super) fn unserved(&self, peer: &PeerId) -> Vec<quinn::Connection> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let live = map.get_mut(peer).into_iter().flatten();
        live.filter_map(|l| (!std::mem::replace(&mut l.served, true)).then(|| l.connection.clone()))
            .collect()
    }

    /// Says whether anything may have been sent to a machine before it connected.
    pub(super) fn has_dialed(&self, ip: IpAddr) -> bool {
        let dialed = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        // A full list says nothing of who is not on it.
        dialed.len() >= DIALED_MAX || dialed.contains(&ip)
    }

    fn dials(&self, ip: IpAddr) {
        let mut dialed = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if dialed.len() < DIALED_MAX {
            dialed.insert(ip);
        }
    }

    pub(super) fn add(&self, peer: PeerId, connection: quinn::Connection) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.entry(peer).or_default().push(Live { connection, served: false });
    }

    pub(super) fn remove(&self, peer: &PeerId, id: usize) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = map.get_mut(peer) {
            list.retain(|l| l.connection.stable_id() != id);
            if list.is_empty() {
                map.remove(peer);
            }
        }
    }
}

type Upgrade = BoxFuture<'static, io::Result<(PeerId, Muxer)>>;

/// The transport.
pub(super) struct OneQuic {
    endpoint: quinn::Endpoint,
    client: quinn::ClientConfig,
    connections: Connections,
    accept: BoxFuture<'static, Option<quinn::Incoming>>,
    listener: Option<(ListenerId, Multiaddr)>,
    events: VecDeque<TransportEvent<Upgrade, io::Error>>,
}

fn transport_config() -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    let mut acknowledged = quinn::AckFrequencyConfig::default();
    acknowledged
        .ack_eliciting_threshold(ACKNOWLEDGED.into())
        .max_ack_delay(Some(ACKNOWLEDGED_WITHIN));
    config
        .ack_frequency_config(Some(acknowledged))
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_concurrent_bidi_streams(256u32.into())
        // Opened once libp2p has admitted the connection.
        .max_concurrent_uni_streams(0u32.into())
        .congestion_controller_factory(Arc::new(Windows))
        .max_idle_timeout(IDLE.try_into().ok())
        .keep_alive_interval(Some(IDLE / 3));
    Arc::new(config)
}

fn accept(endpoint: &quinn::Endpoint) -> BoxFuture<'static, Option<quinn::Incoming>> {
    let endpoint = endpoint.clone();
    async move { endpoint.accept().await }.boxed()
}

async fn establish(
    connecting: impl Future<Output = Result<quinn::Connection, quinn::ConnectionError>>,
    connections: Connections,
) -> io::Result<(PeerId, Muxer)> {
    let connection = tokio::time::timeout(HANDSHAKE, connecting).await??;
    let peer = tls::remote_peer(&connection)?;
    connections.add(peer, connection.clone());
    Ok((peer, Muxer::new(connection, peer, connections)))
}

impl OneQuic {
    /// Binds the one socket.
    ///
    /// *Errors*: the address is taken or not ours.
    pub(super) fn new(
        key: &Keypair,
        address: SocketAddr,
        connections: Connections,
    ) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(address);
        let socket =
            socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
        // The kernel caps these at its own limits, which is as good as it gets there.
        socket.set_recv_buffer_size(SOCKET_BUFFER).unwrap_or_default();
        socket.set_send_buffer_size(SOCKET_BUFFER).unwrap_or_default();
        socket.bind(&address.into())?;
        let socket: UdpSocket = socket.into();
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls::server(key)?));
        server.transport = transport_config();
        // libp2p would not learn of the new address.
        server.migration(false);
        let mut client = quinn::ClientConfig::new(Arc::new(tls::client(key)?));
        client.transport_config(transport_config());
        let endpoint = quinn::Endpoint::new(
            quinn::EndpointConfig::default(),
            Some(server),
            socket,
            Arc::new(quinn::TokioRuntime),
        )?;
        Ok(Self {
            accept: accept(&endpoint),
            endpoint,
            client,
            connections,
            listener: None,
            events: VecDeque::new(),
        })
    }
}

fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else { return None };
    let Protocol::QuicV1 = parts.next()? else { return None };
    match parts.next() {
        None | Some(Protocol::P2p(_)) => {}
        Some(_) => return None,
    }
    parts.next().is_none().then(|| SocketAddr::new(ip, port))
}

/// Writes a socket address as a multiaddress.
pub(super) fn quic_address(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

impl Transport for OneQuic {
    type Output = (PeerId, Muxer);
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        let local = self.endpoint.local_addr().map_err(TransportError::Other)?;
        match socket_address(&address) {
            Some(a) if self.listener.is_none() && (a.port() == 0 || a.port() == local.port()) => {
                let listen_addr = quic_address(SocketAddr::new(a.ip(), local.port()));
                self.listener = Some((id, listen_addr.clone()));
                self.events.push_back(TransportEvent::NewAddress { listener_id: id, listen_addr });
                Ok(())
            }
            _ => Err(TransportError::MultiaddrNotSupported(address)),
        }
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let found = self.listener.as_ref().is_some_and(|(l, _)| *l == id);
        if found {
            self.listener = None;
            let closed = TransportEvent::ListenerClosed { listener_id: id, reason: Ok(()) };
            self.events.push_back(closed);
        }
        found
    }

    // Who punches a hole as the listener (`DialOpts`) dials like the dialer: QUIC lets both connect at once, from the
    // sockets they listen on, and whichever first packet finds the other's NAT open makes a connection.
    fn dial(
        &mut self,
        address: Multiaddr,
        _: DialOpts,
    ) -> Result<Upgrade, TransportError<io::Error>> {
        let Some(to) = socket_address(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        if to.port() == 0 || to.ip().is_unspecified() {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        let (endpoint, client) = (self.endpoint.clone(), self.client.clone());
        let connections = self.connections.clone();
        connections.dials(to.ip());
        Ok(async move {
            // The server's name is unused: the certificate names the peer, which libp2p checks.
            let connecting = endpoint.connect_with(client, to, "l").map_err(io::Error::other)?;
            establish(connecting, connections).await
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Upgrade, io::Error>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            let Some(incoming) = ready!(self.accept.poll_unpin(context)) else {
                return Poll::Pending;
            };
            self.accept = accept(&self.endpoint);
            let from = incoming.remote_address();
            let Some((listener_id, local_addr)) = self.listener.clone() else {
                incoming.refuse();
                continue;
            };
            let connections = self.connections.clone();
            let upgrade = async move { establish(incoming.accept()?, connections).await }.boxed();
            let send_back_addr = quic_address(from);
            return Poll::Ready(TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            });
        }
    }
}

/// Two ends of one connection over loopback, for tests: who dialed, and who was dialed. The endpoints must outlive it.
#[cfg(test)]
pub(super) async fn pair() -> ([quinn::Endpoint; 2], [quinn::Connection; 2]) {
    let end = || {
        let key = Keypair::generate_ed25519();
        OneQuic::new(&key, SocketAddr::from(([127, 0, 0, 1], 0)), Connections::default()).unwrap()
    };
    let (dialer, dialed) = (end(), end());
    let to = dialed.endpoint.local_addr().unwrap();
    let dial = dialer.endpoint.connect_with(dialer.client.clone(), to, "l").unwrap();
    let answer = async { dialed.accept.await.unwrap().accept().unwrap().await.unwrap() };
    let (near, far) = tokio::join!(dial, answer);
    ([dialer.endpoint, dialed.endpoint], [near.unwrap(), far])
}
