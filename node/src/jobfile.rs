//! Job files: TOML to a `JobSpec`, with every mistake reported at once.
//!
//! Nothing starts from a file with a mistake. [`table`] walks the file and notes what it does not understand; this
//! file and [`model`] say which keys there are, what they may hold, and what fits together; [`sizes`] divides steps, [`import`] brings
//! networks of files in. See `docs/reference/job-file.md`.

mod import;
mod model;
mod sizes;
mod table;

use std::fmt;
use std::path::{Path, PathBuf};

use wattle_models::data;
use wattle_models::huggingface::Layout;
use wattle_models::weights::given::Given;
use wattle_protocol::codec::Codec;
use wattle_protocol::dag::{Dag, Fact};
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, PipelineOrder, REPLICAS_MAX, STAGES_MAX,
    STAGES_PER_PEER_MAX, Start, SwarmSpec, TrainSpec,
};

use sizes::Division;
use table::Keys;

/// Most bytes of a job file.
pub const LENGTH_MAX: usize = 1 << 20;
/// Most optimizer steps of a job.
const STEPS_MAX: u64 = 100_000_000;
/// Most copies of a stage's state.
const BACKUPS_MAX: u64 = 8;
/// Most stages of one peer where a file says nothing: enough for both ends of a network that share a parameter.
const STAGES_PER_PEER: u64 = 2;

/// A mistake in a job file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which key, as a path; empty for the file as a whole.
    pub key: String,
    /// What stands there.
    pub value: String,
    /// What is wrong and what to write instead.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.is_empty(), self.value.is_empty()) {
            (true, _) => write!(f, "{}", self.remedy),
            (false, true) => write!(f, "{}: {}", self.key, self.remedy),
            (false, false) => write!(f, "{} = {}: {}", self.key, self.value, self.remedy),
        }
    }
}

/// All mistakes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(
            f,
            "{count} {} in the job file; nothing was started:",
            if count == 1 { "mistake" } else { "mistakes" }
        )?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A job as it stands in a file, with what only its submitter holds.
#[derive(Debug)]
pub struct Job {
    /// What is handed in.
    pub spec: JobSpec,
    /// The same job with its steps divided otherwise, where the file leaves that to the planner.
    pub divided: Vec<JobSpec>,
    /// What it starts from, where that is not drawn from its seed.
    pub given: Option<Given>,
    /// How its network is kept in a folder that other tools read, where they have such a network.
    pub layout: Option<Layout>,
    /// The folder that its weights come from: a tokenizer may lie there.
    pub folder: Option<PathBuf>,
}

impl Job {
    /// Takes the division of steps whose micro-batches have so many samples, if there is one.
    pub(crate) fn take(&mut self, size: usize) {
        if let Some(other) = self.divided.iter_mut().find(|spec| samples(&spec.dag) == size) {
            std::mem::swap(other, &mut self.spec);
        }
    }

    /// Returns all divisions of the job's steps that may be taken, to be changed alike.
    pub(crate) fn divisions_mut(&mut self) -> impl Iterator<Item = &mut JobSpec> {
        [&mut self.spec].into_iter().chain(&mut self.divided)
    }

    /// Returns all divisions of the job's steps that may be taken.
    pub(crate) fn divisions(&self) -> impl Iterator<Item = &JobSpec> {
        [&self.spec].into_iter().chain(&self.divided)
    }
}

/// Reads a job file that names no other files, or names them from here.
///
/// *Errors*: every mistake that it has.
pub fn parse(text: &str) -> Result<JobSpec, Problems> {
    parse_in(text, Path::new("")).map(|job| job.spec)
}

