//! Operators that move elements or sum them over axes.

use burn_backend::tensor::Device;
use wattle_protocol::swarm::io::TaskError;

use crate::exec::tensor::{Float, HostBackend, kept_shape};

/// Sum from left to right.
///
/// *Errors*: [`TaskError::Missing`] without operands.
pub fn add_n<B: HostBackend>(parts: Vec<Float<B>>) -> Result<Float<B>, TaskError> {
    parts
        .into_iter()
        .reduce(Float::add)
        .ok_or_else(|| TaskError::Missing("an operand of a sum".into()))
}

/// Axes reordered; a scalar has none.
pub fn transpose<B: HostBackend>(x: Float<B>, perm: &[usize]) -> Float<B> {
    if perm.is_empty() { x } else { x.permute(perm) }
}

/// Axes stretched. In host memory the elements are written out: matrix products add up the terms of a view with strides
/// of zero in another order than those of the same tensor after it has crossed to another stage.
pub fn expand<B: HostBackend>(x: Float<B>, shape: &[usize], device: &Device<B>) -> Float<B> {
    let wide = x.expand(shape);
    match wide.host() {
        Some(elements) => Float::new(elements.to_vec(), shape, device),
        None => wide,
    }
}

/// Zeros with x at `start`.
pub fn unslice<B: HostBackend>(
    x: Float<B>,
    axis: usize,
    start: usize,
    len: usize,
    device: &Device<B>,
) -> Float<B> {
    let mut shape = x.shape();
    shape[axis] = len;
    Float::full(0.0, &shape, device).assign(axis, start, x)
}

/// Sums over the axes along which `shape` would broadcast to x.
pub fn sum_to<B: HostBackend>(x: Float<B>, shape: &[usize]) -> Float<B> {
    let shape = kept_shape(shape);
    let from = x.shape();
    let extra = from.len() - shape.len();
    let axes: Vec<usize> = (0..from.len())
        .filter(|axis| *axis < extra || (shape[axis - extra] == 1 && from[*axis] != 1))
        .collect();
    // All leading axes at once: one sum over rows of a matrix.
    if !axes.is_empty() && axes.len() < from.len() && axes.iter().enumerate().all(|(i, a)| i == *a)
    {
        let rows = from[..axes.len()].iter().product();
        let width = from[axes.len()..].iter().product();
        return x.reshape(&[rows, width]).sum_axes(&[0]).reshape(shape);
    }
    x.sum_axes(&axes).reshape(shape)
}

/// Returns the shape after axes are reduced.
pub fn reduced(from: &[usize], axes: &[usize], keep: bool) -> Vec<usize> {
    let kept = from.iter().enumerate().filter(|(i, _)| keep || !axes.contains(i));
    kept.map(|(i, len)| if axes.contains(&i) { 1 } else { *len }).collect()
}

/// Sum over axes.
pub fn reduce_sum<B: HostBackend>(x: Float<B>, axes: &[usize], keep: bool) -> Float<B> {
    let shape = reduced(&x.shape(), axes, keep);
    x.sum_axes(axes).reshape(&shape)
}

/// Mean over axes.
pub fn reduce_mean<B: HostBackend>(x: Float<B>, axes: &[usize], keep: bool) -> Float<B> {
    let shape = reduced(&x.shape(), axes, keep);
    x.mean_axes(axes).reshape(&shape)
}

/// Maximum over axes.
pub fn reduce_max<B: HostBackend>(x: Float<B>, axes: &[usize], keep: bool) -> Float<B> {
    let shape = reduced(&x.shape(), axes, keep);
    axes.iter().fold(x, |x, axis| x.max_axis(*axis)).reshape(&shape)
}
