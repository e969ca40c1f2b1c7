//! Gradient of a convolution's weights: dot products of g with the image under each tap, over all outputs.

use pulp::{Arch, Simd, WithSimd};
use wattle_protocol::dag::cost::geometry::Geometry;

use super::gather;
use super::layout::Laid;
use crate::exec::host::parallel::pieces;
use crate::exec::host::tile::{DOTS, LANES, Segment, dots};

/// Outputs that are summed before the next taps, so that what is read stays in the cache.
const BLOCK: usize = 2048;

/// Gradient of w `[O, C / groups, KH, KW]` from x `[N, C, H, W]` and g `[N, O, H', W']`.
pub fn weight_grad(x: &[f32], gradient: &[f32], g: &Geometry) -> Vec<f32> {
    let (inner, outer) = (g.inner / g.groups, g.outer / g.groups);
    let taps = inner * g.taps();
    let mut dw = vec![0.0; g.outer * taps];
    for group in 0..g.groups {
        let laid = Laid::new(x, g, group * inner..(group + 1) * inner);
        let channels = group * outer..(group + 1) * outer;
        let dw = &mut dw[group * outer * taps..(group + 1) * outer * taps];
        if g.is_worth_gathering() {
            let (values, offsets) = gather(&laid, g);
            let total = g.batch * g.columns();
            let len = total.next_multiple_of(LANES);
            let line = Line { row: g.out[1], image: g.columns(), len };
            let lines = lines(gradient, g, channels, line);
            add(&lines, len, &values, &offsets, &blocks(1, len, 0), dw);
            continue;
        }
        // Zeros meet the columns between rows.
        let len = laid.columns(g).next_multiple_of(LANES);
        let line = Line { row: laid.width, image: len, len: g.batch * len };
        let lines = lines(gradient, g, channels, line);
        let offsets = laid.offsets(g);
        let last = offsets.iter().max().copied().unwrap_or(0);
        let need = last + (g.batch - 1) * laid.stride + len;
        let mut values = laid.values.as_ref();
        let longer: Vec<f32>;
        if need > values.len() {
            let zeros = std::iter::repeat_n(&0.0, need - values.len());
            longer = values.iter().chain(zeros).copied().collect();
            values = &longer;
        }
        add(&lines, line.len, values, &offsets, &blocks(g.batch, len, laid.stride), dw);
    }
    dw
}

/// Cuts the outputs of all images into segments, and these into blocks.
fn blocks(images: usize, len: usize, stride: usize) -> Vec<Vec<Segment>> {
    let (mut blocks, mut block, mut size) = (Vec::new(), Vec::new(), 0);
    for image in 0..images {
        for start in (0..len).step_by(BLOCK) {
            let part = BLOCK.min(len - start);
            block.push(Segment {
                left: image * len + start,
                right: image * stride + start,
                len: part,
            });
            size += part;
            if size >= BLOCK {
                blocks.push(std::mem::take(&mut block));
                size = 0;
            }
        }
    }
    blocks.push(block);
    blocks
}

/// How a channel of g is written out.
#[derive(Clone, Copy)]
struct Line {
    /// From a row to the next.
    row: usize,
    /// From an image to the next.
    image: usize,
    /// In all, a multiple of the lanes.
    len: usize,
}

/// Writes channels of g `[N, O, H', W']` out as `[channels, line]`, zeros between rows and at the end.
fn lines(gradient: &[f32], g: &Geometry, channels: std::ops::Range<usize>, line: Line) -> Vec<f32> {
    let plane = g.columns();
    let mut out = vec![0.0; channels.len() * line.len];
    let first = channels.start;
    pieces(&mut out, line.len, g.batch * plane, |channel, out| {
        for image in 0..g.batch {
            let from = &gradient[(image * g.outer + first + channel) * plane..][..plane];
            for (y, from) in from.chunks_exact(g.out[1]).enumerate() {
                let start = image * line.image + y * line.row;
                out[start..start + from.len()].copy_from_slice(from);
            }
        }
    });
    out
}

/// Adds `dw[o][k] += sum over q of lines[o][q] values[offsets[k] + q]`, with q as the segments say.
fn add(
    lines: &[f32],
    len: usize,
    values: &[f32],
    offsets: &[usize],
    blocks: &[Vec<Segment>],
    dw: &mut [f32],
) {
    let taps = offsets.len();
    let rows = DOTS[0];
    pieces(dw, rows * taps, 2 * rows * taps * len, |at, dw| {
        let lines = &lines[at * rows * len..];
        Arch::new().dispatch(Add { lines, len, values, offsets, blocks, dw });
    });
}

struct Add<'a> {
    lines: &'a [f32],
    len: usize,
    values: &'a [f32],
    offsets: &'a [usize],
    blocks: &'a [Vec<Segment>],
    dw: &'a mut [f32],
}

impl WithSimd for Add<'_> {
    type Output = ();

    #[inline(always)]
    // Always: it must be compiled for the machine's vectors.
    fn with_simd<S: Simd>(self, simd: S) {
        let taps = self.offsets.len();
        let rows = self.dw.len() / taps;
        // Beyond the last row, the last one again; its sums are dropped.
        let mut a = [self.lines; DOTS[0]];
        for (i, a) in a.iter_mut().enumerate() {
            *a = &self.lines[i.min(rows - 1) * self.len..];
        }
        for block in self.blocks {
            for first in (0..taps).step_by(DOTS[1]) {
                let mut b = [self.values; DOTS[1]];
                for (j, b) in b.iter_mut().enumerate() {
                    *b = &self.values[self.offsets[(first + j).min(taps - 1)]..];
                }
                let mut sums = [[0.0; DOTS[1]]; DOTS[0]];
                dots(simd, a, b, block, &mut sums);
                for (row, sums) in self.dw.chunks_exact_mut(taps).zip(&sums) {
                    for (dw, sum) in row[first..].iter_mut().zip(sums) {
                        *dw += sum;
                    }
                }
            }
        }
    }
}
