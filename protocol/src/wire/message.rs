//! What peers say: one closed enum. Every message of a job is bound to (job, term or epoch, step).

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, JobId, MicroBatch, PeerId, StageId, Step, Term};
use crate::job::JobSpec;
use crate::schedule::advert::SignedAdvert;
use crate::schedule::deeds::Deed;
use crate::schedule::{Basis, Plan};
use crate::units::{Bytes, Duration, Instant};
use crate::wire::trace::Traces;

/// Most adverts in one message.
pub const ADVERTS_MAX: usize = 64;
/// Most entries of a digest.
pub const DIGEST_MAX: usize = 4096;

/// Most spans of one worker and step: there and back of every micro-batch, and what follows them.
pub const SPANS_MAX: usize = 600;
/// Most links of one worker and step: neighbours' workers, the next stages', those who follow.
pub const SHIPPED_MAX: usize = 256;

/// Returns how a digest names a peer. Two peers of one name hide an advert of one until it is pushed; to make a key
/// of a given name takes 2^64 attempts.
pub fn short_id(peer: PeerId) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&peer.bytes()[..8]);
    u64::from_le_bytes(bytes)
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// I am alive.
    Heartbeat,
    /// I leave in good order; do not wait for me.
    Goodbye,
    /// News of the gossip: adverts that you may not have.
    Adverts(Vec<SignedAdvert>),
    /// What I know of a span of peers: sequence of each one's advert. Answered by `Adverts` with what is newer, and, where `answer` is
    /// set, by a digest for the other direction.
    Digest {
        /// The first and the last peer that this speaks of.
        span: (PeerId, PeerId),
        /// Sequence by peer, which the first bytes of its key name (`short_id`).
        known: Vec<(u64, u64)>,
        /// Whether a digest is wanted back.
        answer: bool,
    },
    /// Which jobs do you take part in?
    WhatRuns,
    /// These.
    Runs(Vec<JobBrief>),
    /// What do you remember of the last steps of this job?
    AskTraces {
        /// Which job.
        job: JobId,
        /// Moment at the asker, returned in the answer.
        sent: Instant,
    },
    /// This.
    Traces(Box<Traces>),
    /// Please lead this job.
    Submit {
        /// The job.
        spec: Box<JobSpec>,
        /// The reign to begin with; grows with each attempt of the submitter.
        term: Term,
    },
    /// A job's message.
    Job {
        /// Which.
        job: JobId,
        /// What.
        body: Box<JobMessage>,
    },
}

/// A job in a few words, as one of its members sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobBrief {
    /// Which.
    pub job: JobId,
    /// Its name for people.
    pub name: String,
    /// Who leads it, as far as the member knows.
    pub leader: Option<PeerId>,
    /// Version of the plan in force.
    pub epoch: Epoch,
    /// Owners in pipeline order.
    pub owners: Vec<PeerId>,
    /// Steps decided.
    pub done: Step,
    /// Steps in all.
    pub steps: Step,
    /// Loss of the last decided step, in nats.
    pub loss: Option<f64>,
}

/// What a peer holds of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The stage.
    pub stage: StageId,
    /// Updates that its state has seen.
    pub applied: Step,
    /// Whether the reduced gradient of the next update is here too.
    pub next_gradient: bool,
}

/// A decided optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Which.
    pub step: Step,
    /// Factor on every gradient.
    pub scale: f64,
    /// Mean loss over the micro-batches, in nats.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub norm: f64,
}

