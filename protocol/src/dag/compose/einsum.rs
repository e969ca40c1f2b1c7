//! Sums of products over named axes.
//!
//! Operands are joined from left to right: axes that nothing later reads are summed, and each pair is one matrix product
//! over (shared, left, summed) and (shared, summed, right) axes.

use std::collections::BTreeMap;

use super::{Built, Scope};
use crate::dag::DagError;
use crate::dag::op::LITERAL_MAX;
use crate::dag::op::Op;
use crate::ids::ValueId;

/// A tensor whose axes have names.
#[derive(Clone)]
struct Named {
    value: ValueId,
    axes: Vec<char>,
}

/// Which axes a sum keeps, and how its operands' axes are named.
struct Equation {
    operands: Vec<Vec<char>>,
    result: Vec<char>,
}

const FIT: &str = "an equation such as `bij,bjk->bik` that fits its operands";

/// Contracts f32 operands as an equation says: `bij,bjk->bik` is a batch of matrix products.
///
/// Axes are named by letters; `...` stands for any axes in front, which broadcast; an axis that an operand names twice
/// is its diagonal. Without `->` the result has the axes of `...`, then those that are named once, by name.
///
/// *Errors*: [`DagError::Composition`] for an equation that does not fit, else as `DagBuilder::apply`.
pub fn einsum(s: &mut Scope<'_>, equation: &str, operands: &[ValueId]) -> Built {
    let equation = equation.replace(' ', "");
    let named = parse(s, &equation, operands)?;
    let mut rest = Vec::with_capacity(operands.len());
    for (value, axes) in operands.iter().zip(named.operands) {
        rest.push(diagonal(s, Named { value: *value, axes }, &equation)?);
    }
    let wanted = named.result;
    let mut total = rest.remove(0);
    while !rest.is_empty() {
        let next = rest.remove(0);
        let is_read = |axis: &char| {
            wanted.contains(axis) || rest.iter().any(|named| named.axes.contains(axis))
        };
        total = joined(s, total, next, &is_read)?;
    }
    let surplus: Vec<char> =
        total.axes.iter().copied().filter(|axis| !wanted.contains(axis)).collect();
    total = summed(s, total, &surplus)?;
    let perm: Option<Vec<usize>> =
        wanted.iter().map(|axis| total.axes.iter().position(|own| own == axis)).collect();
    let perm = perm.filter(|p| p.len() == total.axes.len());
    let perm = perm.ok_or_else(|| s.refuse(FIT, &equation))?;
    if perm.is_sorted() { Ok(total.value) } else { s.transpose(total.value, &perm) }
}

fn parse(s: &Scope<'_>, equation: &str, operands: &[ValueId]) -> Result<Equation, DagError> {
    let wrong = || s.refuse(FIT, equation);
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation, None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != operands.len() {
        return Err(wrong());
    }
    let mut counts: BTreeMap<char, usize> = BTreeMap::new();
    let mut lists = Vec::with_capacity(terms.len());
    for (term, operand) in terms.iter().zip(operands) {
        let axes = named(term, s.fact(*operand).rank()).ok_or_else(wrong)?;
        axes.iter().for_each(|axis| *counts.entry(*axis).or_default() += 1);
        lists.push(axes);
    }
    let dots = counts.keys().filter(|axis| axis.is_ascii_digit()).count();
    let result = match right {
        Some(right) => {
            let letters = right.chars().filter(char::is_ascii_alphabetic).count();
            let dots = if right.contains("...") { dots } else { 0 };
            named(right, letters + dots).ok_or_else(wrong)?
        }
        None => {
            let digits = counts.keys().rev().filter(|axis| axis.is_ascii_digit());
            let once = counts.iter().filter(|(axis, n)| **n == 1 && axis.is_ascii_alphabetic());
            digits.copied().chain(once.map(|(axis, _)| *axis)).collect()
        }
    };
    Ok(Equation { operands: lists, result })
}

/// Axes that `...` stands for are named by digits, which no equation holds, counted from the end.
fn named(term: &str, rank: usize) -> Option<Vec<char>> {
    let letters = |part: &str| {
        let known = part.chars().all(|c| c.is_ascii_alphabetic());
        known.then(|| part.chars().collect::<Vec<_>>())
    };
    let Some((head, tail)) = term.split_once("...") else {
        return letters(term).filter(|head| head.len() == rank);
    };
    let (head, tail) = (letters(head)?, letters(tail)?);
    let dots = rank.checked_sub(head.len() + tail.len())?;
    // A tensor has fewer axes than there are digits.
    let dots = u32::try_from(dots).ok().filter(|n| *n <= 10)?;
    let digits = (0..dots).rev().filter_map(|i| char::from_digit(i, 10));
    Some(head.into_iter().chain(digits).chain(tail).collect())
}

