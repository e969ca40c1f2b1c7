//! Attention with what the plain one has not: a mask, keys of another length, heads of keys that serve several heads of
//! queries.
//!
//! The query heads of one key head stand in a row, so that they are read as one longer sequence of queries: the products
//! take each key head once and need no copies of it, and its gradient is summed by the product.

use burn_backend::tensor::Device;
use wattle_protocol::dag::op::HIDDEN;
use wattle_protocol::swarm::io::TaskError;

use super::{hide_above, softmax, softmax_grad};
use crate::exec::host::attend::{Rows, Strides};
use crate::exec::kernel::linear::matmul;
use crate::exec::kernel::shape::sum_to;
use crate::exec::tensor::{Float, HostBackend, scalar};

/// Most weights that are held at once in host memory, unless one key head has more.
const WEIGHTS_MAX: usize = 1 << 20;

/// What an attention computes, but for its operands.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Query t sees keys up to t.
    pub causal: bool,
    /// Factor on the scores.
    pub scale: f32,
}

/// Operands, viewed as key heads `[N, ..]`: queries `[N, R T, D]` for R query heads each, keys `[N, S, D]`, values
/// `[N, S, E]`.
struct Grouped<B: HostBackend> {
    q: Float<B>,
    k: Float<B>,
    v: Float<B>,
    mask: Option<Float<B>>,
    settings: Settings,
    /// `[.., H, T, S]`.
    weights: Vec<usize>,
    blocks: usize,
    queries: usize,
    keys: usize,
}

/// Says whether the operands are those of the plain attention.
pub fn is_plain<B: HostBackend>([q, k, v]: [&Float<B>; 3], mask: Option<&Float<B>>) -> bool {
    mask.is_none() && q.shape() == k.shape() && q.shape() == v.shape()
}

impl<B: HostBackend> Grouped<B> {
    fn new([q, k, v]: [Float<B>; 3], mask: Option<Float<B>>, settings: Settings) -> Self {
        let (mut weights, of_k, of_v) = (q.shape(), k.shape(), v.shape());
        let rank = weights.len();
        let (queries, depth) = (weights[rank - 2], weights[rank - 1]);
        let (keys, width) = (of_k[rank - 2], of_v[rank - 1]);
        let blocks: usize = of_k[..rank - 2].iter().product();
        weights[rank - 1] = keys;
        let rows = weights[..rank - 1].iter().product::<usize>() / blocks.max(1);
        Self {
            q: q.reshape(&[blocks, rows, depth]),
            k: k.reshape(&[blocks, keys, depth]),
            v: v.reshape(&[blocks, keys, width]),
            mask,
            settings,
            weights,
            blocks,
            queries,
            keys,
        }
    }

    /// Rows of weights of one key head.
    fn rows(&self) -> usize {
        self.q.shape()[1]
    }

    /// Key heads that are worked on at once, as (first, one past the last).
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> + use<B> {
        let step = (WEIGHTS_MAX / (self.rows() * self.keys).max(1)).max(1);
        let blocks = self.blocks;
        (0..blocks).step_by(step).map(move |start| (start, (start + step).min(blocks)))
    }

    fn scores(&self, start: usize, end: usize) -> Float<B> {
        let part = |x: &Float<B>| x.clone().slice(0, start, end);
        matmul(part(&self.q), part(&self.k), false, true)
    }

    /// What is added to the scores on a device without host memory, and vanishes in a softmax where it hides.
    fn bias(&self, device: &Device<B>) -> Option<Float<B>> {
        let mask = self.mask.clone();
        let mask = mask.map(|mask| Float(B::float_clamp_min(mask.0, scalar(HIDDEN))));
        if !self.settings.causal {
            return mask;
        }
        let zeros = Float::full(0.0, &[self.queries, self.keys], device);
        let triangle = hide_above(zeros, HIDDEN, device);
        Some(match mask {
            Some(mask) => mask.add(triangle),
            None => triangle,
        })
    }

    /// The weights `[.., H, T, S]`, all at once.
    fn weights(&self, device: &Device<B>) -> Float<B> {
        let scores = self.scores(0, self.blocks).reshape(&self.weights).scale(self.settings.scale);
        let axis = self.weights.len() - 1;
        let Some(bias) = self.bias(device) else { return softmax(scores, axis, device) };
        let weights = softmax(scores.add(bias.clone()), axis, device);
        if self.mask.is_none() {
            return weights;
        }
        // A row of which all is hidden would weigh its scores.
        let above = bias.expand(&self.weights).shift(-HIDDEN);
        weights.fill_where_not_positive(above, 0.0, device)
    }
}

fn lost() -> TaskError {
    TaskError::DeviceLost("host memory gave no elements".into())
}

fn host_values<B: HostBackend>(x: &Float<B>) -> Result<Vec<f32>, TaskError> {
    x.host().map(|values| values.to_vec()).ok_or_else(lost)
}

