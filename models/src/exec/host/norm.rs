//! Layer and batch normalisation with their gradients, two passes over each row or channel.

use super::parallel::{map, pieces, pieces_of_two};
use super::{rows_of_piece, sum_of, sum_of_pairs, vectorised};

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
    let rows = rows_of_piece(width);
    let mut y = vec![0.0; x.len()];
    let mut ends = vec![0.0; x.len() / width.max(1) * 2];
    let inverse = share(width);
    let lengths = [rows * width, rows * 2];
    pieces_of_two([&mut y, &mut ends], lengths, 4 * rows * width, |at, y, ends| {
        let x = &x[at * rows * width..][..y.len()];
        vectorised(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
                for ((x, y), ends) in rows.zip(ends.chunks_exact_mut(2)) {
                    let mean = sum_of(x, |x| x) * inverse;
                    let variance = sum_of(x, |x| (x - mean) * (x - mean)) * inverse;
                    let rstd = 1.0 / (variance + eps).sqrt();
                    for (((y, x), gain), bias) in y.iter_mut().zip(x).zip(gain).zip(bias) {
                        *y = (x - mean) * rstd * gain + bias;
                    }
                    ends.copy_from_slice(&[mean, rstd]);
                }
            },
        );
    });
    let every = |at: usize| ends.iter().skip(at).step_by(2).copied().collect();
    (y, every(0), every(1))
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
    let rows = rows_of_piece(width);
    let mut dx = vec![0.0; x.len()];
    // Sums of pieces: of gain, then of bias.
    let mut sums = vec![0.0; (x.len() / width.max(1)).div_ceil(rows) * 2 * width];
    let lengths = [rows * width, 2 * width];
    pieces_of_two([&mut dx, &mut sums], lengths, 8 * rows * width, |at, dx, sums| {
        let (dgain, dbias) = sums.split_at_mut(width);
        let start = at * rows * width;
        let (x, g) = (&x[start..][..dx.len()], &g[start..][..dx.len()]);
        let ends = means[at * rows..].iter().zip(&rstds[at * rows..]);
        vectorised(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(width).zip(g.chunks_exact(width));
                for (((x, g), dx), (mean, rstd)) in rows.zip(dx.chunks_exact_mut(width)).zip(ends) {
                    let (mean, rstd) = (*mean, *rstd);
                    // dx holds g times gain until both sums are known.
                    for ((dx, g), gain) in dx.iter_mut().zip(g).zip(gain) {
                        *dx = g * gain;
                    }
                    let sum = sum_of(dx, |s| s) * inverse;
                    let dot = sum_of_pairs(dx, x, |s, x| s * (x - mean)) * rstd * inverse;
                    // By index over slices of one length: chains of iterators are not vectorised.
                    let (x, g, dx) = (&x[..width], &g[..width], &mut dx[..width]);
                    let (dgain, dbias) = (&mut dgain[..width], &mut dbias[..width]);
                    for i in 0..width {
                        let hat = (x[i] - mean) * rstd;
                        dx[i] = (dx[i] - sum - hat * dot) * rstd;
                        dgain[i] += g[i] * hat;
                        dbias[i] += g[i];
                    }
                }
            },
        );
    });
    let mut ends = add_up(&sums, 2 * width);
    let dbias = ends.split_off(width);
    (dx, ends, dbias)
}

/// Adds rows of `width` up in their order.
fn add_up(rows: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    vectorised(
        #[inline(always)]
        || {
            for row in rows.chunks_exact(width.max(1)) {
                for (total, x) in total.iter_mut().zip(row) {
                    *total += x;
                }
            }
        },
    );
    total
}

/// Calls `f` with the planes of one channel of `[batch, channels, plane]` and adds the results up.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn channel_sum(
    x: &[f32],
    (channels, plane): (usize, usize),
    channel: usize,
    f: impl Fn(&[f32]) -> f32,
) -> f32 {
    x.chunks_exact(plane).skip(channel).step_by(channels).map(f).sum()
}

