//! Reductions over what a mask keeps. The mask is i32 of 0 and 1 and broadcasts to the tensor.
//!
//! What is masked is replaced, not multiplied: it may be no number, and then neither result nor gradient sees it.

use super::{Built, Scope};
use crate::dag::Op;
use crate::dag::op::Binary;
use crate::ids::ValueId;

/// Sum over axes of what the mask keeps. *Errors*: as `DagBuilder::apply`, here and below.
pub fn masked_sum(
    s: &mut Scope<'_>,
    x: ValueId,
    mask: ValueId,
    axes: &[usize],
    keep: bool,
) -> Built {
    let zero = s.number(0.0)?;
    let kept = s.choose(mask, x, zero)?;
    s.sum(kept, axes, keep)
}

/// Mean over axes of what the mask keeps; 0 where that is nothing.
pub fn masked_mean(
    s: &mut Scope<'_>,
    x: ValueId,
    mask: ValueId,
    axes: &[usize],
    keep: bool,
) -> Built {
    let total = masked_sum(s, x, mask, axes, keep)?;
    let shape = s.shape(x);
    let weights = s.float(mask)?;
    let weights = s.expand(weights, &shape)?;
    let count = s.sum(weights, axes, keep)?;
    let one = s.number(1.0)?;
    let count = s.binary(Binary::Max, count, one)?;
    s.div(total, count)
}

/// Maximum over axes of what the mask keeps; `nothing` where that is nothing, which must lie below all elements.
pub fn masked_max(
    s: &mut Scope<'_>,
    x: ValueId,
    mask: ValueId,
    axes: &[usize],
    nothing: f32,
) -> Built {
    let least = s.number(nothing)?;
    let kept = s.choose(mask, x, least)?;
    s.op(Op::ReduceMax { axes: axes.to_vec(), keep: false }, &[kept])
}
