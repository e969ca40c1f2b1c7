//! Interpolation to other sizes: axis by axis, reads at known places weighed by known numbers.
//!
//! Every mode of ONNX is such a list of taps: nearest has one, linear two, cubic four, and antialiasing as many as the
//! old pixels that a new one covers. Places are computed in f64, as ONNX's reference does.

use wattle_protocol::ids::ValueId;

use super::super::call::{Call, few, resolve_axis};
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[("Resize", resize), ("Upsample", resize)];

/// One axis to be resized.
struct Axis<'a> {
    axis: usize,
    old: usize,
    new: usize,
    scale: f64,
    /// Part of the axis that is read, as shares of its length.
    region: [f64; 2],
    mode: Mode<'a>,
}

/// How new elements come from old ones; the same for all axes.
#[derive(Clone, Copy)]
struct Mode<'a> {
    kernel: &'a str,
    coordinates: &'a str,
    nearest: &'a str,
    cubic: f64,
    excludes_outside: bool,
    antialias: bool,
}

/// The taps of one new element.
struct Taps {
    /// Place of the first tap; may lie outside the axis.
    first: i64,
    weights: Vec<f64>,
    /// The element lies outside what is read.
    is_outside: bool,
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "lengths of axes are far below 2^53"
)]
impl Axis<'_> {
    fn place(&self, i: usize) -> f64 {
        let (i, old) = (i as f64, self.old as f64);
        let new = self.scale * old;
        match self.mode.coordinates {
            "align_corners" if new == 1.0 => 0.0,
            "align_corners" => i * (old - 1.0) / (new - 1.0),
            "asymmetric" => i / self.scale,
            "tf_crop_and_resize" => {
                let [start, end] = self.region;
                let start_at = start * (old - 1.0);
                if new == 1.0 {
                    start_at + (end - start) * (old - 1.0) / 2.0
                } else {
                    start_at + i * (end - start) * (old - 1.0) / (new - 1.0)
                }
            }
            "pytorch_half_pixel" if new == 1.0 => -0.5,
            "half_pixel_symmetric" => {
                let offset = old / 2.0 * (1.0 - self.new as f64 / new);
                offset + (i + 0.5) / self.scale - 0.5
            }
            _ => (i + 0.5) / self.scale - 0.5,
        }
    }

    fn taps(&self, i: usize) -> Taps {
        let at = self.place(i);
        let is_outside = self.mode.coordinates == "tf_crop_and_resize"
            && (at < 0.0 || at > (self.old - 1) as f64);
        // The share is in (0, 1]: a whole place belongs to the element on its left.
        let base = at.ceil() - 1.0;
        let share = at - base;
        let (start, mut weights) = self.kernel(share);
        let first = base as i64 + start;
        if self.mode.excludes_outside {
            for (tap, weight) in (first..).zip(&mut weights) {
                if tap < 0 || tap >= self.old as i64 {
                    *weight = 0.0;
                }
            }
            let total: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= total);
        }
        Taps { first, weights, is_outside }
    }

    /// Returns the first tap's distance from the base, and the weights.
    fn kernel(&self, share: f64) -> (i64, Vec<f64>) {
        let scale = if self.mode.antialias { self.scale.min(1.0) } else { 1.0 };
        let spread = |reach: f64, weight: &dyn Fn(f64) -> f64| {
            let start = (-reach / scale).floor() as i64 + 1;
            let weights: Vec<f64> =
                (start..2 - start).map(|tap| weight((tap as f64 - share) * scale)).collect();
            let total: f64 = weights.iter().sum();
            (start, weights.into_iter().map(|weight| weight / total).collect())
        };
        match self.mode.kernel {
            "linear" => spread(1.0, &|x| (1.0 - x.abs()).max(0.0)),
            "cubic" => spread(2.0, &|x| cubic(x.abs(), self.mode.cubic)),
            _ => {
                let is_right = match self.mode.nearest {
                    "round_prefer_ceil" => share >= 0.5,
                    "floor" => share >= 1.0,
                    "ceil" => true,
                    _ => share > 0.5,
                };
                (i64::from(is_right), vec![1.0])
            }
        }
    }

    fn apply(&self, call: &mut Call<'_>, x: ValueId) -> Result<ValueId, Reason> {
        let taps: Vec<Taps> = (0..self.new).map(|i| self.taps(i)).collect();
        let mut line = vec![1; call.shape_of(x).len()];
        line[self.axis] = self.new;
        let mut total = None;
        for tap in 0..taps.first().map_or(0, |taps| taps.weights.len()) {
            let weights: Vec<f32> = taps.iter().map(|t| t.weights[tap] as f32).collect();
            if weights.iter().all(|weight| *weight == 0.0) {
                continue;
            }
            let last = self.old as i64 - 1;
            let place = |t: &Taps| (t.first + tap as i64).clamp(0, last).unsigned_abs();
            let places: Vec<usize> =
                taps.iter().map(|t| usize::try_from(place(t)).unwrap_or(0)).collect();
            let mut part = call.take(x, self.axis, &places)?;
            if weights.iter().any(|weight| weight.to_bits() != 1.0f32.to_bits()) {
                let weights = call.floats(&line, weights)?;
                part = call.mul(part, weights)?;
            }
            total = Some(match total {
                Some(total) => call.add(total, part)?,
                None => part,
            });
        }
        total.ok_or_else(|| Reason::malformed("the size is 0"))
    }
}

