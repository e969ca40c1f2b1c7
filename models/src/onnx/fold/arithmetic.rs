//! Folding arithmetic and comparisons, element by element.

use super::super::array::{Array, Elements, Kind};
use super::super::call::Call;
use super::super::report::Reason;
use super::places::{broadcast, stretched};
use super::{Folded, one};

pub(super) fn evaluate(call: &Call<'_>) -> Folded {
    if let Some(folded) = unary(call)? {
        return one(folded);
    }
    match call.operator() {
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "Max" | "Min" | "And" | "Or" | "Xor"
        | "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => combined(call),
        _ => Ok(None),
    }
}

fn unary(call: &Call<'_>) -> Result<Option<Array>, Reason> {
    let operator = call.operator();
    let float: Option<fn(f32) -> f32> = match operator {
        "Neg" => Some(|x| -x),
        "Abs" => Some(f32::abs),
        "Floor" => Some(f32::floor),
        "Ceil" => Some(f32::ceil),
        "Round" => Some(f32::round_ties_even),
        "Sqrt" => Some(f32::sqrt),
        "Exp" => Some(f32::exp),
        "Log" => Some(f32::ln),
        "Reciprocal" => Some(|x| 1.0 / x),
        "Sin" => Some(f32::sin),
        "Cos" => Some(f32::cos),
        _ => None,
    };
    let int: Option<fn(i64) -> i64> = match operator {
        "Neg" => Some(i64::wrapping_neg),
        "Abs" => Some(i64::wrapping_abs),
        "Not" => Some(|x| i64::from(x == 0)),
        _ => None,
    };
    if float.is_none() && int.is_none() {
        return Ok(None);
    }
    let x = call.known(0)?;
    let (kind, shape) = (x.kind(), x.shape().to_vec());
    Ok(match (x.elements(), float, int) {
        (Elements::Floats(v), Some(f), _) => {
            Some(Array::floats(kind, shape, v.iter().map(|x| f(*x)).collect()))
        }
        (Elements::Ints(v), _, Some(f)) => {
            Some(Array::ints(kind, shape, v.iter().map(|x| wrap(kind, f(*x))).collect()))
        }
        _ => None,
    })
}

/// Keeps an integer within its type, as two's complement does.
fn wrap(kind: Kind, value: i64) -> i64 {
    match kind.range() {
        Some((least, most)) if !matches!(kind, Kind::I64 | Kind::U64) => {
            (value - least).rem_euclid(most - least + 1) + least
        }
        _ => value,
    }
}

fn combined(call: &Call<'_>) -> Folded {
    let mut total = call.known(0)?.clone();
    for at in 1..call.count() {
        total = match pair(call, &total, call.known(at)?)? {
            Some(array) => array,
            None => return Ok(None),
        };
    }
    one(total)
}

fn pair(call: &Call<'_>, a: &Array, b: &Array) -> Result<Option<Array>, Reason> {
    let operator = call.operator();
    let shape = broadcast(a.shape(), b.shape())?;
    if shape.iter().product::<usize>() > super::ELEMENTS_MAX {
        return Ok(None);
    }
    let kind = a.kind();
    let (left, right) = (stretched(a.shape(), &shape), stretched(b.shape(), &shape));
    let a = a.pick(shape.clone(), &left);
    let b = b.pick(shape.clone(), &right);
    match (a.elements(), b.elements()) {
        (Elements::Floats(x), Elements::Floats(y)) => {
            if let Some(test) = comparison::<f32>(operator) {
                let hits = x.iter().zip(y).map(|(x, y)| i64::from(test(x, y)));
                return Ok(Some(Array::ints(Kind::Bool, shape, hits.collect())));
            }
            let Some(f) = float_function(operator, call.flag("fmod", false)?) else {
                return Ok(None);
            };
            let values = x.iter().zip(y).map(|(x, y)| f(*x, *y)).collect();
            Ok(Some(Array::floats(kind, shape, values)))
        }
        (Elements::Ints(x), Elements::Ints(y)) => {
            if let Some(test) = comparison::<i64>(operator) {
                let hits = x.iter().zip(y).map(|(x, y)| i64::from(test(x, y)));
                return Ok(Some(Array::ints(Kind::Bool, shape, hits.collect())));
            }
            let fmod = call.flag("fmod", false)?;
            let values = x.iter().zip(y).map(|(x, y)| int_function(operator, fmod, *x, *y));
            let Some(values) = values.collect::<Option<Vec<i64>>>() else {
                return Ok(None);
            };
            let values = values.into_iter().map(|v| wrap(kind, v)).collect();
            Ok(Some(Array::ints(kind, shape, values)))
        }
        // A power may have an exponent of another type; the network computes it.
        _ => Ok(None),
    }
}

fn comparison<T: PartialOrd>(operator: &str) -> Option<fn(&T, &T) -> bool> {
    Some(match operator {
        "Equal" => |a, b| a == b,
        "Less" => |a, b| a < b,
        "LessOrEqual" => |a, b| a <= b,
        "Greater" => |a, b| a > b,
        "GreaterOrEqual" => |a, b| a >= b,
        _ => return None,
    })
}

fn float_function(operator: &str, fmod: bool) -> Option<fn(f32, f32) -> f32> {
    Some(match operator {
        "Add" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Div" => |a, b| a / b,
        "Mod" if fmod => |a, b| a % b,
        "Pow" => f32::powf,
        "Max" => f32::max,
        "Min" => f32::min,
        _ => return None,
    })
}

/// Returns none where the result is undefined or not folded.
fn int_function(operator: &str, fmod: bool, a: i64, b: i64) -> Option<i64> {
    Some(match operator {
        "Add" => a.wrapping_add(b),
        "Sub" => a.wrapping_sub(b),
        "Mul" => a.wrapping_mul(b),
        // ONNX's integer division drops the fraction.
        "Div" => a.checked_div(b)?,
        "Mod" if fmod => a.checked_rem(b)?,
        // The sign is the divisor's, as in Python.
        "Mod" => {
            let rest = a.checked_rem(b)?;
            if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
        }
        "Pow" => a.checked_pow(u32::try_from(b).ok()?)?,
        "Max" => a.max(b),
        "Min" => a.min(b),
        "And" => i64::from(a != 0 && b != 0),
        "Or" => i64::from(a != 0 || b != 0),
        "Xor" => i64::from((a != 0) != (b != 0)),
        _ => return None,
    })
}
