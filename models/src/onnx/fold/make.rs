//! Folding what makes arrays: from shapes, from attributes, from other types.

use super::super::array::{Array, Elements, Kind};
use super::super::call::Call;
use super::super::report::Reason;
use super::{ELEMENTS_MAX, Folded, one};

/// Evaluates what reads the shapes of its operands, not their elements.
pub(super) fn of_shapes(call: &Call<'_>) -> Folded {
    match call.operator() {
        "Shape" => {
            let shape = signed(&call.shape(0)?)?;
            let length = shape.len();
            let bound = |name: &str, default: i64| -> Result<usize, Reason> {
                let length = i64::try_from(length).unwrap_or(i64::MAX);
                let at = call.int(name, default)?;
                let at = if at < 0 { at.saturating_add(length) } else { at };
                Ok(usize::try_from(at.clamp(0, length)).unwrap_or(0))
            };
            let (start, end) = (bound("start", 0)?, bound("end", i64::MAX)?);
            one(Array::vector(shape.get(start..end.max(start)).unwrap_or_default().to_vec()))
        }
        "Size" => {
            let count: usize = call.shape(0)?.iter().product();
            one(Array::ints(Kind::I64, vec![], signed(&[count])?))
        }
        _ => Ok(None),
    }
}

fn signed(lengths: &[usize]) -> Result<Vec<i64>, Reason> {
    let fit = |n: &usize| i64::try_from(*n).map_err(|_| Reason::malformed("an axis is too long"));
    lengths.iter().map(fit).collect()
}

pub(super) fn evaluate(call: &Call<'_>) -> Folded {
    match call.operator() {
        "Constant" => one(constant(call)?),
        "ConstantOfShape" => filled(call),
        "Cast" => match target(call)? {
            Some(kind) => one(cast(call.known(0)?, kind)?),
            None => Ok(None),
        },
        "CastLike" => one(cast(call.known(0)?, call.kind(1)?)?),
        "Range" => range(call),
        "NonZero" => non_zero(call.known(0)?),
        _ => Ok(None),
    }
}

/// Returns the type that a cast makes.
///
/// *Errors*: it is none that is read.
pub(in crate::onnx) fn target(call: &Call<'_>) -> Result<Option<Kind>, Reason> {
    let code = call.int("to", 0)?;
    match Kind::of_code(code) {
        Some(kind) => Ok(Some(kind)),
        None if call.operator() == "Cast" => {
            Err(Reason::form(format!("casts to {} are not supported", Kind::code_name(code))))
        }
        None => Ok(None),
    }
}

fn constant(call: &Call<'_>) -> Result<Array, Reason> {
    let attributes = call.attributes();
    if let Some(tensor) = attributes.tensor("value")? {
        return call.importer.decode(tensor);
    }
    if let Some(number) = attributes.float("value_float")? {
        return Ok(Array::floats(Kind::F32, vec![], vec![number]));
    }
    if let Some(number) = attributes.int("value_int")? {
        return Ok(Array::ints(Kind::I64, vec![], vec![number]));
    }
    if let Some(numbers) = attributes.floats("value_floats")? {
        return Ok(Array::floats(Kind::F32, vec![numbers.len()], numbers));
    }
    if let Some(numbers) = attributes.ints("value_ints")? {
        return Ok(Array::vector(numbers));
    }
    Err(Reason::form("only constants of numbers are supported"))
}

fn filled(call: &Call<'_>) -> Folded {
    let lengths = call.known_ints(0)?;
    let lengths: Option<Vec<usize>> = lengths.iter().map(|n| usize::try_from(*n).ok()).collect();
    let shape = lengths.ok_or_else(|| Reason::malformed("a length is below 0"))?;
    let count = shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis));
    let value = match call.attributes().tensor("value")? {
        Some(tensor) => call.importer.decode(tensor)?,
        None => Array::floats(Kind::F32, vec![1], vec![0.0]),
    };
    let one_number = value.count() == 1;
    match count {
        Some(count) if count <= ELEMENTS_MAX && one_number => {
            one(value.pick(shape, &vec![0; count]))
        }
        Some(_) | None if one_number => Ok(None),
        _ => Err(Reason::malformed("the value must be one number")),
    }
}

