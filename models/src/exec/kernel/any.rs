//! Operators that move or combine either dtype: one match on what the tensor holds, then burn's primitive for it.

use burn_backend::tensor::{Device, IntTensor};
use burn_backend::{Shape, TensorMetadata, get_or_init_device_settings};
use wattle_protocol::swarm::io::TaskError;

use super::elements::{broadcast, expand_int};
use super::shape;
use crate::exec::tensor::{Float, HostBackend, Tensor, axis_slices, kept_shape};

/// The four arithmetic operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`; integers towards zero.
    Div,
}

/// Combines two tensors of one dtype, broadcasting.
///
/// *Errors*: [`TaskError::Missing`] for different dtypes.
pub fn arithmetic<B: HostBackend>(
    a: Tensor<B>,
    b: Tensor<B>,
    operation: Arithmetic,
) -> Result<Tensor<B>, TaskError> {
    match (a, b) {
        (Tensor::Float(a), Tensor::Float(b)) => Ok(Tensor::Float(match operation {
            Arithmetic::Add => a.add(b),
            Arithmetic::Sub => a.sub(b),
            Arithmetic::Mul => a.mul(b),
            Arithmetic::Div => a.div(b),
        })),
        (Tensor::Int(a), Tensor::Int(b)) => {
            let shape = broadcast(&a.shape().to_vec(), &b.shape().to_vec());
            let (a, b) = (expand_int::<B>(a, &shape), expand_int::<B>(b, &shape));
            Ok(Tensor::Int(match operation {
                Arithmetic::Add => B::int_add(a, b),
                Arithmetic::Sub => B::int_sub(a, b),
                Arithmetic::Mul => B::int_mul(a, b),
                Arithmetic::Div => B::int_div(a, b),
            }))
        }
        _ => Err(TaskError::Missing("two operands of one dtype".into())),
    }
}

/// The same elements under another shape.
pub fn reshape<B: HostBackend>(x: Tensor<B>, shape: &[usize]) -> Tensor<B> {
    match x {
        Tensor::Float(x) => Tensor::Float(x.reshape(shape)),
        Tensor::Int(x) => Tensor::Int(B::int_reshape(x, Shape::from(kept_shape(shape).to_vec()))),
    }
}

/// Axes reordered.
pub fn transpose<B: HostBackend>(x: Tensor<B>, perm: &[usize]) -> Tensor<B> {
    match x {
        Tensor::Float(x) => Tensor::Float(shape::transpose(x, perm)),
        Tensor::Int(x) if perm.is_empty() => Tensor::Int(x),
        Tensor::Int(x) => Tensor::Int(B::int_permute(x, perm)),
    }
}

/// `start..end` of one axis.
pub fn slice<B: HostBackend>(x: Tensor<B>, axis: usize, start: usize, end: usize) -> Tensor<B> {
    match x {
        Tensor::Float(x) => Tensor::Float(x.slice(axis, start, end)),
        Tensor::Int(x) => {
            let slices = axis_slices(x.rank(), axis, start, end);
            Tensor::Int(B::int_slice(x, &slices))
        }
    }
}

/// Zeros with x at `start` of one axis.
pub fn unslice<B: HostBackend>(
    x: Tensor<B>,
    axis: usize,
    start: usize,
    len: usize,
    device: &Device<B>,
) -> Tensor<B> {
    match x {
        Tensor::Float(x) => Tensor::Float(shape::unslice(x, axis, start, len, device)),
        Tensor::Int(x) => {
            let mut full = x.shape().to_vec();
            let end = start + full[axis];
            full[axis] = len;
            let slices = axis_slices(full.len(), axis, start, end);
            let ints = get_or_init_device_settings::<B>(device).int_dtype;
            let zeros = B::int_zeros(Shape::from(full), device, ints);
            Tensor::Int(B::int_slice_assign(zeros, &slices, x))
        }
    }
}

/// Tensors joined along one axis.
///
/// *Errors*: [`TaskError::Missing`] for different dtypes.
pub fn concat<B: HostBackend>(parts: Vec<Tensor<B>>, axis: usize) -> Result<Tensor<B>, TaskError> {
    if matches!(parts.first(), Some(Tensor::Int(_))) {
        let parts = parts.into_iter().map(Tensor::into_int);
        let parts = parts.collect::<Result<Vec<IntTensor<B>>, _>>()?;
        return Ok(Tensor::Int(B::int_cat(parts, axis)));
    }
    let parts = parts.into_iter().map(Tensor::into_float).collect::<Result<Vec<Float<B>>, _>>()?;
    Ok(Tensor::Float(Float::concat(parts, axis)))
}

/// Axes of length 1 stretched.
pub fn expand<B: HostBackend>(x: Tensor<B>, shape: &[usize], device: &Device<B>) -> Tensor<B> {
    match x {
        Tensor::Float(x) => Tensor::Float(shape::expand(x, shape, device)),
        Tensor::Int(x) => Tensor::Int(expand_int::<B>(x, kept_shape(shape))),
    }
}

/// Sum over axes.
pub fn reduce_sum<B: HostBackend>(x: Tensor<B>, axes: &[usize], keep: bool) -> Tensor<B> {
    match x {
        Tensor::Float(x) => Tensor::Float(shape::reduce_sum(x, axes, keep)),
        Tensor::Int(x) => {
            let shape = shape::reduced(&x.shape().to_vec(), axes, keep);
            let sum = axes.iter().fold(x, |x, axis| B::int_sum_dim(x, *axis));
            Tensor::Int(B::int_reshape(sum, Shape::from(kept_shape(&shape).to_vec())))
        }
    }
}
