//! THE loop: one `select!` over the network, timers, the execution thread and commands; inputs go into
//! `Peer::handle`, effects are performed in order. No decision is taken here.

mod give;
mod handle;

use std::collections::BTreeMap;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use wattle_protocol::ids::PeerId;
use wattle_protocol::schedule::advert::Advert;
use wattle_protocol::swarm::io::{
    Admission, Command, Effect, Event, Input, Length, Outbox, TaskError, TensorKey, TensorName,
    Timer,
};
use wattle_protocol::swarm::{Config, Life, Peer};
use wattle_protocol::units::{Bytes, Instant};
use wattle_protocol::wire::frame::{decode, encode};
use wattle_protocol::wire::message::Message;

use crate::clock::Clock;
use crate::net::{Haste, Net, NetConfig, NetEvent, Take};
use crate::worker::{Done, Forget, Worker};

use give::Giver;
use handle::Ask;
pub use handle::Node;

/// Completions that may wait for the loop.
const COMPLETIONS: usize = 1024;
/// Questions from this machine's commands that may wait.
const ASKS: usize = 64;
/// Events that may wait for a listener; a listener that lags loses the node, not the events.
const EVENTS: usize = 65_536;

/// How a node runs.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The network's part.
    pub net: NetConfig,
    /// Times of the peer.
    pub peer: Config,
    /// Whether this node computes; one that does not only watches and submits.
    pub worker: Option<WorkerSettings>,
    /// Peers to join through, as (peer, addresses).
    pub join: Vec<(PeerId, Vec<String>)>,
}

/// How a node computes.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Which device.
    pub device: wattle_models::exec::DeviceChoice,
    /// Share of the machine that this peer is made to have, in (0, 1].
    pub share: f64,
    /// Memory that jobs may use; None: most of what is free.
    pub memory: Option<u64>,
}

/// What a peer knows of another, for people.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Who.
    pub peer: PeerId,
    /// Whether it lives.
    pub life: Life,
    /// What it says of itself.
    pub advert: Option<Advert>,
}

struct Driver {
    clock: Clock,
    peer: Peer,
    net: Net,
    worker: Option<Worker>,
    store: wattle_models::exec::Store,
    timers: BTreeMap<Timer, Instant>,
    shipping: BTreeMap<u64, TensorKey>,
    next_tag: u64,
    events: mpsc::Sender<Event>,
    out: Outbox,
    giver: Giver,
    /// Whoever listens to the events has fallen too far behind; the node ends.
    lags: bool,
}

