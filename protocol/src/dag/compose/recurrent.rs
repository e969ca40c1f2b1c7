//! Recurrent layers: sequences through the fused operators, cells of other kinds step by step.
//!
//! Weights are laid out as PyTorch has them: `[gates H, I]` and `[gates H, H]`, gates of an LSTM in the order input,
//! forget, candidate, output, of a GRU reset, update, candidate. (ONNX has input, output, forget, candidate and update,
//! reset, candidate: its import reorders the rows.) Sequences are `[T, B, ..]`. A layer that reads backwards is one over
//! the flipped sequence, flipped back; two directions are two layers, joined along the last axis.

use super::{Built, Scope, layout};
use crate::dag::op::{Conv2d, Unary};
use crate::dag::{DagError, Op};
use crate::ids::ValueId;

/// Weights of one layer and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// `[gates H, I]`.
    pub input: ValueId,
    /// `[gates H, H]`.
    pub recurrent: ValueId,
    /// `[gates H]` each: of the input's product and of the recurrent one.
    pub biases: Option<[ValueId; 2]>,
}

/// What a layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Hidden state after each step, in the order of the input: `[T, B, H]`.
    pub hidden: ValueId,
    /// Hidden state after the last step taken: `[B, H]`.
    pub last: ValueId,
    /// Cell after the last step taken: `[B, H]`; of a GRU the hidden state again.
    pub cell: ValueId,
}

type Layer = Result<Sequence, DagError>;

/// Products of all steps with the input's weight `[rows, I]`, and these biases: `[T, B, rows]`.
fn fed(s: &mut Scope<'_>, x: ValueId, weight: ValueId, biases: &[ValueId]) -> Built {
    let product = Op::MatMul { transpose_a: false, transpose_b: true };
    let mut y = s.op(product, &[x, weight])?;
    if let Some((first, rest)) = biases.split_first() {
        let mut bias = *first;
        for other in rest {
            bias = s.add(bias, *other)?;
        }
        y = s.add(y, bias)?;
    }
    Ok(y)
}

fn zeros(s: &mut Scope<'_>, batch: usize, width: usize) -> Built {
    s.op(Op::Fill { shape: vec![batch, width], value: 0.0 }, &[])
}

fn flipped(s: &mut Scope<'_>, x: ValueId, axis: usize, backwards: bool) -> Built {
    if backwards { layout::flip(s, x, axis) } else { Ok(x) }
}

/// An LSTM layer over `x [T, B, I]`, from a hidden state and a cell `[B, H]` or zeros.
///
/// *Source*: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000. *Errors*: as
/// `DagBuilder::apply`, here and below.
pub fn lstm(
    s: &mut Scope<'_>,
    x: ValueId,
    weights: Weights,
    start: Option<[ValueId; 2]>,
    backwards: bool,
) -> Layer {
    let biases: Vec<ValueId> = weights.biases.into_iter().flatten().collect();
    let sums = fed(s, x, weights.input, &biases)?;
    lstm_of(s, sums, weights.recurrent, start, backwards)
}

/// The same over products with the input that have been taken before: `[T, B, 4 H]` with all biases.
pub fn lstm_of(
    s: &mut Scope<'_>,
    fed: ValueId,
    recurrent: ValueId,
    start: Option<[ValueId; 2]>,
    backwards: bool,
) -> Layer {
    let [steps, batch, rows] = s.sized(fed, "products [T, B, 4 H]")?;
    let width = rows / 4;
    let [h, c] = match start {
        Some(start) => start,
        None => [zeros(s, batch, width)?; 2],
    };
    let fed = flipped(s, fed, 0, backwards)?;
    let states = s.op(Op::Lstm, &[fed, recurrent, h, c])?;
    let half = |s: &mut Scope<'_>, at: usize| {
        let half = s.slice(states, 0, at, at + 1)?;
        s.reshape(half, &[steps, batch, width])
    };
    let hidden = half(s, 0)?;
    let last = last_of(s, hidden, [steps, batch, width])?;
    let cells = half(s, 1)?;
    let cell = last_of(s, cells, [steps, batch, width])?;
    Ok(Sequence { hidden: flipped(s, hidden, 0, backwards)?, last, cell })
}

fn last_of(s: &mut Scope<'_>, x: ValueId, [steps, batch, width]: [usize; 3]) -> Built {
    let last = s.slice(x, 0, steps - 1, steps)?;
    s.reshape(last, &[batch, width])
}

/// A GRU layer over `x [T, B, I]`, from a hidden state `[B, H]` or zeros; its reset gate applies after the candidate's
/// recurrent product, as in PyTorch.
///
/// *Source*: Cho et al. 2014, in the form of cuDNN.
pub fn gru(
    s: &mut Scope<'_>,
    x: ValueId,
    weights: Weights,
    start: Option<ValueId>,
    backwards: bool,
) -> Layer {
    let [rows, width] = s.sized(weights.recurrent, "a recurrent weight [3 H, H]")?;
    let (biases, of_candidate) = match weights.biases {
        Some([own, other]) => {
            // The parts of reset and update may join the input's; the candidate's stands within the reset.
            let fills = s.slice(other, 0, 0, 2 * width)?;
            let fills = s.op(Op::Unslice { axis: 0, start: 0, len: rows }, &[fills])?;
            (vec![own, fills], s.slice(other, 0, 2 * width, rows)?)
        }
        None => (vec![], s.op(Op::Fill { shape: vec![width], value: 0.0 }, &[])?),
    };
    let sums = fed(s, x, weights.input, &biases)?;
    gru_of(s, sums, [weights.recurrent, of_candidate], start, backwards)
}

