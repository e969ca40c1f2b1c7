//! The door to tensors that lie in host memory: plain slices for kernels of our own, and a tensor's own memory for those
//! that may write their result into it.

use std::ops::Deref;

use burn::backend::flex::FlexTensor;
use burn::backend::{BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor, Flex};
use burn_backend::tensor::{FloatTensor, IntTensor};
use burn_backend::{Backend, TensorData};

/// A backend whose tensors may lie in host memory.
pub trait HostBackend: Backend {
    /// Returns the elements of a float tensor if they lie in host memory.
    fn host(tensor: &FloatTensor<Self>) -> Option<HostSlice>;
    /// Returns the elements of an integer tensor if they lie in host memory.
    fn host_int(tensor: &IntTensor<Self>) -> Option<HostInts>;
    /// Takes the elements of a float tensor, and their memory where nothing else holds it.
    ///
    /// *Errors*: the tensor, where they do not lie in host memory.
    fn take(tensor: FloatTensor<Self>) -> Result<HostFloats, FloatTensor<Self>>;
}

impl HostBackend for Flex {
    fn host(tensor: &FloatTensor<Self>) -> Option<HostSlice> {
        HostSlice::new(tensor)
    }

    fn host_int(tensor: &IntTensor<Self>) -> Option<HostInts> {
        HostInts::new(tensor)
    }

    fn take(tensor: FloatTensor<Self>) -> Result<HostFloats, FloatTensor<Self>> {
        let slice = HostSlice::new(&tensor).ok_or(tensor)?;
        Ok(slice.into_floats())
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

    fn take(tensor: FloatTensor<Self>) -> Result<HostFloats, FloatTensor<Self>> {
        let slice = Self::host(&tensor).ok_or(tensor)?;
        Ok(slice.into_floats())
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

    /// Takes the memory where this is the only handle to it.
    fn into_floats(self) -> HostFloats {
        if !self.0.is_unique() {
            return HostFloats::Shared(self);
        }
        let (bytes, shape, dtype) = self.0.into_data().into_parts();
        match bytes.try_into_vec::<f32>() {
            Ok(values) => HostFloats::Own(values),
            // It was not allocated for floats.
            Err(bytes) => {
                let data = TensorData::from_bytes(bytes, shape, dtype);
                HostFloats::Shared(Self(FlexTensor::from_data(data)))
            }
        }
    }
}

impl Deref for HostSlice {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.0.as_slice::<f32>().expect("checked when it was made")
    }
}

/// The elements of a tensor in host memory.
#[derive(Debug)]
pub enum HostFloats {
    /// Nothing else holds them: a kernel may write its result over them.
    Own(Vec<f32>),
    /// Something else holds them too.
    Shared(HostSlice),
}

impl HostFloats {
    /// Returns the elements, copied where something else holds them.
    pub fn into_vec(self) -> Vec<f32> {
        match self {
            Self::Own(values) => values,
            Self::Shared(values) => values.to_vec(),
        }
    }
}

impl Deref for HostFloats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Own(values) => values,
            Self::Shared(values) => values,
        }
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
