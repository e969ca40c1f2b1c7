//! Arithmetic and functions of one number, element by element.

use wattle_protocol::dag::op::{Binary, Comparison, Unary};
use wattle_protocol::ids::ValueId;

use super::super::array::Kind;
use super::super::call::Call;
use super::super::fold::make::target;
use super::super::import::Term;
use super::super::leaf::Use;
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("Add", add),
    ("Sub", |call| pairwise(call, |c, a, b| c.sub(a, b))),
    ("Mul", mul),
    ("Div", div),
    ("Mod", modulo),
    ("Pow", pow),
    ("Max", |call| pairwise(call, |c, a, b| c.binary(Binary::Max, a, b))),
    ("Min", |call| pairwise(call, |c, a, b| c.binary(Binary::Min, a, b))),
    ("Sum", |call| pairwise(call, |c, a, b| c.add(a, b))),
    ("Mean", mean),
    ("Clip", clip),
    ("Cast", cast),
    ("CastLike", cast),
    ("Neg", |call| each(call, |c, x| c.neg(x))),
    ("Abs", |call| each(call, |c, x| c.abs(x))),
    ("Sign", sign),
    ("Exp", |call| function(call, Unary::Exp)),
    ("Log", |call| function(call, Unary::Log)),
    ("Sqrt", |call| function(call, Unary::Sqrt)),
    ("Erf", |call| function(call, Unary::Erf)),
    ("Sin", |call| function(call, Unary::Sin)),
    ("Cos", |call| function(call, Unary::Cos)),
    ("Asin", |call| function(call, Unary::Asin)),
    ("Acos", |call| function(call, Unary::Acos)),
    ("Atan", |call| function(call, Unary::Atan)),
    ("Floor", |call| function(call, Unary::Floor)),
    ("Ceil", |call| function(call, Unary::Ceil)),
    ("Round", |call| function(call, Unary::Round)),
    ("Tan", |call| each(call, tan)),
    ("Sinh", |call| each(call, |c, x| hyperbolic(c, x, -0.5))),
    ("Cosh", |call| each(call, |c, x| hyperbolic(c, x, 0.5))),
    ("Asinh", |call| each(call, asinh)),
    ("Acosh", |call| each(call, acosh)),
    ("Atanh", |call| each(call, atanh)),
    ("Reciprocal", |call| each(call, reciprocal)),
];

type Made = Result<ValueId, Reason>;

/// Maps one operand to one result of its type.
pub(super) fn each(call: &mut Call<'_>, f: impl Fn(&mut Call<'_>, ValueId) -> Made) -> Mapped {
    let x = call.value(0)?;
    let y = f(call, x)?;
    call.like_first(y)
}

pub(super) fn function(call: &mut Call<'_>, function: Unary) -> Mapped {
    each(call, |c, x| c.unary(function, x))
}

/// Combines all operands from left to right; results stay within a narrow integer type.
fn pairwise(call: &mut Call<'_>, f: impl Fn(&mut Call<'_>, ValueId, ValueId) -> Made) -> Mapped {
    let kind = call.kind(0)?;
    let total = if call.count() == 2 {
        let (a, b) = call.pair()?;
        f(call, a, b)?
    } else {
        let values = call.values()?;
        let (first, rest) = values.split_first().ok_or_else(|| Reason::malformed("no operand"))?;
        let mut total = *first;
        for next in rest {
            total = f(call, total, *next)?;
        }
        total
    };
    let y = match call.operator() {
        "Max" | "Min" => total,
        _ => call.wrapped(total, kind)?,
    };
    call.like_first(y)
}

/// Returns the finite float that an operand consists of, if it is one number and stretches nothing.
fn factor(call: &Call<'_>, at: usize, other: usize) -> Result<Option<f32>, Reason> {
    let Some(known) = call.shared(at).filter(|_| call.kind(at).is_ok_and(Kind::is_float)) else {
        return Ok(None);
    };
    let is_constant = known.role == super::super::import::Role::Constant;
    let small = known.array.count() == 1 && known.array.shape().len() <= call.rank(other)?;
    let number = known.array.to_floats().first().copied();
    Ok(number.filter(|n| is_constant && small && n.is_finite()))
}