/// The same over products with the input that have been taken before: `[T, B, 3 H]` with all biases but the candidate's
/// recurrent one, `[H]`, which stands beside the recurrent weight.
pub fn gru_of(
    s: &mut Scope<'_>,
    fed: ValueId,
    [recurrent, bias]: [ValueId; 2],
    start: Option<ValueId>,
    backwards: bool,
) -> Layer {
    let [steps, batch, rows] = s.sized(fed, "products [T, B, 3 H]")?;
    let width = rows / 3;
    let h = match start {
        Some(start) => start,
        None => zeros(s, batch, width)?,
    };
    let fed = flipped(s, fed, 0, backwards)?;
    let hidden = s.op(Op::Gru, &[fed, recurrent, bias, h])?;
    let last = last_of(s, hidden, [steps, batch, width])?;
    Ok(Sequence { hidden: flipped(s, hidden, 0, backwards)?, last, cell: last })
}

/// A GRU layer whose reset gate applies to the state before the candidate's product, step by step: the first form of
/// the paper, and ONNX's default.
///
/// *Source*: Cho et al. 2014, equations 5 to 8.
pub fn gru_reset_before(
    s: &mut Scope<'_>,
    x: ValueId,
    weights: Weights,
    start: Option<ValueId>,
    backwards: bool,
) -> Layer {
    let biases: Vec<ValueId> = weights.biases.into_iter().flatten().collect();
    let sums = fed(s, x, weights.input, &biases)?;
    let [steps, batch, rows] = s.sized(sums, "products [T, B, 3 H]")?;
    let width = rows / 3;
    let mut h = match start {
        Some(start) => start,
        None => zeros(s, batch, width)?,
    };
    let product = Op::MatMul { transpose_a: false, transpose_b: true };
    let of_gates = s.slice(weights.recurrent, 0, 0, 2 * width)?;
    let of_candidate = s.slice(weights.recurrent, 0, 2 * width, rows)?;
    let mut outputs = Vec::with_capacity(steps);
    for step in 0..steps {
        let at = if backwards { steps - 1 - step } else { step };
        let own = s.slice(sums, 0, at, at + 1)?;
        let own = s.reshape(own, &[batch, rows])?;
        let back = s.op(product.clone(), &[h, of_gates])?;
        let gates = s.slice(own, 1, 0, 2 * width)?;
        let gates = s.add(gates, back)?;
        let gates = s.unary(Unary::Sigmoid, gates)?;
        let (reset, update) = (s.slice(gates, 1, 0, width)?, s.slice(gates, 1, width, 2 * width)?);
        let kept = s.mul(reset, h)?;
        let back = s.op(product.clone(), &[kept, of_candidate])?;
        let candidate = s.slice(own, 1, 2 * width, rows)?;
        let candidate = s.add(candidate, back)?;
        let candidate = s.unary(Unary::Tanh, candidate)?;
        h = mixed(s, h, candidate, update)?;
        outputs.push(s.reshape(h, &[1, batch, width])?);
    }
    if backwards {
        outputs.reverse();
    }
    Ok(Sequence { hidden: s.concat(&outputs, 0)?, last: h, cell: h })
}

/// `(1 - z) n + z h = n + z (h - n)`.
fn mixed(s: &mut Scope<'_>, h: ValueId, candidate: ValueId, update: ValueId) -> Built {
    let gap = s.sub(h, candidate)?;
    let part = s.mul(update, gap)?;
    s.add(candidate, part)
}

/// Weight `[H, H + I, KH, KW]` and bias `[H]` of one gate of a convolutional GRU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGate {
    /// The weight, over the hidden state's channels, then the input's.
    pub weight: ValueId,
    /// The bias.
    pub bias: ValueId,
}

/// Gates of a convolutional GRU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGates {
    /// How much of the candidate is taken.
    pub update: ConvGate,
    /// How much of the hidden state the candidate sees.
    pub reset: ConvGate,
    /// The candidate.
    pub candidate: ConvGate,
}

/// One step of a convolutional GRU: `h [B, H, H', W'], x [B, I, H', W'] -> h`, `h' = (1 - z) h + z q`. Odd kernels;
/// the image keeps its size.
///
/// *Source*: Ballas et al. 2016; the form of Teed and Deng 2020 (RAFT), equations 2 to 5.
pub fn conv_gru(s: &mut Scope<'_>, h: ValueId, x: ValueId, gates: ConvGates) -> Built {
    let conv = |s: &mut Scope<'_>, parts: [ValueId; 2], gate: ConvGate| {
        let [_, _, height, width] = s.sized(gate.weight, "a weight [H, H + I, KH, KW]")?;
        let both = s.concat(&parts, 1)?;
        let padding = [height / 2, width / 2];
        let conv = Conv2d { stride: [1, 1], padding, dilation: [1, 1], groups: 1 };
        s.op(Op::Conv2d(conv), &[both, gate.weight, gate.bias])
    };
    let update = conv(s, [h, x], gates.update)?;
    let update = s.unary(Unary::Sigmoid, update)?;
    let reset = conv(s, [h, x], gates.reset)?;
    let reset = s.unary(Unary::Sigmoid, reset)?;
    let kept = s.mul(reset, h)?;
    let candidate = conv(s, [kept, x], gates.candidate)?;
    let candidate = s.unary(Unary::Tanh, candidate)?;
    mixed(s, candidate, h, update)
}

/// One step of a separable convolutional GRU: a pass with kernels of one row, then one with kernels of one column.
///
/// *Source*: Teed and Deng 2020 (RAFT), section 3.3 (1 x 5 and 5 x 1 kernels).
pub fn separable_conv_gru(
    s: &mut Scope<'_>,
    h: ValueId,
    x: ValueId,
    [along, across]: [ConvGates; 2],
) -> Built {
    let h = conv_gru(s, h, x, along)?;
    conv_gru(s, h, x, across)
}
