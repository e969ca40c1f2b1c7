//! One stage's life at its owner: its shift, then reduces, waits for those who follow, reports, updates.
//!
//! | state      | meaning                                            | leaves by                                      |
//! |------------|----------------------------------------------------|------------------------------------------------|
//! | Idle       | not begun, or waits for its state (`start`)        | `begin` -> Running                             |
//! | Running    | passes, and the sums of all workers (`shift`)      | shift done -> Sharing                          |
//! | Sharing    | sends parts of shared parameters, awaits others'   | all here -> Reducing                           |
//! | Reducing   | sums gradient parts                                | done -> Publishing                             |
//! | Publishing | waits until each follower holds the gradient       | all do -> Ready (reported to the leader)       |
//! | Ready      | reports until the step is decided                  | `commit` -> Idle; `begin`, if it was not last  |
//!
//! Another plan (`adopt`) makes any of them Idle, with the state as it is.
//! Followers are replicas and backups. Not here: who owns what (`job`), what the leader decides (`lead`), following a
//! stage (`backup`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Ctx;
use super::io::{GradientSource, Length, OpTimes, Outcome, StageWork, Task, TensorKey, TensorName};
use super::shift::Shift;
use super::tasks::Purpose;
use crate::dag::bundle::{shared_bytes, start_bytes};
use crate::ids::{JobId, MicroBatch, PeerId, StageId, Step, TaskId};
use crate::schedule::Plan;
use crate::units::Instant;
use crate::wire::message::{Commit, JobMessage, StageStats};

/// Where a stage stands within a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    Running,
    Sharing,
    Reducing,
    Publishing,
    Ready,
}

/// A stage that this peer owns.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) job: JobId,
    pub(super) id: StageId,
    /// Whether there is a state: not while the submitter's weights are awaited.
    pub(super) has_state: bool,
    /// Whether the reduced gradient of step `applied` is in the execution thread's hands.
    pub(super) reduced: bool,
    pub(super) phase: Phase,
    pub(super) shift: Shift,
    /// Followers that hold this step's gradient, with what the step cost them if they worked.
    held: BTreeMap<PeerId, Option<StageStats>>,
    /// Losses of the replicas' micro-batches.
    losses: BTreeMap<MicroBatch, f64>,
    sum_of_squares: f64,
}

impl Stage {
    pub(super) fn new(id: StageId, work: Arc<StageWork>, plan: Arc<Plan>, applied: Step) -> Self {
        Self {
            job: plan.job,
            id,
            has_state: true,
            reduced: false,
            phase: Phase::Idle,
            shift: Shift::new(id, (work, plan), 0, applied),
            held: BTreeMap::new(),
            losses: BTreeMap::new(),
            sum_of_squares: 0.0,
        }
    }

    /// Returns how many updates the state has seen, counted when an update is handed to the execution thread.
    pub(super) fn applied(&self) -> Step {
        self.shift.step
    }

    /// Puts the stage under a plan: what was in flight is forgotten, its state stays.
    pub(super) fn adopt(&mut self, plan: Arc<Plan>, work: Arc<StageWork>, ctx: &mut Ctx<'_>) {
        self.shift = Shift::new(self.id, (work, plan), 0, self.applied());
        self.phase = Phase::Idle;
        self.reduced = false;
        match self.has_state {
            true => self.shift.reset(ctx),
            false => self.ask_start(ctx),
        }
    }

    /// Begins step `applied`; without a state, once that is here.
    pub(super) fn begin(&mut self, ctx: &mut Ctx<'_>) {
        if !self.has_state {
            return;
        }
        self.phase = Phase::Running;
        self.reduced = false;
        self.held.clear();
        self.losses.clear();
        self.shift.begin(self.applied(), ctx);
        self.go_on(ctx);
    }

