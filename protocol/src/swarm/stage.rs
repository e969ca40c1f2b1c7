//! One stage's life at its owner: runs the pipeline order, reduces, waits for backups, reports, updates.
//!
//! | state      | meaning                                            | leaves by                                      |
//! |------------|----------------------------------------------------|------------------------------------------------|
//! | Idle       | not begun, or waits for its state (`start`)        | `begin` -> Running                             |
//! | Running    | passes in order, two ahead, as their tensors come  | last pass done -> Sharing                      |
//! | Sharing    | waits for other stages' parts of shared parameters | all here -> Reducing                           |
//! | Reducing   | sums gradient parts                                | done -> Publishing                             |
//! | Publishing | waits until each backup holds the gradient         | all do -> Ready (reported to the leader)       |
//! | Ready      | waits for the decision                             | `commit` -> Running of the next step, or Idle  |
//!
//! Not here: who owns what (`job`), what the leader decides (`lead`), following a stage (`backup`).

mod awaits;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Ctx;
use super::io::{Effect, GradientSource, OpTimes, StageWork, Task, TensorKey, TensorName};
use super::learn::learn;
use super::tasks::Purpose;
use super::trace::Tracer;
use crate::ids::{JobId, PeerId, StageId, Step, TaskId};
use crate::schedule::Plan;
use crate::schedule::pipeline::{Pass, passes};
use crate::units::{Bytes, Instant};
use crate::wire::message::{Commit, JobMessage, LinkBytes, Span, SpanKind, StageStats};

/// Most spans reported for one step.
const SPANS_MAX: usize = 600;

/// Passes of a stage that the execution thread may have at once: one that the device computes, and one of which the
/// results are on their way to host memory. Passes stay in order, so that nothing that is computed depends on it.
const PASSES_AHEAD: usize = 2;

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
    pub(super) work: Arc<StageWork>,
    /// Updates that the state has seen, counted when the update is handed to the execution thread.
    pub(super) applied: Step,
    /// Whether there is a state: not while the submitter's weights are awaited.
    pub(super) has_state: bool,
    /// Whether the reduced gradient of step `applied` is in the execution thread's hands.
    pub(super) reduced: bool,
    pub(super) phase: Phase,
    pub(super) plan: Arc<Plan>,
    passes: Vec<Pass>,
    /// Passes that were handed to the execution thread.
    next: usize,
    /// Tasks of the step that are not done, oldest first.
    running: VecDeque<TaskId>,
    /// Tensors that have arrived for this step and the next.
    arrived: BTreeSet<(Step, TensorName)>,
    /// Shipments that are not acknowledged; true: failed, to be sent again.
    unshipped: BTreeMap<(TensorKey, PeerId), bool>,
    /// Backups that hold this step's gradient.
    held: BTreeSet<PeerId>,
    sum_of_squares: f64,
    loss: Option<f64>,
    stats: StageStats,
    pub(super) trace: Tracer,
}

impl Stage {
    pub(super) fn new(id: StageId, work: Arc<StageWork>, plan: Arc<Plan>, applied: Step) -> Self {
        Self {
            job: plan.job,
            id,
            work,
            applied,
            has_state: true,
            reduced: false,
            phase: Phase::Idle,
            plan,
            passes: Vec::new(),
            next: 0,
            running: VecDeque::new(),
            arrived: BTreeSet::new(),
            unshipped: BTreeMap::new(),
            held: BTreeSet::new(),
            sum_of_squares: 0.0,
            loss: None,
            stats: StageStats::default(),
            trace: Tracer::default(),
        }
    }

    fn key(&self, name: TensorName) -> TensorKey {
        TensorKey { job: self.job, epoch: self.plan.epoch, step: self.applied, name }
    }

    /// Puts the stage under a plan: what was in flight is forgotten, its state stays.
    pub(super) fn adopt(&mut self, plan: Arc<Plan>, work: Arc<StageWork>, ctx: &mut Ctx<'_>) {
        self.plan = plan;
        self.work = work;
        self.phase = Phase::Idle;
        self.running.clear();
        self.reduced = false;
        self.arrived.clear();
        self.unshipped.clear();
        match self.has_state {
            true => self.reset(ctx),
            false => self.ask_start(ctx),
        }
    }

