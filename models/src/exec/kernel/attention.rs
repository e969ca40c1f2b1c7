//! Softmax, the causal mask, and fused attention with its gradient; `general` has the attention with masks and groups.

pub mod general;

use burn_backend::tensor::Device;

use super::linear::matmul;
use crate::exec::host::rows;
use crate::exec::tensor::{Float, HostBackend};

/// Softmax over one axis.
pub fn softmax<B: HostBackend>(x: Float<B>, axis: usize) -> Float<B> {
    let e = x.clone().sub(x.max_axis(axis)).exp();
    let sum = e.clone().sum_axes(&[axis]);
    e.div(sum)
}

/// Logarithm of softmax over one axis.
pub fn log_softmax<B: HostBackend>(x: Float<B>, axis: usize) -> Float<B> {
    let centred = x.clone().sub(x.max_axis(axis));
    let sum = centred.clone().exp().sum_axes(&[axis]).log();
    centred.sub(sum)
}

/// Gradient of softmax from its output.
pub fn softmax_grad<B: HostBackend>(y: Float<B>, g: Float<B>, axis: usize) -> Float<B> {
    let dot = y.clone().mul(g.clone()).sum_axes(&[axis]);
    y.mul(g.sub(dot))
}

/// Mask of `[T, T]`: `above` over the diagonal, `below` on and under it.
fn triangle<B: HostBackend>(len: usize, above: f32, below: f32, device: &Device<B>) -> Float<B> {
    let values = (0..len * len).map(|i| if i % len > i / len { above } else { below }).collect();
    Float::new(values, &[len, len], device)
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
    let fill = fill.max(-1e30);
    let kept = x.mul(triangle(len, 0.0, 1.0, device));
    kept.add(triangle(len, fill, 0.0, device))
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
    let shape = scores.shape();
    if let Some(host) = scores.host() {
        let y = rows::softmax(&host, shape[shape.len() - 1], scale, causal);
        return Float::new(y, &shape, device);
    }
    let scores = scores.scale(scale);
    let scores = if causal { causal_mask(scores, f32::NEG_INFINITY, device) } else { scores };
    softmax(scores, shape.len() - 1)
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
    weights(q, k, causal, scale, device).matmul(v)
}

/// Gradients of q, k and v; recomputes the weights.
pub fn attention_grad<B: HostBackend>(
    [q, k, v, g]: [Float<B>; 4],
    causal: bool,
    scale: f32,
    device: &Device<B>,
) -> (Float<B>, Float<B>, Float<B>) {
    let p = weights(q.clone(), k.clone(), causal, scale, device);
    let dv = matmul(p.clone(), g.clone(), true, false);
    let dp = matmul(g, v, false, true);
    let shape = p.shape();
    let ds = match (p.host(), dp.host()) {
        (Some(p), Some(dp)) => {
            let ds = rows::softmax_grad(&p, &dp, shape[shape.len() - 1], scale, causal);
            Float::new(ds, &shape, device)
        }
        _ => softmax_grad(p, dp, shape.len() - 1).scale(scale),
    };
    let dq = ds.clone().matmul(k);
    let dk = matmul(ds, q, true, false);
    (dq, dk, dv)
}
