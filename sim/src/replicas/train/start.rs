//! What a worker starts from: its job, its name in the executor, and how its bundles are laid out.

use std::collections::BTreeMap;
use std::ops::Range;

use wattle_protocol::dag::cut::StageGraph;
use wattle_protocol::ids::{Epoch, JobId, StageId, Step};
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, Start, SwarmSpec, TrainSpec,
};
use wattle_protocol::swarm::io::{TensorKey, TensorName};

use super::TrainError;
use crate::replicas::layers::Passes;
use crate::replicas::scenario::{ExchangePart, ReplicaScenario, TrainPart};

/// The only stage of a worker.
pub(super) const STAGE: StageId = StageId::new(0);
/// Seeds of workers lie so far apart for each seed of a run; there are fewer workers.
const SEEDS_APART: u64 = 1000;

/// A worker's name in the executor.
pub(super) fn job(worker: usize) -> JobId {
    JobId::new((worker as u128).to_be_bytes())
}

pub(super) fn gradient_key(worker: usize, step: u64) -> TensorKey {
    let name = TensorName::StageGradient { stage: STAGE };
    TensorKey { job: job(worker), epoch: Epoch::default(), step: Step::new(step), name }
}

pub(super) fn state_key(worker: usize, step: u64) -> TensorKey {
    let name = TensorName::StageState { stage: STAGE };
    TensorKey { job: job(worker), epoch: Epoch::default(), step: Step::new(step), name }
}

/// Returns where each parameter lies in a bundle, in backward order.
pub(super) fn places(graph: &StageGraph, passes: &Passes) -> Vec<Range<usize>> {
    let mut start = 0;
    let mut found = BTreeMap::new();
    for id in &graph.parameters {
        let size = graph.values[id].fact.elements();
        found.insert(*id, start..start + size);
        start += size;
    }
    passes.parameters.iter().filter_map(|id| found.get(id).cloned()).collect()
}

/// Returns a worker's job: its own samples, the weights of all.
pub(super) fn spec(
    scenario: &ReplicaScenario,
    train: &TrainPart,
    exchange: &ExchangePart,
    (seed, worker): (u64, usize),
) -> Result<JobSpec, TrainError> {
    let dag = scenario.dag(scenario.micro_batch).map_err(TrainError::Network)?;
    let [source, _] = scenario.sources(train);
    let own = seed.wrapping_mul(SEEDS_APART).wrapping_add(worker as u64 + 1);
    let momentum = if exchange.momentum_first { 0.0 } else { train.momentum };
    let weight_decay = train.weight_decay;
    let optimizer = match train.adamw {
        true => Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay },
        false => Optimizer::Sgd { momentum, weight_decay },
    };
    let peak = exchange.learning_rate.unwrap_or(train.learning_rate);
    let learning_rate = LearningRate {
        peak,
        // The floor falls with the peak, so that a schedule keeps its shape.
        floor: train.learning_rate_floor * peak / train.learning_rate,
        warmup: train.learning_rate_warmup,
    };
    Ok(JobSpec {
        name: format!("replica {worker} of {}", scenario.model),
        dag,
        start: Start::Seed,
        data: DataSpec { source, seed: own },
        train: TrainSpec {
            steps: train.steps,
            micro_batches: 1,
            optimizer,
            learning_rate,
            // Clipping acts on what the exchange has made.
            clip_norm: None,
            seed,
        },
        swarm: SwarmSpec::PLAIN,
    })
}
