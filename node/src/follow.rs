//! A submitter: joins a swarm as a peer that only watches, hands in a job, follows it, pulls what it learnt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;
use tokio::time::{Instant as TokioInstant, timeout_at};
use wattle_models::weights::given::Given;
use wattle_protocol::dag::Dtype;
use wattle_protocol::ids::{JobId, PeerId};
use wattle_protocol::job::JobSpec;
use wattle_protocol::swarm::Life;
use wattle_protocol::swarm::io::{Command, Event, StageWork, TensorKey, TensorName};
use wattle_protocol::wire::frame::job_id;
use wattle_protocol::wire::message::{JobBrief, News};

use crate::clock::Clock;
use crate::driver::{Node, PeerView};
use crate::runlog::RunLog;
use crate::survey::{runs, settle};
use crate::swarm_options::JoinOptions;

/// How often the peers are looked at while waiting for them.
const LOOK: StdDuration = StdDuration::from_millis(100);

/// A submitter and what it has heard.
#[derive(Debug)]
pub struct Follower {
    node: Node,
    events: mpsc::Receiver<Event>,
    clock: Clock,
    job: Option<JobId>,
    steps: u64,
    samples: (u64, &'static str),
    /// What has been heard of the job.
    pub log: RunLog,
}

impl Follower {
    /// Joins a swarm.
    ///
    /// *Errors*: what the network says.
    pub async fn join(options: &JoinOptions) -> anyhow::Result<Self> {
        let (node, events) = Node::start(options.node(None)?).await?;
        Ok(Self {
            node,
            events,
            clock: Clock::start(),
            job: None,
            steps: 0,
            samples: (0, "samples"),
            log: RunLog::default(),
        })
    }

    /// Returns the submitted job.
    pub fn job(&self) -> Option<JobId> {
        self.job
    }

    /// Returns the node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns the clock of what is heard.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Waits until `missing` finds nothing wanting in the living, measured peers, and returns them.
    ///
    /// *Errors*: it takes longer than `limit`.
    pub async fn wait_for_peers(
        &mut self,
        limit: StdDuration,
        missing: impl Fn(&[PeerView]) -> Option<String>,
    ) -> anyhow::Result<Vec<PeerView>> {
        let end = TokioInstant::now() + limit;
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            // Nobody else reads events before a job is submitted.
            while self.events.try_recv().is_ok() {}
            let peers: Vec<PeerView> = self
                .node
                .peers()
                .await
                .into_iter()
                .filter(|p| p.life != Life::Lost)
                .filter(|p| p.advert.as_ref().is_some_and(|a| a.hardware.is_some()))
                .collect();
            let Some(missing) = missing(&peers) else {
                return Ok(peers);
            };
            if TokioInstant::now() >= end {
                bail!("the swarm is not ready after {} s: {missing}", limit.as_secs());
            }
        }
    }

    /// Returns what peers say of themselves once that has settled, and what they run.
    pub(crate) async fn survey(
        &mut self,
        limit: StdDuration,
    ) -> (Vec<PeerView>, BTreeMap<JobId, JobBrief>) {
        let views = settle(&self.node, limit).await;
        let (jobs, _) = runs(&self.node, &mut self.events, views.len()).await;
        (views, jobs)
    }

    /// Hands in a job, with what it starts from where that is not drawn from its seed.
    ///
    /// *Errors*: the job is too large for a message.
    pub async fn submit(
        &mut self,
        spec: &JobSpec,
        given: Option<Arc<Given>>,
    ) -> anyhow::Result<JobId> {
        let id = job_id(spec).context("while naming the job")?;
        if let Some(given) = given {
            self.node.hold(id, given).await;
        }
        self.job = Some(id);
        self.steps = spec.train.steps;
        self.samples = crate::demo::show::samples(spec);
        self.node.command(Command::Submit(Box::new(spec.clone()))).await;
        Ok(id)
    }

    /// Returns how many steps the submitted job has.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns what one step of the submitted job consumes: how many, and of what.
    pub fn samples(&self) -> (u64, &'static str) {
        self.samples
    }

    /// Waits for the next news of the job.
    ///
    /// *Errors*: the node has stopped.
    pub async fn next(&mut self) -> anyhow::Result<News> {
        loop {
            let event = self.events.recv().await.context("the node has stopped by itself")?;
            if let Event::Job { job, news } = event
                && Some(job) == self.job
            {
                self.log.hear(&news, self.clock.now());
                return Ok(*news);
            }
        }
    }

