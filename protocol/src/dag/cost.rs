//! What operators cost: arithmetic, and bytes of parameters, results and crossing edges.
//!
//! The scheduler, the simulator, `plan` and `inspect` all print these numbers. A multiply-add counts two operations,
//! an exponential or another transcendental [`TRANSCENDENTAL`]; moving data counts none. Costs are additive over a cut:
//! the stages' arithmetic sums to the network's, because a split sum of cotangents has as many additions as a whole one.

pub mod geometry;
pub mod rule;
pub mod workspace;

use std::collections::BTreeSet;

use super::cut::{Program, StageGraph};
use super::grad::Training;
use super::op::Binary;
use super::{Dag, Fact, Op, Source};
use crate::ids::{NodeId, ValueId};
use crate::units::{Bytes, Flops};

/// Operations that one exponential, logarithm, root, tanh or erf is taken for: our rule, near what vector code needs.
pub const TRANSCENDENTAL: u64 = 8;

/// What one node costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Arithmetic.
    pub flops: Flops,
    /// Parameters that it reads.
    pub parameter_bytes: Bytes,
    /// Its results.
    pub output_bytes: Bytes,
}

/// What one stage costs, per micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageCost {
    /// Arithmetic of the forward sub-DAG.
    pub forward: Flops,
    /// Arithmetic of the backward sub-DAG.
    pub backward: Flops,
    /// Parameters, once (not their gradients nor the optimizer's state).
    pub parameter_bytes: Bytes,
    /// Values kept from the forward to the backward pass of one micro-batch.
    pub saved_bytes: Bytes,
    /// Dense activations sent to other stages.
    pub sent_bytes: Bytes,
    /// Dense activations received from other stages.
    pub received_bytes: Bytes,
    /// Dense cotangents sent back.
    pub cotangent_sent_bytes: Bytes,
    /// Dense cotangents received.
    pub cotangent_received_bytes: Bytes,
}

/// What a whole network costs, per micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCost {
    /// Trained numbers.
    pub parameters: u64,
    /// Parameters, once.
    pub parameter_bytes: Bytes,
    /// Arithmetic of the forward pass.
    pub forward: Flops,
    /// Arithmetic of the backward pass.
    pub backward: Flops,
    /// Values kept from the forward to the backward pass of one micro-batch.
    pub saved_bytes: Bytes,
}

