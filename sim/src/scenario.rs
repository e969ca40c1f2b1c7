//! What is simulated, as a TOML file: peers, links, one job, faults.
//!
//! ```toml
//! limit_seconds = 120
//! arithmetic = "symbolic"        # or "numeric"
//! [[peers]]
//! count = 4
//! gflops = 50.0
//! [link]
//! mbit = 200.0
//! latency_ms = 2
//! jitter_ms = 1
//! [job]
//! model = "gpt2-nano"
//! steps = 20
//! stages = 3
//! given = true                   # from weights that the submitter gives, not from the seed
//! seed = 1                       # of weights and data
//! [[faults]]
//! at_ms = 3000                   # or after_step = 7, or neither: a random moment
//! kill = "stage 1"               # or "leader", "submitter", "peer 2", "random"
//! rejoin_after_ms = 4000
//! [[faults]]
//! after_step = 9
//! slow = "stage 0"               # its tasks take 10 times as long, and it does not say so
//! times = 10
//! ```

mod parts;

use std::collections::BTreeMap;

use serde::Deserialize;
use wattle_models::weights::given::Given;
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, Start, SwarmSpec, TrainSpec,
};
use wattle_protocol::schedule::advert::Hardware;
use wattle_protocol::schedule::kinds::Kinds;
use wattle_protocol::units::{Bytes, Duration, Rate, Speed};

use crate::network::LinkSpec;
pub use parts::{Arithmetic, FaultPart, JobPart, LinkPart, LinksSpec, PairSpec, PeersSpec, Victim};

/// Most peers of a scenario.
const PEERS_MAX: usize = 2000;

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file is no scenario.
    #[error("the scenario cannot be read")]
    Toml(#[from] toml::de::Error),
    /// A value is impossible; all of them are listed.
    #[error("the scenario has mistakes:\n  {}", .0.join("\n  "))]
    Values(Vec<String>),
}

/// A scenario.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Virtual time after which the job must be done.
    #[serde(default = "limit")]
    pub limit_seconds: u64,
    /// What tasks compute.
    #[serde(default)]
    pub arithmetic: Arithmetic,
    /// Peers that compute.
    pub peers: Vec<PeersSpec>,
    /// Links between all pairs.
    pub link: LinksSpec,
    /// Links that differ.
    #[serde(default)]
    pub pairs: Vec<PairSpec>,
    /// Links that differ in one direction; they come after `pairs`.
    #[serde(default)]
    pub links: Vec<LinkPart>,
    /// The job.
    pub job: JobPart,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Vec<FaultPart>,
}

fn limit() -> u64 {
    300
}

