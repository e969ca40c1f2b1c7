//! Reading images between pixels: grid sampling, warping by disparity, deformable convolution.
//!
//! Each place is the weighed sum of the pixels around it, read by index; so its derivative, also to the places, follows
//! from gather and products and is the same on every device. (burn 0.22's deformable convolution has wrong gradients for
//! offsets and mask on wgpu, and its grid sampling knows no third axis.)

use super::{Built, Scope, elements};
use crate::dag::op::{Comparison, Conv2d, Unary};
use crate::dag::{Dtype, Op};
use crate::ids::ValueId;

/// What lies beyond the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Zeros.
    Zeros,
    /// The nearest pixel of the border.
    Border,
}

/// One of the two places around a coordinate on an axis: its index, and its weight, 0 beyond the axis.
pub(super) struct Tap {
    pub(super) index: ValueId,
    pub(super) weight: ValueId,
}

#[expect(clippy::cast_precision_loss, reason = "lengths of axes are far below 2^24")]
fn last(length: usize) -> f32 {
    (length - 1) as f32
}

/// The two places around each coordinate. *Errors*: as `DagBuilder::apply`, here and below.
pub(super) fn taps(
    s: &mut Scope<'_>,
    at: ValueId,
    length: usize,
    beyond: Beyond,
) -> Result<[Tap; 2], crate::dag::DagError> {
    let end = last(length);
    let at = match beyond {
        Beyond::Zeros => at,
        Beyond::Border => elements::clamp(s, at, Some(0.0), Some(end))?,
    };
    let low = s.unary(Unary::Floor, at)?;
    let share = s.sub(at, low)?;
    let less = s.scale(share, -1.0)?;
    let rest = s.shift(less, 1.0)?;
    let high = s.shift(low, 1.0)?;
    let tap = |s: &mut Scope<'_>, place: ValueId, weight: ValueId| {
        let (zero, most) = (s.number(0.0)?, s.number(end)?);
        let from = s.compare(Comparison::LessEqual, zero, place)?;
        let to = s.compare(Comparison::LessEqual, place, most)?;
        let inside = s.mul(from, to)?;
        let weight = s.choose(inside, weight, zero)?;
        let index = elements::clamp(s, place, Some(0.0), Some(end))?;
        let index = s.op(Op::Cast { dtype: Dtype::I32 }, &[index])?;
        Ok(Tap { index, weight })
    };
    Ok([tap(s, low, rest)?, tap(s, high, share)?])
}

/// Reads `x [B, G, C, H, W]` at rows and columns `[B, G, P]` (in pixels), bilinearly: `[B, G, C, P]`.
pub fn bilinear(
    s: &mut Scope<'_>,
    x: ValueId,
    rows: ValueId,
    columns: ValueId,
    beyond: Beyond,
) -> Built {
    let [batch, groups, channels, height, width] = s.sized(x, "images [B, G, C, H, W]")?;
    let [_, _, places] = s.sized(rows, "rows [B, G, P]")?;
    let flat = s.reshape(x, &[batch, groups, channels, height * width])?;
    let rows = taps(s, rows, height, beyond)?;
    let columns = taps(s, columns, width, beyond)?;
    let stride = s.int(i32::try_from(width).unwrap_or(i32::MAX))?;
    let mut total: Option<ValueId> = None;
    for row in &rows {
        for column in &columns {
            let line = s.mul(row.index, stride)?;
            let index = s.add(line, column.index)?;
            let index = s.reshape(index, &[batch, groups, 1, places])?;
            let index = s.expand(index, &[batch, groups, channels, places])?;
            let pixel = s.op(Op::GatherElements { axis: 3 }, &[flat, index])?;
            let weight = s.mul(row.weight, column.weight)?;
            let weight = s.reshape(weight, &[batch, groups, 1, places])?;
            let part = s.mul(pixel, weight)?;
            total = Some(match total {
                Some(total) => s.add(total, part)?,
                None => part,
            });
        }
    }
    Ok(total.unwrap_or(flat))
}

/// From `[-1, 1]` to pixels. With aligned corners -1 and 1 are the centres of the outer pixels, else their outer edges.
#[expect(clippy::cast_precision_loss, reason = "lengths of axes are far below 2^24")]
pub(super) fn pixels(s: &mut Scope<'_>, at: ValueId, length: usize, aligned: bool) -> Built {
    let half = if aligned { last(length) } else { length as f32 } / 2.0;
    let scaled = s.scale(at, half)?;
    s.shift(scaled, if aligned { half } else { half - 0.5 })
}

