//! A job: what to train, on which data, how, and with how much redundancy. Plain data that any peer can check.
//!
//! Not here: reading job files (`node/src/cli`), nor what a data source holds (`models/src/data`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::dag::Dag;
use crate::dag::cut::StageGraph;
use crate::ids::{TensorHash, ValueId};

/// Most micro-batches in one step; bounds what a plan makes a peer keep.
pub const MICRO_BATCHES_MAX: u32 = 256;
/// Most stages in one pipeline.
pub const STAGES_MAX: u16 = 64;
/// Most stages that a planner gives to one peer.
pub const STAGES_PER_PEER_MAX: u16 = 8;
/// Most micro-batches that [`PipelineOrder::Deep`] keeps for each stage behind; beyond, a pipeline of two keeps them all.
pub const DEPTH_MAX: u8 = 64;

/// Most peers that run a stage at once.
pub const REPLICAS_MAX: u16 = 64;

/// A training job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Name for people.
    pub name: String,
    /// Forward network with its loss as first output; batch axis = one micro-batch.
    pub dag: Dag,
    /// What parameters and buffers hold before the first step.
    pub start: Start,
    /// Where micro-batches come from.
    pub data: DataSpec,
    /// The training procedure.
    pub train: TrainSpec,
    /// How it may be spread.
    pub swarm: SwarmSpec,
}

/// What parameters and buffers hold before the first step.
///
/// The job's id covers the hashes: a job from other weights is another job. See docs/decisions/0007-given-weights.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// Draws from the job's seed; every peer makes them itself.
    Seed,
    /// What the submitter holds: a hash for each parameter, then for each buffer, in the order of the Dag.
    Given(Vec<TensorHash>),
}

impl Start {
    /// Says whether every parameter and buffer of a network has its hash.
    ///
    /// *Errors*: how many there are and how many there should be.
    pub fn check(&self, dag: &Dag) -> Result<(), String> {
        let Self::Given(hashes) = self else {
            return Ok(());
        };
        let wanted = dag.parameters().count() + dag.buffers().count();
        if hashes.len() == wanted {
            return Ok(());
        }
        let got = hashes.len();
        Err(format!("there are hashes of {got} start tensors; the network has {wanted}"))
    }

    /// Returns the hashes of a stage's parameters and buffers, in the order of its `StageStart`; None where they are drawn.
    pub fn of_stage(&self, dag: &Dag, graph: &StageGraph) -> Option<Vec<(ValueId, TensorHash)>> {
        let Self::Given(hashes) = self else {
            return None;
        };
        let all = dag.parameters().chain(dag.buffers()).zip(hashes.iter().copied());
        let mut hashes: Vec<(ValueId, TensorHash)> = all.collect();
        hashes.sort_unstable_by_key(|(id, _)| *id);
        let find = |id: &ValueId| {
            let at = hashes.binary_search_by_key(id, |(value, _)| *value).ok()?;
            Some(hashes[at])
        };
        graph.parameters.iter().chain(&graph.buffers).map(find).collect()
    }
}

/// A data source by name, with the seed that orders it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    /// Name of a source that every peer carries, such as `text:kjv` or `images:digits`.
    pub source: String,
    /// Seed of the order of samples; together with (step, micro-batch) it names each sample.
    pub seed: u64,
}

/// How parameters change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Optimizer {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
        /// Decoupled weight decay, on parameters that decay.
        weight_decay: f32,
    },
    /// Stochastic gradient descent: `v <- momentum v + g; p <- p - lr v` (PyTorch's form).
    Sgd {
        /// Momentum, 0 for none.
        momentum: f32,
        /// L2 weight decay, on parameters that decay.
        weight_decay: f32,
    },
}

/// Learning rate over steps: linear warm-up, then a half cosine down to a floor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearningRate {
    /// Highest rate.
    pub peak: f32,
    /// Rate at the last step; equal to `peak` for a constant rate.
    pub floor: f32,
    /// Steps of warm-up, 0 for none.
    pub warmup: u64,
}

