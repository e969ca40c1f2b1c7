//! Layer and batch normalisation with their gradients: a few passes over a row while it is in the cache.

use super::elements::rewrite;
use super::fresh::{fill, fill_rows, write_rows};
use super::parallel::{map, pieces};
use super::{mean_and_variance, sum_of, sum_of_pairs, sum_of_three, two_sums_of_three, vectorised};
use crate::exec::tensor::memory::HostFloats;

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
    let inverse = share(width);
    let (y, ends) = write_rows(
        [x.len(), width],
        4,
        #[inline(always)]
        |rows, mut y| {
            let mut ends = Vec::with_capacity(rows.len());
            for x in x[rows.start * width..rows.end * width].chunks_exact(width) {
                let (mean, variance) = mean_and_variance(x, inverse);
                let rstd = 1.0 / (variance + eps).sqrt();
                let row = x.iter().zip(gain).zip(bias);
                y.write(width, row.map(|((x, gain), bias)| (x - mean) * rstd * gain + bias));
                ends.push((mean, rstd));
            }
            ends
        },
    );
    let (means, rstds) = ends.into_iter().flatten().unzip();
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
    // Beside dx, sums of pieces: of gain, then of bias.
    let (dx, sums) = write_rows(
        [x.len(), width],
        8,
        #[inline(always)]
        |rows, mut dx| {
            let mut sums = vec![0.0; 2 * width];
            let range = rows.start * width..rows.end * width;
            let (x, g) = (&x[range.clone()], &g[range]);
            let ends = Ends { means: &means[rows.clone()], rstds: &rstds[rows] };
            for (at, (x, g)) in x.chunks_exact(width).zip(g.chunks_exact(width)).enumerate() {
                dx.write(width, layer_norm_row([x, g, gain], ends.means[at], ends.rstds[at]));
            }
            // Some rows at a time, so that sums are read and written less often; after all rows of the piece, which is in
            // the cache, since more rows of 4 KiB at once than the first cache has ways displace one another.
            let (dgain, dbias) = sums.split_at_mut(width);
            for (at, (x, g)) in x.chunks(FEW * width).zip(g.chunks(FEW * width)).enumerate() {
                add_rows(x, g, ends.from(at * FEW), dgain, dbias);
            }
            sums
        },
    );
    let mut ends = add_up(&sums, 2 * width);
    let dbias = ends.split_off(width);
    (dx, ends, dbias)
}

/// Gradient of one row `[x, g, gain]`.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn layer_norm_row([x, g, gain]: [&[f32]; 3], mean: f32, rstd: f32) -> impl Iterator<Item = f32> {
    let inverse = share(gain.len());
    let (sum, dot) = two_sums_of_three([x, g, gain], |x, g, gain| {
        let scaled = g * gain;
        (scaled, scaled * (x - mean))
    });
    let (sum, slope) = (sum * inverse, dot * rstd * inverse);
    let row = x.iter().zip(g).zip(gain);
    row.map(move |((x, g), gain)| (g * gain - sum - (x - mean) * rstd * slope) * rstd)
}

/// Means and reciprocal standard deviations of rows.
#[derive(Clone, Copy)]
struct Ends<'a> {
    means: &'a [f32],
    rstds: &'a [f32],
}

impl Ends<'_> {
    fn from(self, row: usize) -> Self {
        Self { means: &self.means[row..], rstds: &self.rstds[row..] }
    }
}

/// Rows whose products with g are added to the gradients of gain and bias at a time.
const FEW: usize = 4;

/// Adds what up to [`FEW`] rows give to the gradients of gain and bias, in their order.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn add_rows(x: &[f32], g: &[f32], ends: Ends<'_>, dgain: &mut [f32], dbias: &mut [f32]) {
    let width = dgain.len();
    let dbias = &mut dbias[..width];
    // By index over slices of one length: chains of iterators are not vectorised.
    if x.len() < FEW * width {
        for (at, (x, g)) in x.chunks_exact(width).zip(g.chunks_exact(width)).enumerate() {
            let (x, g, mean, rstd) = (&x[..width], &g[..width], ends.means[at], ends.rstds[at]);
            for i in 0..width {
                dgain[i] += g[i] * ((x[i] - mean) * rstd);
                dbias[i] += g[i];
            }
        }
        return;
    }
    let ((x0, x), (g0, g)) = (x.split_at(width), g.split_at(width));
    let ((x1, x), (g1, g)) = (x.split_at(width), g.split_at(width));
    let ((x2, x), (g2, g)) = (x.split_at(width), g.split_at(width));
    let (x3, g3) = (&x[..width], &g[..width]);
    let (means, rstds) = (&ends.means[..FEW], &ends.rstds[..FEW]);
    let (m0, m1, m2, m3) = (means[0], means[1], means[2], means[3]);
    let (r0, r1, r2, r3) = (rstds[0], rstds[1], rstds[2], rstds[3]);
    for i in 0..width {
        let sum = dgain[i] + g0[i] * ((x0[i] - m0) * r0) + g1[i] * ((x1[i] - m1) * r1);
        dgain[i] = sum + g2[i] * ((x2[i] - m2) * r2) + g3[i] * ((x3[i] - m3) * r3);
        dbias[i] = dbias[i] + g0[i] + g1[i] + g2[i] + g3[i];
    }
}

