//! Normalisation.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::op::{Binary, Unary};
use wattle_protocol::ids::ValueId;

use super::super::call::{Call, few, resolve_axes};
use super::super::import::Term;
use super::super::report::Reason;
use super::arithmetic::{each, reciprocal};
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("BatchNormalization", batch),
    ("LayerNormalization", layer),
    ("RMSNormalization", rms),
    ("InstanceNormalization", instance),
    ("GroupNormalization", group),
    ("LpNormalization", lp),
    ("MeanVarianceNormalization", mean_variance),
    ("LRN", local_response),
];

type Made = Result<ValueId, Reason>;

/// Returns x as `[B, C, H, W]`, as the operators of images want it.
fn as_image(call: &mut Call<'_>, x: ValueId) -> Result<(ValueId, Vec<usize>), Reason> {
    let shape = call.shape_of(x);
    let [batch, channels, rest @ ..] = shape.as_slice() else {
        return Err(Reason::malformed("[B, C, ..] is needed"));
    };
    let (height, width) = match rest {
        [height, width] => (*height, *width),
        _ => (rest.iter().product(), 1),
    };
    let image = call.reshape(x, &[*batch, *channels, height, width])?;
    Ok((image, shape))
}

fn batch(call: &mut Call<'_>) -> Mapped {
    let eps = call.float("epsilon", 1e-5)?;
    if !call.flag("spatial", true)? {
        return Err(Reason::form("statistics of single places are not supported"));
    }
    let kind = call.kind(0)?;
    let x = call.value(0)?;
    let (gain, bias) = (call.value(1)?, call.value(2)?);
    let (image, shape) = as_image(call, x)?;
    // Before version 7 there was a flag for the opposite.
    let trains = call.opset() < 7 && !call.flag("is_test", false)?;
    if trains || call.flag("training_mode", false)? {
        return batch_training(call, eps, image, &shape);
    }
    let (mean, var) = (call.statistics(3)?, call.statistics(4)?);
    let y = call.op(Op::BatchNormInference { eps }, &[image, gain, bias, mean, var])?;
    let y = call.reshape(y, &shape)?;
    Ok(vec![Term::Built(y, kind)])
}

/// The batch's own statistics; ONNX keeps the biased variance, unlike PyTorch.
fn batch_training(call: &mut Call<'_>, eps: f32, image: ValueId, shape: &[usize]) -> Mapped {
    let kind = call.kind(0)?;
    let momentum = call.float("momentum", 0.9)?;
    let (gain, bias) = (call.value(1)?, call.value(2)?);
    let (old_mean, old_var) = (call.statistics(3)?, call.statistics(4)?);
    let results = call.ops(Op::BatchNorm { eps }, &[image, gain, bias])?;
    let y = call.reshape(results[0], shape)?;
    let mean = call.reduce_mean(image, &[0, 2, 3], true)?;
    let centered = call.sub(image, mean)?;
    let squares = call.square(centered)?;
    let var = call.reduce_mean(squares, &[0, 2, 3], false)?;
    let mut terms = vec![Term::Built(y, kind)];
    for (old, fresh, at) in [(old_mean, results[1], 3), (old_var, var, 4)] {
        let (old, fresh) = (call.scale(old, momentum)?, call.scale(fresh, 1.0 - momentum)?);
        let mixed = call.add(old, fresh)?;
        terms.push(Term::Built(mixed, call.kind(at)?));
    }
    Ok(terms)
}

/// Centers x over axes and divides by its spread; returns the mean and the reciprocal of the spread, too.
fn standardized(
    call: &mut Call<'_>,
    x: ValueId,
    axes: &[usize],
    eps: f32,
) -> Result<[ValueId; 3], Reason> {
    let mean = call.reduce_mean(x, axes, true)?;
    let centered = call.sub(x, mean)?;
    let squares = call.square(centered)?;
    let var = call.reduce_mean(squares, axes, true)?;
    let var = call.shift(var, eps)?;
    let spread = call.unary(Unary::Sqrt, var)?;
    let rate = reciprocal(call, spread)?;
    Ok([call.mul(centered, rate)?, mean, rate])
}

