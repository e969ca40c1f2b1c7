//! Reading and writing by index, and arrays made from sizes. Indices below 0 count from the end.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::op::Comparison;
use wattle_protocol::ids::ValueId;

use super::super::array::{Array, Kind};
use super::super::call::{Call, few, resolve_axis};
use super::super::fold::make::cast;
use super::super::fold::places::strides;
use super::super::import::Term;
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("Scatter", scatter_elements),
    ("ScatterElements", scatter_elements),
    ("ScatterND", scatter_nd),
    ("OneHot", one_hot),
    ("Compress", compress),
    ("Trilu", trilu),
    ("EyeLike", eye_like),
    ("ReverseSequence", reverse_sequence),
    ("ConstantOfShape", constant_of_shape),
    ("Constant", |_| Err(Reason::form("this constant is not supported"))),
    ("Shape", |_| Err(Reason::form("this shape is not supported"))),
    ("Size", |_| Err(Reason::form("this size is not supported"))),
    ("Range", |call| needs_known(call, 3)),
    ("NonZero", |call| needs_known(call, 1)),
];

type Made = Result<ValueId, Reason>;

/// Refuses a node whose results' sizes follow from its operands' elements.
fn needs_known(call: &mut Call<'_>, operands: usize) -> Mapped {
    for at in 0..operands {
        call.known(at)?;
    }
    Err(Reason::form("elements of this type or number are not supported"))
}

/// Returns an operand's indices, counted from the front.
fn indices(call: &mut Call<'_>, at: usize, length: usize) -> Made {
    if let Some(known) = call.shared(at) {
        let ids = known.array.as_ints().ok_or_else(|| Reason::malformed("indices are floats"))?;
        let places = ids.iter().map(|id| {
            let place = resolve_axis(*id, length);
            let wrong = |_| Reason::malformed(format!("there is no index {id} among {length}"));
            Ok(i64::try_from(place.map_err(wrong)?).unwrap_or(i64::MAX))
        });
        let places = places.collect::<Result<Vec<i64>, Reason>>()?;
        let array = Array::ints(Kind::I64, known.array.shape().to_vec(), places);
        return call.literal(array);
    }
    let ids = call.value(at)?;
    let signed = i32::try_from(length).map_err(|_| Reason::form("an axis is too long"))?;
    wrap_negative(call, ids, signed)
}

fn wrap_negative(call: &mut Call<'_>, ids: ValueId, length: i32) -> Made {
    let (zero, length) = (call.int_literal(0)?, call.int_literal(length)?);
    let below = call.compare(Comparison::Less, ids, zero)?;
    let wrapped = call.add(ids, length)?;
    call.select(below, wrapped, ids)
}

fn gather(call: &mut Call<'_>) -> Mapped {
    let shape = call.shape(0)?;
    let axis = call.axis_of("axis", 0, shape.len())?;
    let ids_shape = call.shape(1)?;
    let ids = indices(call, 1, shape[axis])?;
    let x = call.value(0)?;
    let result = [&shape[..axis], &ids_shape, &shape[axis + 1..]].concat();
    let y = if axis == 0 && shape.len() == 2 && !call.is_int(x) {
        call.op(Op::Embedding, &[x, ids])?
    } else {
        let ids = if ids_shape.is_empty() { call.reshape(ids, &[1])? } else { ids };
        let y = call.op(Op::Gather { axis }, &[x, ids])?;
        call.reshape(y, &result)?
    };
    call.like_first(y)
}

fn gather_elements(call: &mut Call<'_>) -> Mapped {
    let shape = call.shape(0)?;
    let axis = call.axis_of("axis", 0, shape.len())?;
    let ids = indices(call, 1, shape[axis])?;
    let x = call.value(0)?;
    let y = call.op(Op::GatherElements { axis }, &[x, ids])?;
    call.like_first(y)
}

/// Turns index tuples `[.., N]` into flat places among the first N of `axes`.
fn flat_places(
    call: &mut Call<'_>,
    at: usize,
    axes: &[usize],
) -> Result<(ValueId, Vec<usize>), Reason> {
    let mut shape = call.shape(at)?;
    let wide = || Reason::form("a tensor is too large to be indexed");
    let fit = |n: usize| i32::try_from(n).map_err(|_| wide());
    let depth = shape.pop().filter(|n| (1..=axes.len()).contains(n));
    let depth = depth.ok_or_else(|| Reason::malformed("index tuples do not fit the axes"))?;
    let ids = call.value(at)?;
    let last = shape.len();
    let steps = strides(&axes[..depth]);
    fit(axes[..depth].iter().product())?;
    let lengths: Vec<i32> = axes[..depth].iter().map(|n| fit(*n)).collect::<Result<_, _>>()?;
    let lengths = call.ints(&[depth], lengths)?;
    let zero = call.int_literal(0)?;
    let below = call.compare(Comparison::Less, ids, zero)?;
    let wrapped = call.add(ids, lengths)?;
    let ids = call.select(below, wrapped, ids)?;
    let steps: Vec<i32> = steps.iter().map(|n| fit(*n)).collect::<Result<_, _>>()?;
    let steps = call.ints(&[depth], steps)?;
    let ids = call.mul(ids, steps)?;
    let ids = call.reduce_sum(ids, &[last], false)?;
    Ok((ids, shape))
}

