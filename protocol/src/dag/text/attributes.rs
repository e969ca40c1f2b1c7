//! The settings of every operator as text, both ways.

use super::TextError;
use super::cursor::{Attributes, Cursor};
use crate::dag::Op;
use crate::dag::op::{Conv2d, Gelu, Numbers, Pool2d, Rotary, Targets, plain};

type Settings = Vec<(&'static str, String)>;

/// Returns an operator's settings.
#[expect(
    clippy::too_many_lines,
    reason = "one line an operator, so that the compiler asks for each"
)]
pub(super) fn of(op: &Op) -> Settings {
    match op {
        Op::MatMul { transpose_a, transpose_b } => {
            vec![("transpose_a", transpose_a.to_string()), ("transpose_b", transpose_b.to_string())]
        }
        Op::EmbeddingGrad { rows } => vec![("rows", rows.to_string())],
        Op::Attention { causal, scale } => of_attention(*causal, *scale, false),
        Op::AttentionGrad { causal, scale, mask_grad } => of_attention(*causal, *scale, *mask_grad),
        Op::CausalMask { fill } => vec![("fill", format!("{fill:?}"))],
        Op::Softmax { axis } | Op::SoftmaxGrad { axis } | Op::Concat { axis } => {
            vec![("axis", axis.to_string())]
        }
        Op::Gather { axis } | Op::GatherElements { axis } | Op::LogSoftmax { axis } => {
            vec![("axis", axis.to_string())]
        }
        Op::GatherGrad { axis, len } => {
            vec![("axis", axis.to_string()), ("len", len.to_string())]
        }
        Op::ScatterElements { axis, add } => {
            vec![("axis", axis.to_string()), ("add", add.to_string())]
        }
        Op::TopK { axis, k, smallest } => vec![
            ("axis", axis.to_string()),
            ("k", k.to_string()),
            ("smallest", smallest.to_string()),
        ],
        Op::CumSum { axis, exclusive, reverse } => vec![
            ("axis", axis.to_string()),
            ("exclusive", exclusive.to_string()),
            ("reverse", reverse.to_string()),
        ],
        Op::Cast { dtype } => vec![("dtype", dtype.to_string())],
        Op::Iota { shape, axis } => vec![("shape", list(shape)), ("axis", axis.to_string())],
        Op::Literal { shape, numbers } => with_shape(vec![of_numbers(numbers)], shape),
        Op::Rotary(rotary) => of_rotary(rotary),
        Op::CrossEntropy(targets) | Op::CrossEntropyGrad(targets) => of_targets(targets),
        Op::LayerNorm { eps } | Op::BatchNorm { eps } | Op::RmsNorm { eps } => {
            vec![("eps", format!("{eps:?}"))]
        }
        Op::BatchNormGrad { eps } | Op::BatchNormInference { eps } => {
            vec![("eps", format!("{eps:?}"))]
        }
        Op::Gelu(form) | Op::GeluGrad(form) => vec![("form", gelu(*form).to_owned())],
        Op::Dropout { rate, stream } => {
            vec![("rate", format!("{rate:?}")), ("stream", stream.to_string())]
        }
        Op::Scale { factor } => vec![("factor", format!("{factor:?}"))],
        Op::Shift { term } => vec![("term", format!("{term:?}"))],
        Op::Reshape { shape } | Op::Expand { shape } | Op::SumTo { shape } => {
            vec![("shape", list(shape))]
        }
        Op::Transpose { perm } => vec![("perm", list(perm))],
        Op::Slice { axis, start, end } => {
            vec![("axis", axis.to_string()), ("start", start.to_string()), ("end", end.to_string())]
        }
        Op::Unslice { axis, start, len } => {
            vec![("axis", axis.to_string()), ("start", start.to_string()), ("len", len.to_string())]
        }
        Op::ReduceSum { axes, keep }
        | Op::ReduceMean { axes, keep }
        | Op::ReduceMax { axes, keep } => {
            vec![("axes", list(axes)), ("keep", keep.to_string())]
        }
        Op::Conv2d(conv) => of_conv(conv),
        Op::Conv2dInputGrad { conv, shape } | Op::Conv2dWeightGrad { conv, shape } => {
            with_shape(of_conv(conv), shape)
        }
        Op::MaxPool2d(pool) | Op::MaxPool2dGrad(pool) | Op::AvgPool2d(pool) => of_pool(pool),
        Op::AvgPool2dGrad { pool, shape } => with_shape(of_pool(pool), shape),
        Op::Fill { shape, value } => {
            vec![("shape", list(shape)), ("value", format!("{value:?}"))]
        }
        Op::Linear | Op::LinearWeightGrad | Op::Embedding | Op::LayerNormGrad => vec![],
        Op::Relu | Op::ReluGrad | Op::Unary(_) | Op::Binary(_) | Op::Compare(_) => vec![],
        Op::Where | Op::RmsNormGrad => vec![],
        Op::Lstm | Op::LstmGrad | Op::Gru | Op::GruGrad => vec![],
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::AddN => vec![],
    }
}

