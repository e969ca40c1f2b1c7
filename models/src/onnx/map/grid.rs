//! Sampling at places that the network computes: grids over any number of axes.
//!
//! Each sample is the sum over taps of all axes of what lies there, times the product of the taps' weights; so the
//! derivatives to image and grid follow from gathers and products.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::op::{Binary, Comparison, Unary};
use wattle_protocol::ids::ValueId;

use super::super::call::{Call, few};
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[("GridSample", grid_sample), ("AffineGrid", affine_grid)];

type Made = Result<ValueId, Reason>;

/// One tap of every sample along one axis: its place (whole, as a float) and its weight.
struct Tap {
    place: ValueId,
    weight: Option<ValueId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Beyond {
    Zeros,
    Border,
    Reflection,
}

/// What is the same for all axes.
#[derive(Clone, Copy)]
struct Sampling {
    beyond: Beyond,
    aligned: bool,
    taps: fn(&mut Call<'_>, ValueId) -> Result<Vec<Tap>, Reason>,
}

fn nearest(call: &mut Call<'_>, at: ValueId) -> Result<Vec<Tap>, Reason> {
    Ok(vec![Tap { place: call.unary(Unary::Round, at)?, weight: None }])
}

fn linear(call: &mut Call<'_>, at: ValueId) -> Result<Vec<Tap>, Reason> {
    let low = call.unary(Unary::Floor, at)?;
    let high = call.shift(low, 1.0)?;
    let share = call.sub(at, low)?;
    let rest = call.sub(high, at)?;
    Ok(vec![Tap { place: low, weight: Some(rest) }, Tap { place: high, weight: Some(share) }])
}

/// Keys' kernel with -3/4, as PyTorch has it.
fn cubic(call: &mut Call<'_>, at: ValueId) -> Result<Vec<Tap>, Reason> {
    const A: f32 = -0.75;
    let low = call.unary(Unary::Floor, at)?;
    let mut taps = Vec::new();
    for offset in [-1.0, 0.0, 1.0, 2.0] {
        let place = call.shift(low, offset)?;
        let gap = call.sub(at, place)?;
        let x = call.unary(Unary::Abs, gap)?;
        // Horner's rule: the inner half for the two middle taps, the outer for the others.
        let is_inner = offset == 0.0 || offset == 1.0;
        let [cube, square, one, constant] = if is_inner {
            [A + 2.0, -(A + 3.0), 0.0, 1.0]
        } else {
            [A, -5.0 * A, 8.0 * A, -4.0 * A]
        };
        let mut y = call.scale(x, cube)?;
        y = call.shift(y, square)?;
        y = call.mul(y, x)?;
        y = call.shift(y, one)?;
        y = call.mul(y, x)?;
        y = call.shift(y, constant)?;
        taps.push(Tap { place, weight: Some(y) });
    }
    Ok(taps)
}

#[expect(clippy::cast_precision_loss, reason = "lengths of axes are far below 2^24")]
impl Sampling {
    /// From -1 .. 1 to elements.
    fn place(self, call: &mut Call<'_>, at: ValueId, length: usize) -> Made {
        let length = length as f32;
        let (factor, term) = if self.aligned {
            ((length - 1.0) / 2.0, (length - 1.0) / 2.0)
        } else {
            (length / 2.0, (length - 1.0) / 2.0)
        };
        let at = call.scale(at, factor)?;
        call.shift(at, term)
    }

    fn clamped(call: &mut Call<'_>, at: ValueId, length: usize) -> Made {
        let (least, most) = (call.fill(&[], 0.0)?, call.fill(&[], length as f32 - 1.0)?);
        let at = call.binary(Binary::Max, at, least)?;
        call.binary(Binary::Min, at, most)
    }

    /// Moves places beyond the ends to where the padding says that they lie.
    fn within(self, call: &mut Call<'_>, at: ValueId, length: usize) -> Made {
        match self.beyond {
            Beyond::Zeros => Ok(at),
            Beyond::Border => Self::clamped(call, at, length),
            Beyond::Reflection => {
                let low = if self.aligned { 0.0 } else { -0.5 };
                let span = if self.aligned { length as f32 - 1.0 } else { length as f32 };
                if span == 0.0 {
                    return Self::clamped(call, at, length);
                }
                // A zigzag: the distance from the low end, folded at every span.
                let gap = call.shift(at, -low)?;
                let gap = call.unary(Unary::Abs, gap)?;
                let period = call.fill(&[], 2.0 * span)?;
                let gap = call.binary(Binary::Remainder, gap, period)?;
                let back = call.sub(period, gap)?;
                let folded = call.binary(Binary::Min, gap, back)?;
                call.shift(folded, low)
            }
        }
    }

