//! One kernel an operator: [`eval`] maps an [`Op`] to burn primitives, or to a hot loop of [`super::host`] where the
//! tensors lie in host memory.
//!
//! Kernels trust shapes (the Dag was checked before) but not values: an id outside its table is an error.
//! Reading order: [`linear`], [`attention`], [`norm`], [`activation`], [`conv`], [`shape`], [`loss`].

pub mod activation;
pub mod attention;
pub mod conv;
pub mod linear;
pub mod loss;
pub mod norm;
pub mod shape;

use burn_backend::Backend;
use burn_backend::tensor::{Device, IntTensor};
use wattle_protocol::dag::op::{Gelu, Op};
use wattle_protocol::swarm::io::TaskError;

use super::host::activation::mix;
use super::tensor::{Float, HostBackend, Tensor};

/// Which draw of randomness an operator belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunContext {
    /// The job's seed.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// The micro-batch.
    pub micro_batch: u32,
}

impl RunContext {
    /// Returns the key of one random stream.
    pub fn key(&self, stream: u32) -> u64 {
        let place = (u64::from(self.micro_batch) << 32) | u64::from(stream);
        mix(mix(mix(self.seed) ^ self.step) ^ place)
    }
}

/// Operands in order; running out of them is an error, not a panic.
struct Operands<B: Backend>(std::vec::IntoIter<Tensor<B>>);

impl<B: HostBackend> Operands<B> {
    fn next(&mut self) -> Result<Tensor<B>, TaskError> {
        self.0.next().ok_or_else(|| TaskError::Missing("an operand".into()))
    }

    fn float(&mut self) -> Result<Float<B>, TaskError> {
        self.next()?.into_float()
    }

    fn int(&mut self) -> Result<IntTensor<B>, TaskError> {
        self.next()?.into_int()
    }

    fn floats(self) -> Result<Vec<Float<B>>, TaskError> {
        self.0.map(Tensor::into_float).collect()
    }
}

fn three<B: Backend>((a, b, c): (Float<B>, Float<B>, Float<B>)) -> Vec<Float<B>> {
    vec![a, b, c]
}

