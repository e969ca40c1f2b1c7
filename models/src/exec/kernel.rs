//! One kernel an operator: [`eval`] maps an [`Op`] to burn primitives, or to a hot loop of [`super::host`] where the
//! tensors lie in host memory.
//!
//! Kernels trust shapes (the Dag was checked before) but not values: an id outside its table is an error.
//! Reading order: [`linear`], [`attention`], [`recurrent`], [`norm`], [`activation`], [`elements`], [`conv`], [`shape`], [`any`],
//! [`index`], [`loss`].

pub mod activation;
pub mod any;
pub mod attention;
pub mod conv;
pub mod elements;
pub mod index;
pub mod linear;
pub mod loss;
pub mod norm;
pub mod origin;
pub mod recurrent;
pub mod shape;

use burn_backend::Backend;
use burn_backend::tensor::{Device, IntTensor};
use wattle_protocol::dag::op::{Gelu, Op};
use wattle_protocol::swarm::io::TaskError;

use self::any::Arithmetic;
use self::attention::general;
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

    /// Takes so many floats.
    fn array<const N: usize>(&mut self) -> Result<[Float<B>; N], TaskError> {
        let floats = (0..N).map(|_| self.float()).collect::<Result<Vec<_>, _>>()?;
        floats.try_into().map_err(|_| TaskError::Missing("an operand".into()))
    }

    fn rest(self) -> Vec<Tensor<B>> {
        self.0.collect()
    }

    fn floats(self) -> Result<Vec<Float<B>>, TaskError> {
        self.0.map(Tensor::into_float).collect()
    }
}

fn two<B: Backend>((a, b): (Float<B>, Float<B>)) -> Vec<Tensor<B>> {
    vec![Tensor::Float(a), Tensor::Float(b)]
}

fn each<B: Backend>(floats: Vec<Float<B>>) -> Vec<Tensor<B>> {
    floats.into_iter().map(Tensor::Float).collect()
}

