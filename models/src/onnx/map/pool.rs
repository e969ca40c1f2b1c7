//! Pools over any number of axes. What one of Wattle's own pools does in one operator is one; all else (dilation, uneven
//! padding, windows that reach beyond the end) is taken apart: axis by axis, tap by tap.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::op::{Binary, Comparison, Pool2d};
use wattle_protocol::ids::ValueId;

use super::super::array::{Array, Kind};
use super::super::call::{Call, few};
use super::super::fold::places::strides;
use super::super::import::Term;
use super::super::report::Reason;
use super::window::{Windows, numbers};
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("MaxPool", max),
    ("AveragePool", average),
    ("LpPool", lp),
    ("GlobalMaxPool", |call| global(call, |c, x, axes| c.reduce_max(x, axes, true))),
    ("GlobalAveragePool", |call| global(call, |c, x, axes| c.reduce_mean(x, axes, true))),
    ("GlobalLpPool", global_lp),
    ("MaxUnpool", unpool),
];

type Made = Result<ValueId, Reason>;
/// Joins what two taps have read, part by part.
type Combine = dyn Fn(&mut Call<'_>, &[ValueId], &[ValueId]) -> Result<Vec<ValueId>, Reason>;

fn global(call: &mut Call<'_>, f: impl Fn(&mut Call<'_>, ValueId, &[usize]) -> Made) -> Mapped {
    let axes: Vec<usize> = (2..call.rank(0)?).collect();
    let x = call.value(0)?;
    let y = f(call, x, &axes)?;
    call.like_first(y)
}

fn global_lp(call: &mut Call<'_>) -> Mapped {
    let p = power(call)?;
    global(call, |c, x, axes| {
        let x = raised(c, x, p)?;
        let total = c.reduce_sum(x, axes, true)?;
        rooted(c, total, p)
    })
}

fn windows(call: &Call<'_>) -> Result<(Windows, Vec<usize>), Reason> {
    let shape = call.shape(0)?;
    let lengths = shape.get(2..).filter(|rest| !rest.is_empty());
    let lengths = lengths.ok_or_else(|| Reason::malformed("[B, C, ..] is needed"))?.to_vec();
    let kernel = numbers(call, "kernel_shape", lengths.len(), 0)?;
    Ok((Windows::read(call, &lengths, kernel)?, lengths))
}

/// Returns the plain pool of two axes that does the same, if there is one.
fn plain(call: &Call<'_>, windows: &Windows) -> Result<Option<Pool2d>, Reason> {
    let pair = |sizes: &[usize]| <[usize; 2]>::try_from(sizes).ok();
    let is_plain = windows.is_even()
        && windows.dilation.iter().all(|step| *step == 1)
        && !call.flag("ceil_mode", false)?
        && windows.before.iter().zip(&windows.kernel).all(|(pad, kernel)| *pad * 2 <= *kernel);
    let sizes = (pair(&windows.kernel), pair(&windows.stride), pair(&windows.before));
    Ok(match sizes {
        (Some(kernel), Some(stride), Some(padding)) if is_plain => {
            Some(Pool2d { kernel, stride, padding })
        }
        _ => None,
    })
}

/// Combines the taps of all windows along one axis, first tap first. Beyond the ends lies `beyond`.
fn along(
    call: &mut Call<'_>,
    parts: &[ValueId],
    axis: usize,
    windows: &Windows,
    beyond: i16,
    combine: &Combine,
) -> Result<Vec<ValueId>, Reason> {
    let length = call.shape_of(parts[0])[axis + 2];
    let count = windows.count(axis, length, call.flag("ceil_mode", false)?)?;
    let (stride, dilation) = (windows.stride[axis], windows.dilation[axis]);
    let before = windows.before[axis];
    few(&[count, windows.kernel[axis]])?;
    let end = (count - 1) * stride + windows.reach(axis);
    let after = end.saturating_sub(before + length);
    let mut padded = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        // What goes along with the first part is never chosen from beyond the ends.
        padded.push(edged(
            call,
            *part,
            axis + 2,
            [before, after],
            if i == 0 { beyond } else { 0 },
        )?);
    }
    let mut total: Option<Vec<ValueId>> = None;
    for tap in 0..windows.kernel[axis] {
        let places: Vec<usize> = (0..count).map(|i| i * stride + tap * dilation).collect();
        let mut taken = Vec::new();
        for part in &padded {
            taken.push(call.take(*part, axis + 2, &places)?);
        }
        total = Some(match total {
            Some(total) => combine(call, &total, &taken)?,
            None => taken,
        });
    }
    total.ok_or_else(|| Reason::malformed("a window is empty"))
}

