//! Sums of products over named axes.
//!
//! Operands are joined from left to right: axes that nothing later reads are summed, and each pair is one matrix product
//! over (shared, left, summed) and (shared, summed, right) axes.

use std::collections::BTreeMap;

use wattle_protocol::ids::ValueId;

use super::super::call::{Call, few};
use super::super::fold::places::{strides, walk};
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[("Einsum", einsum)];

/// A tensor whose axes have names.
#[derive(Clone)]
struct Named {
    value: ValueId,
    axes: Vec<char>,
}

fn wrong(equation: &str) -> Reason {
    Reason::malformed(format!("the equation {equation:?} does not fit its operands"))
}

/// Axes that `...` stands for are named by characters that no equation holds, counted from the end.
fn named(term: &str, rank: usize, equation: &str) -> Result<Vec<char>, Reason> {
    let letters = |part: &str| part.chars().filter(|c| c.is_ascii_alphabetic()).collect::<Vec<_>>();
    let (head, tail) = match term.split_once("...") {
        Some((head, tail)) => (letters(head), Some(letters(tail))),
        None => (letters(term), None),
    };
    let Some(tail) = tail else {
        return if head.len() == rank { Ok(head) } else { Err(wrong(equation)) };
    };
    let dots = rank.checked_sub(head.len() + tail.len()).ok_or_else(|| wrong(equation))?;
    // A tensor has fewer axes than there are digits.
    let dots = u32::try_from(dots).ok().filter(|n| *n <= 10).ok_or_else(|| wrong(equation))?;
    let digits = (0..dots).rev().map(|i| char::from_digit(i, 36).unwrap_or('z'));
    Ok(head.into_iter().chain(digits).chain(tail).collect())
}

fn einsum(call: &mut Call<'_>) -> Mapped {
    let equation = call.text("equation", "")?.replace(' ', "");
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != call.count() {
        return Err(wrong(&equation));
    }
    let mut operands = Vec::new();
    let mut counts: BTreeMap<char, usize> = BTreeMap::new();
    for (at, term) in terms.iter().enumerate() {
        let value = call.value(at)?;
        let axes = named(term, call.shape_of(value).len(), &equation)?;
        axes.iter().for_each(|axis| *counts.entry(*axis).or_default() += 1);
        operands.push(diagonal(call, Named { value, axes }, &equation)?);
    }
    let dots = counts.keys().filter(|axis| axis.is_ascii_digit()).count();
    let wanted = match right {
        Some(right) => {
            let letters = right.chars().filter(char::is_ascii_alphabetic).count();
            let dots = if right.contains("...") { dots } else { 0 };
            named(right, letters + dots, &equation)?
        }
        // Without a result: the axes of `...`, then those that stand once, by name.
        None => {
            let digits = counts.keys().rev().filter(|axis| axis.is_ascii_digit());
            let once = counts.iter().filter(|(axis, n)| **n == 1 && axis.is_ascii_alphabetic());
            digits.copied().chain(once.map(|(axis, _)| *axis)).collect()
        }
    };
    let mut rest = operands.split_off(1);
    let mut total = operands.remove(0);
    while !rest.is_empty() {
        let next = rest.remove(0);
        let is_read = |axis: &char| {
            wanted.contains(axis) || rest.iter().any(|named| named.axes.contains(axis))
        };
        total = joined(call, total, next, &is_read)?;
    }
    let surplus: Vec<char> =
        total.axes.iter().copied().filter(|axis| !wanted.contains(axis)).collect();
    total = summed(call, total, &surplus)?;
    let perm: Option<Vec<usize>> =
        wanted.iter().map(|axis| total.axes.iter().position(|own| own == axis)).collect();
    let perm = perm.filter(|p| p.len() == total.axes.len()).ok_or_else(|| wrong(&equation))?;
    let y = call.transpose(total.value, &perm)?;
    call.like_first(y)
}

