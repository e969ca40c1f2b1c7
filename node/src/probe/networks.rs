//! What the probe runs: networks of one kind of operator, and training passes of networks of the zoo.

use std::collections::BTreeMap;
use std::sync::Arc;

use wattle_models::Executor;
use wattle_protocol::dag::cost::{Unit, unit};
use wattle_protocol::dag::cut::{Program, StageGraph};
use wattle_protocol::dag::{Dag, DagBuilder, DagError, Init, Op};
use wattle_protocol::ids::{Epoch, JobId, MicroBatch, StageId, Step};
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, Start, SwarmSpec, TrainSpec,
};
use wattle_protocol::schedule::estimate::{pass_loads, program_load};
use wattle_protocol::schedule::fitted::Sample;
use wattle_protocol::schedule::load::Load;
use wattle_protocol::swarm::io::{OpTimes, StageWork, StateSource, Task, TaskError};

/// Runs of each chain; the median counts: what a job will see, not what a lucky run can do.
const RUNS: u32 = 31;
/// Runs end after so long: what takes long varies less, and a first start should not take long.
const ENOUGH: std::time::Duration = std::time::Duration::from_secs(1);
/// Pause before each pass of a network: after one of a few milliseconds a pass finds less in caches and a core that has gone to sleep,
/// as it does while its activation crosses a slow link.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(12);
/// Bytes that are written before each pass: more than the caches that a core has for itself.
const OTHERS: usize = 16 << 20;
/// Both, before a pass of a few operators.
const SHORT: std::time::Duration = std::time::Duration::from_millis(2);
const FEW: usize = 256 << 10;
/// Forward passes before the first backward one: as in a pipeline, what a pass has kept is out of the caches when it is read.
const AHEAD: u32 = 4;
/// Operators in a chain, so that what surrounds a run weighs little.
pub(super) const REPEATS: u64 = 16;
/// Operators in the chain that tells what the least one takes: so little that fewer are lost among what surrounds them.
pub(super) const MANY: u64 = 256;

/// What a network's training pass, forward and backward, was seen to take.
#[derive(Debug)]
pub(super) struct Trained {
    /// Median seconds of both passes.
    pub(super) took: f64,
    /// Their work.
    pub(super) load: Load,
    /// By operator, in one forward and one backward pass; empty where the device does not tell.
    pub(super) ops: BTreeMap<&'static str, (Unit, Sample)>,
}

/// Returns the loads of a program's operators, by name.
pub(super) fn loads(stage: &StageGraph, program: &Program) -> BTreeMap<&'static str, (Unit, Load)> {
    let mut loads: BTreeMap<&'static str, (Unit, Load)> = BTreeMap::new();
    for node in &program.nodes {
        let load = program_load(stage, std::slice::from_ref(node));
        let entry = loads.entry(node.op.name()).or_insert((unit(&node.op), Load::default()));
        entry.1 = entry.1 + load;
    }
    loads
}

/// Measures a network of the zoo; None where it does not run.
pub(super) fn trained(executor: &mut Executor, model: &str, runs: u32) -> Option<Trained> {
    let ran = crate::demo::job::spec(model, Some(1), 1).and_then(|spec| {
        let work = wattle_models::single::whole_work(&job(spec.dag, spec.data, runs))?;
        let ran = run(executor, &work, true, runs);
        let (took, times) = ran.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let (forward, backward) = pass_loads(&work.graph);
        let mut ops: BTreeMap<&'static str, (Unit, Sample)> = BTreeMap::new();
        for program in [&work.graph.forward, &work.graph.backward] {
            for (name, (unit, load)) in loads(&work.graph, program) {
                if times.contains_key(name) {
                    let sample = Sample { load, nanos: 0 };
                    ops.entry(name).or_insert((unit, Sample::default())).1.add(sample);
                }
            }
        }
        for (name, mut nanos) in times {
            nanos.sort_unstable();
            if let Some((_, sample)) = ops.get_mut(name) {
                sample.nanos = nanos[nanos.len() / 2];
            }
        }
        Ok(Trained { took, load: forward + backward, ops })
    });
    ran.inspect_err(|error| tracing::warn!(%error, model, "a network of the probe does not run"))
        .ok()
}

/// Returns the median seconds of a forward pass over so many of one operator; infinite where it does not run.
pub(super) fn time(executor: &mut Executor, op: Op, shape: &[usize], count: u64) -> f64 {
    let data = DataSpec { source: String::new(), seed: 0 };
    let ran = chain(op, shape, count).map_err(|e| e.to_string()).and_then(|dag| {
        let work = wattle_models::single::whole_work(&job(dag, data, RUNS));
        let work = work.map_err(|error| error.to_string())?;
        run(executor, &work, false, RUNS).map_err(|error| format!("{error:?}"))
    });
    ran.map(|(took, _)| took).unwrap_or_else(|error| {
        tracing::warn!(error, "the device did not run a probe");
        f64::INFINITY
    })
}

