//! Convolutions over one to three axes, transposed ones, deformable ones.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::compose::conv::{
    Window, conv1d, conv3d, transposed1d, transposed2d, transposed3d,
};
use wattle_protocol::dag::compose::layout::{Padding, pad};
use wattle_protocol::dag::compose::sample::{Deformable, deformable};
use wattle_protocol::dag::op::Conv2d;
use wattle_protocol::ids::ValueId;

use super::super::array::Kind;
use super::super::call::{Call, few};
use super::super::import::Term;
use super::super::report::Reason;
use super::window::{Windows, numbers};
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("Conv", conv),
    ("ConvInteger", conv_integer),
    ("ConvTranspose", transposed),
    ("DeformConv", deformed),
    ("Col2Im", col_to_image),
];

type Made = Result<ValueId, Reason>;

pub(super) fn groups(call: &Call<'_>) -> Result<usize, Reason> {
    usize::try_from(call.int("group", 1)?).map_err(|_| Reason::malformed("groups below 0"))
}

/// Returns the lengths of the spatial axes, of which there are one to three.
fn spatial(shape: &[usize]) -> Result<&[usize], Reason> {
    match shape.get(2..) {
        Some(rest) if (1..=3).contains(&rest.len()) => Ok(rest),
        _ => Err(Reason::form("one to three spatial axes are supported")),
    }
}

/// Convolves; uneven padding is added first.
pub(super) fn convolved(
    call: &mut Call<'_>,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    mut windows: Windows,
    groups: usize,
) -> Made {
    let mut x = x;
    if !windows.is_even() {
        for axis in 0..windows.kernel.len() {
            let (before, after) = (windows.before[axis], windows.after[axis]);
            x = call.compose(|s| pad(s, x, axis + 2, (before, after), Padding::Constant(0.0)))?;
        }
        windows.before.fill(0);
    }
    let Windows { stride, before, dilation, .. } = windows;
    let bad = |_: Vec<usize>| Reason::form("one to three spatial axes are supported");
    call.compose_or(|s| match stride.len() {
        1 => {
            let (stride, padding, dilation) = ([stride[0]], [before[0]], [dilation[0]]);
            Ok(conv1d(s, x, w, bias, &Window { stride, padding, dilation, groups })?)
        }
        2 => {
            let (stride, padding, dilation) = (
                stride.try_into().map_err(bad)?,
                before.try_into().map_err(bad)?,
                dilation.try_into().map_err(bad)?,
            );
            let conv = Conv2d { stride, padding, dilation, groups };
            let operands: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
            Ok(s.op(Op::Conv2d(conv), &operands)?)
        }
        _ => {
            let window = Window {
                stride: stride.try_into().map_err(bad)?,
                padding: before.try_into().map_err(bad)?,
                dilation: dilation.try_into().map_err(bad)?,
                groups,
            };
            Ok(conv3d(s, x, w, bias, &window)?)
        }
    })
}

fn conv(call: &mut Call<'_>) -> Mapped {
    let (shape, kernel) = (call.shape(0)?, call.shape(1)?);
    let windows = Windows::read(call, spatial(&shape)?, spatial(&kernel)?.to_vec())?;
    let (x, w, bias) = (call.value(0)?, call.value(1)?, call.optional(2)?);
    let groups = groups(call)?;
    let y = convolved(call, x, w, bias, windows, groups)?;
    call.like_first(y)
}

/// Returns an operand of narrow integers as floats, less its zero point.
pub(super) fn centered(call: &mut Call<'_>, at: usize, zero: usize, axis: usize) -> Made {
    let mut x = call.value(at)?;
    if let Some(zero) = call.optional(zero)? {
        let zero = along(call, zero, axis, at)?;
        x = call.sub(x, zero)?;
    }
    call.as_float(x)
}

/// Gives a vector the shape that stretches it along one axis of an operand.
pub(super) fn along(call: &mut Call<'_>, vector: ValueId, axis: usize, of: usize) -> Made {
    let shape = call.shape_of(vector);
    if shape.len() != 1 || shape[0] == 1 {
        return call.reshape(vector, &vec![1; shape.len().min(1)]);
    }
    let mut line = vec![1; call.rank(of)?];
    *line.get_mut(axis).ok_or_else(|| Reason::malformed("an axis is missing"))? = shape[0];
    call.reshape(vector, &line)
}

