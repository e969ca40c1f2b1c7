//! Operators that move elements, and the shapes that they ask for.

use super::super::call::{Call, few, resolve_axes, resolve_axis};
use super::super::import::Term;
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("Identity", same),
    ("Reshape", |call| reshaped(call, reshaped_shape)),
    ("Flatten", |call| reshaped(call, flattened_shape)),
    ("Squeeze", |call| reshaped(call, squeezed_shape)),
    ("Unsqueeze", |call| reshaped(call, unsqueezed_shape)),
    ("Transpose", transpose),
    ("Slice", slice),
    ("Concat", concat),
    ("Expand", expand),
    ("Tile", tile),
    ("Split", split),
    ("DepthToSpace", depth_to_space),
    ("SpaceToDepth", space_to_depth),
];

/// The first operand as it is, weights included.
pub(in crate::onnx) fn same(call: &mut Call<'_>) -> Mapped {
    Ok(vec![call.term(0)?.clone()])
}

fn reshaped(call: &mut Call<'_>, shape: fn(&Call<'_>) -> Result<Vec<usize>, Reason>) -> Mapped {
    let shape = shape(call)?;
    let x = call.value(0)?;
    let y = call.reshape(x, &shape)?;
    call.like_first(y)
}

/// Returns the shape that `Reshape` asks for: 0 keeps a length, -1 takes what is left.
pub(in crate::onnx) fn reshaped_shape(call: &Call<'_>) -> Result<Vec<usize>, Reason> {
    let from = call.shape(0)?;
    let asked = call.known_ints(1)?;
    let allows_empty = call.flag("allowzero", false)?;
    let wrong = || Reason::malformed(format!("{from:?} cannot become {asked:?}"));
    let mut shape = Vec::with_capacity(asked.len());
    let mut open = None;
    for (axis, length) in asked.iter().enumerate() {
        shape.push(match length {
            -1 if open.is_none() => {
                open = Some(axis);
                1
            }
            0 if !allows_empty => *from.get(axis).ok_or_else(wrong)?,
            length => usize::try_from(*length).map_err(|_| wrong())?,
        });
    }
    if let Some(axis) = open {
        let given = shape.iter().try_fold(1usize, |n, a| n.checked_mul(*a)).ok_or_else(wrong)?;
        let count: usize = from.iter().product();
        shape[axis] = count.checked_div(given).filter(|n| n * given == count).ok_or_else(wrong)?;
    }
    Ok(shape)
}

pub(in crate::onnx) fn flattened_shape(call: &Call<'_>) -> Result<Vec<usize>, Reason> {
    let shape = call.shape(0)?;
    let axis = call.int("axis", 1)?;
    let rank = shape.len();
    // The axis may be one past the last.
    let end = i64::try_from(rank).is_ok_and(|rank| axis == rank);
    let axis = if end { rank } else { resolve_axis(axis, rank)? };
    Ok(vec![shape[..axis].iter().product(), shape[axis..].iter().product()])
}

pub(in crate::onnx) fn squeezed_shape(call: &Call<'_>) -> Result<Vec<usize>, Reason> {
    let shape = call.shape(0)?;
    let axes = match call.ints_of(1, "axes")? {
        Some(axes) => resolve_axes(&axes, shape.len())?,
        None => (0..shape.len()).filter(|axis| shape[*axis] == 1).collect(),
    };
    if axes.iter().any(|axis| shape[*axis] != 1) {
        return Err(Reason::malformed(format!("axes {axes:?} of {shape:?} are not of length 1")));
    }
    Ok((0..shape.len()).filter(|axis| !axes.contains(axis)).map(|axis| shape[axis]).collect())
}

pub(in crate::onnx) fn unsqueezed_shape(call: &Call<'_>) -> Result<Vec<usize>, Reason> {
    let shape = call.shape(0)?;
    let axes = call.ints_of(1, "axes")?.ok_or_else(|| Reason::malformed("no axes are given"))?;
    let axes = resolve_axes(&axes, shape.len() + axes.len())?;
    let mut lengths = shape.iter().copied();
    let place = |axis| if axes.contains(&axis) { Some(1) } else { lengths.next() };
    Ok((0..shape.len() + axes.len()).filter_map(place).collect())
}

pub(in crate::onnx) fn permutation(call: &Call<'_>) -> Result<Vec<usize>, Reason> {
    let rank = call.rank(0)?;
    let Some(perm) = call.attributes().ints("perm")? else {
        return Ok((0..rank).rev().collect());
    };
    // Each axis once, in any order.
    if resolve_axes(&perm, rank)?.len() != rank {
        return Err(Reason::malformed(format!("{perm:?} is no order of {rank} axes")));
    }
    perm.iter().map(|axis| resolve_axis(*axis, rank)).collect()
}

