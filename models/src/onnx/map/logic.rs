//! Comparisons, masks and choices. A bool is an i32 of 0 or 1.

use wattle_protocol::dag::op::{Binary, Comparison};
use wattle_protocol::ids::ValueId;

use super::super::array::Kind;
use super::super::call::{Call, few};
use super::super::import::Term;
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("Equal", |call| compared(call, Comparison::Equal, false)),
    ("Less", |call| compared(call, Comparison::Less, false)),
    ("LessOrEqual", |call| compared(call, Comparison::LessEqual, false)),
    ("Greater", |call| compared(call, Comparison::Less, true)),
    ("GreaterOrEqual", |call| compared(call, Comparison::LessEqual, true)),
    ("And", |call| combined(call, |c, a, b| c.mul(a, b))),
    ("Or", |call| combined(call, |c, a, b| c.binary(Binary::Max, a, b))),
    ("Xor", |call| combined(call, xor)),
    ("Not", not),
    ("Where", choose),
    ("IsNaN", is_nan),
    ("IsInf", is_inf),
    ("BitShift", shifted),
];

/// Makes the only result, a mask.
pub(super) fn mask(value: ValueId) -> Mapped {
    Ok(vec![Term::Built(value, Kind::Bool)])
}

fn compared(call: &mut Call<'_>, comparison: Comparison, swapped: bool) -> Mapped {
    let (a, b) = call.pair()?;
    let (a, b) = if swapped { (b, a) } else { (a, b) };
    let y = call.compare(comparison, a, b)?;
    mask(y)
}

fn combined(
    call: &mut Call<'_>,
    f: impl Fn(&mut Call<'_>, ValueId, ValueId) -> Result<ValueId, Reason>,
) -> Mapped {
    let (a, b) = call.pair()?;
    let y = f(call, a, b)?;
    mask(y)
}

fn xor(call: &mut Call<'_>, a: ValueId, b: ValueId) -> Result<ValueId, Reason> {
    let equal = call.compare(Comparison::Equal, a, b)?;
    call.not(equal)
}

fn not(call: &mut Call<'_>) -> Mapped {
    let x = call.value(0)?;
    let y = call.not(x)?;
    mask(y)
}

fn choose(call: &mut Call<'_>) -> Mapped {
    let (condition, a, b) = (call.value(0)?, call.value(1)?, call.value(2)?);
    let y = call.select(condition, a, b)?;
    Ok(vec![Term::Built(y, call.kind(1)?)])
}

/// Only a NaN differs from itself.
fn is_nan(call: &mut Call<'_>) -> Mapped {
    let x = call.value(0)?;
    let equal = call.compare(Comparison::Equal, x, x)?;
    let y = call.not(equal)?;
    mask(y)
}

fn is_inf(call: &mut Call<'_>) -> Mapped {
    let x = call.value(0)?;
    let shape = call.shape_of(x);
    let (high, low) = (call.fill(&[], f32::MAX)?, call.fill(&[], f32::MIN)?);
    let above = call.compare(Comparison::Less, high, x)?;
    let below = call.compare(Comparison::Less, x, low)?;
    let y = match (call.flag("detect_positive", true)?, call.flag("detect_negative", true)?) {
        (true, true) => call.binary(Binary::Max, above, below)?,
        (true, false) => above,
        (false, true) => below,
        (false, false) => call.ints(&shape, vec![0; few(&shape)?])?,
    };
    mask(y)
}

/// A shift is a product with, or a division by, a power of two.
fn shifted(call: &mut Call<'_>) -> Mapped {
    let kind = call.kind(0)?;
    let (x, by) = (call.value(0)?, call.value(1)?);
    let powers = call.ints(&[31], (0..31).map(|bit| 1 << bit).collect())?;
    let power = call.op(wattle_protocol::dag::Op::Gather { axis: 0 }, &[powers, by])?;
    let y = match call.text("direction", "")? {
        "LEFT" => {
            let wide = call.mul(x, power)?;
            call.wrapped(wide, kind)?
        }
        "RIGHT" => call.div(x, power)?,
        other => return Err(Reason::malformed(format!("direction {other:?}"))),
    };
    call.like_first(y)
}