/// Returns the arithmetic of one operator; [`rule`] says each operator's rule in words.
pub fn flops(op: &Op, inputs: &[&Fact], outputs: &[&Fact]) -> Flops {
    let x = inputs.first().map_or(0, |fact| elements(fact));
    let y = outputs.first().map_or(0, |fact| elements(fact));
    let each = |operations: u64, count: u64| Flops::new(operations.saturating_mul(count));
    match op {
        Op::MatMul { transpose_a, .. } => {
            each(2, y) * axis(inputs, 0, if *transpose_a { 2 } else { 1 })
        }
        Op::Linear => each(2, y) * axis(inputs, 0, 1) + each(u64::from(inputs.len() > 2), y),
        Op::LinearWeightGrad => each(2, x) * axis(inputs, 1, 1),
        Op::EmbeddingGrad { .. } => each(1, inputs.get(1).map_or(0, |g| elements(g))),
        Op::Attention { causal, .. } => {
            let mask = u64::from(inputs.len() > 3);
            attention(inputs, *causal, [2, 2], TRANSCENDENTAL + 4 + mask)
        }
        Op::AttentionGrad { causal, .. } => {
            let mask = 2 * u64::from(inputs.len() > 4);
            attention(inputs, *causal, [6, 4], TRANSCENDENTAL + 8 + mask)
        }
        Op::Lstm => recurrent(inputs.first(), inputs.get(1), 2, 5 * TRANSCENDENTAL + 12),
        Op::Gru => recurrent(inputs.first(), inputs.get(1), 2, 3 * TRANSCENDENTAL + 12),
        Op::LstmGrad | Op::GruGrad => {
            recurrent(outputs.first(), inputs.first(), 4, TRANSCENDENTAL + 24)
        }
        Op::Softmax { .. } | Op::LogSoftmax { .. } => each(TRANSCENDENTAL + 4, x),
        Op::CrossEntropy(_) | Op::CrossEntropyGrad(_) => each(TRANSCENDENTAL + 4, x),
        Op::SoftmaxGrad { .. } | Op::BatchNormInference { .. } => each(4, x),
        Op::LayerNorm { .. } | Op::BatchNorm { .. } => each(8, x),
        Op::LayerNormGrad | Op::BatchNormGrad { .. } => each(16, x),
        Op::Gelu(_) => each(TRANSCENDENTAL + 6, x),
        Op::GeluGrad(_) => each(TRANSCENDENTAL + 12, x),
        Op::Unary(function) if function.is_transcendental() => each(TRANSCENDENTAL, x),
        Op::Unary(_) => each(1, x),
        Op::Binary(Binary::Pow | Binary::Atan2) => each(TRANSCENDENTAL, y),
        Op::Binary(Binary::Max | Binary::Min | Binary::Remainder) => each(1, y),
        Op::Compare(_) | Op::Where | Op::Cast { .. } => each(1, y),
        Op::GatherGrad { .. } => each(1, inputs.get(1).map_or(0, |g| elements(g))),
        Op::ScatterElements { .. } => each(1, inputs.get(2).map_or(0, |u| elements(u))),
        // A selection of k by insertion looks at each element and moves few.
        Op::TopK { .. } => each(TRANSCENDENTAL, x),
        Op::CumSum { .. } | Op::ReduceMax { .. } => each(1, x),
        Op::RmsNorm { .. } => each(6, x),
        Op::RmsNormGrad => each(12, x),
        // Four products and two sums a pair; the angles are shared by all rows.
        Op::Rotary(_) => each(3, x),
        Op::Relu | Op::ReluGrad | Op::Scale { .. } | Op::Shift { .. } => each(1, y),
        Op::Add | Op::Sub | Op::Mul | Op::Div => each(1, y),
        // Drawing the mask is a hash of the element's counter.
        Op::Dropout { .. } => each(TRANSCENDENTAL, x),
        Op::AddN => each(1, y) * (inputs.len() as u64).saturating_sub(1),
        Op::SumTo { .. } | Op::ReduceSum { .. } | Op::ReduceMean { .. } => each(1, x),
        Op::Conv2d(_) => each(2, y) * taps(inputs, 1) + each(u64::from(inputs.len() > 2), y),
        Op::Conv2dInputGrad { .. } => {
            each(2, inputs.get(1).map_or(0, |g| elements(g))) * taps(inputs, 0)
        }
        Op::Conv2dWeightGrad { shape, .. } => {
            each(2, inputs.get(1).map_or(0, |g| elements(g))) * product(&shape[1..])
        }
        Op::MaxPool2d(pool) | Op::AvgPool2d(pool) => each(1, y) * product(&pool.kernel),
        Op::MaxPool2dGrad(pool) => {
            each(1, inputs.get(1).map_or(0, |g| elements(g))) * product(&pool.kernel)
        }
        Op::AvgPool2dGrad { pool, .. } => each(1, x) * product(&pool.kernel),
        Op::Gather { .. } | Op::GatherElements { .. } => Flops::ZERO,
        Op::Iota { .. } | Op::Literal { .. } => Flops::ZERO,
        Op::Embedding | Op::CausalMask { .. } | Op::Fill { .. } => Flops::ZERO,
        Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } => Flops::ZERO,
        Op::Unslice { .. } | Op::Concat { .. } | Op::Expand { .. } => Flops::ZERO,
    }
}

/// What an operator spends its time in: the kinds run at very different speeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// Matrix products.
    Products,
    /// Fused attention.
    Attention,
    /// Gradients of fused attention.
    AttentionGrads,
    /// Recurrences over a sequence.
    Recurrence,
    /// Convolutions.
    Convolutions,
    /// Gradients of convolutions.
    ConvolutionGrads,
    /// Norms along rows, softmax and losses: several sweeps over the data.
    Norms,
    /// Norms of channels, and pools: sweeps over images.
    ChannelNorms,
    /// Element by element, and sums over axes.
    Elements,
    /// Data that moves: copies, gathers.
    Moves,
    /// Only names change; no data moves.
    Names,
}

