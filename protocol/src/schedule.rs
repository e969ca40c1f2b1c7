//! Who runs what: a [`Plan`] is a value with an epoch, made by pure functions from measured adverts.
//!
//! Reading order: [`gauge`] (a figure from samples), [`prober`] (whom to measure), [`coordinate`] (predicted round
//! trips), [`advert`] (what is said of it), [`deeds`] (what peers did instead), [`links`] (the graph between peers),
//! [`cluster`] (fences of peers that see the same rates), [`planted`] (swarms with known fences, for tests),
//! [`pipeline`] (orders), [`groups`] (the order of sums), `course` and `tail` (a step in integer microseconds), [`estimate`] (predicted step time),
//! [`footprint`] (what fits into memory), [`outline`] (a bound of it), [`shortage`] (why nothing does),
//! [`fence`] (OP-Fence: a first placement), `roles` (backups and voters), [`repair`] (the least change after a loss),
//! [`account`] (why a plan is as fast as it is).

pub mod account;
pub mod advert;
mod carrying;
pub mod cluster;
pub mod codec;
pub mod coordinate;
mod course;
pub mod deeds;
pub mod estimate;
pub mod fence;
pub mod fitted;
pub mod footprint;
pub mod forms;
pub mod gauge;
mod ground;
pub mod groups;
pub mod kinds;
pub mod launches;
pub mod links;
pub mod load;
pub mod outline;
pub mod pipeline;
pub mod planted;
pub mod prober;
pub mod repair;
mod roles;
pub mod sample;
pub mod shortage;
mod tail;

use serde::{Deserialize, Serialize};

use self::forms::EdgeForms;
use self::shortage::Shortage;
use crate::ids::{Epoch, JobId, MicroBatch, PeerId, StageId};
use crate::job::PipelineOrder;
use crate::units::{Bytes, Duration};

/// Who owns a stage and who stands by for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePlan {
    /// Runs the stage, holds its truth, and gathers what replicas have summed.
    pub owner: PeerId,
    /// Run the stage too, each for some of the micro-batches.
    pub replicas: Vec<PeerId>,
    /// Which worker (0 the owner, then replicas) runs each micro-batch; empty where there are no replicas. Workers run
    /// whole [`groups`], later workers earlier ones.
    pub turns: Vec<u16>,
    /// Hold its state and follow every step, in the order in which they would take over.
    pub backups: Vec<PeerId>,
}

impl StagePlan {
    /// Makes a stage that nobody else runs.
    pub const fn alone(owner: PeerId, backups: Vec<PeerId>) -> Self {
        Self { owner, replicas: Vec::new(), turns: Vec::new(), backups }
    }

    /// Returns the owner and the replicas.
    pub fn workers(&self) -> impl Iterator<Item = PeerId> + '_ {
        std::iter::once(self.owner).chain(self.replicas.iter().copied())
    }

    /// Returns whoever holds the stage's state, in the order in which they would take over.
    pub fn holders(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.workers().chain(self.backups.iter().copied())
    }

    /// Returns whoever follows the stage: all holders but the owner.
    pub fn followers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.replicas.iter().chain(&self.backups).copied()
    }

    /// Returns which worker runs a micro-batch.
    pub fn turn(&self, micro_batch: MicroBatch) -> u16 {
        self.turns.get(micro_batch.index() as usize).copied().unwrap_or(0)
    }

    /// Returns who runs a micro-batch.
    pub fn worker(&self, micro_batch: MicroBatch) -> Option<PeerId> {
        self.workers().nth(usize::from(self.turn(micro_batch)))
    }

    /// Returns a peer's place among the workers.
    pub fn place(&self, peer: PeerId) -> Option<u16> {
        (0..).zip(self.workers()).find(|(_, worker)| *worker == peer).map(|(place, _)| place)
    }

    /// Returns the worker from which one gathers sums: the nearest one behind it that has any.
    pub fn source(&self, place: u16) -> Option<u16> {
        self.turns.iter().copied().filter(|turn| *turn > place).min()
    }

    /// Returns the worker to which one hands its sums on, if it has any; the owner keeps them.
    pub fn sink(&self, place: u16) -> Option<u16> {
        let has_any = place > 0 && self.turns.contains(&place);
        let nearer = self.turns.iter().copied().filter(|turn| *turn < place).max();
        has_any.then(|| nearer.unwrap_or(0))
    }
}

