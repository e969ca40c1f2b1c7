//! The same job in one process: losses step by step, final parameters tensor by tensor.

use std::collections::BTreeMap;

use anyhow::Context as _;
use wattle_models::DeviceChoice;
use wattle_protocol::job::JobSpec;

use crate::follow::Tensor;

/// How the swarm's run differs from the single process's.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Losses of the single process.
    pub losses: Vec<f64>,
    /// Tensors compared.
    pub tensors: usize,
    /// Tensors with equal bits.
    pub equal: usize,
    /// Largest difference of an element, relative to the largest element of its tensor.
    pub difference: f64,
    /// Name of the tensor with the largest difference.
    pub worst: String,
    /// Seconds that the single process took a step on all cores (median).
    pub step_seconds: f64,
    /// The same on one thread, measured over its first steps.
    pub one_thread_seconds: f64,
}

/// Steps that are timed on one thread.
const TIMED: u64 = 12;

impl Comparison {
    /// Runs the job alone and compares the parameters that a swarm has learnt.
    ///
    /// *Errors*: the job does not run here, or a tensor is missing on one side.
    pub fn run(
        spec: &JobSpec,
        device: &str,
        learnt: &BTreeMap<String, Tensor>,
    ) -> anyhow::Result<Self> {
        let device = crate::device::choice(device)?;
        let mut losses = Vec::new();
        let (alone, step_seconds) = timed(spec, device, |loss| losses.push(loss))?;
        let mut short = spec.clone();
        short.train.steps = spec.train.steps.min(TIMED);
        let (_, one_thread_seconds) =
            wattle_models::on_one_thread(|| timed(&short, device, |_| ()))??;
        let mut comparison = Self {
            losses,
            tensors: 0,
            equal: 0,
            difference: 0.0,
            worst: String::new(),
            step_seconds,
            one_thread_seconds,
        };
        for (name, tensor) in learnt {
            let own = alone
                .get(name)
                .with_context(|| format!("the single process has no tensor {name}"))?;
            comparison.tensors += 1;
            comparison.equal += usize::from(*own == tensor.data);
            let difference = relative_difference(own, &tensor.data);
            if difference > comparison.difference {
                comparison.difference = difference;
                comparison.worst.clone_from(name);
            }
        }
        Ok(comparison)
    }

    /// Returns what a step would take if one thread's work spread over all cores without loss, in seconds.
    pub fn ideal_seconds(&self) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.one_thread_seconds / cores as f64
    }

    /// Returns the largest relative difference between these losses and others.
    pub fn loss_difference(&self, others: &[f64]) -> f64 {
        let pairs = self.losses.iter().zip(others);
        pairs.map(|(a, b)| (a - b).abs() / a.abs().max(f64::MIN_POSITIVE)).fold(0.0, f64::max)
    }
}

/// Runs a job in this process; returns what it learnt and the median seconds of a step.
fn timed(
    spec: &JobSpec,
    device: DeviceChoice,
    mut on_loss: impl FnMut(f64),
) -> anyhow::Result<(BTreeMap<String, Vec<f32>>, f64)> {
    let mut times = Vec::new();
    let mut last = tokio::time::Instant::now();
    let learnt = wattle_models::run_single(spec, device, |_, loss| {
        on_loss(loss);
        times.push(last.elapsed().as_secs_f64());
        last = tokio::time::Instant::now();
    });
    let learnt = learnt
        .map_err(|error| anyhow::anyhow!("the job does not run in one process: {error:?}"))?;
    Ok((learnt, median(&mut times)))
}

fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let largest = a.iter().map(|x| f64::from(x.abs())).fold(f64::MIN_POSITIVE, f64::max);
    let apart = a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).abs());
    apart.fold(0.0, f64::max) / largest
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}