fn conv_integer(call: &mut Call<'_>) -> Mapped {
    let (shape, kernel) = (call.shape(0)?, call.shape(1)?);
    let windows = Windows::read(call, spatial(&shape)?, spatial(&kernel)?.to_vec())?;
    let (x, w) = (centered(call, 0, 2, 1)?, centered(call, 1, 3, 0)?);
    let groups = groups(call)?;
    let y = convolved(call, x, w, None, windows, groups)?;
    let y = call.as_int(y)?;
    Ok(vec![Term::Built(y, Kind::I32)])
}

/// What is cut off a transposed convolution's full result, and how much longer than its least that is.
struct Cuts {
    before: Vec<usize>,
    after: Vec<usize>,
    extra: Vec<usize>,
}

fn cuts(call: &Call<'_>, lengths: &[usize], windows: &Windows) -> Result<Cuts, Reason> {
    let count = lengths.len();
    let mut extra = numbers(call, "output_padding", count, 0)?;
    let (mut before, mut after) = (windows.before.clone(), windows.after.clone());
    let mode = call.text("auto_pad", "NOTSET")?;
    let asked = call.attributes().ints("output_shape")?;
    if asked.is_none() && !mode.starts_with("SAME") {
        return Ok(Cuts { before, after, extra });
    }
    for axis in 0..count {
        let asked = match &asked {
            Some(asked) => {
                let length = asked.get(asked.len().wrapping_sub(count - axis));
                length.and_then(|n| usize::try_from(*n).ok())
            }
            None => lengths[axis].checked_mul(windows.stride[axis]),
        };
        let asked = asked.ok_or_else(|| Reason::malformed("output_shape does not fit"))?;
        let full = (lengths[axis] - 1) * windows.stride[axis] + windows.reach(axis) + extra[axis];
        extra[axis] += asked.saturating_sub(full);
        let total = full.saturating_sub(asked);
        let (small, large) = (total / 2, total.div_ceil(2));
        (before[axis], after[axis]) =
            if mode == "SAME_UPPER" { (small, large) } else { (large, small) };
    }
    Ok(Cuts { before, after, extra })
}

fn transposed(call: &mut Call<'_>) -> Mapped {
    let groups = groups(call)?;
    let (shape, kernel) = (call.shape(0)?, call.shape(1)?);
    let lengths = spatial(&shape)?.to_vec();
    let windows = Windows::read(call, &lengths, spatial(&kernel)?.to_vec())?;
    let cuts = cuts(call, &lengths, &windows)?;
    let (x, w, bias) = (call.value(0)?, call.value(1)?, call.optional(2)?);
    let is_even = cuts.before == cuts.after;
    let padding = if is_even { cuts.before.clone() } else { vec![0; lengths.len()] };
    let Windows { stride, dilation, .. } = windows;
    let bad = |_: Vec<usize>| Reason::form("one to three spatial axes are supported");
    let extra = cuts.extra;
    let mut y = call.compose_or(|s| match lengths.len() {
        1 => {
            let (stride, padding, dilation) = ([stride[0]], [padding[0]], [dilation[0]]);
            let window = Window { stride, padding, dilation, groups };
            Ok(transposed1d(s, x, w, bias, &window, extra[0])?)
        }
        2 => {
            let conv = Conv2d {
                stride: stride.try_into().map_err(bad)?,
                padding: padding.try_into().map_err(bad)?,
                dilation: dilation.try_into().map_err(bad)?,
                groups,
            };
            Ok(transposed2d(s, x, w, bias, conv, extra.try_into().map_err(bad)?)?)
        }
        _ => {
            let window = Window {
                stride: stride.try_into().map_err(bad)?,
                padding: padding.try_into().map_err(bad)?,
                dilation: dilation.try_into().map_err(bad)?,
                groups,
            };
            Ok(transposed3d(s, x, w, bias, &window, extra.try_into().map_err(bad)?)?)
        }
    })?;
    if !is_even {
        for (axis, (before, after)) in cuts.before.iter().zip(&cuts.after).enumerate() {
            let length = call.shape_of(y)[axis + 2];
            y = call.slice(y, axis + 2, *before, length - after)?;
        }
    }
    call.like_first(y)
}

