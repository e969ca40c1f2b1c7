//! Folding what moves elements: each operator as the places from which its result is read.

use super::super::array::{Array, Elements};
use super::super::call::{Call, resolve_axes};
use super::super::map::layout::{
    Range, expanded_shape, flattened_shape, ranges, reshaped_shape, split_lengths, squeezed_shape,
    unsqueezed_shape,
};
use super::super::report::Reason;
use super::places::{broadcast, stretched, strides, walk};
use super::{Folded, one};

pub(super) fn evaluate(call: &Call<'_>) -> Folded {
    match call.operator() {
        "Reshape" => reshaped(call, reshaped_shape(call)?),
        "Flatten" => reshaped(call, flattened_shape(call)?),
        "Squeeze" => reshaped(call, squeezed_shape(call)?),
        "Unsqueeze" => reshaped(call, unsqueezed_shape(call)?),
        "Identity" => one(call.known(0)?.clone()),
        "Transpose" => transpose(call),
        "Slice" => slice(call),
        "Gather" => gather(call),
        "Concat" => concat(call),
        "Expand" => expand(call),
        "Tile" => tile(call),
        "Split" => split(call),
        "Where" => select(call),
        _ => Ok(None),
    }
}

fn reshaped(call: &Call<'_>, shape: Vec<usize>) -> Folded {
    let array = call.known(0)?.reshaped(shape.clone());
    let wrong = || Reason::malformed(format!("{shape:?} has another number of elements"));
    one(array.ok_or_else(wrong)?)
}

fn transpose(call: &Call<'_>) -> Folded {
    let x = call.known(0)?;
    let perm = super::super::map::layout::permutation(call)?;
    let own = strides(x.shape());
    let shape: Vec<usize> = perm.iter().map(|axis| x.shape()[*axis]).collect();
    let steps: Vec<isize> = perm.iter().map(|axis| own[*axis].cast_signed()).collect();
    let places = walk(&shape, &steps, 0);
    one(x.pick(shape, &places))
}

fn slice(call: &Call<'_>) -> Folded {
    let x = call.known(0)?;
    let mut shape = x.shape().to_vec();
    let mut steps: Vec<isize> = strides(&shape).iter().map(|s| s.cast_signed()).collect();
    let mut start = 0;
    for Range { axis, first, count, step } in ranges(call)? {
        start += first * steps[axis].unsigned_abs();
        let step = isize::try_from(step).map_err(|_| Reason::malformed("a step is too large"))?;
        let wide = steps[axis].checked_mul(step);
        // One element needs no step, and a step that overflows reaches one element only.
        steps[axis] = wide.unwrap_or(0);
        shape[axis] = count;
    }
    let places = walk(&shape, &steps, start);
    one(x.pick(shape, &places))
}

/// Returns indices counted from the front.
fn counted(ids: &Array, length: usize) -> Result<Vec<usize>, Reason> {
    let ids = ids.as_ints().ok_or_else(|| Reason::malformed("indices are no integers"))?;
    let wrong = |id: i64| Reason::malformed(format!("there is no index {id} among {length}"));
    let signed = i64::try_from(length).map_err(|_| Reason::malformed("an axis is too long"))?;
    ids.iter()
        .map(|id| {
            let place = if *id < 0 { id.saturating_add(signed) } else { *id };
            usize::try_from(place).ok().filter(|p| *p < length).ok_or_else(|| wrong(*id))
        })
        .collect()
}

fn gather(call: &Call<'_>) -> Folded {
    let (x, ids) = (call.known(0)?, call.known(1)?);
    let axis = call.axis_of("axis", 0, x.shape().len())?;
    let counted = counted(ids, x.shape()[axis])?;
    let (lead, rest) = x.shape().split_at(axis);
    let inner: usize = rest[1..].iter().product();
    let outer: usize = lead.iter().product();
    let count = [outer, inner, counted.len()].iter().try_fold(1usize, |n, l| n.checked_mul(*l));
    if count.is_none_or(|count| count > super::ELEMENTS_MAX) {
        return Ok(None);
    }
    let mut places = Vec::new();
    for block in 0..outer {
        for id in &counted {
            let start = (block * rest[0] + id) * inner;
            places.extend(start..start + inner);
        }
    }
    let shape = [lead, ids.shape(), &rest[1..]].concat();
    one(x.pick(shape, &places))
}