/// What the estimator expects of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// One optimizer step.
    pub step: Duration,
    /// Arithmetic of the busiest peer in one step.
    pub compute: Duration,
    /// Time that the slowest link is busy in one step.
    pub transfer: Duration,
    /// From the last backward pass to the start of the next step: reduction, backups, commit, update.
    pub commit: Duration,
    /// Idle share of the stages' time, in thousandths.
    pub bubble_permille: u32,
    /// Peak memory of each stage.
    pub memory: Vec<Bytes>,
    /// Compute time of each stage in one step.
    pub stage_compute: Vec<Duration>,
}

/// A placement of a job: the whole truth of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The job.
    pub job: JobId,
    /// Version; grows with each change.
    pub epoch: Epoch,
    /// Stage of each forward node, in node order.
    pub assignment: Vec<StageId>,
    /// Owner and backups of each stage, in pipeline order.
    pub stages: Vec<StagePlan>,
    /// Voters: owners, backups, other peers that stand by, the leader, and the submitter; in order of succession.
    pub council: Vec<PeerId>,
    /// Who asked for the job and hears its news.
    pub submitter: PeerId,
    /// Pipeline order.
    pub order: PipelineOrder,
    /// Whether activations are recomputed.
    pub recompute: bool,
    /// What each edge's tensors look like on its link; empty where all are dense.
    pub forms: Vec<EdgeForms>,
    /// What is expected of it.
    pub prediction: Prediction,
}

impl Plan {
    /// Returns the owner of a stage, if there is such a stage.
    pub fn owner(&self, stage: StageId) -> Option<PeerId> {
        self.stages.get(stage.index()).map(|s| s.owner)
    }

    /// Returns who runs a micro-batch of a stage, if there is such a stage.
    pub fn worker(&self, stage: StageId, micro_batch: MicroBatch) -> Option<PeerId> {
        self.stages.get(stage.index())?.worker(micro_batch)
    }

    /// Returns the ids of all stages in pipeline order.
    pub fn stage_ids(&self) -> impl Iterator<Item = StageId> + use<> {
        (0..u16::try_from(self.stages.len()).unwrap_or(u16::MAX)).map(StageId::new)
    }

    /// Returns everybody with a part in it: the council, then holders of stages that it has no seat for; each once.
    pub fn members(&self) -> Vec<PeerId> {
        let mut list = self.council.clone();
        for peer in self.stages.iter().flat_map(StagePlan::holders) {
            if !list.contains(&peer) {
                list.push(peer);
            }
        }
        list
    }

    /// Returns how many votes make a majority of the council.
    pub fn majority(&self) -> usize {
        self.council.len() / 2 + 1
    }
}

/// How a proposed plan was made, so that any member can make it again and compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Basis {
    /// From nothing but the adverts.
    Fresh,
    /// From the plan before, after losses.
    Repair {
        /// The plan that is repaired.
        previous: Box<Plan>,
        /// Who can take which part.
        standing: Standing,
    },
}

/// What a leader has found out of the members before a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// For each stage, who can go on with it, in order of preference.
    pub holders: Vec<Vec<PeerId>>,
    /// Who has failed at a stage lately and gets no part in it.
    pub barred: Vec<(StageId, PeerId)>,
    /// Who is to follow a stage beside its backups, so as to take it over later.
    pub wanted: Vec<(StageId, PeerId)>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum PlanError {
    /// Fewer peers with measured hardware than stages.
    #[error("the job wants {wanted} stages but {known} measured peers are known")]
    NotEnoughPeers {
        /// Stages asked for.
        wanted: u16,
        /// Peers that could own one.
        known: usize,
    },
    /// Fewer operators than stages.
    #[error("the job wants {wanted} stages but its network has only {nodes} operators")]
    NotEnoughNodes {
        /// Stages asked for.
        wanted: u16,
        /// Forward nodes.
        nodes: usize,
    },
    /// No placement fits into the peers' memory.
    #[error("no placement fits: {0}")]
    OutOfMemory(Box<Shortage>),
    /// The network cannot be differentiated or cut.
    #[error("the network cannot be trained: {0}")]
    Network(String),
}
