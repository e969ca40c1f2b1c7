//! Which job and which stage a task is for, and what the small world's devices say of themselves.

use crate::ids::{JobId, StageId};
use crate::schedule::advert::Hardware;
use crate::schedule::kinds::Kinds;
use crate::swarm::io::Task;
use crate::units::{Bytes, Duration, Rate, Speed};

pub(super) fn task_job(task: &Task) -> JobId {
    match task {
        Task::LoadStage { job, .. }
        | Task::ResetStep { job, .. }
        | Task::Forward { job, .. }
        | Task::Backward { job, .. }
        | Task::GatherGradients { job, .. }
        | Task::ShareGradients { job, .. }
        | Task::ReduceGradients { job, .. }
        | Task::OptimizerStep { job, .. }
        | Task::Snapshot { job, .. }
        | Task::Unload { job, .. } => *job,
    }
}

pub(super) fn task_stage(task: &Task) -> StageId {
    match task {
        Task::LoadStage { work, .. } => work.graph.stage,
        Task::ResetStep { stage, .. }
        | Task::Forward { stage, .. }
        | Task::Backward { stage, .. }
        | Task::GatherGradients { stage, .. }
        | Task::ShareGradients { stage, .. }
        | Task::ReduceGradients { stage, .. }
        | Task::OptimizerStep { stage, .. }
        | Task::Snapshot { stage, .. }
        | Task::Unload { stage, .. } => *stage,
    }
}

/// A device of so many times the usual speed.
pub(super) fn hardware(times: u64) -> Hardware {
    let speed = Speed::from_flops_per_second(times * 1_000_000_000);
    Hardware {
        device: "test".into(),
        speed,
        conv_speed: speed,
        vector_speed: speed,
        touch_rate: Rate::from_bytes_per_second(times * 1_000_000_000),
        overhead: Duration::from_micros(3),
        kinds: Kinds { pass: Duration::from_micros(3_000 / times), ..Kinds::default() },
        memory: Bytes::new(1 << 30),
        host: 0,
        host_capacity: 0,
        demand: 0,
    }
}
