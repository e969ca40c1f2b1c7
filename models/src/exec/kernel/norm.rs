//! Layer and batch normalisation with their gradients.

use burn_backend::tensor::Device;

use crate::exec::host::norm;
use crate::exec::tensor::{Float, HostBackend};

type Three<B> = (Float<B>, Float<B>, Float<B>);

/// Layer normalisation over the last axis: y, mean, reciprocal standard deviation.
pub fn layer_norm<B: HostBackend>(
    x: Float<B>,
    gain: Float<B>,
    bias: Float<B>,
    eps: f32,
    device: &Device<B>,
) -> Three<B> {
    let shape = x.shape();
    let leading = &shape[..shape.len() - 1];
    if let (Some(x), Some(gain), Some(bias)) = (x.host(), gain.host(), bias.host()) {
        let (y, mean, rstd) = norm::layer_norm(&x, &gain, &bias, eps);
        return (
            Float::new(y, &shape, device),
            Float::new(mean, leading, device),
            Float::new(rstd, leading, device),
        );
    }
    let axis = shape.len() - 1;
    let mean = x.clone().mean_axes(&[axis]);
    let centred = x.sub(mean.clone());
    let variance = centred.clone().mul(centred.clone()).mean_axes(&[axis]);
    let rstd = reciprocal(variance.shift(eps).sqrt(), device);
    let y = centred.mul(rstd.clone()).mul(gain).add(bias);
    (y, mean.reshape(leading), rstd.reshape(leading))
}

fn reciprocal<B: HostBackend>(x: Float<B>, device: &Device<B>) -> Float<B> {
    Float::full(1.0, &x.shape(), device).div(x)
}

/// Gradients of x, gain and bias from `[x, gain, mean, rstd, g]`.
pub fn layer_norm_grad<B: HostBackend>(
    [x, gain, mean, rstd, g]: [Float<B>; 5],
    device: &Device<B>,
) -> Three<B> {
    let shape = x.shape();
    let width = shape[shape.len() - 1];
    if let (Some(x), Some(gain), Some(mean), Some(rstd), Some(g)) =
        (x.host(), gain.host(), mean.host(), rstd.host(), g.host())
    {
        let (dx, dgain, dbias) = norm::layer_norm_grad(&x, &gain, &mean, &rstd, &g);
        return (
            Float::new(dx, &shape, device),
            Float::new(dgain, &[width], device),
            Float::new(dbias, &[width], device),
        );
    }
    let axis = shape.len() - 1;
    let leading: Vec<usize> = (0..axis).collect();
    let mut column = shape.clone();
    column[axis] = 1;
    let rstd = rstd.reshape(&column);
    let hat = x.sub(mean.reshape(&column)).mul(rstd.clone());
    let dbias = g.clone().sum_axes(&leading).reshape(&[width]);
    let dgain = g.clone().mul(hat.clone()).sum_axes(&leading).reshape(&[width]);
    let scaled = g.mul(gain);
    let sum = scaled.clone().mean_axes(&[axis]);
    let dot = scaled.clone().mul(hat.clone()).mean_axes(&[axis]);
    let dx = scaled.sub(sum).sub(hat.mul(dot)).mul(rstd);
    (dx, dgain, dbias)
}

/// Axes over which a channel's statistics run.
const OTHERS: [usize; 3] = [0, 2, 3];

/// Batch normalisation with the batch's own statistics: y, mean, unbiased variance.
#[expect(clippy::cast_precision_loss, reason = "counts of elements are far below 2^24")]
pub fn batch_norm<B: HostBackend>(
    x: Float<B>,
    gain: Float<B>,
    bias: Float<B>,
    eps: f32,
    device: &Device<B>,
) -> Three<B> {
    let shape = x.shape();
    let (channels, plane) = (shape[1], shape[2] * shape[3]);
    if let (Some(x), Some(gain), Some(bias)) = (x.host(), gain.host(), bias.host()) {
        let (y, mean, variance) = norm::batch_norm(&x, &gain, &bias, eps, (shape[0], plane));
        return (
            Float::new(y, &shape, device),
            Float::new(mean, &[channels], device),
            Float::new(variance, &[channels], device),
        );
    }
    let column = [1, channels, 1, 1];
    let (centred, mean, variance) = statistics(x);
    let count = shape[0] * plane;
    let rstd = reciprocal(variance.clone().shift(eps).sqrt(), device);
    let y = centred.mul(rstd.mul(gain.reshape(&column))).add(bias.reshape(&column));
    let unbiased = variance.scale(count as f32 / count.saturating_sub(1).max(1) as f32);
    (y, mean.reshape(&[channels]), unbiased.reshape(&[channels]))
}

