//! Names of things: peers, jobs, stages, steps, micro-batches, nodes and values of a Dag.
//!
//! Each is a newtype with a private field, so that a stage can never be mistaken for a step.
//! All are ordered, because every collection of the swarm is ordered.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A peer: its ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// Makes an id from the bytes of an ed25519 public key.
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Returns the bytes of the public key.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first eight hexadecimal digits, which is what people read.
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p:{}", self.short())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// A job: the first 16 bytes of the blake3 hash of its specification.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId([u8; 16]);

impl JobId {
    /// Makes an id from its bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the id.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "j:{self}")
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..4]))
    }
}

/// A tensor's contents: the blake3 hash of its elements, row-major, four little-endian bytes each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TensorHash([u8; 32]);

impl TensorHash {
    /// Makes a hash from its bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the hash of a tensor's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Debug for TensorHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t:{}", hex(&self.0[..4]))
    }
}

/// A stage: a sub-DAG with one owner; numbered in pipeline order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct StageId(u16);

impl StageId {
    /// Makes the id of the stage at this place in the pipeline.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// Returns the place in the pipeline.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for StageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// The version of a plan; a message of an older epoch dies on arrival.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(u64);

impl Epoch {
    /// Makes an epoch from its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Returns the epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A reign of one leader over one job; grows with each election.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Term(u64);

impl Term {
    /// Most terms that one message may be ahead: candidates that stand every half second for decades.
    const AHEAD_MAX: u64 = 1 << 32;

    /// Makes a term from its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Returns the term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Says whether an honest peer at this term can hear of the other one: no run climbs further in its time, and a term
    /// at the end of its range would leave no election that could follow it.
    pub const fn may_hear(self, other: Self) -> bool {
        other.0 <= self.0.saturating_add(Self::AHEAD_MAX)
    }
}

/// An optimizer step, from 0: `Step(n)` is the step that turns the state after `n` updates into the next.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Step(u64);

impl Step {
    /// Makes a step from its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Returns the step after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A micro-batch within one step, from 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct MicroBatch(u32);

impl MicroBatch {
    /// Makes the id of a micro-batch from its place in the step.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Returns the place in the step.
    pub const fn index(self) -> u32 {
        self.0
    }
}

/// A node of a Dag: one operator.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct NodeId(u32);

impl NodeId {
    /// Makes the id of the node at this place in the topological order.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Returns the place in the topological order.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value of a Dag: a tensor that some node, or the outside, produces.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ValueId(u32);

impl ValueId {
    /// Makes the id of the value at this place of the value table.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Returns the place in the value table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// An edge that crosses stages: its place in `Cut::edges`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct EdgeId(u32);

impl EdgeId {
    /// Makes the id of the edge at this place of the cut.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Returns the place in the cut.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A task handed to the execution thread; its completion carries the same id.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct TaskId(u64);

impl TaskId {
    /// Makes an id from its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
