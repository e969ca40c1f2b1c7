//! Which job and which stage a task is for.

use crate::ids::{JobId, StageId};
use crate::swarm::io::Task;

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