fn add(call: &mut Call<'_>) -> Mapped {
    for (x, term) in [(0, 1), (1, 0)] {
        if let Some(term) = factor(call, term, x)? {
            let x = call.value(x)?;
            let y = call.shift(x, term)?;
            return call.like_first(y);
        }
    }
    pairwise(call, |c, a, b| c.add(a, b))
}

fn mul(call: &mut Call<'_>) -> Mapped {
    for (x, by) in [(0, 1), (1, 0)] {
        if let Some(factor) = factor(call, by, x)? {
            let x = call.value(x)?;
            let y = call.scale(x, factor)?;
            return call.like_first(y);
        }
    }
    pairwise(call, |c, a, b| c.mul(a, b))
}

fn div(call: &mut Call<'_>) -> Mapped {
    if let Some(divisor) = factor(call, 1, 0)?.filter(|d| (1.0 / d).is_finite()) {
        let x = call.value(0)?;
        let y = call.scale(x, 1.0 / divisor)?;
        return call.like_first(y);
    }
    pairwise(call, |c, a, b| c.div(a, b))
}

fn modulo(call: &mut Call<'_>) -> Mapped {
    let (a, b) = (call.value(0)?, call.value(1)?);
    let y = if call.flag("fmod", false)? {
        call.binary(Binary::Remainder, a, b)?
    } else if call.is_int(a) {
        call.floor_mod(a, b)?
    } else {
        return Err(Reason::form("floats need fmod = 1"));
    };
    call.like_first(y)
}

fn pow(call: &mut Call<'_>) -> Mapped {
    let kind = call.kind(0)?;
    let exponent = call.shared(1).filter(|known| known.array.count() == 1);
    let exponent = exponent.and_then(|known| known.array.to_floats().first().copied());
    let stretches = call.rank(1)? > call.rank(0)?;
    let x = call.value(0)?;
    // Small whole powers are products: exact for integers, and with a derivative at 0 and below.
    let y = match exponent.filter(|_| !stretches) {
        Some(1.0) => x,
        Some(2.0) => call.square(x)?,
        Some(3.0) => {
            let square = call.square(x)?;
            call.mul(square, x)?
        }
        Some(0.5) if kind.is_float() => call.unary(Unary::Sqrt, x)?,
        _ => {
            let exponent = call.value(1)?;
            let (base, exponent) = (call.as_float(x)?, call.as_float(exponent)?);
            let power = call.binary(Binary::Pow, base, exponent)?;
            if kind.is_float() { power } else { nearest(call, power)? }
        }
    };
    call.like_first(y)
}

/// Turns floats that stand for integers into these.
fn nearest(call: &mut Call<'_>, x: ValueId) -> Made {
    let x = call.unary(Unary::Round, x)?;
    call.as_int(x)
}

#[expect(clippy::cast_precision_loss, reason = "a node has few operands")]
fn mean(call: &mut Call<'_>) -> Mapped {
    let values = call.values()?;
    let (first, rest) = values.split_first().ok_or_else(|| Reason::malformed("no operand"))?;
    let mut total = *first;
    for value in rest {
        total = call.add(total, *value)?;
    }
    let y = call.scale(total, 1.0 / values.len() as f32)?;
    call.like_first(y)
}

fn clip(call: &mut Call<'_>) -> Mapped {
    let mut x = call.value(0)?;
    for (at, name, function) in [(1, "min", Binary::Max), (2, "max", Binary::Min)] {
        let bound = match call.attributes().float(name)? {
            // Versions before 11 have attributes, whose defaults bound nothing.
            Some(bound) if bound.abs() < f32::MAX => Some(call.fill(&[], bound)?),
            _ if call.has(at) => {
                // A bound that is known is a setting, not a weight.
                let known = call.shared(at);
                match known {
                    Some(known) if call.kind(at)?.is_float() => {
                        let bound = known.array.to_floats().first().copied();
                        match bound {
                            Some(b) if b.is_finite() => Some(call.fill(&[], b)?),
                            _ => None,
                        }
                    }
                    Some(known) => Some(call.importer.value(&known, Use::Plain)?),
                    None => Some(call.value(at)?),
                }
            }
            _ => None,
        };
        if let Some(bound) = bound {
            x = call.binary(function, x, bound)?;
        }
    }
    call.like_first(x)
}

