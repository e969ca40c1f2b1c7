//! The network: identity, discovery, control frames, tensor bundles, measured links. libp2p's and quinn's types stop
//! at this border; what passes is bytes, our ids and our units.
//!
//! [`transport`], [`muxer`] and [`tls`] (one QUIC connection a peer), [`hub`] (the libp2p loop) with [`behaviour`] (its
//! settings), [`rpc`] (frames) and [`lookup`] (jobs in Kademlia), [`reach`], [`relays`], [`punch`] and [`paths`] (NATs:
//! who is reached how), [`bulk`] and [`fallback`] (tensors with and without QUIC, over one [`desk`]), [`congestion`] (how
//! many bytes may be under way), [`probe`] and [`strain`] (links as measured) with [`leaves`] (what else is under way),
//! [`emulate`] (link limits for demonstrations), [`ticket`].

mod behaviour;
mod bulk;
mod congestion;
mod desk;
mod emulate;
mod fallback;
mod hub;
mod intake;
mod leaves;
mod lookup;
mod muxer;
mod paths;
mod probe;
mod punch;
mod reach;
mod relays;
mod rpc;
mod strain;
#[cfg(test)]
mod tests;
mod ticket;
mod tls;
mod transport;
mod turns;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration as StdDuration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use wattle_models::exec::store::Bundle;
use wattle_protocol::ids::{JobId, PeerId};
use wattle_protocol::schedule::gauge::Packets;
use wattle_protocol::units::{Bytes as Size, Duration, Rate};

pub use emulate::{EmulatedLink, EmulatedLinks};
pub use intake::Take;
pub use paths::{Path, Paths, Way};
pub use strain::{Strained, percentile};
pub use ticket::{Ticket, TicketError};
pub use turns::Haste;

use bulk::Kind;
use desk::{Desk, Patience};
use emulate::Lines;
use hub::Order;
use paths::Board;
use transport::Connections;

/// Most bytes of a control frame.
pub const FRAME_MAX: usize = wattle_protocol::wire::frame::FRAME_MAX;
/// Most bytes of a bundle's header.
pub const HEADER_MAX: usize = 1024;
/// Most bytes of a bundle.
pub const BUNDLE_MAX: u64 = 1 << 30;
/// Most bytes of a probe.
const PROBE_MAX: u64 = 16 << 20;
/// Orders that may wait for the hub; beyond, frames are dropped, and the machines say them again.
const ORDERS: usize = 16_384;
/// Events that may wait for the driver.
const EVENTS: usize = 16_384;

/// How the network is opened.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Seed of the ed25519 identity.
    pub identity: [u8; 32],
    /// Where to listen; port 0 for any.
    pub listen: SocketAddr,
    /// Find peers on the local network.
    pub mdns: bool,
    /// Name of the network.
    pub network: String,
    /// Use QUIC; without it, TCP only.
    pub quic: bool,
    /// Carry others' circuits once this machine is known to be reached from everywhere.
    pub relay: bool,
    /// Where others reach this machine from everywhere, if its owner knows.
    pub external: Option<SocketAddr>,
    /// Emulated limits.
    pub links: EmulatedLinks,
}

/// What the network has to say.
#[derive(Debug)]
pub enum NetEvent {
    /// This machine is reached here, and nowhere else.
    Listening {
        /// Multiaddresses, the best first.
        addresses: Vec<String>,
    },
    /// A connection to a peer of this network is up, the first.
    Connected {
        /// Who.
        peer: PeerId,
        /// Whether it is QUIC, so that tensors have streams of their own.
        quic: bool,
    },
    /// The last connection to a peer is gone.
    Disconnected {
        /// Who.
        peer: PeerId,
    },
    /// A connected peer is reached straight where a relay was needed, or the other way round: its link is another one.
    PathChanged {
        /// Who.
        peer: PeerId,
    },
    /// A control frame.
    Frame {
        /// The sender, authenticated.
        from: PeerId,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// A bundle is offered; none of it is read before the answer.
    Offer {
        /// The sender, authenticated.
        from: PeerId,
        /// Its header.
        header: Vec<u8>,
        /// Bytes of its payload.
        length: u64,
        /// How it is taken; None: it is not.
        reply: oneshot::Sender<Option<Take>>,
    },
    /// A taken bundle is here and its hash is right.
    Arrived {
        /// The sender, authenticated.
        from: PeerId,
        /// Its header.
        header: Vec<u8>,
        /// Bytes of its payload on the way here.
        length: u64,
        /// Its payload.
        payload: Bundle,
    },
    /// A shipment has ended.
    Shipped {
        /// The tag it was given.
        tag: u64,
        /// To whom.
        to: PeerId,
        /// Bytes of its payload.
        bytes: u64,
        /// Whether the receiver has it.
        delivered: bool,
        /// How long it took, if nothing else left this machine meanwhile: then it has measured the link.
        alone: Option<Duration>,
    },
    /// A link has been measured.
    LinkMeasured {
        /// The other end.
        peer: PeerId,
        /// Achieved rate towards it.
        rate: Rate,
        /// Round trip.
        round_trip: Duration,
        /// Packets towards it since the last measurement; none over TCP.
        packets: Packets,
    },
}

/// Bytes that went to and came from a peer as bundles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent and delivered.
    pub sent: Size,
    /// Received.
    pub received: Size,
}

