//! Activations and element-wise functions that are a few operators.

use super::{Built, Scope};
use crate::dag::Op;
use crate::dag::op::{Binary, Comparison, Unary};
use crate::ids::ValueId;

/// `x sigmoid(x)`: `SiLU`, also called swish. *Errors*: as `DagBuilder::apply`, here and below.
pub fn silu(s: &mut Scope<'_>, x: ValueId) -> Built {
    let gate = s.unary(Unary::Sigmoid, x)?;
    s.mul(x, gate)
}

/// `ln(1 + e^x)`, as `max(x, 0) + ln(1 + e^-|x|)`, which does not overflow.
pub fn softplus(s: &mut Scope<'_>, x: ValueId) -> Built {
    let above = s.op(Op::Relu, &[x])?;
    let size = s.unary(Unary::Abs, x)?;
    let falls = s.scale(size, -1.0)?;
    let tail = s.unary(Unary::Exp, falls)?;
    let tail = s.shift(tail, 1.0)?;
    let tail = s.unary(Unary::Log, tail)?;
    s.add(above, tail)
}

/// `x tanh(softplus(x))`.
pub fn mish(s: &mut Scope<'_>, x: ValueId) -> Built {
    let soft = softplus(s, x)?;
    let gate = s.unary(Unary::Tanh, soft)?;
    s.mul(x, gate)
}

/// x above 0, `slope x` below.
pub fn leaky_relu(s: &mut Scope<'_>, x: ValueId, slope: f32) -> Built {
    let small = s.scale(x, slope)?;
    let zero = s.number(0.0)?;
    let above = s.compare(Comparison::LessEqual, zero, x)?;
    s.choose(above, x, small)
}

/// x above 0, `alpha (e^x - 1)` below.
pub fn elu(s: &mut Scope<'_>, x: ValueId, alpha: f32) -> Built {
    let zero = s.number(0.0)?;
    // The exponential of what lies above 0 would overflow, and its derivative with it.
    let below = s.binary(Binary::Min, x, zero)?;
    let power = s.unary(Unary::Exp, below)?;
    let power = s.shift(power, -1.0)?;
    let power = s.scale(power, alpha)?;
    let above = s.op(Op::Relu, &[x])?;
    s.add(above, power)
}

/// x held within `[least, most]`; either may be missing.
pub fn clamp(s: &mut Scope<'_>, x: ValueId, least: Option<f32>, most: Option<f32>) -> Built {
    let mut y = x;
    if let Some(least) = least {
        let bound = s.number(least)?;
        y = s.binary(Binary::Max, y, bound)?;
    }
    if let Some(most) = most {
        let bound = s.number(most)?;
        y = s.binary(Binary::Min, y, bound)?;
    }
    Ok(y)
}

/// x itself, as a constant: no gradient flows through it. Exact for magnitudes from 2^-37 to 2^67 and for 0; what is
/// smaller may be rounded to a multiple of 2^-60.
///
/// A step's derivative is 0, and from 2^23 on every f32 is a whole number, which the step leaves as it is.
pub fn constant(s: &mut Scope<'_>, x: ValueId) -> Built {
    /// `2^60`.
    const FACTOR: f32 = 1_152_921_504_606_846_976.0;
    let large = s.scale(x, FACTOR)?;
    let whole = s.unary(Unary::Floor, large)?;
    s.scale(whole, 1.0 / FACTOR)
}

/// Euclidean norm over axes; its derivative at 0 is 0, not an infinity.
pub fn norm(s: &mut Scope<'_>, x: ValueId, axes: &[usize], keep: bool) -> Built {
    let square = s.mul(x, x)?;
    let total = s.sum(square, axes, keep)?;
    let (zero, one) = (s.number(0.0)?, s.number(1.0)?);
    let above = s.compare(Comparison::Less, zero, total)?;
    // Both choices are needed: the root's derivative at 0 is infinite, and infinity times 0 is no number.
    let safe = s.choose(above, total, one)?;
    let root = s.unary(Unary::Sqrt, safe)?;
    s.choose(above, root, zero)
}

/// Integers as rows of `depth` numbers, 1 at the integer and 0 elsewhere: `[..] -> [.., depth]`.
pub fn one_hot(s: &mut Scope<'_>, ids: ValueId, depth: usize) -> Built {
    let shape = s.shape(ids);
    let column = s.reshape(ids, &[&shape[..], &[1]].concat())?;
    let places = s.op(Op::Iota { shape: vec![depth], axis: 0 }, &[])?;
    let mask = s.compare(Comparison::Equal, column, places)?;
    s.float(mask)
}