/// x minus its channel means, the means, and the biased variances.
fn statistics<B: HostBackend>(x: Float<B>) -> Three<B> {
    let mean = x.clone().mean_axes(&OTHERS);
    let centred = x.sub(mean.clone());
    let variance = centred.clone().mul(centred.clone()).mean_axes(&OTHERS);
    (centred, mean, variance)
}

/// Gradients of x, gain and bias; recomputes the statistics.
pub fn batch_norm_grad<B: HostBackend>(
    x: Float<B>,
    gain: Float<B>,
    g: Float<B>,
    eps: f32,
    device: &Device<B>,
) -> Three<B> {
    let shape = x.shape();
    let (channels, plane) = (shape[1], shape[2] * shape[3]);
    if let (Some(x), Some(gain)) = (x.host(), gain.host()) {
        let g = g.take().expect("operands lie on one device");
        let (dx, dgain, dbias) = norm::batch_norm_grad(&x, &gain, g, eps, (shape[0], plane));
        return (
            Float::new(dx, &shape, device),
            Float::new(dgain, &[channels], device),
            Float::new(dbias, &[channels], device),
        );
    }
    let (centred, _, variance) = statistics(x);
    let rstd = reciprocal(variance.shift(eps).sqrt(), device);
    let hat = centred.mul(rstd.clone());
    let dbias = g.clone().sum_axes(&OTHERS).reshape(&[channels]);
    let dgain = g.clone().mul(hat.clone()).sum_axes(&OTHERS).reshape(&[channels]);
    let sum = g.clone().mean_axes(&OTHERS);
    let dot = g.clone().mul(hat.clone()).mean_axes(&OTHERS);
    let factor = rstd.mul(gain.reshape(&[1, channels, 1, 1]));
    let dx = g.sub(sum).sub(hat.mul(dot)).mul(factor);
    (dx, dgain, dbias)
}

/// Batch normalisation with running statistics, from `[x, gain, bias, mean, var]`.
pub fn batch_norm_inference<B: HostBackend>(
    [x, gain, bias, mean, variance]: [Float<B>; 5],
    eps: f32,
) -> Float<B> {
    Float(B::batch_norm(x.0, gain.0, bias.0, mean.0, variance.0, f64::from(eps)))
}

/// Normalisation by the root mean square over the last axis: y and its reciprocal.
pub fn rms_norm<B: HostBackend>(
    x: Float<B>,
    gain: Float<B>,
    eps: f32,
    device: &Device<B>,
) -> (Float<B>, Float<B>) {
    let shape = x.shape();
    let (lead, axis) = (&shape[..shape.len() - 1], shape.len() - 1);
    if let (Some(x), Some(gain)) = (x.host(), gain.host()) {
        let (y, rstd) = norm::rms_norm(&x, &gain, eps);
        return (Float::new(y, &shape, device), Float::new(rstd, lead, device));
    }
    let square = x.clone().mul(x.clone()).mean_axes(&[axis]);
    let rstd = reciprocal(square.shift(eps).sqrt(), device);
    (x.mul(rstd.clone()).mul(gain), rstd.reshape(lead))
}

/// Gradients of x and gain from `[x, gain, rstd, g]`.
pub fn rms_norm_grad<B: HostBackend>(
    [x, gain, rstd, g]: [Float<B>; 4],
    device: &Device<B>,
) -> (Float<B>, Float<B>) {
    let shape = x.shape();
    let (axis, width) = (shape.len() - 1, gain.shape());
    if let (Some(x), Some(gain), Some(rstd), Some(g)) =
        (x.host(), gain.host(), rstd.host(), g.host())
    {
        let (dx, dgain) = norm::rms_norm_grad(&x, &gain, &rstd, &g);
        return (Float::new(dx, &shape, device), Float::new(dgain, &width, device));
    }
    let column = [&shape[..axis], &[1]].concat();
    let rstd = rstd.reshape(&column);
    let hat = x.mul(rstd.clone());
    let scaled = g.clone().mul(gain);
    let dot = scaled.clone().mul(hat.clone()).mean_axes(&[axis]);
    let dgain = super::shape::sum_to(g.mul(hat.clone()), &width);
    (scaled.sub(hat.mul(dot)).mul(rstd), dgain)
}
