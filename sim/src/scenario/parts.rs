//! The parts of a scenario's file: peers, links, the job, faults.

use std::str::FromStr;

use serde::Deserialize;
use wattle_protocol::schedule::advert::Hardware;

/// What tasks compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// Fingerprints.
    #[default]
    Symbolic,
    /// Real numbers.
    Numeric,
}

/// Some peers of one kind.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeersSpec {
    /// How many.
    #[serde(default = "one")]
    pub count: usize,
    /// Speed of matrix products; the other figures are drawn from it.
    #[serde(default = "unit")]
    pub gflops: f64,
    /// All figures, where a real machine was measured: the `hardware` of `wattle peers --json`.
    #[serde(default)]
    pub measured: Option<Hardware>,
    /// Memory for jobs.
    #[serde(default = "memory")]
    pub memory_mib: u64,
}

/// Links.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinksSpec {
    /// Throughput.
    pub mbit: f64,
    /// One-way latency.
    pub latency_ms: f64,
    /// Most that is added to a message's latency.
    #[serde(default)]
    pub jitter_ms: f64,
}

/// A link that differs from the others, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairSpec {
    /// The two peers.
    pub between: [usize; 2],
    /// Throughput.
    pub mbit: f64,
    /// One-way latency.
    pub latency_ms: f64,
}

/// A link in one direction; the submitter's number is that after the last peer's.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkPart {
    /// The sending peer.
    pub from: usize,
    /// The receiving peer.
    pub to: usize,
    /// Throughput.
    pub mbit: f64,
    /// One-way latency.
    pub latency_ms: f64,
}

/// The job.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobPart {
    /// A network of the zoo.
    pub model: String,
    /// Optimizer steps.
    pub steps: u64,
    /// Micro-batches a step.
    #[serde(default = "four")]
    pub micro_batches: u32,
    /// Stages; none: as many as the prediction is best with.
    #[serde(default)]
    pub stages: Option<u16>,
    /// Copies of each stage's state.
    #[serde(default = "single")]
    pub backups: u8,
    /// Most peers that run a stage at once.
    #[serde(default = "alone")]
    pub replicas: u16,
    /// Order of passes, as in job files.
    #[serde(default = "one_f_one_b")]
    pub order: String,
    /// Whether to recompute activations.
    #[serde(default)]
    pub recompute: bool,
    /// Most stages that one peer runs.
    #[serde(default = "alone")]
    pub stages_per_peer: u16,
    /// How tensors cross links, as in job files.
    #[serde(default = "dense")]
    pub codec: String,
    /// Seed of the weights and of the data.
    #[serde(default = "first")]
    pub seed: u64,
    /// Whether the submitter gives the weights that it starts from.
    #[serde(default)]
    pub given: bool,
}

/// A fault.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPart {
    /// Milliseconds after the first plan.
    #[serde(default)]
    pub at_ms: Option<u64>,
    /// After this step was decided.
    #[serde(default)]
    pub after_step: Option<u64>,
    /// Whom to kill.
    #[serde(default)]
    pub kill: Option<String>,
    /// Whom to slow down, if nobody is to be killed: it goes on advertising what it could do before.
    #[serde(default)]
    pub slow: Option<String>,
    /// How many times as long its tasks take from then on.
    #[serde(default = "ten")]
    pub times: f64,
    /// When it comes back, with nothing but its identity.
    #[serde(default)]
    pub rejoin_after_ms: Option<u64>,
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The owner of a stage.
    Stage(u16),
    /// The first replica of a stage.
    Replica(u16),
    /// Who leads the job.
    Leader,
    /// Who submitted it.
    Submitter,
    /// A peer by number.
    Peer(usize),
    /// Any peer but the submitter.
    Random,
}

impl FromStr for Victim {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let wrong = || {
            format!(
                "\"{text}\" names nobody; write \"stage N\", \"replica N\", \"peer N\", \"leader\", \"submitter\" or \"random\""
            )
        };
        match words.as_slice() {
            ["leader"] => Ok(Self::Leader),
            ["submitter"] => Ok(Self::Submitter),
            ["random"] => Ok(Self::Random),
            ["stage", n] => n.parse().map(Self::Stage).map_err(|_| wrong()),
            ["replica", n] => n.parse().map(Self::Replica).map_err(|_| wrong()),
            ["peer", n] => n.parse().map(Self::Peer).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl FaultPart {
    /// Returns whom it hits.
    ///
    /// *Errors*: nobody, or two at once, or no such name; for people.
    pub fn victim(&self) -> Result<Victim, String> {
        match (&self.kill, &self.slow) {
            (Some(name), None) | (None, Some(name)) => name.parse(),
            (Some(_), Some(_)) | (None, None) => {
                Err("write either kill = \"WHO\" or slow = \"WHO\"".into())
            }
        }
    }
}

fn one() -> usize {
    1
}
fn ten() -> f64 {
    10.0
}
fn unit() -> f64 {
    1.0
}
fn one_f_one_b() -> String {
    "1f1b".into()
}
fn first() -> u64 {
    1
}

fn dense() -> String {
    "dense".into()
}
fn alone() -> u16 {
    1
}
fn single() -> u8 {
    1
}
fn four() -> u32 {
    4
}
fn memory() -> u64 {
    4096
}