/// Returns the kind of an operator.
pub fn unit(op: &Op) -> Unit {
    match op {
        Op::MatMul { .. } | Op::Linear | Op::LinearWeightGrad => Unit::Products,
        Op::Attention { .. } => Unit::Attention,
        Op::AttentionGrad { .. } => Unit::AttentionGrads,
        Op::Lstm | Op::LstmGrad | Op::Gru | Op::GruGrad => Unit::Recurrence,
        Op::Conv2d(_) => Unit::Convolutions,
        Op::Conv2dInputGrad { .. } | Op::Conv2dWeightGrad { .. } => Unit::ConvolutionGrads,
        Op::Softmax { .. }
        | Op::SoftmaxGrad { .. }
        | Op::LogSoftmax { .. }
        | Op::CrossEntropy(_)
        | Op::CrossEntropyGrad(_)
        | Op::LayerNorm { .. }
        | Op::LayerNormGrad
        | Op::RmsNorm { .. }
        | Op::RmsNormGrad
        | Op::TopK { .. } => Unit::Norms,
        Op::BatchNorm { .. }
        | Op::BatchNormGrad { .. }
        | Op::MaxPool2d(_)
        | Op::MaxPool2dGrad(_)
        | Op::AvgPool2d(_)
        | Op::AvgPool2dGrad { .. } => Unit::ChannelNorms,
        Op::BatchNormInference { .. }
        | Op::Gelu(_)
        | Op::GeluGrad(_)
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Compare(_)
        | Op::Where
        | Op::Cast { .. }
        | Op::Rotary(_)
        | Op::Relu
        | Op::ReluGrad
        | Op::Scale { .. }
        | Op::Shift { .. }
        | Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Div
        | Op::Dropout { .. }
        | Op::AddN
        | Op::CumSum { .. }
        | Op::SumTo { .. }
        | Op::ReduceSum { .. }
        | Op::ReduceMean { .. }
        | Op::ReduceMax { .. }
        | Op::CausalMask { .. } => Unit::Elements,
        Op::Embedding
        | Op::EmbeddingGrad { .. }
        | Op::Gather { .. }
        | Op::GatherGrad { .. }
        | Op::GatherElements { .. }
        | Op::ScatterElements { .. }
        | Op::Iota { .. }
        | Op::Literal { .. }
        | Op::Fill { .. }
        | Op::Transpose { .. }
        | Op::Slice { .. }
        | Op::Unslice { .. }
        | Op::Concat { .. }
        | Op::Expand { .. } => Unit::Moves,
        Op::Reshape { .. } => Unit::Names,
    }
}

/// So many operations for each channel of q and k, of v, and for the weight, at each pair of a query and a key.
fn attention(
    inputs: &[&Fact],
    causal: bool,
    [of_keys, of_values]: [u64; 2],
    of_weight: u64,
) -> Flops {
    let q = inputs.first().map_or(0, |fact| elements(fact));
    let (queries, depth) = (axis(inputs, 0, 2).max(1), axis(inputs, 0, 1).max(1));
    let (keys, width) = (axis(inputs, 1, 2), axis(inputs, 2, 1));
    let twice_seen = match (causal, queries <= keys) {
        (false, _) => queries.saturating_mul(keys).saturating_mul(2),
        (true, true) => queries.saturating_mul(queries),
        (true, false) => keys.saturating_mul(2 * queries - keys),
    };
    let each = of_keys
        .saturating_mul(depth)
        .saturating_add(of_values.saturating_mul(width))
        .saturating_add(of_weight);
    let heads = q / depth / queries;
    Flops::new(heads.saturating_mul(twice_seen).saturating_mul(each) / 2)
}

/// A product with the recurrent weight `[gates H, H]` at each step of `fed [T, B, gates H]`, and the gates.
fn recurrent(fed: Option<&&Fact>, weight: Option<&&Fact>, products: u64, of_gates: u64) -> Flops {
    let fed = fed.map_or(0, |fact| elements(fact));
    let (rows, width) = match weight.map(|fact| fact.shape.as_slice()) {
        Some([rows, width]) => ((*rows).max(1) as u64, *width as u64),
        _ => (1, 0),
    };
    let hidden = (fed / rows).saturating_mul(width);
    let dense = fed.saturating_mul(width).saturating_mul(products);
    Flops::new(dense.saturating_add(hidden.saturating_mul(of_gates)))
}

