//! What this machine can do, measured by running small networks through the executor that jobs run through.
//!
//! The coefficients of `Hardware::time`: what an operator takes however small it is, the rate of reading and writing,
//! the speeds of element-wise arithmetic and of matrix products, each from a network of one kind of operator. A
//! training pass of a small transformer then says how far their sum is from the truth, and all are set right by that;
//! one of a small residual network leaves the speed of convolutions. Taken at the share of the machine that its owner
//! gives, and one process of this machine at a time.

use std::sync::Arc;

use wattle_models::Executor;
use wattle_protocol::dag::cost::flops;
use wattle_protocol::dag::op::Gelu;
use wattle_protocol::dag::{Dag, DagBuilder, DagError, Fact, Init, Op};
use wattle_protocol::ids::{Epoch, JobId, MicroBatch, StageId, Step};
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, PipelineOrder, Start, SwarmSpec, TrainSpec,
};
use wattle_protocol::schedule::advert::Hardware;
use wattle_protocol::schedule::estimate::program_load;
use wattle_protocol::schedule::load::Load;
use wattle_protocol::swarm::io::{StageWork, StateSource, Task, TaskError};
use wattle_protocol::units::{Bytes, Duration, Flops, Rate, Speed};

use crate::worker::WorkerConfig;

/// Runs of each network; the median counts: what a job will see, not what a lucky run can do.
const RUNS: u32 = 7;
/// Operators in one network, so that what surrounds a run weighs little.
const REPEATS: u64 = 16;
/// Side of the matrices: about what a small transformer's stage multiplies.
const SIDE: usize = 256;
/// Elements of the tensors that element-wise operators run over: 1 MiB, beyond the first caches.
const LARGE: usize = 1 << 18;
/// Share of the free memory that jobs may use unless the owner says otherwise.
const MEMORY_SHARE: f64 = 0.5;
/// Least part of a residual network's training pass that convolutions take, whatever the rest seems to explain.
const LEFT_MIN: f64 = 0.3;
/// Memory that jobs may use where the system does not say what is free.
const MEMORY_UNKNOWN: u64 = 1 << 30;

/// Networks whose training tells the speed of matrix products and of convolutions.
const TRAINED: [&str; 2] = ["gpt2-nano", "resnet-tiny"];

/// Measures this machine through an executor.
pub(crate) fn hardware(executor: &mut Executor, config: &WorkerConfig) -> Hardware {
    let _turn = Turn::wait();
    let chained = |executor: &mut Executor, op: Op, shape: &[usize]| {
        time(executor, chain(op, shape).map_err(|e| e.to_string())) / REPEATS as f64
    };
    let overhead = chained(executor, Op::Scale { factor: 1.0 }, &[8, 8]);
    let large = [LARGE / 256, 256];
    let touched = (LARGE * 4 * 2) as f64;
    let wide = chained(executor, Op::Scale { factor: 1.0 }, &large) - overhead;
    let curved = chained(executor, Op::Gelu(Gelu::Tanh), &large) - overhead;
    let matrices = chained(executor, Op::Linear, &[SIDE, SIDE]) - overhead;
    let share = config.share.clamp(0.001, 1.0);
    let fact = Fact::f32(&large);
    let curve = flops(&Op::Gelu(Gelu::Tanh), &[&fact], &[&fact]).count() as f64;
    let products = (2 * SIDE * SIDE * SIDE) as f64;
    let mut found = Hardware {
        device: executor.device_name().chars().take(100).collect(),
        speed: Speed::from_flops_per_second(whole(products / matrices.max(1e-9))),
        conv_speed: Speed::default(),
        vector_speed: Speed::from_flops_per_second(whole(curve / (curved - wide).max(1e-9))),
        touch_rate: Rate::from_bytes_per_second(whole(touched / wide.max(1e-9))),
        overhead: Duration::from_seconds(overhead).max(Duration::from_micros(1)),
        memory: Bytes::new(config.memory.unwrap_or_else(free_memory)),
        host: host(),
        host_capacity: thousandths(threads()),
        demand: thousandths(config.share * f64::from(executor_threads())),
    };
    found.conv_speed = found.speed;
    if let Some((took, load)) = trained(executor, TRAINED[0]) {
        found = at_share(found.clone(), found.time(load).seconds() / took);
    }
    if let Some((took, load)) = trained(executor, TRAINED[1]) {
        let known = found.time(Load { convolutions: Flops::ZERO, ..load }).seconds();
        // Where the rest seems to explain everything, convolutions still took a part of it.
        let left = (took - known).max(took * LEFT_MIN);
        let speed = whole(load.convolutions.count() as f64 / left);
        found.conv_speed = Speed::from_flops_per_second(speed.max(1));
    }
    at_share(found, share)
}

