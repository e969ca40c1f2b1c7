//! A worker's part in a step of a stage: its passes in pipeline order, then its sums on their way to the owner.
//!
//! | state     | meaning                                                  | leaves by                       |
//! |-----------|----------------------------------------------------------|---------------------------------|
//! | Idle      | not begun, or there is no state yet                      | `begin` -> Running              |
//! | Running   | passes in order as their tensors come, up to two at once | last pass done -> Gathering     |
//! | Gathering | adds its groups to those of the workers behind, by piece | last piece summed -> Done       |
//! | Done      | its part of the step is done                             | `begin` of the next -> Running  |
//!
//! The owner of a stage has one, and each replica. Alone, an owner has nothing to gather. See
//! docs/decisions/0010-replicas.md. Not here: what follows at the owner (`stage`) and at a replica (`backup`).

mod awaits;
mod gather;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::Ctx;
use super::io::{Effect, OpTimes, Outcome, StageWork, Task, TensorKey, TensorName};
use super::tasks::Purpose;
use super::trace::Tracer;
use crate::dag::bundle::gather_chunks;
use crate::ids::{JobId, MicroBatch, PeerId, StageId, Step, TaskId};
use crate::schedule::pipeline::{Pass, passes};
use crate::schedule::{Plan, StagePlan};
use crate::units::{Bytes, Instant};
use crate::wire::message::{LinkBytes, SHIPPED_MAX, SPANS_MAX, Span, SpanKind, StageStats};

/// Tasks of a stage that the execution thread may have at once: one that the device computes, and one of which the
/// results are on their way to host memory. Passes stay in order, so that nothing that is computed depends on it.
const TASKS_AHEAD: usize = 2;

/// Where a worker stands within a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Idle,
    Running,
    Gathering,
    Done,
}

/// One worker's part in a step.
#[derive(Debug)]
pub(super) struct Shift {
    job: JobId,
    id: StageId,
    pub(super) work: Arc<StageWork>,
    pub(super) plan: Arc<Plan>,
    /// This peer's place among the stage's workers; the owner's is 0.
    place: u16,
    /// The step in work, or the next one.
    pub(super) step: Step,
    progress: Progress,
    passes: Vec<Pass>,
    /// Passes that were handed to the execution thread.
    next: usize,
    chunks: Vec<Range<usize>>,
    /// Pieces that were handed to the execution thread.
    gathered: u16,
    /// Tasks of the step that are not done, oldest first.
    pub(super) running: VecDeque<TaskId>,
    /// Tensors that have arrived for this step and the next.
    arrived: BTreeSet<(Step, TensorName)>,
    /// Shipments that are not acknowledged; true: failed, to be sent again.
    unshipped: BTreeMap<(TensorKey, PeerId), bool>,
    /// Losses of this worker's micro-batches, where the stage computes them.
    pub(super) losses: BTreeMap<MicroBatch, f64>,
    pub(super) stats: StageStats,
    pub(super) trace: Tracer,
}

impl Shift {
    pub(super) fn new(
        id: StageId,
        (work, plan): (Arc<StageWork>, Arc<Plan>),
        place: u16,
        step: Step,
    ) -> Self {
        let is_shared = plan.stages.get(id.index()).is_some_and(|s| !s.replicas.is_empty());
        Self {
            job: plan.job,
            id,
            chunks: if is_shared { gather_chunks(&work.graph) } else { Vec::new() },
            work,
            plan,
            place,
            step,
            progress: Progress::Idle,
            passes: Vec::new(),
            next: 0,
            gathered: 0,
            running: VecDeque::new(),
            arrived: BTreeSet::new(),
            unshipped: BTreeMap::new(),
            losses: BTreeMap::new(),
            stats: StageStats::default(),
            trace: Tracer::default(),
        }
    }

    pub(super) fn key(&self, name: TensorName) -> TensorKey {
        TensorKey { job: self.job, epoch: self.plan.epoch, step: self.step, name }
    }

    pub(super) fn roles(&self) -> Option<&StagePlan> {
        self.plan.stages.get(self.id.index())
    }

    fn turn(&self, micro_batch: MicroBatch) -> u16 {
        self.roles().map_or(0, |roles| roles.turn(micro_batch))
    }

