//! Functions of one and of two numbers, comparisons, choices and casts, element by element.

use burn_backend::get_or_init_device_settings;
use burn_backend::tensor::{BoolTensor, Device, IntTensor};
use burn_backend::{BoolDType, FloatDType, Shape, TensorMetadata};
use wattle_protocol::dag::Dtype;
use wattle_protocol::dag::op::{Binary, Comparison, Unary};
use wattle_protocol::swarm::io::TaskError;

use super::activation;
use crate::exec::tensor::{Float, HostBackend, Tensor, scalar};

/// A function of one number.
pub fn unary<B: HostBackend>(x: Float<B>, function: Unary, device: &Device<B>) -> Float<B> {
    match function {
        Unary::Exp => x.exp(),
        Unary::Log => x.log(),
        Unary::Sqrt => x.sqrt(),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => activation::sigmoid(x, device),
        Unary::Sin => Float(B::float_sin(x.0)),
        Unary::Cos => Float(B::float_cos(x.0)),
        Unary::Asin | Unary::Acos => arc(x, function, device),
        Unary::Atan => Float(B::float_atan(x.0)),
        Unary::Erf => Float(B::float_erf(x.0)),
        Unary::Abs => Float(B::float_abs(x.0)),
        Unary::Sign => Float(B::float_sign(x.0)),
        Unary::Floor => Float(B::float_floor(x.0)),
        Unary::Ceil => Float(B::float_ceil(x.0)),
        Unary::Round => round(x, device),
    }
}

/// Arc sine or cosine. Shaders' own are off by some 1e-4, their arc tangent is not: the angle of the triangle's sides.
fn arc<B: HostBackend>(x: Float<B>, function: Unary, device: &Device<B>) -> Float<B> {
    if let Some(values) = x.host() {
        let f: fn(f32) -> f32 = if function == Unary::Asin { f32::asin } else { f32::acos };
        return Float::new(values.iter().map(|v| f(*v)).collect(), &x.shape(), device);
    }
    let less = x.clone().scale(-1.0).shift(1.0);
    let other = less.mul(x.clone().shift(1.0)).sqrt();
    match function {
        Unary::Asin => Float(B::float_atan2(x.0, other.0)),
        _ => Float(B::float_atan2(other.0, x.0)),
    }
}

/// To the nearest integer, halves to the even one. Shaders round halves as they like, so those are mended.
fn round<B: HostBackend>(x: Float<B>, device: &Device<B>) -> Float<B> {
    if let Some(values) = x.host() {
        let rounded = values.iter().map(|v| v.round_ties_even()).collect();
        return Float::new(rounded, &x.shape(), device);
    }
    let below = Float::<B>(B::float_floor(x.0.clone()));
    let part = x.sub(below.clone());
    let odd = below.clone().sub(Float(B::float_floor(below.clone().scale(0.5).0)).scale(2.0));
    // Up where the fraction is above a half, or is a half and what lies below is odd.
    let above = mask_float(greater(part.clone(), 0.5, device), device);
    let half = mask_float(equal_number(part, 0.5, device), device);
    below.add(above).add(half.mul(odd))
}

fn greater<B: HostBackend>(x: Float<B>, number: f32, device: &Device<B>) -> BoolTensor<B> {
    let bools = get_or_init_device_settings::<B>(device).bool_dtype;
    B::float_greater_elem(x.0, scalar(number), bools)
}

fn equal_number<B: HostBackend>(x: Float<B>, number: f32, device: &Device<B>) -> BoolTensor<B> {
    let bools = get_or_init_device_settings::<B>(device).bool_dtype;
    B::float_equal_elem(x.0, scalar(number), bools)
}

fn mask_float<B: HostBackend>(mask: BoolTensor<B>, _: &Device<B>) -> Float<B> {
    Float(B::bool_into_float(mask, FloatDType::F32))
}

/// Returns the shape to which two shapes broadcast; shape inference has made sure that they do.
pub fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let at = |shape: &[usize], axis: usize| {
        let lead = rank - shape.len();
        if axis < lead { 1 } else { shape[axis - lead] }
    };
    (0..rank).map(|axis| at(a, axis).max(at(b, axis))).collect()
}