fn concat(call: &Call<'_>) -> Folded {
    let first = call.known(0)?;
    let axis = call.axis_of("axis", 1, first.shape().len())?;
    let parts = (0..call.count()).map(|at| call.known(at)).collect::<Result<Vec<_>, _>>()?;
    let rank = first.shape().len();
    let mut shape = first.shape().to_vec();
    shape[axis] = 0;
    for part in &parts {
        let fits = |i: usize| i == axis || part.shape()[i] == first.shape()[i];
        if part.shape().len() != rank || part.kind() != first.kind() || !(0..rank).all(fits) {
            return Err(Reason::malformed("joined tensors differ in type or shape"));
        }
        shape[axis] += part.shape()[axis];
    }
    let outer: usize = shape[..axis].iter().product();
    let (mut floats, mut ints) = (Vec::new(), Vec::new());
    for block in 0..outer {
        for part in &parts {
            let length: usize = part.shape()[axis..].iter().product();
            let range = block * length..(block + 1) * length;
            match part.elements() {
                Elements::Floats(v) => floats.extend_from_slice(&v[range]),
                Elements::Ints(v) => ints.extend_from_slice(&v[range]),
            }
        }
    }
    let kind = first.kind();
    one(if kind.is_float() {
        Array::floats(kind, shape, floats)
    } else {
        Array::ints(kind, shape, ints)
    })
}

fn expand(call: &Call<'_>) -> Folded {
    let x = call.known(0)?;
    let shape = expanded_shape(call)?;
    if shape.iter().product::<usize>() > super::ELEMENTS_MAX {
        return Ok(None);
    }
    let places = stretched(x.shape(), &shape);
    one(x.pick(shape, &places))
}

fn tile(call: &Call<'_>) -> Folded {
    let x = call.known(0)?;
    let repeats = call.known_ints(1)?;
    if repeats.len() != x.shape().len() {
        return Err(Reason::malformed("one repeat an axis is needed"));
    }
    let lengths = repeats
        .iter()
        .zip(x.shape())
        .map(|(n, axis)| usize::try_from(*n).ok().and_then(|n| n.checked_mul(*axis)));
    let shape = lengths.collect::<Option<Vec<usize>>>();
    let count = shape.as_ref().and_then(|s| s.iter().try_fold(1usize, |n, a| n.checked_mul(*a)));
    let (Some(shape), Some(count)) = (shape, count) else {
        return Err(Reason::malformed(format!("repeats are {repeats:?}")));
    };
    if count > super::ELEMENTS_MAX {
        return Ok(None);
    }
    let own = strides(x.shape());
    let wide: Vec<isize> = strides(&shape).iter().map(|s| s.cast_signed()).collect();
    let place = |at: usize| -> usize {
        (0..shape.len())
            .map(|axis| {
                (at / wide[axis].unsigned_abs() % shape[axis]) % x.shape()[axis] * own[axis]
            })
            .sum()
    };
    let places: Vec<usize> = (0..count).map(place).collect();
    one(x.pick(shape, &places))
}

fn split(call: &Call<'_>) -> Folded {
    let x = call.known(0)?;
    let axis = call.axis_of("axis", 0, x.shape().len())?;
    let steps: Vec<isize> = strides(x.shape()).iter().map(|s| s.cast_signed()).collect();
    let mut first = 0;
    let mut parts = Vec::new();
    for length in split_lengths(call, axis)? {
        let mut shape = x.shape().to_vec();
        shape[axis] = length;
        let places = walk(&shape, &steps, first * steps[axis].unsigned_abs());
        parts.push(x.pick(shape, &places));
        first += length;
    }
    Ok(Some(parts))
}

fn select(call: &Call<'_>) -> Folded {
    let (mask, a, b) = (call.known(0)?, call.known(1)?, call.known(2)?);
    let shape = broadcast(&broadcast(mask.shape(), a.shape())?, b.shape())?;
    if shape.iter().product::<usize>() > super::ELEMENTS_MAX {
        return Ok(None);
    }
    let wrong = || Reason::malformed("the condition is no bool, or the choices differ in type");
    let mask = mask.pick(shape.clone(), &stretched(mask.shape(), &shape));
    let a = a.pick(shape.clone(), &stretched(a.shape(), &shape));
    let b = b.pick(shape.clone(), &stretched(b.shape(), &shape));
    let mask = mask.as_ints().ok_or_else(wrong)?.to_vec();
    fn chosen<T: Copy>(mask: &[i64], a: &[T], b: &[T]) -> Vec<T> {
        mask.iter().zip(a.iter().zip(b)).map(|(m, (a, b))| if *m != 0 { *a } else { *b }).collect()
    }
    one(match (a.elements(), b.elements()) {
        (Elements::Floats(x), Elements::Floats(y)) => {
            Array::floats(a.kind(), shape, chosen(&mask, x, y))
        }
        (Elements::Ints(x), Elements::Ints(y)) => Array::ints(a.kind(), shape, chosen(&mask, x, y)),
        _ => return Err(wrong()),
    })
}

/// Returns axes that an operand or attribute names, ascending; all of them where none are named.
pub(super) fn axes(call: &Call<'_>, at: usize, rank: usize) -> Result<Vec<usize>, Reason> {
    match call.ints_of(at, "axes")? {
        Some(axes) => resolve_axes(&axes, rank),
        None => Ok((0..rank).collect()),
    }
}
