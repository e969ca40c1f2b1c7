//! Convolution in host memory without a matrix of patches: register tiles read the image itself.
//!
//! An image is laid out with its padding once, each phase of a stride as a plane of its own ([`layout`]). Then output
//! column q of tap k is at `offset[k] + q`, so that a convolution is a product whose right-hand side is read where it
//! lies. Columns between the end of a row and the next row's start are computed and dropped; where images are so small
//! that this is most of the work, there is a matrix of patches after all.
//! Reading order: [`layout`], this file (forward), [`back`] (gradient of the input), [`weights`] (of the weights),
//! [`patches`].

pub mod back;
pub mod layout;
mod patches;
pub mod weights;

use std::ops::Range;

use pulp::Arch;
use wattle_protocol::dag::cost::geometry::Geometry;

use self::layout::Laid;
use super::fresh::zeros;
use super::parallel::pieces;
use super::tile::{COLUMNS, Columns, Grid, Packed, Product, ROWS, Write, pack_all};

/// Convolution: x `[N, C, H, W]`, w `[O, C / groups, KH, KW]`, bias `[O]` -> `[N, O, H', W']`.
pub fn conv2d(x: &[f32], w: &[f32], bias: Option<&[f32]>, g: &Geometry) -> Vec<f32> {
    if let Some(picked) = g.of_picked() {
        return conv2d(&pick(x, g), w, bias, &picked);
    }
    let mut y = zeros(g.batch * g.outer * g.columns());
    let (inner, outer) = (g.inner / g.groups, g.outer / g.groups);
    let taps = inner * g.taps();
    for group in 0..g.groups {
        let w = &w[group * outer * taps..(group + 1) * outer * taps];
        let bias = bias.map(|b| &b[group * outer..(group + 1) * outer]);
        let laid = Laid::new(x, g, group * inner..(group + 1) * inner);
        let call = Call { w, taps, bias, outer };
        if g.is_worth_gathering() {
            let rows = patches::forward(&laid, w, bias, g);
            place_rows(&rows, &mut y, [group * outer, g.outer], [g.batch, g.columns()]);
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
    let packed = pack_all(call.w, call.taps);
    let packed = packed.as_chunks::<ROWS>().0;
    let rows = |image: usize, row: usize, y: &mut [f32]| {
        let b = all.of(laid.image(image));
        let rows = Packed(&packed[row / ROWS * call.taps..][..call.taps]);
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

/// Returns every `stride`-th pixel.
fn pick(x: &[f32], g: &Geometry) -> Vec<f32> {
    let mut picked = Vec::with_capacity(g.batch * g.inner * g.columns());
    for plane in x.chunks_exact(g.size[0] * g.size[1]) {
        for row in plane.chunks_exact(g.size[1]).step_by(g.stride[0]) {
            picked.extend(row.iter().step_by(g.stride[1]));
        }
    }
    picked
}

/// Writes rows `[channels, images, plane]` to the channels from `first` on of `[images, all channels, plane]`.
fn place_rows(rows: &[f32], y: &mut [f32], [first, all]: [usize; 2], [batch, plane]: [usize; 2]) {
    for (row, values) in rows.chunks_exact(batch * plane).enumerate() {
        for (image, values) in values.chunks_exact(plane).enumerate() {
            let start = (image * all + first + row) * plane;
            y[start..start + plane].copy_from_slice(values);
        }
    }
}

/// Returns channels of `[images, all channels, plane]` as rows `[channels, images, plane]`.
fn rows_of(x: &[f32], channels: Range<usize>, all: usize, [batch, plane]: [usize; 2]) -> Vec<f32> {
    let mut rows = Vec::with_capacity(channels.len() * batch * plane + COLUMNS);
    for channel in channels {
        for image in 0..batch {
            rows.extend_from_slice(&x[(image * all + channel) * plane..][..plane]);
        }
    }
    rows
}

#[cfg(test)]
mod tests;