/// Stretches integers, adding leading axes.
pub fn expand_int<B: HostBackend>(x: IntTensor<B>, shape: &[usize]) -> IntTensor<B> {
    let own = x.shape().to_vec();
    let mut padded = vec![1; shape.len().saturating_sub(own.len())];
    padded.extend(own);
    B::int_expand(B::int_reshape(x, Shape::from(padded)), Shape::from(shape.to_vec()))
}

/// Stretches two tensors of one dtype to a common shape.
fn alike<B: HostBackend>(a: Tensor<B>, b: Tensor<B>) -> Result<Pair<B>, TaskError> {
    let shape = broadcast(&a.shape(), &b.shape());
    match (a, b) {
        (Tensor::Float(a), Tensor::Float(b)) => {
            Ok(Pair::Floats(a.expand(&shape), b.expand(&shape)))
        }
        (Tensor::Int(a), Tensor::Int(b)) => {
            Ok(Pair::Ints(expand_int::<B>(a, &shape), expand_int::<B>(b, &shape)))
        }
        _ => Err(TaskError::Missing("two operands of one dtype".into())),
    }
}

enum Pair<B: HostBackend> {
    Floats(Float<B>, Float<B>),
    Ints(IntTensor<B>, IntTensor<B>),
}

/// A function of two numbers.
///
/// *Errors*: [`TaskError::Missing`] for operands of different dtypes.
pub fn binary<B: HostBackend>(
    a: Tensor<B>,
    b: Tensor<B>,
    function: Binary,
    device: &Device<B>,
) -> Result<Tensor<B>, TaskError> {
    let bools = get_or_init_device_settings::<B>(device).bool_dtype;
    let pair = alike(a, b)?;
    if let Some(done) = on_host(&pair, function, device) {
        return Ok(done);
    }
    Ok(match (pair, function) {
        (Pair::Floats(a, b), Binary::Pow) => Tensor::Float(Float(B::float_powf(a.0, b.0))),
        (Pair::Floats(a, b), Binary::Atan2) => Tensor::Float(Float(B::float_atan2(a.0, b.0))),
        (Pair::Floats(a, b), Binary::Max) => {
            let other = B::float_lower(a.0.clone(), b.0.clone(), bools);
            Tensor::Float(Float(B::float_mask_where(a.0, other, b.0)))
        }
        (Pair::Floats(a, b), Binary::Min) => {
            let other = B::float_lower(b.0.clone(), a.0.clone(), bools);
            Tensor::Float(Float(B::float_mask_where(a.0, other, b.0)))
        }
        (Pair::Floats(a, b), Binary::Remainder) => {
            // a - b trunc(a / b): the primitive's own remainder has the sign of b.
            let ratio = a.clone().div(b.clone());
            let size = Float(B::float_floor(B::float_abs(ratio.0.clone())));
            let whole = size.mul(Float(B::float_sign(ratio.0)));
            Tensor::Float(a.sub(b.mul(whole)))
        }
        (Pair::Ints(a, b), Binary::Max) => {
            let other = B::int_lower(a.clone(), b.clone(), bools);
            Tensor::Int(B::int_mask_where(a, other, b))
        }
        (Pair::Ints(a, b), Binary::Min) => {
            let other = B::int_lower(b.clone(), a.clone(), bools);
            Tensor::Int(B::int_mask_where(a, other, b))
        }
        (Pair::Ints(a, b), Binary::Remainder) => Tensor::Int(int_remainder::<B>(a, b, bools)),
        (Pair::Ints(..), Binary::Pow | Binary::Atan2) => {
            return Err(TaskError::Missing("a float operand (it is an integer one)".into()));
        }
    })
}

/// `a - b trunc(a / b)`; 0 where b is 0. Where b is -1 the quotient of the least integer would not be one.
fn int_remainder<B: HostBackend>(
    a: IntTensor<B>,
    b: IntTensor<B>,
    bools: BoolDType,
) -> IntTensor<B> {
    let one = |b: IntTensor<B>, number: i64| {
        let mask = B::int_equal_elem(b.clone(), number.into(), bools);
        B::int_mask_fill(b, mask, 1i64.into())
    };
    let b = one(one(b, 0), -1);
    B::int_sub(a.clone(), B::int_mul(B::int_div(a, b.clone()), b))
}