/// Adds equal elements on both sides of an axis; the lowest of them stands for minus infinity.
fn edged(call: &mut Call<'_>, x: ValueId, axis: usize, sides: [usize; 2], fill: i16) -> Made {
    let mut parts = Vec::new();
    for (side, count) in sides.into_iter().enumerate() {
        if count > 0 {
            let mut shape = call.shape_of(x);
            shape[axis] = count;
            let number = match fill {
                i16::MIN if call.is_int(x) => call.int_literal(i32::MIN)?,
                i16::MIN => call.fill(&[], f32::MIN)?,
                _ => call.number_like(x, fill)?,
            };
            parts.push(call.expand(number, &shape)?);
        }
        if side == 0 {
            parts.push(x);
        }
    }
    call.concat(&parts, axis)
}

fn max(call: &mut Call<'_>) -> Mapped {
    let (windows, lengths) = windows(call)?;
    let kind = call.kind(0)?;
    let x = call.value(0)?;
    if call.wants(1) {
        return max_with_places(call, x, &windows);
    }
    if let Some(pool) = plain(call, &windows)?.filter(|_| kind.is_float()) {
        let y = call.op(Op::MaxPool2d(pool), &[x])?;
        return call.like_first(y);
    }
    let mut parts = vec![x];
    // The last axis first: of equal maxima the first in row-major order wins.
    for axis in (0..lengths.len()).rev() {
        parts = along(call, &parts, axis, &windows, i16::MIN, &|c, a, b| {
            Ok(vec![c.binary(Binary::Max, a[0], b[0])?])
        })?;
    }
    call.like_first(parts[0])
}

/// Keeps each maximum's flat place in the whole tensor beside it.
fn max_with_places(call: &mut Call<'_>, x: ValueId, windows: &Windows) -> Mapped {
    let (shape, kind) = (call.shape_of(x), call.kind(0)?);
    let count = few(&shape)?;
    let mut order = strides(&shape);
    if call.int("storage_order", 0)? == 1 {
        // Places count columns first, within each image.
        let mut step = 1;
        for axis in 2..shape.len() {
            order[axis] = step;
            step *= shape[axis];
        }
    }
    let own = strides(&shape);
    let place = |at: usize| -> usize {
        (0..shape.len()).map(|axis| at / own[axis] % shape[axis] * order[axis]).sum()
    };
    let places = (0..count).map(|at| i64::try_from(place(at)).unwrap_or(i64::MAX)).collect();
    let places = call.literal(Array::ints(Kind::I64, shape.clone(), places))?;
    let mut parts = vec![x, places];
    for axis in (0..windows.kernel.len()).rev() {
        parts = along(call, &parts, axis, windows, i16::MIN, &|c, a, b| {
            let is_larger = c.compare(Comparison::Less, a[0], b[0])?;
            let largest = c.binary(Binary::Max, a[0], b[0])?;
            Ok(vec![largest, c.select(is_larger, b[1], a[1])?])
        })?;
    }
    Ok(vec![Term::Built(parts[0], kind), Term::Built(parts[1], Kind::I64)])
}

/// Sums over all windows.
fn summed(call: &mut Call<'_>, x: ValueId, windows: &Windows) -> Made {
    let mut parts = vec![x];
    for axis in (0..windows.kernel.len()).rev() {
        parts = along(call, &parts, axis, windows, 0, &|c, a, b| Ok(vec![c.add(a[0], b[0])?]))?;
    }
    Ok(parts[0])
}

