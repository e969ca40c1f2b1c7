//! Reverse-mode differentiation as a function Dag -> Dag: the BP DAG, one VJP rule an operator.
//!
//! The forward nodes are walked from the loss back; each adds the nodes that turn the cotangent of its result into
//! contributions to the cotangents of its operands (`rules`). Where a value has several uses its contributions are
//! summed, latest consumer first. Only values between a parameter and the loss get a cotangent, so no node is dead.
//! A backward node reads the operands and results of its forward node, and cotangents; nothing else. That is what
//! lets `cut` place it beside its forward node. See docs/concepts/remote-autodiff.md.

mod elements;
mod index;
mod layout;
mod linear;
mod norm;
mod rules;
mod sequence;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{Dag, DagBuilder, DagError, Dtype, Op, Source};
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

/// What one use of a value adds to its cotangent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// The forward node that uses the value.
    pub consumer: NodeId,
    /// The backward value that holds the contribution. It is the cotangent of the consumer's own result where the
    /// rule passes that on unchanged.
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
    /// For each forward value that gets one: its (whole) cotangent. Parameters have `gradients` instead.
    pub cotangents: BTreeMap<ValueId, ValueId>,
    /// What each of those cotangents and each parameter's gradient is the sum of, latest consumer first; the loss
    /// has none, since its cotangent is given.
    pub contributions: BTreeMap<ValueId, Vec<Contribution>>,
    /// Contributions to parameter gradients, by parameter and part.
    pub gradients: Vec<GradientPart>,
}

impl Training {
    /// Returns the number of forward values: inputs, parameters, buffers and results of forward nodes. Their ids
    /// are the smallest.
    pub fn forward_values(&self) -> usize {
        let first = self.dag.nodes.get(self.forward_nodes).and_then(|node| node.outputs.first());
        first.map_or(self.dag.values.len(), |id| id.index())
    }

    /// Returns the forward values, other than parameters and buffers, that the backward pass reads.
    pub fn saved(&self) -> BTreeSet<ValueId> {
        let forward = self.forward_values();
        let backward = self.dag.nodes[self.forward_nodes..].iter();
        let read = backward.flat_map(|node| &node.inputs).copied();
        read.filter(|id| {
            let source = self.dag.value(*id).source;
            id.index() < forward && matches!(source, Source::Node { .. } | Source::Input)
        })
        .collect()
    }
}

/// Why a Dag cannot be trained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GradError {
    /// The first output is not what training descends on.
    #[error(
        "the first output must be a scalar f32 loss that a node computes, but is `{name}` of {fact}"
    )]
    Loss {
        /// The output.
        name: String,
        /// Its dtype and shape.
        fact: String,
    },
    /// The loss does not depend on any parameter.
    #[error("no differentiable path leads from a parameter to the loss `{0}`")]
    NoPath(String),
    /// A gradient would have to pass an operator that has no rule.
    #[error("node `{node}`: {op} has no derivative here, but a parameter lies behind it")]
    NotDifferentiable {
        /// The node.
        node: String,
        /// Its operator.
        op: &'static str,
    },
    /// A gradient would have to pass a result that only serves statistics.
    #[error("`{0}` is a statistic through which no gradient flows, but the loss depends on it")]
    Auxiliary(String),
    /// A parameter is used too often.
    #[error("parameter `{0}` has more than 65,535 uses")]
    Parts(String),
    /// A step has no micro-batches.
    #[error("a step needs at least one micro-batch")]
    NoMicroBatch,
    /// The backward pass makes no valid Dag (too many nodes, too large tensors).
    #[error("the backward pass is not a valid Dag")]
    Dag(#[from] DagError),
}

/// Adds the backward pass to a network whose first output is its loss.
///
/// The gradient is that of the mean over `micro_batches` losses, so that adding them up gives a step's gradient.
///
/// *Errors*: [`GradError`]. Never panics on a checked Dag.
pub fn differentiate(dag: Dag, micro_batches: u32) -> Result<Training, GradError> {
    if micro_batches == 0 {
        return Err(GradError::NoMicroBatch);
    }
    let loss = dag.outputs[0];
    let fact = dag.fact(loss);
    let Some(last) = dag.producer(loss).filter(|_| fact.dtype == Dtype::F32 && fact.rank() == 0)
    else {
        let name = dag.value(loss).name.clone();
        return Err(GradError::Loss { name, fact: fact.to_string() });
    };
    let mut reverse = Reverse::new(dag);
    if !reverse.needs[loss.index()] {
        return Err(GradError::NoPath(reverse.builder.dag().value(loss).name.clone()));
    }
    #[expect(clippy::cast_precision_loss, reason = "a step has far fewer than 2^24 micro-batches")]
    let value = 1.0 / micro_batches as f32;
    let seed = reverse.emit(last, Op::Fill { shape: vec![], value }, &[])?;
    reverse.cotangents.insert(loss, seed);
    for index in (0..=last.index()).rev() {
        let id = NodeId::new(u32::try_from(index).expect("at most NODES_MAX nodes"));
        reverse.step(id)?;
    }
    reverse.finish(loss)
}

