//! Tensors at burn's primitive level, where rank is dynamic.
//!
//! [`Float`] wraps a float primitive with the arithmetic that kernels need; [`memory`] is the door to the elements of
//! tensors that lie in host memory. A scalar is a tensor of shape `[1]` here, since not every device has tensors of
//! rank 0.

pub mod memory;

use burn_backend::tensor::{Device, FloatTensor, IntTensor};
use burn_backend::{
    Backend, DType, ExecutionError, FloatDType, Scalar, Shape, Slice, TensorData, TensorMetadata,
    get_or_init_device_settings,
};
use wattle_protocol::swarm::io::TaskError;

pub use self::memory::HostBackend;
use self::memory::{HostFloats, HostSlice};
use super::failure::device_error;
use super::host::elements::{Pairing, combine, map};
use super::traffic;

/// Waits for a device's data.
fn read(
    data: impl Future<Output = Result<TensorData, ExecutionError>>,
) -> Result<TensorData, TaskError> {
    traffic::waits();
    let data = burn_backend::try_read_sync(data);
    data.ok_or_else(|| TaskError::DeviceLost("the device did not hand its data over".into()))?
        .map_err(|e| device_error(&e))
}

/// Returns the shape under which a tensor of this fact is kept: scalars are `[1]`.
pub fn kept_shape(shape: &[usize]) -> &[usize] {
    if shape.is_empty() { &[1] } else { shape }
}

/// A tensor of floats or of integers.
#[derive(Clone, Debug)]
pub enum Tensor<B: Backend> {
    /// Single-precision floats.
    Float(Float<B>),
    /// 32-bit integers.
    Int(IntTensor<B>),
}

impl<B: HostBackend> Tensor<B> {
    /// Uploads floats.
    pub fn floats(values: Vec<f32>, shape: &[usize], device: &Device<B>) -> Self {
        Self::Float(Float::new(values, shape, device))
    }

    /// Uploads integers.
    pub fn ints(values: Vec<i32>, shape: &[usize], device: &Device<B>) -> Self {
        let want = get_or_init_device_settings::<B>(device).int_dtype;
        traffic::uploads();
        let data = TensorData::new(values, Shape::from(kept_shape(shape).to_vec()));
        Self::Int(B::int_from_data(data.convert_dtype(DType::from(want)), device))
    }

    /// Returns the shape.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Float(tensor) => tensor.shape(),
            Self::Int(tensor) => tensor.shape().to_vec(),
        }
    }

    /// Returns the floats, or says that these are none.
    ///
    /// *Errors*: [`TaskError::Missing`] for integers.
    pub fn into_float(self) -> Result<Float<B>, TaskError> {
        match self {
            Self::Float(tensor) => Ok(tensor),
            Self::Int(_) => {
                Err(TaskError::Missing("a float operand (it is an integer one)".into()))
            }
        }
    }

    /// Returns the integers, or says that these are none.
    ///
    /// *Errors*: [`TaskError::Missing`] for floats.
    pub fn into_int(self) -> Result<IntTensor<B>, TaskError> {
        match self {
            Self::Int(tensor) => Ok(tensor),
            Self::Float(_) => {
                Err(TaskError::Missing("an integer operand (it is a float one)".into()))
            }
        }
    }
}

/// Reads integers back.
///
/// *Errors*: the device's.
pub fn int_values<B: HostBackend>(tensor: IntTensor<B>) -> Result<Vec<i32>, TaskError> {
    if let Some(host) = B::host_int(&tensor) {
        return Ok(host.to_vec());
    }
    let data = read(B::int_into_data(tensor))?;
    data.convert_dtype(DType::I32)
        .try_to_vec::<i32>()
        .map_err(|e| TaskError::DeviceLost(format!("{e:?}")))
}

/// A float tensor with the arithmetic that kernels are written in.
#[derive(Clone, Debug)]
pub struct Float<B: Backend>(pub FloatTensor<B>);

#[expect(
    clippy::should_implement_trait,
    reason = "named as burn's primitives are, which consume both operands and broadcast"
)]
impl<B: HostBackend> Float<B> {
    /// Uploads values.
    pub fn new(values: Vec<f32>, shape: &[usize], device: &Device<B>) -> Self {
        traffic::uploads();
        let data = TensorData::new(values, Shape::from(kept_shape(shape).to_vec()));
        Self(B::float_from_data(data, device))
    }