/// Functions whose rules for halves, signs and NaN only a host keeps to, where the floats lie there.
fn on_host<B: HostBackend>(
    pair: &Pair<B>,
    function: Binary,
    device: &Device<B>,
) -> Option<Tensor<B>> {
    let Pair::Floats(a, b) = pair else {
        return None;
    };
    let (shape, a, b) = (a.shape(), a.host()?, b.host()?);
    let values = match function {
        Binary::Pow => each(&a, &b, f32::powf),
        Binary::Atan2 => each(&a, &b, f32::atan2),
        Binary::Remainder => each(&a, &b, |a, b| a % b),
        // A comparison with NaN is false: b is asked for by itself.
        Binary::Max => each(&a, &b, |a, b| if a < b || b.is_nan() { b } else { a }),
        Binary::Min => each(&a, &b, |a, b| if b < a || b.is_nan() { b } else { a }),
    };
    Some(Tensor::floats(values, &shape, device))
}

fn each(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
}

/// A mask of 0 and 1.
///
/// *Errors*: [`TaskError::Missing`] for operands of different dtypes.
pub fn compare<B: HostBackend>(
    a: Tensor<B>,
    b: Tensor<B>,
    comparison: Comparison,
    device: &Device<B>,
) -> Result<Tensor<B>, TaskError> {
    let settings = get_or_init_device_settings::<B>(device);
    let bools = settings.bool_dtype;
    let mask = match (alike(a, b)?, comparison) {
        (Pair::Floats(a, b), Comparison::Equal) => B::float_equal(a.0, b.0, bools),
        (Pair::Floats(a, b), Comparison::Less) => B::float_lower(a.0, b.0, bools),
        (Pair::Floats(a, b), Comparison::LessEqual) => B::float_lower_equal(a.0, b.0, bools),
        (Pair::Ints(a, b), Comparison::Equal) => B::int_equal(a, b, bools),
        (Pair::Ints(a, b), Comparison::Less) => B::int_lower(a, b, bools),
        (Pair::Ints(a, b), Comparison::LessEqual) => B::int_lower_equal(a, b, bools),
    };
    Ok(Tensor::Int(B::bool_into_int(mask, settings.int_dtype)))
}

/// a where the mask is not 0, else b.
///
/// *Errors*: [`TaskError::Missing`] for operands of different dtypes.
pub fn choose<B: HostBackend>(
    mask: IntTensor<B>,
    a: Tensor<B>,
    b: Tensor<B>,
    device: &Device<B>,
) -> Result<Tensor<B>, TaskError> {
    let bools = get_or_init_device_settings::<B>(device).bool_dtype;
    let shape = broadcast(&mask.shape().to_vec(), &broadcast(&a.shape(), &b.shape()));
    let zero = B::int_equal_elem(expand_int::<B>(mask, &shape), 0i64.into(), bools);
    Ok(match alike(a, b)? {
        Pair::Floats(a, b) => {
            let (a, b) = (a.expand(&shape), b.expand(&shape));
            Tensor::Float(Float(B::float_mask_where(a.0, zero, b.0)))
        }
        Pair::Ints(a, b) => {
            let (a, b) = (expand_int::<B>(a, &shape), expand_int::<B>(b, &shape));
            Tensor::Int(B::int_mask_where(a, zero, b))
        }
    })
}

/// The same numbers as another dtype; fractions are dropped.
pub fn cast<B: HostBackend>(x: Tensor<B>, dtype: Dtype, device: &Device<B>) -> Tensor<B> {
    let ints = get_or_init_device_settings::<B>(device).int_dtype;
    match (x, dtype) {
        (Tensor::Float(x), Dtype::I32) => Tensor::Int(B::float_into_int(x.0, ints)),
        (Tensor::Int(x), Dtype::F32 | Dtype::F16 | Dtype::Bf16) => {
            Tensor::Float(Float(B::int_into_float(x, FloatDType::F32)))
        }
        (same, _) => same,
    }
}
