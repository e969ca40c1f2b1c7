//! Interpolation to another size, axis by axis: reads at known places, weighed by known numbers.
//!
//! Separable, so that bilinear and trilinear are the linear one on two and three axes. Both corner conventions of the
//! field: half-pixel centres (`align_corners = false` in PyTorch) and aligned corners.

use super::{Built, Scope};
use crate::ids::ValueId;

/// How new places lie among the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corners {
    /// Pixels are areas: `(i + 1/2) old / new - 1/2`.
    HalfPixel,
    /// Pixels are points, the first and last of which stay: `i (old - 1) / (new - 1)`.
    Aligned,
    /// `i old / new`.
    Asymmetric,
}

/// The place in the old axis of element i of the new one.
#[expect(clippy::cast_precision_loss, reason = "lengths of axes are far below 2^53")]
fn place(i: usize, old: usize, new: usize, corners: Corners) -> f64 {
    let (i, old, new) = (i as f64, old as f64, new as f64);
    match corners {
        Corners::HalfPixel => (i + 0.5) * old / new - 0.5,
        Corners::Aligned if new > 1.0 => i * (old - 1.0) / (new - 1.0),
        Corners::Aligned => 0.0,
        Corners::Asymmetric => i * old / new,
    }
}

/// The nearest old element, as PyTorch's `nearest`: the one at or before `i old / new`.
///
/// *Errors*: as `DagBuilder::apply`, here and below.
pub fn nearest(s: &mut Scope<'_>, x: ValueId, axis: usize, new: usize) -> Built {
    let old = s.len(x, axis);
    let at: Vec<usize> = (0..new).map(|i| (i * old / new.max(1)).min(old - 1)).collect();
    s.pick(x, axis, &at)
}

/// Between the two old elements around the new place; beyond the ends the end itself.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places lie within the axis, and weights are f32"
)]
pub fn linear(s: &mut Scope<'_>, x: ValueId, axis: usize, new: usize, corners: Corners) -> Built {
    let shape = s.shape(x);
    let old = shape[axis];
    if old == new && corners != Corners::Asymmetric {
        return Ok(x);
    }
    let (mut low, mut high, mut share) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..new {
        let at = place(i, old, new, corners).clamp(0.0, (old - 1) as f64);
        let first = (at.floor() as usize).min(old - 1);
        low.push(first);
        high.push((first + 1).min(old - 1));
        share.push((at - at.floor()) as f32);
    }
    let mut along = vec![1; shape.len()];
    along[axis] = new;
    let rest = s.floats(&along, share.iter().map(|f| 1.0 - f).collect())?;
    let share = s.floats(&along, share)?;
    let (low, high) = (s.pick(x, axis, &low)?, s.pick(x, axis, &high)?);
    let (low, high) = (s.mul(low, rest)?, s.mul(high, share)?);
    s.add(low, high)
}

/// Linear interpolation of the last axes to these lengths: bilinear for two, trilinear for three.
pub fn linear_all(s: &mut Scope<'_>, x: ValueId, new: &[usize], corners: Corners) -> Built {
    let lead = s.shape(x).len().saturating_sub(new.len());
    new.iter().enumerate().try_fold(x, |x, (at, new)| linear(s, x, lead + at, *new, corners))
}

/// Nearest elements along the last axes at these lengths.
pub fn nearest_all(s: &mut Scope<'_>, x: ValueId, new: &[usize]) -> Built {
    let lead = s.shape(x).len().saturating_sub(new.len());
    new.iter().enumerate().try_fold(x, |x, (at, new)| nearest(s, x, lead + at, *new))
}
