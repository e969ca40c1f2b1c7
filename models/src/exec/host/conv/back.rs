//! Gradient of a convolution's input.
//!
//! With a stride of 1 it is a convolution of g with the kernel turned round. Otherwise, or where the kernel is large
//! against the image, each tap's product of weights and g is added where the tap lies.

use pulp::{Arch, Simd, WithSimd};
use wattle_protocol::dag::cost::geometry::Geometry;

use super::{conv2d, patches, place_rows, rows_of};
use crate::exec::host::fresh::{fill_rows, zeros};
use crate::exec::host::parallel::pieces;
use crate::exec::host::tile::{COLUMNS, Columns, Down, Grid, Product, ROWS, Write};

/// Gradient of x `[N, C, H, W]` from w `[O, C / groups, KH, KW]` and g `[N, O, H', W']`.
pub fn input_grad(w: &[f32], gradient: &[f32], g: &Geometry) -> Vec<f32> {
    if let Some(picked) = g.of_picked() {
        return spread(&input_grad(w, gradient, &picked), g);
    }
    match g.turned() {
        Some(turned) => conv2d(gradient, &turn(w, g), None, &turned),
        None => scattered(w, gradient, g),
    }
}

/// Writes pixels where every `stride`-th one lies, among zeros.
fn spread(picked: &[f32], g: &Geometry) -> Vec<f32> {
    let size = g.size[0] * g.size[1];
    let mut dx = zeros(g.batch * g.inner * size);
    for (plane, picked) in dx.chunks_exact_mut(size).zip(picked.chunks_exact(g.columns())) {
        let rows = plane.chunks_exact_mut(g.size[1]).step_by(g.stride[0]);
        for (row, picked) in rows.zip(picked.chunks_exact(g.out[1])) {
            for (to, x) in row.iter_mut().step_by(g.stride[1]).zip(picked) {
                *to = *x;
            }
        }
    }
    dx
}

/// Turns weights `[O, C, KH, KW]` of each group to `[C, O, KH, KW]`, taps in reverse.
fn turn(w: &[f32], g: &Geometry) -> Vec<f32> {
    match g.taps() {
        1 => turn_taps::<1>(w, g),
        9 => turn_taps::<9>(w, g),
        _ => turn_taps::<0>(w, g),
    }
}

/// The same with the number of taps, or 0 where it is not known beforehand.
fn turn_taps<const TAPS: usize>(w: &[f32], g: &Geometry) -> Vec<f32> {
    let (inner, outer, taps) = (g.inner / g.groups, g.outer / g.groups, g.taps());
    let (out, _) = fill_rows(w.len(), outer * taps, 4, |first, out| {
        for (at, out) in out.chunks_exact_mut(outer * taps).enumerate() {
            let (group, channel) = ((first + at) / inner, (first + at) % inner);
            let rows = w[group * outer * inner * taps..].chunks_exact(inner * taps);
            for (out, row) in out.chunks_exact_mut(taps).zip(rows) {
                let from = &row[channel * taps..][..taps];
                match (out.first_chunk_mut::<TAPS>(), from.first_chunk::<TAPS>()) {
                    (Some(out), Some(from)) if TAPS > 0 => {
                        *out = *from;
                        out.reverse();
                    }
                    _ => {
                        for (out, w) in out.iter_mut().zip(from.iter().rev()) {
                            *out = *w;
                        }
                    }
                }
            }
        }
    });
    out
}

/// Adds each tap's product where the tap lies, a few channels of all images at a time.
fn scattered(w: &[f32], gradient: &[f32], g: &Geometry) -> Vec<f32> {
    let (inner, outer) = (g.inner / g.groups, g.outer / g.groups);
    let (size, taps) = (g.size[0] * g.size[1], g.taps());
    let mut dx = zeros(g.batch * g.inner * size);
    for group in 0..g.groups {
        let w = &w[group * outer * inner * taps..(group + 1) * outer * inner * taps];
        let channels = group * outer..(group + 1) * outer;
        let rows = rows_of(gradient, channels, g.outer, [g.batch, g.columns()]);
        let sums =
            if g.is_small() { patches::input_grad(w, &rows, g) } else { by_taps(w, rows, g) };
        place_rows(&sums, &mut dx, [group * inner, g.inner], [g.batch, size]);
    }
    dx
}

/// Gradient of the input, `[channels, images, places]`, from rows of g `[outer, outputs]`, a tap of all outputs at a time.
fn by_taps(w: &[f32], mut rows: Vec<f32>, g: &Geometry) -> Vec<f32> {
    let (inner, outer) = (g.inner / g.groups, g.outer / g.groups);
    let (size, taps, total) = (g.size[0] * g.size[1], g.taps(), g.batch * g.columns());
    // Room for a tile.
    rows.resize(rows.len() + COLUMNS, 0.0);
    let offsets: Vec<usize> = (0..outer).map(|o| o * total).collect();
    let b = Columns::new(&rows, &offsets);
    let mut sums = zeros(inner * g.batch * size);
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
    sums
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