fn list(lengths: &[usize]) -> String {
    let lengths: Vec<String> = lengths.iter().map(ToString::to_string).collect();
    format!("[{}]", lengths.join(","))
}

fn of_numbers(numbers: &Numbers) -> (&'static str, String) {
    match numbers {
        Numbers::Floats(floats) => {
            let floats: Vec<String> = floats.iter().map(|x| format!("{x:?}")).collect();
            ("floats", format!("[{}]", floats.join(",")))
        }
        Numbers::Ints(ints) => {
            let ints: Vec<String> = ints.iter().map(ToString::to_string).collect();
            ("ints", format!("[{}]", ints.join(",")))
        }
    }
}

/// A mask's gradient is written only where there is one.
fn of_attention(causal: bool, scale: f32, mask_grad: bool) -> Settings {
    let mut settings = vec![("causal", causal.to_string()), ("scale", format!("{scale:?}"))];
    if mask_grad {
        settings.push(("mask_grad", mask_grad.to_string()));
    }
    settings
}

fn of_rotary(rotary: &Rotary) -> Settings {
    let Rotary { theta, interleaved, inverse, start } = rotary;
    vec![
        ("theta", format!("{theta:?}")),
        ("interleaved", interleaved.to_string()),
        ("inverse", inverse.to_string()),
        ("start", start.to_string()),
    ]
}

/// Written only where they differ from the usual: no smoothing, every target counts.
fn of_targets(targets: &Targets) -> Settings {
    let mut settings = Vec::new();
    if targets.smoothing != 0.0 {
        settings.push(("smoothing", format!("{:?}", targets.smoothing)));
    }
    if let Some(ignore) = targets.ignore {
        settings.push(("ignore", ignore.to_string()));
    }
    settings
}

fn gelu(form: Gelu) -> &'static str {
    match form {
        Gelu::Erf => "erf",
        Gelu::Tanh => "tanh",
    }
}

fn of_conv(conv: &Conv2d) -> Settings {
    let Conv2d { stride, padding, dilation, groups } = conv;
    vec![
        ("stride", list(stride)),
        ("padding", list(padding)),
        ("dilation", list(dilation)),
        ("groups", groups.to_string()),
    ]
}

fn of_pool(pool: &Pool2d) -> Settings {
    let Pool2d { kernel, stride, padding } = pool;
    vec![("kernel", list(kernel)), ("stride", list(stride)), ("padding", list(padding))]
}

fn with_shape(mut settings: Settings, shape: &[usize]) -> Settings {
    settings.push(("shape", list(shape)));
    settings
}