impl Scenario {
    /// Reads a scenario and checks all its values.
    ///
    /// *Errors*: [`ScenarioError`].
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)?;
        let mut wrong = Vec::new();
        let count = scenario.peer_count();
        if !(1..=PEERS_MAX).contains(&count) {
            wrong.push(format!("there are {count} peers; 1 to {PEERS_MAX} are possible"));
        }
        for (place, kind) in scenario.peers.iter().enumerate() {
            if !(kind.gflops > 0.0 && kind.gflops < 1e9) {
                wrong.push(format!(
                    "peers {place}: gflops = {} is no speed; write a number above 0",
                    kind.gflops
                ));
            }
        }
        let links =
            std::iter::once(("link".to_owned(), scenario.link.mbit, scenario.link.latency_ms));
        let pairs = scenario.pairs.iter().enumerate();
        let pairs = pairs.map(|(n, p)| (format!("pairs {n}"), p.mbit, p.latency_ms));
        let single = scenario.links.iter().enumerate();
        let single = single.map(|(n, l)| (format!("links {n}"), l.mbit, l.latency_ms));
        for (name, mbit, latency) in links.chain(pairs).chain(single) {
            if !(mbit > 0.0 && mbit < 1e9) {
                wrong.push(format!("{name}: mbit = {mbit} is no rate; write a number above 0"));
            }
            if !(0.0..1e6).contains(&latency) {
                wrong
                    .push(format!("{name}: latency_ms = {latency} is no latency; write 0 or more"));
            }
        }
        if scenario.pairs.iter().any(|p| p.between.iter().any(|n| *n >= count)) {
            wrong.push(format!("pairs name peers 0 to {}", count.saturating_sub(1)));
        }
        if scenario.links.iter().any(|l| l.from > count || l.to > count) {
            wrong.push(format!("links name peers 0 to {count}, the last of which submits"));
        }
        for (place, fault) in scenario.faults.iter().enumerate() {
            if let Err(error) = fault.victim() {
                wrong.push(format!("faults {place}: {error}"));
            }
            if !(fault.times > 0.0 && fault.times < 1e6) {
                let times = fault.times;
                wrong.push(format!("faults {place}: times = {times}; write a number above 0"));
            }
        }
        if let Err(error) = scenario.spec() {
            wrong.push(error);
        }
        if wrong.is_empty() { Ok(scenario) } else { Err(ScenarioError::Values(wrong)) }
    }

    /// Returns how many peers compute.
    pub fn peer_count(&self) -> usize {
        self.peers.iter().map(|p| p.count).sum()
    }

    /// Returns the hardware of each computing peer.
    pub fn hardware(&self) -> Vec<Hardware> {
        let kinds = self.peers.iter().flat_map(|kind| std::iter::repeat_n(kind, kind.count));
        kinds
            .map(|kind| {
                if let Some(measured) = &kind.measured {
                    return measured.clone();
                }
                let speed =
                    |part: f64| Speed::from_flops_per_second(whole(kind.gflops * 1e9 * part));
                Hardware {
                    device: "simulated".into(),
                    speed: speed(1.0),
                    conv_speed: speed(0.5),
                    vector_speed: speed(0.1),
                    // About what machines have: a byte for every other operation.
                    touch_rate: Rate::from_bytes_per_second(whole(kind.gflops * 5e8)),
                    overhead: Duration::from_micros(2),
                    kinds: Kinds::default(),
                    memory: Bytes::new(kind.memory_mib << 20),
                    host: 0,
                    host_capacity: 0,
                    demand: 0,
                }
            })
            .collect()
    }

    /// Returns the properties of all links and of those that differ.
    pub fn links(&self) -> (LinkSpec, BTreeMap<(usize, usize), LinkSpec>) {
        let link = |mbit: f64, latency_ms: f64| LinkSpec {
            rate: Rate::from_mbit(mbit),
            latency: Duration::from_seconds(latency_ms / 1e3),
            jitter: Duration::from_seconds(self.link.jitter_ms.max(0.0) / 1e3),
        };
        let mut special = BTreeMap::new();
        for pair in &self.pairs {
            let [a, b] = pair.between;
            special.insert((a, b), link(pair.mbit, pair.latency_ms));
            special.insert((b, a), link(pair.mbit, pair.latency_ms));
        }
        for one in &self.links {
            special.insert((one.from, one.to), link(one.mbit, one.latency_ms));
        }
        (link(self.link.mbit, self.link.latency_ms), special)
    }

    /// Returns the job.
    ///
    /// *Errors*: there is no such network.
    pub fn spec(&self) -> Result<JobSpec, String> {
        let job = &self.job;
        let entry = wattle_models::zoo::find(&job.model)
            .ok_or_else(|| format!("job: there is no network \"{}\"", job.model))?;
        let dag = wattle_models::zoo::by_name(&job.model, None)
            .ok_or_else(|| format!("job: there is no network \"{}\"", job.model))?
            .map_err(|error| format!("job: {error}"))?;
        let order = match job.order.as_str() {
            "auto" => None,
            named => Some(named.parse().map_err(|error| format!("job.order: {error}"))?),
        };
        let (stages, recompute, backups) = (job.stages, Some(job.recompute), job.backups);
        let (replicas, stages_per_peer) = (job.replicas, job.stages_per_peer);
        let codec =
            job.codec.parse().map_err(|error| format!("job.codec = \"{}\": {error}", job.codec))?;
        let seed = job.seed;
        let start = match job.given {
            true => {
                Given::drawn(dag.values(), seed).start(&dag).map_err(|error| error.to_string())?
            }
            false => Start::Seed,
        };
        Ok(JobSpec {
            name: format!("simulated {}", job.model),
            dag,
            start,
            data: DataSpec { source: entry.data.into(), seed },
            train: TrainSpec {
                steps: job.steps,
                micro_batches: job.micro_batches,
                optimizer: Optimizer::AdamW {
                    beta1: 0.9,
                    beta2: 0.95,
                    eps: 1e-8,
                    weight_decay: 0.1,
                },
                learning_rate: LearningRate { peak: 1e-3, floor: 1e-4, warmup: 5 },
                clip_norm: Some(1.0),
                seed,
            },
            swarm: SwarmSpec {
                stages,
                order,
                recompute,
                backups,
                replicas,
                stages_per_peer,
                codec,
            },
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float to integer cast saturates, which is what is wanted"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[[peers]]\ncount = 3\ngflops = 10.0\n[link]\nmbit = 100.0\nlatency_ms = 1.0\n[job]\nmodel = \"gpt2-nano\"\nsteps = 3\n";

    #[test]
    fn a_scenario_is_read_and_all_its_mistakes_are_listed() {
        assert_eq!(Scenario::parse(GOOD).unwrap().peer_count(), 3);
        let bad = GOOD.replace("10.0", "-1.0").replace("100.0", "0.0").replace("nano", "huge")
            + "[[faults]]\nkill = \"everyone\"\n";
        let error = Scenario::parse(&bad).unwrap_err().to_string();
        for part in ["gflops = -1", "mbit = 0", "gpt2-huge", "everyone"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(Scenario::parse("[[peers]]\nspeed = 1\n").is_err());
    }
}
