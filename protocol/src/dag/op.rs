//! The operators: one closed enum of plain data. What each computes is said here once; `shape`, `cost`,
//! `grad` and the executor's kernels each hold one rule an operator, and the compiler asks for all four.
//!
//! Shapes: B batch, T sequence, C channels, H height, W width, D head width; `..` any leading axes.
//! Element-wise operators broadcast as NumPy does (shapes aligned from the right, 1 stretches).
//! All floats are f32 unless the operator says otherwise. Masks are i32 of 0 and 1. Operators marked *any* move or
//! combine i32 as well as f32; only f32 has derivatives.

mod family;

use serde::{Deserialize, Serialize};

pub use family::{
    Binary, Comparison, Conv2d, Gelu, LITERAL_MAX, Numbers, Pool2d, Rotary, Targets, Unary,
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
    /// `q, k, v [.., T, D] -> [.., T, D]`: `softmax(scale q k^T + mask) v`, fused.
    Attention {
        /// Position t sees positions up to t only.
        causal: bool,
        /// Factor before the softmax.
        scale: f32,
    },
    /// `q, k, v, g [.., T, D] -> dq, dk, dv`: recomputes the weights instead of saving them.
    AttentionGrad {
        /// As in the forward operator.
        causal: bool,
        /// As in the forward operator.
        scale: f32,
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
}

impl Op {
    /// Returns the operator's name as text dumps and messages spell it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MatMul { .. } => "matmul",
            Self::Linear => "linear",
            Self::LinearWeightGrad => "linear_weight_grad",
            Self::Embedding => "embedding",
            Self::EmbeddingGrad { .. } => "embedding_grad",
            Self::Attention { .. } => "attention",
            Self::AttentionGrad { .. } => "attention_grad",
            Self::CausalMask { .. } => "causal_mask",
            Self::Softmax { .. } => "softmax",
            Self::SoftmaxGrad { .. } => "softmax_grad",
            Self::LayerNorm { .. } => "layer_norm",
            Self::LayerNormGrad => "layer_norm_grad",
            Self::BatchNorm { .. } => "batch_norm",
            Self::BatchNormGrad { .. } => "batch_norm_grad",
            Self::BatchNormInference { .. } => "batch_norm_inference",
            Self::Relu => "relu",
            Self::ReluGrad => "relu_grad",
            Self::Gelu(_) => "gelu",
            Self::GeluGrad(_) => "gelu_grad",
            Self::Dropout { .. } => "dropout",
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Scale { .. } => "scale",
            Self::Shift { .. } => "shift",
            Self::Unary(function) => function.name(),
            Self::Binary(function) => function.name(),
            Self::Compare(comparison) => comparison.name(),
            Self::Where => "where",
            Self::Cast { .. } => "cast",
            Self::Iota { .. } => "iota",
            Self::Literal { .. } => "literal",
            Self::Gather { .. } => "gather",
            Self::GatherGrad { .. } => "gather_grad",
            Self::GatherElements { .. } => "gather_elements",
            Self::ScatterElements { .. } => "scatter_elements",
            Self::TopK { .. } => "top_k",
            Self::CumSum { .. } => "cum_sum",
            Self::LogSoftmax { .. } => "log_softmax",
            Self::RmsNorm { .. } => "rms_norm",
            Self::RmsNormGrad => "rms_norm_grad",
            Self::Rotary(_) => "rotary",
            Self::AddN => "add_n",
            Self::Reshape { .. } => "reshape",
            Self::Transpose { .. } => "transpose",
            Self::Slice { .. } => "slice",
            Self::Unslice { .. } => "unslice",
            Self::Concat { .. } => "concat",
            Self::Expand { .. } => "expand",
            Self::SumTo { .. } => "sum_to",
            Self::ReduceSum { .. } => "reduce_sum",
            Self::ReduceMean { .. } => "reduce_mean",
            Self::ReduceMax { .. } => "reduce_max",
            Self::Conv2d(_) => "conv2d",
            Self::Conv2dInputGrad { .. } => "conv2d_input_grad",
            Self::Conv2dWeightGrad { .. } => "conv2d_weight_grad",
            Self::MaxPool2d(_) => "max_pool2d",
            Self::MaxPool2dGrad(_) => "max_pool2d_grad",
            Self::AvgPool2d(_) => "avg_pool2d",
            Self::AvgPool2dGrad { .. } => "avg_pool2d_grad",
            Self::CrossEntropy(_) => "cross_entropy",
            Self::CrossEntropyGrad(_) => "cross_entropy_grad",
            Self::Fill { .. } => "fill",
        }
    }
}
