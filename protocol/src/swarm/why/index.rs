//! One step's marks, sorted once: so that a walk looks up what it needs, and costs no more than there are marks.

use std::collections::{BTreeMap, BTreeSet};

use super::Task;
use crate::ids::{MicroBatch, PeerId, StageId};
use crate::units::{Duration, Instant};
use crate::wire::message::SpanKind;
use crate::wire::trace::{Cargo, StageTrace, What};

/// What a tensor is for: the stage and worker that reads it, in which kind of task, for which micro-batch.
type For = (StageId, PeerId, bool, Option<MicroBatch>);

/// Marks of all stages of one step, by what is asked of them.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// How many stages each peer has.
    stages: BTreeMap<PeerId, usize>,
    /// Each peer's tasks, by when they ended.
    tasks: BTreeMap<PeerId, Vec<Task>>,
    total: usize,
    /// Tensors that came, by what they are for and when.
    came: BTreeMap<For, Vec<(Instant, Cargo)>>,
    /// Who handed a tensor for a peer to the transport, and when: the first stage, and its first time.
    sent: BTreeMap<(Cargo, PeerId), ((StageId, PeerId), Instant)>,
    /// Whom others have sent activations, or cotangents.
    receivers: BTreeSet<(PeerId, bool)>,
    /// What all passes of a stage at a worker took, forward and backward.
    passes: BTreeMap<(StageId, PeerId, bool), Duration>,
}

impl Index {
    /// Sorts the marks of stages, each at one worker.
    pub(super) fn of<'a>(traces: impl Iterator<Item = (PeerId, &'a StageTrace)>) -> Self {
        let mut index = Self::default();
        for (peer, trace) in traces {
            *index.stages.entry(peer).or_default() += 1;
            for mark in &trace.marks {
                let (began, ended) = (mark.began, mark.ended);
                match mark.what {
                    What::Ran(kind, micro_batch) => {
                        let stage = trace.stage;
                        let task = Task { stage, kind, micro_batch, began, ended };
                        index.ran(peer, task);
                    }
                    What::Came(cargo) => {
                        if let Some((is_back, micro_batch)) = reader(cargo, trace.stage) {
                            let key = (trace.stage, peer, is_back, micro_batch);
                            index.came.entry(key).or_default().push((began, cargo));
                        }
                    }
                    What::Sent(cargo, to, _) => {
                        let from = ((trace.stage, peer), began);
                        index.sent.entry((cargo, to)).or_insert(from);
                        if let Cargo::Activation(..) | Cargo::Cotangent(..) = cargo {
                            let is_back = matches!(cargo, Cargo::Cotangent(..));
                            index.receivers.insert((to, is_back));
                        }
                    }
                    What::Held(_) | What::Ready => {}
                }
            }
        }
        for tasks in index.tasks.values_mut() {
            tasks.sort_unstable();
            // Told twice, it ran once: who looks for another task does not pass it by again and again.
            tasks.dedup();
        }
        index.total = index.tasks.values().map(Vec::len).sum();
        for list in index.came.values_mut() {
            list.sort_unstable();
        }
        index
    }

    fn ran(&mut self, peer: PeerId, task: Task) {
        let is_back = match task.kind {
            SpanKind::Forward => Some(false),
            SpanKind::Backward => Some(true),
            SpanKind::Reduce | SpanKind::Optimizer => None,
        };
        if let Some(is_back) = is_back {
            *self.passes.entry((task.stage, peer, is_back)).or_default() +=
                task.ended.since(task.began);
        }
        self.tasks.entry(peer).or_default().push(task);
    }

    /// Returns how many stages a peer has.
    pub(super) fn stages(&self, peer: PeerId) -> usize {
        self.stages.get(&peer).copied().unwrap_or(0)
    }

    /// Returns how many tasks ran in all.
    pub(super) fn tasks_total(&self) -> usize {
        self.total
    }

    /// Returns what all forward, or all backward, passes of a stage took at a worker.
    pub(super) fn passes(&self, stage: StageId, peer: PeerId, is_back: bool) -> Duration {
        self.passes.get(&(stage, peer, is_back)).copied().unwrap_or_default()
    }

    /// Returns the task of a peer that ended last before a moment, other than one.
    pub(super) fn ended_by(
        &self,
        peer: PeerId,
        moment: Instant,
        but: Option<Task>,
    ) -> Option<Task> {
        let tasks = self.tasks.get(&peer)?;
        let count = tasks.partition_point(|task| task.ended <= moment);
        tasks[..count].iter().rev().find(|task| Some(**task) != but).copied()
    }

    /// Returns the tensor for a task that came last before it began.
    pub(super) fn came(&self, task: Task, peer: PeerId) -> Option<(Instant, Cargo)> {
        let (is_back, micro_batch) = match task.kind {
            SpanKind::Forward => (false, Some(task.micro_batch?)),
            SpanKind::Backward => (true, Some(task.micro_batch?)),
            SpanKind::Reduce => (true, None),
            SpanKind::Optimizer => return None,
        };
        let list = self.came.get(&(task.stage, peer, is_back, micro_batch))?;
        let count = list.partition_point(|(at, _)| *at <= task.began);
        list[..count].last().copied()
    }

    /// Says whether passes of a task's kind read tensors of others, as far as marks tell: of those here, or of who sent them.
    pub(super) fn reads(&self, task: Task, peer: PeerId) -> bool {
        let is_back = match task.kind {
            SpanKind::Forward => false,
            SpanKind::Backward => true,
            SpanKind::Reduce | SpanKind::Optimizer => return false,
        };
        let [first, last] =
            [0, u32::MAX].map(|number| (task.stage, peer, is_back, Some(MicroBatch::new(number))));
        let is_sent = self.receivers.contains(&(peer, is_back)) && self.stages(peer) == 1;
        is_sent || self.came.range(first..=last).next().is_some()
    }

    /// Returns which stage's worker sent a tensor to a peer, and when.
    pub(super) fn sent(&self, cargo: Cargo, to: PeerId) -> Option<((StageId, PeerId), Instant)> {
        self.sent.get(&(cargo, to)).copied()
    }
}

/// Returns which task of a stage reads a tensor: forward, or what comes after; of which micro-batch.
fn reader(cargo: Cargo, stage: StageId) -> Option<(bool, Option<MicroBatch>)> {
    match cargo {
        Cargo::Activation(_, m) => Some((false, Some(m))),
        Cargo::Cotangent(_, m) => Some((true, Some(m))),
        Cargo::Shared(_, to) | Cargo::Sums(to, ..) if to == stage => Some((true, None)),
        Cargo::Shared(..) | Cargo::Sums(..) | Cargo::Gradient(_) => None,
    }
}
