//! Quantised numbers: computed as floats, rounded where ONNX rounds.

use wattle_protocol::dag::op::{Binary, Unary};
use wattle_protocol::ids::ValueId;

use super::super::array::Kind;
use super::super::call::{Call, few};
use super::super::import::Term;
use super::super::report::Reason;
use super::conv::{along, centered, convolved, groups};
use super::matrix::product;
use super::window::Windows;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("QuantizeLinear", quantize),
    ("DequantizeLinear", dequantize),
    ("DynamicQuantizeLinear", dynamic),
    ("QLinearMatMul", matmul),
    ("QLinearConv", conv),
];

type Made = Result<ValueId, Reason>;

/// Gives scales or zero points the shape that fits the first operand: one number, one an axis, or one a block.
fn spread(call: &mut Call<'_>, x: ValueId) -> Made {
    let shape = call.shape(0)?;
    let own = call.shape_of(x);
    let axis = call.axis_of("axis", 1, shape.len().max(2))?;
    let block = usize::try_from(call.int("block_size", 0)?).unwrap_or(0);
    if block == 0 || own.len() != shape.len() {
        return along(call, x, axis, 0);
    }
    few(&[shape[axis]])?;
    let places: Vec<usize> = (0..shape[axis]).map(|i| i / block).collect();
    call.take(x, axis, &places)
}

fn limits(kind: Kind) -> Result<(f32, f32), Reason> {
    let fits = kind.range().filter(|_| kind.size() <= 2 && kind != Kind::Bool);
    let (least, most) =
        fits.ok_or_else(|| Reason::form(format!("quantising to {kind} is not supported")))?;
    #[expect(clippy::cast_precision_loss, reason = "at most 16 bits")]
    Ok((least as f32, most as f32))
}

/// Rounds, adds the zero point, and keeps what lies beyond the type at its end.
fn saturated(call: &mut Call<'_>, x: ValueId, zero: Option<ValueId>, kind: Kind) -> Made {
    let (least, most) = limits(kind)?;
    let mut x = call.unary(Unary::Round, x)?;
    if let Some(zero) = zero {
        let zero = call.as_float(zero)?;
        x = call.add(x, zero)?;
    }
    let (least, most) = (call.fill(&[], least)?, call.fill(&[], most)?);
    let x = call.binary(Binary::Max, x, least)?;
    let x = call.binary(Binary::Min, x, most)?;
    call.as_int(x)
}

fn quantize(call: &mut Call<'_>) -> Mapped {
    let named = Kind::of_code(call.int("output_dtype", 0)?);
    let kind = if call.has(2) { call.kind(2)? } else { named.unwrap_or(Kind::U8) };
    let (x, scale) = (call.value(0)?, call.value(1)?);
    let x = call.as_float(x)?;
    let scale = spread(call, scale)?;
    let zero = match call.optional(2)? {
        Some(zero) => Some(spread(call, zero)?),
        None => None,
    };
    let x = call.div(x, scale)?;
    let y = saturated(call, x, zero, kind)?;
    Ok(vec![Term::Built(y, kind)])
}

fn dequantize(call: &mut Call<'_>) -> Mapped {
    let (mut x, scale) = (call.value(0)?, call.value(1)?);
    if let Some(zero) = call.optional(2)? {
        let zero = spread(call, zero)?;
        x = call.sub(x, zero)?;
    }
    let x = call.as_float(x)?;
    let scale = spread(call, scale)?;
    let y = call.mul(x, scale)?;
    Ok(vec![Term::Built(y, call.kind(1)?)])
}

/// Scale and zero point from the range of x, widened to hold 0.
fn dynamic(call: &mut Call<'_>) -> Mapped {
    let x = call.value(0)?;
    let axes: Vec<usize> = (0..call.shape_of(x).len()).collect();
    let zero = call.fill(&[], 0.0)?;
    let most = call.reduce_max(x, &axes, false)?;
    let most = call.binary(Binary::Max, most, zero)?;
    let minus = call.neg(x)?;
    let least = call.reduce_max(minus, &axes, false)?;
    let least = call.binary(Binary::Max, least, zero)?;
    let width = call.add(most, least)?;
    let scale = call.scale(width, 1.0 / 255.0)?;
    let offset = call.div(least, scale)?;
    let offset = saturated(call, offset, None, Kind::U8)?;
    let steps = call.div(x, scale)?;
    let y = saturated(call, steps, Some(offset), Kind::U8)?;
    Ok(vec![Term::Built(y, Kind::U8), Term::Built(scale, Kind::F32), Term::Built(offset, Kind::U8)])
}

/// Brings a product of quantised operands (scales at 1 and 4) to the scale and zero point at 6 and 7.
fn requantized(call: &mut Call<'_>, x: ValueId, b_scale_axis: usize) -> Mapped {
    let kind = call.kind(7)?;
    let (a, b, y) = (call.value(1)?, call.value(4)?, call.value(6)?);
    let rank = call.shape_of(x).len();
    let count = call.shape_of(b).iter().product::<usize>();
    let mut line = vec![1; if count > 1 { rank } else { 0 }];
    if count > 1 {
        line[b_scale_axis] = count;
    }
    let b = call.reshape(b, &line)?;
    let rate = call.mul(a, b)?;
    let rate = call.div(rate, y)?;
    let x = call.mul(x, rate)?;
    let zero = call.value(7)?;
    let y = saturated(call, x, Some(zero), kind)?;
    Ok(vec![Term::Built(y, kind)])
}

fn matmul(call: &mut Call<'_>) -> Mapped {
    let (rows, columns) = (call.rank(0)?, call.rank(3)?);
    let a = centered(call, 0, 2, rows.saturating_sub(2))?;
    let b = centered(call, 3, 5, columns.saturating_sub(1))?;
    let y = product(call, a, b)?;
    let last = call.shape_of(y).len().saturating_sub(1);
    requantized(call, y, last)
}

fn conv(call: &mut Call<'_>) -> Mapped {
    let (shape, kernel) = (call.shape(0)?, call.shape(3)?);
    let (Some(lengths), Some(kernel)) = (shape.get(2..), kernel.get(2..)) else {
        return Err(Reason::malformed("[B, C, ..] is needed"));
    };
    let windows = Windows::read(call, lengths, kernel.to_vec())?;
    let (x, w) = (centered(call, 0, 2, 1)?, centered(call, 3, 5, 0)?);
    let bias = match call.optional(8)? {
        Some(bias) => Some(call.as_float(bias)?),
        None => None,
    };
    let groups = groups(call)?;
    let y = convolved(call, x, w, bias, windows, groups)?;
    requantized(call, y, 1)
}