/// A message within a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum JobMessage {
    /// Vote for me.
    RequestVote {
        /// The reign that I want.
        term: Term,
        /// My plan's version.
        epoch: Epoch,
    },
    /// My vote.
    Vote {
        /// The reign asked for.
        term: Term,
        /// Yes or no.
        granted: bool,
        /// Version of the plan that I have adopted.
        epoch: Epoch,
    },
    /// I lead: renews my lease; tells what is in force.
    Lease {
        /// My reign.
        term: Term,
        /// Version of the plan in force.
        epoch: Epoch,
        /// Moment at the leader, returned in the answer: a lease runs from when it was asked for.
        sent: Instant,
        /// The last decided step: word of it may have been lost.
        last: Option<Commit>,
    },
    /// I follow.
    LeaseGranted {
        /// The reign.
        term: Term,
        /// Version of the plan that I have adopted.
        epoch: Epoch,
        /// From the lease.
        sent: Instant,
    },
    /// What do you hold?
    Inquire {
        /// My reign.
        term: Term,
    },
    /// This is what I hold.
    Report {
        /// The reign that asked.
        term: Term,
        /// Version of the plan that I have adopted.
        epoch: Epoch,
        /// Stages.
        holdings: Vec<Holding>,
        /// The last step that I know to be decided.
        last: Option<Commit>,
    },
    /// I propose this plan.
    Propose {
        /// My reign.
        term: Term,
        /// The job.
        spec: Box<JobSpec>,
        /// The plan.
        plan: Box<Plan>,
        /// How it was made.
        basis: Basis,
        /// The adverts it was made from.
        evidence: Vec<SignedAdvert>,
        /// By which factors their peers were slower than they say, as I have seen.
        deeds: Vec<Deed>,
        /// From which step it goes on.
        base: Step,
        /// The step before `base`: whoever has not applied it does so.
        last: Option<Commit>,
        /// All state begins anew from the job's start (`base` is 0).
        restart: bool,
    },
    /// I can do my part in the proposed plan.
    Accept {
        /// The reign.
        term: Term,
        /// Version of the proposed plan.
        epoch: Epoch,
    },
    /// I cannot, or the plan does not follow from its evidence.
    Refuse {
        /// The reign.
        term: Term,
        /// Version of the proposed plan.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// The proposed plan is in force.
    Adopt {
        /// My reign.
        term: Term,
        /// Version of the plan.
        epoch: Epoch,
    },
    /// A stage's gradient is reduced and stored at its replicas and backups.
    StepReady {
        /// The plan's version.
        epoch: Epoch,
        /// The step.
        step: Step,
        /// The stage.
        stage: StageId,
        /// Sum of squares of the gradient of the parameters whose home the stage is.
        sum_of_squares: f64,
        /// Sum of the micro-batches' losses, from the stage that computes them.
        loss: Option<f64>,
        /// What the step cost here.
        stats: Box<StageStats>,
        /// What it cost the replicas.
        replicas: Vec<(PeerId, StageStats)>,
    },
    /// A step is decided: apply it.
    StepCommit {
        /// The plan's version.
        epoch: Epoch,
        /// The step.
        commit: Commit,
    },
    /// I hold a stage's state and its reduced gradient of this step, as its backup or replica.
    GradientHeld {
        /// The plan's version.
        epoch: Epoch,
        /// The stage.
        stage: StageId,
        /// The step.
        step: Step,
        /// Losses of the micro-batches that I ran, from a replica of the stage that computes them.
        losses: Vec<(MicroBatch, f64)>,
        /// What the step cost me, if I am a replica.
        stats: Option<Box<StageStats>>,
    },
    /// Send me the state of a stage; of a submitter: what you gave for it to start from.
    Pull {
        /// The stage.
        stage: StageId,
        /// Updates that it must have seen.
        applied: Step,
    },
    /// A task of a stage failed here: count me out for it.
    StageFailed {
        /// The plan's version.
        epoch: Epoch,
        /// The stage.
        stage: StageId,
        /// Why.
        reason: String,
        /// Whether it is the numbers that fail, as they would at any peer.
        of_numbers: bool,
    },
    /// The job is over and nobody needs its state.
    Release,
    /// News for the submitter.
    News(Box<News>),
    /// I could do my part, but the plan takes me for much slower or faster than I am: propose without your word of my deeds.
    Dispute {
        /// The reign.
        term: Term,
        /// Version of the proposed plan.
        epoch: Epoch,
    },
}

/// What kind of work a span of time went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SpanKind {
    /// Forward pass of a micro-batch.
    Forward,
    /// Backward pass of a micro-batch.
    Backward,
    /// Sharing and reducing gradients.
    Reduce,
    /// The update.
    Optimizer,
}

/// A piece of work of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// What.
    pub kind: SpanKind,
    /// Which micro-batch, where there is one.
    pub micro_batch: Option<MicroBatch>,
    /// When it began, on the owner's clock.
    pub began: Instant,
    /// When it ended, on the owner's clock.
    pub ended: Instant,
}

/// Bytes that one link carried for a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkBytes {
    /// The receiving peer.
    pub to: PeerId,
    /// How many.
    pub bytes: Bytes,
}

/// What one step cost one stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageStats {
    /// Pieces of work in order; the update of the step before comes first.
    pub spans: Vec<Span>,
    /// Bytes shipped.
    pub shipped: Vec<LinkBytes>,
    /// When the stage began the step, on its own clock.
    pub began: Instant,
    /// When it was ready, on its own clock.
    pub ready: Instant,
}

impl StageStats {
    /// Returns what is believed of a stranger's statistics: no more of each than an honest worker has.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.spans.truncate(SPANS_MAX);
        self.shipped.truncate(SHIPPED_MAX);
        self
    }
}

/// What a job's leader tells the submitter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum News {
    /// The leader is waiting for something.
    Waiting {
        /// For what.
        reason: String,
    },
    /// A plan is in force.
    Adopted {
        /// The plan.
        plan: Box<Plan>,
        /// Who leads.
        leader: PeerId,
        /// From which step it goes on.
        base: Step,
        /// Whether all state begins anew.
        restart: bool,
    },
    /// A step is committed.
    Step {
        /// The step.
        commit: Commit,
        /// The plan's version.
        epoch: Epoch,
        /// From the commit before (or the adoption) to this one, at the leader.
        elapsed: Duration,
        /// What it cost each stage, in order; several times where there are replicas, the owner first.
        stages: Vec<(StageId, PeerId, StageStats)>,
    },
    /// A member is lost.
    Lost {
        /// Who.
        peer: PeerId,
        /// Stages that it ran.
        stages: Vec<StageId>,
        /// The step in work.
        step: Step,
    },
    /// All steps are done.
    Finished {
        /// How many.
        steps: Step,
        /// The last, for a submitter that has not heard of it: its news may be lost, or told before there was a submitter.
        last: Option<Commit>,
    },
    /// The job cannot go on.
    Failed {
        /// Why, and what would help.
        reason: String,
    },
}
