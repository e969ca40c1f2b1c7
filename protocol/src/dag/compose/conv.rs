//! Convolutions over one and three axes, and transposed ones: all are sums of two-dimensional ones under other shapes.

use super::{Built, Scope, layout};
use crate::dag::Op;
use crate::dag::op::Conv2d;
use crate::ids::ValueId;

/// Geometry over `N` axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window<const N: usize> {
    /// Step of the window.
    pub stride: [usize; N],
    /// Zeros added on both sides.
    pub padding: [usize; N],
    /// Distance between the window's taps.
    pub dilation: [usize; N],
    /// Number of channel groups.
    pub groups: usize,
}

fn flat(window: &Window<1>) -> Conv2d {
    Conv2d {
        stride: [1, window.stride[0]],
        padding: [0, window.padding[0]],
        dilation: [1, window.dilation[0]],
        groups: window.groups,
    }
}

/// `x [B, C, L], w [O, C/groups, K] -> [B, O, L']`. *Errors*: as `DagBuilder::apply`, here and below.
pub fn conv1d(
    s: &mut Scope<'_>,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    window: &Window<1>,
) -> Built {
    let shape: [usize; 3] = s.sized(x, "x [B, C, L]")?;
    let kernel: [usize; 3] = s.sized(w, "a weight of three axes")?;
    let x = s.reshape(x, &[shape[0], shape[1], 1, shape[2]])?;
    let w = s.reshape(w, &[kernel[0], kernel[1], 1, kernel[2]])?;
    let inputs: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let y = s.op(Op::Conv2d(flat(window)), &inputs)?;
    let length = s.len(y, 3);
    s.reshape(y, &[shape[0], kernel[0], length])
}

/// `x [B, C, D, H, W], w [O, C/groups, KD, KH, KW] -> [B, O, D', H', W']`: one image convolution for each tap in
/// depth, over all depths at once.
pub fn conv3d(
    s: &mut Scope<'_>,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    window: &Window<3>,
) -> Built {
    let kernel: [usize; 5] = s.sized(w, "a weight of five axes")?;
    let _: [usize; 5] = s.sized(x, "x [B, C, D, H, W]")?;
    let (padding, stride, dilation) = (window.padding[0], window.stride[0], window.dilation[0]);
    let zero = layout::Padding::Constant(0.0);
    let x = layout::pad(s, x, 2, (padding, padding), zero)?;
    let x = s.transpose(x, &[0, 2, 1, 3, 4])?;
    let shape = s.shape(x);
    let reach = dilation * (kernel[2] - 1);
    let depth = shape[1].saturating_sub(reach + 1) / stride.max(1) + 1;
    let last = |v: [usize; 3]| [v[1], v[2]];
    let conv = Conv2d {
        stride: last(window.stride),
        padding: last(window.padding),
        dilation: last(window.dilation),
        groups: window.groups,
    };
    let mut total: Option<ValueId> = None;
    for tap in 0..kernel[2] {
        let start = tap * dilation;
        let end = (start + (depth - 1) * stride + 1).min(shape[1]);
        let images = layout::stride(s, x, 1, (start, end, stride))?;
        let images = s.reshape(images, &[shape[0] * depth, shape[2], shape[3], shape[4]])?;
        let taps = s.slice(w, 2, tap, tap + 1)?;
        let taps = s.reshape(taps, &[kernel[0], kernel[1], kernel[3], kernel[4]])?;
        let part = s.op(Op::Conv2d(conv), &[images, taps])?;
        total = Some(match total {
            Some(total) => s.add(total, part)?,
            None => part,
        });
    }
    // A kernel has a tap, or shape inference has refused it.
    let Some(y) = total else { return Ok(x) };
    let size = s.shape(y);
    let y = s.reshape(y, &[shape[0], depth, size[1], size[2], size[3]])?;
    let y = s.transpose(y, &[0, 2, 1, 3, 4])?;
    biased(s, y, bias)
}