/// Reads a job file that lies in a folder.
///
/// *Errors*: every mistake that it has.
pub fn parse_in(text: &str, folder: &Path) -> Result<Job, Problems> {
    let mut keys = Keys::of(text)?;
    let mut asked = model::asked(&mut keys, folder);
    let division = sizes::divided(&mut keys, &mut asked);
    let named = asked.named(&mut keys);
    let usual = named.as_ref().map(|model| model.source).or(asked.is_unnamed().then_some(""));

    let section = keys.section("data");
    let source = keys.text(&section, "source", usual);
    let data_seed = keys.whole(&section, "seed", (0, i64::MAX.unsigned_abs()), Some(1));
    let model = named.or_else(|| asked.imported(&mut keys, source.as_deref()));
    check_source(&mut keys, source.as_deref(), model.as_ref().map(|m| &m.dag));

    let micro_batches = division.as_ref().and_then(|d| count(&mut keys, d, &model.as_ref()?.dag));
    let train = train(&mut keys, micro_batches);
    let swarm = swarm(&mut keys, model.as_ref().map(|m| &m.dag));
    let usual = asked.title();
    let title = keys.text("", "name", Some(&usual));
    keys.unknown();
    keys.finish()?;
    let missing = || {
        Problems(vec![Problem {
            key: String::new(),
            value: String::new(),
            remedy: "the file lacks a part that is not named above".into(),
        }])
    };
    let model = model.ok_or_else(missing)?;
    let spec = JobSpec {
        name: title.unwrap_or_default(),
        dag: model.dag,
        start: model.given.as_ref().map_or(Start::Seed, |(_, start)| start.clone()),
        data: DataSpec {
            source: source.ok_or_else(missing)?,
            seed: data_seed.ok_or_else(missing)?,
        },
        train: train.ok_or_else(missing)?,
        swarm: swarm.ok_or_else(missing)?,
    };
    let divided = model.resized.into_iter().filter_map(|dag| {
        let micro_batches = division.as_ref()?.count(samples(&dag))?;
        let train = TrainSpec { micro_batches, ..spec.train };
        Some(JobSpec { dag, train, ..spec.clone() })
    });
    let divided = divided.collect();
    let given = model.given.map(|(given, _)| given);
    Ok(Job { spec, divided, given, layout: model.layout, folder: asked.folder() })
}

/// Notes a source that does not exist, or that cannot fill the network's inputs.
fn check_source(keys: &mut Keys, source: Option<&str>, dag: Option<&Dag>) {
    let Some(source) = source.filter(|s| !s.is_empty()) else {
        return;
    };
    let shown = format!("\"{source}\"");
    let names = data::names();
    if !names.contains(&source) {
        let remedy = format!("there is no such source; there are {}", names.join(", "));
        return keys.wrong("data.source", &shown, &remedy);
    }
    let Some(dag) = dag else {
        return;
    };
    let spec = DataSpec { source: source.into(), seed: 0 };
    let place = data::Place { step: 0, micro_batch: 0, micro_batches: 1 };
    for id in dag.inputs() {
        let value = dag.value(id);
        let one = one_sample(&value.fact);
        if data::batch(&spec, place, &value.name, &one).is_err() {
            let remedy = format!(
                "it has nothing for the input {} of {} ({:?} {:?}); take a source that suits the network, or leave the key out",
                value.name,
                dag.name(),
                value.fact.dtype,
                value.fact.shape
            );
            return keys.wrong("data.source", &shown, &remedy);
        }
    }
}

/// The fact of a single sample, so that checking costs little however large the micro-batch is.
fn one_sample(fact: &Fact) -> Fact {
    let mut one = fact.clone();
    if let Some(first) = one.shape.first_mut() {
        *first = 1;
    }
    one
}

/// Returns the samples of a micro-batch.
pub(crate) fn samples(dag: &Dag) -> usize {
    dag.inputs().find_map(|id| dag.fact(id).shape.first().copied()).unwrap_or(1)
}

/// Returns how many micro-batches a step has; none where the network's do not fill the batch.
fn count(keys: &mut Keys, division: &Division, dag: &Dag) -> Option<u32> {
    let count = division.count(samples(dag));
    if let (None, Division::Open(batch)) = (count, division) {
        let remedy =
            format!("the model is made for {} samples at once; take a multiple", samples(dag));
        keys.wrong("train.batch", &batch.to_string(), &remedy);
    }
    count
}

fn train(keys: &mut Keys, micro_batches: Option<u32>) -> Option<TrainSpec> {
    let at = keys.section("train");
    let steps = keys.whole(&at, "steps", (1, STEPS_MAX), Some(100));
    let seed = keys.whole(&at, "seed", (0, i64::MAX.unsigned_abs()), Some(1));
    let clip_norm = keys.optional_number(&at, "clip_norm", (f64::MIN_POSITIVE, 1e9));
    let optimizer = optimizer(keys);
    let at = keys.section("train.learning_rate");
    let peak = keys.number(&at, "peak", (0.0, 1e3), Some(1e-3));
    let floor = keys.number(&at, "floor", (0.0, 1e3), Some(peak.unwrap_or(0.0) / 10.0));
    let warmup = keys.whole(&at, "warmup", (0, STEPS_MAX), Some(steps.unwrap_or(0) / 20));
    if let (Some(peak), Some(floor)) = (peak, floor)
        && floor > peak
    {
        let remedy = format!("the floor lies above the peak ({peak}); write at most {peak}");
        keys.wrong("train.learning_rate.floor", &floor.to_string(), &remedy);
    }
    if let (Some(steps), Some(warmup)) = (steps, warmup)
        && warmup > steps
    {
        let remedy = format!("the warm-up is longer than the {steps} steps of the job");
        keys.wrong("train.learning_rate.warmup", &warmup.to_string(), &remedy);
    }
    Some(TrainSpec {
        steps: steps?,
        micro_batches: micro_batches?,
        optimizer: optimizer?,
        learning_rate: LearningRate { peak: single(peak?), floor: single(floor?), warmup: warmup? },
        clip_norm: clip_norm.map(single),
        seed: seed?,
    })
}