fn three<B: Backend>((a, b, c): (Float<B>, Float<B>, Float<B>)) -> Vec<Tensor<B>> {
    vec![Tensor::Float(a), Tensor::Float(b), Tensor::Float(c)]
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
    let one = |t: Float<B>| vec![Tensor::Float(t)];
    Ok(match op {
        Op::MatMul { transpose_a, transpose_b } => {
            one(linear::matmul(i.float()?, i.float()?, *transpose_a, *transpose_b))
        }
        Op::Linear => {
            let (x, w) = (i.float()?, i.float()?);
            let bias = if count > 2 { Some(i.float()?) } else { None };
            one(linear::linear(x, w, bias, device))
        }
        Op::LinearWeightGrad => one(linear::weight_grad(i.float()?, i.float()?)),
        Op::Embedding => one(linear::embedding(i.float()?, i.int()?, device)?),
        Op::EmbeddingGrad { rows } => {
            one(linear::embedding_grad(i.int()?, i.float()?, *rows, device)?)
        }
        Op::Attention { causal, scale } => attend(i, (*causal, *scale), device)?,
        Op::AttentionGrad { causal, scale, mask_grad } => {
            attend_back(i, (*causal, *scale), *mask_grad, device)?
        }
        Op::CausalMask { fill } => one(attention::causal_mask(i.float()?, *fill, device)),
        Op::Softmax { axis } => one(attention::softmax(i.float()?, *axis, device)),
        Op::SoftmaxGrad { axis } => {
            one(attention::softmax_grad(i.float()?, i.float()?, *axis, device))
        }
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
        Op::Relu => one(activation::relu(i.float()?, device)),
        Op::ReluGrad => one(activation::relu_grad(i.float()?, i.float()?, device)),
        Op::Gelu(Gelu::Tanh) => one(activation::gelu_tanh(i.float()?, device)),
        Op::Gelu(Gelu::Erf) => one(activation::gelu_erf(i.float()?)),
        Op::GeluGrad(Gelu::Tanh) => one(activation::gelu_tanh_grad(i.float()?, i.float()?, device)),
        Op::GeluGrad(Gelu::Erf) => one(activation::gelu_erf_grad(i.float()?, i.float()?)),
        Op::Dropout { rate, stream } => {
            one(activation::dropout(i.float()?, context.key(*stream), *rate, device))
        }
        Op::Add => vec![any::arithmetic(i.next()?, i.next()?, Arithmetic::Add)?],
        Op::Sub => vec![any::arithmetic(i.next()?, i.next()?, Arithmetic::Sub)?],
        Op::Mul => vec![any::arithmetic(i.next()?, i.next()?, Arithmetic::Mul)?],
        Op::Div => vec![any::arithmetic(i.next()?, i.next()?, Arithmetic::Div)?],
        Op::Scale { factor } => one(i.float()?.scale(*factor)),
        Op::Shift { term } => one(i.float()?.shift(*term)),
        Op::Unary(function) => one(elements::unary(i.float()?, *function, device)),
        Op::Binary(function) => {
            vec![elements::binary(i.next()?, i.next()?, *function, device)?]
        }
        Op::Compare(comparison) => {
            vec![elements::compare(i.next()?, i.next()?, *comparison, device)?]
        }
        Op::Where => vec![elements::choose(i.int()?, i.next()?, i.next()?, device)?],
        Op::Cast { dtype } => vec![elements::cast(i.next()?, *dtype, device)],
        Op::Iota { shape, axis } => vec![index::iota(shape, *axis, device)],
        Op::Literal { shape, numbers } => vec![index::literal(shape, numbers, device)],
        Op::Gather { axis } => vec![index::gather(i.next()?, i.int()?, *axis)?],
        Op::GatherGrad { axis, len } => {
            one(index::gather_grad(i.int()?, i.float()?, *axis, *len, device)?)
        }
        Op::GatherElements { axis } => {
            vec![index::gather_elements(i.next()?, i.int()?, *axis)?]
        }
        Op::ScatterElements { axis, add } => {
            let (x, ids, updates) = (i.next()?, i.int()?, i.next()?);
            vec![index::scatter_elements(x, ids, updates, (*axis, *add), device)?]
        }
        Op::TopK { axis, k, smallest } => index::top_k(i.float()?, (*axis, *k, *smallest), device)?,
        Op::CumSum { axis, exclusive, reverse } => {
            one(index::cum_sum(i.float()?, (*axis, *exclusive, *reverse), device))
        }
        Op::LogSoftmax { axis } => one(attention::log_softmax(i.float()?, *axis, device)),
        Op::RmsNorm { eps } => two(norm::rms_norm(i.float()?, i.float()?, *eps, device)),
        Op::RmsNormGrad => {
            two(norm::rms_norm_grad([i.float()?, i.float()?, i.float()?, i.float()?], device))
        }
        Op::Rotary(rotary) => one(index::rotary(i.float()?, rotary, device)),
        Op::AddN => one(shape::add_n(i.floats()?)?),
        Op::Reshape { shape } => vec![any::reshape(i.next()?, shape)],
        Op::Transpose { perm } => vec![any::transpose(i.next()?, perm)],
        Op::Slice { axis, start, end } => vec![any::slice(i.next()?, *axis, *start, *end)],
        Op::Unslice { axis, start, len } => {
            vec![any::unslice(i.next()?, *axis, *start, *len, device)]
        }
        Op::Concat { axis } => vec![any::concat(i.rest(), *axis)?],
        Op::Expand { shape } => vec![any::expand(i.next()?, shape, device)],
        Op::SumTo { shape } => one(shape::sum_to(i.float()?, shape)),
        Op::ReduceSum { axes, keep } => vec![any::reduce_sum(i.next()?, axes, *keep)],
        Op::ReduceMean { axes, keep } => one(shape::reduce_mean(i.float()?, axes, *keep)),
        Op::ReduceMax { axes, keep } => one(shape::reduce_max(i.float()?, axes, *keep)),
        Op::Conv2d(conv) => {
            let (x, w) = (i.float()?, i.float()?);
            let bias = if count > 2 { Some(i.float()?) } else { None };
            one(conv::conv2d(x, w, bias, conv, device))
        }
        Op::Conv2dInputGrad { conv, shape } => {
            one(conv::input_grad(i.float()?, i.float()?, conv, shape, device))
        }
        Op::Conv2dWeightGrad { conv, shape } => {
            one(conv::weight_grad(i.float()?, i.float()?, conv, shape, device))
        }
        Op::MaxPool2d(pool) => one(conv::max_pool(i.float()?, pool, device)),
        Op::MaxPool2dGrad(pool) => one(conv::max_pool_grad(i.float()?, i.float()?, pool, device)),
        Op::AvgPool2d(pool) => one(conv::avg_pool(i.float()?, pool)),
        Op::AvgPool2dGrad { pool, shape } => {
            one(conv::avg_pool_grad(i.float()?, pool, shape, device))
        }
        Op::CrossEntropy(targets) => {
            one(loss::cross_entropy(i.float()?, i.int()?, targets, device)?)
        }
        Op::CrossEntropyGrad(targets) => {
            one(loss::cross_entropy_grad(i.float()?, i.int()?, i.float()?, targets, device)?)
        }
        Op::Fill { shape, value } => one(Float::full(*value, shape, device)),
        Op::Lstm => two(recurrent::lstm::forward(i.array()?, device)?),
        Op::LstmGrad => each(recurrent::lstm::backward(i.array()?, device)?),
        Op::Gru => two(recurrent::gru::forward(i.array()?, device)?),
        Op::GruGrad => each(recurrent::gru::backward(i.array()?, device)?),
    })
}

/// Attention: plain, or with a mask, other key lengths or grouped heads.
fn attend<B: HostBackend>(
    mut i: Operands<B>,
    (causal, scale): (bool, f32),
    device: &Device<B>,
) -> Result<Vec<Tensor<B>>, TaskError> {
    let (q, k, v) = (i.float()?, i.float()?, i.float()?);
    let mask = i.floats()?.into_iter().next();
    if general::is_plain([&q, &k, &v], mask.as_ref()) {
        return Ok(vec![Tensor::Float(attention::attention(q, k, v, causal, scale, device))]);
    }
    let settings = general::Settings { causal, scale };
    Ok(vec![Tensor::Float(general::attention([q, k, v], mask, settings, device)?)])
}

fn attend_back<B: HostBackend>(
    mut i: Operands<B>,
    (causal, scale): (bool, f32),
    mask_grad: bool,
    device: &Device<B>,
) -> Result<Vec<Tensor<B>>, TaskError> {
    let (q, k, v) = (i.float()?, i.float()?, i.float()?);
    let mut rest = i.floats()?;
    let g = rest.pop().ok_or_else(|| TaskError::Missing("a cotangent".into()))?;
    let mask = rest.pop();
    if general::is_plain([&q, &k, &v], mask.as_ref()) {
        return Ok(three(attention::attention_grad([q, k, v, g], causal, scale, device)));
    }
    let settings = (general::Settings { causal, scale }, mask_grad);
    Ok(each(general::attention_grad([q, k, v], mask, g, settings, device)?))
}
