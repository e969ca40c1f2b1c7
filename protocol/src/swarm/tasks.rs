//! Which task was for what: completions find their way back to a job's stage by task id.

use std::collections::BTreeMap;

use super::Peer;
use super::io::{Effect, Outbox, Outcome, Task, TaskError, TensorKey};
use crate::ids::{JobId, PeerId, StageId, TaskId};
use crate::schedule::pipeline::Pass;
use crate::units::{Bytes, Instant};
use crate::wire::message::JobMessage;

/// What a task was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A stage's state is loaded.
    Load,
    /// In-flight work was forgotten.
    Reset,
    /// A pass of the pipeline.
    Pass(Pass),
    /// Parts of shared gradients are in the store.
    Share,
    /// Gradients are reduced.
    Reduce,
    /// An update was applied.
    Update,
    /// A stage's state is in the store.
    Snapshot(TensorKey),
    /// A stage was freed.
    Unload,
}

/// Tasks that are not finished.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    next: u64,
    open: BTreeMap<TaskId, (JobId, StageId, Purpose)>,
}

impl Tasks {
    /// Hands a task to the execution thread.
    pub(super) fn run(
        &mut self,
        out: &mut Outbox,
        at: (JobId, StageId),
        purpose: Purpose,
        task: Task,
    ) -> TaskId {
        let id = TaskId::new(self.next);
        self.next += 1;
        self.open.insert(id, (at.0, at.1, purpose));
        out.push(Effect::Run { id, task });
        id
    }

    /// Takes a finished task off the list.
    pub(super) fn finish(&mut self, id: TaskId) -> Option<(JobId, StageId, Purpose)> {
        self.open.remove(&id)
    }
}

impl Peer {
    pub(super) fn on_task(
        &mut self,
        task: TaskId,
        outcome: &Outcome,
        span: (Instant, Instant),
        now: Instant,
        out: &mut Outbox,
    ) {
        let Some((id, stage, purpose)) = self.tasks.finish(task) else {
            return;
        };
        if let Purpose::Snapshot(key) = purpose {
            for to in self.snapshots.get(&key).cloned().unwrap_or_default() {
                if to == self.me {
                    self.snapshots.remove(&key);
                    self.arrivals.push_back(key);
                } else {
                    out.push(Effect::Ship { key, to });
                }
            }
            return;
        }
        self.with_job(id, now, out, |job, ctx| {
            if let Some(stage) = job.stages.get_mut(&stage) {
                stage.on_done(task, purpose, outcome, span, ctx);
            }
        });
    }

    pub(super) fn on_task_failed(
        &mut self,
        task: TaskId,
        error: &TaskError,
        now: Instant,
        out: &mut Outbox,
    ) {
        let Some((id, stage, purpose)) = self.tasks.finish(task) else {
            return;
        };
        tracing::warn!(job = %id, stage = %stage, ?purpose, ?error, "a task failed");
        if matches!(purpose, Purpose::Unload) {
            return;
        }
        self.with_job(id, now, out, |job, ctx| {
            if !job.stages.contains_key(&stage) && !job.backups.contains_key(&stage) {
                return;
            }
            job.unload(|s| s == stage, ctx);
            if let Some(leader) = ctx.leader {
                let reason = format!("{error:?}").chars().take(400).collect();
                let epoch = job.epoch();
                ctx.send(leader, id, JobMessage::StageFailed { epoch, stage, reason });
            }
        });
    }

    pub(super) fn on_shipped(
        &mut self,
        key: TensorKey,
        to: PeerId,
        (size, delivered): (Bytes, bool),
        now: Instant,
        out: &mut Outbox,
    ) {
        if let Some(waiting) = self.snapshots.get_mut(&key) {
            waiting.remove(&to);
            if waiting.is_empty() {
                self.snapshots.remove(&key);
                out.push(Effect::Drop(key));
            }
            return;
        }
        self.with_job(key.job, now, out, |job, ctx| {
            let mut stages = job.stages.values_mut();
            stages.any(|s| s.on_shipped(key, to, size, delivered, ctx));
        });
    }
}
