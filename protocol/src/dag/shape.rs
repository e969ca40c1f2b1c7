//! Shape inference: the facts of an operator's results from the facts of its operands.
//!
//! One rule an operator, in an exhaustive match. Everything is checked: operand counts, dtypes, axes, settings,
//! sizes. A stranger's Dag passes through here, so no rule may panic or overflow whatever it is given.
//!
//! Reading order: [`infer`], then `linear`, `sequence`, `norm`, `layout`, `index`, `image` (the rules by family).

mod image;
mod index;
mod layout;
mod linear;
mod norm;
mod sequence;

use super::op::Numbers;
use super::{Dtype, Fact, Op};

/// Most elements in one tensor: 64 GiB of f32, beyond what any one device holds.
pub const ELEMENTS_MAX: u64 = 1 << 34;
/// Most axes of one tensor; back-ends have kernels up to about this rank.
pub const RANK_MAX: usize = 8;

/// Why an operator cannot be applied to these operands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The operands do not fit the operator or each other.
    #[error("{op} takes {expected}, but got {got}")]
    Operands {
        /// The operator.
        op: &'static str,
        /// What would fit.
        expected: &'static str,
        /// The operands' facts.
        got: String,
    },
    /// A setting of the operator is out of range or does not fit the operands.
    #[error("{op} needs {expected}, but has {got} for operands {operands}")]
    Setting {
        /// The operator.
        op: &'static str,
        /// What would fit.
        expected: &'static str,
        /// The setting.
        got: String,
        /// The operands' facts.
        operands: String,
    },
    /// A tensor is too large, has too many axes, or has an empty one.
    #[error("shape {shape:?} must have 1 to 2^34 elements on at most 8 axes")]
    Size {
        /// The shape.
        shape: Vec<usize>,
    },
}

/// Checks that a shape has at most [`RANK_MAX`] axes, none of them empty, and at most [`ELEMENTS_MAX`] elements.
///
/// *Errors*: [`ShapeError::Size`].
pub fn check_size(shape: &[usize]) -> Result<(), ShapeError> {
    let product = |total: u64, axis: &usize| {
        total.checked_mul(u64::try_from(*axis).ok()?).filter(|n| (1..=ELEMENTS_MAX).contains(n))
    };
    if shape.len() <= RANK_MAX && shape.iter().try_fold(1, product).is_some() {
        return Ok(());
    }
    Err(ShapeError::Size { shape: shape.iter().take(RANK_MAX + 1).copied().collect() })
}

/// Returns the facts of an operator's results, in the order that the operator documents.
///
/// *Errors*: [`ShapeError`], with what was expected and what came.
pub fn infer(op: &Op, inputs: &[&Fact]) -> Result<Vec<Fact>, ShapeError> {
    for input in inputs {
        check_size(&input.shape)?;
    }
    let shapes = shapes(&Operands { op, facts: inputs })?;
    for shape in &shapes {
        check_size(shape)?;
    }
    let dtypes = [dtype(op, inputs), Dtype::I32];
    Ok(shapes
        .into_iter()
        .enumerate()
        .map(|(slot, shape)| match (op, slot) {
            (Op::TopK { .. }, 1) => Fact { dtype: dtypes[1], shape },
            _ => Fact { dtype: dtypes[0], shape },
        })
        .collect())
}

type Shape = Vec<usize>;
type Shapes = Result<Vec<Shape>, ShapeError>;

