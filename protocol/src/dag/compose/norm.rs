//! Normalisations that are batch or layer normalisation under another shape.

use super::{Built, Scope};
use crate::dag::Op;
use crate::ids::ValueId;

/// Group normalisation: `x [B, C, ..]`, gain and bias `[C]`; mean and variance over each group of channels.
///
/// *Source*: Wu and He 2018, section 3. *Errors*: as `DagBuilder::apply`, here and below.
pub fn group_norm(
    s: &mut Scope<'_>,
    x: ValueId,
    affine: Option<(ValueId, ValueId)>,
    groups: usize,
    eps: f32,
) -> Built {
    let shape = s.shape(x);
    let channels = shape.get(1).copied().unwrap_or(1);
    let rest: usize = shape.iter().skip(1).product();
    let width = rest / groups.max(1);
    let rows = s.reshape(x, &[shape[0], groups, width])?;
    let one = s.op(Op::Fill { shape: vec![width], value: 1.0 }, &[])?;
    let zero = s.op(Op::Fill { shape: vec![width], value: 0.0 }, &[])?;
    let rows = s.op(Op::LayerNorm { eps }, &[rows, one, zero])?;
    let y = s.reshape(rows, &shape)?;
    let Some((gain, bias)) = affine else {
        return Ok(y);
    };
    let mut column = vec![1; shape.len() - 1];
    column[0] = channels;
    let (gain, bias) = (s.reshape(gain, &column)?, s.reshape(bias, &column)?);
    let y = s.mul(y, gain)?;
    s.add(y, bias)
}

/// Instance normalisation: each channel of each sample by itself.
pub fn instance_norm(
    s: &mut Scope<'_>,
    x: ValueId,
    affine: Option<(ValueId, ValueId)>,
    eps: f32,
) -> Built {
    let channels = s.len(x, 1);
    group_norm(s, x, affine, channels, eps)
}

/// Views `[B, C, ..]` of any rank as an image `[B, C, H, 1]`, which image operators take.
pub fn as_image(s: &mut Scope<'_>, x: ValueId) -> Built {
    let shape = s.shape(x);
    if shape.len() == 4 {
        return Ok(x);
    }
    let rest: usize = shape.iter().skip(2).product();
    s.reshape(x, &[shape[0], shape[1], rest, 1])
}