/// Makes an operator from its name and settings.
pub(super) fn parse(name: &str, x: &mut Attributes<'_>, at: &Cursor<'_>) -> Result<Op, TextError> {
    if let Some(op) = plain().find(|op| op.name() == name) {
        return Ok(op);
    }
    Ok(match name {
        "reshape" => Op::Reshape { shape: x.take("shape", at)? },
        "expand" => Op::Expand { shape: x.take("shape", at)? },
        "sum_to" => Op::SumTo { shape: x.take("shape", at)? },
        "transpose" => Op::Transpose { perm: x.take("perm", at)? },
        "slice" => Op::Slice {
            axis: x.take("axis", at)?,
            start: x.take("start", at)?,
            end: x.take("end", at)?,
        },
        "unslice" => Op::Unslice {
            axis: x.take("axis", at)?,
            start: x.take("start", at)?,
            len: x.take("len", at)?,
        },
        "concat" => Op::Concat { axis: x.take("axis", at)? },
        "reduce_sum" => Op::ReduceSum { axes: x.take("axes", at)?, keep: x.take("keep", at)? },
        "reduce_mean" => Op::ReduceMean { axes: x.take("axes", at)?, keep: x.take("keep", at)? },
        "fill" => Op::Fill { shape: x.take("shape", at)?, value: x.take("value", at)? },
        "scale" => Op::Scale { factor: x.take("factor", at)? },
        "shift" => Op::Shift { term: x.take("term", at)? },
        "dropout" => Op::Dropout { rate: x.take("rate", at)?, stream: x.take("stream", at)? },
        "gelu" => Op::Gelu(x.take("form", at)?),
        "gelu_grad" => Op::GeluGrad(x.take("form", at)?),
        "conv2d" => Op::Conv2d(conv(x, at)?),
        "conv2d_input_grad" => {
            Op::Conv2dInputGrad { conv: conv(x, at)?, shape: x.take("shape", at)? }
        }
        "conv2d_weight_grad" => {
            Op::Conv2dWeightGrad { conv: conv(x, at)?, shape: x.take("shape", at)? }
        }
        "max_pool2d" => Op::MaxPool2d(pool(x, at)?),
        "max_pool2d_grad" => Op::MaxPool2dGrad(pool(x, at)?),
        "avg_pool2d" => Op::AvgPool2d(pool(x, at)?),
        "avg_pool2d_grad" => Op::AvgPool2dGrad { pool: pool(x, at)?, shape: x.take("shape", at)? },
        "reduce_max" => Op::ReduceMax { axes: x.take("axes", at)?, keep: x.take("keep", at)? },
        _ => return parse_index(name, x, at),
    })
}

fn parse_index(name: &str, x: &mut Attributes<'_>, at: &Cursor<'_>) -> Result<Op, TextError> {
    Ok(match name {
        "cast" => Op::Cast { dtype: x.take("dtype", at)? },
        "iota" => Op::Iota { shape: x.take("shape", at)?, axis: x.take("axis", at)? },
        "literal" => {
            let numbers = match x.has("ints") {
                true => Numbers::Ints(x.take("ints", at)?),
                false => Numbers::Floats(x.take("floats", at)?),
            };
            Op::Literal { shape: x.take("shape", at)?, numbers }
        }
        "gather" => Op::Gather { axis: x.take("axis", at)? },
        "gather_grad" => Op::GatherGrad { axis: x.take("axis", at)?, len: x.take("len", at)? },
        "gather_elements" => Op::GatherElements { axis: x.take("axis", at)? },
        "scatter_elements" => {
            Op::ScatterElements { axis: x.take("axis", at)?, add: x.take("add", at)? }
        }
        "top_k" => Op::TopK {
            axis: x.take("axis", at)?,
            k: x.take("k", at)?,
            smallest: x.take("smallest", at)?,
        },
        "cum_sum" => Op::CumSum {
            axis: x.take("axis", at)?,
            exclusive: x.take("exclusive", at)?,
            reverse: x.take("reverse", at)?,
        },
        "rotary" => Op::Rotary(Rotary {
            theta: x.take("theta", at)?,
            interleaved: x.take("interleaved", at)?,
            inverse: x.take("inverse", at)?,
            start: x.take("start", at)?,
        }),
        "cross_entropy" => Op::CrossEntropy(targets(x, at)?),
        "cross_entropy_grad" => Op::CrossEntropyGrad(targets(x, at)?),
        _ => return parse_layer(name, x, at),
    })
}

