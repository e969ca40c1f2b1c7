//! A stage that starts from weights which the submitter gave: its owner pulls them, checks them, and begins.
//!
//! Until they are here the owner has no state: it holds nothing that a repair could count on, and hands nothing to
//! backups. Backups take the owner's state, as at any later step, and step 0 is not ready before they hold it: from its
//! commit on nobody needs the submitter. See docs/decisions/0007-given-weights.md.

use super::Ctx;
use super::io::{Effect, StateSource, Task, TensorKey, TensorName};
use super::job::Job;
use super::stage::Stage;
use super::tasks::Purpose;
use crate::ids::{PeerId, StageId, Step};
use crate::wire::message::JobMessage;

impl Stage {
    /// Asks the submitter for the stage's weights, while there is no state.
    pub(super) fn ask_start(&self, ctx: &mut Ctx<'_>) {
        if !self.has_state {
            let body = JobMessage::Pull { stage: self.id, applied: Step::default() };
            ctx.send(self.shift.plan.submitter, self.job, body);
        }
    }

    /// Says whether a peer's bundle is the one that the stage starts from.
    pub(super) fn awaits_start(&self, from: PeerId, key: &TensorKey) -> bool {
        let is_own = key.name == TensorName::StageStart { stage: self.id };
        let plan = &self.shift.plan;
        is_own && !self.has_state && key.epoch == plan.epoch && from == plan.submitter
    }

    /// Takes the weights, if this is them: loads them and begins. Returns whether it was.
    pub(super) fn takes_start(&mut self, key: TensorKey, ctx: &mut Ctx<'_>) -> bool {
        if key.name != (TensorName::StageStart { stage: self.id }) {
            return false;
        }
        if !self.has_state {
            self.has_state = true;
            let task = Task::LoadStage {
                job: self.job,
                work: self.shift.work.clone(),
                source: StateSource::Given(key),
                step: key.step,
            };
            ctx.run((self.job, self.id), Purpose::Load, task);
            self.shift.reset(ctx);
            self.begin(ctx);
        }
        // The load, handed over before, still reads it.
        ctx.out.push(Effect::Drop(key));
        true
    }
}

impl Job {
    /// Gives a stage's owner what the stage starts from (submitter).
    pub(super) fn give(&self, to: PeerId, stage: StageId, ctx: &mut Ctx<'_>) {
        let (Some(plan), Some(work)) = (&self.plan, self.works.get(stage.index())) else {
            return;
        };
        let entitled = plan.submitter == ctx.me && plan.owner(stage) == Some(to);
        let name = TensorName::StageStart { stage };
        if work.start.is_none() || !entitled || ctx.is_shipping(self.id, name, to) {
            return;
        }
        let key = TensorKey { job: self.id, epoch: plan.epoch, step: Step::default(), name };
        if to != ctx.me {
            ctx.snapshots.entry(key).or_default().insert(to);
        }
        ctx.out.push(Effect::Give { key, work: work.clone(), to });
    }
}
