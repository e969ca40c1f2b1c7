//! A whole job in one process: the reference that a swarm's run must equal.
//!
//! Not a second implementation: the same tasks on the same executor, with the network on one stage.

use std::collections::BTreeMap;
use std::sync::Arc;

use wattle_protocol::dag::bundle::optimizer_slots;
use wattle_protocol::dag::cut::whole;
use wattle_protocol::dag::grad::{GradError, differentiate};
use wattle_protocol::dag::rewrite::recompute;
use wattle_protocol::dag::{Source, Value};
use wattle_protocol::ids::{Epoch, JobId, MicroBatch, StageId, Step};
use wattle_protocol::job::JobSpec;
use wattle_protocol::swarm::io::{
    GradientSource, Outcome, StageWork, StateSource, Task, TaskError, TensorKey, TensorName,
};

use crate::exec::store::append;
use crate::exec::{DeviceChoice, DeviceError, Executor, Flights};
use crate::init;
use crate::weights::WeightsError;
use crate::weights::given::Given;

/// Why a job did not run.
#[derive(Debug, thiserror::Error)]
pub enum SingleError {
    /// The network has no backward pass.
    #[error("the network cannot be trained")]
    Grad(#[from] GradError),
    /// There is no device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// What the job starts from is not there.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A task failed.
    #[error("a task failed: {0:?}")]
    Task(TaskError),
}

impl From<TaskError> for SingleError {
    fn from(error: TaskError) -> Self {
        Self::Task(error)
    }
}

/// The job's name where it needs none.
const JOB: JobId = JobId::new([0; 16]);
/// The only stage.
const STAGE: StageId = StageId::new(0);

/// A job in this process, a step at a time.
#[derive(Debug)]
pub struct Steps<'a> {
    executor: Executor,
    spec: &'a JobSpec,
    step: u64,
}

impl<'a> Steps<'a> {
    /// Loads the whole network with its initial state.
    ///
    /// *Errors*: [`SingleError`].
    pub fn begin(spec: &'a JobSpec, device: DeviceChoice) -> Result<Self, SingleError> {
        Self::begin_from(spec, None, device)
    }

    /// The same with weights that are given, where the job starts from such.
    ///
    /// *Errors*: [`SingleError`].
    pub fn begin_from(
        spec: &'a JobSpec,
        given: Option<&Given>,
        device: DeviceChoice,
    ) -> Result<Self, SingleError> {
        let mut executor = Executor::new(device)?;
        let work = whole_work(spec)?;
        let source = match given {
            Some(given) => {
                let (epoch, step) = (Epoch::default(), Step::default());
                let name = TensorName::StageStart { stage: STAGE };
                let key = TensorKey { job: JOB, epoch, step, name };
                executor.store().accept(key, given.bundle(&work.graph)?);
                StateSource::Given(key)
            }
            None => StateSource::Initial,
        };
        executor.run(&Task::LoadStage { job: JOB, work, source, step: Step::new(0) })?;
        executor.run(&Task::ResetStep { job: JOB, stage: STAGE, epoch: Epoch::new(1) })?;
        executor.store().drop_job(JOB);
        Ok(Self { executor, spec, step: 0 })
    }

    /// Runs the next step; returns its mean loss in nats.
    ///
    /// *Errors*: [`SingleError`].
    pub fn next_loss(&mut self) -> Result<f64, SingleError> {
        let loss = run_step(&mut self.executor, self.spec, self.step)?;
        self.step += 1;
        Ok(loss)
    }

    /// Returns parameters and buffers by name.
    ///
    /// *Errors*: [`SingleError`].
    pub fn parameters(&mut self) -> Result<BTreeMap<String, Vec<f32>>, SingleError> {
        Ok(self.executor.parameters(JOB, STAGE)?)
    }
}

/// Trains a job to its end in this process; returns parameters and buffers by name.
///
/// `on_step` gets each step's number, from 0, and its mean loss in nats.
///
/// *Errors*: [`SingleError`].
pub fn run_single(
    spec: &JobSpec,
    device: DeviceChoice,
    on_step: impl FnMut(u64, f64),
) -> Result<BTreeMap<String, Vec<f32>>, SingleError> {
    run_single_from(spec, None, device, on_step)
}

/// The same from weights that are given, where the job starts from such.
///
/// *Errors*: [`SingleError`].
pub fn run_single_from(
    spec: &JobSpec,
    given: Option<&Given>,
    device: DeviceChoice,
    mut on_step: impl FnMut(u64, f64),
) -> Result<BTreeMap<String, Vec<f32>>, SingleError> {
    let mut steps = Steps::begin_from(spec, given, device)?;
    for step in 0..spec.train.steps {
        on_step(step, steps.next_loss()?);
    }
    steps.parameters()
}

