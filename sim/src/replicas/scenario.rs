//! The file of `wattle sim replicas`: a network, workers, their links, and the exchanges to compare.
//!
//! ```toml
//! model = "resnet50"             # of the zoo
//! micro_batch = 32               # samples of one worker and step
//! workers = 16
//! [link]
//! mbit = 1000.0                  # of each worker, each way
//! latency_ms = 0.1               # what a round of messages takes however short it is
//! [compute]
//! forward_ms = 90.0              # or gflops = 500.0
//! backward_ms = 120.0
//! select_ps = 218.9              # to select from n elements, over n log2 n
//! [[exchanges]]                  # the first is what the others are compared with
//! name = "dense"
//! way = "dense"                  # or "whole", "layers", "adaptive"
//! [train]                        # without it, times alone
//! steps = 300
//! seeds = [1, 2, 3]
//! ```

mod checks;

use serde::Deserialize;
use wattle_models::data::{self, Place};
use wattle_models::zoo;
use wattle_protocol::codec::Floats;
use wattle_protocol::codec::lags::{Costs, Layout};
use wattle_protocol::dag::Dag;
use wattle_protocol::job::DataSpec;
use wattle_protocol::replica::OuterRule;
use wattle_protocol::replica::ratio::Ring;
use wattle_protocol::units::Duration;

use crate::scenario::ScenarioError;

/// Most workers.
const WORKERS_MAX: u32 = 256;

/// Everything that is compared.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaScenario {
    /// A network of the zoo.
    pub model: String,
    /// Samples of one worker and step; none: what suits the network.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// How many workers.
    pub workers: u32,
    /// Each worker's link.
    pub link: WorkerLink,
    /// How fast a worker computes.
    pub compute: ComputePart,
    /// What is compared; the first is what the others are compared with.
    pub exchanges: Vec<ExchangePart>,
    /// How to train; none: times alone.
    #[serde(default)]
    pub train: Option<TrainPart>,
}

/// A worker's link.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerLink {
    /// Throughput each way.
    pub mbit: f64,
    /// What a message, or a round of a ring, takes however short it is.
    pub latency_ms: f64,
    /// Seconds that a gather takes however short its messages are, in milliseconds, where that was measured.
    #[serde(default)]
    pub gather_ms: Option<f64>,
    /// Nanoseconds a byte of all workers' messages together, where a gather was measured.
    #[serde(default)]
    pub gather_ns: Option<f64>,
    /// Whether kept elements take 8 bytes in two messages, as the authors' do, instead of our encoding.
    #[serde(default)]
    pub authors_bytes: bool,
}

/// How fast a worker computes: `gflops`, or both times.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputePart {
    /// Arithmetic of both passes.
    #[serde(default)]
    pub gflops: Option<f64>,
    /// A forward pass.
    #[serde(default)]
    pub forward_ms: Option<f64>,
    /// A backward pass; it is split among tensors by their arithmetic.
    #[serde(default)]
    pub backward_ms: Option<f64>,
    /// Picoseconds to select from n elements, over n log2 n.
    pub select_ps: f64,
}

/// How gradients are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Everything, around a ring.
    Dense,
    /// The largest of the whole model, once the backward pass is over.
    Whole,
    /// The largest of each merge group: LAGS with one ratio for all.
    Layers,
    /// The same with as many of each as the backward pass hides: LAGS.
    Adaptive,
}

/// One way to exchange.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangePart {
    /// Name for people.
    pub name: String,
    /// How.
    pub way: Way,
    /// One element in so many is sent; with `adaptive`, at least.
    #[serde(default = "thousand")]
    pub ratio: usize,
    /// Elements at which a merge group ends; none: what the predicted step is shortest with.
    #[serde(default)]
    pub merge: Option<usize>,
    /// Whether groups are sent while the backward pass goes on.
    #[serde(default = "yes")]
    pub overlap: bool,
    /// Picoseconds to select from n elements, over n log2 n, on cores of the host, which do it while the device goes on
    /// with the backward pass; none: on the device, which waits for it, as the authors' does.
    #[serde(default)]
    pub host_select_ps: Option<f64>,
    /// Steps in which the ratio rises from 4.
    #[serde(default)]
    pub warmup: u64,
    /// Whether momentum acts in each worker before it selects, instead of on the mean.
    #[serde(default)]
    pub momentum_first: bool,
    /// Steps of each worker's own between exchanges; with more than 1, parameters' changes are exchanged.
    #[serde(default = "single")]
    pub local_steps: u64,
    /// How the mean change is applied.
    #[serde(default)]
    pub outer: OuterPart,
    /// Peak learning rate, if not that of all.
    #[serde(default)]
    pub learning_rate: Option<f32>,
}