/// Casts elements as ONNX does: floats lose their fraction, integers wrap, everything but 0 is true.
pub(in crate::onnx) fn cast(x: &Array, kind: Kind) -> Result<Array, Reason> {
    let shape = x.shape().to_vec();
    if kind.is_float() {
        return Ok(Array::floats(kind, shape, x.to_floats()));
    }
    let ints: Vec<i64> = match x.elements() {
        Elements::Ints(values) if kind == Kind::Bool => {
            values.iter().map(|v| i64::from(*v != 0)).collect()
        }
        Elements::Floats(values) if kind == Kind::Bool => {
            values.iter().map(|v| i64::from(*v != 0.0)).collect()
        }
        Elements::Ints(values) => values.clone(),
        Elements::Floats(values) => values.iter().map(|v| whole(*v)).collect(),
    };
    let (least, most) = kind.range().unwrap_or((i64::MIN, i64::MAX));
    let wrapped = ints.into_iter().map(|v| match (least..=most).contains(&v) {
        true => Ok(v),
        false if matches!(kind, Kind::U64 | Kind::I64) => {
            Err(Reason::form(format!("{v} as {kind} is beyond the integers used here")))
        }
        false => Ok((v - least).rem_euclid(most - least + 1) + least),
    });
    Ok(Array::ints(kind, shape, wrapped.collect::<Result<_, _>>()?))
}

#[expect(clippy::cast_possible_truncation, reason = "a cast drops the fraction and saturates")]
fn whole(value: f32) -> i64 {
    value as i64
}

fn range(call: &Call<'_>) -> Folded {
    let kind = call.kind(0)?;
    if kind.is_float() {
        let (start, limit, delta) =
            (call.known_floats(0)?, call.known_floats(1)?, call.known_floats(2)?);
        let [start, limit, delta] =
            [&start, &limit, &delta].map(|v| v.first().copied().unwrap_or(0.0));
        let count = ((f64::from(limit) - f64::from(start)) / f64::from(delta)).ceil();
        let count = within(count)?;
        #[expect(clippy::cast_precision_loss, reason = "at most ELEMENTS_MAX steps")]
        let values = (0..count).map(|i| start + delta * i as f32).collect();
        return one(Array::floats(kind, vec![count], values));
    }
    let (start, limit, delta) = (call.known_int(0)?, call.known_int(1)?, call.known_int(2)?);
    #[expect(clippy::cast_precision_loss, reason = "only the count's size matters")]
    let count = ((limit as f64 - start as f64) / delta as f64).ceil();
    let count = within(count)?;
    let step = |i: usize| start.wrapping_add(delta.wrapping_mul(i64::try_from(i).unwrap_or(0)));
    one(Array::ints(kind, vec![count], (0..count).map(step).collect()))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "in range"
)]
fn within(count: f64) -> Result<usize, Reason> {
    if count.is_nan() || count > ELEMENTS_MAX as f64 {
        return Err(Reason::form("the range has too many steps"));
    }
    Ok(count.max(0.0) as usize)
}

fn non_zero(x: &Array) -> Folded {
    let floats = x.to_floats();
    let hits: Vec<usize> = (0..floats.len()).filter(|i| floats[*i] != 0.0).collect();
    let steps = super::places::strides(x.shape());
    let mut places = Vec::new();
    for (axis, step) in steps.iter().enumerate() {
        let along = |at: &usize| i64::try_from(at / step % x.shape()[axis]).unwrap_or(0);
        places.extend(hits.iter().map(along));
    }
    one(Array::ints(Kind::I64, vec![steps.len(), hits.len()], places))
}
