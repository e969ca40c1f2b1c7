//! Which task was for what: completions find their way back to a job's stage by task id.

use std::collections::BTreeMap;

use super::Peer;
use super::io::{Effect, OpTimes, Outbox, Outcome, Task, TaskError, TensorKey};
use crate::ids::{JobId, PeerId, StageId, TaskId};
use crate::schedule::pipeline::Pass;
use crate::units::{Bytes, Instant};
use crate::wire::message::Message;

/// Most characters of a failure's reason that are told.
const REASON_MAX: usize = 400;

/// What a task was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A stage's state is loaded.
    Load,
    /// In-flight work was forgotten.
    Reset,
    /// A pass of the pipeline.
    Pass(Pass),
    /// A piece of the sums of a stage's workers.
    Gather(u16),
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
        (began, ended, ops): (Instant, Instant, OpTimes),
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
                stage.on_done(task, purpose, outcome, (began, ended, &ops), ctx);
            } else if let Some(backup) = job.backups.get_mut(&stage) {
                backup.on_done(task, purpose, outcome, (began, ended, &ops), ctx);
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
        if let Purpose::Snapshot(key) = purpose {
            self.snapshots.remove(&key);
        }
        let reason: String = format!("{error:?}").chars().take(REASON_MAX).collect();
        let of_numbers = matches!(error, TaskError::NotFinite(_));
        if matches!(error, TaskError::DeviceLost(_)) {
            return self.on_device_lost(&reason, now, out);
        }
        if !matches!(purpose, Purpose::Unload) {
            self.with_job(id, now, out, |job, ctx| {
                job.fail_stages(|s| s == stage, (&reason, of_numbers), ctx);
            });
        }
    }

    /// Everything that the device held is gone, and nobody is to count on it until it is measured again.
    fn on_device_lost(&mut self, reason: &str, now: Instant, out: &mut Outbox) {
        if self.gossip.has_device() {
            self.gossip.lose_device();
            let adverts = vec![self.gossip.publish(now)];
            for to in self.membership.connected() {
                let message = Box::new(Message::Adverts(adverts.clone()));
                out.push(Effect::Send { to, message });
            }
        }
        let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in jobs {
            self.with_job(id, now, out, |job, ctx| job.fail_stages(|_| true, (reason, false), ctx));
        }
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
            let owned = job.stages.values_mut().map(|s| &mut s.shift);
            let mut shifts = owned.chain(job.backups.values_mut().filter_map(|b| b.shift.as_mut()));
            shifts.any(|s| s.on_shipped(key, to, size, delivered, ctx));
        });
    }
}