impl Driver {
    async fn run(
        mut self,
        mut net: mpsc::Receiver<NetEvent>,
        mut done: mpsc::Receiver<Done>,
        mut asks: mpsc::Receiver<Ask>,
    ) {
        self.peer.start(self.clock.now(), &mut self.out);
        self.perform();
        loop {
            let due = self.timers.iter().min_by_key(|(_, at)| **at).map(|(t, at)| (*t, *at));
            let sleep = async {
                match due {
                    Some((_, at)) => tokio::time::sleep_until(self.clock.at(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Completions first: they free the device for the next task.
                biased;
                Some(done) = done.recv() => self.on_done(done),
                Some(made) = self.giver.made() => self.on_made(made),
                () = sleep => {
                    if let Some((timer, _)) = due {
                        self.timers.remove(&timer);
                        self.input(Input::TimerFired(timer));
                    }
                }
                Some(ask) = asks.recv() => {
                    if let Some(reply) = self.on_ask(ask) {
                        self.shutdown().await;
                        // Whoever asked may be gone; there is nothing left to tell.
                        reply.send(()).unwrap_or_default();
                        return;
                    }
                }
                event = net.recv() => match event {
                    Some(event) => self.on_net(event),
                    None => return,
                },
            }
            if self.lags {
                self.shutdown().await;
                return;
            }
        }
    }

    fn input(&mut self, input: Input) {
        let now = self.clock.now();
        self.peer.handle(now, input, &mut self.out);
        self.perform();
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Measured(hardware) => self.input(Input::Measured(hardware)),
            Done::Task { id, result: Ok(outcome), began, ended, ops } => {
                self.input(Input::TaskDone { task: id, outcome, began, ended, ops });
            }
            Done::Task { id, result: Err(error), .. } => {
                self.input(Input::TaskFailed { task: id, error });
            }
            Done::NoDevice(reason) => tracing::error!(reason, "there is no device to compute on"),
        }
    }

    /// Answers a question; returns whom to tell when it is the last one.
    fn on_ask(&mut self, ask: Ask) -> Option<oneshot::Sender<()>> {
        match ask {
            Ask::Command(command) => self.input(Input::Command(command)),
            Ask::Seek(job) => self.net.seek(job),
            Ask::Hold(job, given) => self.giver.hold(job, given),
            Ask::Peers(reply) => {
                let view = |(peer, life, advert): (PeerId, Life, Option<&Advert>)| PeerView {
                    peer,
                    life,
                    advert: advert.cloned(),
                };
                let mut list: Vec<PeerView> = self.peer.peers().map(view).collect();
                list.push(PeerView {
                    peer: self.peer.id(),
                    life: Life::Alive,
                    advert: self.peer.advert().cloned(),
                });
                reply.send(list).unwrap_or_default();
            }
            Ask::Bundle(key, reply) => {
                reply.send(self.store.bytes(&key)).unwrap_or_default();
            }
            Ask::Works(job, reply) => {
                reply.send(self.peer.works(job).to_vec()).unwrap_or_default();
            }
            Ask::Stop(reply) => return Some(reply),
        }
        None
    }

    fn on_net(&mut self, event: NetEvent) {
        match event {
            NetEvent::Listening { addresses } => self.input(Input::Listening(addresses)),
            NetEvent::PathChanged { peer } => {
                self.input(Input::PathChanged(peer));
            }
            NetEvent::Connected { peer, .. } => self.input(Input::PeerFound(peer)),
            NetEvent::Disconnected { peer } => self.input(Input::PeerLost(peer)),
            NetEvent::Frame { from, bytes } => match decode::<Message>(&bytes) {
                Ok(message) => {
                    self.input(Input::Received { from, message: Box::new(message) });
                }
                Err(error) => tracing::warn!(from = %from, %error, "a frame is not understood"),
            },
            NetEvent::Offer { from, header, length, reply } => {
                let key = decode::<TensorKey>(&header).ok();
                let take = match key.map(|key| self.peer.admit(from, &key)) {
                    Some(Admission::Take(awaited)) if awaited.is(Bytes::new(length)) => {
                        Some(match awaited {
                            Length::Exactly(_) => Take::Packed,
                            Length::Tensor { form, elements } => Take::Unpacked { form, elements },
                        })
                    }
                    Some(Admission::Take(_) | Admission::Refuse) | None => None,
                };
                // The stream may have ended meanwhile.
                reply.send(take).unwrap_or_default();
            }
            NetEvent::Arrived { from, header, length, payload } => {
                if let Ok(key) = decode::<TensorKey>(&header) {
                    let size = Bytes::new(length);
                    self.net.received(from, size);
                    self.store.accept_any(key, payload);
                    self.input(Input::TensorArrived { key, from, size });
                }
            }
            NetEvent::Shipped { tag, to, bytes, delivered, alone } => {
                if let Some(key) = self.shipping.remove(&tag) {
                    let size = Bytes::new(bytes);
                    self.input(Input::Shipped { key, to, size, delivered });
                    if let Some(took) = alone.filter(|_| delivered) {
                        self.input(Input::LinkUsed { peer: to, size, took });
                    }
                }
            }
            NetEvent::LinkMeasured { peer, rate, round_trip, packets } => {
                self.input(Input::LinkMeasured { peer, rate, round_trip, packets });
            }
        }
    }

    fn perform(&mut self) {
        let effects: Vec<Effect> = self.out.drain().collect();
        let mut failed = Vec::new();
        for effect in effects {
            match effect {
                Effect::Dial { peer, addresses } => self.net.dial(Some(peer), addresses),
                Effect::Send { to, message } => match encode(&*message) {
                    Ok(bytes) => self.net.send(to, bytes),
                    Err(error) => tracing::error!(%error, "a message cannot be written"),
                },
                Effect::SetTimer { timer, at } => {
                    self.timers.insert(timer, at);
                }
                Effect::Run { id, task } => {
                    let result = match &self.worker {
                        Some(worker) => worker.run(id, task),
                        None => Err(TaskError::Missing("this node does not compute".into())),
                    };
                    if let Err(error) = result {
                        failed.push(Input::TaskFailed { task: id, error });
                    }
                }
                Effect::Ship { key, to } => failed.extend(self.ship(key, to)),
                Effect::Give { key, work, to } => self.giver.make(key, work, to),
                Effect::Drop(key) => self.forget(Forget::One(key)),
                Effect::DropBefore { job, epoch, step } => {
                    self.forget(Forget::Before(job, epoch, step));
                }
                Effect::Probe(peer) => self.net.measure(peer),
                Effect::Announce(job) => self.net.announce(job),
                Effect::Withdraw(job) => self.net.withdraw(job),
                Effect::Notify(event) => self.notify(event),
            }
        }
        for input in failed {
            self.input(input);
        }
    }

    /// Tells the people at this machine. Events are never left out: whoever does not keep up loses the node.
    fn notify(&mut self, event: Event) {
        match self.events.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => tracing::debug!("nobody listens to events"),
            Err(TrySendError::Full(_)) => {
                if !self.lags {
                    tracing::error!(waiting = EVENTS, "events are not taken; the node ends");
                }
                self.lags = true;
            }
        }
    }

    fn forget(&self, forget: Forget) {
        match &self.worker {
            Some(worker) => worker.forget(forget),
            None => forget.act(&self.store),
        }
    }

    fn ship(&mut self, key: TensorKey, to: PeerId) -> Option<Input> {
        let header = encode(&key).ok();
        let payload = self.store.bytes(&key);
        let (Some(header), Some(payload)) = (header, payload) else {
            tracing::warn!(?key, "a tensor that is to be sent is not here");
            return Some(Input::Shipped { key, to, size: Bytes::ZERO, delivered: false });
        };
        let tag = self.next_tag;
        self.next_tag += 1;
        self.shipping.insert(tag, key);
        let haste = match key.name {
            TensorName::Activation { .. }
            | TensorName::Cotangent { .. }
            | TensorName::GroupSums { .. }
            | TensorName::SharedGradient { .. }
            | TensorName::StageGradient { .. } => Haste::Step,
            TensorName::StageState { .. } | TensorName::StageStart { .. } => Haste::State,
        };
        self.net.ship(to, (tag, haste), header, vec![payload]);
        None
    }

    async fn shutdown(&mut self) {
        self.input(Input::Command(Command::Leave));
        self.net.shutdown().await;
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::net::EmulatedLinks;

    async fn driver(events: mpsc::Sender<Event>) -> Driver {
        let net = NetConfig {
            identity: [8; 32],
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            mdns: false,
            network: "test".into(),
            quic: false,
            relay: false,
            external: None,
            links: EmulatedLinks::default(),
        };
        Driver {
            clock: Clock::start(),
            peer: Peer::new(&net.identity, Config::default()),
            net: Net::start(net).await.unwrap().0,
            worker: None,
            store: wattle_models::exec::Store::default(),
            timers: BTreeMap::new(),
            shipping: BTreeMap::new(),
            next_tag: 0,
            events,
            out: Outbox::new(),
            giver: Giver::default(),
            lags: false,
        }
    }

    #[tokio::test]
    async fn a_listener_that_lags_loses_the_node_and_one_that_left_does_not() {
        let (events, heard) = mpsc::channel(1);
        let mut driver = driver(events).await;
        let event = Event::PeerAlive(PeerId::new([1; 32]));
        driver.notify(event.clone());
        assert!(!driver.lags);
        driver.notify(event.clone());
        assert!(driver.lags);
        drop(heard);
        driver.lags = false;
        driver.notify(event);
        assert!(!driver.lags);
    }
}