/// Evaluates one operator.
///
/// *Errors*: [`TaskError::Missing`] for missing operands, operands of the wrong kind and ids outside their table.
/// *Panics*: where the shapes do not fit the operator; the caller contains it.
#[expect(
    clippy::too_many_lines,
    reason = "one line an operator, so that the compiler asks for each"
)]
pub fn eval<B: HostBackend>(
    op: &Op,
    inputs: Vec<Tensor<B>>,
    context: &RunContext,
    device: &Device<B>,
) -> Result<Vec<Tensor<B>>, TaskError> {
    let count = inputs.len();
    let mut i = Operands(inputs.into_iter());
    let one = |t: Float<B>| vec![t];
    let out = match op {
        Op::MatMul { transpose_a, transpose_b } => {
            one(linear::matmul(i.float()?, i.float()?, *transpose_a, *transpose_b))
        }
        Op::Linear => {
            let (x, w) = (i.float()?, i.float()?);
            let bias = if count > 2 { Some(i.float()?) } else { None };
            one(linear::linear(x, w, bias))
        }
        Op::LinearWeightGrad => one(linear::weight_grad(i.float()?, i.float()?)),
        Op::Embedding => one(linear::embedding(i.float()?, i.int()?, device)?),
        Op::EmbeddingGrad { rows } => {
            one(linear::embedding_grad(i.int()?, i.float()?, *rows, device)?)
        }
        Op::Attention { causal, scale } => {
            let (q, k, v) = (i.float()?, i.float()?, i.float()?);
            one(attention::attention(q, k, v, *causal, *scale, device))
        }
        Op::AttentionGrad { causal, scale } => {
            let (q, k, v, g) = (i.float()?, i.float()?, i.float()?, i.float()?);
            three(attention::attention_grad([q, k, v, g], *causal, *scale, device))
        }
        Op::CausalMask { fill } => one(attention::causal_mask(i.float()?, *fill, device)),
        Op::Softmax { axis } => one(attention::softmax(i.float()?, *axis)),
        Op::SoftmaxGrad { axis } => one(attention::softmax_grad(i.float()?, i.float()?, *axis)),
        Op::LayerNorm { eps } => {
            three(norm::layer_norm(i.float()?, i.float()?, i.float()?, *eps, device))
        }
        Op::LayerNormGrad => three(norm::layer_norm_grad(
            [i.float()?, i.float()?, i.float()?, i.float()?, i.float()?],
            device,
        )),
        Op::BatchNorm { eps } => {
            three(norm::batch_norm(i.float()?, i.float()?, i.float()?, *eps, device))
        }
        Op::BatchNormGrad { eps } => {
            three(norm::batch_norm_grad(i.float()?, i.float()?, i.float()?, *eps, device))
        }
        Op::BatchNormInference { eps } => one(norm::batch_norm_inference(
            [i.float()?, i.float()?, i.float()?, i.float()?, i.float()?],
            *eps,
        )),
        Op::Relu => one(activation::relu(i.float()?)),
        Op::ReluGrad => one(activation::relu_grad(i.float()?, i.float()?, device)),
        Op::Gelu(Gelu::Tanh) => one(activation::gelu_tanh(i.float()?, device)),
        Op::Gelu(Gelu::Erf) => one(activation::gelu_erf(i.float()?)),
        Op::GeluGrad(Gelu::Tanh) => one(activation::gelu_tanh_grad(i.float()?, i.float()?, device)),
        Op::GeluGrad(Gelu::Erf) => one(activation::gelu_erf_grad(i.float()?, i.float()?)),
        Op::Dropout { rate, stream } => {
            one(activation::dropout(i.float()?, context.key(*stream), *rate, device))
        }
        Op::Add => one(i.float()?.add(i.float()?)),
        Op::Sub => one(i.float()?.sub(i.float()?)),
        Op::Mul => one(i.float()?.mul(i.float()?)),
        Op::Div => one(i.float()?.div(i.float()?)),
        Op::Scale { factor } => one(i.float()?.scale(*factor)),
        Op::Shift { term } => one(i.float()?.shift(*term)),
        Op::Exp => one(i.float()?.exp()),
        Op::Log => one(i.float()?.log()),
        Op::Sqrt => one(i.float()?.sqrt()),
        Op::Tanh => one(i.float()?.tanh()),
        Op::Sigmoid => one(activation::sigmoid(i.float()?)),
        Op::AddN => one(shape::add_n(i.floats()?)?),
        Op::Reshape { shape } => one(i.float()?.reshape(shape)),
        Op::Transpose { perm } => one(shape::transpose(i.float()?, perm)),
        Op::Slice { axis, start, end } => one(i.float()?.slice(*axis, *start, *end)),
        Op::Unslice { axis, start, len } => {
            one(shape::unslice(i.float()?, *axis, *start, *len, device))
        }
        Op::Concat { axis } => one(Float::concat(i.floats()?, *axis)),
        Op::Expand { shape } => one(shape::expand(i.float()?, shape, device)),
        Op::SumTo { shape } => one(shape::sum_to(i.float()?, shape)),
        Op::ReduceSum { axes, keep } => one(shape::reduce_sum(i.float()?, axes, *keep)),
        Op::ReduceMean { axes, keep } => one(shape::reduce_mean(i.float()?, axes, *keep)),
        Op::Conv2d(conv) => {
            let (x, w) = (i.float()?, i.float()?);
            let bias = if count > 2 { Some(i.float()?) } else { None };
            one(conv::conv2d(x, w, bias, conv))
        }
        Op::Conv2dInputGrad { conv, shape } => {
            one(conv::input_grad(i.float()?, i.float()?, conv, shape, device))
        }
        Op::Conv2dWeightGrad { conv, shape } => {
            one(conv::weight_grad(i.float()?, i.float()?, conv, shape, device))
        }
        Op::MaxPool2d(pool) => one(conv::max_pool(i.float()?, pool)),
        Op::MaxPool2dGrad(pool) => one(conv::max_pool_grad(i.float()?, i.float()?, pool, device)),
        Op::AvgPool2d(pool) => one(conv::avg_pool(i.float()?, pool)),
        Op::AvgPool2dGrad { pool, shape } => {
            one(conv::avg_pool_grad(i.float()?, pool, shape, device))
        }
        Op::CrossEntropy => one(loss::cross_entropy(i.float()?, i.int()?, device)?),
        Op::CrossEntropyGrad => {
            one(loss::cross_entropy_grad(i.float()?, i.int()?, i.float()?, device)?)
        }
        Op::Fill { shape, value } => one(Float::full(*value, shape, device)),
    };
    Ok(out.into_iter().map(Tensor::Float).collect())
}
