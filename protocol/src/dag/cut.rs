//! Cutting a Dag: the sub-DAGs of stages with their inputs, outputs and parameters, and the edges between them.
//!
//! A cut is legal when the quotient graph is acyclic; any such cut is allowed: several inputs and outputs,
//! skips that jump stages, values used by several stages, parameters used by several stages.
//!
//! Activations cross forwards along [`CutEdge`]s, partial cotangents back along the same edges: each using stage sums
//! its own contributions, so that a value costs one tensor each way however often a stage uses it.
//!
//! Reading order: the types, [`cut`], [`renumber`], then `order` (is it legal?), `backward` (where cotangent sums
//! are split) and `stage` (what a stage reads, keeps and sends).

mod backward;
mod order;
mod stage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::grad::{GradientPart, Training};
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

/// Why a network cannot be cut this way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// The assignment is for another network.
    #[error("the network has {nodes} forward nodes, but the assignment has {assigned}")]
    Length {
        /// Forward nodes.
        nodes: usize,
        /// Entries of the assignment.
        assigned: usize,
    },
    /// A stage between the first and the last has no node.
    #[error("stage {empty} has no node, but there is a stage {last}")]
    Gap {
        /// The empty stage.
        empty: StageId,
        /// The highest stage.
        last: StageId,
    },
    /// Two stages need each other's results.
    #[error(
        "{from} sends `{value}` to {to}, which something that {from} computes before depends on"
    )]
    Cyclic {
        /// A stage.
        from: StageId,
        /// A stage that needs its results, and whose results it needs.
        to: StageId,
        /// A value that crosses.
        value: String,
    },
    /// A value goes to an earlier stage; [`renumber`] puts the stages in order.
    #[error(
        "`{value}` goes from {from} back to {to}; stages must be numbered in the order of the data"
    )]
    Order {
        /// The producing stage.
        from: StageId,
        /// The using stage.
        to: StageId,
        /// The value.
        value: String,
    },
    /// A buffer is updated in one stage and used in another, which would read an old state.
    #[error("buffer `{buffer}` is updated in {updater} but used in {user}")]
    BufferSplit {
        /// The buffer.
        buffer: String,
        /// The updating stage.
        updater: StageId,
        /// Another stage.
        user: StageId,
    },
}

/// Cuts a network into stages: `assignment` names the stage of each forward node, `origin` places the backward ones.
///
/// Fresh values (partial sums of cotangents) get the ids after the training Dag's own, in a fixed order: every peer
/// computes the same cut. Each edge's cotangent and each gradient part is a value that the sending stage's own backward
/// nodes make, and no two edges share one.
///
/// *Errors*: [`CutError`]. *Cost*: O(operands log operands).
pub fn cut(training: &Training, assignment: &[StageId]) -> Result<Cut, CutError> {
    let stages = order::check(training, assignment)?;
    let mut edges = order::edges(training, assignment);
    let backward = backward::split(training, assignment, stages, &mut edges);
    let stages = stage::assemble(training, assignment, backward, &edges);
    Ok(Cut { stages, edges: edges.into_values().collect() })
}

/// Returns the whole network as one stage.
pub fn whole(training: &Training) -> Cut {
    cut(training, &vec![StageId::new(0); training.forward_nodes])
        .expect("one stage has no edges, thus none that point back")
}

/// Numbers the stages of an assignment in the order of the data; among stages that could go first, the lowest does.
///
/// *Errors*: [`CutError::Length`], [`CutError::Gap`], [`CutError::Cyclic`].
pub fn renumber(training: &Training, assignment: &[StageId]) -> Result<Vec<StageId>, CutError> {
    let ranks = order::ranks(training, assignment)?;
    Ok(assignment.iter().map(|stage| ranks[stage.index()]).collect())
}

/// Edges by (value, using stage), which is their order in the cut.
type Edges = BTreeMap<(ValueId, StageId), CutEdge>;