/// Keeps the diagonal of axes that an operand names twice.
fn diagonal(s: &mut Scope<'_>, x: Named, equation: &str) -> Result<Named, DagError> {
    let shape = s.shape(x.value);
    let (mut axes, mut lengths, mut steps) = (Vec::new(), Vec::new(), Vec::<usize>::new());
    for (at, axis) in x.axes.iter().enumerate() {
        let step = shape[at + 1..].iter().product();
        match axes.iter().position(|own| own == axis) {
            Some(own) if lengths[own] == shape[at] => steps[own] += step,
            Some(_) => return Err(s.refuse(FIT, equation)),
            None => {
                axes.push(*axis);
                lengths.push(shape[at]);
                steps.push(step);
            }
        }
    }
    if axes.len() == x.axes.len() {
        return Ok(x);
    }
    if lengths.iter().product::<usize>() > LITERAL_MAX {
        return Err(s.refuse("a diagonal of 65,536 elements at most", equation));
    }
    let mut places = vec![0];
    for (length, step) in lengths.iter().zip(&steps) {
        places = places.iter().flat_map(|p| (0..*length).map(move |at| p + at * step)).collect();
    }
    let flat = s.reshape(x.value, &[shape.iter().product()])?;
    let taken = s.pick(flat, 0, &places)?;
    Ok(Named { value: s.reshape(taken, &lengths)?, axes })
}

fn summed(s: &mut Scope<'_>, x: Named, axes: &[char]) -> Result<Named, DagError> {
    let places: Vec<usize> = (0..x.axes.len()).filter(|at| axes.contains(&x.axes[*at])).collect();
    if places.is_empty() {
        return Ok(x);
    }
    let value = s.sum(x.value, &places, false)?;
    Ok(Named { value, axes: x.axes.into_iter().filter(|axis| !axes.contains(axis)).collect() })
}

/// Brings axes into an order, and joins them into three groups.
fn arranged(s: &mut Scope<'_>, x: &Named, groups: [&[char]; 3]) -> Built {
    let shape = s.shape(x.value);
    let place = |axis: &char| x.axes.iter().position(|own| own == axis).unwrap_or(0);
    let perm: Vec<usize> = groups.concat().iter().map(place).collect();
    let length = |group: &[char]| group.iter().map(|axis| shape[place(axis)]).product::<usize>();
    let lengths = groups.map(length);
    let value = if perm.is_sorted() { x.value } else { s.transpose(x.value, &perm)? };
    if s.shape(value) == lengths { Ok(value) } else { s.reshape(value, &lengths) }
}

fn joined(
    s: &mut Scope<'_>,
    a: Named,
    b: Named,
    is_read: &dyn Fn(&char) -> bool,
) -> Result<Named, DagError> {
    let only = |x: &Named, y: &Named| -> Vec<char> {
        x.axes.iter().copied().filter(|axis| !y.axes.contains(axis) && !is_read(axis)).collect()
    };
    let (a_only, b_only) = (only(&a, &b), only(&b, &a));
    let (a, b) = (summed(s, a, &a_only)?, summed(s, b, &b_only)?);
    // Axes of length 1 in one operand stretch: they are dropped there.
    let a = unstretched(s, a, &b)?;
    let b = unstretched(s, b, &a)?;
    let (mut shared, mut inner, mut left) = (Vec::new(), Vec::new(), Vec::new());
    for axis in &a.axes {
        match (b.axes.contains(axis), is_read(axis)) {
            (true, true) => shared.push(*axis),
            (true, false) => inner.push(*axis),
            (false, _) => left.push(*axis),
        }
    }
    let right: Vec<char> = b.axes.iter().copied().filter(|axis| !a.axes.contains(axis)).collect();
    let length = |named: &Named, axis: &char| {
        let at = named.axes.iter().position(|own| own == axis).unwrap_or(0);
        s.len(named.value, at)
    };
    let of_a = shared.iter().chain(&left).map(|axis| length(&a, axis));
    let lengths: Vec<usize> = of_a.chain(right.iter().map(|axis| length(&b, axis))).collect();
    let x = arranged(s, &a, [&shared, &left, &inner])?;
    let y = arranged(s, &b, [&shared, &inner, &right])?;
    let product = s.op(Op::MatMul { transpose_a: false, transpose_b: false }, &[x, y])?;
    let value = s.reshape(product, &lengths)?;
    Ok(Named { value, axes: [shared, left, right].concat() })
}

fn unstretched(s: &mut Scope<'_>, x: Named, other: &Named) -> Result<Named, DagError> {
    let (own, others) = (s.shape(x.value), s.shape(other.value));
    let stretches = |at: usize| {
        let there = other.axes.iter().position(|axis| *axis == x.axes[at]);
        own[at] == 1 && there.is_some_and(|there| others[there] != 1)
    };
    let kept: Vec<usize> = (0..own.len()).filter(|at| !stretches(*at)).collect();
    if kept.len() == own.len() {
        return Ok(x);
    }
    let shape: Vec<usize> = kept.iter().map(|at| own[*at]).collect();
    let axes = kept.iter().map(|at| x.axes[*at]).collect();
    Ok(Named { value: s.reshape(x.value, &shape)?, axes })
}
