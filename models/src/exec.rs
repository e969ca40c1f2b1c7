//! The executor: runs the tasks that a peer's decisions ask for, on one device, in the order given.
//!
//! A task never takes the process down: panics and device errors come back as [`TaskError`], and a task that would take
//! more memory than the store's limit is refused before it runs. On a GPU a task is launched first and lands later, so
//! that the next one is computed while its results are read.
//! Reading order: [`tensor`], [`kernel`] (one operator), [`program`] (a sub-DAG), [`stage`] (a stage's state and step),
//! [`reading`] and [`flight`] (what a task leaves, on its way to host memory), [`store`] (what is exchanged with the
//! network, and the limit), [`evaluate`] (a whole Dag, forward), [`device`], [`traffic`], `failure` (which error it is).

pub mod device;
pub mod evaluate;
pub(crate) mod failure;
pub mod flight;
pub mod host;
pub mod kernel;
pub mod program;
pub mod reading;
pub mod stage;
pub mod store;
pub mod tensor;
mod times;
pub mod traffic;

use std::collections::BTreeMap;

use burn::backend::Dispatch;
use burn_backend::tensor::Device;
use cpu_time::ThreadTime;
use wattle_protocol::ids::{JobId, StageId};
use wattle_protocol::swarm::io::{
    GradientSource, Outcome, StateSource, Task, TaskError, TensorKey,
};
use wattle_protocol::units::{Bytes, Duration};

pub use device::{DeviceChoice, DeviceError};
pub use flight::{Flight, Flights};
pub use store::Store;

use self::device::OpenDevice;
pub(crate) use self::failure::contain;
use self::flight::Report;
use self::stage::{Gather, Stage, State, footprint};
use self::tensor::HostBackend;

/// Stages on one device of one backend.
#[derive(Debug)]
struct Engine<B: HostBackend> {
    device: Device<B>,
    stages: BTreeMap<(JobId, StageId), Stage<B>>,
    store: Store,
    /// Host memory of what flights read.
    flying: Bytes,
}

impl<B: HostBackend> Engine<B> {
    fn stage(&mut self, job: JobId, stage: StageId) -> Result<&mut Stage<B>, TaskError> {
        let missing = || TaskError::Missing(format!("stage {stage} of {job:?}"));
        self.stages.get_mut(&(job, stage)).ok_or_else(missing)
    }

    fn stored(&self, key: &TensorKey) -> Result<bytes::Bytes, TaskError> {
        self.store.bytes(key).ok_or_else(|| TaskError::Missing(format!("{key:?}")))
    }

    /// Tells the store what stages hold, and flights.
    fn note_memory(&self) {
        self.store.hold(self.stages.values().map(Stage::held).sum::<Bytes>() + self.flying);
    }

    fn launch(&mut self, task: &Task) -> Result<Flight, TaskError> {
        let store = self.store.clone();
        match task {
            Task::LoadStage { job, work, source, step } => {
                let bytes = match source {
                    StateSource::Initial => None,
                    StateSource::Stored(key) | StateSource::Given(key) => Some(self.stored(key)?),
                };
                let state = match (source, &bytes) {
                    (StateSource::Given(_), Some(bytes)) => State::Given(bytes),
                    (_, Some(bytes)) => State::Stored(bytes),
                    (_, None) => State::Drawn,
                };
                let id = (*job, work.graph.stage);
                // The old stage goes first, so that both are never in memory.
                drop(self.stages.remove(&id));
                self.note_memory();
                store
                    .room_for(footprint::of(work).state, &format!("stage {}", work.graph.stage))?;
                let stage = Stage::load(*job, work.clone(), state, *step, &self.device)?;
                self.stages.insert(id, stage);
                Ok(done(id))
            }
            Task::ResetStep { job, stage, epoch } => {
                self.stage(*job, *stage)?.reset(*epoch);
                Ok(done((*job, *stage)))
            }
            Task::Forward { job, stage, step, micro_batch } => {
                let stage = self.stage(*job, *stage)?;
                store.room_for(stage.footprint().forward, "a forward pass")?;
                stage.forward(*step, *micro_batch, &store)
            }
            Task::Backward { job, stage, step, micro_batch } => {
                let stage = self.stage(*job, *stage)?;
                store.room_for(stage.footprint().backward, "a backward pass")?;
                stage.backward(*step, *micro_batch, &store)
            }
            Task::GatherGradients { job, stage, step, chunk, worker, source, first } => {
                let stage = self.stage(*job, *stage)?;
                store.room_for(stage.footprint().copy * 2, "adding sums of groups up")?;
                let (chunk, worker, source, first) = (*chunk, *worker, *source, *first);
                stage.gather(*step, Gather { chunk, worker, source, first }, &store)
            }
            Task::ShareGradients { job, stage, step } => self.stage(*job, *stage)?.share(*step),
            Task::ReduceGradients { job, stage, step, shared_from, publish } => {
                let stage = self.stage(*job, *stage)?;
                store.room_for(stage.footprint().reducing(*publish), "summing gradients up")?;
                stage.reduce(*step, shared_from, *publish, &store)
            }
            Task::OptimizerStep { job, stage, step, scale, gradient } => {
                let stored = match gradient {
                    GradientSource::Own => None,
                    GradientSource::Stored(key) => Some(self.stored(key)?),
                };
                self.stage(*job, *stage)?.update(*step, *scale, stored.as_deref())?;
                Ok(done((*job, *stage)))
            }
            Task::Snapshot { job, stage, key } => {
                let stage = self.stage(*job, *stage)?;
                let (bundle, copy) = (stage.footprint().bundle, stage.footprint().copy);
                store.room_for(bundle + copy, "a bundle of the state")?;
                Ok(stage.snapshot(*key))
            }
            Task::Unload { job, stage } => {
                drop(self.stages.remove(&(*job, *stage)));
                Ok(done((*job, *stage)))
            }
        }
    }
}