/// The backward pass while it is being written.
struct Reverse {
    builder: DagBuilder,
    forward_nodes: usize,
    origin: Vec<NodeId>,
    /// Whether a value lies on a differentiable path from a parameter.
    needs: Vec<bool>,
    cotangents: BTreeMap<ValueId, ValueId>,
    contributions: BTreeMap<ValueId, Vec<Contribution>>,
    /// Makes names unique.
    names: u64,
}

/// A forward node with the cotangent of its first result.
struct Site {
    id: NodeId,
    op: Op,
    inputs: Vec<ValueId>,
    /// Its first result.
    result: ValueId,
    /// All results.
    outputs: Vec<ValueId>,
    /// The cotangent of the first result.
    g: ValueId,
}

impl Reverse {
    fn new(dag: Dag) -> Self {
        let leaf = |v: &super::Value| matches!(v.source, Source::Parameter { .. });
        let mut needs: Vec<bool> = dag.values.iter().map(leaf).collect();
        for node in &dag.nodes {
            let reached = node.inputs.iter().any(|id| needs[id.index()]);
            // Integers have no derivative: whatever depends on a parameter through them is flat.
            let float = |id: &ValueId| dag.values[id.index()].fact.dtype == Dtype::F32;
            node.outputs.iter().for_each(|id| needs[id.index()] = reached && float(id));
        }
        Self {
            forward_nodes: dag.nodes.len(),
            builder: DagBuilder::resume(dag),
            origin: Vec::new(),
            needs,
            cotangents: BTreeMap::new(),
            contributions: BTreeMap::new(),
            names: 0,
        }
    }

    /// Sums what has come for a node's result and hands it on to the operands.
    fn step(&mut self, id: NodeId) -> Result<(), GradError> {
        let node = self.builder.dag().node(id);
        let outputs = node.outputs.clone();
        if let Some(statistic) = outputs[1..].iter().find(|v| self.contributions.contains_key(v)) {
            let name = self.builder.dag().value(*statistic).name.clone();
            return Err(GradError::Auxiliary(name));
        }
        let (op, inputs, result) = (node.op.clone(), node.inputs.clone(), outputs[0]);
        if let Some(parts) = self.contributions.get(&result) {
            let parts: Vec<ValueId> = parts.iter().map(|part| part.value).collect();
            let whole = match parts.as_slice() {
                [only] => *only,
                _ => self.emit(id, Op::AddN, &parts)?,
            };
            self.cotangents.insert(result, whole);
        }
        match self.cotangents.get(&result) {
            Some(&g) => self.hand_on(&Site { id, op, inputs, result, outputs, g }),
            None => Ok(()),
        }
    }

    fn finish(self, loss: ValueId) -> Result<Training, GradError> {
        let dag = self.builder.finish()?;
        let mut gradients = Vec::new();
        for parameter in dag.parameters() {
            for (part, use_) in self.contributions.get(&parameter).into_iter().flatten().enumerate()
            {
                let part = u16::try_from(part)
                    .map_err(|_| GradError::Parts(dag.value(parameter).name.clone()))?;
                gradients.push(GradientPart { parameter, part, value: use_.value });
            }
        }
        Ok(Training {
            dag,
            forward_nodes: self.forward_nodes,
            origin: self.origin,
            loss,
            cotangents: self.cotangents,
            contributions: self.contributions,
            gradients,
        })
    }

    /// Says whether an operand of a node needs a gradient.
    fn wants(&self, site: &Site, operand: usize) -> bool {
        site.inputs.get(operand).is_some_and(|id| self.needs[id.index()])
    }

    /// Adds a contribution to the cotangent of an operand, unless it needs none.
    fn give(&mut self, site: &Site, operand: usize, value: ValueId) {
        if self.wants(site, operand) {
            let contribution = Contribution { consumer: site.id, value };
            self.contributions.entry(site.inputs[operand]).or_default().push(contribution);
        }
    }

    /// Adds a backward node that belongs to a forward node; returns its first result.
    fn emit(&mut self, origin: NodeId, op: Op, inputs: &[ValueId]) -> Result<ValueId, GradError> {
        Ok(self.emit_all(origin, op, inputs)?[0])
    }

    /// Adds a backward node that belongs to a forward node; returns its results.
    fn emit_all(
        &mut self,
        origin: NodeId,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, GradError> {
        let base = format!("{}'{}", self.builder.dag().node(origin).name, op.name());
        let mut name = base.clone();
        // The number grows over the whole pass, so that looking for a free name stays linear in all.
        while self.builder.has_name(&name) || self.builder.has_name(&format!("{name}#0")) {
            self.names += 1;
            name = format!("{base}{}", self.names);
        }
        let results = self.builder.apply(name, op, inputs)?;
        self.origin.push(origin);
        Ok(results)
    }

    fn shape(&self, id: ValueId) -> Vec<usize> {
        self.builder.fact(id).shape.clone()
    }

    /// Sums a cotangent down to the shape of the operand that was broadcast, if it was.
    fn sum_to(
        &mut self,
        site: &Site,
        operand: usize,
        value: ValueId,
    ) -> Result<ValueId, GradError> {
        let shape = self.shape(site.inputs[operand]);
        if self.builder.fact(value).shape == shape {
            return Ok(value);
        }
        self.emit(site.id, Op::SumTo { shape }, &[value])
    }
}
