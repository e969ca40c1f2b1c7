//! What goes into a peer and what comes out of it: the whole border between decisions and the world.
//!
//! Control by value, tensors by name: no float of a tensor passes here. A driver (`node/src/driver.rs`, or
//! `sim/src/world.rs`) performs effects in order and feeds back inputs; it takes no decision of its own.

mod task;
mod times;
mod work;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{EdgeId, Epoch, JobId, MicroBatch, PeerId, StageId, Step, TaskId};
use crate::job::JobSpec;
use crate::schedule::advert::Hardware;
use crate::schedule::gauge::Packets;
use crate::units::{Bytes, Duration, Instant, Rate};
use crate::wire::message::Message;
pub use task::{GradientSource, Outcome, StateSource, Task, TaskError};
pub use times::OpTimes;
pub use work::{Length, StageWork};

/// Which tensor, within a job's epoch and step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TensorName {
    /// The value of a cut edge, from the edge's `from` stage to its `to` stage.
    Activation {
        /// The edge.
        edge: EdgeId,
        /// Which micro-batch.
        micro_batch: MicroBatch,
    },
    /// The cotangent of a cut edge, from the edge's `to` stage back to its `from` stage.
    Cotangent {
        /// The edge.
        edge: EdgeId,
        /// Which micro-batch.
        micro_batch: MicroBatch,
    },
    /// Gradient parts of a stage, summed over the first groups of micro-batches, on their way from one of its workers to
    /// the next; the first chunk has those micro-batches' statistics too.
    GroupSums {
        /// The stage.
        stage: StageId,
        /// Who has added its groups last, by place among the workers.
        worker: u16,
        /// Which piece.
        chunk: u16,
    },
    /// The accumulated gradient parts, from one stage, of the parameters that it shares with another (tied weights).
    SharedGradient {
        /// The stage that computed the parts.
        stage: StageId,
        /// The stage that needs them.
        to: StageId,
    },
    /// The reduced gradient of every parameter of a stage plus its buffers' statistics: what a backup needs to follow a step.
    StageGradient {
        /// The stage.
        stage: StageId,
    },
    /// Parameters, optimizer state and buffers of a stage before the key's step.
    StageState {
        /// The stage.
        stage: StageId,
    },
    /// Parameters and buffers of a stage before the first step, as the submitter gave them.
    StageStart {
        /// The stage.
        stage: StageId,
    },
}

/// The name of a tensor bundle; the same on every peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TensorKey {
    /// The job.
    pub job: JobId,
    /// The plan's version.
    pub epoch: Epoch,
    /// The step.
    pub step: Step,
    /// Which tensor.
    pub name: TensorName,
}

/// Every timer a peer sets; setting one again moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Heartbeats and suspicion.
    Membership,
    /// Gossip round.
    Gossip,
    /// A job's lease, elections, repairs, and what has to be said again.
    Job(JobId),
}

/// What a user of this machine asks of its peer.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Train this; the peer hands it to the swarm and reports progress as events.
    Submit(Box<JobSpec>),
    /// Bring the state of every stage of a finished or running job here.
    Pull(JobId),
    /// Nobody here needs the job's state any more: its members may free it.
    Release(JobId),
    /// Ask every neighbour which jobs it takes part in; answers come as events.
    AskRuns,
    /// Ask every neighbour what it remembers of a job's last steps; answers come as events.
    AskTraces(JobId),
    /// Leave the swarm in good order.
    Leave,
}