/// The network's handle; copies share it. Its methods do not block.
#[derive(Clone, Debug)]
pub struct Net {
    orders: mpsc::Sender<Order>,
    events: mpsc::Sender<NetEvent>,
    connections: Connections,
    desk: Desk,
    board: Board,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    links: Mutex<(EmulatedLinks, Lines)>,
    traffic: Mutex<BTreeMap<PeerId, Traffic>>,
    /// Packets of each link's connection when it was measured last, and which connection that was.
    packets: Mutex<BTreeMap<PeerId, (usize, Packets)>>,
    /// One link is measured at a time, so that probes do not measure each other.
    probing: Semaphore,
    /// Bundles and probes that have left this machine: how many in all, and how many are under way.
    leaving: Mutex<(u64, u64)>,
}

impl Net {
    /// Opens the network; returns once it listens.
    ///
    /// *Errors*: the port is taken, the address is not ours.
    pub async fn start(config: NetConfig) -> anyhow::Result<(Self, mpsc::Receiver<NetEvent>)> {
        let (events, events_out) = mpsc::channel(EVENTS);
        let (orders, orders_out) = mpsc::channel(ORDERS);
        let shared = Arc::new(Shared {
            links: Mutex::new((config.links.clone(), Lines::default())),
            traffic: Mutex::new(BTreeMap::new()),
            packets: Mutex::new(BTreeMap::new()),
            probing: Semaphore::new(1),
            leaving: Mutex::new((0, 0)),
        });
        let net = Self {
            orders,
            events: events.clone(),
            connections: Connections::default(),
            desk: Desk::new(Patience::default()),
            board: Board::default(),
            shared,
        };
        let (ready, listening) = oneshot::channel();
        let ends = (events, net.orders.downgrade());
        let parts = (net.connections.clone(), net.desk.clone(), net.board.clone());
        let hub = hub::Hub::new(&config, parts, ends)?;
        tokio::spawn(hub.run(orders_out, ready));
        listening.await.context("the network did not open")?;
        Ok((net, events_out))
    }