fn done((job, stage): (JobId, StageId)) -> Flight {
    Flight::of(job, stage, Report::Done)
}

/// Runs tasks on one device.
#[derive(Debug)]
pub struct Executor {
    engine: Engine<Dispatch>,
    name: String,
    /// The device is gone: what lay on it is of no use.
    is_lost: bool,
}

impl Executor {
    /// Opens a device with a store of its own.
    ///
    /// *Errors*: [`DeviceError`] where the chosen device cannot be used.
    pub fn new(choice: DeviceChoice) -> Result<Self, DeviceError> {
        Self::with_store(choice, Store::new())
    }

    /// Opens a device over a store that others use too.
    ///
    /// *Errors*: [`DeviceError`] where the chosen device cannot be used.
    pub fn with_store(choice: DeviceChoice, store: Store) -> Result<Self, DeviceError> {
        let OpenDevice { device, name, .. } = device::open(choice)?;
        let engine = Engine { device, stages: BTreeMap::new(), store, flying: Bytes::ZERO };
        Ok(Self { engine, name, is_lost: false })
    }

    /// Returns the device's name for people.
    pub fn device_name(&self) -> &str {
        &self.name
    }

    /// Says whether tensors lie in host memory.
    fn is_host(&self) -> bool {
        self.engine.device == device::host()
    }

    /// Returns the device, for measurements.
    pub(crate) fn device(&self) -> &Device<Dispatch> {
        &self.engine.device
    }

    /// Returns the store; clones share it.
    pub fn store(&self) -> Store {
        self.engine.store.clone()
    }

    /// Runs one task to its end.
    ///
    /// *Errors*: [`TaskError`]; the executor goes on working, though the task's stage may have to be reset.
    pub fn run(&mut self, task: &Task) -> Result<Outcome, TaskError> {
        let flight = self.launch(task)?;
        self.land(flight)
    }

    /// Launches a task; it ends when it has landed, and tasks must land in the order of their launches. After the loss of
    /// the device, the next [`Task::LoadStage`] opens it afresh; all other stages went with it.
    ///
    /// *Errors*: as for [`run`](Self::run).
    pub fn launch(&mut self, task: &Task) -> Result<Flight, TaskError> {
        let mut result = contain(|| {
            if self.is_lost && matches!(task, Task::LoadStage { .. }) {
                self.reopen()?;
            }
            match self.is_host() {
                // On a thread of arithmetic: from any other, each loop that is split would wait until one wakes up.
                true => rayon::scope(|_| {
                    let before = (rayon::current_num_threads() == 1).then(ThreadTime::now);
                    let mut flight = self.engine.launch(task)?;
                    flight.has_worked(
                        before.map(|at| Duration::from_seconds(at.elapsed().as_secs_f64())),
                    );
                    Ok(flight)
                }),
                // GPUs have a queue for each thread of ours; work must stay in one.
                false => self.engine.launch(task),
            }
        });
        self.is_lost |= matches!(result, Err(TaskError::DeviceLost(_)));
        if let Ok(flight) = &mut result {
            if !self.is_host() {
                // What was measured is how long launching took.
                flight.take_times();
            }
            self.engine.flying += flight.size();
        }
        self.engine.note_memory();
        result
    }

    /// Waits until a launched task is done, and puts what it has made into the store.
    ///
    /// *Errors*: as for [`run`](Self::run).
    pub fn land(&mut self, flight: Flight) -> Result<Outcome, TaskError> {
        let flying = self.engine.flying.count().saturating_sub(flight.size().count());
        self.engine.flying = Bytes::new(flying);
        self.engine.note_memory();
        let result = contain(|| flight.land(&self.engine.store));
        self.is_lost |= matches!(result, Err(TaskError::DeviceLost(_)));
        result
    }

    /// Says how many tasks may usefully be under way: on a GPU one is computed while another is read.
    pub fn flights_max(&self) -> usize {
        if self.is_host() { 1 } else { 2 }
    }

    fn reopen(&mut self) -> Result<(), TaskError> {
        self.engine.stages.clear();
        let lost = |error: DeviceError| TaskError::DeviceLost(error.to_string());
        let OpenDevice { device, name, .. } = device::reopen(&self.engine.device).map_err(lost)?;
        (self.engine.device, self.name, self.is_lost) = (device, name, false);
        Ok(())
    }

    /// Estimates the running statistics of a loaded stage anew, as their means over so many micro-batches. The stage
    /// must be a whole network, since its data come from nowhere else.
    ///
    /// *Errors*: [`TaskError`]; the statistics are as before then.
    pub fn recalibrate(
        &mut self,
        job: JobId,
        stage: StageId,
        batches: u32,
    ) -> Result<(), TaskError> {
        let store = self.engine.store.clone();
        contain(|| self.engine.stage(job, stage)?.recalibrate(batches, &store))
    }

    /// Returns the parameters and buffers of a loaded stage by name.
    ///
    /// *Errors*: [`TaskError::Missing`] if it is not loaded.
    pub fn parameters(
        &mut self,
        job: JobId,
        stage: StageId,
    ) -> Result<BTreeMap<String, Vec<f32>>, TaskError> {
        contain(|| self.engine.stage(job, stage)?.named())
    }

    /// Multiplies the gradients of a stage.
    #[cfg(test)]
    pub(crate) fn scale_gradients(&mut self, job: JobId, stage: StageId, factor: f32) {
        self.engine.stage(job, stage).unwrap().scale_gradients(factor);
    }
}