/// One operator again and again over one tensor, then a mean, so that the network has a loss.
fn chain(op: Op, shape: &[usize], count: u64) -> Result<Dag, DagError> {
    let mut b = DagBuilder::new("probe");
    let mut x = b.parameter("x", shape, Init::Normal(0.01), false);
    let weight = matches!(op, Op::Linear)
        .then(|| b.parameter("w", &[shape[1], shape[1]], Init::Normal(0.01), false));
    for place in 0..count {
        let operands: Vec<_> = std::iter::once(x).chain(weight).collect();
        x = b.op(format!("op{place}"), op.clone(), &operands)?;
    }
    let axes = (0..shape.len()).collect();
    let loss = b.op("loss", Op::ReduceMean { axes, keep: false }, &[x])?;
    b.output(loss);
    b.finish()
}

fn job(dag: Dag, data: DataSpec, runs: u32) -> JobSpec {
    JobSpec {
        name: "probe".into(),
        dag,
        start: Start::Seed,
        data,
        train: TrainSpec {
            steps: 1,
            micro_batches: runs + 1 + AHEAD,
            optimizer: Optimizer::Sgd { momentum: 0.0, weight_decay: 0.0 },
            learning_rate: LearningRate { peak: 0.0, floor: 0.0, warmup: 0 },
            clip_norm: None,
            seed: 0,
        },
        swarm: SwarmSpec { stages: Some(1), ..SwarmSpec::PLAIN },
    }
}

/// Nanoseconds by operator, of each run.
type Times = BTreeMap<&'static str, Vec<u64>>;

/// Returns the median seconds of a few runs, and what operators took in each. Those that train do as in a pipeline:
/// several micro-batches under way, and caches and threads as others have left them. Others run sooner: a pass of a few
/// operators mostly follows one of many.
fn run(
    executor: &mut Executor,
    work: &Arc<StageWork>,
    trains: bool,
    runs: u32,
) -> Result<(f64, Times), TaskError> {
    let (job, stage, step) = (JobId::new([0xff; 16]), StageId::default(), Step::default());
    let work = Arc::clone(work);
    executor.run(&Task::LoadStage { job, work, source: StateSource::Initial, step })?;
    executor.run(&Task::ResetStep { job, stage, epoch: Epoch::default() })?;
    let (ahead, touched, pause) = if trains { (AHEAD, OTHERS, PAUSE) } else { (0, FEW, SHORT) };
    let (mut seconds, mut times, mut memory) = (Vec::new(), Times::new(), vec![0; touched]);
    let mut spent = std::time::Duration::ZERO;
    let mut before = || others(&mut memory, pause);
    for run in 0..=runs + ahead {
        before();
        let mut sums: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut note = |ops: OpTimes| {
            for (name, nanos) in ops.iter() {
                *sums.entry(name).or_default() += nanos;
            }
        };
        let micro_batch = MicroBatch::new(run);
        let began = tokio::time::Instant::now();
        note(timed(executor, &Task::Forward { job, stage, step, micro_batch })?);
        let mut took = began.elapsed();
        if trains && run >= ahead {
            before();
            let micro_batch = MicroBatch::new(run - ahead);
            let began = tokio::time::Instant::now();
            note(timed(executor, &Task::Backward { job, stage, step, micro_batch })?);
            took += began.elapsed();
        }
        // The first run warms caches and compiles kernels.
        if run > ahead {
            spent += took;
            seconds.push(took.as_secs_f64());
            for (name, nanos) in sums {
                times.entry(name).or_default().push(nanos);
            }
            if spent > ENOUGH {
                break;
            }
        }
    }
    executor.run(&Task::Unload { job, stage })?;
    seconds.sort_by(f64::total_cmp);
    Ok((seconds[seconds.len() / 2], times))
}

/// In a pipeline a pass finds caches and threads as others have left them.
fn others(memory: &mut [u8], pause: std::time::Duration) {
    for byte in memory.iter_mut() {
        *byte = byte.wrapping_add(1);
    }
    std::hint::black_box(memory);
    std::thread::sleep(pause);
}

fn timed(executor: &mut Executor, task: &Task) -> Result<OpTimes, TaskError> {
    let mut flight = executor.launch(task)?;
    let ops = flight.take_times();
    executor.land(flight)?;
    Ok(ops)
}