/// `x [B, C, H, W], grid [B, H', W', 2] (column, row in [-1, 1]) -> [B, C, H', W']`, bilinear, as PyTorch's
/// `grid_sample`.
pub fn grid_sample(
    s: &mut Scope<'_>,
    x: ValueId,
    grid: ValueId,
    beyond: Beyond,
    aligned: bool,
) -> Built {
    let shape: [usize; 4] = s.sized(x, "an image [B, C, H, W]")?;
    let out: [usize; 4] = s.sized(grid, "a grid [B, H', W', 2]")?;
    let places = out[1] * out[2];
    let flat = s.reshape(grid, &[out[0], 1, places, 2])?;
    let part = |s: &mut Scope<'_>, at: usize, length: usize| {
        let part = s.slice(flat, 3, at, at + 1)?;
        let part = s.reshape(part, &[out[0], 1, places])?;
        pixels(s, part, length, aligned)
    };
    let columns = part(s, 0, shape[3])?;
    let rows = part(s, 1, shape[2])?;
    let images = s.reshape(x, &[shape[0], 1, shape[1], shape[2], shape[3]])?;
    let y = bilinear(s, images, rows, columns, beyond)?;
    s.reshape(y, &[shape[0], shape[1], out[1], out[2]])
}

/// Reads each row of `x [B, C, H, W]` shifted by `disparity [B, 1, H, W]` pixels to the left: the left image as seen in
/// the right one.
pub fn warp(s: &mut Scope<'_>, x: ValueId, disparity: ValueId, beyond: Beyond) -> Built {
    let shape: [usize; 4] = s.sized(x, "an image [B, C, H, W]")?;
    let width = shape[3];
    let places = s.op(Op::Iota { shape: vec![1, 1, 1, width], axis: 3 }, &[])?;
    let places = s.float(places)?;
    let at = s.sub(places, disparity)?;
    let mut total: Option<ValueId> = None;
    for tap in &taps(s, at, width, beyond)? {
        let index = s.expand(tap.index, &shape)?;
        let pixel = s.op(Op::GatherElements { axis: 3 }, &[x, index])?;
        let part = s.mul(pixel, tap.weight)?;
        total = Some(match total {
            Some(total) => s.add(total, part)?,
            None => part,
        });
    }
    Ok(total.unwrap_or(x))
}

/// Operands of a deformable convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deformable {
    /// `[B, C, H, W]`.
    pub x: ValueId,
    /// `[O, C/groups, KH, KW]`.
    pub weight: ValueId,
    /// `[B, 2 G KH KW, H', W']`: row and column offset of each tap, in pixels, for each of G groups of channels.
    pub offset: ValueId,
    /// `[B, G KH KW, H', W']`: factor on each tap (version 2), or none (version 1).
    pub mask: Option<ValueId>,
}

/// Deformable convolution: `-> [B, O, H', W']`.
///
/// *Source*: Dai et al. 2017, section 2.1; the mask from Zhu et al. 2019, section 3.2.
pub fn deformable(s: &mut Scope<'_>, operands: Deformable, conv: Conv2d) -> Built {
    let [batch, channels, height, width] = s.sized(operands.x, "an image [B, C, H, W]")?;
    let kernel: [usize; 4] = s.sized(operands.weight, "a weight [O, C/groups, KH, KW]")?;
    let offsets = "offsets [B, 2 G KH KW, H', W'] with G a divisor of C";
    let [_, moves, rows, columns] = s.sized(operands.offset, offsets)?;
    let taps = kernel[2] * kernel[3];
    let groups = moves / (2 * taps).max(1);
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(s.refuse(offsets, s.fact(operands.offset)));
    }
    let offset = s.reshape(operands.offset, &[batch, groups, taps, 2, rows, columns])?;
    let at = |s: &mut Scope<'_>, which: usize| {
        let moved = s.slice(offset, 3, which, which + 1)?;
        let moved = s.reshape(moved, &[batch, groups, taps, rows, columns])?;
        let regular = regular(which, &kernel, &conv, [rows, columns]);
        let regular = s.floats(&[taps, rows, columns], regular)?;
        let at = s.add(moved, regular)?;
        s.reshape(at, &[batch, groups, taps * rows * columns])
    };
    let (row, column) = (at(s, 0)?, at(s, 1)?);
    let images = s.reshape(operands.x, &[batch, groups, channels / groups, height, width])?;
    let mut read = bilinear(s, images, row, column, Beyond::Zeros)?;
    if let Some(mask) = operands.mask {
        let mask = s.reshape(mask, &[batch, groups, 1, taps * rows * columns])?;
        read = s.mul(read, mask)?;
    }
    let windows = s.reshape(read, &[batch, channels * taps, rows, columns])?;
    let weight = s.reshape(operands.weight, &[kernel[0], kernel[1] * taps, 1, 1])?;
    let plain = Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: conv.groups };
    s.op(Op::Conv2d(plain), &[windows, weight])
}

/// Where the taps lie without offsets, on one axis: `[taps, rows, columns]`.
#[expect(clippy::cast_precision_loss, reason = "lengths of axes are far below 2^24")]
fn regular(which: usize, kernel: &[usize], conv: &Conv2d, out: [usize; 2]) -> Vec<f32> {
    let (taps, places) = (kernel[2] * kernel[3], out[0] * out[1]);
    let place = |i: usize| {
        let (tap, at) = (i / places, i % places);
        let tap = if which == 0 { tap / kernel[3] } else { tap % kernel[3] };
        let at = if which == 0 { at / out[1] } else { at % out[1] };
        (at * conv.stride[which] + tap * conv.dilation[which]) as f32 - conv.padding[which] as f32
    };
    (0..taps * places).map(place).collect()
}