fn transpose(call: &mut Call<'_>) -> Mapped {
    let perm = permutation(call)?;
    let x = call.value(0)?;
    let y = call.transpose(x, &perm)?;
    call.like_first(y)
}

/// What a slice keeps of one axis.
pub(in crate::onnx) struct Range {
    pub(in crate::onnx) axis: usize,
    /// First kept index.
    pub(in crate::onnx) first: usize,
    /// How many are kept.
    pub(in crate::onnx) count: usize,
    /// Distance of kept indices; below 0 from the end to the beginning.
    pub(in crate::onnx) step: i64,
}

/// Returns what a slice keeps; ends may lie anywhere, up to `i64::MAX` for "all".
pub(in crate::onnx) fn ranges(call: &Call<'_>) -> Result<Vec<Range>, Reason> {
    let shape = call.shape(0)?;
    let missing = || Reason::malformed("a slice needs starts and ends");
    let starts = call.ints_of(1, "starts")?.ok_or_else(missing)?;
    let ends = call.ints_of(2, "ends")?.ok_or_else(missing)?;
    let given = call.ints_of(3, "axes")?;
    let steps = if call.has(4) { call.known_ints(4)? } else { vec![1; starts.len()] };
    let axes = match &given {
        Some(axes) => {
            axes.iter().map(|a| resolve_axis(*a, shape.len())).collect::<Result<_, _>>()?
        }
        None => (0..starts.len()).collect::<Vec<_>>(),
    };
    let counts = [ends.len(), axes.len(), steps.len()];
    let once = axes
        .iter()
        .all(|axis| *axis < shape.len() && axes.iter().filter(|a| *a == axis).count() == 1);
    if counts.iter().any(|n| *n != starts.len()) || !once {
        return Err(Reason::malformed("starts, ends, axes and steps do not fit"));
    }
    let range = |i: usize| range(axes[i], shape[axes[i]], starts[i], ends[i], steps[i]);
    (0..starts.len()).map(range).collect()
}

