//! Pools over one and three axes, adaptive pools, and averages that leave the padding out.

use super::{Built, Scope};
use crate::dag::Op;
use crate::dag::op::Pool2d;
use crate::ids::ValueId;

/// Which value of a window is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The largest.
    Max,
    /// The mean; zeros of the padding count.
    Mean,
}

fn pool(s: &mut Scope<'_>, x: ValueId, kind: Kind, window: Pool2d) -> Built {
    match kind {
        Kind::Max => s.op(Op::MaxPool2d(window), &[x]),
        Kind::Mean => s.op(Op::AvgPool2d(window), &[x]),
    }
}

/// Pools the last axis of `[B, C, L]` by (kernel, stride, padding). *Errors*: as `DagBuilder::apply`, here and below.
pub fn pool1d(
    s: &mut Scope<'_>,
    x: ValueId,
    kind: Kind,
    (kernel, stride, padding): (usize, usize, usize),
) -> Built {
    let shape: [usize; 3] = s.sized(x, "x [B, C, L]")?;
    let image = s.reshape(x, &[shape[0], shape[1], 1, shape[2]])?;
    let window = Pool2d { kernel: [1, kernel], stride: [1, stride], padding: [0, padding] };
    let y = pool(s, image, kind, window)?;
    let length = s.len(y, 3);
    s.reshape(y, &[shape[0], shape[1], length])
}

/// Pools `[B, C, D, H, W]`: first height and width, then depth, since both kinds are separable.
pub fn pool3d(
    s: &mut Scope<'_>,
    x: ValueId,
    kind: Kind,
    kernel: [usize; 3],
    stride: [usize; 3],
    padding: [usize; 3],
) -> Built {
    let shape: [usize; 5] = s.sized(x, "x [B, C, D, H, W]")?;
    let [batch, channels, depth] = [shape[0], shape[1], shape[2]];
    let flat = s.reshape(x, &[batch * channels, depth, shape[3], shape[4]])?;
    let last = |v: [usize; 3]| [v[1], v[2]];
    let window = Pool2d { kernel: last(kernel), stride: last(stride), padding: last(padding) };
    let y = pool(s, flat, kind, window)?;
    let (height, width) = (s.len(y, 2), s.len(y, 3));
    let rows = s.reshape(y, &[batch * channels, 1, depth, height * width])?;
    let window =
        Pool2d { kernel: [kernel[0], 1], stride: [stride[0], 1], padding: [padding[0], 0] };
    let y = pool(s, rows, kind, window)?;
    let depth = s.len(y, 2);
    s.reshape(y, &[batch, channels, depth, height, width])
}

/// Average of each window over what it has of the image: zeros of the padding do not count.
pub fn mean_of_image(s: &mut Scope<'_>, x: ValueId, window: Pool2d) -> Built {
    let shape: [usize; 4] = s.sized(x, "an image [B, C, H, W]")?;
    let sums = s.op(Op::AvgPool2d(window), &[x])?;
    if window.padding == [0, 0] {
        return Ok(sums);
    }
    let ones = s.op(Op::Fill { shape: vec![1, 1, shape[2], shape[3]], value: 1.0 }, &[])?;
    let share = s.op(Op::AvgPool2d(window), &[ones])?;
    s.div(sums, share)
}

/// Adaptive pooling of one axis to `new` windows: window i covers `floor(i old / new) .. ceil((i + 1) old / new)`, as
/// PyTorch has it.
pub fn adaptive(s: &mut Scope<'_>, x: ValueId, axis: usize, new: usize, kind: Kind) -> Built {
    let old = s.len(x, axis);
    let mut parts = Vec::with_capacity(new);
    for i in 0..new {
        let (start, end) = (i * old / new, ((i + 1) * old).div_ceil(new));
        let window = s.slice(x, axis, start, end)?;
        let axes = vec![axis];
        parts.push(match kind {
            Kind::Max => s.op(Op::ReduceMax { axes, keep: true }, &[window])?,
            Kind::Mean => s.op(Op::ReduceMean { axes, keep: true }, &[window])?,
        });
    }
    s.concat(&parts, axis)
}

/// Adaptive pooling of the last axes, `[B, C, ..] -> [B, C, new]`: both kinds are separable.
pub fn adaptive_all(s: &mut Scope<'_>, x: ValueId, new: &[usize], kind: Kind) -> Built {
    let lead = s.shape(x).len().saturating_sub(new.len());
    new.iter().enumerate().try_fold(x, |x, (at, new)| adaptive(s, x, lead + at, *new, kind))
}