impl LearningRate {
    /// Returns the rate of one step (from 0) of `steps`.
    ///
    /// *Source*: linear warm-up and cosine decay as in Loshchilov and Hutter 2017, without restarts.
    #[expect(clippy::cast_precision_loss, reason = "step counts are far below 2^53")]
    #[expect(clippy::cast_possible_truncation, reason = "a rate is stored as f32")]
    pub fn at(&self, step: u64, steps: u64) -> f32 {
        if step < self.warmup {
            return self.peak * (step + 1) as f32 / self.warmup as f32;
        }
        let span = steps.saturating_sub(self.warmup).max(1);
        let done = ((step - self.warmup) as f64 / span as f64).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        (f64::from(self.floor) + f64::from(self.peak - self.floor) * cosine) as f32
    }
}

/// The training procedure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// Optimizer steps.
    pub steps: u64,
    /// Micro-batches a step; the global batch is this times the Dag's batch axis.
    pub micro_batches: u32,
    /// Update rule.
    pub optimizer: Optimizer,
    /// Learning rate.
    pub learning_rate: LearningRate,
    /// Largest global gradient norm, over all stages; larger gradients are scaled down to it. None: no clipping.
    pub clip_norm: Option<f32>,
    /// Seed of initial parameters and of dropout.
    pub seed: u64,
}

/// Order of forward and backward passes in a pipeline. None changes what is learnt: each direction runs micro-batches in
/// increasing order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PipelineOrder {
    /// All forwards, then all backwards (Huang et al. 2019).
    GPipe,
    /// One forward, one backward in the steady state; keeps at most `stages - index` micro-batches (Narayanan et al. 2019).
    OneFOneB,
    /// The same with so many micro-batches kept for each stage behind instead of one: links that take as long as a stage
    /// are filled as stages are (our generalisation). At most [`DEPTH_MAX`].
    Deep(u8),
}

impl fmt::Display for PipelineOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GPipe => f.write_str("gpipe"),
            Self::OneFOneB => f.write_str("1f1b"),
            Self::Deep(depth) => write!(f, "1f1b:{depth}"),
        }
    }
}

impl FromStr for PipelineOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let depth = |text: &str| text.parse::<u8>().ok().filter(|d| (2..=DEPTH_MAX).contains(d));
        match (text, text.strip_prefix("1f1b:").and_then(depth)) {
            ("gpipe", _) => Ok(Self::GPipe),
            ("1f1b", _) => Ok(Self::OneFOneB),
            (_, Some(depth)) => Ok(Self::Deep(depth)),
            (_, None) => Err(format!("1f1b, 1f1b:2 to 1f1b:{DEPTH_MAX}, or gpipe is wanted here")),
        }
    }
}

/// How a job may be spread over peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmSpec {
    /// Number of stages; None: as many as the predicted step time is best with.
    pub stages: Option<u16>,
    /// Pipeline order; None: the one that the predicted step time is best with.
    pub order: Option<PipelineOrder>,
    /// Whether to recompute activations from stage inputs instead of keeping them; None: where that makes a faster
    /// placement fit.
    pub recompute: Option<bool>,
    /// Copies of each stage's state that other peers keep, as far as there are peers.
    pub backups: u8,
    /// Most peers that run a stage at once, each for some of the micro-batches; 1: no replicas. Also the number of groups
    /// in which gradients are summed over micro-batches, whoever runs them.
    pub replicas: u16,
    /// Most stages that one peer runs; with several, a pipeline of few micro-batches fills and drains sooner.
    pub stages_per_peer: u16,
    /// How activations and cotangents cross links.
    pub codec: Codec,
}

impl SwarmSpec {
    /// One peer a stage and one stage a peer, 1F1B without recomputation, nobody who stands by; what is wanted otherwise
    /// is said beside it.
    pub const PLAIN: Self = Self {
        stages: None,
        order: Some(PipelineOrder::OneFOneB),
        recompute: Some(false),
        backups: 0,
        replicas: 1,
        stages_per_peer: 1,
        codec: Codec::Dense,
    };
}
