//! Which job and which stage a task is for, what the small world's devices say of themselves, and that they compute
//! nothing twice.

use super::World;
use crate::ids::{JobId, PeerId, StageId, TaskId};
use crate::schedule::advert::Hardware;
use crate::schedule::kinds::Kinds;
use crate::swarm::io::{StateSource, Task, TensorName};
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
pub(in crate::swarm) fn hardware(times: u64) -> Hardware {
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

impl World {
    pub(super) fn note(&mut self, me: PeerId, task: &Task) {
        let (stage, step, micro_batch, back) = match task {
            Task::Forward { stage, step, micro_batch, .. } => (*stage, *step, *micro_batch, false),
            Task::Backward { stage, step, micro_batch, .. } => (*stage, *step, *micro_batch, true),
            Task::LoadStage { work, source, .. } => {
                let stage = work.graph.stage;
                return match source {
                    StateSource::Initial => assert!(work.start.is_none()),
                    StateSource::Given(key) => {
                        assert!(work.start.is_some());
                        assert_eq!(key.name, TensorName::StageStart { stage });
                    }
                    StateSource::Stored(_) => {}
                };
            }
            Task::ResetStep { stage, .. } => {
                return self.begun.retain(|(peer, of, ..)| (*peer, *of) != (me, *stage));
            }
            _ => return,
        };
        let fresh = self.begun.insert((me, stage, step, micro_batch.index(), back));
        assert!(fresh, "stage {stage} computes micro-batch {micro_batch:?} of step {step} twice");
    }

    pub(super) fn count(&mut self, me: PeerId, id: TaskId, task: &Task) {
        if let Task::Forward { stage, .. } | Task::Backward { stage, .. } = task {
            self.open.insert((me, id), *stage);
            let same = self.open.iter().filter(|((peer, _), of)| (*peer, *of) == (me, stage));
            self.open_max = self.open_max.max(same.count());
        }
    }
}
