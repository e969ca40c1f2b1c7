//! One of each operator: for tests that must miss none, for reading dumps, and for the table of operators.

use super::{Binary, Comparison, Conv2d, Gelu, Numbers, Op, Pool2d, Rotary, Targets, Unary};
use crate::dag::Dtype;

/// Returns each operator at least once; those with settings with some of them.
pub fn every() -> Vec<Op> {
    with_settings().into_iter().chain(plain()).collect()
}

/// The operators without settings, but for the families of functions.
const PLAIN: [Op; 17] = [
    Op::Linear,
    Op::LinearWeightGrad,
    Op::Embedding,
    Op::LayerNormGrad,
    Op::RmsNormGrad,
    Op::Relu,
    Op::ReluGrad,
    Op::Add,
    Op::Sub,
    Op::Mul,
    Op::Div,
    Op::AddN,
    Op::Where,
    Op::Lstm,
    Op::LstmGrad,
    Op::Gru,
    Op::GruGrad,
];

/// Returns every operator without settings.
pub(crate) fn plain() -> impl Iterator<Item = Op> {
    let unary = Unary::ALL.into_iter().map(Op::Unary);
    let binary = Binary::ALL.into_iter().map(Op::Binary);
    let compare = Comparison::ALL.into_iter().map(Op::Compare);
    PLAIN.into_iter().chain(unary).chain(binary).chain(compare)
}

const CONV: Conv2d = Conv2d { stride: [1, 2], padding: [3, 4], dilation: [5, 6], groups: 7 };
const POOL: Pool2d = Pool2d { kernel: [1, 2], stride: [3, 4], padding: [5, 6] };

/// Every operator with settings, at least once.
fn with_settings() -> Vec<Op> {
    let (shape, axes) = (vec![2, 1], vec![]);
    vec![
        Op::MatMul { transpose_a: true, transpose_b: false },
        Op::EmbeddingGrad { rows: 3 },
        Op::Attention { causal: true, scale: 0.1 },
        Op::AttentionGrad { causal: false, scale: 1e-20, mask_grad: true },
        Op::AttentionGrad { causal: true, scale: 1.0, mask_grad: false },
        Op::CausalMask { fill: f32::NEG_INFINITY },
        Op::Softmax { axis: 1 },
        Op::SoftmaxGrad { axis: 2 },
        Op::LayerNorm { eps: 1e-5 },
        Op::RmsNorm { eps: 1e-6 },
        Op::LogSoftmax { axis: 3 },
        Op::Cast { dtype: Dtype::I32 },
        Op::Iota { shape: shape.clone(), axis: 1 },
        Op::Literal { shape: shape.clone(), numbers: Numbers::Ints(vec![-1, 7]) },
        Op::Literal { shape: shape.clone(), numbers: Numbers::Floats(vec![-0.1, 1e30]) },
        Op::Gather { axis: 1 },
        Op::GatherGrad { axis: 1, len: 9 },
        Op::GatherElements { axis: 2 },
        Op::ScatterElements { axis: 2, add: true },
        Op::TopK { axis: 1, k: 3, smallest: true },
        Op::CumSum { axis: 0, exclusive: true, reverse: false },
        Op::Rotary(Rotary { theta: 1e4, interleaved: true, inverse: false, start: 3 }),
        Op::ReduceMax { axes: shape.clone(), keep: true },
        Op::CrossEntropy(Targets::default()),
        Op::CrossEntropy(Targets { smoothing: 0.1, ignore: Some(-100) }),
        Op::CrossEntropyGrad(Targets { smoothing: 0.0, ignore: Some(0) }),
        Op::BatchNorm { eps: 0.0 },
        Op::BatchNormGrad { eps: 1e-3 },
        Op::BatchNormInference { eps: 1e-4 },
        Op::Gelu(Gelu::Erf),
        Op::Gelu(Gelu::Tanh),
        Op::GeluGrad(Gelu::Erf),
        Op::GeluGrad(Gelu::Tanh),
        Op::Dropout { rate: 0.3, stream: 9 },
        Op::Scale { factor: -0.0 },
        Op::Shift { term: 3.4e38 },
        Op::Reshape { shape: shape.clone() },
        Op::Transpose { perm: shape.clone() },
        Op::Slice { axis: 1, start: 2, end: 3 },
        Op::Unslice { axis: 1, start: 2, len: 3 },
        Op::Concat { axis: 1 },
        Op::Expand { shape: shape.clone() },
        Op::SumTo { shape: shape.clone() },
        Op::ReduceSum { axes: shape.clone(), keep: true },
        Op::ReduceMean { axes, keep: false },
        Op::Conv2d(CONV),
        Op::Conv2dInputGrad { conv: CONV, shape: [1, 2, 3, 4] },
        Op::Conv2dWeightGrad { conv: CONV, shape: [4, 3, 2, 1] },
        Op::MaxPool2d(POOL),
        Op::MaxPool2dGrad(POOL),
        Op::AvgPool2d(POOL),
        Op::AvgPool2dGrad { pool: POOL, shape: [1, 2, 3, 4] },
        Op::Fill { shape, value: f32::MIN_POSITIVE },
    ]
}
