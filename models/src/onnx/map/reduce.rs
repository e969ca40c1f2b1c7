//! Reductions over axes, largest and smallest elements, running sums and products.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::op::Unary;
use wattle_protocol::ids::ValueId;

use super::super::array::Kind;
use super::super::call::{Call, few, resolve_axes};
use super::super::import::Term;
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("ReduceSum", |call| reduced(call, sum)),
    ("ReduceMean", |call| reduced(call, mean)),
    ("ReduceMax", |call| reduced(call, |c, x, axes, keep| c.reduce_max(x, axes, keep))),
    ("ReduceMin", |call| reduced(call, min)),
    ("ReduceProd", |call| {
        reduced(call, |c, x, axes, keep| c.halved(x, axes, keep, |c, a, b| c.mul(a, b)))
    }),
    ("ReduceL1", |call| {
        reduced(call, |c, x, axes, keep| {
            let size = c.abs(x)?;
            sum(c, size, axes, keep)
        })
    }),
    ("ReduceL2", |call| {
        reduced(call, |c, x, axes, keep| {
            let squares = squares(c, x, axes, keep)?;
            c.unary(Unary::Sqrt, squares)
        })
    }),
    ("ReduceSumSquare", |call| reduced(call, squares)),
    ("ReduceLogSum", |call| {
        reduced(call, |c, x, axes, keep| {
            let total = sum(c, x, axes, keep)?;
            c.unary(Unary::Log, total)
        })
    }),
    ("ReduceLogSumExp", |call| reduced(call, log_sum_exp)),
    ("ArgMax", |call| arg(call, false)),
    ("ArgMin", |call| arg(call, true)),
    ("TopK", top_k),
    ("CumSum", cum_sum),
    ("CumProd", cum_prod),
];

type Made = Result<ValueId, Reason>;

