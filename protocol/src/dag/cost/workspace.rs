//! Memory that an operator's kernel on a host needs beside its operands and results.
//!
//! Priced are buffers of the kernels in `models/src/exec/host` and `kernel` that grow with the operands; not the few
//! hundred bytes that any call takes. What threads need each stands apart, since peers differ in their number.
//! Our rule for operators that are written with several primitives of burn: as many results as are alive at once.

use super::geometry::{Geometry, TILE};
use crate::dag::op::{Gelu, Op};
use crate::dag::{Dtype, Fact};
use crate::units::Bytes;

/// Elements to which rows of tiles are filled up.
const LANES: u64 = 16;
/// Most weights that attention with masks or groups holds at once, unless one key head has more.
const WEIGHTS_MAX: u64 = 1 << 20;
/// Elements of a piece of rows in the loops of normalisations.
const PIECE: u64 = 1 << 14;
/// Columns that burn's convolution gathers at a time.
const BURN_TILE: u64 = 512;

/// What a kernel needs beside its operands and results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workspace {
    /// Whatever the number of threads.
    pub whole: Bytes,
    /// Each thread that has a part in it.
    pub thread: Bytes,
    /// Most threads that can have one.
    pub parts: u64,
}

impl Workspace {
    /// Returns what so many threads need together.
    pub fn on(self, threads: u64) -> Bytes {
        self.whole + self.thread * threads.min(self.parts)
    }

    fn floats(whole: u64) -> Self {
        Self { whole: floats(whole), ..Self::default() }
    }

    fn split(thread: u64, parts: u64) -> Self {
        Self { thread: floats(thread), parts, ..Self::default() }
    }

    fn and(self, more: u64) -> Self {
        Self { whole: self.whole + floats(more), ..self }
    }
}

fn floats(count: u64) -> Bytes {
    Bytes::new(count.saturating_mul(Dtype::F32.size() as u64))
}

/// Returns the workspace of one operator.
pub fn workspace(op: &Op, inputs: &[&Fact], outputs: &[&Fact]) -> Workspace {
    let count = |facts: &[&Fact], at: usize| facts.get(at).map_or(0, |fact| elements(fact));
    let (x, y, none) = (count(inputs, 0), count(outputs, 0), Workspace::default());
    match op {
        Op::Conv2d(conv) => {
            let shapes = [shape(inputs, 0), shape(inputs, 1), shape(outputs, 0)];
            of_convolution(tiled(shapes, conv), convolution, (x, shape(inputs, 1)), 0)
        }
        // burn's primitives are given an input or weights of which they read the shape, and turn operands round.
        Op::Conv2dInputGrad { conv, shape: of_x } => {
            let found = tiled([of_x, shape(inputs, 0), shape(inputs, 1)], conv);
            of_convolution(found, input_grad, (y, shape(inputs, 0)), y + count(inputs, 1))
        }
        Op::Conv2dWeightGrad { conv, shape: of_w } => {
            let found = tiled([shape(inputs, 0), of_w, shape(inputs, 1)], conv);
            of_convolution(found, weight_grad, (x, of_w), y + count(inputs, 1))
        }
        Op::Attention { .. } => attention(inputs, false),
        Op::AttentionGrad { .. } => attention(inputs, true),
        // The gates of all steps, copied out of the tensors; in the gradient, the hidden states before each step, too.
        Op::Lstm | Op::Gru => Workspace::floats(x),
        Op::LstmGrad | Op::GruGrad => {
            let all: u64 = inputs.iter().skip(1).map(|fact| elements(fact)).sum();
            Workspace::floats(all + count(inputs, 3) / 2)
        }
        Op::LayerNormGrad | Op::RmsNormGrad => {
            let width = last(inputs, 0, 1);
            Workspace::floats(x.div_ceil(PIECE).saturating_mul(2 * width))
        }
        Op::Dropout { rate, .. } if *rate > 0.0 => Workspace::floats(x),
        Op::Softmax { axis } | Op::SoftmaxGrad { axis } | Op::LogSoftmax { axis }
            if axis + 1 != shape(inputs, 0).len() =>
        {
            Workspace::floats(x)
        }
        Op::Gelu(Gelu::Erf) | Op::BatchNormInference { .. } => Workspace::floats(x),
        Op::GeluGrad(Gelu::Erf) => Workspace::floats(x.saturating_mul(2)),
        // The primitive is given an input, of which it reads the shape.
        Op::AvgPool2dGrad { .. } => Workspace::floats(y),
        Op::MatMul { .. }
        | Op::Linear
        | Op::LinearWeightGrad
        | Op::Embedding
        | Op::EmbeddingGrad { .. } => none,
        Op::Dropout { .. } | Op::Softmax { .. } | Op::SoftmaxGrad { .. } => none,
        Op::LogSoftmax { .. } | Op::CausalMask { .. } => none,
        Op::Gelu(Gelu::Tanh) | Op::GeluGrad(Gelu::Tanh) | Op::Relu | Op::ReluGrad => none,
        Op::CrossEntropy(_) | Op::CrossEntropyGrad(_) | Op::Rotary(_) => none,
        Op::LayerNorm { .. } | Op::RmsNorm { .. } => none,
        Op::BatchNorm { .. } | Op::BatchNormGrad { .. } => none,
        Op::MaxPool2d(_) | Op::MaxPool2dGrad(_) | Op::AvgPool2d(_) => none,
        Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Where | Op::Cast { .. } => none,
        Op::Iota { .. } | Op::Literal { .. } | Op::Fill { .. } => none,
        Op::Gather { .. } | Op::GatherGrad { .. } | Op::GatherElements { .. } => none,
        Op::ScatterElements { .. } | Op::TopK { .. } | Op::CumSum { .. } => none,
        Op::ReduceSum { .. } | Op::ReduceMean { .. } | Op::ReduceMax { .. } => none,
        Op::SumTo { .. } | Op::Scale { .. } | Op::Shift { .. } => none,
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::AddN => none,
        Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } => none,
        Op::Unslice { .. } | Op::Concat { .. } | Op::Expand { .. } => none,
    }
}

