//! Reverse-mode differentiation as a function Dag -> Dag: the BP DAG, one VJP rule an operator.

use super::Dag;
use crate::ids::{NodeId, ValueId};

/// One contribution to a parameter's gradient, from one use of the parameter.
///
/// Parts are accumulated over micro-batches one by one and summed in the order of this list at the end of
/// a step, so that the sum is the same bits wherever the uses have been placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GradientPart {
    /// The parameter.
    pub parameter: ValueId,
    /// Place among the parameter's parts.
    pub part: u16,
    /// The backward value that holds it; shape of the parameter.
    pub value: ValueId,
}

/// A network with its backward pass: one Dag, forward nodes first.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Forward nodes, then backward nodes, in topological order.
    pub dag: Dag,
    /// How many nodes are forward.
    pub forward_nodes: usize,
    /// For each backward node (from `forward_nodes` on), the forward node whose stage runs it.
    pub origin: Vec<NodeId>,
    /// The scalar loss.
    pub loss: ValueId,
    /// For each forward value that gets one: its (whole) cotangent.
    pub cotangents: std::collections::BTreeMap<ValueId, ValueId>,
    /// Contributions to parameter gradients, by parameter and part.
    pub gradients: Vec<GradientPart>,
}
