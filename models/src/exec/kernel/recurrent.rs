//! Recurrent layers over whole sequences, forward and back through time.
//!
//! The product with the input has been taken for all steps before ([`Op::Lstm`] says of what); a step multiplies the
//! hidden state of the whole batch by the recurrent weight once. Its gradient is one product over all steps, after the
//! last one. In host memory the gates of a step are one loop of [`crate::exec::host::gates`]; elsewhere they are
//! primitives.
//!
//! [`Op::Lstm`]: wattle_protocol::dag::Op::Lstm

pub mod gru;
pub mod lstm;

use burn_backend::tensor::Device;
use wattle_protocol::swarm::io::TaskError;

use super::linear::matmul;
use crate::exec::tensor::{Float, HostBackend};

/// Lengths of a layer: steps, batch and width.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    steps: usize,
    batch: usize,
    width: usize,
}

impl Lengths {
    /// Of `[.., T, B, H]`.
    fn of(shape: &[usize]) -> Self {
        let rank = shape.len();
        Self { steps: shape[rank - 3], batch: shape[rank - 2], width: shape[rank - 1] }
    }

    /// Elements of one step with so many parts of the width.
    fn row(&self, parts: usize) -> usize {
        self.batch * parts * self.width
    }
}

/// Returns the elements of a tensor in host memory.
fn elements<B: HostBackend>(x: &Float<B>) -> Result<Vec<f32>, TaskError> {
    let lost = || TaskError::DeviceLost("host memory gave no elements".into());
    x.host().map(|values| values.to_vec()).ok_or_else(lost)
}

/// One step of `[T, B, ..]` as `[B, ..]`.
fn step<B: HostBackend>(x: &Float<B>, at: usize) -> Float<B> {
    let shape = x.shape();
    x.clone().slice(0, at, at + 1).reshape(&shape[1..])
}

/// Steps `[B, ..]` joined to `[T, B, ..]`.
fn joined<B: HostBackend>(steps: Vec<Float<B>>) -> Float<B> {
    let longer = |x: Float<B>| {
        let shape = [&[1], &x.shape()[..]].concat();
        x.reshape(&shape)
    };
    Float::concat(steps.into_iter().map(longer).collect(), 0)
}

/// Part `index` of the last axis of `[B, parts H]`.
fn part<B: HostBackend>(x: &Float<B>, index: usize, width: usize) -> Float<B> {
    x.clone().slice(1, index * width, (index + 1) * width)
}

/// `1 - x`.
fn rest<B: HostBackend>(x: Float<B>) -> Float<B> {
    x.scale(-1.0).shift(1.0)
}

/// `x (1 - x)`: the derivative of a sigmoid from its result.
fn slope<B: HostBackend>(x: Float<B>) -> Float<B> {
    x.clone().mul(rest(x))
}

/// The recurrent weight's gradient: one product of the sums' cotangents `[T, B, rows]` with the hidden states before
/// each step.
fn weight_grad<B: HostBackend>(
    sums: Float<B>,
    first: Float<B>,
    hidden: Float<B>,
    lengths: Lengths,
) -> Float<B> {
    let Lengths { steps, batch, width } = lengths;
    let rows = sums.shape()[2];
    let first = first.reshape(&[1, batch, width]);
    let before = match steps {
        1 => first,
        _ => Float::concat(vec![first, hidden.slice(0, 0, steps - 1)], 0),
    };
    let flat = sums.reshape(&[steps * batch, rows]);
    matmul(flat, before.reshape(&[steps * batch, width]), true, false)
}

/// Zeros of one step.
fn zeros<B: HostBackend>(lengths: Lengths, device: &Device<B>) -> Float<B> {
    Float::full(0.0, &[lengths.batch, lengths.width], device)
}