    pub(super) fn reset(&self, ctx: &mut Ctx<'_>) {
        let task = Task::ResetStep { job: self.job, stage: self.id, epoch: self.plan.epoch };
        ctx.run((self.job, self.id), Purpose::Reset, task);
    }

    /// Begins step `applied`; without a state, once that is here.
    pub(super) fn begin(&mut self, ctx: &mut Ctx<'_>) {
        if !self.has_state {
            return;
        }
        let stages = self.plan.stages.len();
        let micro_batches = self.work.train.micro_batches;
        self.passes = passes(self.plan.order, self.id.index(), stages, micro_batches);
        self.next = 0;
        self.phase = Phase::Running;
        self.reduced = false;
        self.running.clear();
        self.held.clear();
        self.loss = None;
        let spans = self.stats.spans.iter().filter(|s| s.kind == SpanKind::Optimizer).copied();
        self.stats = StageStats {
            spans: spans.collect(),
            shipped: Vec::new(),
            began: ctx.now,
            ready: ctx.now,
        };
        let step = self.applied;
        self.trace.begin(self.id, step, ctx.now);
        self.arrived.retain(|(s, _)| *s >= step);
        self.advance(ctx);
    }

    /// Hands out the next passes whose tensors are here.
    fn advance(&mut self, ctx: &mut Ctx<'_>) {
        if self.phase != Phase::Running {
            return;
        }
        let (job, stage, step) = (self.job, self.id, self.applied);
        while let Some(&pass) = self.passes.get(self.next) {
            let is_here = |name: &TensorName| self.arrived.contains(&(step, *name));
            if self.running.len() >= PASSES_AHEAD || !self.needs(pass).iter().all(is_here) {
                return;
            }
            let task = match pass {
                Pass::Forward(micro_batch) => Task::Forward { job, stage, step, micro_batch },
                Pass::Backward(micro_batch) => Task::Backward { job, stage, step, micro_batch },
            };
            self.next += 1;
            self.running.push_back(ctx.run((job, stage), Purpose::Pass(pass), task));
        }
        if self.running.is_empty() {
            self.share(ctx);
        }
    }

    fn needs(&self, pass: Pass) -> Vec<TensorName> {
        let graph = &self.work.graph;
        match pass {
            Pass::Forward(micro_batch) => graph
                .receives
                .iter()
                .map(|(edge, _)| TensorName::Activation { edge: *edge, micro_batch })
                .collect(),
            Pass::Backward(micro_batch) => graph
                .sends
                .iter()
                .filter(|(_, edge)| edge.cotangent.is_some())
                .map(|(edge, _)| TensorName::Cotangent { edge: *edge, micro_batch })
                .collect(),
        }
    }

    /// What a pass makes for other stages: name and receiving stage.
    fn makes(&self, pass: Pass) -> Vec<(TensorName, StageId)> {
        let graph = &self.work.graph;
        match pass {
            Pass::Forward(micro_batch) => graph
                .sends
                .iter()
                .map(|(id, e)| (TensorName::Activation { edge: *id, micro_batch }, e.to))
                .collect(),
            Pass::Backward(micro_batch) => graph
                .receives
                .iter()
                .filter(|(_, e)| e.cotangent.is_some())
                .map(|(id, e)| (TensorName::Cotangent { edge: *id, micro_batch }, e.from))
                .collect(),
        }
    }

    fn ship(&mut self, key: TensorKey, to: PeerId, ctx: &mut Ctx<'_>) {
        if to == ctx.me {
            ctx.arrivals.push_back(key);
            return;
        }
        self.unshipped.insert((key, to), false);
        self.trace.sends(key.name, to, ctx.now);
        ctx.out.push(Effect::Ship { key, to });
    }