fn cast(call: &mut Call<'_>) -> Mapped {
    let from = call.kind(0)?;
    let to = match call.operator() {
        "Cast" => target(call)?.ok_or(Reason::Operator)?,
        _ => call.kind(1)?,
    };
    if from.is_float() && to.is_float() {
        // All floats are computed in f32: a cast to half precision rounds nothing.
        let x = call.value(0)?;
        return Ok(vec![Term::Built(x, to)]);
    }
    let x = call.value(0)?;
    let y = if to == Kind::Bool {
        let zero = call.number_like(x, 0)?;
        let is_zero = call.compare(Comparison::Equal, x, zero)?;
        call.not(is_zero)?
    } else if to.is_float() {
        call.as_float(x)?
    } else {
        let y = call.as_int(x)?;
        let holds = |(a, b): (i64, i64), (c, d): (i64, i64)| a <= c && d <= b;
        let fits = match (to.range(), from.range()) {
            (Some(to), Some(from)) => holds(to, from),
            _ => false,
        };
        if fits { y } else { call.wrapped(y, to)? }
    };
    Ok(vec![Term::Built(y, to)])
}

fn sign(call: &mut Call<'_>) -> Mapped {
    each(call, |c, x| {
        if !c.is_int(x) {
            return c.unary(Unary::Sign, x);
        }
        let zero = c.int_literal(0)?;
        let above = c.compare(Comparison::Less, zero, x)?;
        let below = c.compare(Comparison::Less, x, zero)?;
        c.sub(above, below)
    })
}

pub(super) fn reciprocal(call: &mut Call<'_>, x: ValueId) -> Made {
    let one = call.fill(&[], 1.0)?;
    call.div(one, x)
}

fn tan(call: &mut Call<'_>, x: ValueId) -> Made {
    let (sin, cos) = (call.unary(Unary::Sin, x)?, call.unary(Unary::Cos, x)?);
    call.div(sin, cos)
}

/// `(e^x) / 2 + share e^-x`.
fn hyperbolic(call: &mut Call<'_>, x: ValueId, share: f32) -> Made {
    let minus = call.neg(x)?;
    let (grown, shrunk) = (call.unary(Unary::Exp, x)?, call.unary(Unary::Exp, minus)?);
    let (grown, shrunk) = (call.scale(grown, 0.5)?, call.scale(shrunk, share)?);
    call.add(grown, shrunk)
}

/// `sign(x) ln(|x| + sqrt(x^2 + 1))`: without cancellation below 0.
fn asinh(call: &mut Call<'_>, x: ValueId) -> Made {
    let square = call.square(x)?;
    let square = call.shift(square, 1.0)?;
    let root = call.unary(Unary::Sqrt, square)?;
    let (size, sign) = (call.unary(Unary::Abs, x)?, call.unary(Unary::Sign, x)?);
    let sum = call.add(size, root)?;
    let log = call.unary(Unary::Log, sum)?;
    call.mul(sign, log)
}

/// `ln(x + sqrt(x^2 - 1))`.
fn acosh(call: &mut Call<'_>, x: ValueId) -> Made {
    let square = call.square(x)?;
    let square = call.shift(square, -1.0)?;
    let root = call.unary(Unary::Sqrt, square)?;
    let sum = call.add(x, root)?;
    call.unary(Unary::Log, sum)
}

/// `ln((1 + x) / (1 - x)) / 2`.
fn atanh(call: &mut Call<'_>, x: ValueId) -> Made {
    let minus = call.neg(x)?;
    let (above, below) = (call.shift(x, 1.0)?, call.shift(minus, 1.0)?);
    let ratio = call.div(above, below)?;
    let log = call.unary(Unary::Log, ratio)?;
    call.scale(log, 0.5)
}