/// The cubic convolution kernel (Keys 1981) with its free parameter.
fn cubic(x: f64, a: f64) -> f64 {
    if x <= 1.0 {
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    }
    if x < 2.0 { ((x - 5.0) * x + 8.0) * x * a - 4.0 * a } else { 0.0 }
}

fn mode<'a>(call: &Call<'a>) -> Result<Mode<'a>, Reason> {
    // Before version 11 there was one way of counting pixels, and of rounding.
    let is_old = call.opset() < 11 || call.operator() == "Upsample";
    let coordinates = if is_old { "asymmetric" } else { "half_pixel" };
    let nearest = if is_old { "floor" } else { "round_prefer_floor" };
    Ok(Mode {
        kernel: match call.text("mode", "nearest")? {
            "bilinear" | "linear" => "linear",
            other => other,
        },
        coordinates: call.text("coordinate_transformation_mode", coordinates)?,
        nearest: call.text("nearest_mode", nearest)?,
        cubic: f64::from(call.float("cubic_coeff_a", -0.75)?),
        excludes_outside: call.flag("exclude_outside", false)?,
        antialias: call.flag("antialias", false)?,
    })
}

/// Returns scale and size of each axis that is named, in the order of the names.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "lengths of axes are far below 2^53"
)]
fn sizes(call: &Call<'_>, axes: &[usize]) -> Result<Vec<(f64, usize)>, Reason> {
    let shape = call.shape(0)?;
    let old = |i: usize| shape[axes[i]] as f64;
    let wrong = || Reason::malformed("scales or sizes do not fit the axes");
    let has_sizes = call.has(3) && call.shape(3)?.iter().product::<usize>() > 0;
    if has_sizes {
        let asked = call.known_ints(3)?;
        if asked.len() != axes.len() || asked.iter().any(|n| *n <= 0) {
            return Err(wrong());
        }
        let ratios: Vec<f64> = (0..axes.len()).map(|i| asked[i] as f64 / old(i)).collect();
        let common = match call.text("keep_aspect_ratio_policy", "stretch")? {
            "not_larger" => Some(ratios.iter().copied().fold(f64::INFINITY, f64::min)),
            "not_smaller" => Some(ratios.iter().copied().fold(0.0, f64::max)),
            _ => None,
        };
        return Ok((0..axes.len())
            .map(|i| match common {
                Some(scale) => (scale, (scale * old(i) + 0.5).floor() as usize),
                None => (ratios[i], asked[i].unsigned_abs() as usize),
            })
            .collect());
    }
    let at = if call.operator() == "Upsample" || call.opset() < 11 { 1 } else { 2 };
    let scales = match call.attributes().floats("scales")? {
        Some(scales) => scales,
        None => call.known_floats(at)?,
    };
    if scales.len() != axes.len() || scales.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
        return Err(wrong());
    }
    let scaled =
        |i: usize| (f64::from(scales[i]), (f64::from(scales[i]) * old(i)).floor() as usize);
    Ok((0..axes.len()).map(scaled).collect())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a scale is above 0")]
fn resize(call: &mut Call<'_>) -> Mapped {
    let shape = call.shape(0)?;
    let axes: Vec<usize> = match call.attributes().ints("axes")? {
        Some(axes) => {
            axes.iter().map(|a| resolve_axis(*a, shape.len())).collect::<Result<_, _>>()?
        }
        None => (0..shape.len()).collect(),
    };
    let mode = mode(call)?;
    let sizes = sizes(call, &axes)?;
    let crops = mode.coordinates == "tf_crop_and_resize";
    let regions = if crops { call.known_floats(1)? } else { Vec::new() };
    let mut x = call.value(0)?;
    let mut outside = Vec::new();
    for (i, (scale, new)) in sizes.into_iter().enumerate() {
        let region = match (regions.get(i), regions.get(i + axes.len())) {
            (Some(start), Some(end)) => [f64::from(*start), f64::from(*end)],
            _ if crops => return Err(Reason::malformed("the region does not fit the axes")),
            _ => [0.0, 1.0],
        };
        // Antialiasing reads all old elements that a new one covers.
        few(&[new, if mode.antialias { 4 + (4.0 / scale) as usize } else { 4 }])?;
        let axis = Axis { axis: axes[i], old: shape[axes[i]], new, scale, region, mode };
        #[expect(clippy::float_cmp, reason = "exactly the same size")]
        let is_same = scale == 1.0 && new == axis.old && !crops;
        if !is_same {
            x = axis.apply(call, x)?;
        }
        let beyond: Vec<bool> = (0..new).map(|i| axis.taps(i).is_outside).collect();
        outside.push((axes[i], beyond));
    }
    let value = call.float("extrapolation_value", 0.0)?;
    for (axis, beyond) in outside.into_iter().filter(|(_, beyond)| beyond.contains(&true)) {
        let mut line = vec![1; shape.len()];
        line[axis] = beyond.len();
        let mask = call.ints(&line, beyond.into_iter().map(i32::from).collect())?;
        let value = call.fill(&[], value)?;
        x = call.select(mask, value, x)?;
    }
    call.like_first(x)
}