    /// Makes a tensor of equal elements.
    pub fn full(value: f32, shape: &[usize], device: &Device<B>) -> Self {
        let shape = Shape::from(kept_shape(shape).to_vec());
        Self(B::float_full(shape, scalar(value), device, FloatDType::F32))
    }

    /// Returns the shape.
    pub fn shape(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    /// Returns the number of axes.
    pub fn rank(&self) -> usize {
        self.0.rank()
    }

    /// Returns the elements if they lie in host memory.
    pub fn host(&self) -> Option<HostSlice> {
        B::host(&self.0)
    }

    /// Reads the elements back.
    ///
    /// *Errors*: the device's.
    pub fn values(self) -> Result<Vec<f32>, TaskError> {
        if let Some(host) = self.host() {
            return Ok(host.to_vec());
        }
        let data = read(B::float_into_data(self.0))?;
        data.try_to_vec::<f32>().map_err(|e| TaskError::DeviceLost(format!("{e:?}")))
    }

    /// Takes the elements, and with them their memory where nothing else holds it, if they lie in host memory.
    ///
    /// *Errors*: the tensor, where they do not.
    pub fn take(self) -> Result<HostFloats, Self> {
        B::take(self.0).map_err(Self)
    }

    /// The same, with a copy of elements that something else holds.
    ///
    /// *Errors*: the tensor, where they do not lie in host memory.
    pub fn into_host(self) -> Result<Vec<f32>, Self> {
        self.take().map(HostFloats::into_vec)
    }

    /// Views the elements under another shape.
    pub fn reshape(self, shape: &[usize]) -> Self {
        Self(B::float_reshape(self.0, Shape::from(kept_shape(shape).to_vec())))
    }

    /// Adds leading axes of length 1 up to a rank.
    pub fn pad_rank(self, rank: usize) -> Self {
        let shape = self.shape();
        if shape.len() >= rank {
            return self;
        }
        let mut padded = vec![1; rank - shape.len()];
        padded.extend(shape);
        self.reshape(&padded)
    }

    /// Stretches axes of length 1.
    pub fn expand(self, shape: &[usize]) -> Self {
        let shape = kept_shape(shape);
        Self(B::float_expand(self.pad_rank(shape.len()).0, Shape::from(shape.to_vec())))
    }

    /// Reorders axes.
    pub fn permute(self, axes: &[usize]) -> Self {
        Self(B::float_permute(self.0, axes))
    }

    /// Swaps the last two axes.
    pub fn transpose(self) -> Self {
        let rank = self.rank();
        Self(B::float_swap_dims(self.0, rank - 2, rank - 1))
    }

    /// Keeps `start..end` of one axis.
    pub fn slice(self, axis: usize, start: usize, end: usize) -> Self {
        let slices = axis_slices(self.rank(), axis, start, end);
        Self(B::float_slice(self.0, &slices))
    }

    /// Writes `part` over `start..` of one axis.
    pub fn assign(self, axis: usize, start: usize, part: Self) -> Self {
        let end = start + part.shape()[axis];
        let slices = axis_slices(self.rank(), axis, start, end);
        Self(B::float_slice_assign(self.0, &slices, part.0))
    }

    /// Joins tensors along one axis.
    pub fn concat(parts: Vec<Self>, axis: usize) -> Self {
        Self(B::float_cat(parts.into_iter().map(|p| p.0).collect(), axis))
    }

    fn binary(
        self,
        other: Self,
        f: impl FnOnce(FloatTensor<B>, FloatTensor<B>) -> FloatTensor<B>,
    ) -> Self {
        let rank = self.rank().max(other.rank());
        Self(f(self.pad_rank(rank).0, other.pad_rank(rank).0))
    }

    /// The same with the numbers' own function, which serves where both tensors lie in host memory.
    fn arithmetic(
        self,
        other: Self,
        on_host: impl Fn(f32, f32) -> f32 + Sync,
        f: impl FnOnce(FloatTensor<B>, FloatTensor<B>) -> FloatTensor<B>,
    ) -> Self {
        let Some(pairing) = Pairing::of(&self.shape(), &other.shape()) else {
            return self.binary(other, f);
        };
        let shape = if pairing.is_left_spread() { other.shape() } else { self.shape() };
        let device = self.0.device();
        match both(self, other) {
            Ok([a, b]) => Self::new(combine(a, b, pairing, on_host), &shape, &device),
            Err((a, b)) => a.binary(b, f),
        }
    }

    /// Adds, broadcasting.
    pub fn add(self, other: Self) -> Self {
        self.arithmetic(other, |a, b| a + b, B::float_add)
    }

    /// Subtracts, broadcasting.
    pub fn sub(self, other: Self) -> Self {
        self.arithmetic(other, |a, b| a - b, B::float_sub)
    }

    /// Multiplies, broadcasting.
    pub fn mul(self, other: Self) -> Self {
        self.arithmetic(other, |a, b| a * b, B::float_mul)
    }

    /// Divides, broadcasting.
    pub fn div(self, other: Self) -> Self {
        self.arithmetic(other, |a, b| a / b, B::float_div)
    }

    /// Matrix product over the last two axes, broadcasting the others.
    pub fn matmul(self, other: Self) -> Self {
        self.binary(other, B::float_matmul)
    }

    /// `on_host` of each element, or `f` of the tensor where it does not lie in host memory.
    ///
    /// `work` is that of an element.
    pub fn map(
        self,
        work: usize,
        on_host: impl Fn(f32) -> f32 + Sync,
        f: impl FnOnce(FloatTensor<B>) -> FloatTensor<B>,
    ) -> Self {
        let (shape, device) = (self.shape(), self.0.device());
        match self.take() {
            Ok(own) => Self::new(map(own, work, on_host), &shape, &device),
            Err(this) => Self(f(this.0)),
        }
    }

    /// Multiplies by a number.
    pub fn scale(self, factor: f32) -> Self {
        self.map(1, |x| x * factor, |x| B::float_mul_scalar(x, scalar(factor)))
    }

    /// Adds a number.
    pub fn shift(self, term: f32) -> Self {
        self.map(1, |x| x + term, |x| B::float_add_scalar(x, scalar(term)))
    }

    /// `e^x`.
    pub fn exp(self) -> Self {
        Self(B::float_exp(self.0))
    }

    /// `ln x`.
    pub fn log(self) -> Self {
        Self(B::float_log(self.0))
    }

    /// Square root.
    pub fn sqrt(self) -> Self {
        Self(B::float_sqrt(self.0))
    }

    /// Hyperbolic tangent.
    pub fn tanh(self) -> Self {
        Self(B::float_tanh(self.0))
    }

    /// Sum over axes, which are kept with length 1.
    pub fn sum_axes(self, axes: &[usize]) -> Self {
        axes.iter().fold(self, |t, axis| Self(B::float_sum_dim(t.0, *axis)))
    }

    /// Mean over axes, which are kept with length 1.
    #[expect(clippy::cast_precision_loss, reason = "axis lengths are far below 2^24")]
    pub fn mean_axes(self, axes: &[usize]) -> Self {
        let shape = self.shape();
        let count: usize = axes.iter().map(|a| shape[*a]).product();
        self.sum_axes(axes).scale(1.0 / count as f32)
    }

    /// Maximum over one axis, which is kept with length 1.
    pub fn max_axis(self, axis: usize) -> Self {
        Self(B::float_max_dim(self.0, axis))
    }

    /// Replaces what is below a number by it.
    pub fn at_least(self, least: f32) -> Self {
        Self(B::float_clamp_min(self.0, scalar(least)))
    }

    /// Replaces elements by `value` where `of` is not above zero.
    pub fn fill_where_not_positive(self, of: Self, value: f32, device: &Device<B>) -> Self {
        let bools = get_or_init_device_settings::<B>(device).bool_dtype;
        let mask = B::float_lower_equal_elem(of.0, scalar(0.0), bools);
        Self(B::float_mask_fill(self.0, mask, scalar(value)))
    }
}

/// Takes the elements of two tensors as [`Float::take`] does.
///
/// *Errors*: the tensors, where they do not lie in host memory.
pub fn both<B: HostBackend>(
    a: Float<B>,
    b: Float<B>,
) -> Result<[HostFloats; 2], (Float<B>, Float<B>)> {
    match (a.take(), b.take()) {
        (Ok(a), Ok(b)) => Ok([a, b]),
        (Err(a), Err(b)) => Err((a, b)),
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => panic!("operands lie on one device"),
    }
}

/// Returns slices that keep `start..end` of one axis and everything of the others.
pub fn axis_slices(rank: usize, axis: usize, start: usize, end: usize) -> Vec<Slice> {
    (0..rank).map(|a| if a == axis { Slice::from(start..end) } else { Slice::from(..) }).collect()
}

/// Makes burn's scalar.
pub fn scalar(value: f32) -> Scalar {
    Scalar::Float(f64::from(value))
}