/// What happens to a peer.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A connection to this peer is up.
    PeerFound(PeerId),
    /// The last connection to this peer is gone.
    PeerLost(PeerId),
    /// This machine has been measured (again).
    Measured(Hardware),
    /// This machine is reached at these multiaddresses, the best first, and at no others.
    Listening(Vec<String>),
    /// A link from here to a peer has been measured.
    LinkMeasured {
        /// The other end.
        peer: PeerId,
        /// Achieved one-way throughput towards it.
        rate: Rate,
        /// Round-trip time.
        round_trip: Duration,
        /// Packets since the last measurement, of the probe and of whatever else crossed the link.
        packets: Packets,
    },
    /// What crosses the link to a peer goes another way now, straight or through a relay: it is another link.
    PathChanged(PeerId),
    /// A bundle has gone to a peer with nothing else under way from here, and its receipt has come back.
    LinkUsed {
        /// The other end.
        peer: PeerId,
        /// Bytes that crossed the link.
        size: Bytes,
        /// From the first byte to the receipt.
        took: Duration,
    },
    /// A message whose sender the transport has authenticated.
    Received {
        /// The sender.
        from: PeerId,
        /// What it says.
        message: Box<Message>,
    },
    /// A timer has run out.
    TimerFired(Timer),
    /// A task is done.
    TaskDone {
        /// Which.
        task: TaskId,
        /// What it has to say.
        outcome: Outcome,
        /// When the execution thread began it.
        began: Instant,
        /// When it ended.
        ended: Instant,
        /// What its operators took of that, where the device tells.
        ops: OpTimes,
    },
    /// A task has failed.
    TaskFailed {
        /// Which.
        task: TaskId,
        /// Why.
        error: TaskError,
    },
    /// A tensor bundle is in the store, checked and complete.
    TensorArrived {
        /// Its name.
        key: TensorKey,
        /// Who sent it.
        from: PeerId,
        /// Its size.
        size: Bytes,
    },
    /// A shipment has ended: acknowledged by the receiver's transport, or failed.
    Shipped {
        /// Its name.
        key: TensorKey,
        /// To whom.
        to: PeerId,
        /// Bytes that crossed the link.
        size: Bytes,
        /// Whether it was delivered.
        delivered: bool,
    },
    /// A user's wish.
    Command(Command),
}

/// Something worth telling the people at this machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A job's news; on the submitter's machine, and on each machine that takes part.
    Job {
        /// The job.
        job: JobId,
        /// The news.
        news: Box<crate::wire::message::News>,
    },
    /// A peer is known to be alive.
    PeerAlive(PeerId),
    /// A peer has missed too many heartbeats.
    PeerLost(PeerId),
    /// A neighbour's jobs.
    Runs {
        /// Who answers.
        from: PeerId,
        /// Its jobs.
        briefs: Vec<crate::wire::message::JobBrief>,
    },
    /// A pulled stage's state is in the store under this key; the whole job is here when `missing` is 0.
    Pulled {
        /// Where it is.
        key: TensorKey,
        /// Stages still to come.
        missing: u16,
    },
    /// What a member of a job remembers of the last steps.
    Traces(Box<super::why::Answer>),
    /// This peer may stop: it has handed over what it held.
    MayStop,
}

/// What a peer wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Try to connect.
    Dial {
        /// To whom.
        peer: PeerId,
        /// Where it says that it listens (multiaddresses as text).
        addresses: Vec<String>,
    },
    /// Send a control message.
    Send {
        /// To whom; never to itself.
        to: PeerId,
        /// What.
        message: Box<Message>,
    },
    /// Fire a timer at this moment; replaces an earlier setting.
    SetTimer {
        /// Which.
        timer: Timer,
        /// When.
        at: Instant,
    },
    /// Run a task; answered by `TaskDone` or `TaskFailed`.
    Run {
        /// Its name in the answer.
        id: TaskId,
        /// What.
        task: Task,
    },
    /// Send a tensor bundle of the store; answered by `Shipped`.
    Ship {
        /// Its name.
        key: TensorKey,
        /// To whom; never to itself.
        to: PeerId,
    },
    /// Make a stage's `StageStart` of the weights that the user gave with the job, and send it; answered by `Shipped`, or
    /// by `TensorArrived` where it is for this peer itself.
    Give {
        /// Its name.
        key: TensorKey,
        /// Whose parameters and buffers.
        work: Arc<StageWork>,
        /// To whom.
        to: PeerId,
    },
    /// Free a tensor bundle of the store, if it is there, once the tasks run before have read it.
    Drop(TensorKey),
    /// Free every tensor bundle of a job below an epoch, or of the epoch below a step, once the tasks run before have
    /// read them.
    DropBefore {
        /// The job.
        job: JobId,
        /// Older epochs go.
        epoch: Epoch,
        /// Older steps of any epoch go (their `StageState`s too).
        step: Step,
    },
    /// Measure the link to a peer; answered by `LinkMeasured`, if it works.
    Probe(PeerId),
    /// Say in the DHT that this peer takes part in a job.
    Announce(JobId),
    /// Take back what `Announce` has said.
    Withdraw(JobId),
    /// Tell the people at this machine.
    Notify(Event),
}

/// Effects in the order in which they must be performed.
#[derive(Debug, Default)]
pub struct Outbox {
    effects: Vec<Effect>,
}

impl Outbox {
    /// Makes an empty outbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an effect.
    pub fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Takes all effects, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// Says whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }
}

/// What a peer answers to the header of an arriving tensor bundle, before any byte of it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is awaited, if it is of this length.
    Take(Length),
    /// It is not awaited (stale, unknown, or already here): refuse, the sender need not retry.
    Refuse,
}
