//! Following a stage: a backup holds the stage's state, takes each reduced gradient, applies each decided step. A replica
//! does the same, and runs some of the passes (`shift`).
//!
//! | state     | meaning                                    | leaves by                                     |
//! |-----------|--------------------------------------------|-----------------------------------------------|
//! | Empty     | waits for the owner's state                | state arrived, or drawn from the seed -> Follows |
//! | Follows   | has the state after `applied` updates      | gradient arrived -> Holds                     |
//! | Holds     | has the gradient of step `applied` as well | step decided -> Follows                       |
//!
//! The update is the same arithmetic on the same bits as the owner's, so a backup that takes over is the owner's equal.
//! See docs/concepts/exact-recovery.md.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Ctx;
use super::io::{
    GradientSource, Length, OpTimes, Outcome, StageWork, StateSource, Task, TensorKey, TensorName,
};
use super::shift::Shift;
use super::tasks::Purpose;
use crate::dag::bundle::{gradient_bytes, state_bytes};
use crate::ids::{JobId, PeerId, StageId, Step, TaskId};
use crate::schedule::Plan;
use crate::units::Instant;
use crate::wire::message::{Commit, JobMessage};

/// A stage that this peer stands by for, or runs with others.
#[derive(Debug)]
pub(super) struct Backup {
    pub(super) job: JobId,
    pub(super) id: StageId,
    pub(super) work: Arc<StageWork>,
    /// Updates that the state has seen; None while there is no state.
    pub(super) applied: Option<Step>,
    /// Gradients that are here, by step: of step `applied`, or of the next when a decision is overtaken.
    gradients: BTreeMap<Step, TensorKey>,
    plan: Arc<Plan>,
    /// Its part in the passes, if it is a replica.
    pub(super) shift: Option<Shift>,
}

impl Backup {
    pub(super) fn new(
        id: StageId,
        work: Arc<StageWork>,
        plan: Arc<Plan>,
        applied: Option<Step>,
    ) -> Self {
        let (job, gradients) = (plan.job, BTreeMap::new());
        Self { job, id, work, applied, gradients, plan, shift: None }
    }

    /// Puts the backup under a plan that goes on from step `base`; a gradient of the old epoch will be sent again.
    pub(super) fn adopt(
        &mut self,
        plan: Arc<Plan>,
        work: Arc<StageWork>,
        base: Step,
        ctx: &mut Ctx<'_>,
    ) {
        let place = plan.stages.get(self.id.index()).and_then(|s| s.place(ctx.me));
        let parts = (work.clone(), plan.clone());
        let shift = place.map(|place| Shift::new(self.id, parts, place, base));
        self.plan = plan;
        self.work = work;
        self.gradients.clear();
        self.shift = shift;
        if self.applied.is_some()
            && let Some(shift) = &self.shift
        {
            shift.reset(ctx);
        }
    }

    /// Begins the step that the state is at, as a replica.
    pub(super) fn begin(&mut self, ctx: &mut Ctx<'_>) {
        if let (Some(shift), Some(applied)) = (&mut self.shift, self.applied)
            && applied.number() < self.work.train.steps
            && shift.is_idle()
            && !shift.has_done(applied)
        {
            shift.begin(applied, ctx);
            self.tell_gradient(ctx);
        }
    }

    /// A task of this stage is done.
    pub(super) fn on_done(
        &mut self,
        task: TaskId,
        purpose: Purpose,
        outcome: &Outcome,
        span: (Instant, Instant, &OpTimes),
        ctx: &mut Ctx<'_>,
    ) {
        if let Some(shift) = &mut self.shift
            && shift.on_done(task, purpose, outcome, span, ctx)
        {
            self.tell_gradient(ctx);
        }
    }

    /// Says whether the gradient of step `applied` is here.
    pub(super) fn holds_next(&self) -> bool {
        self.applied.is_some_and(|a| self.gradients.contains_key(&a))
    }

    fn owner(&self) -> Option<PeerId> {
        self.plan.owner(self.id)
    }

    /// Says whether a bundle is awaited, and how long it is.
    pub(super) fn awaits(&self, from: PeerId, key: &TensorKey) -> Option<Length> {
        let working = self.shift.as_ref().and_then(|shift| shift.awaits(from, key));
        working.or_else(|| self.awaits_following(from, key))
    }

