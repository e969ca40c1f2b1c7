//! Convolution of images of few pixels: the patches of all images as rows of one matrix.
//!
//! Where a row of outputs fills no vector, tiles that read the image itself compute mostly what is dropped. Here a row of
//! the matrix is what one output sees, so that all three products have the weights as they lie: outputs are dot products
//! of patches and weights, the gradient of the weights is a product with the patches, and the gradient of the input is a
//! product with the weights, whose rows are added where the patches came from.

use pulp::{Arch, Simd, WithSimd};
use wattle_protocol::dag::cost::geometry::Geometry;

use super::layout::Laid;
use crate::exec::host::fresh::{fill_pieces, fill_rows, zeros};
use crate::exec::host::parallel::pieces;
use crate::exec::host::tile::{
    Across, Columns, DOTS, Down, Grid, LANES, Product, ROWS, Segment, Write, dots,
};

/// Elements of patches that are read before the next rows of weights, so that they stay in the cache.
const BLOCK: usize = 1 << 17;
/// Rows of weights that one thread takes at a time.
const WEIGHTS: usize = 4 * DOTS[1];

/// What the outputs of all images see of some channels: `[outputs, taps]`, each row with zeros up to whole lanes.
struct Patches {
    values: Vec<f32>,
    taps: usize,
    /// From a row to the next.
    stride: usize,
}

impl Patches {
    fn new(laid: &Laid<'_>, g: &Geometry) -> Self {
        let (offsets, places) = (laid.offsets(g), laid.places(g));
        let taps = offsets.len();
        let stride = taps.next_multiple_of(LANES);
        let run = g.run();
        let (values, _) = fill_rows(places.len() * stride, stride, 2, |first, rows| {
            for (row, place) in rows.chunks_exact_mut(stride).zip(&places[first..]) {
                let (row, from) = (&mut row[..taps], &laid.values[*place..]);
                match run {
                    3 => copy::<3>(row, from, &offsets),
                    _ => copy::<1>(row, from, &offsets),
                }
            }
        });
        Self { values, taps, stride }
    }
}

/// Copies taps, of which each `RUN` lie together.
fn copy<const RUN: usize>(row: &mut [f32], from: &[f32], offsets: &[usize]) {
    let runs = row.as_chunks_mut::<RUN>().0.iter_mut().zip(offsets.iter().step_by(RUN));
    for (run, offset) in runs {
        if let Some(from) = from[*offset..].first_chunk::<RUN>() {
            *run = *from;
        }
    }
}

/// Outputs of one group's weights `[outer, taps]` as rows `[outer, outputs]`.
pub(super) fn forward(laid: &Laid<'_>, w: &[f32], bias: Option<&[f32]>, g: &Geometry) -> Vec<f32> {
    let patches = Patches::new(laid, g);
    let (taps, stride, total) = (patches.taps, patches.stride, g.batch * g.columns());
    let padded: Vec<f32>;
    let mut rows = w;
    if stride > taps {
        padded = pad(w, taps, stride);
        rows = &padded;
    }
    let mut y = zeros(w.len() / taps * total);
    pieces(&mut y, WEIGHTS * total, 2 * WEIGHTS * taps * total, |at, y| {
        let w = &rows[at * WEIGHTS * stride..];
        Arch::new().dispatch(Forward { patches: &patches, w, y, total });
        if let Some(bias) = bias {
            for (y, bias) in y.chunks_exact_mut(total).zip(&bias[at * WEIGHTS..]) {
                y.iter_mut().for_each(|y| *y += bias);
            }
        }
    });
    y
}

/// Writes rows of `width` out with zeros up to `stride`.
fn pad(rows: &[f32], width: usize, stride: usize) -> Vec<f32> {
    let mut padded = zeros(rows.len() / width * stride);
    for (to, from) in padded.chunks_exact_mut(stride).zip(rows.chunks_exact(width)) {
        to[..width].copy_from_slice(from);
    }
    padded
}

