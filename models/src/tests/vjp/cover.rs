//! Which case of the derivatives' test stands for which operator: a further operator without one is found here.

use std::collections::BTreeSet;

use wattle_protocol::dag::grad::differentiate;
use wattle_protocol::dag::op::{Gelu, Op};

use super::cases;

/// Returns the name of a case whose training graph holds the operator: in its forward pass, or, for the gradient
/// operators at the end, in its backward pass, where the comparison with differences looks at their results.
fn case_of(op: &Op) -> &'static str {
    match op {
        Op::MatMul { .. } => "matmul",
        Op::Linear => "linear",
        Op::Embedding => "embedding",
        Op::Attention { .. } => "attention",
        Op::CausalMask { .. } => "causal mask",
        Op::Softmax { .. } => "softmax",
        Op::LayerNorm { .. } => "layer norm",
        Op::BatchNorm { .. } => "batch norm",
        Op::BatchNormInference { .. } => "batch norm inference",
        Op::Relu => "relu",
        Op::Gelu(Gelu::Tanh) => "gelu tanh",
        Op::Gelu(Gelu::Erf) => "gelu erf",
        Op::Dropout { .. } => "dropout",
        Op::Add => "add",
        Op::Sub => "sub broadcast",
        Op::Mul => "mul broadcast",
        Op::Div => "div broadcast",
        Op::Scale { .. } => "scale",
        Op::Shift { .. } => "shift",
        Op::Unary(function) => function.name(),
        Op::Binary(function) => function.name(),
        Op::Compare(_) | Op::Where => "where",
        Op::Cast { .. } | Op::Iota { .. } => "iota",
        Op::Literal { .. } | Op::Gather { .. } => "gather",
        Op::GatherGrad { .. } => "gather grad",
        Op::GatherElements { .. } => "gather elements",
        Op::ScatterElements { .. } => "scatter",
        Op::TopK { .. } => "top k",
        Op::CumSum { .. } => "cum sum",
        Op::LogSoftmax { .. } => "log-softmax",
        Op::RmsNorm { .. } | Op::RmsNormGrad => "rms norm",
        Op::Rotary(_) => "rotary",
        Op::ReduceMax { .. } => "reduce max",
        Op::AddN => "sum of three",
        Op::Reshape { .. } => "reshape",
        Op::Transpose { .. } => "transpose",
        Op::Slice { .. } => "slice",
        Op::Unslice { .. } => "unslice",
        Op::Concat { .. } => "concat",
        Op::Expand { .. } => "expand",
        Op::SumTo { .. } => "sum to",
        Op::ReduceSum { .. } => "reduce sum",
        Op::ReduceMean { .. } => "reduce mean",
        Op::Conv2d(_) => "conv2d",
        Op::MaxPool2d(_) => "max pool",
        Op::AvgPool2d(_) => "average pool",
        Op::CrossEntropy(_) => "cross-entropy",
        Op::LinearWeightGrad => "linear",
        Op::EmbeddingGrad { .. } => "embedding",
        Op::AttentionGrad { .. } => "attention",
        Op::Lstm | Op::LstmGrad => "lstm",
        Op::Gru | Op::GruGrad => "gru",
        Op::SoftmaxGrad { .. } => "softmax",
        Op::LayerNormGrad => "layer norm",
        Op::BatchNormGrad { .. } => "batch norm",
        Op::ReluGrad => "relu",
        Op::GeluGrad(Gelu::Tanh) => "gelu tanh",
        Op::GeluGrad(Gelu::Erf) => "gelu erf",
        Op::Conv2dInputGrad { .. } => "conv2d",
        Op::Conv2dWeightGrad { .. } => "conv2d",
        Op::MaxPool2dGrad(_) => "max pool",
        Op::AvgPool2dGrad { .. } => "average pool",
        Op::CrossEntropyGrad(_) => "cross-entropy",
        // The cotangent of the loss, which every case begins with.
        Op::Fill { .. } => "add",
    }
}

/// Returns the names of all operators, as serde knows them: it lists what it would have taken.
fn all() -> BTreeSet<String> {
    let error = serde_json::from_str::<Op>("\"no such operator\"").unwrap_err().to_string();
    let names = error.split('`').skip(1).step_by(2).skip(1);
    names.map(str::to_owned).collect()
}

/// Returns an operator's name as serde and [`all`] spell it.
pub(in crate::tests) fn variant(op: &Op) -> String {
    format!("{op:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

#[test]
fn every_operator_has_a_case_that_holds_it() {
    let mut found = BTreeSet::new();
    for case in cases() {
        let training = differentiate(case.dag(), 1).unwrap();
        let ops = training.dag.nodes().iter().map(|node| &node.op);
        found.extend(ops.filter(|op| case_of(op) == case.name).map(variant));
    }
    let all = all();
    assert!(all.len() > 40, "{all:?}");
    let missing: Vec<_> = all.difference(&found).collect();
    assert!(missing.is_empty(), "no case holds {missing:?}");
}