fn shapes(x: &Operands<'_>) -> Shapes {
    match x.op {
        Op::MatMul { transpose_a, transpose_b } => x.matmul(*transpose_a, *transpose_b),
        Op::Linear => x.linear(),
        Op::LinearWeightGrad => x.linear_weight_grad(),
        Op::Embedding => x.embedding(),
        Op::EmbeddingGrad { rows } => x.embedding_grad(*rows),
        Op::Attention { scale, .. } => x.attention(*scale),
        Op::AttentionGrad { scale, mask_grad, .. } => x.attention_grad(*scale, *mask_grad),
        Op::CausalMask { fill } => x.causal_mask(*fill),
        Op::Softmax { axis } => x.softmax(*axis),
        Op::SoftmaxGrad { axis } => x.softmax_grad(*axis),
        Op::LayerNorm { eps } => x.layer_norm(*eps),
        Op::LayerNormGrad => x.layer_norm_grad(),
        Op::BatchNorm { eps } => x.batch_norm(*eps),
        Op::BatchNormGrad { eps } => x.batch_norm_grad(*eps),
        Op::BatchNormInference { eps } => x.batch_norm_inference(*eps),
        Op::Dropout { rate, .. } => x.dropout(*rate),
        Op::Scale { factor: number } | Op::Shift { term: number } => x.with_number(*number),
        Op::Relu | Op::Gelu(_) | Op::Unary(_) => x.unary(),
        Op::ReluGrad | Op::GeluGrad(_) => x.alike::<2>(),
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Compare(_) => x.binary_any(),
        Op::Binary(function) => x.binary(*function),
        Op::Where => x.choice(),
        Op::Cast { dtype } => x.cast(*dtype),
        Op::Iota { shape, axis } => x.iota(shape, *axis),
        Op::Literal { shape, numbers } => x.literal(shape, numbers),
        Op::Gather { axis } => x.gather(*axis),
        Op::GatherGrad { axis, len } => x.gather_grad(*axis, *len),
        Op::GatherElements { axis } => x.gather_elements(*axis),
        Op::ScatterElements { axis, .. } => x.scatter_elements(*axis),
        Op::TopK { axis, k, .. } => x.top_k(*axis, *k),
        Op::CumSum { axis, .. } | Op::LogSoftmax { axis } => x.softmax(*axis),
        Op::RmsNorm { eps } => x.rms_norm(*eps),
        Op::RmsNormGrad => x.rms_norm_grad(),
        Op::Rotary(rotary) => x.rotary(rotary),
        Op::AddN => x.add_n(),
        Op::Reshape { shape } => x.reshape(shape),
        Op::Transpose { perm } => x.transpose(perm),
        Op::Slice { axis, start, end } => x.slice(*axis, *start, *end),
        Op::Unslice { axis, start, len } => x.unslice(*axis, *start, *len),
        Op::Concat { axis } => x.concat(*axis),
        Op::Expand { shape } => x.expand(shape),
        Op::SumTo { shape } => x.sum_to(shape),
        Op::ReduceSum { axes, keep } => x.reduce_any(axes, *keep),
        Op::ReduceMean { axes, keep } | Op::ReduceMax { axes, keep } => x.reduce(axes, *keep),
        Op::Conv2d(conv) => x.conv2d(conv),
        Op::Conv2dInputGrad { conv, shape } => x.conv2d_input_grad(conv, shape),
        Op::Conv2dWeightGrad { conv, shape } => x.conv2d_weight_grad(conv, shape),
        Op::MaxPool2d(pool) | Op::AvgPool2d(pool) => x.pool2d(pool),
        Op::MaxPool2dGrad(pool) => x.max_pool2d_grad(pool),
        Op::AvgPool2dGrad { pool, shape } => x.avg_pool2d_grad(pool, shape),
        Op::CrossEntropy(targets) => x.cross_entropy(targets),
        Op::CrossEntropyGrad(targets) => x.cross_entropy_grad(targets),
        Op::Fill { shape, value } => x.fill(shape, *value),
        Op::Lstm => x.lstm(),
        Op::LstmGrad => x.lstm_grad(),
        Op::Gru => x.gru(),
        Op::GruGrad => x.gru_grad(),
    }
}

/// Returns the dtype of an operator's first result.
fn dtype(op: &Op, inputs: &[&Fact]) -> Dtype {
    let of = |operand: usize| inputs.get(operand).map_or(Dtype::F32, |fact| fact.dtype);
    match op {
        Op::Compare(_) | Op::Iota { .. } => Dtype::I32,
        Op::Cast { dtype } => *dtype,
        Op::Literal { numbers: Numbers::Ints(_), .. } => Dtype::I32,
        Op::Where => of(1),
        op if op.takes_any() => of(0),
        _ => Dtype::F32,
    }
}

/// An operator with the facts of its operands; the rules are its methods.
struct Operands<'a> {
    op: &'a Op,
    facts: &'a [&'a Fact],
}

impl<'a> Operands<'a> {
    /// Returns the shapes of exactly `N` operands with these dtypes.
    fn typed<const N: usize>(
        &self,
        dtypes: [Dtype; N],
        expected: &'static str,
    ) -> Result<[&'a [usize]; N], ShapeError> {
        let facts: &[&Fact; N] = self.facts.try_into().map_err(|_| self.unfit(expected))?;
        if facts.iter().zip(dtypes).any(|(fact, dtype)| fact.dtype != dtype) {
            return Err(self.unfit(expected));
        }
        Ok(facts.map(|fact| fact.shape.as_slice()))
    }

