//! Whose code computes each operator, on hosts and on GPUs, and why where it is not burn's; and which of them bring data
//! over from host memory, or wait for the device: for `docs/reference/operators.md`.

use wattle_protocol::dag::op::{Binary, Gelu, Op, Unary};

/// A primitive of burn on every device.
const BURN: &str = "burn's primitive";
/// Ours where a loop over plain memory takes fewer passes.
const LOOP: &str = "host: our loop in few passes; GPU: burn's primitives";
/// Products.
const PRODUCT: &str = "host: faer's product (burn's fills and copies its result first), burn's where leading axes are \
     broadcast; GPU: burn's product; leading axes joined to one tall product where the right side is a matrix";
/// Attention in one operator.
const ATTENTION: &str = "on hosts our register tiles, a few rows of weights at a time; with a mask, other key lengths or \
     grouped heads, and on GPUs, burn's products; burn's own attention has no gradient of its own";
/// Convolution.
const CONVOLUTION: &str = "host: our register tiles (burn's took 3 to 4 times PyTorch's time), burn's where groups have \
     fewer than 4 outputs; GPU: burn's primitives";
/// Recurrent layers.
const RECURRENT: &str = "burn's product at each step; gates: our loop on hosts, burn's primitives on GPUs; burn has no \
     such primitive";

/// Returns what is to be said of an operator's kernels.
pub const fn kernels(op: &Op) -> &'static str {
    match op {
        Op::Linear => "host: faer's product, over the bias; GPU: burn's product",
        Op::MatMul { .. } | Op::LinearWeightGrad => PRODUCT,
        Op::Embedding | Op::EmbeddingGrad { .. } => {
            "host: our loop, which checks ids and sums in their order; GPU: burn's select"
        }
        Op::Attention { .. } | Op::AttentionGrad { .. } => ATTENTION,
        Op::CausalMask { .. } => {
            "host: our loop; GPU: burn's mask of a triangle, without infinities"
        }
        Op::Softmax { .. } | Op::SoftmaxGrad { .. } | Op::LogSoftmax { .. } => {
            "host, last axis: our loop (burn's exponential is scalar); else burn's maximum, exponential, sum"
        }
        Op::Lstm | Op::LstmGrad | Op::Gru | Op::GruGrad => RECURRENT,
        Op::LayerNorm { .. } | Op::LayerNormGrad | Op::RmsNorm { .. } | Op::RmsNormGrad => LOOP,
        Op::BatchNorm { .. } | Op::BatchNormGrad { .. } => LOOP,
        Op::BatchNormInference { .. } => "burn's primitives",
        Op::Relu => "host: our loop; GPU: burn's primitive",
        Op::ReluGrad => "host: our loop; GPU: burn's mask",
        Op::Gelu(Gelu::Tanh) | Op::GeluGrad(Gelu::Tanh) => {
            "tanh form on hosts: our loop (burn's tanh is scalar); GPU: burn's primitives"
        }
        Op::Gelu(Gelu::Erf) | Op::GeluGrad(Gelu::Erf) => "erf form: burn's error function",
        Op::Dropout { .. } => {
            "our mask, a hash of seed, step, micro-batch and place, equal on every device"
        }
        Op::Unary(Unary::Asin | Unary::Acos) => {
            "asin, acos on hosts: the standard library; GPU: by the arc tangent of two numbers, since shaders' own are off by 1e-4"
        }
        Op::Unary(Unary::Round) => {
            "round on hosts: the standard library; GPU: by floor, since shaders round halves as they like"
        }
        Op::Unary(_) => BURN,
        Op::Binary(Binary::Pow | Binary::Atan2) => {
            "pow, atan2 on hosts: the standard library; GPU: burn's primitive"
        }
        Op::Binary(Binary::Max | Binary::Min) => "max, min: burn's comparison and choice",
        Op::Binary(Binary::Remainder) => "remainder: ours, since burn's has the sign of b",
        Op::Compare(_) | Op::Where => "burn's primitives; masks are integers, not burn's booleans",
        Op::Cast { .. } => BURN,
        Op::Iota { .. } => "one row made on the host and uploaded, then burn's expansion",
        Op::Literal { .. } => "uploaded",
        Op::Fill { .. } => BURN,
        Op::Gather { .. } | Op::GatherElements { .. } => {
            "burn's select and gather; indices in host memory are checked first"
        }
        Op::GatherGrad { .. } => "burn's select with addition",
        Op::ScatterElements { .. } => {
            "adding: burn's scatter; replacing: our loop in host memory, since burn's order of writes is open"
        }
        Op::TopK { .. } => "our selection in host memory, since burn's order among equals is open",
        Op::CumSum { .. } => "host: our loop; GPU: burn's primitive with flips",
        Op::Rotary(_) => "host: our loop; GPU: burn's primitives with tables of angles",
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Scale { .. } | Op::Shift { .. } => BURN,
        Op::AddN => "burn's sum, from left to right",
        Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. } => BURN,
        Op::Unslice { .. } => "burn's slice assignment into zeros",
        Op::Expand { .. } => {
            "burn's primitive; on hosts written out, since products sum the terms of a view in another order"
        }
        Op::SumTo { .. } | Op::ReduceSum { .. } | Op::ReduceMean { .. } | Op::ReduceMax { .. } => {
            "burn's reductions, axis by axis"
        }
        Op::Conv2d(_) | Op::Conv2dInputGrad { .. } | Op::Conv2dWeightGrad { .. } => CONVOLUTION,
        Op::MaxPool2d(_) | Op::AvgPool2d(_) | Op::AvgPool2dGrad { .. } => BURN,
        Op::MaxPool2dGrad(_) => "host: our loop, to the first maximum; GPU: burn's with indices",
        Op::CrossEntropy(_) | Op::CrossEntropyGrad(_) => {
            "host: our loop, summed in f64; GPU: burn's primitives; burn's has neither smoothing nor ignored targets"
        }
    }
}

/// What an operator brings over between host memory and a GPU at each call, beside its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// Nothing.
    Nothing,
    /// Something is uploaded; the device goes on meanwhile.
    Upload(&'static str),
    /// The host computes: the device stands still meanwhile.
    Wait(&'static str),
}

/// Returns what crosses, and why.
pub const fn crossing(op: &Op) -> Crossing {
    match op {
        Op::Iota { .. } => Crossing::Upload("the places of one row"),
        Op::Literal { .. } => Crossing::Upload("its numbers"),
        Op::Dropout { .. } => {
            Crossing::Upload("its mask: 64-bit hashes, which not every GPU has the integers for")
        }
        Op::Rotary(_) => Crossing::Upload("its tables of angles, computed in double precision"),
        Op::CausalMask { .. }
        | Op::Attention { causal: true, .. }
        | Op::AttentionGrad { causal: true, .. } => {
            Crossing::Upload("the places of rows and columns, T numbers each")
        }
        Op::ScatterElements { .. } => Crossing::Wait(
            "replacing, or adding where ids do not cover the other axes: of several writes to one place the last counts, \
             and burn's order of writes is open",
        ),
        Op::TopK { .. } => {
            Crossing::Wait("of equal elements the earlier comes first, and burn's order is open")
        }
        _ => Crossing::Nothing,
    }
}
