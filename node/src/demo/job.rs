//! The jobs that the demonstration runs.

use anyhow::Context as _;
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, Start, SwarmSpec, TrainSpec,
};

/// Returns the demonstration's job for a network.
///
/// *Errors*: there is no such network.
pub fn spec(model: &str, steps: Option<u64>, stages: u16) -> anyhow::Result<JobSpec> {
    let entry =
        wattle_models::zoo::find(model).with_context(|| format!("there is no network {model}"))?;
    let dag = wattle_models::zoo::by_name(model, None)
        .with_context(|| format!("there is no network {model}"))?
        .with_context(|| format!("while building {model}"))?;
    let (usual, peak) = match model {
        "gpt2-mini" => (60, 1e-3),
        "resnet-tiny" => (120, 3e-3),
        _ => (200, 3e-3),
    };
    let steps = steps.unwrap_or(usual);
    Ok(JobSpec {
        name: format!("demo {model}"),
        dag,
        start: Start::Seed,
        data: DataSpec { source: entry.data.into(), seed: 1 },
        train: TrainSpec {
            steps,
            micro_batches: 8,
            optimizer: Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 },
            learning_rate: LearningRate { peak, floor: peak / 10.0, warmup: (steps / 8).max(1) },
            clip_norm: Some(1.0),
            seed: 1,
        },
        swarm: SwarmSpec { stages: Some(stages), backups: 1, ..SwarmSpec::PLAIN },
    })
}