    /// Returns the shapes of exactly `N` f32 operands.
    fn floats<const N: usize>(
        &self,
        expected: &'static str,
    ) -> Result<[&'a [usize]; N], ShapeError> {
        self.typed([Dtype::F32; N], expected)
    }

    /// Returns the shapes of exactly `N` operands of one dtype, f32 or i32.
    fn any<const N: usize>(&self, expected: &'static str) -> Result<[&'a [usize]; N], ShapeError> {
        let dtype = self.facts.first().map_or(Dtype::F32, |fact| fact.dtype);
        let dtype = if dtype == Dtype::I32 { Dtype::I32 } else { Dtype::F32 };
        self.typed([dtype; N], expected)
    }

    fn unfit(&self, expected: &'static str) -> ShapeError {
        ShapeError::Operands { op: self.op.name(), expected, got: self.listed() }
    }

    fn setting(&self, expected: &'static str, got: impl std::fmt::Debug) -> ShapeError {
        let (op, got) = (self.op.name(), format!("{got:?}"));
        ShapeError::Setting { op, expected, got, operands: self.listed() }
    }

    /// Says `Ok` where a rule holds, and what the operator takes where not.
    fn need(&self, holds: bool, expected: &'static str) -> Result<(), ShapeError> {
        if holds { Ok(()) } else { Err(self.unfit(expected)) }
    }

    fn need_finite(&self, number: f32) -> Result<(), ShapeError> {
        if number.is_finite() { Ok(()) } else { Err(self.setting("a finite number", number)) }
    }

    fn listed(&self) -> String {
        /// Enough to see the mistake in a join of thousands.
        const LISTED_MAX: usize = 8;
        let shown = self.facts.iter().take(LISTED_MAX).map(ToString::to_string);
        let dots = if self.facts.len() > LISTED_MAX { ", .." } else { "" };
        format!("({}{dots})", shown.collect::<Vec<_>>().join(", "))
    }
}

