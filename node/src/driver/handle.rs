//! A running node's handle: how the commands of this machine reach the loop.
//!
//! Copies share the node. Questions wait in a bounded queue; the answers are the loop's.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use wattle_models::weights::given::Given;
use wattle_protocol::ids::{JobId, PeerId};
use wattle_protocol::swarm::Peer;
use wattle_protocol::swarm::io::{Command, Event, Outbox, StageWork, TensorKey};

use super::give::Giver;
use super::{ASKS, COMPLETIONS, Driver, EVENTS, NodeConfig, PeerView};
use crate::clock::Clock;
use crate::net::Net;
use crate::worker::{Worker, WorkerConfig};

/// A question to the loop.
pub(super) enum Ask {
    Command(Command),
    Seek(JobId),
    Hold(JobId, Arc<Given>),
    Peers(oneshot::Sender<Vec<PeerView>>),
    Bundle(TensorKey, oneshot::Sender<Option<bytes::Bytes>>),
    Works(JobId, oneshot::Sender<Vec<Arc<StageWork>>>),
    Stop(oneshot::Sender<()>),
}

/// A running node.
#[derive(Clone, Debug)]
pub struct Node {
    asks: mpsc::Sender<Ask>,
    net: Net,
    id: PeerId,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ask")
    }
}

impl Node {
    /// Starts a node; its events come out of the receiver.
    ///
    /// *Errors*: a port that is taken, a bad address, no execution thread.
    pub async fn start(config: NodeConfig) -> anyhow::Result<(Self, mpsc::Receiver<Event>)> {
        let clock = Clock::start();
        let peer = Peer::new(&config.net.identity, config.peer.clone());
        let id = peer.id();
        let (net, net_events) =
            Net::start(config.net.clone()).await.context("while opening the network")?;
        let (done_in, done) = mpsc::channel(COMPLETIONS);
        let worker = match &config.worker {
            Some(settings) => {
                let settings = WorkerConfig {
                    device: settings.device,
                    share: settings.share,
                    memory: settings.memory,
                    remember: true,
                };
                let worker = Worker::start(settings, clock, done_in);
                Some(worker.context("while starting the execution thread")?)
            }
            None => None,
        };
        let (asks_in, asks) = mpsc::channel(ASKS);
        let (events, events_out) = mpsc::channel(EVENTS);
        for (peer, addresses) in &config.join {
            net.dial(Some(*peer), addresses.clone());
        }
        let watched = wattle_models::exec::Store::default();
        let driver = Driver {
            store: worker.as_ref().map_or(watched, |w| w.store().clone()),
            clock,
            peer,
            net: net.clone(),
            worker,
            timers: BTreeMap::new(),
            shipping: BTreeMap::new(),
            next_tag: 0,
            events,
            out: Outbox::new(),
            giver: Giver::default(),
            lags: false,
        };
        tokio::spawn(driver.run(net_events, done, asks));
        Ok((Self { asks: asks_in, net, id }, events_out))
    }

    /// Returns this node's id.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Returns the network's handle, for counters and addresses.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Gives the peer a command. Safe to drop midway: the command is then not given.
    pub async fn command(&self, command: Command) {
        if self.asks.send(Ask::Command(command)).await.is_err() {
            tracing::debug!("the node has stopped");
        }
    }

    /// Holds what a job starts from, for the owners of its stages. Safe to drop midway: it is then not held.
    pub async fn hold(&self, job: JobId, given: Arc<Given>) {
        if self.asks.send(Ask::Hold(job, given)).await.is_err() {
            tracing::debug!("the node has stopped");
        }
    }

    /// Looks in the DHT for members of a job, until one of them is connected. Safe to drop midway: nobody is looked for.
    pub async fn seek(&self, job: JobId) {
        if self.asks.send(Ask::Seek(job)).await.is_err() {
            tracing::debug!("the node has stopped");
        }
    }

    /// Returns everybody known. Empty once the node has stopped.
    pub async fn peers(&self) -> Vec<PeerView> {
        self.ask(Ask::Peers).await.unwrap_or_default()
    }

    /// Returns a tensor bundle of the store.
    pub async fn bundle(&self, key: TensorKey) -> Option<bytes::Bytes> {
        self.ask(|reply| Ask::Bundle(key, reply)).await.flatten()
    }

    /// Returns the stages of a job as the plan in force cuts it.
    pub async fn works(&self, job: JobId) -> Vec<Arc<StageWork>> {
        self.ask(|reply| Ask::Works(job, reply)).await.unwrap_or_default()
    }

    /// Says goodbye, closes connections and ends the execution thread.
    pub async fn stop(&self) {
        self.ask(Ask::Stop).await.unwrap_or_default();
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.ok()?;
        answer.await.ok()
    }
}
