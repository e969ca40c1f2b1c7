//! Why a step takes as long as it does: the critical path of the last steps, walked backwards through members' traces.
//!
//! From each decision back to the one before: whose report came last, what that stage waited for, which tensor or task was
//! the last thing that was needed, who sent it, and so on. What lies between two moments on the path is booked to what
//! happened between them; where a mark is missing the path breaks off, and what is left of the step is nobody's.
//! Moments are looked up on their owners' clocks; amounts across two clocks are off by as much as the clocks were laid over
//! each other wrongly, and cancel around a loop.
//! What members say is a stranger's word: every sum of it saturates, and a walk costs no more than its marks (`index`).

mod index;

use std::collections::BTreeMap;

use crate::ids::{MicroBatch, PeerId, StageId};
use crate::units::{Duration, Instant};
use crate::wire::message::SpanKind;
use crate::wire::trace::{Cargo, Decision, Mark, StageTrace, Traces, What};
use index::Index;

/// What a part of the step went to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// An operator of a stage's passes.
    Operator(StageId, PeerId, String),
    /// What a stage's passes do around their operators: samples, tensors in and out, sums of gradients; all of a pass
    /// where the device does not tell of operators.
    Around(StageId, PeerId),
    /// Tensors of the pipeline from one peer to another, waiting for each other included.
    Link(PeerId, PeerId),
    /// A peer had all that a task needed and had not begun it.
    Wait(PeerId),
    /// Sharing and reducing gradients.
    Reduce(StageId, PeerId),
    /// Parts of gradients from one peer to another: of shared parameters, or of a stage's other workers.
    Shared(PeerId, PeerId),
    /// A stage's gradient to a backup, and its receipt.
    Store(PeerId, PeerId),
    /// A report to the leader.
    Report(PeerId, PeerId),
    /// The leader's decision to a peer.
    Decided(PeerId, PeerId),
    /// The update.
    Update(StageId, PeerId),
}

/// What a member has answered, and by how many microseconds its clock is ahead of the asker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who.
    pub peer: PeerId,
    /// Its clock less the asker's, in microseconds.
    pub ahead: i64,
    /// From the question to the answer.
    pub trip: Duration,
    /// What it remembers.
    pub traces: Traces,
}

impl Answer {
    /// Takes an answer that came at a moment of the asker's clock; the question is taken to have been on its way for as
    /// long as the answer.
    pub fn of(peer: PeerId, traces: Traces, came: Instant) -> Self {
        let middle = signed(traces.asked).saturating_add(signed(came)) / 2;
        let trip = came.since(traces.asked);
        Self { peer, ahead: signed(traces.now).saturating_sub(middle), trip, traces }
    }

    fn at(&self, moment: Instant) -> i64 {
        signed(moment).saturating_sub(self.ahead)
    }
}

fn signed(moment: Instant) -> i64 {
    i64::try_from(moment.micros()).unwrap_or(i64::MAX)
}

/// Where the time of the last steps went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// How many steps were walked.
    pub steps: u64,
    /// Their mean time.
    pub step: Duration,
    /// Mean time by cause, the longest first.
    pub parts: Vec<(Cause, Duration)>,
    /// Mean time of which nobody's trace says what it went to.
    pub unknown: Duration,
    /// Whether a member had no room for all that happened, so that some of it is booked to what was around it.
    pub is_cut: bool,
}

/// Walks all steps of which every stage and both decisions are remembered; None where there is none.
pub fn explain(answers: &[Answer]) -> Option<Explanation> {
    let leads = |a: &&Answer| a.traces.decisions.last().map(|d| d.step);
    let leader = answers.iter().filter(|a| leads(a).is_some()).max_by_key(leads)?;
    let mut sums: BTreeMap<Cause, i64> = BTreeMap::new();
    let (mut steps, mut total, mut unknown) = (0i64, 0i64, 0i64);
    let mut is_cut = false;
    for pair in leader.traces.decisions.windows(2) {
        if pair[0].step.next() != pair[1].step {
            continue;
        }
        let Some(walk) = Walk::new(answers, leader, &pair[1]) else { continue };
        let (begun, ended) = (leader.at(pair[0].decided), leader.at(pair[1].decided));
        let (parts, left) = walk.run(begun, ended);
        for (cause, took) in parts {
            let sum = sums.entry(cause).or_default();
            *sum = sum.saturating_add(took);
        }
        steps += 1;
        total = total.saturating_add(ended.saturating_sub(begun));
        unknown = unknown.saturating_add(left);
        is_cut |= walk.is_cut();
    }
    if steps == 0 {
        return None;
    }
    let mean = |sum: i64| Duration::from_micros(u64::try_from(sum / steps).unwrap_or(0));
    let mut parts: Vec<(Cause, Duration)> = sums.into_iter().map(|(c, t)| (c, mean(t))).collect();
    parts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let steps = u64::try_from(steps).unwrap_or(0);
    Some(Explanation { steps, step: mean(total), parts, unknown: mean(unknown), is_cut })
}