    /// Forgets what the execution thread has of a step, and names the epoch of what it makes from now on.
    pub(super) fn reset(&self, ctx: &mut Ctx<'_>) {
        let task = Task::ResetStep { job: self.job, stage: self.id, epoch: self.plan.epoch };
        ctx.run((self.job, self.id), Purpose::Reset, task);
    }

    /// Says whether a step is done here, or is not begun.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.progress, Progress::Idle | Progress::Done)
    }

    /// Says whether this worker's part of a step is done.
    pub(super) fn has_done(&self, step: Step) -> bool {
        self.step == step && self.progress == Progress::Done
    }

    /// Begins a step.
    pub(super) fn begin(&mut self, step: Step, ctx: &mut Ctx<'_>) {
        let (stages, index) = (self.plan.stages.len(), self.id.index());
        let all = passes(self.plan.order, index, stages, self.work.train.micro_batches);
        let own = |pass: &Pass| match pass {
            Pass::Forward(m) | Pass::Backward(m) => self.turn(*m) == self.place,
        };
        self.passes = all.into_iter().filter(own).collect();
        self.step = step;
        (self.next, self.gathered) = (0, 0);
        self.progress = Progress::Running;
        self.running.clear();
        self.losses.clear();
        // The update of the step before runs in this one.
        self.stats.spans.retain(|s| s.kind == SpanKind::Optimizer);
        self.stats.shipped.clear();
        (self.stats.began, self.stats.ready) = (ctx.now, ctx.now);
        self.arrived.retain(|(s, _)| *s >= step);
        self.trace.begin(self.id, step, ctx.now);
        self.advance(ctx);
    }

    /// Goes on to the next step, which is not begun; its update comes first.
    pub(super) fn leave(&mut self, next: Step) {
        self.stats.spans.clear();
        self.step = next;
        self.progress = Progress::Idle;
    }

    /// Hands out the next tasks whose tensors are here.
    fn advance(&mut self, ctx: &mut Ctx<'_>) {
        if self.progress == Progress::Running {
            self.run_passes(ctx);
        }
        if self.progress == Progress::Gathering {
            self.gather(ctx);
        }
    }

    pub(super) fn has(&self, name: TensorName) -> bool {
        self.arrived.contains(&(self.step, name))
    }

    fn run_passes(&mut self, ctx: &mut Ctx<'_>) {
        let (job, stage, step) = (self.job, self.id, self.step);
        let ahead = self.ahead();
        while let Some(&pass) = self.passes.get(self.next) {
            let is_here = |name: &TensorName| self.has(*name);
            if self.running.len() >= ahead || !self.needs(pass).iter().all(is_here) {
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
            self.progress = Progress::Gathering;
        }
    }

    /// Returns how many passes the execution thread may have at once: one where this peer works at other stages too, so
    /// that these take turns as their tensors come.
    fn ahead(&self) -> usize {
        let own = self.roles().and_then(|roles| roles.workers().nth(usize::from(self.place)));
        let parts = own.map_or(0, |own| {
            self.plan.stages.iter().filter(|stage| stage.place(own).is_some()).count()
        });
        if parts > 1 { 1 } else { TASKS_AHEAD }
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

    /// What a pass makes for other stages: name, and who runs the micro-batch there.
    fn makes(&self, pass: Pass) -> Vec<(TensorName, PeerId)> {
        let graph = &self.work.graph;
        let made: Vec<(TensorName, StageId, MicroBatch)> = match pass {
            Pass::Forward(micro_batch) => graph
                .sends
                .iter()
                .map(|(id, e)| {
                    (TensorName::Activation { edge: *id, micro_batch }, e.to, micro_batch)
                })
                .collect(),
            Pass::Backward(micro_batch) => graph
                .receives
                .iter()
                .filter(|(_, e)| e.cotangent.is_some())
                .map(|(id, e)| {
                    (TensorName::Cotangent { edge: *id, micro_batch }, e.from, micro_batch)
                })
                .collect(),
        };
        let to = |(name, stage, m)| Some((name, self.plan.worker(stage, m)?));
        made.into_iter().filter_map(to).collect()
    }

    pub(super) fn ship(&mut self, key: TensorKey, to: PeerId, ctx: &mut Ctx<'_>) {
        if to == ctx.me {
            ctx.arrivals.push_back(key);
            return;
        }
        self.unshipped.insert((key, to), false);
        self.trace.sends(key.name, to, ctx.now);
        ctx.out.push(Effect::Ship { key, to });
    }

    /// A task is done. Returns whether it was one of the step in work.
    pub(super) fn on_done(
        &mut self,
        task: TaskId,
        purpose: Purpose,
        outcome: &Outcome,
        (began, ended, ops): (Instant, Instant, &OpTimes),
        ctx: &mut Ctx<'_>,
    ) -> bool {
        let (kind, pass) = match purpose {
            Purpose::Pass(pass @ Pass::Forward(_)) => (SpanKind::Forward, Some(pass)),
            Purpose::Pass(pass @ Pass::Backward(_)) => (SpanKind::Backward, Some(pass)),
            Purpose::Gather(_) | Purpose::Share | Purpose::Reduce => (SpanKind::Reduce, None),
            Purpose::Update => (SpanKind::Optimizer, None),
            Purpose::Load | Purpose::Reset | Purpose::Snapshot(_) | Purpose::Unload => {
                return false;
            }
        };
        let micro_batch = pass.map(|(Pass::Forward(m) | Pass::Backward(m))| m);
        let span = Span { kind, micro_batch, began, ended };
        if purpose == Purpose::Update {
            // The update runs before the step in work: its span opens that step's account.
            self.note(span);
            self.trace.ran((kind, None), (began, ended), ops);
            return false;
        }
        let Some(at) = self.running.iter().position(|t| *t == task) else {
            return false;
        };
        self.running.remove(at);
        self.note(span);
        self.trace.ran((kind, pass), (began, ended), ops);
        match purpose {
            Purpose::Pass(pass) => {
                if let (Outcome::Forward { loss: Some(loss) }, Some(m)) = (outcome, micro_batch) {
                    self.losses.insert(m, *loss);
                }
                for (name, to) in self.makes(pass) {
                    self.ship(self.key(name), to, ctx);
                }
            }
            Purpose::Gather(chunk) => self.hand_on(chunk, ctx),
            Purpose::Load
            | Purpose::Reset
            | Purpose::Share
            | Purpose::Reduce
            | Purpose::Update
            | Purpose::Snapshot(_)
            | Purpose::Unload => {}
        }
        self.advance(ctx);
        true
    }

    fn note(&mut self, span: Span) {
        if self.stats.spans.len() < SPANS_MAX {
            self.stats.spans.push(span);
        }
    }

    /// A tensor bundle of this epoch is in the store.
    pub(super) fn on_arrived(&mut self, key: TensorKey, ctx: &mut Ctx<'_>) {
        if key.epoch == self.plan.epoch && key.step >= self.step {
            self.arrived.insert((key.step, key.name));
            self.trace.came(key.step, key.name, ctx.now);
            self.advance(ctx);
        }
    }

    /// A shipment has ended. Returns whether it was this worker's.
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
        let has_room = self.stats.shipped.len() < SHIPPED_MAX;
        match self.stats.shipped.iter_mut().find(|l| l.to == to) {
            Some(link) => link.bytes += size,
            None if has_room => self.stats.shipped.push(LinkBytes { to, bytes: size }),
            None => {}
        }
        self.unshipped.remove(&(key, to));
        if !self.unshipped.keys().any(|(k, _)| *k == key) {
            ctx.out.push(Effect::Drop(key));
        }
        true
    }

    /// Lets time pass: what was refused or lost is sent again.
    pub(super) fn tick(&mut self, ctx: &mut Ctx<'_>) {
        let (epoch, step) = (self.plan.epoch, self.step);
        self.unshipped.retain(|(key, _), _| key.epoch == epoch && key.step >= step);
        for ((key, to), failed) in &mut self.unshipped {
            if *failed && ctx.membership.is_connected(*to) {
                *failed = false;
                ctx.out.push(Effect::Ship { key: *key, to: *to });
            }
        }
    }
}