    fn awaits_following(&self, from: PeerId, key: &TensorKey) -> Option<Length> {
        if self.owner() != Some(from) || key.epoch != self.plan.epoch {
            return None;
        }
        let graph = &self.work.graph;
        match (key.name, self.applied) {
            (TensorName::StageState { stage }, None) if stage == self.id => {
                Some(Length::Exactly(state_bytes(graph, &self.work.train.optimizer)))
            }
            (TensorName::StageGradient { stage }, applied) if stage == self.id => {
                let due = applied.is_none_or(|a| key.step == a || key.step == a.next());
                let length = || gradient_bytes(graph, self.work.train.micro_batches);
                due.then(|| Length::Exactly(length()))
            }
            _ => None,
        }
    }

    /// Takes the owner's state or gradient, or what a pass waits for.
    pub(super) fn on_arrived(&mut self, key: TensorKey, ctx: &mut Ctx<'_>) {
        if key.epoch != self.plan.epoch {
            return;
        }
        match key.name {
            TensorName::StageState { stage } if stage == self.id && self.applied.is_none() => {
                self.applied = Some(key.step);
                let task = Task::LoadStage {
                    job: self.job,
                    work: self.work.clone(),
                    source: StateSource::Stored(key),
                    step: key.step,
                };
                ctx.run((self.job, self.id), Purpose::Load, task);
                self.gradients.retain(|step, _| *step >= key.step);
                if let Some(shift) = &self.shift {
                    shift.reset(ctx);
                }
                self.begin(ctx);
                self.tell_gradient(ctx);
            }
            TensorName::StageGradient { stage } if stage == self.id => {
                self.gradients.insert(key.step, key);
                self.tell_gradient(ctx);
            }
            TensorName::Activation { .. }
            | TensorName::Cotangent { .. }
            | TensorName::GroupSums { .. } => {
                if let Some(shift) = &mut self.shift {
                    shift.on_arrived(key, ctx);
                }
            }
            TensorName::StageState { .. }
            | TensorName::StageGradient { .. }
            | TensorName::SharedGradient { .. }
            | TensorName::StageStart { .. } => {}
        }
    }

    fn tell_gradient(&self, ctx: &mut Ctx<'_>) {
        let (Some(owner), Some(step)) = (self.owner(), self.applied) else {
            return;
        };
        if self.gradients.contains_key(&step)
            && self.shift.as_ref().is_none_or(|shift| shift.has_done(step))
        {
            let losses = |shift: &Shift| shift.losses.iter().map(|(m, loss)| (*m, *loss)).collect();
            let body = JobMessage::GradientHeld {
                epoch: self.plan.epoch,
                stage: self.id,
                step,
                losses: self.shift.as_ref().map(losses).unwrap_or_default(),
                stats: self.shift.as_ref().map(|shift| Box::new(shift.stats.clone())),
            };
            ctx.send(owner, self.job, body);
        }
    }

    /// Applies a decided step.
    pub(super) fn commit(&mut self, commit: Commit, ctx: &mut Ctx<'_>) {
        if self.applied != Some(commit.step) {
            return;
        }
        let Some(key) = self.gradients.remove(&commit.step) else {
            return;
        };
        let task = Task::OptimizerStep {
            job: self.job,
            stage: self.id,
            step: commit.step,
            scale: commit.scale,
            gradient: GradientSource::Stored(key),
        };
        ctx.run((self.job, self.id), Purpose::Update, task);
        self.applied = Some(commit.step.next());
        if let Some(shift) = &mut self.shift {
            shift.leave(commit.step.next());
        }
        self.tell_gradient(ctx);
    }

    /// Lets time pass: what may have been lost is said or asked for again.
    pub(super) fn tick(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(shift) = &mut self.shift {
            shift.tick(ctx);
        }
        match (self.applied, self.owner()) {
            (None, Some(owner)) => {
                let body = JobMessage::Pull { stage: self.id, applied: Step::default() };
                ctx.send(owner, self.job, body);
            }
            _ => self.tell_gradient(ctx),
        }
    }
}