    /// Returns each tap's index and weight along one axis.
    fn axis(
        self,
        call: &mut Call<'_>,
        at: ValueId,
        length: usize,
    ) -> Result<Vec<(ValueId, Option<ValueId>)>, Reason> {
        let at = self.place(call, at, length)?;
        let at = self.within(call, at, length)?;
        let mut found = Vec::new();
        for Tap { place, mut weight } in (self.taps)(call, at)? {
            if self.beyond == Beyond::Zeros {
                let (least, most) = (call.fill(&[], 0.0)?, call.fill(&[], length as f32 - 1.0)?);
                let from = call.compare(Comparison::LessEqual, least, place)?;
                let to = call.compare(Comparison::LessEqual, place, most)?;
                let inside = call.mul(from, to)?;
                let inside = call.as_float(inside)?;
                weight = Some(match weight {
                    Some(weight) => call.mul(weight, inside)?,
                    None => inside,
                });
            }
            let place = self.within(call, place, length)?;
            let place = Self::clamped(call, place, length)?;
            found.push((call.as_int(place)?, weight));
        }
        Ok(found)
    }
}

fn sampling(call: &Call<'_>) -> Result<Sampling, Reason> {
    let taps = match call.text("mode", "linear")? {
        "linear" | "bilinear" => linear,
        "nearest" => nearest,
        "cubic" | "bicubic" => cubic,
        other => return Err(Reason::malformed(format!("mode {other:?}"))),
    };
    let beyond = match call.text("padding_mode", "zeros")? {
        "zeros" => Beyond::Zeros,
        "border" => Beyond::Border,
        "reflection" => Beyond::Reflection,
        other => return Err(Reason::malformed(format!("padding_mode {other:?}"))),
    };
    Ok(Sampling { beyond, aligned: call.flag("align_corners", false)?, taps })
}

fn grid_sample(call: &mut Call<'_>) -> Mapped {
    let sampling = sampling(call)?;
    let (shape, grid_shape) = (call.shape(0)?, call.shape(1)?);
    let axes = shape.len().saturating_sub(2);
    if axes == 0 || grid_shape.len() != shape.len() || grid_shape[axes + 1] != axes {
        return Err(Reason::malformed("the grid does not fit the image"));
    }
    let (batch, channels, lengths) = (shape[0], shape[1], &shape[2..]);
    let samples: usize = grid_shape[1..=axes].iter().product();
    let (x, grid) = (call.value(0)?, call.value(1)?);
    let grid = call.reshape(grid, &[batch, samples, axes])?;
    // Index and weight of every combination of taps; the grid names its axes from the last to the first.
    let mut combined: Vec<(Option<ValueId>, Option<ValueId>)> = vec![(None, None)];
    for (axis, length) in lengths.iter().enumerate() {
        let column = axes - 1 - axis;
        let at = call.slice(grid, 2, column, column + 1)?;
        let at = call.reshape(at, &[batch, 1, samples])?;
        let taps = sampling.axis(call, at, *length)?;
        let length = i32::try_from(*length).map_err(|_| Reason::form("an axis is too long"))?;
        let mut next = Vec::new();
        for (index, weight) in &combined {
            for (place, share) in &taps {
                let index = match index {
                    Some(index) => {
                        let length = call.int_literal(length)?;
                        let rows = call.mul(*index, length)?;
                        call.add(rows, *place)?
                    }
                    None => *place,
                };
                let weight = match (weight, share) {
                    (Some(weight), Some(share)) => Some(call.mul(*weight, *share)?),
                    (weight, share) => weight.or(*share),
                };
                next.push((Some(index), weight));
            }
        }
        combined = next;
    }
    let flat = call.reshape(x, &[batch, channels, lengths.iter().product()])?;
    let mut total = None;
    for (index, weight) in combined {
        let index = index.ok_or_else(|| Reason::malformed("the image has no axis"))?;
        let index = call.expand(index, &[batch, channels, samples])?;
        let mut part = call.op(Op::GatherElements { axis: 2 }, &[flat, index])?;
        if let Some(weight) = weight {
            part = call.mul(part, weight)?;
        }
        total = Some(match total {
            Some(total) => call.add(total, part)?,
            None => part,
        });
    }
    let y = total.ok_or_else(|| Reason::malformed("the image has no axis"))?;
    let y = call.reshape(y, &[&[batch, channels], &grid_shape[1..=axes]].concat())?;
    call.like_first(y)
}

/// The grid of an affine map: known places times the map's matrix.
#[expect(clippy::cast_precision_loss, reason = "lengths of axes are far below 2^24")]
fn affine_grid(call: &mut Call<'_>) -> Mapped {
    let sizes = call.known_ints(1)?;
    let aligned = call.flag("align_corners", false)?;
    let lengths: Option<Vec<usize>> =
        sizes.iter().skip(2).map(|n| usize::try_from(*n).ok().filter(|n| *n > 0)).collect();
    let lengths = lengths.filter(|l| (2..=3).contains(&l.len()));
    let lengths = lengths.ok_or_else(|| Reason::malformed("the size does not fit"))?;
    let count = few(&lengths)?;
    let steps = super::super::fold::places::strides(&lengths);
    let mut rows = Vec::with_capacity(count * (lengths.len() + 1));
    for at in 0..count {
        for axis in (0..lengths.len()).rev() {
            let (i, length) = ((at / steps[axis] % lengths[axis]) as f32, lengths[axis] as f32);
            rows.push(match aligned {
                true if length > 1.0 => 2.0 * i / (length - 1.0) - 1.0,
                true => 0.0,
                false => (2.0 * i + 1.0) / length - 1.0,
            });
        }
        rows.push(1.0);
    }
    let rows = call.floats(&[count, lengths.len() + 1], rows)?;
    let theta = call.value(0)?;
    let batch = call.shape_of(theta)[0];
    let y = call.op(Op::MatMul { transpose_a: false, transpose_b: true }, &[rows, theta])?;
    let y = call.reshape(y, &[&[batch], &lengths[..], &[lengths.len()]].concat())?;
    call.like_first(y)
}