/// Adds rows of `width` up in their order.
fn add_up(rows: &[Vec<f32>], width: usize) -> Vec<f32> {
    /// Columns that one thread adds up.
    const COLUMNS: usize = 256;
    let mut total = vec![0.0; width];
    pieces(&mut total, COLUMNS, COLUMNS * rows.len(), |at, total| {
        vectorised(
            #[inline(always)]
            || {
                for row in rows {
                    for (total, x) in total.iter_mut().zip(&row[at * COLUMNS..]) {
                        *total += x;
                    }
                }
            },
        );
    });
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

/// Calls `f` for each plane, or part of one, among the elements `y` from number `at` of `[batch, channels, plane]` on: with
/// its channel, where it begins, and its elements.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn each_plane(
    y: &mut [f32],
    at: usize,
    (channels, plane): (usize, usize),
    f: impl Fn(usize, usize, &mut [f32]),
) {
    let (mut rest, mut at) = (y, at);
    while !rest.is_empty() {
        let len = (plane - at % plane).min(rest.len());
        let (part, others) = rest.split_at_mut(len);
        f(at / plane % channels, at, part);
        at += len;
        rest = others;
    }
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
    let factors: Vec<f32> = (ends.iter().zip(gain))
        .map(|((_, squares), gain)| gain / (squares * inverse + eps).sqrt())
        .collect();
    let y = fill(
        x.len(),
        2,
        #[inline(always)]
        |at, y| {
            each_plane(
                y,
                at,
                (channels, plane),
                #[inline(always)]
                |channel, at, y| {
                    let (mean, factor, bias) = (ends[channel].0, factors[channel], bias[channel]);
                    for (y, x) in y.iter_mut().zip(&x[at..]) {
                        *y = (x - mean) * factor + bias;
                    }
                },
            );
        },
    );
    let variances = ends.iter().map(|(_, squares)| squares * unbiased).collect();
    (y, ends.into_iter().map(|(mean, _)| mean).collect(), variances)
}

/// Gradient of [`batch_norm`].
pub fn batch_norm_grad(
    x: &[f32],
    gain: &[f32],
    g: HostFloats,
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
                let sum = channel_sum(&g, shape, channel, |g| sum_of(g, |g| g));
                let planes = x.chunks_exact(plane).zip(g.chunks_exact(plane));
                let dots = planes.skip(channel).step_by(channels);
                let dot: f32 =
                    dots.map(|(x, g)| sum_of_pairs(x, g, |x, g| g * (x - mean))).sum::<f32>()
                        * rstd;
                [mean, rstd, sum, dot]
            },
        )
    });
    let dbias = ends.iter().map(|[_, _, sum, _]| *sum).collect();
    let dgain = ends.iter().map(|[_, _, _, dot]| *dot).collect();
    let dx = rewrite(
        g,
        4,
        #[inline(always)]
        |at, g| {
            each_plane(
                g,
                at,
                shape,
                #[inline(always)]
                |channel, at, g| {
                    let [mean, rstd, sum, dot] = ends[channel];
                    let factor = gain[channel] * rstd;
                    let (sum, slope) = (sum * inverse, dot * inverse * rstd);
                    for (g, x) in g.iter_mut().zip(&x[at..]) {
                        *g = factor * (*g - sum - (x - mean) * slope);
                    }
                },
            );
        },
    );
    (dx, dgain, dbias)
}

/// Rows over their root mean square times gain, and its reciprocal a row.
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let inverse = share(width);
    let (y, ends) = fill_rows(
        x.len(),
        width,
        4,
        #[inline(always)]
        |first, y| {
            let x = x[first * width..].chunks_exact(width);
            let mut ends = Vec::with_capacity(y.len() / width);
            for (x, y) in x.zip(y.chunks_exact_mut(width)) {
                let rstd = 1.0 / (sum_of(x, |x| x * x) * inverse + eps).sqrt();
                for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
                    *y = x * rstd * gain;
                }
                ends.push(rstd);
            }
            ends
        },
    );
    (y, ends.concat())
}

/// Gradient of [`rms_norm`]: of x and gain.
pub fn rms_norm_grad(x: &[f32], gain: &[f32], rstds: &[f32], g: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let inverse = share(width);
    let (dx, sums) = fill_rows(
        x.len(),
        width,
        8,
        #[inline(always)]
        |first, dx| {
            let mut sums = vec![0.0; width];
            let start = first * width;
            let rows = x[start..].chunks_exact(width).zip(g[start..].chunks_exact(width));
            let rows = rows.zip(dx.chunks_exact_mut(width));
            for (((x, g), dx), rstd) in rows.zip(&rstds[first..]) {
                let rstd = *rstd;
                let dot = sum_of_three([x, g, gain], |x, g, gain| g * gain * x) * rstd * inverse;
                let (x, g, dx) = (&x[..width], &g[..width], &mut dx[..width]);
                let (dgain, gain) = (&mut sums[..width], &gain[..width]);
                for i in 0..width {
                    let hat = x[i] * rstd;
                    dx[i] = (g[i] * gain[i] - hat * dot) * rstd;
                    dgain[i] += g[i] * hat;
                }
            }
            sums
        },
    );
    let dgain = add_up(&sums, width);
    (dx, dgain)
}