/// A task of a stage; in the order in which tasks ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Task {
    ended: Instant,
    began: Instant,
    stage: StageId,
    kind: SpanKind,
    micro_batch: Option<MicroBatch>,
}

/// One step's traces.
struct Walk<'a> {
    leader: &'a Answer,
    decision: &'a Decision,
    /// By stage and worker.
    stages: BTreeMap<(StageId, PeerId), (&'a Answer, &'a StageTrace)>,
    index: Index,
}

/// The path so far: where it stands on the asker's clock, and what was passed.
struct Path {
    begun: i64,
    cursor: i64,
    parts: BTreeMap<Cause, i64>,
}

impl Path {
    /// Goes back to a moment and books what lies between.
    fn back_to(&mut self, moment: i64, cause: Cause) {
        let moment = moment.max(self.begun);
        if moment < self.cursor {
            let sum = self.parts.entry(cause).or_default();
            *sum = sum.saturating_add(self.cursor.saturating_sub(moment));
            self.cursor = moment;
        }
    }
}

/// What was the last thing that a task needed.
enum Needed {
    Task(Task),
    Tensor(Cargo, Instant),
    Decision(Instant),
}

impl<'a> Walk<'a> {
    fn new(answers: &'a [Answer], leader: &'a Answer, decision: &'a Decision) -> Option<Self> {
        let mut stages = BTreeMap::new();
        for answer in answers {
            for trace in answer.traces.stages.iter().filter(|t| t.step == decision.step) {
                stages.insert((trace.stage, answer.peer), (answer, trace));
            }
        }
        let index = Index::of(stages.iter().map(|((_, peer), (_, trace))| (*peer, *trace)));
        let walk = Self { leader, decision, stages, index };
        let all = decision.heard.iter().all(|(stage, _)| walk.owner(*stage).is_some());
        (all && !decision.heard.is_empty()).then_some(walk)
    }

    fn is_cut(&self) -> bool {
        self.stages.values().any(|(_, trace)| trace.is_cut)
    }

    /// Returns who reported a stage.
    fn owner(&self, stage: StageId) -> Option<(&'a Answer, &'a StageTrace)> {
        let all = self.stages.range((stage, PeerId::new([0; 32]))..);
        let mut own = all.take_while(|((of, _), _)| *of == stage).map(|(_, pair)| *pair);
        own.find(|(_, trace)| trace.marks.iter().any(|mark| mark.what == What::Ready))
    }

    fn run(&self, begun: i64, ended: i64) -> (BTreeMap<Cause, i64>, i64) {
        let mut path = Path { begun, cursor: ended, parts: BTreeMap::new() };
        let last = self.decision.heard.iter().max_by_key(|(stage, at)| (*at, *stage));
        if let Some((stage, _)) = last
            && self.end(*stage, &mut path).is_none()
        {
            tracing::debug!(step = %self.decision.step, "a trace breaks off");
        }
        let left = path.cursor.saturating_sub(begun);
        (path.parts, left)
    }

    /// Walks from a stage's report back to the decision before. None where a trace breaks off.
    fn end(&self, stage: StageId, path: &mut Path) -> Option<()> {
        let (answer, trace) = self.owner(stage)?;
        let ready = trace.marks.iter().rev().find(|m| m.what == What::Ready)?.began;
        let report = Cause::Report(answer.peer, self.leader.peer);
        path.back_to(answer.at(ready), report);
        let mut moment = ready;
        let held = |m: &&Mark| matches!(m.what, What::Held(_)) && m.began <= ready;
        if let Some(mark) = trace.marks.iter().filter(held).max_by_key(|m| m.began)
            && let What::Held(backup) = mark.what
        {
            let gone = |what: What| matches!(what, What::Sent(cargo, to, _) if cargo == Cargo::Gradient(stage) && to == backup);
            moment = trace.marks.iter().find(|mark| gone(mark.what))?.began;
            path.back_to(answer.at(moment), Cause::Store(answer.peer, backup));
        }
        self.passes(answer, moment, path)
    }

