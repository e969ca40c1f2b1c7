//! Activation functions, softmax and its kin, dropout.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::op::{Binary, Comparison, Gelu, Unary};
use wattle_protocol::ids::ValueId;

use super::super::array::{Array, Kind};
use super::super::call::{Call, few};
use super::super::report::Reason;
use super::arithmetic::{each, function};
use super::layout::same;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("Relu", |call| each(call, relu)),
    ("LeakyRelu", |call| {
        let alpha = call.float("alpha", 0.01)?;
        each(call, |c, x| two_slopes(c, x, alpha))
    }),
    ("PRelu", prelu),
    ("Elu", |call| {
        let alpha = call.float("alpha", 1.0)?;
        each(call, |c, x| elu(c, x, alpha, 1.0))
    }),
    ("Celu", |call| {
        let alpha = call.float("alpha", 1.0)?;
        each(call, |c, x| elu(c, x, alpha, 1.0 / alpha))
    }),
    ("Selu", selu),
    ("ThresholdedRelu", thresholded),
    ("Shrink", shrink),
    ("Sigmoid", |call| function(call, Unary::Sigmoid)),
    ("Tanh", |call| function(call, Unary::Tanh)),
    ("HardSigmoid", |call| {
        let (alpha, beta) = (call.float("alpha", 0.2)?, call.float("beta", 0.5)?);
        each(call, |c, x| hard_sigmoid(c, x, alpha, beta))
    }),
    ("HardSwish", |call| {
        each(call, |c, x| {
            let gate = hard_sigmoid(c, x, 1.0 / 6.0, 0.5)?;
            c.mul(x, gate)
        })
    }),
    ("Swish", |call| {
        let alpha = call.float("alpha", 1.0)?;
        each(call, |c, x| swish(c, x, alpha))
    }),
    ("Mish", |call| {
        each(call, |c, x| {
            let soft = softplus(c, x)?;
            let gate = c.unary(Unary::Tanh, soft)?;
            c.mul(x, gate)
        })
    }),
    ("Softplus", |call| each(call, softplus)),
    ("Softsign", |call| {
        each(call, |c, x| {
            let size = c.unary(Unary::Abs, x)?;
            let size = c.shift(size, 1.0)?;
            c.div(x, size)
        })
    }),
    ("Gelu", |call| {
        let formula = match call.text("approximate", "none")? {
            "tanh" => Gelu::Tanh,
            _ => Gelu::Erf,
        };
        each(call, |c, x| c.op(Op::Gelu(formula), &[x]))
    }),
    ("Softmax", |call| softmaxed(call, |axis| Op::Softmax { axis })),
    ("LogSoftmax", |call| softmaxed(call, |axis| Op::LogSoftmax { axis })),
    ("Hardmax", hardmax),
    ("Dropout", dropout),
];

type Made = Result<ValueId, Reason>;

/// `max(x, 0)`, of integers too.
pub(super) fn relu(call: &mut Call<'_>, x: ValueId) -> Made {
    if !call.is_int(x) {
        return call.op(Op::Relu, &[x]);
    }
    let zero = call.int_literal(0)?;
    call.binary(Binary::Max, x, zero)
}

/// `x` above 0, `slope x` below: `slope x + (1 - slope) max(x, 0)`.
pub(super) fn two_slopes(call: &mut Call<'_>, x: ValueId, slope: f32) -> Made {
    let above = relu(call, x)?;
    let (above, all) = (call.scale(above, 1.0 - slope)?, call.scale(x, slope)?);
    call.add(all, above)
}

/// The part of x below 0, with the part above as 0.
fn below(call: &mut Call<'_>, x: ValueId) -> Made {
    let minus = call.neg(x)?;
    let minus = relu(call, minus)?;
    call.neg(minus)
}

fn prelu(call: &mut Call<'_>) -> Mapped {
    let (x, mut slope) = (call.value(0)?, call.value(1)?);
    if call.opset() < 7 && call.rank(1)? == 1 {
        // One slope a channel.
        let mut shape = vec![1; call.rank(0)?.saturating_sub(1)];
        if let Some(channels) = shape.first_mut() {
            *channels = call.shape(1)?[0];
        }
        slope = call.reshape(slope, &shape)?;
    }
    if call.is_int(x) {
        let zero = call.int_literal(0)?;
        let is_below = call.compare(Comparison::Less, x, zero)?;
        let steep = call.mul(x, slope)?;
        let y = call.select(is_below, steep, x)?;
        return call.like_first(y);
    }
    let (high, low) = (relu(call, x)?, below(call, x)?);
    let low = call.mul(slope, low)?;
    let y = call.add(high, low)?;
    call.like_first(y)
}

/// `x` above 0, `alpha (e^(rate x) - 1)` below. The exponential never sees a number above 0.
pub(super) fn elu(call: &mut Call<'_>, x: ValueId, alpha: f32, rate: f32) -> Made {
    let (high, low) = (relu(call, x)?, below(call, x)?);
    let low = call.scale(low, rate)?;
    let low = call.unary(Unary::Exp, low)?;
    let low = call.shift(low, -1.0)?;
    let low = call.scale(low, alpha)?;
    call.add(high, low)
}