/// Returns the length of an operand's axis, counted from the right (1 is the last).
fn axis(inputs: &[&Fact], operand: usize, from_right: usize) -> u64 {
    let shape = inputs.get(operand).map_or(&[][..], |fact| &fact.shape);
    shape.len().checked_sub(from_right).map_or(1, |i| shape[i] as u64)
}

/// Returns the number of weights behind one output element of a convolution.
fn taps(inputs: &[&Fact], weight: usize) -> u64 {
    inputs.get(weight).and_then(|w| w.shape.get(1..)).map_or(0, product)
}

fn elements(fact: &Fact) -> u64 {
    product(&fact.shape)
}

fn product(lengths: &[usize]) -> u64 {
    lengths.iter().fold(1, |total: u64, length| total.saturating_mul(*length as u64))
}

/// Returns the arithmetic of one node.
pub fn node_cost(dag: &Dag, id: NodeId) -> Flops {
    let node = dag.node(id);
    let inputs: Vec<&Fact> = node.inputs.iter().map(|v| dag.fact(*v)).collect();
    let outputs: Vec<&Fact> = node.outputs.iter().map(|v| dag.fact(*v)).collect();
    flops(&node.op, &inputs, &outputs)
}

/// Returns everything that one node costs.
pub fn cost(dag: &Dag, id: NodeId) -> Cost {
    let node = dag.node(id);
    let is_parameter = |v: &ValueId| matches!(dag.value(*v).source, Source::Parameter { .. });
    let parameters: BTreeSet<ValueId> = node.inputs.iter().copied().filter(is_parameter).collect();
    Cost {
        flops: node_cost(dag, id),
        parameter_bytes: parameters.iter().map(|v| dag.fact(*v).bytes()).sum(),
        output_bytes: node.outputs.iter().map(|v| dag.fact(*v).bytes()).sum(),
    }
}

/// Returns what one stage costs.
pub fn stage_cost(stage: &StageGraph) -> StageCost {
    let bytes = |ids: &[ValueId]| ids.iter().map(|id| stage.values[id].fact.bytes()).sum();
    let sent = stage.sends.iter().map(|(_, edge)| edge);
    let received = stage.receives.iter().map(|(_, edge)| edge);
    StageCost {
        forward: program_cost(stage, &stage.forward),
        backward: program_cost(stage, &stage.backward),
        parameter_bytes: bytes(&stage.parameters),
        saved_bytes: bytes(&stage.saved),
        sent_bytes: sent.clone().map(|e| e.fact.bytes()).sum(),
        received_bytes: received.clone().map(|e| e.fact.bytes()).sum(),
        cotangent_sent_bytes: received
            .filter(|e| e.cotangent.is_some())
            .map(|e| e.fact.bytes())
            .sum(),
        cotangent_received_bytes: sent
            .filter(|e| e.cotangent.is_some())
            .map(|e| e.fact.bytes())
            .sum(),
    }
}

fn program_cost(stage: &StageGraph, program: &Program) -> Flops {
    let facts =
        |ids: &[ValueId]| -> Vec<&Fact> { ids.iter().map(|id| &stage.values[id].fact).collect() };
    program.nodes.iter().fold(Flops::ZERO, |total, node| {
        total + flops(&node.op, &facts(&node.inputs), &facts(&node.outputs))
    })
}

/// Returns what a whole network costs, run in one place.
pub fn network_cost(training: &Training) -> NetworkCost {
    let dag = &training.dag;
    let sum = |ids: &mut dyn Iterator<Item = NodeId>| {
        ids.fold(Flops::ZERO, |total, id| total + node_cost(dag, id))
    };
    NetworkCost {
        parameters: dag.parameter_count(),
        parameter_bytes: dag.parameters().map(|p| dag.fact(p).bytes()).sum(),
        forward: sum(&mut dag.node_ids().take(training.forward_nodes)),
        backward: sum(&mut dag.node_ids().skip(training.forward_nodes)),
        saved_bytes: training.saved().iter().map(|v| dag.fact(*v).bytes()).sum(),
    }
}