/// Keeps the diagonal of axes that an operand names twice.
fn diagonal(call: &mut Call<'_>, x: Named, equation: &str) -> Result<Named, Reason> {
    let shape = call.shape_of(x.value);
    let (mut axes, mut lengths, mut steps) = (Vec::new(), Vec::new(), Vec::<isize>::new());
    for (at, (axis, step)) in x.axes.iter().zip(strides(&shape)).enumerate() {
        match axes.iter().position(|own| own == axis) {
            Some(own) if lengths[own] == shape[at] => steps[own] += step.cast_signed(),
            Some(_) => return Err(wrong(equation)),
            None => {
                axes.push(*axis);
                lengths.push(shape[at]);
                steps.push(step.cast_signed());
            }
        }
    }
    if axes.len() == x.axes.len() {
        return Ok(x);
    }
    few(&lengths)?;
    let places = walk(&lengths, &steps, 0);
    let flat = call.reshape(x.value, &[shape.iter().product()])?;
    let taken = call.take(flat, 0, &places)?;
    Ok(Named { value: call.reshape(taken, &lengths)?, axes })
}

fn summed(call: &mut Call<'_>, x: Named, axes: &[char]) -> Result<Named, Reason> {
    let places: Vec<usize> = (0..x.axes.len()).filter(|at| axes.contains(&x.axes[*at])).collect();
    let value = call.reduce_sum(x.value, &places, false)?;
    Ok(Named { value, axes: x.axes.into_iter().filter(|axis| !axes.contains(axis)).collect() })
}

/// Brings axes into an order, and joins them into four groups' products.
fn arranged(call: &mut Call<'_>, x: &Named, groups: [&[char]; 3]) -> Result<ValueId, Reason> {
    let shape = call.shape_of(x.value);
    let place = |axis: &char| x.axes.iter().position(|own| own == axis).unwrap_or(0);
    let perm: Vec<usize> = groups.concat().iter().map(place).collect();
    let length = |group: &[char]| group.iter().map(|axis| shape[place(axis)]).product::<usize>();
    let joined = groups.map(length);
    let value = call.transpose(x.value, &perm)?;
    call.reshape(value, &joined)
}

fn joined(
    call: &mut Call<'_>,
    a: Named,
    b: Named,
    is_read: &dyn Fn(&char) -> bool,
) -> Result<Named, Reason> {
    let only = |x: &Named, y: &Named| -> Vec<char> {
        x.axes.iter().copied().filter(|axis| !y.axes.contains(axis) && !is_read(axis)).collect()
    };
    let (a_only, b_only) = (only(&a, &b), only(&b, &a));
    let (a, b) = (summed(call, a, &a_only)?, summed(call, b, &b_only)?);
    // Axes of length 1 in one operand stretch: they are dropped there.
    let (a, b) = (unstretched(call, a, &b)?, b);
    let b = unstretched(call, b, &a)?;
    let (mut shared, mut inner, mut left) = (Vec::new(), Vec::new(), Vec::new());
    for axis in &a.axes {
        match (b.axes.contains(axis), is_read(axis)) {
            (true, true) => shared.push(*axis),
            (true, false) => inner.push(*axis),
            (false, _) => left.push(*axis),
        }
    }
    let right: Vec<char> = b.axes.iter().copied().filter(|axis| !a.axes.contains(axis)).collect();
    let length = |named: &Named, axis: &char, call: &Call<'_>| {
        let at = named.axes.iter().position(|own| own == axis).unwrap_or(0);
        call.shape_of(named.value)[at]
    };
    let lengths: Vec<usize> = shared
        .iter()
        .chain(&left)
        .map(|axis| length(&a, axis, call))
        .chain(right.iter().map(|axis| length(&b, axis, call)))
        .collect();
    let x = arranged(call, &a, [&shared, &left, &inner])?;
    let y = arranged(call, &b, [&shared, &inner, &right])?;
    let product = call.matmul(x, y)?;
    let value = call.reshape(product, &lengths)?;
    Ok(Named { value, axes: [shared, left, right].concat() })
}

fn unstretched(call: &mut Call<'_>, x: Named, other: &Named) -> Result<Named, Reason> {
    let (own, others) = (call.shape_of(x.value), call.shape_of(other.value));
    let stretches = |at: usize| {
        let there = other.axes.iter().position(|axis| *axis == x.axes[at]);
        own[at] == 1 && there.is_some_and(|there| others[there] != 1)
    };
    let kept: Vec<usize> = (0..own.len()).filter(|at| !stretches(*at)).collect();
    let shape: Vec<usize> = kept.iter().map(|at| own[*at]).collect();
    let axes = kept.iter().map(|at| x.axes[*at]).collect();
    Ok(Named { value: call.reshape(x.value, &shape)?, axes })
}