/// Returns what a peer has that gets only a share of the machine's time.
fn at_share(whole_machine: Hardware, share: f64) -> Hardware {
    let less =
        |speed: Speed| Speed::from_flops_per_second(whole(speed.flops_per_second() as f64 * share));
    let touch = whole_machine.touch_rate.bytes_per_second() as f64 * share;
    Hardware {
        speed: less(whole_machine.speed),
        conv_speed: less(whole_machine.conv_speed),
        vector_speed: less(whole_machine.vector_speed),
        touch_rate: Rate::from_bytes_per_second(whole(touch)),
        overhead: Duration::from_seconds(whole_machine.overhead.seconds() / share),
        ..whole_machine
    }
}

/// Returns the seconds of a training pass of a network of the zoo and its load; None where it does not run.
fn trained(executor: &mut Executor, model: &str) -> Option<(f64, Load)> {
    let ran = crate::demo::job::spec(model, Some(1), 1).and_then(|spec| {
        let work = wattle_models::single::whole_work(&probe_job(spec.dag, spec.data))?;
        let took = run(executor, &work, true).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let nodes = work.graph.forward.nodes.iter().chain(&work.graph.backward.nodes);
        Ok((took, program_load(&work.graph, &nodes.cloned().collect::<Vec<_>>())))
    });
    ran.inspect_err(|error| tracing::warn!(%error, model, "a network of the probe does not run"))
        .ok()
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

/// Returns a name of this machine until it starts again, and never 0.
fn host() -> u64 {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let name = boot.or_else(|| sysinfo::System::host_name().ok()).unwrap_or_default();
    let hash = blake3::hash(name.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first).max(1)
}

fn threads() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64)
}

/// Returns the threads that the executor computes with; more than the machine has are no more.
fn executor_threads() -> u16 {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok());
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    asked.filter(|n| *n > 0).or_else(|| u16::try_from(all).ok()).unwrap_or(1)
}

fn thousandths(value: f64) -> u32 {
    u32::try_from(whole(value * 1000.0)).unwrap_or(u32::MAX)
}

/// One operator again and again over one tensor, then a mean, so that the network has a loss.
fn chain(op: Op, shape: &[usize]) -> Result<Dag, DagError> {
    let mut b = DagBuilder::new("probe");
    let mut x = b.parameter("x", shape, Init::Normal(0.01), false);
    let weight = matches!(op, Op::Linear)
        .then(|| b.parameter("w", &[shape[1], shape[1]], Init::Normal(0.01), false));
    for place in 0..REPEATS {
        let operands: Vec<_> = std::iter::once(x).chain(weight).collect();
        x = b.op(format!("op{place}"), op.clone(), &operands)?;
    }
    let axes = (0..shape.len()).collect();
    let loss = b.op("loss", Op::ReduceMean { axes, keep: false }, &[x])?;
    b.output(loss);
    b.finish()
}

/// Returns the median seconds of a few forward passes; infinite where they do not run.
fn time(executor: &mut Executor, dag: Result<Dag, String>) -> f64 {
    let data = DataSpec { source: String::new(), seed: 0 };
    let ran = dag.and_then(|dag| {
        let work = wattle_models::single::whole_work(&probe_job(dag, data));
        let work = work.map_err(|error| error.to_string())?;
        run(executor, &work, false).map_err(|error| format!("{error:?}"))
    });
    ran.unwrap_or_else(|error| {
        tracing::warn!(error, "the device did not run a probe");
        f64::INFINITY
    })
}

fn probe_job(dag: Dag, data: DataSpec) -> JobSpec {
    JobSpec {
        name: "probe".into(),
        dag,
        start: Start::Seed,
        data,
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
            order: Some(PipelineOrder::OneFOneB),
            recompute: Some(false),
            backups: 0,
            replicas: 1,
            stages_per_peer: 1,
        },
    }
}

/// Returns the median seconds of a few passes.
fn run(executor: &mut Executor, work: &Arc<StageWork>, back: bool) -> Result<f64, TaskError> {
    let (job, stage, step) = (JobId::new([0xff; 16]), StageId::default(), Step::default());
    let work = Arc::clone(work);
    executor.run(&Task::LoadStage { job, work, source: StateSource::Initial, step })?;
    executor.run(&Task::ResetStep { job, stage, epoch: Epoch::default() })?;
    let mut times = Vec::new();
    for run in 0..=RUNS {
        let micro_batch = MicroBatch::new(run);
        let began = tokio::time::Instant::now();
        executor.run(&Task::Forward { job, stage, step, micro_batch })?;
        if back {
            executor.run(&Task::Backward { job, stage, step, micro_batch })?;
        }
        // The first run warms caches and compiles kernels.
        if run > 0 {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    executor.run(&Task::Unload { job, stage })?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
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
