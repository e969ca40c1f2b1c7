//! Pieces of work for the execution thread, and what they have to say when they end.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{StageWork, TensorKey};
use crate::ids::{Epoch, JobId, MicroBatch, StageId, Step};

/// Where a stage's state comes from when it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateSource {
    /// Drawn from the job's seed.
    Initial,
    /// A `StageState` bundle that has arrived.
    Stored(TensorKey),
    /// A `StageStart` bundle that has arrived; it is checked against the job's hashes.
    Given(TensorKey),
}

/// Where an optimizer step takes its gradient from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradientSource {
    /// The stage's own reduced gradient.
    Own,
    /// A `StageGradient` bundle that has arrived (a backup follows its owner).
    Stored(TensorKey),
}

/// One piece of work for the execution thread. Tasks run one at a time in the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Makes the stage ready at a step. Replaces a stage of the same (job, stage).
    LoadStage {
        /// The job.
        job: JobId,
        /// What to run.
        work: Arc<StageWork>,
        /// Where its state comes from.
        source: StateSource,
        /// Updates that this state has seen.
        step: Step,
    },
    /// Forgets in-flight micro-batches and accumulated gradients of a stage; its state stays. Sets the epoch of its keys.
    ResetStep {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// The epoch of keys from now on.
        epoch: Epoch,
    },
    /// Runs the forward sub-DAG on one micro-batch: takes its `Activation` inputs from the store (and frees them
    /// after the last use), puts its outgoing ones there.
    Forward {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// The step.
        step: Step,
        /// The micro-batch.
        micro_batch: MicroBatch,
    },
    /// Runs the backward sub-DAG on one micro-batch: takes `Cotangent`s from the store, puts its own there, and adds
    /// parameter gradients to the accumulators.
    Backward {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// The step.
        step: Step,
        /// The micro-batch.
        micro_batch: MicroBatch,
    },
    /// Adds the sums of the stage's own groups, in order, to those of the groups before. The owner keeps them; a replica
    /// puts them into the store as `GroupSums`.
    GatherGradients {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// The step.
        step: Step,
        /// Which piece of the gradient.
        chunk: u16,
        /// This worker's place.
        worker: u16,
        /// Whose `GroupSums` are in the store; none if this worker's groups are the first.
        source: Option<u16>,
        /// How many groups are before this worker's.
        first: u16,
    },
    /// Puts the accumulated parts of shared parameters into the store, one `SharedGradient` for each sharing stage.
    ShareGradients {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// The step.
        step: Step,
    },
    /// Sums gradient parts (the other stages' `SharedGradient`s from the store), puts `StageGradient` into the store and
    /// returns the sum of squares over the parameters whose home is this stage.
    ReduceGradients {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// The step.
        step: Step,
        /// Stages whose shared parts are in the store.
        shared_from: Vec<StageId>,
        /// Whether a backup needs the `StageGradient` bundle.
        publish: bool,
    },
    /// Applies one update: gradient times `scale`, at the step's learning rate. Turns state `step` into `step + 1`.
    OptimizerStep {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// The step.
        step: Step,
        /// Factor on the gradient (global-norm clipping).
        scale: f64,
        /// Whose gradient.
        gradient: GradientSource,
    },
    /// Puts the stage's state into the store as `StageState` under this key.
    Snapshot {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// The name under which it is stored.
        key: TensorKey,
    },
    /// Frees a stage.
    Unload {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
    },
}

/// What a finished task has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing but that it is done.
    Done,
    /// A forward pass; the loss of this micro-batch where the stage computes it, in nats.
    Forward {
        /// Mean loss of the micro-batch.
        loss: Option<f64>,
    },
    /// The reduced gradient: its sum of squares over parameters whose home is this stage.
    Gradients {
        /// Sum of squares.
        sum_of_squares: f64,
    },
}

/// Why a task failed; never a dead process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskError {
    /// The device had too little memory.
    OutOfMemory(String),
    /// The device is gone.
    DeviceLost(String),
    /// A panic in the execution thread.
    Panicked(String),
    /// The task named something that is not there: a tensor, a stage, a data source.
    Missing(String),
    /// A tensor holds NaN or infinity where the job needs a finite number.
    NotFinite(String),
}
