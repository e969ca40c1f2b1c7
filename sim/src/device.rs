//! What a peer computes with: tasks one at a time, each taking virtual time by the cost model.
//!
//! [`symbolic::Symbolic`] reads and writes the same tensors as a real device but holds fingerprints in them, so that
//! thousands of steps cost little and a lost, doubled or stale tensor shows in every loss that follows.
//! [`numeric::Numeric`] runs the product's executor.

pub mod numeric;
pub mod symbolic;

use bytes::Bytes;
use wattle_protocol::dag::bundle::{gather_chunks, state_bytes};
use wattle_protocol::ids::{Epoch, JobId, StageId, Step};
use wattle_protocol::schedule::advert::Hardware;
use wattle_protocol::schedule::estimate::{parameter_bytes, pass_loads};
use wattle_protocol::schedule::launches::Launches;
use wattle_protocol::schedule::load::Load;
use wattle_protocol::swarm::io::{Outcome, StageWork, Task, TaskError, TensorKey};
use wattle_protocol::units::Duration;

/// Time of a task that moves nothing.
const SMALL: Duration = Duration::from_micros(10);

/// What runs tasks.
pub trait Device {
    /// Runs one task to its end.
    ///
    /// *Errors*: what the task finds wrong.
    fn run(&mut self, task: &Task) -> Result<Outcome, TaskError>;
    /// Returns what a stage starts from, where the job's weights are given: what its seed would draw.
    ///
    /// *Errors*: there is nothing of the kind.
    fn start(&self, job: JobId, work: &StageWork) -> Result<Bytes, String>;
    /// Returns a stored bundle.
    fn bundle(&self, key: &TensorKey) -> Option<Bytes>;
    /// Stores a bundle.
    fn put(&mut self, key: TensorKey, bundle: Bytes);
    /// Frees a bundle.
    fn forget(&mut self, key: &TensorKey);
    /// Frees a job's bundles below an epoch or a step.
    fn forget_before(&mut self, job: JobId, epoch: Epoch, step: Step);
    /// Returns a fingerprint of a stage's state, where the stage is loaded.
    fn fingerprint(&mut self, job: JobId, stage: StageId) -> Option<[u8; 32]>;
}

/// Returns how long a task takes on some hardware, by the same cost model as placements are predicted with.
pub fn duration(hardware: &Hardware, work: Option<&StageWork>, task: &Task) -> Duration {
    let Some(work) = work else {
        return SMALL;
    };
    let graph = &work.graph;
    let state = |times: u64| {
        let bytes = parameter_bytes(graph) * times;
        hardware.time(Load {
            bytes,
            launches: Launches::light(graph.parameters.len() as u64),
            ..Load::default()
        })
    };
    match task {
        Task::Forward { .. } => hardware.time(pass_loads(graph).0),
        Task::Backward { .. } => hardware.time(pass_loads(graph).1),
        Task::ReduceGradients { .. } | Task::ShareGradients { .. } => state(2),
        Task::GatherGradients { .. } => {
            let chunks = gather_chunks(graph).len() as u64;
            Duration::from_micros(state(2).micros() / chunks)
        }
        Task::OptimizerStep { .. } => state(7),
        Task::LoadStage { .. } | Task::Snapshot { .. } => {
            let bytes = state_bytes(graph, &work.train.optimizer);
            hardware.time(Load { bytes, launches: Launches::light(1), ..Load::default() })
        }
        Task::ResetStep { .. } | Task::Unload { .. } => SMALL,
    }
}

/// Returns the job and stage that a task is for.
pub fn place(task: &Task) -> (JobId, StageId) {
    match task {
        Task::LoadStage { job, work, .. } => (*job, work.graph.stage),
        Task::ResetStep { job, stage, .. }
        | Task::Forward { job, stage, .. }
        | Task::Backward { job, stage, .. }
        | Task::GatherGradients { job, stage, .. }
        | Task::ShareGradients { job, stage, .. }
        | Task::ReduceGradients { job, stage, .. }
        | Task::OptimizerStep { job, stage, .. }
        | Task::Snapshot { job, stage, .. }
        | Task::Unload { job, stage } => (*job, *stage),
    }
}