    /// A task of this stage is done.
    pub(super) fn on_done(
        &mut self,
        task: TaskId,
        purpose: Purpose,
        outcome: &super::io::Outcome,
        (began, ended, ops): (Instant, Instant, OpTimes),
        ctx: &mut Ctx<'_>,
    ) {
        let (kind, pass) = match purpose {
            Purpose::Pass(pass @ Pass::Forward(_)) => (SpanKind::Forward, Some(pass)),
            Purpose::Pass(pass @ Pass::Backward(_)) => (SpanKind::Backward, Some(pass)),
            Purpose::Share | Purpose::Reduce => (SpanKind::Reduce, None),
            Purpose::Update => (SpanKind::Optimizer, None),
            Purpose::Load | Purpose::Reset | Purpose::Snapshot(_) | Purpose::Unload => return,
        };
        let micro_batch = pass.map(|(Pass::Forward(m) | Pass::Backward(m))| m);
        if purpose == Purpose::Update {
            // The update runs before the step in work: its span opens that step's account.
            self.note(Span { kind, micro_batch, began, ended });
            self.trace.ran((kind, None), (began, ended), &ops);
            return;
        }
        let Some(at) = self.running.iter().position(|t| *t == task) else {
            return;
        };
        self.running.remove(at);
        self.note(Span { kind, micro_batch, began, ended });
        self.trace.ran((kind, pass), (began, ended), &ops);
        match (purpose, outcome) {
            (Purpose::Pass(pass), outcome) => {
                if let super::io::Outcome::Forward { loss: Some(loss) } = outcome {
                    self.loss = Some(self.loss.unwrap_or(0.0) + loss);
                }
                for (name, stage) in self.makes(pass) {
                    if let Some(to) = self.plan.owner(stage) {
                        self.ship(self.key(name), to, ctx);
                    }
                }
                self.advance(ctx);
            }
            (Purpose::Share, _) => self.shared(ctx),
            (Purpose::Reduce, super::io::Outcome::Gradients { sum_of_squares }) => {
                self.sum_of_squares = *sum_of_squares;
                self.publish(ctx);
            }
            _ => {}
        }
    }

    fn note(&mut self, span: Span) {
        if self.stats.spans.len() < SPANS_MAX {
            self.stats.spans.push(span);
        }
    }

    fn sharers(&self) -> BTreeSet<StageId> {
        let shared = self.work.graph.shared.iter();
        shared.flat_map(|s| s.stages.iter().copied()).filter(|s| *s != self.id).collect()
    }

    fn share(&mut self, ctx: &mut Ctx<'_>) {
        self.phase = Phase::Sharing;
        if self.sharers().is_empty() {
            return self.reduce(ctx);
        }
        let task = Task::ShareGradients { job: self.job, stage: self.id, step: self.applied };
        self.running.push_back(ctx.run((self.job, self.id), Purpose::Share, task));
    }

    fn shared(&mut self, ctx: &mut Ctx<'_>) {
        for stage in self.sharers() {
            if let Some(to) = self.plan.owner(stage) {
                self.ship(
                    self.key(TensorName::SharedGradient { stage: self.id, to: stage }),
                    to,
                    ctx,
                );
            }
        }
        self.reduce(ctx);
    }

    fn reduce(&mut self, ctx: &mut Ctx<'_>) {
        let from = self.sharers();
        let here = |stage: &StageId| {
            self.arrived.contains(&(
                self.applied,
                TensorName::SharedGradient { stage: *stage, to: self.id },
            ))
        };
        if self.phase != Phase::Sharing || !self.running.is_empty() || !from.iter().all(here) {
            return;
        }
        self.phase = Phase::Reducing;
        let task = Task::ReduceGradients {
            job: self.job,
            stage: self.id,
            step: self.applied,
            shared_from: from.into_iter().collect(),
            publish: !self.backups().is_empty(),
        };
        self.running.push_back(ctx.run((self.job, self.id), Purpose::Reduce, task));
    }

    fn backups(&self) -> &[PeerId] {
        self.plan.stages.get(self.id.index()).map_or(&[], |s| &s.backups)
    }

    fn publish(&mut self, ctx: &mut Ctx<'_>) {
        self.phase = Phase::Publishing;
        self.reduced = true;
        let key = self.key(TensorName::StageGradient { stage: self.id });
        for to in self.backups().to_vec() {
            self.ship(key, to, ctx);
        }
        self.report_if_held(ctx);
    }