#[expect(clippy::excessive_precision, reason = "the standard's own digits")]
fn selu(call: &mut Call<'_>) -> Mapped {
    let alpha = call.float("alpha", 1.673_263_242_354_377_2)?;
    let gamma = call.float("gamma", 1.050_700_987_355_480_5)?;
    each(call, |c, x| {
        let y = elu(c, x, alpha, 1.0)?;
        c.scale(y, gamma)
    })
}

fn thresholded(call: &mut Call<'_>) -> Mapped {
    let alpha = call.float("alpha", 1.0)?;
    each(call, |c, x| {
        let (bound, zero) = (c.fill(&[], alpha)?, c.fill(&[], 0.0)?);
        let above = c.compare(Comparison::Less, bound, x)?;
        c.select(above, x, zero)
    })
}

fn shrink(call: &mut Call<'_>) -> Mapped {
    let (bias, lambda) = (call.float("bias", 0.0)?, call.float("lambd", 0.5)?);
    each(call, |c, x| {
        let is_int = c.is_int(x);
        let x = c.as_float(x)?;
        let (high, low, zero) = (c.fill(&[], lambda)?, c.fill(&[], -lambda)?, c.fill(&[], 0.0)?);
        let (above, below) =
            (c.compare(Comparison::Less, high, x)?, c.compare(Comparison::Less, x, low)?);
        let (less, more) = (c.shift(x, -bias)?, c.shift(x, bias)?);
        let y = c.select(below, more, zero)?;
        let y = c.select(above, less, y)?;
        if is_int { c.as_int(y) } else { Ok(y) }
    })
}

pub(super) fn hard_sigmoid(call: &mut Call<'_>, x: ValueId, alpha: f32, beta: f32) -> Made {
    let line = call.scale(x, alpha)?;
    let line = call.shift(line, beta)?;
    let (zero, one) = (call.fill(&[], 0.0)?, call.fill(&[], 1.0)?);
    let line = call.binary(Binary::Max, line, zero)?;
    call.binary(Binary::Min, line, one)
}

fn swish(call: &mut Call<'_>, x: ValueId, alpha: f32) -> Made {
    let gate = call.scale(x, alpha)?;
    let gate = call.unary(Unary::Sigmoid, gate)?;
    call.mul(x, gate)
}

/// `max(x, 0) + ln(1 + e^-|x|)`: no exponential overflows.
pub(super) fn softplus(call: &mut Call<'_>, x: ValueId) -> Made {
    let size = call.unary(Unary::Abs, x)?;
    let minus = call.neg(size)?;
    let small = call.unary(Unary::Exp, minus)?;
    let small = call.shift(small, 1.0)?;
    let small = call.unary(Unary::Log, small)?;
    let high = relu(call, x)?;
    call.add(high, small)
}

/// Maps over one axis; before version 13, over all axes from the given one on, as one.
fn over_axis(call: &mut Call<'_>, f: impl Fn(&mut Call<'_>, ValueId, usize) -> Made) -> Mapped {
    let shape = call.shape(0)?;
    let x = call.value(0)?;
    if call.opset() >= 13 {
        let axis = call.axis_of("axis", -1, shape.len())?;
        let y = f(call, x, axis)?;
        return call.like_first(y);
    }
    let axis = call.axis_of("axis", 1, shape.len())?;
    let flat = [shape[..axis].iter().product(), shape[axis..].iter().product()];
    let x = call.reshape(x, &flat)?;
    let y = f(call, x, 1)?;
    let y = call.reshape(y, &shape)?;
    call.like_first(y)
}

fn softmaxed(call: &mut Call<'_>, op: fn(usize) -> Op) -> Mapped {
    over_axis(call, |c, x, axis| c.op(op(axis), &[x]))
}

/// 1 at the first maximum along an axis, 0 elsewhere.
fn hardmax(call: &mut Call<'_>) -> Mapped {
    over_axis(call, |c, x, axis| {
        let shape = c.shape_of(x);
        let place = c.ops(Op::TopK { axis, k: 1, smallest: false }, &[x])?[1];
        let places = c.op(Op::Iota { shape, axis }, &[])?;
        let hit = c.compare(Comparison::Equal, places, place)?;
        c.as_float(hit)
    })
}

/// Inference passes everything through.
fn dropout(call: &mut Call<'_>) -> Mapped {
    if call.has(2) && call.known_ints(2)?.first() == Some(&1) {
        let rate = if call.has(1) { call.known_floats(1)?[0] } else { 0.5 };
        if rate != 0.0 {
            return Err(Reason::form("its training mode is drawn at random"));
        }
    }
    let mut results = same(call)?;
    if call.wants(1) {
        let shape = call.shape(0)?;
        let count = few(&shape)?;
        results.push(call.constant(Array::ints(Kind::Bool, shape, vec![1; count])));
    }
    Ok(results)
}
