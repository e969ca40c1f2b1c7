//! Bringing the state of stages to whoever may have it: the submitter at the end, a new backup at any time.

use super::Ctx;
use super::io::{Task, TensorKey, TensorName};
use super::job::Job;
use super::tasks::Purpose;
use crate::ids::{PeerId, StageId, Step};
use crate::wire::message::JobMessage;

impl Job {
    /// Somebody wants the state of a stage.
    pub(super) fn on_pull(&self, from: PeerId, stage: StageId, least: Step, ctx: &mut Ctx<'_>) {
        let owned = self.stages.get(&stage).filter(|s| s.has_state).map(|s| s.applied());
        let followed = self.backups.get(&stage).and_then(|b| b.applied);
        // A decision may be under way to here yet: the one who asks will ask again.
        let Some(step) = owned.or(followed).filter(|applied| *applied >= least) else {
            return self.give(from, stage, ctx);
        };
        let roles = self.plan.as_ref().and_then(|p| p.stages.get(stage.index()));
        let entitled =
            from == self.submitter || roles.is_some_and(|r| r.followers().any(|p| p == from));
        let name = TensorName::StageState { stage };
        if !entitled || ctx.is_shipping(self.id, name, from) {
            return;
        }
        let key = TensorKey { job: self.id, epoch: self.epoch(), step, name };
        let task = Task::Snapshot { job: self.id, stage, key };
        ctx.run((self.id, stage), Purpose::Snapshot(key), task);
        ctx.snapshots.entry(key).or_default().insert(from);
    }

    /// Asks for the state of every stage (submitter).
    pub(super) fn pull(&mut self, ctx: &mut Ctx<'_>) {
        let Some(plan) = &self.plan else {
            return;
        };
        self.pulling = plan.stage_ids().map(|s| (s, 0)).collect();
        self.ask(ctx);
    }

    /// Asks owners, and on later attempts their followers, for what is still awaited.
    pub(super) fn ask(&mut self, ctx: &mut Ctx<'_>) {
        let Some(plan) = self.plan.clone() else {
            return;
        };
        let applied = self.steps();
        for (stage, asked) in &mut self.pulling {
            let roles = &plan.stages[stage.index()];
            let living: Vec<PeerId> =
                roles.holders().filter(|p| *p == ctx.me || ctx.membership.is_living(*p)).collect();
            if living.is_empty() {
                continue;
            }
            // One holder gets ten ticks before the next one is asked.
            let holder = living[(*asked / 10) % living.len()];
            *asked += 1;
            ctx.send(holder, self.id, JobMessage::Pull { stage: *stage, applied });
        }
    }
}