#[expect(clippy::cast_precision_loss, reason = "a window has few elements")]
fn average(call: &mut Call<'_>) -> Mapped {
    let (windows, lengths) = windows(call)?;
    let counts_padding = call.flag("count_include_pad", false)?;
    let x = call.value(0)?;
    let is_unpadded = windows.before.iter().all(|pad| *pad == 0);
    if let Some(pool) = plain(call, &windows)?.filter(|_| counts_padding || is_unpadded) {
        let y = call.op(Op::AvgPool2d(pool), &[x])?;
        return call.like_first(y);
    }
    let mut y = summed(call, x, &windows)?;
    let rank = lengths.len() + 2;
    for (axis, length) in lengths.iter().enumerate() {
        // How many elements of each window count; the product over axes divides the sum.
        let (first, last) = if counts_padding {
            (0, length + windows.before[axis] + windows.after[axis])
        } else {
            (windows.before[axis], windows.before[axis] + length)
        };
        let count = call.shape_of(y)[axis + 2];
        few(&[count, windows.kernel[axis]])?;
        let (stride, dilation) = (windows.stride[axis], windows.dilation[axis]);
        let members = |i: usize| {
            let taps = (0..windows.kernel[axis]).map(|tap| i * stride + tap * dilation);
            taps.filter(|at| (first..last).contains(at)).count()
        };
        let shares: Vec<f32> = (0..count).map(|i| 1.0 / members(i).max(1) as f32).collect();
        let mut line = vec![1; rank];
        line[axis + 2] = count;
        let shares = call.floats(&line, shares)?;
        y = call.mul(y, shares)?;
    }
    call.like_first(y)
}

fn power(call: &Call<'_>) -> Result<f32, Reason> {
    let p = call.int("p", 2)?;
    #[expect(clippy::cast_precision_loss, reason = "checked to be small")]
    let power = p as f32;
    if (1..=64).contains(&p) { Ok(power) } else { Err(Reason::form(format!("p = {p}"))) }
}

/// `|x|^p`.
fn raised(call: &mut Call<'_>, x: ValueId, p: f32) -> Made {
    let size = call.abs(x)?;
    if p == 2.0 {
        return call.square(size);
    }
    let p = call.fill(&[], p)?;
    call.binary(Binary::Pow, size, p)
}

/// `x^(1/p)`.
fn rooted(call: &mut Call<'_>, x: ValueId, p: f32) -> Made {
    let p = call.fill(&[], 1.0 / p)?;
    call.binary(Binary::Pow, x, p)
}

fn lp(call: &mut Call<'_>) -> Mapped {
    let (windows, _) = windows(call)?;
    let p = power(call)?;
    let x = call.value(0)?;
    let x = raised(call, x, p)?;
    let total = summed(call, x, &windows)?;
    let y = rooted(call, total, p)?;
    call.like_first(y)
}

/// Puts each element back where `MaxPool` found it; zeros elsewhere.
fn unpool(call: &mut Call<'_>) -> Mapped {
    let (windows, lengths) = windows(call)?;
    let shape = call.shape(0)?;
    let least: Vec<usize> = (0..lengths.len())
        .map(|axis| {
            let full = (lengths[axis] - 1) * windows.stride[axis] + windows.reach(axis);
            full.saturating_sub(windows.before[axis] + windows.after[axis])
        })
        .collect();
    let least = [&shape[..2], &least].concat();
    let count = call.shape(0)?.iter().product();
    let (x, mut ids) = (call.value(0)?, call.value(1)?);
    let asked = if call.has(2) {
        let asked: Option<Vec<usize>> =
            call.known_ints(2)?.iter().map(|n| usize::try_from(*n).ok()).collect();
        asked.filter(|a| a.len() == shape.len())
    } else {
        Some(least.clone())
    };
    let asked = asked.ok_or_else(|| Reason::malformed("output_shape does not fit"))?;
    let whole: usize = least.iter().product();
    let x = call.reshape(x, &[count])?;
    ids = call.reshape(ids, &[count])?;
    let zeros = call.fill(&[whole], 0.0)?;
    let y = call.op(Op::ScatterElements { axis: 0, add: false }, &[zeros, ids, x])?;
    let mut y = call.reshape(y, &least)?;
    // A larger result than the windows reach is zeros at the end.
    for axis in 0..asked.len() {
        let more = asked[axis].checked_sub(least[axis]);
        let more = more.ok_or_else(|| Reason::form("output_shape is smaller than the windows"))?;
        y = edged(call, y, axis, [0, more], 0)?;
    }
    call.like_first(y)
}