/// By tiles where these pay, else by burn with so much more.
fn of_convolution(
    found: Option<Geometry>,
    by_tiles: fn(&Geometry) -> Workspace,
    (x, w): (u64, &[usize]),
    more: u64,
) -> Workspace {
    found.map_or_else(|| burn_convolution(x, w).and(more), |g| by_tiles(&g))
}

fn elements(fact: &Fact) -> u64 {
    fact.shape.iter().fold(1, |total: u64, length| total.saturating_mul(wide_of(*length)))
}

const fn wide_of(length: usize) -> u64 {
    length as u64
}

fn wide(axis: usize) -> u64 {
    wide_of(TILE[axis])
}

fn shape<'a>(facts: &[&'a Fact], at: usize) -> &'a [usize] {
    facts.get(at).map_or(&[], |fact| &fact.shape)
}

/// Length of an operand's axis, counted from the right.
fn last(facts: &[&Fact], at: usize, from_right: usize) -> u64 {
    let shape = shape(facts, at);
    shape.len().checked_sub(from_right).map_or(1, |axis| wide_of(shape[axis]))
}

fn tiled([x, w, y]: [&[usize]; 3], conv: &crate::dag::op::Conv2d) -> Option<Geometry> {
    let &[_, _, height, width] = y else { return None };
    Geometry::tiled(x, w, [height, width], conv)
}

/// Numbers of a geometry, wide enough for any product of two of them.
struct Sizes {
    inner: u64,
    outer: u64,
    taps: u64,
    /// Outputs of a channel of all images.
    total: u64,
    /// Inputs of a channel of all images.
    input: u64,
    /// The laid images of one group; none where x lies as it has to.
    laid: u64,
}

impl Sizes {
    fn of(g: &Geometry) -> Self {
        let batch = wide_of(g.batch);
        let inner = g.inner / g.groups;
        let laid = wide_of(g.laid()).saturating_mul(wide_of(inner)).saturating_mul(batch) + wide(1);
        Self {
            inner: wide_of(inner),
            outer: wide_of(g.outer / g.groups),
            taps: wide_of(g.taps()),
            total: batch.saturating_mul(wide_of(g.columns())),
            input: batch.saturating_mul(wide_of(g.size[0] * g.size[1])),
            laid: if g.lies(inner) { 0 } else { laid },
        }
    }

    /// The patches of all images as a matrix.
    fn gathered(&self) -> u64 {
        (self.inner * self.taps).next_multiple_of(LANES).saturating_mul(self.total) + wide(1)
    }

    /// The weights of a group, in rows of whole lanes.
    fn padded(&self) -> u64 {
        (self.inner * self.taps).next_multiple_of(LANES).saturating_mul(self.outer)
    }
}

/// What is picked of the input (or of its gradient) where only every `stride`-th pixel is read.
fn picked(g: &Geometry) -> u64 {
    Sizes::of(g).total.saturating_mul(wide_of(g.inner))
}