fn optimizer(keys: &mut Keys) -> Option<Optimizer> {
    let at = keys.section("train.optimizer");
    let kind = keys.choice(&at, "kind", &["adamw", "sgd"], "adamw")?;
    let part = (0.0, 0.999_999_9);
    if kind == "sgd" {
        let momentum = keys.number(&at, "momentum", part, Some(0.9));
        let weight_decay = keys.number(&at, "weight_decay", (0.0, 10.0), Some(0.0));
        let (momentum, weight_decay) = (single(momentum?), single(weight_decay?));
        return Some(Optimizer::Sgd { momentum, weight_decay });
    }
    let beta1 = keys.number(&at, "beta1", part, Some(0.9));
    let beta2 = keys.number(&at, "beta2", part, Some(0.95));
    let eps = keys.number(&at, "eps", (f64::MIN_POSITIVE, 1.0), Some(1e-8));
    let weight_decay = keys.number(&at, "weight_decay", (0.0, 10.0), Some(0.1));
    Some(Optimizer::AdamW {
        beta1: single(beta1?),
        beta2: single(beta2?),
        eps: single(eps?),
        weight_decay: single(weight_decay?),
    })
}

fn swarm(keys: &mut Keys, dag: Option<&Dag>) -> Option<SwarmSpec> {
    let at = keys.section("swarm");
    let stages = keys.whole_or(&at, "stages", "auto", (1, u64::from(STAGES_MAX)));
    if let (Some(Some(stages)), Some(dag)) = (stages, dag)
        && stages > dag.nodes().len() as u64
    {
        let remedy = format!("the network has only {} operators to share out", dag.nodes().len());
        keys.wrong("swarm.stages", &stages.to_string(), &remedy);
    }
    let order = order(keys, &at);
    let recompute = keys.flag_or(&at, "recompute", "auto");
    let backups = keys.whole(&at, "backups", (0, BACKUPS_MAX), Some(1));
    let replicas = keys.whole(&at, "replicas", (1, u64::from(REPLICAS_MAX)), Some(1));
    let most = u64::from(STAGES_PER_PEER_MAX);
    let stages_per_peer = keys.whole(&at, "stages_per_peer", (1, most), Some(STAGES_PER_PEER));
    let codec = codec(keys, &at);
    Some(SwarmSpec {
        stages: match stages? {
            Some(stages) => Some(u16::try_from(stages).ok()?),
            None => None,
        },
        order: order?,
        recompute: recompute?,
        backups: u8::try_from(backups?).ok()?,
        replicas: u16::try_from(replicas?).ok()?,
        stages_per_peer: u16::try_from(stages_per_peer?).ok()?,
        codec: codec?,
    })
}

/// Reads the order of passes; inside, None where the planner chooses it.
fn order(keys: &mut Keys, at: &str) -> Option<Option<PipelineOrder>> {
    let text = keys.text(at, "order", Some("auto"))?;
    if text == "auto" {
        return Some(None);
    }
    let found = text.parse::<PipelineOrder>();
    found
        .map_err(|remedy| {
            keys.wrong("swarm.order", &format!("\"{text}\""), &format!("\"auto\", {remedy}"));
        })
        .ok()
        .map(Some)
}

fn codec(keys: &mut Keys, at: &str) -> Option<Codec> {
    let text = keys.text(at, "codec", Some("dense"))?;
    let wrong = |remedy: String| keys.wrong("swarm.codec", &format!("\"{text}\""), &remedy);
    text.parse().map_err(wrong).ok()
}

#[expect(clippy::cast_possible_truncation, reason = "settings are stored in single precision")]
fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests;