    /// Brings the parameters and buffers of the finished job here, by name.
    ///
    /// *Errors*: it takes longer than `limit`, or two holders of a shared parameter disagree.
    pub async fn pull(&mut self, limit: StdDuration) -> anyhow::Result<BTreeMap<String, Tensor>> {
        let job = self.job.context("nothing has been submitted")?;
        let end = TokioInstant::now() + limit;
        self.node.command(Command::Pull(job)).await;
        let mut keys: Vec<TensorKey> = Vec::new();
        loop {
            let event = timeout_at(end, self.events.recv())
                .await
                .with_context(|| format!("the stages' state did not come within {limit:?}"))?
                .context("the node has stopped by itself")?;
            match event {
                Event::Pulled { key, missing } => {
                    keys.push(key);
                    if missing == 0 {
                        break;
                    }
                }
                Event::Job { job: of, news } if of == job => {
                    self.log.hear(&news, self.clock.now());
                }
                Event::Job { .. }
                | Event::Runs { .. }
                | Event::Traces(_)
                | Event::PeerAlive(_)
                | Event::PeerLost(_)
                | Event::MayStop => {}
            }
        }
        let works = self.node.works(job).await;
        let mut tensors = BTreeMap::new();
        for key in keys {
            let TensorName::StageState { stage } = key.name else {
                continue;
            };
            let work = works.get(stage.index()).context("a stage that the plan does not have")?;
            let bytes = self.node.bundle(key).await.context("a pulled state is gone")?;
            for (name, tensor) in read_state(work, &bytes)? {
                if let Some(other) = tensors.insert(name.clone(), tensor.clone())
                    && other != tensor
                {
                    bail!("two stages hold different values of the shared parameter {name}");
                }
            }
        }
        Ok(tensors)
    }

    /// Lets the swarm forget the job and leaves it.
    pub async fn leave(self) {
        if let Some(job) = self.job {
            self.node.command(Command::Release(job)).await;
        }
        self.node.stop().await;
    }
}

/// A tensor on the host, f32, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<f32>,
}

/// Reads parameters and buffers out of a `StageState` bundle: parameters first, optimizer state, buffers last.
fn read_state(work: &StageWork, bytes: &[u8]) -> anyhow::Result<Vec<(String, Tensor)>> {
    let graph = &work.graph;
    let mut tensors = Vec::new();
    let mut take = |ids: &[wattle_protocol::ids::ValueId],
                    mut at: usize|
     -> anyhow::Result<usize> {
        for id in ids {
            let value = graph.values.get(id).context("a value that the stage does not have")?;
            debug_assert_eq!(value.fact.dtype, Dtype::F32, "state is f32");
            let length = value.fact.elements() * 4;
            let part =
                bytes.get(at..at + length).context("the state is shorter than it should be")?;
            let data = part.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
            let tensor = Tensor { shape: value.fact.shape.clone(), data: data.collect() };
            tensors.push((value.name.clone(), tensor));
            at += length;
        }
        Ok(at)
    };
    take(&graph.parameters, 0)?;
    let buffers: usize = graph
        .buffers
        .iter()
        .filter_map(|b| graph.values.get(b))
        .map(|v| v.fact.elements() * 4)
        .sum();
    take(&graph.buffers, bytes.len().saturating_sub(buffers))?;
    Ok(tensors)
}

/// Says what is wanting for `wanted` measured peers.
pub fn missing_peers(peers: &[PeerView], wanted: usize) -> Option<String> {
    (peers.len() < wanted).then(|| {
        format!(
            "{} measured peers of {wanted} are here; start more with `wattle up --join TICKET`",
            peers.len()
        )
    })
}

/// Says which links between some peers have not been measured.
pub fn missing_links(peers: &[PeerView]) -> Option<String> {
    let ids: Vec<PeerId> = peers.iter().map(|p| p.peer).collect();
    let mut missing = Vec::new();
    for (view, advert) in peers.iter().filter_map(|p| Some((p, p.advert.as_ref()?))) {
        let unmeasured = ids
            .iter()
            .filter(|id| **id != view.peer && advert.links.iter().all(|l| l.peer != **id));
        missing.extend(unmeasured.map(|id| format!("{} to {id}", view.peer)));
    }
    (!missing.is_empty()).then(|| format!("links not measured: {}", missing.join(", ")))
}