fn convolution(g: &Geometry) -> Workspace {
    if let Some(small) = g.of_picked() {
        return convolution(&small).and(picked(g));
    }
    let s = Sizes::of(g);
    if g.is_worth_gathering() {
        let rows = s.outer.saturating_mul(s.total);
        return Workspace::floats(s.laid + s.gathered() + s.padded() + rows);
    }
    // All rows of weights, packed.
    let packed = s.outer.next_multiple_of(wide(0)).saturating_mul(s.inner * s.taps);
    Workspace::floats(s.laid + packed)
}

fn input_grad(g: &Geometry) -> Workspace {
    if let Some(small) = g.of_picked() {
        return input_grad(&small).and(picked(g));
    }
    let s = Sizes::of(g);
    if let Some(turned) = g.turned() {
        let weights = (s.inner * s.taps).saturating_mul(wide_of(g.outer));
        return convolution(&turned).and(weights);
    }
    let rows = s.outer.saturating_mul(s.total) + wide(1);
    let sums = s.inner.saturating_mul(s.input);
    if g.is_small() {
        /// Channels whose gradients of patches one thread has at a time.
        const CHANNELS: u64 = 16;
        let products = (s.inner.min(CHANNELS) * s.taps).saturating_mul(s.total);
        return Workspace::split(products, s.inner.div_ceil(CHANNELS)).and(rows + sums);
    }
    let products = (s.inner.min(wide(0)) * s.taps).saturating_mul(s.total);
    Workspace::split(products, s.inner.div_ceil(wide(0))).and(rows + sums)
}

fn weight_grad(g: &Geometry) -> Workspace {
    if let Some(small) = g.of_picked() {
        return weight_grad(&small).and(picked(g));
    }
    let s = Sizes::of(g);
    if g.is_worth_gathering() {
        let rows = s.outer.saturating_mul(s.total) + wide(1);
        return Workspace::floats(s.laid + s.gathered() + s.padded() + rows);
    }
    let columns = wide_of((g.out[0].max(1) - 1) * g.width() + g.out[1]);
    let line = columns.next_multiple_of(LANES);
    let lines = s.outer.saturating_mul(line).saturating_mul(wide_of(g.batch));
    // What is not laid has no room for a line's end, and is copied to get it.
    let longer = if s.laid == 0 && line != columns { s.inner.saturating_mul(s.input) } else { 0 };
    Workspace::floats(s.laid + lines + longer)
}

/// burn's own: the input and the weights with channels last, and some columns a thread.
fn burn_convolution(x: u64, w: &[usize]) -> Workspace {
    let of_w = |from: usize| w.iter().skip(from).fold(1u64, |n, l| n.saturating_mul(wide_of(*l)));
    Workspace::split(of_w(1).saturating_mul(BURN_TILE), u64::MAX).and(x.saturating_add(of_w(0)))
}

fn attention(inputs: &[&Fact], back: bool) -> Workspace {
    let plain = inputs.len() == if back { 4 } else { 3 }
        && shape(inputs, 0) == shape(inputs, 1)
        && shape(inputs, 0) == shape(inputs, 2);
    let (len, width) = (last(inputs, 0, 2), last(inputs, 0, 1));
    let all = |at: usize| inputs.get(at).map_or(0, |fact| elements(fact));
    if !plain {
        let (keys, width) = (last(inputs, 1, 2), last(inputs, 1, 1));
        let blocks = (all(1) / keys.max(1) / width.max(1)).max(1);
        let rows = all(0) / last(inputs, 0, 1).max(1);
        let weights = rows.saturating_mul(keys);
        let held = weights.min(WEIGHTS_MAX.max(weights / blocks));
        // Scores and weights, their cotangents, and what is joined of parts.
        let parts = if back { all(0) + all(1) + all(2) } else { all(0) };
        return Workspace::floats(held.saturating_mul(if back { 4 } else { 2 }) + parts);
    }
    let stride = len.next_multiple_of(LANES);
    let heads = all(0) / len.max(1) / width.max(1);
    // Keys turned (and values, going back), a few rows of weights, and a copy for what a tile's width reaches beyond.
    let (turned, rows) = if back { (2, 8) } else { (1, 1) };
    let each = (turned * width + rows * wide(0)).saturating_mul(stride)
        + len.saturating_mul(wide(1))
        + 2 * (len + width);
    // Going back, a head's gradients are made by themselves and joined.
    let joined = if back { 3 * all(0) } else { 0 };
    Workspace::split(each, heads).and(joined)
}
