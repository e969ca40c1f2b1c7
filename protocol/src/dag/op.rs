//! The operators: one closed enum of plain data. What each computes is said here once; `shape`, `cost`,
//! `grad` and the executor's kernels each hold one rule an operator, and the compiler asks for all four.
//!
//! Shapes: B batch, T sequence, C channels, H height, W width, D head width; `..` any leading axes.
//! Element-wise operators broadcast as NumPy does (shapes aligned from the right, 1 stretches).
//! All floats are f32 unless the operator says otherwise. Masks are i32 of 0 and 1. Operators marked *any* move or
//! combine i32 as well as f32; only f32 has derivatives.

mod every;
mod family;
mod name;

use serde::{Deserialize, Serialize};

pub use every::every;
pub(crate) use every::plain;
pub use family::{
    Binary, Comparison, Conv2d, Gelu, HIDDEN, LITERAL_MAX, Numbers, Pool2d, Rotary, Targets, Unary,
};

use super::Dtype;

/// One operator with its static settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// `a [.., M, K], b [.., K, N] -> [.., M, N]`; leading axes broadcast. A flag swaps that operand's last two axes first.
    MatMul {
        /// Read `a` as `[.., K, M]`.
        transpose_a: bool,
        /// Read `b` as `[.., N, K]`.
        transpose_b: bool,
    },
    /// `x [.., I], w [I, O], (bias [O]) -> [.., O]`.
    Linear,
    /// `x [.., I], g [.., O] -> [I, O]`: the weight gradient of `Linear`, summed over leading axes.
    LinearWeightGrad,
    /// `table [V, C], ids i32 [..] -> [.., C]`.
    Embedding,
    /// `ids i32 [..], g [.., C] -> [rows, C]`: rows summed in the order of `ids`.
    EmbeddingGrad {
        /// Rows of the table.
        rows: usize,
    },
    /// `q [.., H, T, D], k [.., G, S, D], v [.., G, S, E], (mask) -> [.., H, T, E]`: `softmax(scale q k^T + mask) v`,
    /// fused. G divides H: H / G query heads in a row read one head of k and v, which is not copied for them; with two
    /// axes there is one head. The mask is f32 and broadcasts to `[.., H, T, S]`; at [`HIDDEN`] or less it hides a
    /// position, and a query from which all are hidden gives 0.
    Attention {
        /// Position t sees positions up to t only, counted from the first also where T and S differ (as PyTorch and
        /// ONNX have it).
        causal: bool,
        /// Factor before the softmax.
        scale: f32,
    },
    /// `q, k, v, (mask), g -> dq, dk, dv, (dmask)`: recomputes the weights instead of saving them.
    AttentionGrad {
        /// As in the forward operator.
        causal: bool,
        /// As in the forward operator.
        scale: f32,
        /// The mask gets a gradient too.
        mask_grad: bool,
    },
    /// `x [.., T, T] -> [.., T, T]`: entries above the diagonal replaced by `fill`.
    CausalMask {
        /// The replacement: minus infinity before a softmax, zero in the gradient.
        fill: f32,
    },
    /// `x -> same`: exponentials over one axis, scaled to sum 1.
    Softmax {
        /// The axis.
        axis: usize,
    },
    /// `y, g -> same`: gradient of `Softmax` from its output.
    SoftmaxGrad {
        /// The axis.
        axis: usize,
    },
    /// `x [.., C], gain [C], bias [C] -> y [.., C], mean [..], rstd [..]` over the last axis (biased variance).
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// `x, gain, mean, rstd, g -> dx, dgain, dbias`.
    LayerNormGrad,
    /// `x [B, C, H, W], gain [C], bias [C] -> y, mean [C], var [C]` with the batch's own statistics (y uses the
    /// biased variance; the returned `var` is unbiased, for the running statistics, as PyTorch keeps them).
    BatchNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// `x, gain, g -> dx, dgain, dbias`: recomputes the statistics.
    BatchNormGrad {
        /// As in the forward operator.
        eps: f32,
    },
    /// `x [B, C, H, W], gain, bias, mean, var [C] -> same`: with running statistics.
    BatchNormInference {
        /// Added to the variance.
        eps: f32,
    },
    /// `x -> max(x, 0)`.
    Relu,
    /// `y, g -> g where y > 0, else 0`.
    ReluGrad,
    /// `x -> same`.
    Gelu(Gelu),
    /// `x, g -> same`.
    GeluGrad(Gelu),
    /// `x -> x * mask / (1 - rate)`; the mask is drawn from (job seed, step, micro-batch, stream), so the same
    /// operator applied to the cotangent is its VJP, and a redone step repeats it.
    Dropout {
        /// Share of elements dropped, in [0, 1).
        rate: f32,
        /// Which random stream; unique among the dropouts of a Dag.
        stream: u32,
    },
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`.
    Div,
    /// `x * factor`.
    Scale {
        /// The factor.
        factor: f32,
    },
    /// `x + term`.
    Shift {
        /// The term.
        term: f32,
    },
    /// `x -> f(x)`, element by element.
    Unary(Unary),
    /// `a, b -> f(a, b)`, element by element, broadcasting.
    Binary(Binary),
    /// `a, b -> i32 mask`, broadcasting; *any*.
    Compare(Comparison),
    /// `mask i32, a, b -> a where the mask is not 0, else b`, broadcasting; *any*.
    Where,
    /// `x -> x as another dtype`; f32 to i32 drops the fraction. *any*.
    Cast {
        /// f32 or i32.
        dtype: Dtype,
    },
    /// `-> i32 shape`: each element is its own place along an axis.
    Iota {
        /// The shape.
        shape: Vec<usize>,
        /// The axis.
        axis: usize,
    },
    /// `-> shape`: numbers that are part of the network; at most [`LITERAL_MAX`].
    Literal {
        /// The shape.
        shape: Vec<usize>,
        /// The numbers.
        numbers: Numbers,
    },
    /// `x [.., N, ..], ids i32 [one axis or more] -> x with the axis replaced by the shape of ids`; *any*.
    Gather {
        /// The axis of length N.
        axis: usize,
    },
    /// `ids, g -> x`: g summed into zeros where `Gather` read, in the order of ids. The VJP of `Gather`.
    GatherGrad {
        /// As in the forward operator.
        axis: usize,
        /// Length N of the axis in x.
        len: usize,
    },
    /// `x, ids i32 (same rank) -> shape of ids`: along the axis x is read at ids, elsewhere at the element's own
    /// place; ids may be shorter on the other axes. *any*.
    GatherElements {
        /// The axis.
        axis: usize,
    },
    /// `x, ids i32, updates (shape of ids) -> x with updates written where GatherElements would read`, in row-major
    /// order: of several writes to one place the last counts. *any*.
    ScatterElements {
        /// The axis.
        axis: usize,
        /// Add to what is there instead of replacing it.
        add: bool,
    },
    /// `x [.., N, ..] -> values, places i32 [.., k, ..]`: the k largest along an axis, largest first, of equal ones
    /// the earlier first; NaN counts as the largest.
    TopK {
        /// The axis.
        axis: usize,
        /// How many.
        k: usize,
        /// The smallest instead, smallest first.
        smallest: bool,
    },
    /// `x -> same`: running sums along an axis.
    CumSum {
        /// The axis.
        axis: usize,
        /// Each element's own value is left out.
        exclusive: bool,
        /// From the end to the beginning.
        reverse: bool,
    },
    /// `x -> ln softmax x` over one axis.
    LogSoftmax {
        /// The axis.
        axis: usize,
    },
    /// `x [.., C], gain [C] -> y [.., C], rstd [..]`: x over its root mean square along the last axis, times gain.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// `x, gain, rstd, g -> dx, dgain`.
    RmsNormGrad,
    /// `x [.., T, D] -> same`: rotary position embedding. Pair i of D/2 turns by `t / theta^(2 i / D)`.
    Rotary(Rotary),
    /// `x_0, .. x_n -> their sum`, added from left to right; equal shapes. Sums the cotangents of a fan-out.
    AddN,
    /// `x -> shape`, same elements.
    Reshape {
        /// The new shape.
        shape: Vec<usize>,
    },
    /// `x -> axes reordered`: output axis i is input axis `perm[i]`.
    Transpose {
        /// The order.
        perm: Vec<usize>,
    },
    /// `x -> x[.., start..end, ..]` along one axis.
    Slice {
        /// The axis.
        axis: usize,
        /// First kept index.
        start: usize,
        /// One past the last kept index.
        end: usize,
    },
    /// `x -> zeros of length `len` along `axis` with x at `start`: the VJP of `Slice`.
    Unslice {
        /// The axis.
        axis: usize,
        /// Where x lies.
        start: usize,
        /// Length of the axis in the result.
        len: usize,
    },
    /// `x_0, .. x_n -> joined along one axis`.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// `x -> x stretched to shape` by broadcasting.
    Expand {
        /// The new shape.
        shape: Vec<usize>,
    },
    /// `x -> shape`: sums over the axes along which `shape` would broadcast to x. The VJP of broadcasting.
    SumTo {
        /// The new shape.
        shape: Vec<usize>,
    },
    /// `x -> sum over axes`.
    ReduceSum {
        /// The axes, ascending.
        axes: Vec<usize>,
        /// Keep them with length 1.
        keep: bool,
    },
    /// `x -> mean over axes`.
    ReduceMean {
        /// The axes, ascending.
        axes: Vec<usize>,
        /// Keep them with length 1.
        keep: bool,
    },
    /// `x -> maximum over axes`; the cotangent is shared among equal maxima.
    ReduceMax {
        /// The axes, ascending.
        axes: Vec<usize>,
        /// Keep them with length 1.
        keep: bool,
    },
    /// `x [B, C, H, W], w [O, C/groups, KH, KW], (bias [O]) -> [B, O, H', W']`.
    Conv2d(Conv2d),
    /// `w, g -> dx [B, C, H, W]`.
    Conv2dInputGrad {
        /// As in the forward operator.
        conv: Conv2d,
        /// Shape of x.
        shape: [usize; 4],
    },
    /// `x, g -> dw`.
    Conv2dWeightGrad {
        /// As in the forward operator.
        conv: Conv2d,
        /// Shape of w.
        shape: [usize; 4],
    },
    /// `x [B, C, H, W] -> [B, C, H', W']`.
    MaxPool2d(Pool2d),
    /// `x, g -> dx`: to the first maximum of each window in row-major order.
    MaxPool2dGrad(Pool2d),
    /// `x [B, C, H, W] -> [B, C, H', W']`.
    AvgPool2d(Pool2d),
    /// `g -> dx`.
    AvgPool2dGrad {
        /// As in the forward operator.
        pool: Pool2d,
        /// Shape of x.
        shape: [usize; 4],
    },
    /// `logits [.., V], targets i32 [..] -> scalar`: mean negative log-likelihood, in nats.
    CrossEntropy(Targets),
    /// `logits, targets, g scalar -> dlogits`.
    CrossEntropyGrad(Targets),
    /// `-> shape`, every element `value`.
    Fill {
        /// The shape.
        shape: Vec<usize>,
        /// The value.
        value: f32,
    },
    /// `fed [T, B, 4 H], recurrent [4 H, H], h [B, H], c [B, H] -> states [2, T, B, H], gates [T, B, 4 H]`: a long
    /// short-term memory over a whole sequence. States are the hidden ones, then the cell's; gates stand in the order
    /// input, forget, candidate, output (PyTorch's), and are kept for the gradient. `fed` is `x W^T` with all biases.
    Lstm,
    /// `recurrent, h, c, states, gates, g [2, T, B, H] -> dfed, drecurrent, dh, dc`: back through time.
    LstmGrad,
    /// `fed [T, B, 3 H], recurrent [3 H, H], bias [H], h [B, H] -> y [T, B, H], gates [T, B, 4 H]`: gated recurrent
    /// units over a whole sequence, `n = tanh(fed_n + r (h U_n^T + bias))`, `h' = (1 - z) n + z h`: the reset gate
    /// applies after the product (PyTorch; `linear_before_reset` in ONNX). Rows stand in the order reset, update,
    /// candidate; gates are those and the candidate's recurrent part, kept for the gradient.
    Gru,
    /// `recurrent, h, y, gates, g [T, B, H] -> dfed, drecurrent, dbias, dh`: back through time.
    GruGrad,
}