fn range(axis: usize, length: usize, start: i64, end: i64, step: i64) -> Result<Range, Reason> {
    let length = i64::try_from(length).map_err(|_| Reason::malformed("an axis is too long"))?;
    let from_front = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
    let (start, end) = (from_front(start), from_front(end));
    let (first, count) = match step {
        0 => return Err(Reason::malformed("a step of 0")),
        1.. => {
            let (start, end) = (start.clamp(0, length), end.clamp(0, length));
            (start, (end - start).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
        }
        _ => {
            let (start, end) = (start.clamp(-1, length - 1), end.clamp(-1, length - 1));
            (start.max(0), (start - end).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
        }
    };
    let fit = |_| Reason::malformed("an axis is too long");
    Ok(Range {
        axis,
        first: usize::try_from(first).map_err(fit)?,
        count: usize::try_from(count).map_err(fit)?,
        step,
    })
}

fn slice(call: &mut Call<'_>) -> Mapped {
    let mut x = call.value(0)?;
    for Range { axis, first, count, step } in ranges(call)? {
        if count == 0 {
            return Err(Reason::form("the slice is empty"));
        }
        if step == 1 {
            x = call.slice(x, axis, first, first + count)?;
            continue;
        }
        few(&[count])?;
        let place = |i: usize| {
            let step = isize::try_from(step).ok()?;
            first.checked_add_signed(isize::try_from(i).ok()?.checked_mul(step)?)
        };
        let places: Option<Vec<usize>> = (0..count).map(place).collect();
        let places = places.ok_or_else(|| Reason::malformed("a step is too large"))?;
        x = call.take(x, axis, &places)?;
    }
    call.like_first(x)
}

fn concat(call: &mut Call<'_>) -> Mapped {
    let axis = call.axis_of("axis", 1, call.rank(0)?)?;
    let mut parts = Vec::new();
    for at in 0..call.count() {
        // An empty part adds nothing, and has no place in a network.
        if call.shape(at)?.iter().all(|length| *length > 0) {
            parts.push(call.value(at)?);
        }
    }
    let y = call.concat(&parts, axis)?;
    call.like_first(y)
}

/// Returns the shape that `Expand` makes.
pub(in crate::onnx) fn expanded_shape(call: &Call<'_>) -> Result<Vec<usize>, Reason> {
    let asked = call.known_ints(1)?;
    let asked: Option<Vec<usize>> = asked.iter().map(|n| usize::try_from(*n).ok()).collect();
    let asked = asked.ok_or_else(|| Reason::malformed("a length is below 0"))?;
    super::super::fold::places::broadcast(&call.shape(0)?, &asked)
}

fn expand(call: &mut Call<'_>) -> Mapped {
    let shape = expanded_shape(call)?;
    let x = call.value(0)?;
    let y = call.expand(x, &shape)?;
    call.like_first(y)
}

fn tile(call: &mut Call<'_>) -> Mapped {
    let repeats = call.known_ints(1)?;
    let mut x = call.value(0)?;
    if repeats.len() != call.rank(0)? {
        return Err(Reason::malformed("one repeat an axis is needed"));
    }
    for (axis, count) in repeats.iter().enumerate() {
        let count = usize::try_from(*count).ok().filter(|n| (1..=1 << 16).contains(n));
        let count = count.ok_or_else(|| Reason::form(format!("repeats are {repeats:?}")))?;
        if count > 1 {
            x = call.concat(&vec![x; count], axis)?;
        }
    }
    call.like_first(x)
}

/// Returns the lengths into which `Split` cuts an axis.
pub(in crate::onnx) fn split_lengths(call: &Call<'_>, axis: usize) -> Result<Vec<usize>, Reason> {
    let length = call.shape(0)?[axis];
    let wrong = || Reason::malformed(format!("an axis of {length} is not split that way"));
    if let Some(lengths) = call.ints_of(1, "split")? {
        let lengths: Option<Vec<usize>> =
            lengths.iter().map(|n| usize::try_from(*n).ok()).collect();
        let total = |l: &Vec<usize>| l.iter().try_fold(0usize, |n, part| n.checked_add(*part));
        return lengths.filter(|l| total(l) == Some(length)).ok_or_else(wrong);
    }
    let parts = i64::try_from(call.results()).unwrap_or(1);
    let parts = usize::try_from(call.int("num_outputs", parts)?).map_err(|_| wrong())?;
    if parts == 0 || parts > length {
        return Err(wrong());
    }
    let each = length.div_ceil(parts);
    let rest = length.checked_sub(each * (parts - 1)).ok_or_else(wrong)?;
    let mut lengths = vec![each; parts - 1];
    lengths.push(rest);
    Ok(lengths)
}

fn split(call: &mut Call<'_>) -> Mapped {
    let axis = call.axis_of("axis", 0, call.rank(0)?)?;
    let lengths = split_lengths(call, axis)?;
    let (x, kind) = (call.value(0)?, call.kind(0)?);
    let mut start = 0;
    let mut parts = Vec::new();
    for (at, length) in lengths.into_iter().enumerate() {
        if length == 0 && call.wants(at) {
            return Err(Reason::form("a part is empty"));
        }
        let end = start + length;
        let part = if length == 0 { x } else { call.slice(x, axis, start, end)? };
        parts.push(Term::Built(part, kind));
        start = end;
    }
    Ok(parts)
}

/// Returns `[B, C, H, W]` and the block's size.
fn image(call: &Call<'_>) -> Result<([usize; 4], usize), Reason> {
    let shape = call.shape(0)?;
    let size = usize::try_from(call.int("blocksize", 0)?).unwrap_or(0);
    match <[usize; 4]>::try_from(shape) {
        Ok(shape) if size > 0 => Ok((shape, size)),
        Ok(_) | Err(_) => Err(Reason::malformed("[B, C, H, W] and a block size are needed")),
    }
}

fn depth_to_space(call: &mut Call<'_>) -> Mapped {
    let ([batch, channels, height, width], n) = image(call)?;
    let rest = channels / (n * n);
    let x = call.value(0)?;
    let (split, perm) = match call.text("mode", "DCR")? {
        "CRD" => ([batch, rest, n, n, height, width], [0, 1, 4, 2, 5, 3]),
        _ => ([batch, n, n, rest, height, width], [0, 3, 4, 1, 5, 2]),
    };
    let x = call.reshape(x, &split)?;
    let x = call.transpose(x, &perm)?;
    let y = call.reshape(x, &[batch, rest, height * n, width * n])?;
    call.like_first(y)
}

fn space_to_depth(call: &mut Call<'_>) -> Mapped {
    let ([batch, channels, height, width], n) = image(call)?;
    let x = call.value(0)?;
    let x = call.reshape(x, &[batch, channels, height / n, n, width / n, n])?;
    let x = call.transpose(x, &[0, 3, 5, 1, 2, 4])?;
    let y = call.reshape(x, &[batch, channels * n * n, height / n, width / n])?;
    call.like_first(y)
}