    /// A backup holds the gradient of a step.
    pub(super) fn on_held(&mut self, from: PeerId, step: Step, ctx: &mut Ctx<'_>) {
        if step == self.applied {
            self.held.insert(from);
            self.trace.held(from, ctx.now);
            self.report_if_held(ctx);
        }
    }

    fn report_if_held(&mut self, ctx: &mut Ctx<'_>) {
        let all = self.backups().iter().all(|b| self.held.contains(b));
        if self.phase == Phase::Publishing && all {
            self.phase = Phase::Ready;
            self.stats.ready = ctx.now;
            self.trace.ready(ctx.now);
            let (plan, work) = (self.plan.clone(), self.work.clone());
            learn(ctx.me, &work, &plan, &self.stats.spans, ctx);
            self.report(ctx);
        }
    }

    fn report(&self, ctx: &mut Ctx<'_>) {
        let Some(leader) = ctx.leader else {
            return;
        };
        let body = JobMessage::StepReady {
            epoch: self.plan.epoch,
            step: self.applied,
            stage: self.id,
            sum_of_squares: self.sum_of_squares,
            loss: self.loss,
            stats: Box::new(self.stats.clone()),
        };
        ctx.send(leader, self.job, body);
    }

    /// Applies a decided step and goes on, or stays idle after the last.
    pub(super) fn commit(&mut self, commit: Commit, ctx: &mut Ctx<'_>) {
        if commit.step != self.applied || !self.reduced {
            return;
        }
        let task = Task::OptimizerStep {
            job: self.job,
            stage: self.id,
            step: self.applied,
            scale: commit.scale,
            gradient: GradientSource::Own,
        };
        ctx.run((self.job, self.id), Purpose::Update, task);
        self.stats.spans.clear();
        self.applied = self.applied.next();
        self.reduced = false;
        self.phase = Phase::Idle;
    }

    /// A tensor bundle is in the store.
    pub(super) fn on_arrived(&mut self, key: TensorKey, ctx: &mut Ctx<'_>) {
        let current = key.epoch == self.plan.epoch && key.step >= self.applied;
        if !current || self.takes_start(key, ctx) {
            return;
        }
        self.arrived.insert((key.step, key.name));
        self.trace.came(key.step, key.name, ctx.now);
        match key.name {
            TensorName::Activation { .. } | TensorName::Cotangent { .. } => self.advance(ctx),
            TensorName::SharedGradient { .. } => self.reduce(ctx),
            TensorName::StageGradient { .. }
            | TensorName::StageState { .. }
            | TensorName::StageStart { .. } => {}
        }
    }

    /// A shipment has ended. Returns whether it was this stage's.
    pub(super) fn on_shipped(
        &mut self,
        key: TensorKey,
        to: PeerId,
        size: Bytes,
        delivered: bool,
        ctx: &mut Ctx<'_>,
    ) -> bool {
        let Some(failed) = self.unshipped.get_mut(&(key, to)) else {
            return false;
        };
        if !delivered {
            *failed = true;
            return true;
        }
        self.trace.sent((key.step, key.name), to, size, ctx.now);
        match self.stats.shipped.iter_mut().find(|l| l.to == to) {
            Some(link) => link.bytes += size,
            None => self.stats.shipped.push(LinkBytes { to, bytes: size }),
        }
        self.unshipped.remove(&(key, to));
        if !self.unshipped.keys().any(|(k, _)| *k == key) {
            ctx.out.push(Effect::Drop(key));
        }
        true
    }

    /// Lets time pass: what was refused or lost is sent again.
    pub(super) fn tick(&mut self, ctx: &mut Ctx<'_>) {
        self.ask_start(ctx);
        let epoch = self.plan.epoch;
        let step = self.applied;
        self.unshipped.retain(|(key, _), _| key.epoch == epoch && key.step >= step);
        for ((key, to), failed) in &mut self.unshipped {
            if *failed && ctx.membership.is_connected(*to) {
                *failed = false;
                ctx.out.push(Effect::Ship { key: *key, to: *to });
            }
        }
        if self.phase == Phase::Ready {
            self.report(ctx);
        }
    }
}
