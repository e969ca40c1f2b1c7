//! Gradient of a convolution's input.
//!
//! With a stride of 1 it is a convolution of g with the kernel turned round. Otherwise, or where the kernel is large
//! against the image, each tap's product of weights and g is added where the tap lies.

use pulp::{Arch, Simd, WithSimd};
use wattle_protocol::dag::cost::geometry::Geometry;

use super::conv2d;
use crate::exec::host::parallel::pieces;
use crate::exec::host::tile::{COLUMNS, Columns, Down, Grid, Product, ROWS, Write};

/// Gradient of x `[N, C, H, W]` from w `[O, C / groups, KH, KW]` and g `[N, O, H', W']`.
pub fn input_grad(w: &[f32], gradient: &[f32], g: &Geometry) -> Vec<f32> {
    match g.turned() {
        Some(turned) => conv2d(gradient, &turn(w, g), None, &turned),
        None => scattered(w, gradient, g),
    }
}

/// Turns weights `[O, C, KH, KW]` of each group to `[C, O, KH, KW]`, taps in reverse.
fn turn(w: &[f32], g: &Geometry) -> Vec<f32> {
    let (inner, outer, taps) = (g.inner / g.groups, g.outer / g.groups, g.taps());
    let mut out = vec![0.0; w.len()];
    pieces(&mut out, outer * taps, outer * taps, |at, out| {
        let (group, channel) = (at / inner, at % inner);
        for (o, out) in out.chunks_exact_mut(taps).enumerate() {
            let from = &w[((group * outer + o) * inner + channel) * taps..][..taps];
            for (out, w) in out.iter_mut().zip(from.iter().rev()) {
                *out = *w;
            }
        }
    });
    out
}

/// Adds each tap's product where the tap lies, a few channels of all images at a time.
fn scattered(w: &[f32], gradient: &[f32], g: &Geometry) -> Vec<f32> {
    let (inner, outer) = (g.inner / g.groups, g.outer / g.groups);
    let (size, taps, plane) = (g.size[0] * g.size[1], g.taps(), g.columns());
    let total = g.batch * plane;
    let mut dx = vec![0.0; g.batch * g.inner * size];
    for group in 0..g.groups {
        let w = &w[group * outer * inner * taps..(group + 1) * outer * inner * taps];
        let values = rows_of(gradient, g, group * outer..(group + 1) * outer);
        let offsets: Vec<usize> = (0..outer).map(|o| o * total).collect();
        let b = Columns::new(&values, &offsets);
        // [channel][image][place], so that channels are pieces.
        let mut sums = vec![0.0; inner * g.batch * size];
        let work = 2 * ROWS * taps * outer * total;
        pieces(&mut sums, ROWS * g.batch * size, work, |at, sums| {
            let channels = sums.len() / (g.batch * size);
            let mut products = vec![0.0; channels * taps * total];
            for (tile, products) in products.chunks_mut(ROWS * total).enumerate() {
                let first = at * ROWS * taps + tile * ROWS;
                let rows = Down { values: &w[first..], stride: inner * taps };
                let (grid, write) = (Grid::dense(total), Write::Plain);
                Arch::new().dispatch(Product { rows, b, grid, y: products, plane: total, write });
            }
            for (channel, products) in products.chunks_exact(taps * total).enumerate() {
                let sums = &mut sums[channel * g.batch * size..][..g.batch * size];
                Arch::new().dispatch(Scatter { products, g, sums });
            }
        });
        for (channel, sums) in sums.chunks_exact(g.batch * size).enumerate() {
            for (image, sums) in sums.chunks_exact(size).enumerate() {
                let start = (image * g.inner + group * inner + channel) * size;
                dx[start..start + size].copy_from_slice(sums);
            }
        }
    }
    dx
}

/// Returns channels of `[N, O, H', W']` as rows `[O, N * H' * W']` with room for a tile at the end.
fn rows_of(gradient: &[f32], g: &Geometry, channels: std::ops::Range<usize>) -> Vec<f32> {
    let plane = g.columns();
    let total = g.batch * plane;
    let mut rows = vec![0.0; channels.len() * total + COLUMNS];
    for (row, channel) in rows.chunks_exact_mut(total).zip(channels) {
        for (image, row) in row.chunks_exact_mut(plane).enumerate() {
            row.copy_from_slice(&gradient[(image * g.outer + channel) * plane..][..plane]);
        }
    }
    rows
}

/// Adds the products of one channel's taps, `[taps, N * H' * W']`, to its gradient, `[N, H, W]`.
struct Scatter<'a> {
    products: &'a [f32],
    g: &'a Geometry,
    sums: &'a mut [f32],
}

impl WithSimd for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    // Always: it must be compiled for the machine's vectors.
    fn with_simd<S: Simd>(self, _: S) {
        let g = self.g;
        let (size, plane) = (g.size[0] * g.size[1], g.columns());
        for (tap, products) in self.products.chunks_exact(g.batch * plane).enumerate() {
            let [ky, kx] = [tap / g.kernel[1] * g.dilation[0], tap % g.kernel[1] * g.dilation[1]];
            let places = inside(kx, g.padding[1], g.stride[1], g.size[1], g.out[1]);
            for (image, products) in products.chunks_exact(plane).enumerate() {
                let sums = &mut self.sums[image * size..(image + 1) * size];
                for (oy, products) in products.chunks_exact(g.out[1]).enumerate() {
                    let y = (oy * g.stride[0] + ky).wrapping_sub(g.padding[0]);
                    if y >= g.size[0] || places.is_empty() {
                        continue;
                    }
                    let row = &mut sums[y * g.size[1]..(y + 1) * g.size[1]];
                    let first = places.start * g.stride[1] + kx - g.padding[1];
                    let products = &products[places.clone()];
                    // By index: iterators over steps are not vectorised.
                    let row = &mut row[first..];
                    if g.stride[1] == 1 {
                        let row = &mut row[..products.len()];
                        for i in 0..products.len() {
                            row[i] += products[i];
                        }
                    } else {
                        for (i, x) in products.iter().enumerate() {
                            row[i * g.stride[1]] += x;
                        }
                    }
                }
            }
        }
    }
}

/// Returns the outputs whose tap at `k` lies within the input.
fn inside(
    k: usize,
    padding: usize,
    stride: usize,
    size: usize,
    out: usize,
) -> std::ops::Range<usize> {
    let start = padding.saturating_sub(k).div_ceil(stride);
    let end = (size + padding).saturating_sub(k).div_ceil(stride).min(out);
    start.min(end)..end
}