/// How the mean change of the workers' own steps is applied.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OuterPart {
    /// Learning rate.
    pub rate: f32,
    /// Momentum.
    pub momentum: f32,
    /// Whether it looks ahead.
    pub nesterov: bool,
}

impl Default for OuterPart {
    fn default() -> Self {
        let OuterRule { rate, momentum, nesterov } = OuterRule::DILOCO;
        Self { rate, momentum, nesterov }
    }
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainPart {
    /// Optimizer steps.
    pub steps: u64,
    /// Seeds of weights and samples; one run each.
    pub seeds: Vec<u64>,
    /// Data source; none: what suits the network.
    #[serde(default)]
    pub data: Option<String>,
    /// Data source of what is held out; none: the same with a seed of its own, for sources that never draw twice.
    #[serde(default)]
    pub held: Option<String>,
    /// Micro-batches of `held_batch` samples that are held out.
    #[serde(default = "four")]
    pub held_batches: u64,
    /// Samples in each.
    #[serde(default = "hundred")]
    pub held_batch: usize,
    /// Peak learning rate.
    pub learning_rate: f32,
    /// Rate at the last step.
    #[serde(default)]
    pub learning_rate_floor: f32,
    /// Steps in which it rises.
    #[serde(default)]
    pub learning_rate_warmup: u64,
    /// Momentum of SGD.
    #[serde(default)]
    pub momentum: f32,
    /// Weight decay.
    #[serde(default)]
    pub weight_decay: f32,
    /// AdamW in its place.
    #[serde(default)]
    pub adamw: bool,
    /// Largest norm of what the optimizer sees.
    #[serde(default)]
    pub clip_norm: Option<f32>,
}

fn thousand() -> usize {
    1000
}
fn hundred() -> usize {
    100
}
fn four() -> u64 {
    4
}
fn single() -> u64 {
    1
}
fn yes() -> bool {
    true
}

impl ReplicaScenario {
    /// Reads a scenario and checks all its values.
    ///
    /// *Errors*: [`ScenarioError`].
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)?;
        let mut wrong = Vec::new();
        if let Err(error) = scenario.dag(scenario.micro_batch) {
            wrong.push(error);
        }
        if !(2..=WORKERS_MAX).contains(&scenario.workers) {
            wrong.push(format!("workers = {}; 2 to {WORKERS_MAX} are possible", scenario.workers));
        }
        scenario.link.check(&mut wrong);
        scenario.compute.check(&mut wrong);
        if scenario.exchanges.is_empty() {
            wrong.push("exchanges: write at least one [[exchanges]]".into());
        }
        for (place, exchange) in scenario.exchanges.iter().enumerate() {
            exchange.check(&format!("exchanges {place}"), &mut wrong);
        }
        if let Some(train) = &scenario.train {
            train.check(&mut wrong);
            scenario.check_data(train, &mut wrong);
        }
        if wrong.is_empty() { Ok(scenario) } else { Err(ScenarioError::Values(wrong)) }
    }

    /// Returns the network with micro-batches of so many samples.
    ///
    /// *Errors*: there is none, or not with so many; for people.
    pub fn dag(&self, micro_batch: Option<usize>) -> Result<Dag, String> {
        let model = &self.model;
        let found = zoo::by_name(model, micro_batch);
        let known = || zoo::names().join(", ");
        let found = found.ok_or_else(|| {
            format!("model = \"{model}\": there is no such network; there are {}", known())
        })?;
        found.map_err(|error| format!("micro_batch: {error}"))
    }

    /// Returns the data sources of training and of what is held out.
    pub(super) fn sources(&self, train: &TrainPart) -> [String; 2] {
        let suits = || zoo::find(&self.model).map_or("", |entry| entry.data).to_owned();
        let data = train.data.clone().unwrap_or_else(suits);
        [data.clone(), train.held.clone().unwrap_or(data)]
    }

    /// Draws one micro-batch of each source that there is: a run should not find out at its end that one does not fit.
    fn check_data(&self, train: &TrainPart, wrong: &mut Vec<String>) {
        let Ok(dag) = self.dag(self.micro_batch) else { return };
        let place = Place { step: 0, micro_batch: 0, micro_batches: 1 };
        let mut sources = self.sources(train).to_vec();
        sources.dedup();
        for source in sources.into_iter().filter(|name| data::names().contains(&name.as_str())) {
            let spec = DataSpec { source, seed: 0 };
            for value in dag.inputs().map(|id| dag.value(id)) {
                if let Err(error) = data::batch(&spec, place, &value.name, &value.fact) {
                    wrong.push(format!("train: {error}"));
                }
            }
        }
    }

    /// Returns what selecting and gathering cost, and what a ring does.
    pub fn costs(&self) -> (Costs, Ring) {
        let (link, workers) = (self.link, self.workers);
        let byte = 1.0 / (link.mbit * 125_000.0);
        // A worker receives the messages of all others over its own link.
        let line = byte * f64::from(workers - 1) / f64::from(workers);
        let costs = Costs {
            select: self.compute.select_ps / 1e12,
            message: link.gather_ms.unwrap_or(link.latency_ms) / 1e3,
            byte: link.gather_ns.map_or(line, |nanoseconds| nanoseconds / 1e9),
            workers,
            layout: match link.authors_bytes {
                true => Layout::Apart,
                false => Layout::Together(Floats::F32),
            },
        };
        (costs, Ring { workers, round: Duration::from_seconds(link.latency_ms / 1e3), byte })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "model = \"resnet8\"\nworkers = 16\n[link]\nmbit = 1000.0\nlatency_ms = 0.1\n\
        [compute]\ngflops = 100.0\nselect_ps = 218.9\n[[exchanges]]\nname = \"dense\"\nway = \"dense\"\n\
        [train]\nsteps = 3\nseeds = [1]\nlearning_rate = 0.1\n";

    #[test]
    fn a_scenario_is_read_and_all_its_mistakes_are_listed() {
        assert_eq!(ReplicaScenario::parse(GOOD).unwrap().exchanges.len(), 1);
        let bad = GOOD
            .replace("resnet8", "resnet9")
            .replace("workers = 16", "workers = 1")
            .replace("1000.0", "-3.0")
            .replace("gflops = 100.0", "forward_ms = 3.0")
            .replace("\"dense\"\n[train]", "\"layers\"\nratio = 0\nlocal_steps = 0\n[train]")
            .replace("seeds = [1]", "seeds = []\ndata = \"text:none\"")
            .replace("learning_rate = 0.1", "learning_rate = -1.0\nmomentum = 1.5");
        let error = ReplicaScenario::parse(&bad).unwrap_err().to_string();
        for part in [
            "resnet9",
            "workers = 1",
            "mbit = -3",
            "either gflops",
            "ratio = 0",
            "local_steps = 0",
            "seeds is empty",
            "text:none",
            "learning_rate = -1",
            "momentum = 1.5",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(ReplicaScenario::parse(&GOOD.replace("workers", "wokers")).is_err());
        let text = GOOD.replace("seeds = [1]", "seeds = [1]\nheld = \"text:kjv\"");
        let error = ReplicaScenario::parse(&text).unwrap_err().to_string();
        assert!(error.contains("text:kjv has no input images"), "{error}");
        let local = GOOD.replace("way = \"dense\"", "way = \"adaptive\"\nlocal_steps = 4");
        let error = ReplicaScenario::parse(&local).unwrap_err().to_string();
        assert!(error.contains("take way = \"layers\""), "{error}");
    }
}