fn gather_nd(call: &mut Call<'_>) -> Mapped {
    let shape = call.shape(0)?;
    let batch = usize::try_from(call.int("batch_dims", 0)?).unwrap_or(usize::MAX);
    let ids_shape = call.shape(1)?;
    let wrong = || Reason::malformed("index tuples do not fit");
    let depth = *ids_shape.last().ok_or_else(wrong)?;
    if batch >= ids_shape.len() || batch + depth > shape.len() {
        return Err(wrong());
    }
    let (mut ids, lead) = flat_places(call, 1, &shape[batch..])?;
    let blocks: usize = shape[..batch].iter().product();
    let within: usize = shape[batch..batch + depth].iter().product();
    let rest = &shape[batch + depth..];
    let each: usize = lead[batch..].iter().product();
    ids = call.reshape(ids, &[blocks, each])?;
    if blocks > 1 {
        let step = i32::try_from(within).map_err(|_| wrong())?;
        let starts = (0..i32::try_from(blocks).map_err(|_| wrong())?).map(|b| b.wrapping_mul(step));
        let starts = call.ints(&[blocks, 1], starts.collect())?;
        ids = call.add(ids, starts)?;
    }
    let ids = call.reshape(ids, &[blocks * each])?;
    let x = call.value(0)?;
    let x = call.reshape(x, &[&[blocks * within], rest].concat())?;
    let y = call.op(Op::Gather { axis: 0 }, &[x, ids])?;
    let y = call.reshape(y, &[&lead, rest].concat())?;
    call.like_first(y)
}

/// Says whether updates are added; other combinations are refused.
fn is_added(call: &Call<'_>) -> Result<bool, Reason> {
    match call.text("reduction", "none")? {
        "none" | "" => Ok(false),
        "add" => Ok(true),
        other => Err(Reason::form(format!("the reduction {other} is not supported"))),
    }
}

fn scatter_elements(call: &mut Call<'_>) -> Mapped {
    let add = is_added(call)?;
    let shape = call.shape(0)?;
    let axis = call.axis_of("axis", 0, shape.len())?;
    let ids = indices(call, 1, shape[axis])?;
    let (x, updates) = (call.value(0)?, call.value(2)?);
    let y = call.op(Op::ScatterElements { axis, add }, &[x, ids, updates])?;
    call.like_first(y)
}

fn scatter_nd(call: &mut Call<'_>) -> Mapped {
    let add = is_added(call)?;
    let shape = call.shape(0)?;
    let (ids, lead) = flat_places(call, 1, &shape)?;
    let depth = *call.shape(1)?.last().ok_or_else(|| Reason::malformed("no index tuples"))?;
    let rows: usize = shape[..depth].iter().product();
    let width: usize = shape[depth..].iter().product();
    let count: usize = lead.iter().product();
    let ids = call.reshape(ids, &[count, 1])?;
    let ids = call.expand(ids, &[count, width])?;
    let (x, updates) = (call.value(0)?, call.value(2)?);
    let (x, updates) = (call.reshape(x, &[rows, width])?, call.reshape(updates, &[count, width])?);
    // More tuples than rows are legal, since tuples may repeat; a scatter takes them along its axis.
    let y = call.op(Op::ScatterElements { axis: 0, add }, &[x, ids, updates])?;
    let y = call.reshape(y, &shape)?;
    call.like_first(y)
}

fn one_hot(call: &mut Call<'_>) -> Mapped {
    let mut shape = call.shape(0)?;
    let axis = call.axis_of("axis", -1, shape.len() + 1)?;
    let depth = call.known(1)?.to_floats().first().copied().unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, reason = "checked to be a small whole number")]
    let signed = depth as i32;
    let depth = usize::try_from(signed).ok().filter(|n| *n > 0);
    let depth = depth.ok_or_else(|| Reason::malformed("the depth must be above 0"))?;
    let ids = call.value(0)?;
    let ids = call.as_int(ids)?;
    let ids = wrap_negative(call, ids, signed)?;
    shape.insert(axis, 1);
    let ids = call.reshape(ids, &shape)?;
    let mut line = vec![1; shape.len()];
    line[axis] = depth;
    let places = call.op(Op::Iota { shape: line, axis }, &[])?;
    let hit = call.compare(Comparison::Equal, places, ids)?;
    let values = call.value(2)?;
    let (off, on) = (call.slice(values, 0, 0, 1)?, call.slice(values, 0, 1, 2)?);
    let y = call.select(hit, on, off)?;
    Ok(vec![Term::Built(y, call.kind(2)?)])
}

