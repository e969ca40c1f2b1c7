//! Layer and batch normalisation with their gradients, two passes over each row or channel.

use super::{sum_of, vectorised};

/// Normalised rows, their means and reciprocal standard deviations.
pub type LayerNormed = (Vec<f32>, Vec<f32>, Vec<f32>);
/// Gradients of x, gain and bias.
pub type NormGrad = (Vec<f32>, Vec<f32>, Vec<f32>);

#[expect(clippy::cast_precision_loss, reason = "counts of elements are far below 2^53")]
fn share(count: usize) -> f32 {
    1.0 / count as f32
}

/// Layer normalisation of rows of `gain.len()` elements.
pub fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32], eps: f32) -> LayerNormed {
    let width = gain.len();
    let rows = x.len() / width.max(1);
    let mut y = vec![0.0; x.len()];
    let (mut means, mut rstds) = (vec![0.0; rows], vec![0.0; rows]);
    let inverse = share(width);
    vectorised(|| {
        for (row, (x, y)) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).enumerate() {
            let mean = sum_of(width, |i| x[i]) * inverse;
            let variance = sum_of(width, |i| (x[i] - mean) * (x[i] - mean)) * inverse;
            let rstd = 1.0 / (variance + eps).sqrt();
            for i in 0..width {
                y[i] = (x[i] - mean) * rstd * gain[i] + bias[i];
            }
            means[row] = mean;
            rstds[row] = rstd;
        }
    });
    (y, means, rstds)
}

/// Gradient of [`layer_norm`].
pub fn layer_norm_grad(
    x: &[f32],
    gain: &[f32],
    means: &[f32],
    rstds: &[f32],
    g: &[f32],
) -> NormGrad {
    let width = gain.len();
    let inverse = share(width);
    let mut dx = vec![0.0; x.len()];
    let (mut dgain, mut dbias) = (vec![0.0; width], vec![0.0; width]);
    let (dgain_row, dbias_row) = (&mut dgain[..width], &mut dbias[..width]);
    vectorised(|| {
        let rows = x.chunks_exact(width).zip(g.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((x, g), dx), (mean, rstd)) in rows.zip(means.iter().zip(rstds)) {
            let (mean, rstd) = (*mean, *rstd);
            let sum = sum_of(width, |i| g[i] * gain[i]) * inverse;
            let dot = sum_of(width, |i| g[i] * gain[i] * (x[i] - mean) * rstd) * inverse;
            for i in 0..width {
                let hat = (x[i] - mean) * rstd;
                dx[i] = (g[i] * gain[i] - sum - hat * dot) * rstd;
                dgain_row[i] += g[i] * hat;
                dbias_row[i] += g[i];
            }
        }
    });
    (dx, dgain, dbias)
}

/// Sum over the planes of one channel of `[batch, channels, plane]`.
fn channel_sum(
    (batch, channels, plane): (usize, usize, usize),
    channel: usize,
    f: impl Fn(usize) -> f32,
) -> f32 {
    let mut total = 0.0;
    for image in 0..batch {
        let start = (image * channels + channel) * plane;
        total += sum_of(plane, |i| f(start + i));
    }
    total
}

/// Normalised images, means and unbiased variances of the channels; x is `[batch, channels, plane]`.
pub fn batch_norm(
    x: &[f32],
    gain: &[f32],
    bias: &[f32],
    eps: f32,
    (batch, plane): (usize, usize),
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let channels = gain.len();
    let shape = (batch, channels, plane);
    let inverse = share(batch * plane);
    let unbiased = share((batch * plane).saturating_sub(1).max(1));
    let mut y = vec![0.0; x.len()];
    let (mut means, mut variances) = (vec![0.0; channels], vec![0.0; channels]);
    vectorised(|| {
        for channel in 0..channels {
            let mean = channel_sum(shape, channel, |i| x[i]) * inverse;
            let squares = channel_sum(shape, channel, |i| (x[i] - mean) * (x[i] - mean));
            let factor = gain[channel] / (squares * inverse + eps).sqrt();
            for image in 0..batch {
                let start = (image * channels + channel) * plane;
                let (x, y) = (&x[start..start + plane], &mut y[start..start + plane]);
                for (y, x) in y.iter_mut().zip(x) {
                    *y = (x - mean) * factor + bias[channel];
                }
            }
            means[channel] = mean;
            variances[channel] = squares * unbiased;
        }
    });
    (y, means, variances)
}

/// Gradient of [`batch_norm`].
pub fn batch_norm_grad(
    x: &[f32],
    gain: &[f32],
    g: &[f32],
    eps: f32,
    (batch, plane): (usize, usize),
) -> NormGrad {
    let channels = gain.len();
    let shape = (batch, channels, plane);
    let inverse = share(batch * plane);
    let mut dx = vec![0.0; x.len()];
    let (mut dgain, mut dbias) = (vec![0.0; channels], vec![0.0; channels]);
    vectorised(|| {
        for channel in 0..channels {
            let mean = channel_sum(shape, channel, |i| x[i]) * inverse;
            let squares = channel_sum(shape, channel, |i| (x[i] - mean) * (x[i] - mean));
            let rstd = 1.0 / (squares * inverse + eps).sqrt();
            let sum = channel_sum(shape, channel, |i| g[i]);
            let dot = channel_sum(shape, channel, |i| g[i] * (x[i] - mean)) * rstd;
            dgain[channel] = dot;
            dbias[channel] = sum;
            let factor = gain[channel] * rstd;
            let (sum, slope) = (sum * inverse, dot * inverse * rstd);
            for image in 0..batch {
                let start = (image * channels + channel) * plane;
                for i in start..start + plane {
                    dx[i] = factor * (g[i] - sum - (x[i] - mean) * slope);
                }
            }
        }
    });
    (dx, dgain, dbias)
}

/// Rows over their root mean square times gain, and its reciprocal a row.
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let mut y = vec![0.0; x.len()];
    let mut rstds = vec![0.0; x.len() / width.max(1)];
    let inverse = share(width);
    vectorised(|| {
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
        for ((x, y), rstd) in rows.zip(rstds.iter_mut()) {
            *rstd = 1.0 / (sum_of(width, |i| x[i] * x[i]) * inverse + eps).sqrt();
            for i in 0..width {
                y[i] = x[i] * *rstd * gain[i];
            }
        }
    });
    (y, rstds)
}

/// Gradient of [`rms_norm`]: of x and gain.
pub fn rms_norm_grad(x: &[f32], gain: &[f32], rstds: &[f32], g: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let inverse = share(width);
    let (mut dx, mut dgain) = (vec![0.0; x.len()], vec![0.0; width]);
    let dgain_row = &mut dgain[..width];
    vectorised(|| {
        let rows = x.chunks_exact(width).zip(g.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((x, g), dx), rstd) in rows.zip(rstds) {
            let rstd = *rstd;
            let dot = sum_of(width, |i| g[i] * gain[i] * x[i]) * rstd * inverse;
            for i in 0..width {
                let hat = x[i] * rstd;
                dx[i] = (g[i] * gain[i] - hat * dot) * rstd;
                dgain_row[i] += g[i] * hat;
            }
        }
    });
    (dx, dgain)
}
