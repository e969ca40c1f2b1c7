//! A tensor on its way from a device to host memory: begun behind what the device is computing, finished later.
//!
//! burn's read begins when its future is asked for the first time (with the runtime kind that
//! [`device`](super::device) sets; else it would begin when the bytes are looked at). What lies in host memory is held,
//! not copied, until it is written out.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use burn_backend::{DType, ExecutionError, TensorData};
use wattle_protocol::codec::{EncodeError, Form, encode};
use wattle_protocol::swarm::io::TaskError;
use wattle_protocol::units::Bytes;

use super::failure::{contain, device_error};
use super::store::append;
use super::tensor::memory::{HostInts, HostSlice};
use super::tensor::{HostBackend, Tensor};
use super::traffic;

type Read = Pin<Box<dyn Future<Output = Result<TensorData, ExecutionError>> + Send>>;

/// A tensor that is being read.
pub struct Reading {
    state: State,
    /// What it takes in host memory beyond the tensor itself.
    size: Bytes,
}

enum State {
    Floats(HostSlice),
    Ints(HostInts),
    UnderWay(Read),
    Here(Result<TensorData, TaskError>),
    Zeros(usize),
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Floats(_) | State::Ints(_) => "in host memory",
            State::UnderWay(_) => "under way",
            State::Here(_) => "here",
            State::Zeros(_) => "zeros",
        };
        write!(f, "Reading({state}, {})", self.size)
    }
}

impl Reading {
    /// Begins to read a tensor.
    pub fn begin<B: HostBackend>(tensor: Tensor<B>) -> Self {
        match &tensor {
            Tensor::Float(float) => {
                if let Some(host) = float.host() {
                    return Self { state: State::Floats(host), size: Bytes::ZERO };
                }
            }
            Tensor::Int(ints) => {
                if let Some(host) = B::host_int(ints) {
                    return Self { state: State::Ints(host), size: Bytes::ZERO };
                }
            }
        }
        traffic::reads();
        let elements: usize = tensor.shape().iter().product();
        let read: Read = match tensor {
            Tensor::Float(float) => Box::pin(B::float_into_data(float.0)),
            Tensor::Int(ints) => Box::pin(B::int_into_data(ints)),
        };
        Self::of(read, Bytes::of_len(elements.saturating_mul(4)))
    }

    /// Begins a read.
    fn of(read: Read, size: Bytes) -> Self {
        let mut reading = Self { state: State::UnderWay(read), size };
        reading.is_here(Waker::noop());
        reading
    }

    /// Stands for so many zeros, of which nothing is read.
    pub fn zeros(elements: usize) -> Self {
        Self { state: State::Zeros(elements), size: Bytes::ZERO }
    }

    /// Returns what it takes in host memory beyond the tensor itself.
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// Says whether the elements are in host memory; if not, `waker` is told when to ask again.
    pub fn is_here(&mut self, waker: &Waker) -> bool {
        let State::UnderWay(read) = &mut self.state else {
            return true;
        };
        let mut context = Context::from_waker(waker);
        let polled = contain(|| Ok(read.as_mut().poll(&mut context)));
        self.state = match polled {
            Ok(Poll::Pending) => return false,
            Ok(Poll::Ready(data)) => State::Here(data.map_err(|error| device_error(&error))),
            Err(panicked) => State::Here(Err(panicked)),
        };
        true
    }

    /// Waits for floats, and returns them.
    ///
    /// *Errors*: the device's.
    pub fn floats(self) -> Result<Vec<f32>, TaskError> {
        match self.state {
            State::Floats(host) => Ok(host.to_vec()),
            State::Zeros(count) => Ok(vec![0.0; count]),
            State::Ints(_) => Err(TaskError::Missing("floats (these are integers)".into())),
            state @ (State::UnderWay(_) | State::Here(_)) => {
                state.data()?.try_into_vec().map_err(unread)
            }
        }
    }

    /// Waits for the elements, and appends them in a form of a link. Plans give integers no other form than dense.
    ///
    /// *Errors*: the device's, and [`TaskError::NotFinite`] where the form does not hold them.
    pub fn append_as(self, form: Form, bytes: &mut Vec<u8>) -> Result<(), TaskError> {
        if form.is_exact() {
            return self.append_to(bytes);
        }
        let encoded = match &self.state {
            State::Floats(host) => encode(form, host, bytes),
            State::Ints(_) => return self.append_to(bytes),
            State::UnderWay(_) | State::Here(_) | State::Zeros(_) => {
                encode(form, &self.floats()?, bytes)
            }
        };
        encoded.map_err(|error| {
            let remedy = match error {
                EncodeError::TooLarge { .. } => "choose dense or bf16 for the job's codec",
                EncodeError::NotFinite { .. } => "lower the learning rate",
                EncodeError::Residual { .. } => "this is a mistake of Wattle",
            };
            TaskError::NotFinite(format!("a tensor for a link ({form}): {error}; {remedy}"))
        })
    }

    /// Waits for the elements, and appends them as little-endian bytes.
    ///
    /// *Errors*: the device's.
    pub fn append_to(self, bytes: &mut Vec<u8>) -> Result<(), TaskError> {
        match self.state {
            State::Floats(host) => append(bytes, &host),
            State::Ints(host) => append_ints(bytes, &host),
            State::Zeros(count) => bytes.resize(bytes.len() + count * 4, 0),
            state @ (State::UnderWay(_) | State::Here(_)) => {
                let data = state.data()?;
                match data.dtype() {
                    DType::F32 => append(bytes, &data.try_into_vec::<f32>().map_err(unread)?),
                    _ => {
                        let ints = data.convert_dtype(DType::I32).try_into_vec::<i32>();
                        append_ints(bytes, &ints.map_err(unread)?);
                    }
                }
            }
        }
        Ok(())
    }
}

impl State {
    fn data(self) -> Result<TensorData, TaskError> {
        match self {
            Self::Here(data) => data,
            Self::UnderWay(read) => {
                let data = burn_backend::try_read_sync(read).ok_or_else(silent)?;
                data.map_err(|error| device_error(&error))
            }
            Self::Floats(_) | Self::Ints(_) | Self::Zeros(_) => Err(silent()),
        }
    }
}

fn silent() -> TaskError {
    TaskError::DeviceLost("the device did not hand its data over".into())
}

fn unread(error: impl fmt::Debug) -> TaskError {
    TaskError::DeviceLost(format!("{error:?}"))
}

fn append_ints(bytes: &mut Vec<u8>, ints: &[i32]) {
    bytes.extend(ints.iter().flat_map(|v| v.to_le_bytes()));
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc::{Receiver, TryRecvError};

    use burn_backend::Shape;

    use super::*;

    /// A read that ends when something is sent: floats, or the device's error.
    pub(crate) fn promised(promise: Receiver<Result<Vec<f32>, String>>) -> Reading {
        let read = std::future::poll_fn(move |context| match promise.try_recv() {
            Ok(Ok(values)) => {
                let shape = Shape::from(vec![values.len()]);
                Poll::Ready(Ok(TensorData::new(values, shape)))
            }
            Ok(Err(reason)) => Poll::Ready(Err(ExecutionError::with_context(reason))),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        });
        Reading::of(Box::pin(read), Bytes::new(4))
    }
}