fn compress(call: &mut Call<'_>) -> Mapped {
    let shape = call.shape(0)?;
    let mask = call.known_ints(1)?;
    let x = call.value(0)?;
    let (x, axis) = match call.attributes().int("axis")? {
        Some(axis) => (x, resolve_axis(axis, shape.len())?),
        None => (call.reshape(x, &[shape.iter().product()])?, 0),
    };
    let length = few(&[call.shape_of(x)[axis]])?;
    let kept: Vec<usize> = (0..length).filter(|i| mask.get(*i).is_some_and(|m| *m != 0)).collect();
    if kept.is_empty() {
        return Err(Reason::form("nothing is kept"));
    }
    let y = call.take(x, axis, &kept)?;
    call.like_first(y)
}

fn trilu(call: &mut Call<'_>) -> Mapped {
    let shape = call.shape(0)?;
    let upper = call.flag("upper", true)?;
    let offset = if call.has(1) { call.known_int(1)? } else { 0 };
    let [.., rows, columns] = shape.as_slice() else {
        return Err(Reason::malformed("a matrix is needed"));
    };
    let (rows, columns) = (*rows, *columns);
    few(&[rows, columns])?;
    let signed = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let inside = |i: usize| {
        let diagonal = signed(i % columns).saturating_sub(signed(i / columns));
        i32::from(if upper { diagonal >= offset } else { diagonal <= offset })
    };
    let mask = Array::ints(
        Kind::Bool,
        vec![rows, columns],
        (0..rows * columns).map(|i| i64::from(inside(i))).collect(),
    );
    let x = call.value(0)?;
    let (mask, zero) = (call.literal(mask)?, call.number_like(x, 0)?);
    let y = call.select(mask, x, zero)?;
    call.like_first(y)
}

fn eye_like(call: &mut Call<'_>) -> Mapped {
    let shape = call.shape(0)?;
    let [rows, columns] = shape[..] else {
        return Err(Reason::malformed("a matrix is needed"));
    };
    let kind = match call.attributes().int("dtype")? {
        Some(code) => {
            Kind::of_code(code).ok_or_else(|| Reason::form("this type is not supported"))?
        }
        None => call.kind(0)?,
    };
    let k = call.int("k", 0)?;
    few(&shape)?;
    let signed = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let hit = |i: usize| i64::from(signed(i % columns) - signed(i / columns) == k);
    let eye = Array::ints(Kind::I64, shape.clone(), (0..rows * columns).map(hit).collect());
    let eye = cast(&eye, kind)?;
    Ok(vec![call.constant(eye)])
}

fn reverse_sequence(call: &mut Call<'_>) -> Mapped {
    let shape = call.shape(0)?;
    let time = call.axis_of("time_axis", 0, shape.len())?;
    let batch = call.axis_of("batch_axis", 1, shape.len())?;
    let lengths = call.known_ints(1)?;
    if shape.len() < 2 || time == batch || lengths.len() != shape[batch] {
        return Err(Reason::malformed("axes and lengths do not fit"));
    }
    let mut line = vec![1; shape.len()];
    (line[time], line[batch]) = (shape[time], shape[batch]);
    few(&line)?;
    let steps = strides(&line);
    let place = |i: usize| {
        let (t, b) = (i / steps[time] % shape[time], i / steps[batch] % shape[batch]);
        let length = usize::try_from(lengths[b]).unwrap_or(0).min(shape[time]);
        i64::try_from(if t < length { length - 1 - t } else { t }).unwrap_or(0)
    };
    let count = line.iter().product();
    let ids = Array::ints(Kind::I64, line, (0..count).map(place).collect());
    let ids = call.literal(ids)?;
    let ids = call.expand(ids, &shape)?;
    let x = call.value(0)?;
    let y = call.op(Op::GatherElements { axis: time }, &[x, ids])?;
    call.like_first(y)
}

/// A constant too large to be folded.
fn constant_of_shape(call: &mut Call<'_>) -> Mapped {
    let shape: Option<Vec<usize>> =
        call.known_ints(0)?.iter().map(|n| usize::try_from(*n).ok()).collect();
    let shape = shape.ok_or_else(|| Reason::malformed("a length is below 0"))?;
    let value = match call.attributes().tensor("value")? {
        Some(tensor) => call.importer.decode(tensor)?,
        None => Array::floats(Kind::F32, vec![1], vec![0.0]),
    };
    let kind = value.kind();
    let value = call.literal(value)?;
    let y = call.expand(value, &shape)?;
    Ok(vec![Term::Built(y, kind)])
}