    /// Goes on once the shift is done.
    fn go_on(&mut self, ctx: &mut Ctx<'_>) {
        if self.phase == Phase::Running && self.shift.has_done(self.applied()) {
            self.share(ctx);
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
        if !self.shift.on_done(task, purpose, outcome, span, ctx) {
            return;
        }
        match (purpose, outcome) {
            (Purpose::Share, _) => self.shared(ctx),
            (Purpose::Reduce, Outcome::Gradients { sum_of_squares }) => {
                self.sum_of_squares = *sum_of_squares;
                self.publish(ctx);
            }
            _ => self.go_on(ctx),
        }
    }

    fn sharers(&self) -> BTreeSet<StageId> {
        let shared = self.shift.work.graph.shared.iter();
        shared.flat_map(|s| s.stages.iter().copied()).filter(|s| *s != self.id).collect()
    }

    fn share(&mut self, ctx: &mut Ctx<'_>) {
        self.phase = Phase::Sharing;
        if self.sharers().is_empty() {
            return self.reduce(ctx);
        }
        let task = Task::ShareGradients { job: self.job, stage: self.id, step: self.applied() };
        self.shift.running.push_back(ctx.run((self.job, self.id), Purpose::Share, task));
    }

    fn shared(&mut self, ctx: &mut Ctx<'_>) {
        for stage in self.sharers() {
            if let Some(to) = self.shift.plan.owner(stage) {
                let name = TensorName::SharedGradient { stage: self.id, to: stage };
                self.shift.ship(self.shift.key(name), to, ctx);
            }
        }
        self.reduce(ctx);
    }

    fn reduce(&mut self, ctx: &mut Ctx<'_>) {
        let from = self.sharers();
        let here = |stage: &StageId| {
            self.shift.has(TensorName::SharedGradient { stage: *stage, to: self.id })
        };
        let waits = !self.shift.running.is_empty();
        if self.phase != Phase::Sharing || waits || !from.iter().all(here) {
            return;
        }
        self.phase = Phase::Reducing;
        let task = Task::ReduceGradients {
            job: self.job,
            stage: self.id,
            step: self.applied(),
            shared_from: from.into_iter().collect(),
            publish: !self.followers().is_empty(),
        };
        self.shift.running.push_back(ctx.run((self.job, self.id), Purpose::Reduce, task));
    }

    fn followers(&self) -> Vec<PeerId> {
        self.shift.roles().map(|roles| roles.followers().collect()).unwrap_or_default()
    }

    fn publish(&mut self, ctx: &mut Ctx<'_>) {
        self.phase = Phase::Publishing;
        self.reduced = true;
        let key = self.shift.key(TensorName::StageGradient { stage: self.id });
        for to in self.followers() {
            self.shift.ship(key, to, ctx);
        }
        self.report_if_held(ctx);
    }

    /// A follower holds the gradient of a step, and has told what its part in it came to, if it is a worker. Nobody else is
    /// heard: what is kept here goes into one report.
    pub(super) fn on_held(
        &mut self,
        from: PeerId,
        step: Step,
        (losses, stats): (Vec<(MicroBatch, f64)>, Option<Box<StageStats>>),
        ctx: &mut Ctx<'_>,
    ) {
        let Some(roles) = self.shift.roles().filter(|roles| roles.followers().any(|p| p == from))
        else {
            return;
        };
        if step != self.applied() {
            return;
        }
        let stats = stats.filter(|_| roles.place(from).is_some());
        let is_own = |m: MicroBatch| roles.worker(m) == Some(from);
        let within = |m: MicroBatch| m.index() < self.shift.work.train.micro_batches;
        let losses = losses.into_iter().filter(|(m, _)| within(*m) && is_own(*m));
        let losses: Vec<(MicroBatch, f64)> = losses.collect();
        self.losses.extend(losses);
        let stats = stats.map(|stats| stats.bounded());
        if self.held.insert(from, stats).is_none() {
            self.shift.trace.held(from, ctx.now);
        }
        self.report_if_held(ctx);
    }

    fn report_if_held(&mut self, ctx: &mut Ctx<'_>) {
        let all = self.followers().iter().all(|b| self.held.contains_key(b));
        if self.phase == Phase::Publishing && all {
            self.phase = Phase::Ready;
            self.shift.stats.ready = ctx.now;
            self.shift.trace.ready(ctx.now);
            self.report(ctx);
        }
    }

    fn report(&self, ctx: &mut Ctx<'_>) {
        let Some(leader) = ctx.leader else {
            return;
        };
        // Summed in the order of micro-batches, whoever ran them.
        let mut losses = self.shift.losses.clone();
        losses.extend(self.losses.iter().map(|(m, loss)| (*m, *loss)));
        let loss = losses.values().fold(0.0, |sum, loss| sum + loss);
        let replicas = self.held.iter().filter_map(|(p, stats)| Some((*p, stats.clone()?)));
        let body = JobMessage::StepReady {
            epoch: self.shift.plan.epoch,
            step: self.applied(),
            stage: self.id,
            sum_of_squares: self.sum_of_squares,
            loss: (!losses.is_empty()).then_some(loss),
            stats: Box::new(self.shift.stats.clone()),
            replicas: replicas.collect(),
        };
        ctx.send(leader, self.job, body);
    }

    /// Applies a decided step and goes on, or stays idle after the last.
    pub(super) fn commit(&mut self, commit: Commit, ctx: &mut Ctx<'_>) {
        if commit.step != self.applied() || !self.reduced {
            return;
        }
        let task = Task::OptimizerStep {
            job: self.job,
            stage: self.id,
            step: self.applied(),
            scale: commit.scale,
            gradient: GradientSource::Own,
        };
        ctx.run((self.job, self.id), Purpose::Update, task);
        self.shift.leave(self.applied().next());
        self.reduced = false;
        self.phase = Phase::Idle;
    }

    /// Says whether a tensor is awaited, and how many bytes it has.
    pub(super) fn awaits(&self, from: PeerId, key: &TensorKey) -> Option<Length> {
        let graph = &self.shift.work.graph;
        match key.name {
            TensorName::SharedGradient { stage, to } if self.shift.may_come(key) => {
                let due = to == self.id
                    && self.sharers().contains(&stage)
                    && self.shift.plan.owner(stage) == Some(from);
                due.then(|| Length::Exactly(shared_bytes(graph, stage, to)))
            }
            TensorName::StageStart { .. } if self.shift.may_come(key) => {
                self.awaits_start(from, key).then(|| Length::Exactly(start_bytes(graph)))
            }
            _ => self.shift.awaits(from, key),
        }
    }

    /// A tensor bundle is in the store.
    pub(super) fn on_arrived(&mut self, key: TensorKey, ctx: &mut Ctx<'_>) {
        let current = key.epoch == self.shift.plan.epoch && key.step >= self.applied();
        if !current || self.takes_start(key, ctx) {
            return;
        }
        self.shift.on_arrived(key, ctx);
        self.go_on(ctx);
        self.reduce(ctx);
    }

    /// Lets time pass: what was refused or lost is sent again.
    pub(super) fn tick(&mut self, ctx: &mut Ctx<'_>) {
        self.ask_start(ctx);
        self.shift.tick(ctx);
        if self.phase == Phase::Ready {
            self.report(ctx);
        }
    }
}
