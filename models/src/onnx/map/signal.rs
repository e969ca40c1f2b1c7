//! Fourier transforms as products with a known matrix, and the windows that go with them.

use std::f64::consts::PI;

use wattle_protocol::ids::ValueId;

use super::super::array::{Array, Kind};
use super::super::call::{Call, few};
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("HannWindow", |call| window(call, &[0.5, -0.5])),
    ("HammingWindow", |call| window(call, &[25.0 / 46.0, -21.0 / 46.0])),
    ("BlackmanWindow", |call| window(call, &[0.42, -0.5, 0.08])),
    ("DFT", dft),
    ("STFT", stft),
];

type Made = Result<ValueId, Reason>;

fn size(call: &Call<'_>, at: usize) -> Result<usize, Reason> {
    let size = usize::try_from(call.known_int(at)?).ok().filter(|n| *n > 0);
    let size = size.ok_or_else(|| Reason::malformed(format!("operand {at} must be above 0")))?;
    few(&[size])
}

/// A sum of cosines over one period.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "lengths are far below 2^53, and Wattle computes in f32"
)]
fn window(call: &mut Call<'_>, weights: &[f64]) -> Mapped {
    let size = size(call, 0)?;
    let kind = Kind::of_code(call.int("output_datatype", 1)?).filter(|kind| kind.is_float());
    let kind = kind.ok_or_else(|| Reason::form("windows are floats"))?;
    let period = if call.flag("periodic", true)? { size } else { (size - 1).max(1) };
    let element = |i: usize| {
        let turn = 2.0 * PI * i as f64 / period as f64;
        let terms = weights.iter().enumerate().map(|(n, weight)| weight * (n as f64 * turn).cos());
        terms.sum::<f64>() as f32
    };
    let array = Array::floats(kind, vec![size], (0..size).map(element).collect());
    Ok(vec![call.constant(array)])
}

/// What a transform does to one axis.
#[derive(Clone, Copy)]
struct Transform {
    /// Elements that it reads.
    length: usize,
    inverse: bool,
    onesided: bool,
}

impl Transform {
    /// The matrix from `taken` numbers (of one or two parts) to the results' parts: `[taken * parts, results * 2]`.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "lengths are far below 2^53, and Wattle computes in f32"
    )]
    fn matrix(self, taken: usize, parts: usize) -> Result<(Vec<f32>, usize, usize), Reason> {
        let half = self.length / 2 + 1;
        let to_real = self.inverse && self.onesided;
        let results = if self.onesided && !self.inverse { half } else { self.length };
        let out = if to_real { 1 } else { 2 };
        few(&[taken, parts, results, out])?;
        let scale = if self.inverse { 1.0 / self.length as f64 } else { 1.0 };
        let mut matrix = Vec::with_capacity(taken * parts * results * out);
        for n in 0..taken {
            // A one-sided spectrum stands for its mirror image, too.
            let is_single = n == 0 || 2 * n == self.length;
            let weight = match to_real {
                true if n >= half => 0.0,
                true if !is_single => 2.0 * scale,
                _ if n >= self.length => 0.0,
                _ => scale,
            };
            for part in 0..parts {
                for k in 0..results {
                    let turn = 2.0 * PI * ((n * k) % self.length) as f64 / self.length as f64;
                    let sin = if self.inverse { turn.sin() } else { -turn.sin() };
                    let (real, imaginary) =
                        if part == 0 { (turn.cos(), sin) } else { (-sin, turn.cos()) };
                    matrix.push((weight * real) as f32);
                    if out == 2 {
                        matrix.push((weight * imaginary) as f32);
                    }
                }
            }
        }
        Ok((matrix, results, out))
    }

    /// Transforms the second axis from the end; the last one holds the parts.
    fn apply(self, call: &mut Call<'_>, x: ValueId) -> Made {
        let shape = call.shape_of(x);
        let [lead @ .., taken, parts] = shape.as_slice() else {
            return Err(Reason::malformed("an axis and its parts are needed"));
        };
        if !(1..=2).contains(parts) {
            return Err(Reason::malformed("the last axis holds one or two parts"));
        }
        let (matrix, results, out) = self.matrix(*taken, *parts)?;
        let matrix = call.floats(&[taken * parts, results * out], matrix)?;
        let rows = call.reshape(x, &[lead, &[taken * parts]].concat())?;
        let rows = if lead.is_empty() { call.reshape(rows, &[1, taken * parts])? } else { rows };
        let y = call.matmul(rows, matrix)?;
        call.reshape(y, &[lead, &[results, out]].concat())
    }
}

fn dft(call: &mut Call<'_>) -> Mapped {
    let rank = call.rank(0)?;
    let (inverse, onesided) = (call.flag("inverse", false)?, call.flag("onesided", false)?);
    let axis = if call.opset() < 20 {
        call.axis_of("axis", 1, rank)?
    } else if call.has(2) {
        call.axis(call.known_int(2)?, rank)?
    } else {
        call.axis(-2, rank)?
    };
    if axis + 1 == rank {
        return Err(Reason::malformed("the last axis holds the parts"));
    }
    let taken = call.shape(0)?[axis];
    let length = match call.has(1) {
        true => size(call, 1)?,
        false if inverse && onesided => (2 * (taken - 1)).max(1),
        false => taken,
    };
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(axis, rank - 2);
    let x = call.value(0)?;
    let x = call.transpose(x, &perm)?;
    let y = Transform { length, inverse, onesided }.apply(call, x)?;
    // Swapping two axes undoes itself.
    let y = call.transpose(y, &perm)?;
    call.like_first(y)
}

fn stft(call: &mut Call<'_>) -> Mapped {
    let [batch, total, parts] = call.shape(0)?[..] else {
        return Err(Reason::malformed("[B, L, parts] is needed"));
    };
    let step = size(call, 1)?;
    let own = if call.has(2) { call.shape(2)?.first().copied() } else { None };
    let length = match own {
        Some(length) => length,
        None => size(call, 3)?,
    };
    if length == 0 || length > total {
        return Err(Reason::malformed("a frame is longer than the signal"));
    }
    let frames = (total - length) / step + 1;
    few(&[frames, length])?;
    let places: Vec<usize> = (0..frames * length).map(|i| i / length * step + i % length).collect();
    let x = call.value(0)?;
    let x = call.take(x, 1, &places)?;
    let mut x = call.reshape(x, &[batch, frames, length, parts])?;
    if let Some(window) = call.optional(2)? {
        let window = call.reshape(window, &[length, 1])?;
        x = call.mul(x, window)?;
    }
    let transform = Transform { length, inverse: false, onesided: call.flag("onesided", true)? };
    let y = transform.apply(call, x)?;
    call.like_first(y)
}