fn biased(s: &mut Scope<'_>, y: ValueId, bias: Option<ValueId>) -> Built {
    let Some(bias) = bias else { return Ok(y) };
    let mut column = vec![1; s.shape(y).len() - 1];
    column[0] = s.len(bias, 0);
    let bias = s.reshape(bias, &column)?;
    s.add(y, bias)
}

/// Transposed convolution `x [B, C, H, W], w [C, O/groups, KH, KW] -> [B, O, H', W']`: the input gradient of the
/// convolution with the same window. `extra` rows and columns are added at the far end.
pub fn transposed2d(
    s: &mut Scope<'_>,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    conv: Conv2d,
    extra: [usize; 2],
) -> Built {
    let from: [usize; 4] = s.sized(x, "x [B, C, H, W]")?;
    let kernel: [usize; 4] = s.sized(w, "a weight of four axes")?;
    let length = |i: usize| {
        let full = (from[2 + i] - 1) * conv.stride[i] + conv.dilation[i] * (kernel[2 + i] - 1) + 1;
        (full + extra[i]).saturating_sub(2 * conv.padding[i])
    };
    let shape = [from[0], kernel[1] * conv.groups, length(0), length(1)];
    let y = s.op(Op::Conv2dInputGrad { conv, shape }, &[w, x])?;
    biased(s, y, bias)
}

/// Transposed convolution over one axis: `x [B, C, L], w [C, O/groups, K]`.
pub fn transposed1d(
    s: &mut Scope<'_>,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    window: &Window<1>,
    extra: usize,
) -> Built {
    let shape: [usize; 3] = s.sized(x, "x [B, C, L]")?;
    let kernel: [usize; 3] = s.sized(w, "a weight of three axes")?;
    let x = s.reshape(x, &[shape[0], shape[1], 1, shape[2]])?;
    let w = s.reshape(w, &[kernel[0], kernel[1], 1, kernel[2]])?;
    let y = transposed2d(s, x, w, bias, flat(window), [0, extra])?;
    let (channels, length) = (s.len(y, 1), s.len(y, 3));
    s.reshape(y, &[shape[0], channels, length])
}

/// Transposed convolution over three axes: `x [B, C, D, H, W], w [C, O/groups, KD, KH, KW]`; one transposed image
/// convolution for each tap in depth, placed where the tap reaches.
pub fn transposed3d(
    s: &mut Scope<'_>,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    window: &Window<3>,
    extra: [usize; 3],
) -> Built {
    let shape: [usize; 5] = s.sized(x, "x [B, C, D, H, W]")?;
    let kernel: [usize; 5] = s.sized(w, "a weight of five axes")?;
    let last = |v: [usize; 3]| [v[1], v[2]];
    let conv = Conv2d {
        stride: last(window.stride),
        padding: last(window.padding),
        dilation: last(window.dilation),
        groups: window.groups,
    };
    let x = s.transpose(x, &[0, 2, 1, 3, 4])?;
    let images = s.reshape(x, &[shape[0] * shape[2], shape[1], shape[3], shape[4]])?;
    let full = (shape[2] - 1) * window.stride[0] + window.dilation[0] * (kernel[2] - 1) + 1;
    let mut total: Option<ValueId> = None;
    for tap in 0..kernel[2] {
        let taps = s.slice(w, 2, tap, tap + 1)?;
        let taps = s.reshape(taps, &[kernel[0], kernel[1], kernel[3], kernel[4]])?;
        let y = transposed2d(s, images, taps, None, conv, last(extra))?;
        let size = s.shape(y);
        let y = s.reshape(y, &[shape[0], shape[2], size[1], size[2], size[3]])?;
        let y = layout::dilate(s, y, 1, window.stride[0])?;
        let start = tap * window.dilation[0];
        let y = s.op(Op::Unslice { axis: 1, start, len: full + extra[0] }, &[y])?;
        total = Some(match total {
            Some(total) => s.add(total, y)?,
            None => y,
        });
    }
    let Some(y) = total else { return Ok(x) };
    let y = s.transpose(y, &[0, 2, 1, 3, 4])?;
    let end = (full + extra[0]).saturating_sub(window.padding[0]);
    let y = s.slice(y, 2, window.padding[0], end)?;
    biased(s, y, bias)
}
