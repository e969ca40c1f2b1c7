//! Convolution in host memory without a matrix of patches: register tiles read the image itself.
//!
//! An image is laid out with its padding once, each phase of a stride as a plane of its own ([`layout`]). Then output
//! column q of tap k is at `offset[k] + q`, so that a convolution is a product whose right-hand side is read where it
//! lies. Columns between the end of a row and the next row's start are computed and dropped; where images are so small
//! that this is most of the work, columns are gathered instead.
//! Reading order: [`layout`], this file (forward), [`back`] (gradient of the input), [`weights`] (of the weights).

pub mod back;
pub mod layout;
pub mod weights;

use pulp::Arch;
use wattle_protocol::dag::cost::geometry::Geometry;

use self::layout::Laid;
use super::parallel::pieces;
use super::tile::{Across, COLUMNS, Columns, Grid, Packed, Product, ROWS, Write, pack};

/// Convolution: x `[N, C, H, W]`, w `[O, C / groups, KH, KW]`, bias `[O]` -> `[N, O, H', W']`.
pub fn conv2d(x: &[f32], w: &[f32], bias: Option<&[f32]>, g: &Geometry) -> Vec<f32> {
    let mut y = vec![0.0; g.batch * g.outer * g.columns()];
    let (inner, outer) = (g.inner / g.groups, g.outer / g.groups);
    let taps = inner * g.taps();
    for group in 0..g.groups {
        let w = &w[group * outer * taps..(group + 1) * outer * taps];
        let bias = bias.map(|b| &b[group * outer..(group + 1) * outer]);
        let laid = Laid::new(x, g, group * inner..(group + 1) * inner);
        let call = Call { w, taps, bias, outer };
        if g.is_worth_gathering() {
            gathered(&laid, &call, g, group * outer, &mut y);
        } else {
            direct(&laid, &call, g, group * outer, &mut y);
        }
    }
    y
}

/// The weights `[outer, taps]` and biases of one group.
#[derive(Clone, Copy)]
struct Call<'a> {
    w: &'a [f32],
    taps: usize,
    bias: Option<&'a [f32]>,
    outer: usize,
}

impl Call<'_> {
    fn write(&self, row: usize) -> Write<'_> {
        self.bias.map_or(Write::Plain, |b| Write::Biased(&b[row..]))
    }
}

/// Reads columns where they lie, an image and a few output channels at a time.
fn direct(laid: &Laid<'_>, call: &Call<'_>, g: &Geometry, first: usize, y: &mut [f32]) {
    let plane = g.columns();
    let offsets = laid.offsets(g);
    let grid = Grid { width: laid.width, row: g.out[1], columns: laid.columns(g) };
    let work = 2 * ROWS * call.taps * plane;
    let all = Columns::new(&laid.values, &offsets);
    let rows = |image: usize, row: usize, y: &mut [f32]| {
        let b = all.of(laid.image(image));
        let mut packed = Vec::new();
        pack(call.w, call.taps, row, &mut packed);
        let rows = Packed(&packed);
        let write = call.write(row);
        Arch::new().dispatch(Product { rows, b, grid, y, plane, write });
    };
    if g.groups == 1 && g.outer.is_multiple_of(ROWS) {
        // All images at once: more pieces for the threads.
        let tiles = g.outer / ROWS;
        return pieces(y, ROWS * plane, work, |at, y| rows(at / tiles, at % tiles * ROWS, y));
    }
    for (image, y) in y.chunks_exact_mut(g.outer * plane).enumerate() {
        let y = &mut y[first * plane..(first + call.outer) * plane];
        pieces(y, ROWS * plane, work, |at, y| rows(image, at * ROWS, y));
    }
}

/// Gathers the columns of all images first.
fn gathered(laid: &Laid<'_>, call: &Call<'_>, g: &Geometry, first: usize, y: &mut [f32]) {
    let plane = g.columns();
    let total = g.batch * plane;
    let (values, offsets) = gather(laid, g);
    let b = Columns::new(&values, &offsets);
    let mut rows_of_y = vec![0.0; call.outer * total];
    pieces(&mut rows_of_y, ROWS * total, 2 * ROWS * call.taps * total, |at, y| {
        let rows = Across::new(call.w, call.taps, at * ROWS);
        let (grid, write) = (Grid::dense(total), call.write(at * ROWS));
        Arch::new().dispatch(Product { rows, b, grid, y, plane: total, write });
    });
    for (row, values) in rows_of_y.chunks_exact(total).enumerate() {
        for (image, values) in values.chunks_exact(plane).enumerate() {
            let start = (image * g.outer + first + row) * plane;
            y[start..start + plane].copy_from_slice(values);
        }
    }
}

/// Writes the columns of all images out as a matrix `[taps, batch * columns]` with room for a tile at the end.
pub(super) fn gather(laid: &Laid<'_>, g: &Geometry) -> (Vec<f32>, Vec<usize>) {
    let total = g.batch * g.columns();
    let stride = total.next_multiple_of(super::tile::LANES);
    let offsets = laid.offsets(g);
    let places = laid.places(g);
    let mut values = vec![0.0; offsets.len() * stride + COLUMNS];
    let rows = &mut values[..offsets.len() * stride];
    pieces(rows, stride, total, |k, row| {
        let from = &laid.values[offsets[k]..];
        for (x, place) in row.iter_mut().zip(&places) {
            *x = from[*place];
        }
    });
    let offsets = (0..offsets.len()).map(|k| k * stride).collect();
    (values, offsets)
}

#[cfg(test)]
mod tests;
