//! Folding reductions over axes.

use super::super::array::{Array, Elements};
use super::super::call::Call;
use super::layout::axes;
use super::places::strides;
use super::{Folded, one};

pub(super) fn evaluate(call: &Call<'_>) -> Folded {
    let operator = call.operator();
    if !matches!(operator, "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceMean") {
        return Ok(None);
    }
    let x = call.known(0)?;
    let rank = x.shape().len();
    let axes = axes(call, 1, rank)?;
    if call.flag("noop_with_empty_axes", false)? && axes.len() == rank {
        return Ok(None);
    }
    let keep = call.flag("keepdims", true)?;
    let kept: Vec<usize> = (0..rank).filter(|axis| !axes.contains(axis)).collect();
    let inner: Vec<usize> = kept.iter().map(|axis| x.shape()[*axis]).collect();
    let (own, outer) = (strides(x.shape()), strides(&inner));
    let group = |at: usize| -> usize {
        let along = |(i, axis): (usize, &usize)| at / own[*axis] % x.shape()[*axis] * outer[i];
        kept.iter().enumerate().map(along).sum()
    };
    let groups: usize = inner.iter().product();
    if x.count() == 0 {
        return Ok(None);
    }
    let shape = if keep {
        (0..rank).map(|axis| if axes.contains(&axis) { 1 } else { x.shape()[axis] }).collect()
    } else {
        inner
    };
    match x.elements() {
        Elements::Floats(values) => {
            let mut totals: Vec<Option<f32>> = vec![None; groups];
            for (at, value) in values.iter().enumerate() {
                let total = &mut totals[group(at)];
                *total = Some(total.map_or(*value, |old| float(operator, old, *value)));
            }
            #[expect(clippy::cast_precision_loss, reason = "at most ELEMENTS_MAX")]
            let share =
                if operator == "ReduceMean" { groups as f32 / values.len() as f32 } else { 1.0 };
            let totals = totals.into_iter().map(|total| total.unwrap_or(0.0) * share);
            one(Array::floats(x.kind(), shape, totals.collect()))
        }
        Elements::Ints(values) if operator != "ReduceMean" => {
            let mut totals: Vec<Option<i64>> = vec![None; groups];
            for (at, value) in values.iter().enumerate() {
                let total = &mut totals[group(at)];
                *total = Some(total.map_or(*value, |old| int(operator, old, *value)));
            }
            let totals = totals.into_iter().map(|total| total.unwrap_or(0));
            one(Array::ints(x.kind(), shape, totals.collect()))
        }
        Elements::Ints(_) => Ok(None),
    }
}

fn float(operator: &str, a: f32, b: f32) -> f32 {
    match operator {
        "ReduceProd" => a * b,
        "ReduceMax" => a.max(b),
        "ReduceMin" => a.min(b),
        _ => a + b,
    }
}

fn int(operator: &str, a: i64, b: i64) -> i64 {
    match operator {
        "ReduceProd" => a.wrapping_mul(b),
        "ReduceMax" => a.max(b),
        "ReduceMin" => a.min(b),
        _ => a.wrapping_add(b),
    }
}
