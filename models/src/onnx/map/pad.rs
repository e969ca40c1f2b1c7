//! Padding, and cropping with it.

use wattle_protocol::ids::ValueId;

use super::super::call::{Call, few, resolve_axis};
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[("Pad", pad), ("CenterCropPad", center)];

type Made = Result<ValueId, Reason>;

/// Largest padding of one side.
const SIDE_MAX: i64 = 1 << 24;

/// Adds elements on both sides of an axis that are copies of others: those at `places`.
fn copied(call: &mut Call<'_>, x: ValueId, axis: usize, sides: [i64; 2], mode: &str) -> Made {
    let length = i64::try_from(call.shape_of(x)[axis]).unwrap_or(i64::MAX);
    let period = (2 * (length - 1)).max(1);
    let place = |at: i64| match mode {
        "edge" => at.clamp(0, length - 1),
        "wrap" => at.rem_euclid(length),
        _ => {
            let folded = at.rem_euclid(period);
            folded.min(period - folded).min(length - 1)
        }
    };
    few(&[usize::try_from(length + sides[0] + sides[1]).unwrap_or(0)])?;
    let places = (-sides[0]..length + sides[1]).map(|at| usize::try_from(place(at)).unwrap_or(0));
    let places: Vec<usize> = places.collect();
    if places.is_empty() {
        return Err(Reason::form("nothing is left of an axis"));
    }
    call.take(x, axis, &places)
}

/// Adds equal elements on both sides of an axis; sides below 0 cut.
fn constant(
    call: &mut Call<'_>,
    x: ValueId,
    axis: usize,
    sides: [i64; 2],
    value: Option<ValueId>,
) -> Made {
    let length = i64::try_from(call.shape_of(x)[axis]).unwrap_or(i64::MAX);
    let (start, end) = ((-sides[0]).max(0), length - (-sides[1]).max(0));
    if start >= end {
        return Err(Reason::form("nothing is left of an axis"));
    }
    let whole = |n: i64| usize::try_from(n).unwrap_or(0);
    let x = call.slice(x, axis, whole(start), whole(end))?;
    let mut parts = Vec::new();
    for (at, side) in sides.into_iter().enumerate() {
        if side > 0 {
            let mut shape = call.shape_of(x);
            shape[axis] = whole(side);
            let value = match value {
                Some(value) => value,
                None => call.number_like(x, 0)?,
            };
            parts.push(call.expand(value, &shape)?);
        }
        if at == 0 {
            parts.push(x);
        }
    }
    call.concat(&parts, axis)
}

fn pad(call: &mut Call<'_>) -> Mapped {
    let rank = call.rank(0)?;
    let pads = call.ints_of(1, "pads")?.ok_or_else(|| Reason::malformed("no pads are given"))?;
    let axes: Vec<usize> = if call.has(3) {
        let axes = call.known_ints(3)?;
        axes.iter().map(|a| resolve_axis(*a, rank)).collect::<Result<_, _>>()?
    } else {
        (0..rank).collect()
    };
    if pads.len() != 2 * axes.len() || pads.iter().any(|p| p.abs() > SIDE_MAX) {
        return Err(Reason::malformed(format!("pads {pads:?} do not fit")));
    }
    let mode = call.text("mode", "constant")?;
    let value = if call.has(2) {
        let value = call.value(2)?;
        Some(call.reshape(value, &[])?)
    } else {
        let value = call.float("value", 0.0)?;
        if value == 0.0 { None } else { Some(call.fill(&[], value)?) }
    };
    let mut x = call.value(0)?;
    for (i, axis) in axes.iter().enumerate() {
        let sides = [pads[i], pads[i + axes.len()]];
        if sides == [0, 0] {
            continue;
        }
        x = match mode {
            "constant" => constant(call, x, *axis, sides, value)?,
            "edge" | "wrap" | "reflect" => copied(call, x, *axis, sides, mode)?,
            other => return Err(Reason::malformed(format!("mode {other:?}"))),
        };
    }
    call.like_first(x)
}

/// Cuts or pads axes to a size around their middle.
fn center(call: &mut Call<'_>) -> Mapped {
    let shape = call.shape(0)?;
    let sizes = call.known_ints(1)?;
    let axes: Vec<usize> = match call.attributes().ints("axes")? {
        Some(axes) => {
            axes.iter().map(|a| resolve_axis(*a, shape.len())).collect::<Result<_, _>>()?
        }
        None => (0..shape.len()).collect(),
    };
    if sizes.len() != axes.len() || sizes.iter().any(|n| !(1..=SIDE_MAX).contains(n)) {
        return Err(Reason::malformed(format!("the size {sizes:?} does not fit")));
    }
    let mut x = call.value(0)?;
    for (axis, size) in axes.into_iter().zip(sizes) {
        let length = i64::try_from(shape[axis]).unwrap_or(i64::MAX);
        // Both a cut and a pad of an odd number leave the smaller half first.
        let sides = if size >= length {
            let more = size - length;
            [more / 2, more - more / 2]
        } else {
            let less = length - size;
            [-(less / 2), -(less - less / 2)]
        };
        x = constant(call, x, axis, sides, None)?;
    }
    call.like_first(x)
}
