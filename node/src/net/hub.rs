//! The libp2p loop: connections, who belongs to the network, control frames, and what else the handle orders.
//!
//! A peer counts as connected once it has named our network; until then its tensor streams stay shut, and one that
//! names another is sent away. In reading order: [`open`] (the swarm of libp2p), this file (orders), [`meeting`] (what
//! happens to connections), [`dialing`] (whom and where), [`requests`] (frames, and bundles without QUIC), [`nat`]
//! (relays and hole punching). Not here: libp2p's settings (`behaviour`), tensors (`bulk`, `fallback`), jobs (`lookup`).

mod dialing;
mod meeting;
mod nat;
mod open;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::identity;
use libp2p::request_response::{OutboundRequestId, ResponseChannel};
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, Swarm};
use tokio::sync::{mpsc, oneshot};
use wattle_protocol::ids::{JobId, PeerId};

use super::NetEvent;
use super::behaviour::{Behaviour, Names};
use super::desk::Desk;
use super::fallback::{Inbox, Offered};
use super::lookup::Lookup;
use super::paths::{Board, Ways};
use super::reach::Reach;
use super::relays::Relays;
use super::rpc::Request;
use super::transport::Connections;

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
/// No further interface is awaited after so long without news.
const QUIET: Duration = Duration::from_millis(50);

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
    /// Dials through relays, unless the peer is connected by now.
    Circuit {
        peer: libp2p::PeerId,
        addresses: Vec<Multiaddr>,
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
    /// Where this machine listens by itself, as its interfaces say.
    listening: Vec<String>,
    /// Where it listens through relays.
    circuits: Vec<String>,
    board: Board,
    ways: Ways,
    reach: Reach,
    relays: Relays,
    /// Connections that came in although nothing had been sent there.
    unasked: BTreeSet<ConnectionId>,
    ticks: u64,
    /// This peer has begun or ceased to relay: identify forgets who had not greeted us before, so all hear it again.
    is_to_tell: bool,
    names: Names,
    quic_port: Option<u16>,
}

/// Turns our id into libp2p's, if it is a key.
pub(super) fn library_id(peer: &PeerId) -> Option<libp2p::PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(peer.bytes()).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// Turns libp2p's id into ours, if it is an inlined ed25519 key.
pub(super) fn our_id(peer: &libp2p::PeerId) -> Option<PeerId> {
    let hash: &libp2p::multihash::Multihash<64> = peer.as_ref();
    let key = identity::PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    let key = key.try_into_ed25519().ok()?;
    Some(PeerId::new(key.to_bytes()))
}

impl Hub {
    pub(super) async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        ready: oneshot::Sender<()>,
    ) {
        // Listening is known within milliseconds; the first addresses go into tickets.
        let listening = tokio::time::timeout(LISTEN, async {
            while !self.is_listening() {
                let event = self.swarm.select_next_some().await;
                self.on_event(event).await;
            }
            // Each interface is an event of its own, and they come together.
            while let Ok(event) = tokio::time::timeout(QUIET, self.swarm.select_next_some()).await {
                self.on_event(event).await;
            }
        });
        if listening.await.is_err() && !self.is_listening() {
            tracing::warn!("no address to listen at was found");
        }
        ready.send(()).unwrap_or_default();
        let mut tick = tokio::time::interval(TICK);
        // A loop that was late must not sweep twice at once.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.on_tick().await,
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
        let has = |what: &str| self.listening.iter().any(|a| a.contains(what));
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
                    self.ways.carried(&id, bytes.len());
                    let rpc = &mut self.swarm.behaviour_mut().rpc;
                    let request = rpc.send_request(&id, Request::Frame(bytes));
                    self.sent.insert(request);
                }
            }
            Order::Dial { peer, addresses } => self.dial(peer, &addresses),
            Order::Circuit { peer, addresses } => self.dial_circuits(peer, addresses),
            Order::Announce(job) => {
                self.lookup.announce(job, &mut self.swarm.behaviour_mut().kad);
            }
            Order::Withdraw(job) => {
                self.lookup.withdraw(job, &mut self.swarm.behaviour_mut().kad);
            }
            Order::Seek(job) => self.lookup.seek(job, &mut self.swarm.behaviour_mut().kad),
            Order::Request { to, request, reply } => {
                if let Some(id) = library_id(&to) {
                    self.ways.carried(&id, request.size());
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

    async fn on_tick(&mut self) {
        self.ticks += 1;
        let members = &self.members;
        let kad = &mut self.swarm.behaviour_mut().kad;
        self.lookup.tick(kad, |peer| members.contains(peer));
        if self.ticks.is_multiple_of(SWEEP) {
            self.inbox.sweep();
        }
        self.tend_circuits().await;
    }
}