/// Returns the axes from the given one to the last.
fn tail(call: &Call<'_>) -> Result<usize, Reason> {
    call.axis_of("axis", -1, call.rank(0)?)
}

fn layer(call: &mut Call<'_>) -> Mapped {
    let (axis, eps) = (tail(call)?, call.float("epsilon", 1e-5)?);
    let kind = call.kind(0)?;
    let (x, gain, bias) = (call.value(0)?, call.value(1)?, call.optional(2)?);
    let shape = call.shape_of(x);
    let width: usize = shape[axis..].iter().product();
    let lead = shape[..axis].to_vec();
    let flat = |shape: Vec<usize>| shape.iter().product::<usize>() == width;
    let fits = flat(call.shape_of(gain)) && bias.is_none_or(|b| flat(call.shape_of(b)));
    let (y, mean, rate) = if fits {
        let rows = call.reshape(x, &[&lead[..], &[width]].concat())?;
        let gain = call.reshape(gain, &[width])?;
        let bias = match bias {
            Some(bias) => call.reshape(bias, &[width])?,
            None => call.fill(&[width], 0.0)?,
        };
        let results = call.ops(Op::LayerNorm { eps }, &[rows, gain, bias])?;
        (call.reshape(results[0], &shape)?, results[1], results[2])
    } else {
        let axes: Vec<usize> = (axis..shape.len()).collect();
        let [y, mean, rate] = standardized(call, x, &axes, eps)?;
        let y = call.mul(y, gain)?;
        let y = match bias {
            Some(bias) => call.add(y, bias)?,
            None => y,
        };
        (y, mean, rate)
    };
    let kept: Vec<usize> = lead.iter().copied().chain(vec![1; shape.len() - axis]).collect();
    let (mean, rate) = (call.reshape(mean, &kept)?, call.reshape(rate, &kept)?);
    Ok([y, mean, rate].map(|value| Term::Built(value, kind)).to_vec())
}

fn rms(call: &mut Call<'_>) -> Mapped {
    let (axis, eps) = (tail(call)?, call.float("epsilon", 1e-5)?);
    let (x, gain) = (call.value(0)?, call.value(1)?);
    let shape = call.shape_of(x);
    let width: usize = shape[axis..].iter().product();
    if call.shape_of(gain).iter().product::<usize>() == width {
        let rows = call.reshape(x, &[&shape[..axis], &[width]].concat())?;
        let gain = call.reshape(gain, &[width])?;
        let y = call.op(Op::RmsNorm { eps }, &[rows, gain])?;
        let y = call.reshape(y, &shape)?;
        return call.like_first(y);
    }
    let axes: Vec<usize> = (axis..shape.len()).collect();
    let squares = call.square(x)?;
    let mean = call.reduce_mean(squares, &axes, true)?;
    let mean = call.shift(mean, eps)?;
    let spread = call.unary(Unary::Sqrt, mean)?;
    let y = call.div(x, spread)?;
    let y = call.mul(y, gain)?;
    call.like_first(y)
}

fn per_channel(call: &mut Call<'_>, vector: ValueId, rank: usize) -> Made {
    let length = call.shape_of(vector).iter().product();
    let shape: Vec<usize> = (0..rank).map(|axis| if axis == 1 { length } else { 1 }).collect();
    call.reshape(vector, &shape)
}

fn instance(call: &mut Call<'_>) -> Mapped {
    let eps = call.float("epsilon", 1e-5)?;
    let (x, gain, bias) = (call.value(0)?, call.value(1)?, call.value(2)?);
    let rank = call.shape_of(x).len();
    let axes: Vec<usize> = (2..rank).collect();
    let [y, ..] = standardized(call, x, &axes, eps)?;
    let (gain, bias) = (per_channel(call, gain, rank)?, per_channel(call, bias, rank)?);
    let y = call.mul(y, gain)?;
    let y = call.add(y, bias)?;
    call.like_first(y)
}

