//! What a member remembers of its stages' last steps: marks in a ring, for `wattle why`.
//!
//! Costs a push a mark, a look through the operators' names a task, and a look back through a step's marks an
//! acknowledgement; decides nothing. Not here: who is told (`ask`), what follows from it (`why`).

use std::collections::VecDeque;

use super::io::{OpTimes, TensorName};
use crate::ids::{PeerId, StageId, Step};
use crate::schedule::pipeline::Pass;
use crate::units::{Bytes, Duration, Instant};
use crate::wire::message::SpanKind;
use crate::wire::trace::{
    Cargo, Decision, MARKS_MAX, Mark, NAME_MAX, OPS_MAX, OpTime, STEPS_KEPT, StageTrace, What,
};

/// Returns what a tensor is to a trace; None for states, which cross between steps.
pub(super) fn cargo(name: TensorName) -> Option<Cargo> {
    match name {
        TensorName::Activation { edge, micro_batch } => Some(Cargo::Activation(edge, micro_batch)),
        TensorName::Cotangent { edge, micro_batch } => Some(Cargo::Cotangent(edge, micro_batch)),
        TensorName::SharedGradient { stage, to } => Some(Cargo::Shared(stage, to)),
        TensorName::StageGradient { stage } => Some(Cargo::Gradient(stage)),
        TensorName::GroupSums { stage, worker, chunk } => Some(Cargo::Sums(stage, worker, chunk)),
        TensorName::StageState { .. } | TensorName::StageStart { .. } => None,
    }
}

/// The last steps of one stage.
#[derive(Clone, Debug, Default)]
pub(super) struct Tracer {
    steps: VecDeque<StageTrace>,
    /// Tensors of the next step that came early.
    early: Vec<(Step, Mark)>,
}

impl Tracer {
    /// Begins a step.
    pub(super) fn begin(&mut self, stage: StageId, step: Step, now: Instant) {
        // A step that begins again is another one.
        self.steps.retain(|known| known.step < step);
        while self.steps.len() >= STEPS_KEPT {
            self.steps.pop_front();
        }
        let mut trace = StageTrace { stage, step, began: now, ..StageTrace::default() };
        self.early.retain(|(of, mark)| {
            if *of == step {
                trace.marks.push(*mark);
            }
            *of > step
        });
        self.steps.push_back(trace);
    }

    fn mark(&mut self, what: What, began: Instant, ended: Instant) {
        let Some(trace) = self.steps.back_mut() else {
            return;
        };
        if trace.marks.len() < MARKS_MAX {
            trace.marks.push(Mark { what, began, ended });
        } else {
            trace.is_cut = true;
        }
    }

    /// A task has ended.
    pub(super) fn ran(
        &mut self,
        (kind, pass): (SpanKind, Option<Pass>),
        (began, ended): (Instant, Instant),
        ops: &OpTimes,
    ) {
        let (micro_batch, is_back) = match pass {
            Some(Pass::Forward(m)) => (Some(m), false),
            Some(Pass::Backward(m)) => (Some(m), true),
            None => (None, false),
        };
        self.mark(What::Ran(kind, micro_batch), began, ended);
        let Some(trace) = self.steps.back_mut() else {
            return;
        };
        for (name, nanos) in ops.iter() {
            let took = Duration::from_micros(nanos / 1000);
            let is_full = trace.ops.len() >= OPS_MAX;
            let known = trace.ops.iter_mut().find(|op| op.name == name && op.is_back == is_back);
            match known {
                Some(op) => op.took += took,
                None if is_full => {}
                None => {
                    let name = name.chars().take(NAME_MAX).collect();
                    trace.ops.push(OpTime { name, is_back, took });
                }
            }
        }
    }

    /// A tensor has come, for the step in work or the next.
    pub(super) fn came(&mut self, step: Step, name: TensorName, now: Instant) {
        let Some(cargo) = cargo(name) else {
            return;
        };
        let mark = Mark { what: What::Came(cargo), began: now, ended: now };
        match self.steps.back() {
            Some(trace) if trace.step == step => self.mark(mark.what, now, now),
            Some(_) | None if self.early.len() < MARKS_MAX => self.early.push((step, mark)),
            Some(_) | None => {}
        }
    }

    /// A tensor goes to another peer.
    pub(super) fn sends(&mut self, name: TensorName, to: PeerId, now: Instant) {
        if let Some(cargo) = cargo(name) {
            self.mark(What::Sent(cargo, to, Bytes::ZERO), now, now);
        }
    }

    /// It was acknowledged.
    pub(super) fn sent(
        &mut self,
        (step, name): (Step, TensorName),
        to: PeerId,
        size: Bytes,
        now: Instant,
    ) {
        let Some(cargo) = cargo(name) else {
            return;
        };
        let open = What::Sent(cargo, to, Bytes::ZERO);
        let trace = self.steps.iter_mut().find(|trace| trace.step == step);
        let marks = trace.into_iter().flat_map(|trace| trace.marks.iter_mut().rev());
        if let Some(mark) = marks.into_iter().find(|mark| mark.what == open) {
            mark.what = What::Sent(cargo, to, size);
            mark.ended = now;
        }
    }

    /// A backup holds the gradient.
    pub(super) fn held(&mut self, by: PeerId, now: Instant) {
        self.mark(What::Held(by), now, now);
    }

    /// The stage reports.
    pub(super) fn ready(&mut self, now: Instant) {
        self.mark(What::Ready, now, now);
    }

    /// Returns the steps, oldest first.
    pub(super) fn steps(&self) -> impl Iterator<Item = &StageTrace> {
        self.steps.iter()
    }
}

/// The leader's last decisions.
#[derive(Clone, Debug, Default)]
pub(super) struct Decisions {
    heard: Vec<(StageId, Instant)>,
    list: VecDeque<Decision>,
}

impl Decisions {
    /// A stage has reported the step in work.
    pub(super) fn heard(&mut self, stage: StageId, now: Instant) {
        if !self.heard.iter().any(|(known, _)| *known == stage) {
            self.heard.push((stage, now));
        }
    }

    /// A step is decided.
    pub(super) fn decided(&mut self, step: Step, now: Instant) {
        while self.list.len() > STEPS_KEPT {
            self.list.pop_front();
        }
        let heard = std::mem::take(&mut self.heard);
        self.list.push_back(Decision { step, decided: now, heard });
    }

    /// Another plan is in force: what was heard is of the old one.
    pub(super) fn restart(&mut self) {
        self.heard.clear();
        self.list.clear();
    }

    /// Returns the decisions, oldest first.
    pub(super) fn list(&self) -> impl Iterator<Item = &Decision> {
        self.list.iter()
    }
}