/// Returns a trained network's tensors with running statistics estimated anew, as means over `batches` micro-batches of
/// the job's data. A tensor that
/// is not given, or has another size, is drawn as at the start.
///
/// *Errors*: [`SingleError`].
pub fn recalibrate(
    spec: &JobSpec,
    tensors: &BTreeMap<String, Vec<f32>>,
    batches: u32,
    device: DeviceChoice,
) -> Result<BTreeMap<String, Vec<f32>>, SingleError> {
    let mut executor = Executor::new(device)?;
    let work = whole_work(spec)?;
    let graph = &work.graph;
    let slots = optimizer_slots(&spec.train.optimizer);
    let mut state = Vec::new();
    for id in &graph.parameters {
        append(&mut state, &of_name(spec, &graph.values[id], tensors));
    }
    // What the optimizer keeps does not matter here.
    let kept = vec![0.0; slots * state.len() / size_of::<f32>()];
    append(&mut state, &kept);
    for id in &graph.buffers {
        append(&mut state, &of_name(spec, &graph.values[id], tensors));
    }
    let (step, epoch) = (Step::new(0), Epoch::new(1));
    let key = TensorKey { job: JOB, epoch, step, name: TensorName::StageState { stage: STAGE } };
    executor.store().put_bytes(key, state.into())?;
    let source = StateSource::Stored(key);
    executor.run(&Task::LoadStage { job: JOB, work, source, step })?;
    executor.recalibrate(JOB, STAGE, batches)?;
    Ok(executor.parameters(JOB, STAGE)?)
}

/// Returns a tensor's elements: those given under its name, or as drawn at the start.
fn of_name(spec: &JobSpec, value: &Value, given: &BTreeMap<String, Vec<f32>>) -> Vec<f32> {
    let fits = |tensor: &&Vec<f32>| tensor.len() == value.fact.elements();
    match (given.get(&value.name).filter(fits), value.source) {
        (Some(tensor), _) => tensor.clone(),
        (None, Source::Parameter { init, .. } | Source::Buffer { init }) => {
            init::draw(spec.train.seed, value, init)
        }
        (None, Source::Node { .. } | Source::Input) => Vec::new(),
    }
}

/// Runs something with one thread of arithmetic, whatever the process uses otherwise.
///
/// *Errors*: the thread does not start.
pub fn on_one_thread<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, DeviceError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = pool.map_err(|error| DeviceError::NoThread(error.to_string()))?;
    Ok(pool.install(run))
}

/// Returns the work of a job's network on one stage.
///
/// *Errors*: [`GradError`] if it cannot be differentiated.
pub fn whole_work(spec: &JobSpec) -> Result<Arc<StageWork>, GradError> {
    let training = differentiate(spec.dag.clone(), spec.train.micro_batches)?;
    let mut graph = whole(&training).stages.swap_remove(0);
    if spec.swarm.recompute == Some(true) {
        graph = recompute(graph);
    }
    Ok(Arc::new(StageWork::of(spec, graph, &[])))
}

/// Returns the mean loss.
fn run_step(executor: &mut Executor, spec: &JobSpec, step: u64) -> Result<f64, TaskError> {
    let (job, stage, step) = (JOB, STAGE, Step::new(step));
    let forward = |micro_batch| Task::Forward { job, stage, step, micro_batch };
    let backward = |micro_batch| Task::Backward { job, stage, step, micro_batch };
    let micro_batches = (0..spec.train.micro_batches).map(MicroBatch::new);
    let (shared_from, publish) = (Vec::new(), false);
    let reduce = Task::ReduceGradients { job, stage, step, shared_from, publish };
    let tasks = micro_batches.flat_map(|m| [forward(m), backward(m)]).chain([reduce]);
    let (mut total, mut norm) = (0.0, 0.0);
    let mut hear = |outcome| match outcome {
        Outcome::Forward { loss } => total += loss.unwrap_or(0.0),
        Outcome::Gradients { sum_of_squares } => norm = sum_of_squares.sqrt(),
        Outcome::Done => {}
    };
    let mut flights = Flights::default();
    for task in tasks {
        if flights.len() >= executor.flights_max() {
            land(executor, &mut flights, &mut hear)?;
        }
        let flight = executor.launch(&task);
        flights.push((), flight);
    }
    while !flights.is_empty() {
        land(executor, &mut flights, &mut hear)?;
    }
    let scale = match spec.train.clip_norm {
        Some(most) if norm > f64::from(most) => f64::from(most) / norm,
        Some(_) | None => 1.0,
    };
    let gradient = GradientSource::Own;
    executor.run(&Task::OptimizerStep { job, stage, step, scale, gradient })?;
    Ok(total / f64::from(spec.train.micro_batches.max(1)))
}

fn land(
    executor: &mut Executor,
    flights: &mut Flights<()>,
    hear: &mut impl FnMut(Outcome),
) -> Result<(), TaskError> {
    if let Some(((), flight)) = flights.pop() {
        hear(executor.land(flight?)?);
    }
    Ok(())
}