struct Forward<'a> {
    patches: &'a Patches,
    /// From the first row of weights on.
    w: &'a [f32],
    y: &'a mut [f32],
    total: usize,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    // Always: it must be compiled for the machine's vectors.
    fn with_simd<S: Simd>(self, simd: S) {
        let (stride, total) = (self.patches.stride, self.total);
        let rows = self.y.len() / total;
        let segment = [Segment { left: 0, right: 0, len: stride }];
        let block = (BLOCK / stride / DOTS[0]).max(1) * DOTS[0];
        for (at, patches) in self.patches.values.chunks(block * stride).enumerate() {
            let count = patches.len() / stride;
            for first in (0..rows).step_by(DOTS[1]) {
                // Beyond the last row, the last one again; its sums are dropped.
                let mut b = [self.w; DOTS[1]];
                for (j, b) in b.iter_mut().enumerate() {
                    *b = &self.w[(first + j).min(rows - 1) * stride..][..stride];
                }
                for output in (0..count).step_by(DOTS[0]) {
                    let mut a = [patches; DOTS[0]];
                    for (i, a) in a.iter_mut().enumerate() {
                        *a = &patches[(output + i).min(count - 1) * stride..][..stride];
                    }
                    let mut sums = [[0.0; DOTS[1]]; DOTS[0]];
                    dots(simd, a, b, &segment, &mut sums);
                    for (i, sums) in sums.iter().enumerate().take(count - output) {
                        for (j, sum) in sums.iter().enumerate().take(rows - first) {
                            self.y[(first + j) * total + at * block + output + i] = *sum;
                        }
                    }
                }
            }
        }
    }
}

/// Gradient of one group's weights, `[outer, taps]`, from rows of g `[outer, outputs]`.
pub(super) fn weight_grad(laid: &Laid<'_>, gradient: &[f32], g: &Geometry) -> Vec<f32> {
    let patches = Patches::new(laid, g);
    let (taps, total) = (patches.taps, g.batch * g.columns());
    let offsets: Vec<usize> = (0..total).map(|row| row * patches.stride).collect();
    let b = Columns::new(&patches.values, &offsets);
    let (dw, _) = fill_pieces(gradient.len() / total * taps, ROWS * taps, 2 * total, |at, dw| {
        let rows = Across::new(gradient, total, at * ROWS);
        let (grid, write) = (Grid::dense(taps), Write::Plain);
        Arch::new().dispatch(Product { rows, b, grid, y: dw, plane: taps, write });
    });
    dw
}

/// Gradient of the input from one group's weights `[outer, taps]` and rows of g `[outer, outputs]`: `[channels, images,
/// places]`.
pub(super) fn input_grad(w: &[f32], gradient: &[f32], g: &Geometry) -> Vec<f32> {
    /// Channels whose taps are a whole number of tiles' columns.
    const CHANNELS: usize = 16;
    let (size, total) = (g.size[0] * g.size[1], g.batch * g.columns());
    let (outer, inner) = (gradient.len() / total, g.inner / g.groups);
    let taps = inner * g.taps();
    let offsets: Vec<usize> = (0..outer).map(|row| row * taps).collect();
    let part = CHANNELS * g.batch * size;
    let mut dx = zeros(inner * g.batch * size);
    pieces(&mut dx, part, 2 * CHANNELS * g.taps() * outer * total, |at, dx| {
        let first = at * CHANNELS * g.taps();
        let columns = dx.len() / (g.batch * size) * g.taps();
        let b = Columns::new(&w[first..], &offsets);
        let mut products = vec![0.0; total * columns];
        for (tile, y) in products.chunks_mut(ROWS * columns).enumerate() {
            let rows = Down { values: &gradient[tile * ROWS..], stride: total };
            let (grid, write) = (Grid::dense(columns), Write::Plain);
            Arch::new().dispatch(Product { rows, b, grid, y, plane: columns, write });
        }
        scatter(&products, g, dx);
    });
    dx
}

/// Adds products `[outputs, channels * taps]` where their taps lie in `[channels, images, places]`.
fn scatter(products: &[f32], g: &Geometry, dx: &mut [f32]) {
    let (size, plane, taps) = (g.size[0] * g.size[1], g.columns(), g.taps());
    let columns = products.len() / (g.batch * plane);
    for (output, row) in products.chunks_exact(columns).enumerate() {
        let (image, y, x) = (output / plane, output % plane / g.out[1], output % g.out[1]);
        let places: Vec<(usize, usize)> = (0..taps)
            .filter_map(|tap| Some((tap, g.place([y, x], [tap / g.kernel[1], tap % g.kernel[1]])?)))
            .collect();
        for (channel, row) in row.chunks_exact(taps).enumerate() {
            let dx = &mut dx[(channel * g.batch + image) * size..][..size];
            for (tap, place) in &places {
                dx[*place] += row[*tap];
            }
        }
    }
}
