//! What this machine can do, measured by running small networks through the executor that jobs run through.
//!
//! Three coefficients of a roofline: the speed of matrix products of the size that a stage has, the rate of reading and
//! writing in element-wise operators, and the time that an operator takes however small it is. Taken at the share of
//! the machine that its owner gives, and one process of this machine at a time.

use std::sync::Arc;

use wattle_models::Executor;
use wattle_protocol::dag::{Dag, DagBuilder, DagError, Init, Op};
use wattle_protocol::ids::{Epoch, JobId, MicroBatch, StageId, Step};
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, PipelineOrder, SwarmSpec, TrainSpec,
};
use wattle_protocol::schedule::advert::Hardware;
use wattle_protocol::swarm::io::{StateSource, Task, TaskError};
use wattle_protocol::units::{Bytes, Duration, Rate, Speed};

use crate::worker::WorkerConfig;

/// Runs of each network; the shortest counts, since other work on the machine only adds.
const RUNS: u32 = 7;
/// Operators in one network, so that what surrounds a run weighs little.
const REPEATS: u64 = 16;
/// Side of the matrices: about what a small transformer's stage multiplies.
const SIDE: usize = 256;
/// Elements of the tensors that element-wise operators run over: 1 MiB, beyond the first caches.
const LARGE: usize = 1 << 18;
/// Share of the free memory that jobs may use unless the owner says otherwise.
const MEMORY_SHARE: f64 = 0.5;
/// Memory that jobs may use where the system does not say what is free.
const MEMORY_UNKNOWN: u64 = 1 << 30;

/// Measures this machine through an executor.
pub(crate) fn hardware(executor: &mut Executor, config: &WorkerConfig) -> Hardware {
    let _turn = Turn::wait();
    let tiny = time(executor, &chain(Op::Scale { factor: 1.0 }, &[8, 8], false));
    let wide = time(executor, &chain(Op::Scale { factor: 1.0 }, &[LARGE / 256, 256], false));
    let matrices = time(executor, &chain(Op::Linear, &[SIDE, SIDE], true));
    let share = config.share.clamp(0.001, 1.0);
    let overhead = tiny / REPEATS as f64;
    let touched = (LARGE * 4 * 2) as f64;
    let touch = touched / (wide / REPEATS as f64 - overhead).max(1e-9);
    let read = (3 * SIDE * SIDE * 4) as f64 / touch;
    let flops = (2 * SIDE * SIDE * SIDE) as f64;
    let speed = flops / (matrices / REPEATS as f64 - overhead - read).max(1e-9);
    Hardware {
        device: executor.device_name().chars().take(100).collect(),
        speed: Speed::from_flops_per_second(whole(speed * share)),
        touch_rate: Rate::from_bytes_per_second(whole(touch * share)),
        overhead: Duration::from_seconds(overhead / share).max(Duration::from_micros(1)),
        memory: Bytes::new(config.memory.unwrap_or_else(free_memory)),
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

fn free_memory() -> u64 {
    let Ok(mut system) = sysinfo::System::new() else {
        return MEMORY_UNKNOWN;
    };
    system.refresh_memory();
    whole(system.available_memory() as f64 * MEMORY_SHARE)
}

/// One operator again and again over one tensor, then a mean, so that the network has a loss.
fn chain(op: Op, shape: &[usize], with_weight: bool) -> Result<Dag, DagError> {
    let mut b = DagBuilder::new("probe");
    let mut x = b.parameter("x", shape, Init::Normal(0.01), false);
    let weight = with_weight.then(|| b.parameter("w", &[shape[1], shape[1]], Init::Normal(0.01), false));
    for place in 0..REPEATS {
        let operands: Vec<_> = std::iter::once(x).chain(weight).collect();
        x = b.op(format!("op{place}"), op.clone(), &operands)?;
    }
    let axes = (0..shape.len()).collect();
    let loss = b.op("loss", Op::ReduceMean { axes, keep: false }, &[x])?;
    b.output(loss);
    b.finish()
}

/// Returns the seconds of the shortest of a few forward passes; infinite where they do not run.
fn time(executor: &mut Executor, dag: &Result<Dag, DagError>) -> f64 {
    let Ok(dag) = dag else {
        return f64::INFINITY;
    };
    run(executor, dag.clone()).unwrap_or_else(|error| {
        tracing::warn!(?error, "the device did not run a probe");
        f64::INFINITY
    })
}

fn run(executor: &mut Executor, dag: Dag) -> Result<f64, TaskError> {
    let (job, stage, step) = (JobId::new([0xff; 16]), StageId::default(), Step::default());
    let spec = JobSpec {
        name: "probe".into(),
        dag,
        data: DataSpec { source: String::new(), seed: 0 },
        train: TrainSpec {
            steps: 1,
            micro_batches: RUNS + 1,
            optimizer: Optimizer::Sgd { momentum: 0.0, weight_decay: 0.0 },
            learning_rate: LearningRate { peak: 0.0, floor: 0.0, warmup: 0 },
            clip_norm: None,
            seed: 0,
        },
        swarm: SwarmSpec {
            stages: Some(1),
            order: PipelineOrder::GPipe,
            recompute: true,
            backups: 0,
        },
    };
    let work = wattle_models::single::whole_work(&spec)
        .map_err(|error| TaskError::Missing(error.to_string()))?;
    let work = Arc::clone(&work);
    executor.run(&Task::LoadStage { job, work, source: StateSource::Initial, step })?;
    executor.run(&Task::ResetStep { job, stage, epoch: Epoch::default() })?;
    let mut shortest = f64::INFINITY;
    for run in 0..=RUNS {
        let began = tokio::time::Instant::now();
        executor.run(&Task::Forward { job, stage, step, micro_batch: MicroBatch::new(run) })?;
        // The first run warms caches and compiles kernels.
        if run > 0 {
            shortest = shortest.min(began.elapsed().as_secs_f64());
        }
    }
    executor.run(&Task::Unload { job, stage })?;
    Ok(shortest)
}

/// A turn among the processes of this machine: peers that start together would measure each other.
struct Turn {
    _file: Option<std::fs::File>,
}

impl Turn {
    /// Waits for the turn. Without a lock (another user's file, no such file system) the measurement goes on anyway.
    fn wait() -> Self {
        let path = std::env::temp_dir().join("wattle-probe.lock");
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.ok().filter(|file| file.lock().is_ok());
        Self { _file: file }
    }
}
