//! What members remember of the last steps, for whoever asks why they take as long as they do.
//!
//! Each moment is on its owner's clock; an answer says when the question came, so that the asker can lay the clocks over
//! each other. Bounded: [`MARKS_MAX`] marks a stage and step, [`OPS_MAX`] operators, [`STEPS_KEPT`] steps; who hears it
//! believes no more ([`Traces::bounded`]). No decision rests on it.

use serde::{Deserialize, Serialize};

use super::message::SpanKind;
use crate::ids::{EdgeId, JobId, MicroBatch, PeerId, StageId, Step};
use crate::job::{STAGES_MAX, STAGES_PER_PEER_MAX};
use crate::units::{Bytes, Duration, Instant};

/// Most marks of one stage and step; 256 micro-batches over two edges fill half of it.
pub const MARKS_MAX: usize = 4096;
/// Most operators by name, there and back.
pub const OPS_MAX: usize = 128;
/// Steps that are remembered, the one in work among them.
pub const STEPS_KEPT: usize = 4;
/// Most characters of an operator's name.
pub const NAME_MAX: usize = 40;

/// What crossed between two stages, or went to a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cargo {
    /// The value of a cut edge, forwards.
    Activation(EdgeId, MicroBatch),
    /// Its cotangent, backwards.
    Cotangent(EdgeId, MicroBatch),
    /// Gradient parts of shared parameters, from the first stage for the second.
    Shared(StageId, StageId),
    /// A piece of the sums of a stage's workers, from the worker of this number.
    Sums(StageId, u16, u16),
    /// A stage's reduced gradient, for its backups.
    Gradient(StageId),
}

/// Something that happened at a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The device ran a task.
    Ran(SpanKind, Option<MicroBatch>),
    /// A tensor came; both moments are that.
    Came(Cargo),
    /// A tensor was handed to the transport for a peer, and acknowledged.
    Sent(Cargo, PeerId, Bytes),
    /// A backup said that it holds the gradient; both moments are that.
    Held(PeerId),
    /// The stage reported that it is ready; both moments are that.
    Ready,
}

/// When something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What.
    pub what: What,
    /// From.
    pub began: Instant,
    /// To.
    pub ended: Instant,
}

/// How long an operator ran in all forward, or all backward, passes of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpTime {
    /// Its name.
    pub name: String,
    /// Backward.
    pub is_back: bool,
    /// How long.
    pub took: Duration,
}

/// One step at one stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTrace {
    /// Which stage.
    pub stage: StageId,
    /// Which step.
    pub step: Step,
    /// When it heard that the step before is decided.
    pub began: Instant,
    /// What happened since; the update of the step before among it.
    pub marks: Vec<Mark>,
    /// What its operators took.
    pub ops: Vec<OpTime>,
    /// Whether marks were left out for want of room.
    pub is_cut: bool,
}

/// One decided step at the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Which step.
    pub step: Step,
    /// When it was decided.
    pub decided: Instant,
    /// When each stage's report came.
    pub heard: Vec<(StageId, Instant)>,
}

/// A member's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// The job.
    pub job: JobId,
    /// From the question.
    pub asked: Instant,
    /// When the question came, on the member's clock.
    pub now: Instant,
    /// Its stages' last steps, oldest first.
    pub stages: Vec<StageTrace>,
    /// The last decisions, of the leader.
    pub decisions: Vec<Decision>,
}

impl Traces {
    /// Returns what is believed of a stranger's answer: no more of each than an honest member has.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.stages.truncate(usize::from(STAGES_PER_PEER_MAX) * STEPS_KEPT);
        for trace in &mut self.stages {
            trace.is_cut |= trace.marks.len() > MARKS_MAX;
            trace.marks.truncate(MARKS_MAX);
            trace.ops.truncate(OPS_MAX);
            for op in &mut trace.ops {
                op.name = op.name.chars().take(NAME_MAX).collect();
            }
        }
        self.decisions.truncate(STEPS_KEPT + 1);
        for decision in &mut self.decisions {
            decision.heard.truncate(usize::from(STAGES_MAX));
        }
        self
    }
}
