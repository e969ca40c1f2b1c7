//! Softmax, the causal mask, and fused attention with its gradient; `general` has the attention with masks and groups.

pub mod general;

use burn_backend::tensor::{BoolTensor, Device};
use burn_backend::{Shape, get_or_init_device_settings};

use super::linear::matmul;
use crate::exec::host::attention::{self as host, Heads};
use crate::exec::host::rows;
use crate::exec::tensor::{Float, HostBackend, scalar};
use crate::exec::traffic;

/// Softmax over one axis.
pub fn softmax<B: HostBackend>(x: Float<B>, axis: usize, device: &Device<B>) -> Float<B> {
    if let Some(y) = by_rows(&x, axis, device, |x, width| rows::softmax(x, width, 1.0)) {
        return y;
    }
    let e = x.clone().sub(x.max_axis(axis)).exp();
    let sum = e.clone().sum_axes(&[axis]);
    e.div(sum)
}

/// Runs a loop over rows in host memory where the axis is the last.
fn by_rows<B: HostBackend>(
    x: &Float<B>,
    axis: usize,
    device: &Device<B>,
    f: impl FnOnce(&[f32], usize) -> Vec<f32>,
) -> Option<Float<B>> {
    let shape = x.shape();
    if axis + 1 != shape.len() {
        return None;
    }
    Some(Float::new(f(&x.host()?, shape[axis]), &shape, device))
}

/// Logarithm of softmax over one axis.
pub fn log_softmax<B: HostBackend>(x: Float<B>, axis: usize, device: &Device<B>) -> Float<B> {
    if let Some(y) = by_rows(&x, axis, device, rows::log_softmax) {
        return y;
    }
    let centred = x.clone().sub(x.max_axis(axis));
    let sum = centred.clone().exp().sum_axes(&[axis]).log();
    centred.sub(sum)
}

/// Gradient of softmax from its output.
pub fn softmax_grad<B: HostBackend>(
    y: Float<B>,
    g: Float<B>,
    axis: usize,
    device: &Device<B>,
) -> Float<B> {
    if let Some(dx) = g
        .host()
        .and_then(|g| by_rows(&y, axis, device, |y, width| rows::softmax_grad(y, &g, width, 1.0)))
    {
        return dx;
    }
    let dot = y.clone().mul(g.clone()).sum_axes(&[axis]);
    y.mul(g.sub(dot))
}

/// Mask of `[T, S]`: true above the diagonal. Made on the device of T + S places.
fn above<B: HostBackend>(queries: usize, keys: usize, device: &Device<B>) -> BoolTensor<B> {
    let settings = get_or_init_device_settings::<B>(device);
    let (ints, bools) = (settings.int_dtype, settings.bool_dtype);
    let places = |len: usize, shape: [usize; 2]| {
        traffic::uploads();
        let end = i64::try_from(len).unwrap_or(i64::MAX);
        let places = B::int_reshape(B::int_arange(0..end, device, ints), Shape::from(shape));
        B::int_expand(places, Shape::from([queries, keys]))
    };
    B::int_greater(places(keys, [1, keys]), places(queries, [queries, 1]), bools)
}

/// Replaces entries above the diagonal of the last two axes, on a GPU.
pub(super) fn hide_above<B: HostBackend>(x: Float<B>, fill: f32, device: &Device<B>) -> Float<B> {
    let shape = x.shape();
    let (queries, keys) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    let mut leading = vec![1; shape.len() - 2];
    leading.extend([queries, keys]);
    let mask = B::bool_reshape(above::<B>(queries, keys, device), Shape::from(leading));
    let mask = B::bool_expand(mask, Shape::from(shape));
    Float(B::float_mask_fill(x.0, mask, scalar(fill)))
}

/// Replaces entries above the diagonal of the last two axes.
pub fn causal_mask<B: HostBackend>(x: Float<B>, fill: f32, device: &Device<B>) -> Float<B> {
    let shape = x.shape();
    let (rows, len) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    if let Some(host) = x.host() {
        let mut y = host.to_vec();
        for (at, row) in y.chunks_exact_mut(len).enumerate() {
            if let Some(hidden) = row.get_mut(at % rows + 1..) {
                hidden.fill(fill);
            }
        }
        return Float::new(y, &shape, device);
    }
    // A finite stand-in for minus infinity: shaders need not represent infinities, and it vanishes in a softmax.
    hide_above(x, fill.max(-1e30), device)
}

/// Attention weights `softmax(scale q k^T + mask)`.
fn weights<B: HostBackend>(
    q: Float<B>,
    k: Float<B>,
    causal: bool,
    scale: f32,
    device: &Device<B>,
) -> Float<B> {
    let scores = matmul(q, k, false, true);
    let last = scores.rank() - 1;
    let scores = scores.scale(scale);
    let scores = if causal { causal_mask(scores, f32::NEG_INFINITY, device) } else { scores };
    softmax(scores, last, device)
}

/// Fused attention.
pub fn attention<B: HostBackend>(
    q: Float<B>,
    k: Float<B>,
    v: Float<B>,
    causal: bool,
    scale: f32,
    device: &Device<B>,
) -> Float<B> {
    if let Some(h) = heads(&q, &k, &v, causal, scale)
        && let (Some(a), Some(b), Some(c)) = (q.host(), k.host(), v.host())
    {
        let mut shape = q.shape();
        let last = shape.len() - 1;
        shape[last] = h.value_width;
        return Float::new(host::attention(&a, &b, &c, &h), &shape, device);
    }
    matmul(weights(q, k, causal, scale, device), v, false, false)
}

/// Sizes where queries and keys have the same places and heads.
fn heads<B: HostBackend>(
    q: &Float<B>,
    k: &Float<B>,
    v: &Float<B>,
    causal: bool,
    scale: f32,
) -> Option<Heads> {
    let (of_q, of_v) = (q.shape(), v.shape());
    let last = of_q.len().checked_sub(1)?;
    let is_same = of_q == k.shape() && of_q[..last] == of_v[..last];
    let heads = of_q[..last - 1].iter().product();
    let (len, width, value_width) = (of_q[last - 1], of_q[last], of_v[last]);
    is_same.then_some(Heads { heads, len, width, value_width, causal, scale })
}

/// Gradients of q, k and v; recomputes the weights.
pub fn attention_grad<B: HostBackend>(
    [q, k, v, g]: [Float<B>; 4],
    causal: bool,
    scale: f32,
    device: &Device<B>,
) -> (Float<B>, Float<B>, Float<B>) {
    if let Some(h) = heads(&q, &k, &v, causal, scale)
        && let (Some(a), Some(b), Some(c), Some(d)) = (q.host(), k.host(), v.host(), g.host())
    {
        let (dq, dk, dv) = host::attention_grad([&a, &b, &c, &d], &h);
        let tensor = |values, like: &Float<B>| Float::new(values, &like.shape(), device);
        return (tensor(dq, &q), tensor(dk, &k), tensor(dv, &v));
    }
    let p = weights(q.clone(), k.clone(), causal, scale, device);
    let dv = matmul(p.clone(), g.clone(), true, false);
    let dp = matmul(g, v, false, true);
    let last = p.rank() - 1;
    let ds = softmax_grad(p, dp, last, device).scale(scale);
    let dq = matmul(ds.clone(), k, false, false);
    let dk = matmul(ds, q, true, false);
    (dq, dk, dv)
}
