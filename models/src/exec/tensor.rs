//! Tensors at burn's primitive level, where rank is dynamic, and the door to their host memory.
//!
//! [`Float`] wraps a float primitive with the arithmetic that kernels need; [`HostBackend`] gives kernels of our own a
//! plain slice where a tensor lives in host memory. A scalar is a tensor of shape `[1]` here, since not every
//! device has tensors of rank 0.

use std::ops::Deref;

use burn::backend::flex::FlexTensor;
use burn::backend::{BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor, Flex};
use burn_backend::tensor::{Device, FloatTensor, IntTensor};
use burn_backend::{
    Backend, DType, ExecutionError, FloatDType, Scalar, Shape, Slice, TensorData, TensorMetadata,
    get_or_init_device_settings,
};
use wattle_protocol::swarm::io::TaskError;

use super::failure::device_error;
use super::traffic;

/// A backend whose tensors may lie in host memory.
pub trait HostBackend: Backend {
    /// Returns the elements of a float tensor if they lie in host memory.
    fn host(tensor: &FloatTensor<Self>) -> Option<HostSlice>;
    /// Returns the elements of an integer tensor if they lie in host memory.
    fn host_int(tensor: &IntTensor<Self>) -> Option<HostInts>;
}

impl HostBackend for Flex {
    fn host(tensor: &FloatTensor<Self>) -> Option<HostSlice> {
        HostSlice::new(tensor)
    }

    fn host_int(tensor: &IntTensor<Self>) -> Option<HostInts> {
        HostInts::new(tensor)
    }
}

impl HostBackend for Dispatch {
    fn host(tensor: &FloatTensor<Self>) -> Option<HostSlice> {
        match <DispatchTensor as DispatchKindConversion<Flex>>::try_into_backend(tensor.clone()) {
            Ok(BackendTensor::Float(tensor)) => HostSlice::new(&tensor),
            _ => None,
        }
    }

    fn host_int(tensor: &IntTensor<Self>) -> Option<HostInts> {
        match <DispatchTensor as DispatchKindConversion<Flex>>::try_into_backend(tensor.clone()) {
            Ok(BackendTensor::Int(tensor)) => HostInts::new(&tensor),
            _ => None,
        }
    }
}

/// Contiguous single-precision elements in host memory.
#[derive(Clone, Debug)]
pub struct HostSlice(FlexTensor);

impl HostSlice {
    fn new(tensor: &FlexTensor) -> Option<Self> {
        let tensor = tensor.to_contiguous();
        tensor.as_slice::<f32>().is_some().then_some(Self(tensor))
    }
}

impl Deref for HostSlice {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.0.as_slice::<f32>().expect("checked when it was made")
    }
}

/// Contiguous 32-bit integers in host memory.
#[derive(Clone, Debug)]
pub struct HostInts(FlexTensor);

impl HostInts {
    fn new(tensor: &FlexTensor) -> Option<Self> {
        let tensor = tensor.to_contiguous();
        tensor.as_slice::<i32>().is_some().then_some(Self(tensor))
    }
}

impl Deref for HostInts {
    type Target = [i32];

    fn deref(&self) -> &[i32] {
        self.0.as_slice::<i32>().expect("checked when it was made")
    }
}

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

    /// Takes the elements out if they lie in host memory, without a copy where nothing else holds them.
    ///
    /// *Errors*: the tensor, where they do not.
    pub fn into_host(self) -> Result<Vec<f32>, Self> {
        if self.host().is_none() {
            return Err(self);
        }
        let read = burn_backend::try_read_sync(B::float_into_data(self.0));
        let data = read.and_then(Result::ok).and_then(|data| data.try_into_vec::<f32>().ok());
        Ok(data.expect("host memory can be read"))
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

    /// Adds, broadcasting.
    pub fn add(self, other: Self) -> Self {
        self.binary(other, B::float_add)
    }

    /// Subtracts, broadcasting.
    pub fn sub(self, other: Self) -> Self {
        self.binary(other, B::float_sub)
    }

    /// Multiplies, broadcasting.
    pub fn mul(self, other: Self) -> Self {
        self.binary(other, B::float_mul)
    }

    /// Divides, broadcasting.
    pub fn div(self, other: Self) -> Self {
        self.binary(other, B::float_div)
    }

    /// Matrix product over the last two axes, broadcasting the others.
    pub fn matmul(self, other: Self) -> Self {
        self.binary(other, B::float_matmul)
    }

    /// Multiplies by a number.
    pub fn scale(self, factor: f32) -> Self {
        Self(B::float_mul_scalar(self.0, scalar(factor)))
    }

    /// Adds a number.
    pub fn shift(self, term: f32) -> Self {
        Self(B::float_add_scalar(self.0, scalar(term)))
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

/// Returns slices that keep `start..end` of one axis and everything of the others.
pub fn axis_slices(rank: usize, axis: usize, start: usize, end: usize) -> Vec<Slice> {
    (0..rank).map(|a| if a == axis { Slice::from(start..end) } else { Slice::from(..) }).collect()
}

/// Makes burn's scalar.
pub fn scalar(value: f32) -> Scalar {
    Scalar::Float(f64::from(value))
}