/// Before version 21, gain and bias are one a group; from it on, one a channel.
fn group(call: &mut Call<'_>) -> Mapped {
    let eps = call.float("epsilon", 1e-5)?;
    let groups = usize::try_from(call.int("num_groups", 0)?).unwrap_or(0);
    let (x, gain, bias) = (call.value(0)?, call.value(1)?, call.value(2)?);
    let shape = call.shape_of(x);
    let [batch, channels, rest @ ..] = shape.as_slice() else {
        return Err(Reason::malformed("[B, C, ..] is needed"));
    };
    if groups == 0 || channels % groups != 0 {
        return Err(Reason::malformed(format!("{channels} channels in {groups} groups")));
    }
    let each: usize = rest.iter().product::<usize>() * (channels / groups);
    let rows = call.reshape(x, &[*batch, groups, each])?;
    let [mut y, ..] = standardized(call, rows, &[2], eps)?;
    let vectors = [gain, bias];
    let by_channel = call.shape_of(gain) == [*channels] && call.opset() >= 21;
    if by_channel {
        y = call.reshape(y, &shape)?;
    }
    let rank = call.shape_of(y).len();
    let [gain, bias] = vectors;
    let (gain, bias) = (per_channel(call, gain, rank)?, per_channel(call, bias, rank)?);
    let y = call.mul(y, gain)?;
    let y = call.add(y, bias)?;
    let y = call.reshape(y, &shape)?;
    call.like_first(y)
}

fn lp(call: &mut Call<'_>) -> Mapped {
    let axis = call.axis_of("axis", -1, call.rank(0)?)?;
    let p = call.int("p", 2)?;
    each(call, |c, x| {
        let norm = if p == 1 {
            let size = c.abs(x)?;
            c.reduce_sum(size, &[axis], true)?
        } else {
            let squares = c.square(x)?;
            let total = c.reduce_sum(squares, &[axis], true)?;
            c.unary(Unary::Sqrt, total)?
        };
        // A vector of zeros stays one: its norm is replaced by the least positive float.
        let least = c.fill(&[], f32::MIN_POSITIVE)?;
        let norm = c.binary(Binary::Max, norm, least)?;
        c.div(x, norm)
    })
}

fn mean_variance(call: &mut Call<'_>) -> Mapped {
    let axes = call.attributes().ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes = resolve_axes(&axes, call.rank(0)?)?;
    each(call, |c, x| Ok(standardized(c, x, &axes, 1e-9)?[0]))
}

/// `x / (bias + alpha / size * sum of squares of neighbouring channels)^beta`.
#[expect(clippy::cast_precision_loss, reason = "a window is short")]
fn local_response(call: &mut Call<'_>) -> Mapped {
    let size = usize::try_from(call.int("size", 1)?).unwrap_or(1).max(1);
    let (alpha, beta) = (call.float("alpha", 1e-4)?, call.float("beta", 0.75)?);
    let bias = call.float("bias", 1.0)?;
    let channels = *call.shape(0)?.get(1).ok_or_else(|| Reason::malformed("[B, C, ..]"))?;
    few(&[channels, size])?;
    let (before, after) = ((size - 1) / 2, size - 1 - (size - 1) / 2);
    each(call, |c, x| {
        let squares = c.square(x)?;
        // A running sum, read at both ends of each window.
        let sums = c.op(Op::CumSum { axis: 1, exclusive: false, reverse: false }, &[squares])?;
        let ends: Vec<usize> = (0..channels).map(|i| (i + after).min(channels - 1)).collect();
        let mut window = c.take(sums, 1, &ends)?;
        if channels > before + 1 {
            let starts: Vec<usize> = (0..channels - before - 1).collect();
            let start = c.take(sums, 1, &starts)?;
            let mut shape = c.shape_of(x);
            shape[1] = before + 1;
            let zeros = c.fill(&shape, 0.0)?;
            let start = c.concat(&[zeros, start], 1)?;
            window = c.sub(window, start)?;
        }
        let base = c.scale(window, alpha / size as f32)?;
        let base = c.shift(base, bias)?;
        let power = c.fill(&[], beta)?;
        let power = c.binary(Binary::Pow, base, power)?;
        c.div(x, power)
    })
}