/// Returns the shape to which two shapes broadcast, as NumPy does it.
fn broadcast(a: &[usize], b: &[usize]) -> Option<Shape> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let mut shape = long.to_vec();
    let lead = long.len() - short.len();
    for (axis, &length) in shape[lead..].iter_mut().zip(short) {
        match (*axis, length) {
            (x, y) if x == y => {}
            (1, y) => *axis = y,
            (_, 1) => {}
            _ => return None,
        }
    }
    Some(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::op::{Conv2d, Pool2d, Targets};

    fn check(op: &Op, inputs: &[Fact], expected: &[&[usize]]) {
        let inputs: Vec<&Fact> = inputs.iter().collect();
        let facts = infer(op, &inputs).unwrap();
        let shapes: Vec<&[usize]> = facts.iter().map(|f| f.shape.as_slice()).collect();
        assert_eq!(shapes, expected, "{op:?}");
    }

    fn check_refused(op: &Op, inputs: &[Fact]) {
        let inputs: Vec<&Fact> = inputs.iter().collect();
        assert!(infer(op, &inputs).is_err(), "{op:?} must refuse {inputs:?}");
    }

    #[test]
    fn shapes_follow_the_documented_rules() {
        let f = Fact::f32;
        let plain = Op::MatMul { transpose_a: false, transpose_b: false };
        let swapped = Op::MatMul { transpose_a: true, transpose_b: true };
        check(&plain, &[f(&[5, 1, 2, 3]), f(&[4, 3, 7])], &[&[5, 4, 2, 7]]);
        check(&swapped, &[f(&[3, 2]), f(&[7, 3])], &[&[2, 7]]);
        check(&Op::Linear, &[f(&[2, 8, 3]), f(&[3, 5]), f(&[5])], &[&[2, 8, 5]]);
        check(&Op::Embedding, &[f(&[65, 4]), Fact::i32(&[2, 8])], &[&[2, 8, 4]]);
        check(&Op::Add, &[f(&[2, 1, 4]), f(&[3, 1])], &[&[2, 3, 4]]);
        let norm = Op::LayerNorm { eps: 1e-5 };
        check(&norm, &[f(&[2, 8, 4]), f(&[4]), f(&[4])], &[&[2, 8, 4], &[2, 8], &[2, 8]]);
        check(&Op::CrossEntropy(Targets::default()), &[f(&[2, 8, 65]), Fact::i32(&[2, 8])], &[&[]]);
        let attention = Op::Attention { causal: true, scale: 1.0 };
        let grouped = [f(&[2, 6, 4, 8]), f(&[2, 3, 5, 8]), f(&[2, 3, 5, 7]), f(&[6, 1, 5])];
        check(&attention, &grouped, &[&[2, 6, 4, 7]]);
        check(&attention, &[f(&[4, 8]), f(&[5, 8]), f(&[5, 8])], &[&[4, 8]]);
        let recurrent = [f(&[7, 2, 12]), f(&[12, 3]), f(&[2, 3]), f(&[2, 3])];
        check(&Op::Lstm, &recurrent, &[&[2, 7, 2, 3], &[7, 2, 12]]);
        let recurrent = [f(&[7, 2, 9]), f(&[9, 3]), f(&[3]), f(&[2, 3])];
        check(&Op::Gru, &recurrent, &[&[7, 2, 3], &[7, 2, 12]]);
        check(&Op::SumTo { shape: vec![3, 1] }, &[f(&[2, 3, 4])], &[&[3, 1]]);
        check(&Op::ReduceMean { axes: vec![0, 2], keep: true }, &[f(&[2, 3, 4])], &[&[1, 3, 1]]);
        let conv = Conv2d { stride: [2, 1], padding: [1, 0], dilation: [1, 2], groups: 2 };
        check(&Op::Conv2d(conv), &[f(&[1, 4, 8, 9]), f(&[6, 2, 3, 3])], &[&[1, 6, 4, 5]]);
        let pool = Pool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
        check(&Op::MaxPool2d(pool), &[f(&[1, 4, 8, 8])], &[&[1, 4, 4, 4]]);
    }

    #[test]
    fn unfit_operands_are_refused() {
        let f = Fact::f32;
        let plain = Op::MatMul { transpose_a: false, transpose_b: false };
        check_refused(&plain, &[f(&[2, 3]), f(&[4, 3])]);
        check_refused(&plain, &[f(&[2, 3])]);
        check_refused(&plain, &[f(&[2, 3]), Fact::i32(&[3, 4])]);
        check_refused(&Op::Add, &[f(&[2, 3]), f(&[2])]);
        check_refused(&Op::Relu, &[f(&[0])]);
        let attention = Op::Attention { causal: false, scale: 1.0 };
        let (q, kv) = (f(&[2, 6, 4, 8]), f(&[2, 3, 5, 8]));
        check_refused(&attention, &[q.clone(), f(&[2, 4, 5, 8]), f(&[2, 4, 5, 8])]);
        check_refused(&attention, &[q.clone(), kv.clone(), f(&[2, 3, 4, 8])]);
        check_refused(&attention, &[q.clone(), kv.clone(), kv.clone(), f(&[4, 4])]);
        check_refused(&attention, &[q.clone(), kv.clone(), kv.clone(), f(&[3, 2, 6, 4, 5])]);
        let huge = f(&[1 << 20, 1]);
        check_refused(&attention, &[huge.clone(), huge.clone(), huge]);
        let grad = Op::AttentionGrad { causal: false, scale: 1.0, mask_grad: true };
        check_refused(&grad, &[q.clone(), kv.clone(), kv, q]);
        check_refused(&Op::Lstm, &[f(&[7, 2, 12]), f(&[12, 3]), f(&[2, 3]), f(&[3, 3])]);
        check_refused(&Op::Gru, &[f(&[7, 2, 12]), f(&[9, 3]), f(&[3]), f(&[2, 3])]);
        check_refused(&Op::Expand { shape: vec![1 << 40] }, &[f(&[1])]);
        check_refused(&Op::Transpose { perm: vec![0, 0] }, &[f(&[2, 2])]);
        check_refused(&Op::Slice { axis: 0, start: 2, end: 2 }, &[f(&[4])]);
        check_refused(&Op::Slice { axis: 0, start: 3, end: 2 }, &[f(&[4])]);
        check_refused(&Op::Unslice { axis: 0, start: usize::MAX, len: 4 }, &[f(&[4])]);
        check_refused(&Op::Dropout { rate: 1.0, stream: 0 }, &[f(&[4])]);
        check_refused(&Op::Scale { factor: f32::NAN }, &[f(&[4])]);
        let conv = Conv2d { stride: [0, 1], padding: [0, 0], dilation: [1, 1], groups: 1 };
        check_refused(&Op::Conv2d(conv), &[f(&[1, 4, 8, 8]), f(&[6, 4, 3, 3])]);
        let huge = Conv2d {
            stride: [1, 1],
            padding: [usize::MAX; 2],
            dilation: [usize::MAX; 2],
            groups: 1,
        };
        check_refused(&Op::Conv2d(huge), &[f(&[1, 4, 8, 8]), f(&[6, 4, 3, 3])]);
    }
}
