//! Cumulative products, and what volume rendering and stereo make of sums along an axis.

use super::{Built, Scope, layout};
use crate::dag::Op;
use crate::dag::op::Unary;
use crate::ids::ValueId;

/// Running products along an axis, exact at zeros: in log2(length) rounds, each element is multiplied by the product of
/// the elements before it (Hillis and Steele 1986). *Errors*: as `DagBuilder::apply`, here and below.
pub fn cum_prod(s: &mut Scope<'_>, x: ValueId, axis: usize) -> Built {
    let length = s.len(x, axis);
    let (mut y, mut reach) = (x, 1);
    while reach < length {
        let before = s.slice(y, axis, 0, length - reach)?;
        let before = layout::pad(s, before, axis, (reach, 0), layout::Padding::Constant(1.0))?;
        y = s.mul(y, before)?;
        reach *= 2;
    }
    Ok(y)
}

/// Weights of volume rendering along the last axis: densities and distances `[.., S] -> [.., S]`.
///
/// `w_i = T_i (1 - exp(-sigma_i delta_i))` with `T_i = exp(-sum_{j<i} sigma_j delta_j)`.
///
/// *Source*: Mildenhall et al. 2020 (`NeRF`), section 4, equation 3.
pub fn rendering_weights(s: &mut Scope<'_>, density: ValueId, distance: ValueId) -> Built {
    let depth = s.mul(density, distance)?;
    let axis = s.shape(depth).len().saturating_sub(1);
    let passed = s.op(Op::CumSum { axis, exclusive: true, reverse: false }, &[depth])?;
    let fades = s.scale(passed, -1.0)?;
    let light = s.unary(Unary::Exp, fades)?;
    let thins = s.scale(depth, -1.0)?;
    let clear = s.unary(Unary::Exp, thins)?;
    let held = s.mul(light, clear)?;
    s.sub(light, held)
}

/// Soft arg-min over an axis of costs: the mean of the places `0, step, 2 step, ..`, weighed by `softmax(-cost)`.
///
/// *Source*: Kendall et al. 2017 (GC-Net), section 3.4, equation 1.
pub fn soft_argmin(s: &mut Scope<'_>, cost: ValueId, axis: usize, step: f32) -> Built {
    let shape = s.shape(cost);
    let better = s.scale(cost, -1.0)?;
    let weights = s.op(Op::Softmax { axis }, &[better])?;
    let mut along = vec![1; shape.len()];
    along[axis] = shape[axis];
    let places = s.op(Op::Iota { shape: along, axis }, &[])?;
    let places = s.float(places)?;
    let places = s.scale(places, step)?;
    let weighed = s.mul(weights, places)?;
    s.sum(weighed, &[axis], false)
}
