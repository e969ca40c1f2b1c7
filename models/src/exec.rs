//! The executor: runs the tasks that a peer's decisions ask for, on one device, one at a time.
//!
//! A task never takes the process down: panics and device errors come back as [`TaskError`].
//! Reading order: [`tensor`], [`kernel`] (one operator), [`program`] (a sub-DAG), [`stage`] (a stage's state and step),
//! [`store`] (what is exchanged with the network), [`evaluate`] (a whole Dag, forward), [`device`].

pub mod device;
pub mod evaluate;
pub mod host;
pub mod kernel;
pub mod program;
pub mod stage;
pub mod store;
pub mod tensor;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::Dispatch;
use burn_backend::tensor::Device;
use wattle_protocol::ids::{JobId, StageId};
use wattle_protocol::swarm::io::{
    GradientSource, Outcome, StateSource, Task, TaskError, TensorKey,
};

pub use device::{DeviceChoice, DeviceError};
pub use store::Store;

use self::device::OpenDevice;
use self::stage::Stage;
use self::tensor::HostBackend;

/// Stages on one device of one backend.
#[derive(Debug)]
struct Engine<B: HostBackend> {
    device: Device<B>,
    stages: BTreeMap<(JobId, StageId), Stage<B>>,
    store: Store,
}

impl<B: HostBackend> Engine<B> {
    fn stage(&mut self, job: JobId, stage: StageId) -> Result<&mut Stage<B>, TaskError> {
        let missing = || TaskError::Missing(format!("stage {stage} of {job:?}"));
        self.stages.get_mut(&(job, stage)).ok_or_else(missing)
    }

    fn stored(&self, key: &TensorKey) -> Result<bytes::Bytes, TaskError> {
        self.store.bytes(key).ok_or_else(|| TaskError::Missing(format!("{key:?}")))
    }

    fn run(&mut self, task: &Task) -> Result<Outcome, TaskError> {
        let store = self.store.clone();
        match task {
            Task::LoadStage { job, work, source, step } => {
                let state = match source {
                    StateSource::Initial => None,
                    StateSource::Stored(key) => Some(self.stored(key)?),
                };
                let id = (*job, work.graph.stage);
                // The old stage goes first, so that both are never in memory.
                drop(self.stages.remove(&id));
                let stage = Stage::load(*job, work.clone(), state.as_deref(), *step, &self.device)?;
                self.stages.insert(id, stage);
            }
            Task::ResetStep { job, stage, epoch } => self.stage(*job, *stage)?.reset(*epoch),
            Task::Forward { job, stage, step, micro_batch } => {
                let loss = self.stage(*job, *stage)?.forward(*step, *micro_batch, &store)?;
                return Ok(Outcome::Forward { loss });
            }
            Task::Backward { job, stage, step, micro_batch } => {
                self.stage(*job, *stage)?.backward(*step, *micro_batch, &store)?;
            }
            Task::ShareGradients { job, stage, step } => {
                self.stage(*job, *stage)?.share(*step, &store)?;
            }
            Task::ReduceGradients { job, stage, step, shared_from, publish } => {
                let stage = self.stage(*job, *stage)?;
                let sum_of_squares = stage.reduce(*step, shared_from, *publish, &store)?;
                return Ok(Outcome::Gradients { sum_of_squares });
            }
            Task::OptimizerStep { job, stage, step, scale, gradient } => {
                let stored = match gradient {
                    GradientSource::Own => None,
                    GradientSource::Stored(key) => Some(self.stored(key)?),
                };
                self.stage(*job, *stage)?.update(*step, *scale, stored.as_deref())?;
            }
            Task::Snapshot { job, stage, key } => {
                let bytes = self.stage(*job, *stage)?.snapshot()?;
                store.put_bytes(*key, bytes);
            }
            Task::Unload { job, stage } => drop(self.stages.remove(&(*job, *stage))),
        }
        Ok(Outcome::Done)
    }
}

/// Runs tasks on one device.
#[derive(Debug)]
pub struct Executor {
    engine: Engine<Dispatch>,
    name: String,
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
        let engine = Engine { device, stages: BTreeMap::new(), store };
        Ok(Self { engine, name })
    }

    /// Returns the device's name for people.
    pub fn device_name(&self) -> &str {
        &self.name
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
        contain(|| self.engine.run(task))
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
}

/// Turns a panic into an error; burn reports misfitting shapes and some device failures as panics.
pub(crate) fn contain<T>(f: impl FnOnce() -> Result<T, TaskError>) -> Result<T, TaskError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string()))
                .unwrap_or_else(|| "a panic without a message".into());
            let lower = text.to_lowercase();
            if lower.contains("out of memory") || lower.contains("capacity overflow") {
                return Err(TaskError::OutOfMemory(text));
            }
            Err(TaskError::Panicked(text))
        }
    }
}
