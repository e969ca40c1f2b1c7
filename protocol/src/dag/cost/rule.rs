//! The rules of [`super::flops`] in words, and why each operator is one: what `docs/reference/operators.md` says.

use crate::dag::Op;
use crate::dag::op::{Binary, Unary};

/// Why an operator is in the set (`docs/decisions/0006-operator-set.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing else can express it.
    Primitive,
    /// The direct form is many times faster than what it could be written with.
    Fused,
    /// It is the derivative of one of those.
    Gradient,
}

/// Returns the kind of an operator.
pub const fn kind(op: &Op) -> Kind {
    match op {
        Op::Linear | Op::Embedding | Op::Attention { .. } | Op::CausalMask { .. } => Kind::Fused,
        Op::Softmax { .. } | Op::LogSoftmax { .. } | Op::CrossEntropy(_) => Kind::Fused,
        Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::BatchNorm { .. } => Kind::Fused,
        Op::BatchNormInference { .. } | Op::Gelu(_) | Op::Relu | Op::Rotary(_) => Kind::Fused,
        Op::Conv2d(_) | Op::MaxPool2d(_) | Op::AvgPool2d(_) | Op::CumSum { .. } => Kind::Fused,
        Op::Lstm | Op::Gru | Op::AddN | Op::Scale { .. } | Op::Shift { .. } => Kind::Fused,
        Op::ReduceMean { .. } => Kind::Fused,
        Op::LinearWeightGrad | Op::EmbeddingGrad { .. } | Op::AttentionGrad { .. } => {
            Kind::Gradient
        }
        Op::SoftmaxGrad { .. } | Op::LayerNormGrad | Op::BatchNormGrad { .. } => Kind::Gradient,
        Op::ReluGrad | Op::GeluGrad(_) | Op::RmsNormGrad | Op::CrossEntropyGrad(_) => {
            Kind::Gradient
        }
        Op::Conv2dInputGrad { .. } | Op::Conv2dWeightGrad { .. } => Kind::Gradient,
        Op::MaxPool2dGrad(_) | Op::AvgPool2dGrad { .. } => Kind::Gradient,
        Op::LstmGrad | Op::GruGrad | Op::GatherGrad { .. } => Kind::Gradient,
        Op::Unslice { .. } | Op::SumTo { .. } => Kind::Gradient,
        Op::MatMul { .. } | Op::Dropout { .. } | Op::Unary(_) | Op::Binary(_) => Kind::Primitive,
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Compare(_) | Op::Where => Kind::Primitive,
        Op::Cast { .. } | Op::Iota { .. } | Op::Literal { .. } | Op::Fill { .. } => Kind::Primitive,
        Op::Gather { .. } | Op::GatherElements { .. } | Op::ScatterElements { .. } => {
            Kind::Primitive
        }
        Op::TopK { .. } | Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } => {
            Kind::Primitive
        }
        Op::Concat { .. } | Op::Expand { .. } | Op::ReduceSum { .. } | Op::ReduceMax { .. } => {
            Kind::Primitive
        }
    }
}

/// Returns the rule of an operator's arithmetic: x is the first operand, y the first result, |x| its number of elements,
/// e what one transcendental counts ([`super::TRANSCENDENTAL`]).
pub const fn rule(op: &Op) -> &'static str {
    match op {
        Op::MatMul { .. } | Op::LinearWeightGrad => "2 M N K",
        Op::Linear => "2 M N K, bias: |y|",
        Op::Attention { .. } => "2 D + 2 E + e + 4 (mask: 1) for each seen pair",
        Op::AttentionGrad { .. } => "6 D + 4 E + e + 8 (mask: 2) for each seen pair",
        Op::Lstm => "2 |fed| H + (5 e + 12) T B H",
        Op::Gru => "2 |fed| H + (3 e + 12) T B H",
        Op::LstmGrad | Op::GruGrad => "4 |fed| H + (e + 24) T B H",
        Op::Conv2d(_) => "2 |y| C/groups KH KW, bias: |y|",
        Op::Conv2dInputGrad { .. } | Op::Conv2dWeightGrad { .. } => "2 |g| C/groups KH KW",
        Op::MaxPool2d(_) | Op::AvgPool2d(_) => "|y| KH KW",
        Op::MaxPool2dGrad(_) | Op::AvgPool2dGrad { .. } => "|g| KH KW",
        Op::Softmax { .. } | Op::LogSoftmax { .. } => "(e + 4) |x|",
        Op::CrossEntropy(_) | Op::CrossEntropyGrad(_) => "(e + 4) |x|",
        Op::SoftmaxGrad { .. } | Op::BatchNormInference { .. } => "4 |x|",
        Op::LayerNorm { .. } | Op::BatchNorm { .. } => "8 |x|",
        Op::LayerNormGrad | Op::BatchNormGrad { .. } => "16 |x|",
        Op::RmsNorm { .. } => "6 |x|",
        Op::RmsNormGrad => "12 |x|",
        Op::Gelu(_) => "(e + 6) |x|",
        Op::GeluGrad(_) => "(e + 12) |x|",
        Op::Unary(Unary::Abs | Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round) => "|x|",
        Op::Unary(_) => "e |x|",
        Op::Binary(Binary::Pow | Binary::Atan2) => "e |y|",
        Op::Binary(_) => "|y|",
        Op::TopK { .. } | Op::Dropout { .. } => "e |x|",
        Op::Rotary(_) => "3 |x|",
        Op::CumSum { .. } | Op::ReduceMax { .. } | Op::ReduceSum { .. } => "|x|",
        Op::SumTo { .. } | Op::ReduceMean { .. } => "|x|",
        Op::EmbeddingGrad { .. } | Op::GatherGrad { .. } => "|g|",
        Op::ScatterElements { .. } => "|updates|",
        Op::AddN => "(n - 1) |y|",
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Compare(_) | Op::Where => "|y|",
        Op::Cast { .. } | Op::Relu | Op::ReluGrad | Op::Scale { .. } | Op::Shift { .. } => "|y|",
        Op::Embedding | Op::CausalMask { .. } | Op::Fill { .. } | Op::Iota { .. } => "0",
        Op::Literal { .. } | Op::Gather { .. } | Op::GatherElements { .. } => "0",
        Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } => "0",
        Op::Unslice { .. } | Op::Concat { .. } | Op::Expand { .. } => "0",
    }
}
