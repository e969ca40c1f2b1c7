//! Losses other than cross-entropy: differences, weighed and averaged. All return a scalar mean.

use super::{Built, Scope, elements, reduce};
use crate::dag::Op;
use crate::dag::op::{Binary, Comparison, Unary};
use crate::ids::ValueId;

/// Mean over all elements, or over those whose mask is 1. *Errors*: as `DagBuilder::apply`, here and below.
pub fn mean(s: &mut Scope<'_>, x: ValueId, mask: Option<ValueId>) -> Built {
    let axes: Vec<usize> = (0..s.shape(x).len()).collect();
    let Some(mask) = mask else {
        return if axes.is_empty() { Ok(x) } else { s.mean(x, &axes, false) };
    };
    reduce::masked_mean(s, x, mask, &axes, false)
}

/// Mean squared error.
pub fn mse(s: &mut Scope<'_>, x: ValueId, target: ValueId, mask: Option<ValueId>) -> Built {
    let difference = s.sub(x, target)?;
    let square = s.mul(difference, difference)?;
    mean(s, square, mask)
}

/// Mean absolute error.
pub fn l1(s: &mut Scope<'_>, x: ValueId, target: ValueId, mask: Option<ValueId>) -> Built {
    let difference = s.sub(x, target)?;
    let size = s.unary(Unary::Abs, difference)?;
    mean(s, size, mask)
}

/// Smooth L1: `d d / (2 beta)` where |d| is below beta, `|d| - beta / 2` elsewhere.
pub fn smooth_l1(
    s: &mut Scope<'_>,
    x: ValueId,
    target: ValueId,
    beta: f32,
    mask: Option<ValueId>,
) -> Built {
    let difference = s.sub(x, target)?;
    let size = s.unary(Unary::Abs, difference)?;
    let square = s.mul(difference, difference)?;
    let inner = s.scale(square, 0.5 / beta)?;
    let outer = s.shift(size, -beta / 2.0)?;
    let bound = s.number(beta)?;
    let within = s.compare(Comparison::Less, size, bound)?;
    let loss = s.choose(within, inner, outer)?;
    mean(s, loss, mask)
}

/// Reverse Huber: |d| up to c, `(d d + c c) / (2 c)` above, with c a fifth of the largest |d| of the batch, which
/// the derivative follows too.
///
/// *Source*: Laina et al. 2016, section 3.2, equation 2.
pub fn berhu(s: &mut Scope<'_>, x: ValueId, target: ValueId, mask: Option<ValueId>) -> Built {
    let difference = s.sub(x, target)?;
    let size = s.unary(Unary::Abs, difference)?;
    let zero = s.number(0.0)?;
    let counted = match mask {
        Some(mask) => s.choose(mask, size, zero)?,
        None => size,
    };
    let axes: Vec<usize> = (0..s.shape(size).len()).collect();
    let largest = s.op(Op::ReduceMax { axes, keep: false }, &[counted])?;
    let c = s.scale(largest, 0.2)?;
    let least = s.number(1e-6)?;
    let c = s.binary(Binary::Max, c, least)?;
    let c = elements::constant(s, c)?;
    let square = s.mul(difference, difference)?;
    let cc = s.mul(c, c)?;
    let above = s.add(square, cc)?;
    let twice = s.scale(c, 2.0)?;
    let outer = s.div(above, twice)?;
    let within = s.compare(Comparison::LessEqual, size, c)?;
    let loss = s.choose(within, size, outer)?;
    mean(s, loss, mask)
}

/// Kullback-Leibler divergence `sum p (ln p - ln q)` over the last axis, averaged over the others; from ln q and p.
pub fn kl(s: &mut Scope<'_>, log_q: ValueId, p: ValueId) -> Built {
    let (zero, one) = (s.number(0.0)?, s.number(1.0)?);
    let some = s.compare(Comparison::Less, zero, p)?;
    let safe = s.choose(some, p, one)?;
    let log_p = s.unary(Unary::Log, safe)?;
    let apart = s.sub(log_p, log_q)?;
    let weighed = s.mul(p, apart)?;
    let last = s.shape(weighed).len().saturating_sub(1);
    let rows = s.sum(weighed, &[last], false)?;
    mean(s, rows, None)
}

/// Length of the difference along an axis, averaged: the end-point error of optical flow.
pub fn end_point(s: &mut Scope<'_>, x: ValueId, target: ValueId, axis: usize) -> Built {
    let difference = s.sub(x, target)?;
    let length = elements::norm(s, difference, &[axis], false)?;
    mean(s, length, None)
}