    /// Walks back from the task that had ended at a moment of a member's clock.
    fn passes(&self, answer: &Answer, moment: Instant, path: &mut Path) -> Option<()> {
        let (mut answer, mut task) = (answer, self.index.ended_by(answer.peer, moment, None)?);
        for _ in 0..=self.index.tasks_total() {
            path.back_to(answer.at(task.ended), Cause::Wait(answer.peer));
            self.compute(task, answer, path);
            match self.needed(task, answer.peer)? {
                Needed::Task(before) => task = before,
                Needed::Tensor(cargo, came) => {
                    path.back_to(answer.at(came), Cause::Wait(answer.peer));
                    let (sender, at) = self.sender(cargo, answer.peer)?;
                    let (from, to) = (sender.peer, answer.peer);
                    let cause = match cargo {
                        Cargo::Activation(..) | Cargo::Cotangent(..) => Cause::Link(from, to),
                        Cargo::Shared(..) | Cargo::Sums(..) | Cargo::Gradient(_) => {
                            Cause::Shared(from, to)
                        }
                    };
                    path.back_to(sender.at(at), cause);
                    task = self.index.ended_by(sender.peer, at, None)?;
                    answer = sender;
                }
                Needed::Decision(heard) => {
                    path.back_to(answer.at(heard), Cause::Wait(answer.peer));
                    // What is left is no more than lies between the decision and its being heard.
                    let cause = Cause::Decided(self.leader.peer, answer.peer);
                    path.back_to(path.begun, cause);
                    return Some(());
                }
            }
        }
        None
    }

    /// Books a task's time, a pass by its operators.
    fn compute(&self, task: Task, answer: &Answer, path: &mut Path) {
        let peer = answer.peer;
        let from = answer.at(task.began);
        let is_back = match task.kind {
            SpanKind::Forward => false,
            SpanKind::Backward => true,
            SpanKind::Reduce => return path.back_to(from, Cause::Reduce(task.stage, peer)),
            SpanKind::Optimizer => return path.back_to(from, Cause::Update(task.stage, peer)),
        };
        let Some((_, trace)) = self.stages.get(&(task.stage, peer)) else {
            return;
        };
        let passes = self.index.passes(task.stage, peer, is_back).micros();
        // What lies before the decision belongs to the step before.
        let span = path.cursor.saturating_sub(from.max(path.begun));
        for op in trace.ops.iter().filter(|op| op.is_back == is_back) {
            let part = i128::from(span) * i128::from(op.took.micros()) / i128::from(passes.max(1));
            let part = i64::try_from(part).unwrap_or(0);
            if part == 0 {
                continue;
            }
            let cause = Cause::Operator(task.stage, peer, op.name.clone());
            path.back_to(path.cursor.saturating_sub(part).max(from), cause);
        }
        path.back_to(from, Cause::Around(task.stage, peer));
    }

    /// Returns what came last of all that a task needed: its tensors, the device, the beginning of the step. None where the
    /// marks do not tell: a tensor that others of its kind had, or what a backward pass, which never comes first, came after.
    fn needed(&self, task: Task, peer: PeerId) -> Option<Needed> {
        let (_, trace) = self.stages.get(&(task.stage, peer))?;
        let tensor = self.index.came(task, peer);
        if tensor.is_none() && self.index.reads(task, peer) {
            return None;
        }
        let before = self.index.ended_by(peer, task.began, Some(task));
        let (came, ended) = (tensor.map(|t| t.0), before.map(|t| t.ended));
        if let Some((at, cargo)) = tensor
            && came > ended
            && at > trace.began
            // A tensor between two stages of one peer crosses nothing: the task that made it is what was needed.
            && (self.sender(cargo, peer).is_some() || self.index.stages(peer) == 1)
        {
            return Some(Needed::Tensor(cargo, at));
        }
        match before {
            Some(task) if task.ended > trace.began => Some(Needed::Task(task)),
            Some(_) | None => match task.kind {
                SpanKind::Forward | SpanKind::Optimizer => Some(Needed::Decision(trace.began)),
                SpanKind::Backward | SpanKind::Reduce => None,
            },
        }
    }

    /// Returns who sent a tensor to a peer, and when it was handed to the transport.
    fn sender(&self, cargo: Cargo, to: PeerId) -> Option<(&'a Answer, Instant)> {
        let (from, at) = self.index.sent(cargo, to)?;
        let (answer, _) = self.stages.get(&from)?;
        Some((*answer, at))
    }
}

#[cfg(test)]
mod tests;