    /// Sends a control frame.
    pub fn send(&self, to: PeerId, bytes: Vec<u8>) {
        let order = Order::Frame { to, bytes };
        match self.link(&to).map(|l| l.latency).filter(|l| *l > Duration::ZERO) {
            None => self.order(order),
            Some(latency) => {
                let orders = self.orders.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(std(latency)).await;
                    if orders.send(order).await.is_err() {
                        tracing::debug!("the network is closed");
                    }
                });
            }
        }
    }

    /// Tries to connect.
    pub fn dial(&self, peer: Option<PeerId>, addresses: Vec<String>) {
        self.order(Order::Dial { peer, addresses });
    }

    /// Says in the DHT that this peer takes part in a job.
    pub fn announce(&self, job: JobId) {
        self.order(Order::Announce(job));
    }

    /// Takes back what `announce` has said.
    pub fn withdraw(&self, job: JobId) {
        self.order(Order::Withdraw(job));
    }

    /// Looks in the DHT for whoever takes part in a job, until one of them is connected.
    pub fn seek(&self, job: JobId) {
        self.order(Order::Seek(job));
    }

    /// Sends a bundle; a `Shipped` event says how it ended. What a step waits for goes in the order of these calls, one
    /// after another.
    pub fn ship(
        &self,
        to: PeerId,
        (tag, haste): (u64, Haste),
        header: Vec<u8>,
        payload: Vec<Bytes>,
    ) {
        let net = self.clone();
        let kind = match haste {
            Haste::Step => Kind::Bundle,
            Haste::State => Kind::State,
        };
        tokio::spawn(async move {
            let bytes: u64 = payload.iter().map(|p| p.len() as u64).sum();
            let (delivered, alone) = net.carry_timed(to, kind, &header, payload).await;
            if delivered {
                net.count(to, |t| t.sent += Size::new(bytes));
            }
            let event = NetEvent::Shipped { tag, to, bytes, delivered, alone };
            if net.events.send(event).await.is_err() {
                tracing::debug!("nobody listens to the network");
            }
        });
    }

    /// Returns where this machine is reached, the best first.
    pub fn local_addresses(&self) -> Vec<String> {
        self.board.addresses.borrow().clone()
    }

    /// Returns bytes by peer.
    pub fn traffic(&self) -> BTreeMap<PeerId, Traffic> {
        self.shared.traffic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the emulated links.
    pub fn set_links(&self, links: EmulatedLinks) {
        self.shared.links.lock().unwrap_or_else(PoisonError::into_inner).0 = links;
    }

    /// Closes all connections, so that others see at once that this peer is gone.
    pub async fn shutdown(&self) {
        let (done, closed) = oneshot::channel();
        if self.orders.send(Order::Stop(done)).await.is_ok() {
            closed.await.unwrap_or_default();
        }
    }

    fn order(&self, order: Order) {
        if let Err(error) = self.orders.try_send(order) {
            tracing::warn!(%error, "the network is behind: an order is dropped");
        }
    }

    fn link(&self, to: &PeerId) -> Option<EmulatedLink> {
        self.shared.links.lock().unwrap_or_else(PoisonError::into_inner).0.link(to)
    }

    fn book(&self, to: PeerId, link: EmulatedLink, size: u64) -> Instant {
        let mut links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.1.book(to, link, Size::new(size), Instant::now())
    }

    fn count(&self, peer: PeerId, add: impl FnOnce(&mut Traffic)) {
        let mut traffic = self.shared.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        add(traffic.entry(peer).or_default());
    }

    /// Notes a bundle that has come in.
    pub(crate) fn received(&self, from: PeerId, size: Size) {
        self.count(from, |t| t.received += size);
    }

    /// Takes a bundle or probe over the (emulated) link.
    async fn carry(&self, to: PeerId, kind: Kind, header: &[u8], payload: Vec<Bytes>) -> bool {
        let size: u64 = payload.iter().map(|p| p.len() as u64).sum();
        let emulated = self.link(&to);
        if let Some(link) = emulated {
            tokio::time::sleep_until(self.book(to, link, size)).await;
        }
        let delivered = match hub::library_id(&to).and_then(|id| self.connections.best(&id)) {
            Some(connection) => {
                bulk::send((&connection, to), &self.desk, kind, header, payload).await
            }
            None => fallback::carry(&self.orders, &self.desk, to, kind, header, payload).await,
        };
        if let Some(link) = emulated {
            // The receipt travels back; links are taken to be as long in both directions.
            tokio::time::sleep(std(link.latency)).await;
        }
        delivered
    }

    /// Takes a bundle or probe over the link; says how long that took if nothing else was under way from here.
    async fn carry_timed(
        &self,
        to: PeerId,
        kind: Kind,
        header: &[u8],
        payload: Vec<Bytes>,
    ) -> (bool, Option<Duration>) {
        let leaves = self.leaves();
        let began = Instant::now();
        let delivered = self.carry(to, kind, header, payload).await;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        (delivered, leaves.is_alone().then_some(Duration::from_micros(took)))
    }

    /// Says how long a probe of this size takes to come back.
    async fn timed(&self, peer: PeerId, size: u64) -> Option<StdDuration> {
        let payload = Bytes::from(vec![0x5a; usize::try_from(size).ok()?]);
        let began = Instant::now();
        let (delivered, _) = self.carry_timed(peer, Kind::Probe, &[], vec![payload]).await;
        delivered.then(|| began.elapsed())
    }
}

fn std(duration: Duration) -> StdDuration {
    StdDuration::from_micros(duration.micros())
}