fn deformed(call: &mut Call<'_>) -> Mapped {
    let groups = groups(call)?;
    let (shape, kernel) = (call.shape(0)?, call.shape(1)?);
    let windows = Windows::read(call, spatial(&shape)?, spatial(&kernel)?.to_vec())?;
    let bad = |_: Vec<usize>| Reason::form("two spatial axes are supported");
    if !windows.is_even() {
        return Err(Reason::form("uneven padding is not supported"));
    }
    let conv = Conv2d {
        stride: windows.stride.try_into().map_err(bad)?,
        padding: windows.before.try_into().map_err(bad)?,
        dilation: windows.dilation.try_into().map_err(bad)?,
        groups,
    };
    let (x, weight) = (call.value(0)?, call.value(1)?);
    let (offset, bias, mask) = (call.value(2)?, call.optional(3)?, call.optional(4)?);
    let operands = Deformable { x, weight, offset, mask };
    let ranks = [Some(x), Some(weight), Some(offset), mask].into_iter().flatten();
    if ranks.into_iter().any(|value| call.shape_of(value).len() != 4) {
        return Err(Reason::malformed("image, weight, offset and mask have four axes"));
    }
    let mut y = call.compose(|s| deformable(s, operands, conv))?;
    if let Some(bias) = bias {
        let length = call.shape_of(bias)[0];
        let bias = call.reshape(bias, &[1, length, 1, 1])?;
        y = call.add(y, bias)?;
    }
    call.like_first(y)
}

/// Sums the columns of windows where they lie in the image: a transposed convolution of each tap by 1.
fn col_to_image(call: &mut Call<'_>) -> Mapped {
    let sizes = |at: usize| -> Result<Vec<usize>, Reason> {
        let ints = call.known_ints(at)?;
        let sizes: Option<Vec<usize>> = ints.iter().map(|n| usize::try_from(*n).ok()).collect();
        sizes.ok_or_else(|| Reason::malformed("a length is below 0"))
    };
    let (image, kernel) = (sizes(1)?, sizes(2)?);
    let windows = Windows::read(call, &image, kernel)?;
    let shape = call.shape(0)?;
    let taps: usize = windows.kernel.iter().product();
    let fits = shape.len() == 3 && taps > 0 && shape[1].is_multiple_of(taps);
    if !fits {
        return Err(Reason::malformed("[B, C taps, windows] is needed"));
    }
    let channels = shape[1] / taps;
    let counts = (0..image.len()).map(|axis| windows.count(axis, image[axis], false));
    let counts = counts.collect::<Result<Vec<_>, _>>()?;
    // Every element's place in the padded image, flat.
    let padded: Vec<usize> = (0..image.len())
        .map(|axis| image[axis] + windows.before[axis] + windows.after[axis])
        .collect();
    let steps = super::super::fold::places::strides(&padded);
    let whole: Vec<usize> = windows.kernel.iter().chain(&counts).copied().collect();
    let strides: Vec<isize> = (0..image.len())
        .map(|axis| steps[axis] * windows.dilation[axis])
        .chain((0..image.len()).map(|axis| steps[axis] * windows.stride[axis]))
        .map(usize::cast_signed)
        .collect();
    few(&whole)?;
    let places = super::super::fold::places::walk(&whole, &strides, 0);
    let rows = shape[0] * channels;
    let ids = places.iter().map(|p| i32::try_from(*p).unwrap_or(i32::MAX)).collect();
    let ids = call.ints(&[1, places.len()], ids)?;
    let ids = call.expand(ids, &[rows, places.len()])?;
    let x = call.value(0)?;
    let x = call.reshape(x, &[rows, places.len()])?;
    let zeros = call.fill(&[rows, padded.iter().product()], 0.0)?;
    let y = call.op(Op::ScatterElements { axis: 1, add: true }, &[zeros, ids, x])?;
    let mut y = call.reshape(y, &[&[shape[0], channels], &padded[..]].concat())?;
    for (axis, (length, before)) in image.iter().zip(&windows.before).enumerate() {
        y = call.slice(y, axis + 2, *before, before + length)?;
    }
    call.like_first(y)
}
