//! Cutting a Dag: the sub-DAGs of stages with their inputs, outputs and parameters, and the edges between them.
//!
//! A cut is legal when the quotient graph is acyclic; any such cut is allowed: several inputs and outputs,
//! skips that jump stages, values used by several stages, parameters used by several stages.

use std::collections::BTreeMap;

use super::grad::GradientPart;
use super::{BufferUpdate, Fact, Node, Value};
use crate::ids::{EdgeId, StageId, ValueId};

/// A forward value that crosses from one stage to another, and its cotangent that comes back.
#[derive(Clone, Debug, PartialEq)]
pub struct CutEdge {
    /// The forward value.
    pub value: ValueId,
    /// dtype and shape.
    pub fact: Fact,
    /// The producing stage.
    pub from: StageId,
    /// The using stage.
    pub to: StageId,
    /// The cotangent that `to` sends back: `to`'s own contributions, already summed. None where no gradient flows.
    pub cotangent: Option<ValueId>,
}

/// Nodes in topological order. Whatever they read that none of them makes is an input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Values that must outlive the run, in order.
    pub outputs: Vec<ValueId>,
}

/// What one stage runs. Value ids are those of the whole [`super::grad::Training`] (partial sums get fresh ids).
#[derive(Clone, Debug, PartialEq)]
pub struct StageGraph {
    /// Which stage.
    pub stage: StageId,
    /// Of how many.
    pub stages: u16,
    /// The forward sub-DAG; reads `data`, `parameters`, `buffers` and received edges.
    pub forward: Program,
    /// The backward sub-DAG; reads `saved`, `parameters`, `buffers` and received cotangents. Empty where no gradient flows.
    pub backward: Program,
    /// Fact, name and source of each value that the stage touches.
    pub values: BTreeMap<ValueId, Value>,
    /// Data inputs that the stage reads.
    pub data: Vec<ValueId>,
    /// Parameters that the stage reads.
    pub parameters: Vec<ValueId>,
    /// Buffers that the stage reads or updates.
    pub buffers: Vec<ValueId>,
    /// Values that live from the forward to the backward pass of a micro-batch: forward values, data inputs and
    /// received activations that the backward sub-DAG reads.
    pub saved: Vec<ValueId>,
    /// Gradient parts that the backward sub-DAG computes.
    pub gradients: Vec<GradientPart>,
    /// Buffer updates whose source the forward sub-DAG computes.
    pub updates: Vec<BufferUpdate>,
    /// The scalar loss, where this stage computes it.
    pub loss: Option<ValueId>,
    /// Other outputs of the Dag that this stage computes (logits).
    pub results: Vec<ValueId>,
    /// Edges into this stage.
    pub receives: Vec<(EdgeId, CutEdge)>,
    /// Edges out of this stage.
    pub sends: Vec<(EdgeId, CutEdge)>,
    /// Parameters of this stage that other stages read too.
    pub shared: Vec<SharedParameter>,
}

/// A parameter that several stages read (tied weights). Every one of them holds it and applies the same update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedParameter {
    /// The parameter.
    pub parameter: ValueId,
    /// All of its parts in order, with the stage that computes each.
    pub parts: Vec<StageId>,
    /// The lowest stage that reads it: counts it in the gradient norm.
    pub home: StageId,
    /// All stages that read it, ascending.
    pub stages: Vec<StageId>,
}

/// A whole network in stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// The stages in order.
    pub stages: Vec<StageGraph>,
    /// Edges between stages, ordered by (value, to); an [`EdgeId`] is a place in this list.
    pub edges: Vec<CutEdge>,
}