fn targets(x: &mut Attributes<'_>, at: &Cursor<'_>) -> Result<Targets, TextError> {
    let smoothing = if x.has("smoothing") { x.take("smoothing", at)? } else { 0.0 };
    let ignore = if x.has("ignore") { Some(x.take("ignore", at)?) } else { None };
    Ok(Targets { smoothing, ignore })
}

fn parse_layer(name: &str, x: &mut Attributes<'_>, at: &Cursor<'_>) -> Result<Op, TextError> {
    Ok(match name {
        "matmul" => Op::MatMul {
            transpose_a: x.take("transpose_a", at)?,
            transpose_b: x.take("transpose_b", at)?,
        },
        "embedding_grad" => Op::EmbeddingGrad { rows: x.take("rows", at)? },
        "attention" => Op::Attention { causal: x.take("causal", at)?, scale: x.take("scale", at)? },
        "attention_grad" => Op::AttentionGrad {
            causal: x.take("causal", at)?,
            scale: x.take("scale", at)?,
            mask_grad: x.has("mask_grad") && x.take("mask_grad", at)?,
        },
        "causal_mask" => Op::CausalMask { fill: x.take("fill", at)? },
        "softmax" => Op::Softmax { axis: x.take("axis", at)? },
        "softmax_grad" => Op::SoftmaxGrad { axis: x.take("axis", at)? },
        "log_softmax" => Op::LogSoftmax { axis: x.take("axis", at)? },
        "rms_norm" => Op::RmsNorm { eps: x.take("eps", at)? },
        "layer_norm" => Op::LayerNorm { eps: x.take("eps", at)? },
        "batch_norm" => Op::BatchNorm { eps: x.take("eps", at)? },
        "batch_norm_grad" => Op::BatchNormGrad { eps: x.take("eps", at)? },
        "batch_norm_inference" => Op::BatchNormInference { eps: x.take("eps", at)? },
        _ => return Err(at.error(&format!("an operator, not `{name}`,"))),
    })
}

fn conv(x: &mut Attributes<'_>, at: &Cursor<'_>) -> Result<Conv2d, TextError> {
    Ok(Conv2d {
        stride: x.take("stride", at)?,
        padding: x.take("padding", at)?,
        dilation: x.take("dilation", at)?,
        groups: x.take("groups", at)?,
    })
}

fn pool(x: &mut Attributes<'_>, at: &Cursor<'_>) -> Result<Pool2d, TextError> {
    Ok(Pool2d {
        kernel: x.take("kernel", at)?,
        stride: x.take("stride", at)?,
        padding: x.take("padding", at)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::op::every;

    #[test]
    fn every_operator_reads_back_as_it_was_written() {
        // One of each variant: the list is complete.
        let names: std::collections::BTreeSet<&str> = every().iter().map(Op::name).collect();
        assert_eq!(names.len(), 89);
        for op in every() {
            let settings: Vec<String> = of(&op).iter().map(|(k, v)| format!("{k}={v}")).collect();
            let braced = format!("{{{}}}", settings.join(", "));
            let text = if settings.is_empty() { "" } else { &braced };
            let mut cursor = Cursor::new(1, text);
            let mut attributes = cursor.attributes().unwrap();
            let back = parse(op.name(), &mut attributes, &cursor).unwrap();
            attributes.end(&cursor).unwrap();
            assert_eq!(back, op);
        }
    }
}