/// `[.., H, T, D], [.., G, S, D], [.., G, S, E] -> [.., H, T, E]`.
///
/// *Errors*: the device's.
pub fn attention<B: HostBackend>(
    qkv: [Float<B>; 3],
    mask: Option<Float<B>>,
    settings: Settings,
    device: &Device<B>,
) -> Result<Float<B>, TaskError> {
    let is_host = qkv[0].host().is_some();
    let mut shape = qkv[0].shape();
    let x = Grouped::new(qkv, mask, settings);
    let width = x.v.shape()[2];
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    if !is_host {
        let weights = x.weights(device).reshape(&[x.blocks, x.rows(), x.keys]);
        return Ok(matmul(weights, x.v, false, false).reshape(&shape));
    }
    let mask = x.mask.as_ref().map(host_values).transpose()?;
    let strides = x.mask.as_ref().map(|mask| Strides::of(&x.weights, &mask.shape()));
    let rows = x.host_rows(mask.as_deref().zip(strides.as_ref()));
    let mut y = Vec::with_capacity(x.blocks);
    for (start, end) in x.chunks() {
        let scores = x.scores(start, end);
        let at = scores.shape();
        let mut weights = host_values(&scores)?;
        rows.weigh(&mut weights, start * x.rows());
        let weights = Float::new(weights, &at, device);
        y.push(matmul(weights, x.v.clone().slice(0, start, end), false, false));
    }
    Ok(joined(y).reshape(&shape))
}

impl<B: HostBackend> Grouped<B> {
    fn host_rows<'a>(&self, mask: Option<(&'a [f32], &'a Strides)>) -> Rows<'a> {
        let Settings { causal, scale } = self.settings;
        Rows { queries: self.queries, keys: self.keys, causal, scale, mask }
    }
}

fn joined<B: HostBackend>(mut parts: Vec<Float<B>>) -> Float<B> {
    if parts.len() == 1 { parts.remove(0) } else { Float::concat(parts, 0) }
}

/// Gradients of q, k and v, and of the mask where it is wanted; recomputes the weights.
///
/// *Errors*: the device's.
pub fn attention_grad<B: HostBackend>(
    qkv: [Float<B>; 3],
    mask: Option<Float<B>>,
    g: Float<B>,
    (settings, mask_grad): (Settings, bool),
    device: &Device<B>,
) -> Result<Vec<Float<B>>, TaskError> {
    let is_host = g.host().is_some();
    let shapes: Vec<Vec<usize>> = qkv.iter().map(Float::shape).collect();
    let x = Grouped::new(qkv, mask, settings);
    let g = g.reshape(&[x.blocks, x.rows(), x.v.shape()[2]]);
    let mut grads = if is_host {
        host_grad(&x, &g, mask_grad, device)?
    } else {
        let weights = x.weights(device);
        let dw = matmul(g.clone(), x.v.clone(), false, true).reshape(&x.weights);
        let dw = softmax_grad(weights.clone(), dw, x.weights.len() - 1, device);
        let mask = x.mask.as_ref().filter(|_| mask_grad);
        let mask = mask.map(|mask| sum_to(dw.clone(), &mask.shape()));
        let flat = [x.blocks, x.rows(), x.keys];
        let (weights, ds) = (weights.reshape(&flat), dw.scale(settings.scale).reshape(&flat));
        let grads = products(&x, (0, x.blocks), weights, ds, g);
        grads.into_iter().chain(mask).collect()
    };
    for (grad, shape) in grads.iter_mut().zip(&shapes) {
        *grad = grad.clone().reshape(shape);
    }
    Ok(grads)
}

/// Gradients of q, k and v from the weights, the scores' cotangents and the result's, for some key heads.
fn products<B: HostBackend>(
    x: &Grouped<B>,
    (start, end): (usize, usize),
    weights: Float<B>,
    ds: Float<B>,
    g: Float<B>,
) -> [Float<B>; 3] {
    let part = |x: &Float<B>| x.clone().slice(0, start, end);
    let dq = matmul(ds.clone(), part(&x.k), false, false);
    let dk = matmul(ds, part(&x.q), true, false);
    let dv = matmul(weights, g, true, false);
    [dq, dk, dv]
}

fn host_grad<B: HostBackend>(
    x: &Grouped<B>,
    g: &Float<B>,
    mask_grad: bool,
    device: &Device<B>,
) -> Result<Vec<Float<B>>, TaskError> {
    let mask = x.mask.as_ref().map(host_values).transpose()?;
    let strides = x.mask.as_ref().map(|mask| Strides::of(&x.weights, &mask.shape()));
    let rows = x.host_rows(mask.as_deref().zip(strides.as_ref()));
    let mut sums = mask.as_ref().filter(|_| mask_grad).map(|mask| vec![0.0; mask.len()]);
    let mut parts: [Vec<Float<B>>; 3] = Default::default();
    for (start, end) in x.chunks() {
        let scores = x.scores(start, end);
        let at = scores.shape();
        let mut weights = host_values(&scores)?;
        let first = start * x.rows();
        rows.weigh(&mut weights, first);
        let g = g.clone().slice(0, start, end);
        let dw = matmul(g.clone(), x.v.clone().slice(0, start, end), false, true);
        let mut ds = host_values(&dw)?;
        let sums = sums.as_deref_mut().zip(strides.as_ref());
        rows.weigh_grad(&weights, &mut ds, first, sums);
        let (weights, ds) = (Float::new(weights, &at, device), Float::new(ds, &at, device));
        for (parts, grad) in parts.iter_mut().zip(products(x, (start, end), weights, ds, g)) {
            parts.push(grad);
        }
    }
    let sums = sums.zip(x.mask.as_ref());
    let mask = sums.map(|(sums, mask)| Float::new(sums, &mask.shape(), device));
    Ok(parts.into_iter().map(joined).chain(mask).collect())
}
