//! OP-DAG: a model, its loss and (after `grad`) its backward pass, as plain data that any peer can
//! read, check, price and cut.
//!
//! A `Dag` is complete, typed and acyclic by construction: only [`build::DagBuilder`] makes one, nodes
//! stand in topological order, and every value carries its fact (dtype and shape).
//! Idea: the OP-DAG of FusionLLM (abstract); the data layout is ours. See docs/concepts/op-dag.md.
//!
//! Reading order: [`op`] (the operators), [`build`], [`shape`], [`cost`], [`grad`], [`cut`], [`lifetimes`],
//! [`rewrite`], [`text`], [`sample`].

pub mod build;
pub mod bundle;
pub mod compose;
pub mod cost;
pub mod cut;
pub mod grad;
pub mod lifetimes;
pub mod op;
pub mod rewrite;
pub mod sample;
pub mod shape;
pub mod text;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use build::{DagBuilder, DagError};
pub use op::Op;

use crate::ids::{NodeId, ValueId};
use crate::units::Bytes;

/// What kind of number a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// Brain float.
    Bf16,
    /// Signed 32-bit integer: token ids and class labels.
    I32,
}

impl Dtype {
    /// Returns the size of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I32 => "i32",
        })
    }
}

/// What is known of a tensor before it exists: its dtype and shape (row-major, no symbolic sizes).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fact {
    /// Kind of element.
    pub dtype: Dtype,
    /// Length of each axis, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl Fact {
    /// Makes the fact of a single-precision tensor.
    pub fn f32(shape: &[usize]) -> Self {
        Self { dtype: Dtype::F32, shape: shape.to_vec() }
    }

    /// Makes the fact of an integer tensor.
    pub fn i32(shape: &[usize]) -> Self {
        Self { dtype: Dtype::I32, shape: shape.to_vec() }
    }

    /// Returns the number of elements (1 for a scalar).
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Returns the dense size.
    pub fn bytes(&self) -> Bytes {
        Bytes::of_len(self.elements() * self.dtype.size())
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        write!(f, "{}[{}]", self.dtype, axes.join(","))
    }
}

/// How a parameter or a buffer starts out; drawn from (job seed, value name), so that any peer draws the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Init {
    /// All elements equal.
    Constant(f32),
    /// Independent normal draws around zero with this standard deviation.
    Normal(f32),
    /// Independent uniform draws in `[-bound, bound)`.
    Uniform(f32),
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Source {
    /// A node's output: which node, and which of its outputs.
    Node {
        /// The producer.
        node: NodeId,
        /// Place among the producer's outputs.
        slot: u8,
    },
    /// Data fed from outside, once a micro-batch.
    Input,
    /// A trained tensor.
    Parameter {
        /// How it starts out.
        init: Init,
        /// Whether weight decay applies (not to biases and normalisation gains, by the field's habit).
        decay: bool,
    },
    /// A tensor that lives across steps without being trained (running statistics).
    Buffer {
        /// How it starts out.
        init: Init,
    },
}

/// One tensor of a Dag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// Unique name within the Dag; for parameters, the name they have in a checkpoint.
    pub name: String,
    /// dtype and shape.
    pub fact: Fact,
    /// Where it comes from.
    pub source: Source,
}

/// One operator application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Name for people: path of the layer that made it.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Operands, in the order that the operator documents.
    pub inputs: Vec<ValueId>,
    /// Results, in the order that the operator documents.
    pub outputs: Vec<ValueId>,
}

/// A buffer's update: after each micro-batch, `buffer <- (1 - momentum) * buffer + momentum * from`.
///
/// Applied in micro-batch order when the step commits, so that a redone step repeats it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BufferUpdate {
    /// The buffer.
    pub buffer: ValueId,
    /// The value that flows into it; same shape.
    pub from: ValueId,
    /// Share of the new value, in (0, 1].
    pub momentum: f32,
}

/// A whole network: values and nodes in topological order. Made by [`DagBuilder`], [`grad`] and [`rewrite`] only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dag {
    pub(crate) name: String,
    pub(crate) values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) updates: Vec<BufferUpdate>,
}

impl Dag {
    /// Returns the network's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns all values, indexed by [`ValueId`].
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Returns all nodes in topological order, indexed by [`NodeId`].
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the named results; the first is the scalar loss where the Dag is to be trained.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Returns the updates of buffers, in the order in which they apply.
    pub fn updates(&self) -> &[BufferUpdate] {
        &self.updates
    }

    /// Returns one value.
    ///
    /// *Panics* if the id is of another Dag.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Returns the dtype and shape of one value.
    pub fn fact(&self, id: ValueId) -> &Fact {
        &self.value(id).fact
    }

    /// Returns one node.
    ///
    /// *Panics* if the id is of another Dag.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Returns the ids of all values in order.
    pub fn value_ids(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..u32::try_from(self.values.len()).unwrap_or(u32::MAX)).map(ValueId::new)
    }

    /// Returns the ids of all nodes in topological order.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).map(NodeId::new)
    }

    /// Returns the data inputs in order.
    pub fn inputs(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.value_ids().filter(|id| matches!(self.value(*id).source, Source::Input))
    }

    /// Returns the parameters in order.
    pub fn parameters(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.value_ids().filter(|id| matches!(self.value(*id).source, Source::Parameter { .. }))
    }

    /// Returns the buffers in order.
    pub fn buffers(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.value_ids().filter(|id| matches!(self.value(*id).source, Source::Buffer { .. }))
    }

    /// Returns the node that produces a value, if a node does.
    pub fn producer(&self, id: ValueId) -> Option<NodeId> {
        match self.value(id).source {
            Source::Node { node, .. } => Some(node),
            Source::Input | Source::Parameter { .. } | Source::Buffer { .. } => None,
        }
    }

    /// Returns the number of trained numbers.
    pub fn parameter_count(&self) -> u64 {
        self.parameters().map(|p| self.fact(p).elements() as u64).sum()
    }
}
