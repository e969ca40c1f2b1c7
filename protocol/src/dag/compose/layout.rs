//! Padding, flipping, tiling and strided slices: joins and reads at indices that are known beforehand.

use super::{Built, Scope};
use crate::dag::op::Conv2d;
use crate::dag::{Dtype, Op};
use crate::ids::ValueId;

/// What stands in the padding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Padding {
    /// A number.
    Constant(f32),
    /// The tensor mirrored at its edge, which is not repeated.
    Reflect,
    /// The edge.
    Replicate,
    /// The tensor again from its other end.
    Circular,
}

/// Pads one axis. *Errors*: as `DagBuilder::apply`, also where a mirror or circle needs more than there is.
pub fn pad(
    s: &mut Scope<'_>,
    x: ValueId,
    axis: usize,
    (before, after): (usize, usize),
    padding: Padding,
) -> Built {
    let length = s.len(x, axis);
    if before + after == 0 {
        return Ok(x);
    }
    let Padding::Constant(value) = padding else {
        let at: Vec<usize> =
            (0..before + length + after).map(|i| source(i, before, length, padding)).collect();
        return s.pick(x, axis, &at);
    };
    if value == 0.0 {
        return s.op(Op::Unslice { axis, start: before, len: before + length + after }, &[x]);
    }
    let mut parts = Vec::new();
    let shape = s.shape(x);
    let block = |s: &mut Scope<'_>, count: usize, parts: &mut Vec<ValueId>| {
        if count == 0 {
            return Ok(());
        }
        let mut shape = shape.clone();
        shape[axis] = count;
        let fill = s.op(Op::Fill { shape, value }, &[])?;
        let fill = match s.fact(x).dtype {
            Dtype::I32 => s.op(Op::Cast { dtype: Dtype::I32 }, &[fill])?,
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => fill,
        };
        parts.push(fill);
        Ok(())
    };
    block(s, before, &mut parts)?;
    parts.push(x);
    block(s, after, &mut parts)?;
    s.concat(&parts, axis)
}

/// Returns where element i of a padded axis comes from; beyond the axis where it cannot come from anywhere.
fn source(i: usize, before: usize, length: usize, padding: Padding) -> usize {
    match padding {
        Padding::Constant(_) => i,
        Padding::Replicate => i.saturating_sub(before).min(length - 1),
        Padding::Circular => (i + length - before % length) % length,
        Padding::Reflect => {
            let period = 2 * length.saturating_sub(1).max(1);
            let at = (i + period * before.div_ceil(period) - before) % period;
            if at < length { at } else { period - at }
        }
    }
}

/// Reverses one axis.
pub fn flip(s: &mut Scope<'_>, x: ValueId, axis: usize) -> Built {
    let at: Vec<usize> = (0..s.len(x, axis)).rev().collect();
    s.pick(x, axis, &at)
}

/// Every `step`-th element of `start..end` of one axis.
pub fn stride(
    s: &mut Scope<'_>,
    x: ValueId,
    axis: usize,
    (start, end, step): (usize, usize, usize),
) -> Built {
    if step == 1 {
        return s.slice(x, axis, start, end);
    }
    let at: Vec<usize> = (start..end).step_by(step.max(1)).collect();
    s.pick(x, axis, &at)
}

/// The tensor `times` times in a row along one axis.
pub fn tile(s: &mut Scope<'_>, x: ValueId, axis: usize, times: usize) -> Built {
    s.concat(&vec![x; times.max(1)], axis)
}

/// Each element of one axis `times` times in a row.
pub fn repeat(s: &mut Scope<'_>, x: ValueId, axis: usize, times: usize) -> Built {
    let at: Vec<usize> = (0..s.len(x, axis) * times).map(|i| i / times).collect();
    s.pick(x, axis, &at)
}

/// Zeros between the elements of one axis, `step - 1` of them.
pub fn dilate(s: &mut Scope<'_>, x: ValueId, axis: usize, step: usize) -> Built {
    let shape = s.shape(x);
    if step <= 1 || shape[axis] == 1 {
        return Ok(x);
    }
    let apart = [&shape[..=axis], &[1], &shape[axis + 1..]].concat();
    let x = s.reshape(x, &apart)?;
    let x = s.op(Op::Unslice { axis: axis + 1, start: 0, len: step }, &[x])?;
    let mut wide = shape;
    wide[axis] *= step;
    let x = s.reshape(x, &wide)?;
    let end = wide[axis] - (step - 1);
    s.slice(x, axis, 0, end)
}

/// Windows of an image as columns: `[B, C, H, W] -> [B, C KH KW, H' W']`, channels slowest, as PyTorch's `unfold`.
/// Padding is with zeros; `groups` of the geometry do not matter.
pub fn unfold(s: &mut Scope<'_>, x: ValueId, kernel: [usize; 2], window: &Conv2d) -> Built {
    let [batch, channels, height, width] = s.sized(x, "an image [B, C, H, W]")?;
    let (mut y, mut counts) = (x, [0; 2]);
    for (at, length) in [height, width].into_iter().enumerate() {
        let Conv2d { stride, padding, dilation, .. } = window;
        let (step, apart, around) = (stride[at], dilation[at], padding[at]);
        let reach = apart * kernel[at].saturating_sub(1) + 1;
        let long = length + 2 * around;
        if step == 0 || kernel[at] == 0 || reach > long {
            return Err(s.refuse("steps and windows that fit the image", format!("{window:?}")));
        }
        counts[at] = (long - reach) / step + 1;
        y = pad(s, y, 2 + at, (around, around), Padding::Constant(0.0))?;
        let taps = (0..kernel[at])
            .flat_map(|tap| (0..counts[at]).map(move |place| tap * apart + place * step));
        let taps: Vec<usize> = taps.collect();
        y = s.pick(y, 2 + at, &taps)?;
    }
    let apart = [batch, channels, kernel[0], counts[0], kernel[1], counts[1]];
    let y = s.reshape(y, &apart)?;
    let y = s.transpose(y, &[0, 1, 2, 4, 3, 5])?;
    s.reshape(y, &[batch, channels * kernel[0] * kernel[1], counts[0] * counts[1]])
}