/// Mean and sum of squared distances from it, of one channel.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn moments(x: &[f32], shape: (usize, usize), channel: usize, inverse: f32) -> (f32, f32) {
    let mean = channel_sum(x, shape, channel, |x| sum_of(x, |x| x)) * inverse;
    let distance = |x: &[f32]| sum_of(x, |x| (x - mean) * (x - mean));
    (mean, channel_sum(x, shape, channel, distance))
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
    let inverse = share(batch * plane);
    let unbiased = share((batch * plane).saturating_sub(1).max(1));
    let ends = map(channels, 4 * batch * plane, |channel| {
        vectorised(
            #[inline(always)]
            || moments(x, (channels, plane), channel, inverse),
        )
    });
    let mut y = vec![0.0; x.len()];
    pieces(&mut y, plane, 2 * plane, |at, y| {
        let channel = at % channels;
        let (mean, squares) = ends[channel];
        let factor = gain[channel] / (squares * inverse + eps).sqrt();
        let bias = bias[channel];
        vectorised(
            #[inline(always)]
            || {
                for (y, x) in y.iter_mut().zip(&x[at * plane..]) {
                    *y = (x - mean) * factor + bias;
                }
            },
        );
    });
    let variances = ends.iter().map(|(_, squares)| squares * unbiased).collect();
    (y, ends.into_iter().map(|(mean, _)| mean).collect(), variances)
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
    let shape = (channels, plane);
    let inverse = share(batch * plane);
    let ends = map(channels, 8 * batch * plane, |channel| {
        vectorised(
            #[inline(always)]
            || {
                let (mean, squares) = moments(x, shape, channel, inverse);
                let rstd = 1.0 / (squares * inverse + eps).sqrt();
                let sum = channel_sum(g, shape, channel, |g| sum_of(g, |g| g));
                let planes = x.chunks_exact(plane).zip(g.chunks_exact(plane));
                let dots = planes.skip(channel).step_by(channels);
                let dot: f32 =
                    dots.map(|(x, g)| sum_of_pairs(x, g, |x, g| g * (x - mean))).sum::<f32>()
                        * rstd;
                [mean, rstd, sum, dot]
            },
        )
    });
    let mut dx = vec![0.0; x.len()];
    pieces(&mut dx, plane, 4 * plane, |at, dx| {
        let channel = at % channels;
        let [mean, rstd, sum, dot] = ends[channel];
        let factor = gain[channel] * rstd;
        let (sum, slope) = (sum * inverse, dot * inverse * rstd);
        let start = at * plane;
        vectorised(
            #[inline(always)]
            || {
                for ((dx, g), x) in dx.iter_mut().zip(&g[start..]).zip(&x[start..]) {
                    *dx = factor * (g - sum - (x - mean) * slope);
                }
            },
        );
    });
    let dbias = ends.iter().map(|[_, _, sum, _]| *sum).collect();
    (dx, ends.iter().map(|[_, _, _, dot]| *dot).collect(), dbias)
}

/// Rows over their root mean square times gain, and its reciprocal a row.
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let rows = rows_of_piece(width);
    let mut y = vec![0.0; x.len()];
    let mut rstds = vec![0.0; x.len() / width.max(1)];
    let inverse = share(width);
    pieces_of_two([&mut y, &mut rstds], [rows * width, rows], 4 * rows * width, |at, y, rstds| {
        let x = &x[at * rows * width..][..y.len()];
        vectorised(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
                for ((x, y), rstd) in rows.zip(rstds.iter_mut()) {
                    *rstd = 1.0 / (sum_of(x, |x| x * x) * inverse + eps).sqrt();
                    for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
                        *y = x * *rstd * gain;
                    }
                }
            },
        );
    });
    (y, rstds)
}

/// Gradient of [`rms_norm`]: of x and gain.
pub fn rms_norm_grad(x: &[f32], gain: &[f32], rstds: &[f32], g: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let inverse = share(width);
    let rows = rows_of_piece(width);
    let mut dx = vec![0.0; x.len()];
    let mut sums = vec![0.0; (x.len() / width.max(1)).div_ceil(rows) * width];
    pieces_of_two([&mut dx, &mut sums], [rows * width, width], 8 * rows * width, |at, dx, sums| {
        let start = at * rows * width;
        let (x, g) = (&x[start..][..dx.len()], &g[start..][..dx.len()]);
        let rstds = &rstds[at * rows..];
        vectorised(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(width).zip(g.chunks_exact(width));
                for (((x, g), dx), rstd) in rows.zip(dx.chunks_exact_mut(width)).zip(rstds) {
                    let rstd = *rstd;
                    for ((dx, g), gain) in dx.iter_mut().zip(g).zip(gain) {
                        *dx = g * gain;
                    }
                    let dot = sum_of_pairs(dx, x, |s, x| s * x) * rstd * inverse;
                    let (x, g, dx) = (&x[..width], &g[..width], &mut dx[..width]);
                    let dgain = &mut sums[..width];
                    for i in 0..width {
                        let hat = x[i] * rstd;
                        dx[i] = (dx[i] - hat * dot) * rstd;
                        dgain[i] += g[i] * hat;
                    }
                }
            },
        );
    });
    let dgain = add_up(&sums, width);
    (dx, dgain)
}