fn reduced(
    call: &mut Call<'_>,
    f: impl Fn(&mut Call<'_>, ValueId, &[usize], bool) -> Made,
) -> Mapped {
    let rank = call.rank(0)?;
    let given = call.ints_of(1, "axes")?.filter(|axes| !axes.is_empty());
    let axes = match given {
        Some(axes) => resolve_axes(&axes, rank)?,
        None if call.flag("noop_with_empty_axes", false)? => Vec::new(),
        None => (0..rank).collect(),
    };
    let keep = call.flag("keepdims", true)?;
    let x = call.value(0)?;
    let y = f(call, x, &axes, keep)?;
    call.like_first(y)
}

fn sum(call: &mut Call<'_>, x: ValueId, axes: &[usize], keep: bool) -> Made {
    call.reduce_sum(x, axes, keep)
}

fn mean(call: &mut Call<'_>, x: ValueId, axes: &[usize], keep: bool) -> Made {
    if !call.is_int(x) {
        return call.reduce_mean(x, axes, keep);
    }
    let shape = call.shape_of(x);
    let count: usize = axes.iter().map(|axis| shape[*axis]).product();
    let total = call.reduce_sum(x, axes, keep)?;
    let count = i32::try_from(count).map_err(|_| Reason::form("an axis is too long"))?;
    let count = call.int_literal(count)?;
    call.div(total, count)
}

fn min(call: &mut Call<'_>, x: ValueId, axes: &[usize], keep: bool) -> Made {
    let x = call.neg(x)?;
    let most = call.reduce_max(x, axes, keep)?;
    call.neg(most)
}

fn squares(call: &mut Call<'_>, x: ValueId, axes: &[usize], keep: bool) -> Made {
    let square = call.square(x)?;
    sum(call, square, axes, keep)
}

/// `m + ln sum e^(x - m)` with m the maximum: no exponential overflows.
fn log_sum_exp(call: &mut Call<'_>, x: ValueId, axes: &[usize], keep: bool) -> Made {
    let most = call.reduce_max(x, axes, true)?;
    let rest = call.sub(x, most)?;
    let rest = call.unary(Unary::Exp, rest)?;
    let total = call.reduce_sum(rest, axes, true)?;
    let log = call.unary(Unary::Log, total)?;
    let y = call.add(most, log)?;
    if keep {
        return Ok(y);
    }
    let shape = call.shape_of(y);
    let kept: Vec<usize> =
        (0..shape.len()).filter(|axis| !axes.contains(axis)).map(|axis| shape[axis]).collect();
    call.reshape(y, &kept)
}

/// The k largest or smallest along an axis, of equal ones the earlier first, with their places.
///
/// Wide integers are not exact as floats: they are sorted by their lower half, then by their upper half, which leaves
/// the order of equal upper halves alone.
fn ranked(
    call: &mut Call<'_>,
    x: ValueId,
    axis: usize,
    k: usize,
    smallest: bool,
) -> Result<[ValueId; 2], Reason> {
    if !call.is_int(x) {
        let found = call.ops(Op::TopK { axis, k, smallest }, &[x])?;
        return Ok([found[0], found[1]]);
    }
    let half = call.int_literal(1 << 16)?;
    let low = call.floor_mod(x, half)?;
    let high = call.sub(x, low)?;
    let high = call.div(high, half)?;
    let (low, high) = (call.as_float(low)?, call.as_float(high)?);
    let length = call.shape_of(x)[axis];
    let first = call.ops(Op::TopK { axis, k: length, smallest }, &[low])?[1];
    let high = call.op(Op::GatherElements { axis }, &[high, first])?;
    let second = call.ops(Op::TopK { axis, k, smallest }, &[high])?[1];
    let places = call.op(Op::GatherElements { axis }, &[first, second])?;
    let values = call.op(Op::GatherElements { axis }, &[x, places])?;
    Ok([values, places])
}

fn arg(call: &mut Call<'_>, smallest: bool) -> Mapped {
    let axis = call.axis_of("axis", 0, call.rank(0)?)?;
    let mut x = call.value(0)?;
    let mut shape = call.shape_of(x);
    let length = shape[axis];
    let last = call.flag("select_last_index", false)?;
    if last {
        few(&[length])?;
        x = call.take(x, axis, &(0..length).rev().collect::<Vec<_>>())?;
    }
    let [_, mut place] = ranked(call, x, axis, 1, smallest)?;
    if last {
        let end = i32::try_from(length - 1).map_err(|_| Reason::form("an axis is too long"))?;
        let end = call.int_literal(end)?;
        place = call.sub(end, place)?;
    }
    if !call.flag("keepdims", true)? {
        shape.remove(axis);
        place = call.reshape(place, &shape)?;
    }
    Ok(vec![Term::Built(place, Kind::I64)])
}

fn top_k(call: &mut Call<'_>) -> Mapped {
    let kind = call.kind(0)?;
    let axis = call.axis_of("axis", -1, call.rank(0)?)?;
    let k = if call.has(1) { call.known_int(1)? } else { call.int("k", 0)? };
    let k = usize::try_from(k).map_err(|_| Reason::malformed(format!("k is {k}")))?;
    let smallest = !call.flag("largest", true)?;
    let x = call.value(0)?;
    let [values, places] = ranked(call, x, axis, k, smallest)?;
    Ok(vec![Term::Built(values, kind), Term::Built(places, Kind::I64)])
}

fn running_axis(call: &Call<'_>) -> Result<usize, Reason> {
    call.axis(call.known_int(1)?, call.rank(0)?)
}

fn cum_sum(call: &mut Call<'_>) -> Mapped {
    let axis = running_axis(call)?;
    let (exclusive, reverse) = (call.flag("exclusive", false)?, call.flag("reverse", false)?);
    let x = call.value(0)?;
    if call.is_int(x) {
        return running(call, axis, |c, a, b| c.add(a, b), 0);
    }
    let y = call.op(Op::CumSum { axis, exclusive, reverse }, &[x])?;
    call.like_first(y)
}

fn cum_prod(call: &mut Call<'_>) -> Mapped {
    let axis = running_axis(call)?;
    running(call, axis, |c, a, b| c.mul(a, b), 1)
}

/// Combines each element with all before it, in log2 steps: after the step of reach r, each holds r of them.
fn running(
    call: &mut Call<'_>,
    axis: usize,
    combine: impl Fn(&mut Call<'_>, ValueId, ValueId) -> Made,
    neutral: i16,
) -> Mapped {
    let (exclusive, reverse) = (call.flag("exclusive", false)?, call.flag("reverse", false)?);
    let mut x = call.value(0)?;
    let shape = call.shape_of(x);
    let length = shape[axis];
    few(&[length])?;
    let backwards: Vec<usize> = (0..length).rev().collect();
    if reverse {
        x = call.take(x, axis, &backwards)?;
    }
    if exclusive {
        let mut edge = shape.clone();
        edge[axis] = 1;
        let first = call.number_like(x, neutral)?;
        let first = call.expand(first, &edge)?;
        x = if length > 1 {
            let rest = call.slice(x, axis, 0, length - 1)?;
            call.concat(&[first, rest], axis)?
        } else {
            first
        };
    }
    let mut reach = 1;
    while reach < length {
        let (head, tail) = (call.slice(x, axis, 0, reach)?, call.slice(x, axis, reach, length)?);
        let before = call.slice(x, axis, 0, length - reach)?;
        let tail = combine(call, before, tail)?;
        x = call.concat(&[head, tail], axis)?;
        reach *= 2;
    }
    if reverse {
        x = call.take(x, axis, &backwards)?;
    }
    call.like_first(x)
}
