//! Cross-entropy over the last axis.

use burn_backend::tensor::{Device, IndexingUpdateOp, IntTensor};
use burn_backend::{FloatDType, Shape, TensorMetadata, get_or_init_device_settings};
use wattle_protocol::dag::op::Targets;
use wattle_protocol::swarm::io::TaskError;

use crate::exec::host::rows;
use crate::exec::kernel::attention::softmax;
use crate::exec::tensor::{Float, HostBackend};

fn outside() -> TaskError {
    TaskError::Missing("a target that is a class".into())
}

/// Mean negative log-likelihood in nats of the targets that count; 0 if none does.
///
/// *Errors*: [`TaskError::Missing`] if a target is no class (where the targets lie in host memory).
pub fn cross_entropy<B: HostBackend>(
    logits: Float<B>,
    targets: IntTensor<B>,
    settings: &Targets,
    device: &Device<B>,
) -> Result<Float<B>, TaskError> {
    let (rows, width) = flat(&logits);
    if let (Some(logits), Some(targets)) = (logits.host(), B::host_int(&targets)) {
        let loss = rows::cross_entropy(&logits, &targets, width, settings).ok_or_else(outside)?;
        return Ok(Float::new(vec![loss], &[], device));
    }
    let logits = logits.reshape(&[rows, width]);
    let centred = logits.clone().sub(logits.max_axis(1));
    let total = centred.clone().exp().sum_axes(&[1]).log();
    let (ids, weights) = weighed::<B>(targets, rows, settings, device);
    let picked = Float(B::float_gather(1, centred.0.clone(), ids));
    let mut losses = total.clone().sub(picked);
    if settings.smoothing > 0.0 {
        let even = total.sub(centred.mean_axes(&[1])).scale(settings.smoothing);
        losses = losses.scale(1.0 - settings.smoothing).add(even);
    }
    Ok(losses.mul(weights).sum_axes(&[0]).reshape(&[]))
}

/// Returns the classes `[rows, 1]` to look up, and each row's share of the mean: 0 for what does not count.
#[expect(clippy::cast_precision_loss, reason = "row counts are far below 2^24")]
fn weighed<B: HostBackend>(
    targets: IntTensor<B>,
    rows: usize,
    settings: &Targets,
    device: &Device<B>,
) -> (IntTensor<B>, Float<B>) {
    let ids = B::int_reshape(targets, Shape::from(vec![rows, 1]));
    let Some(ignore) = settings.ignore else {
        return (ids, Float::full(1.0 / rows as f32, &[rows, 1], device));
    };
    let device_settings = get_or_init_device_settings::<B>(device);
    let (bools, ints) = (device_settings.bool_dtype, device_settings.int_dtype);
    let counts = B::int_not_equal_elem(ids.clone(), i64::from(ignore).into(), bools);
    let kept = B::int_mul(ids, B::bool_into_int(counts.clone(), ints));
    let counts = Float::<B>(B::bool_into_float(counts, FloatDType::F32));
    let total = counts.clone().sum_axes(&[0]);
    // At least one, so that a batch in which nothing counts has the loss 0.
    let one = Float::<B>::full(1.0, &[1, 1], device);
    let fewer = B::float_lower(total.0.clone(), one.0.clone(), bools);
    let total = Float(B::float_mask_where(total.0, fewer, one.0));
    (kept, counts.div(total))
}

fn flat<B: HostBackend>(logits: &Float<B>) -> (usize, usize) {
    let shape = logits.shape();
    let width = shape.last().copied().unwrap_or(1);
    (shape[..shape.len() - 1].iter().product(), width)
}

/// Gradient of the logits.
///
/// *Errors*: [`TaskError::Missing`] if a target is no class (where the targets lie in host memory).
#[expect(clippy::cast_precision_loss, reason = "class counts are far below 2^24")]
pub fn cross_entropy_grad<B: HostBackend>(
    logits: Float<B>,
    targets: IntTensor<B>,
    g: Float<B>,
    settings: &Targets,
    device: &Device<B>,
) -> Result<Float<B>, TaskError> {
    let shape = logits.shape();
    let (rows, width) = flat(&logits);
    if let (Some(logits), Some(targets), Some(g)) = (logits.host(), B::host_int(&targets), g.host())
    {
        let out = rows::cross_entropy_grad(&logits, &targets, g[0], width, settings);
        return Ok(Float::new(out.ok_or_else(outside)?, &shape, device));
    }
    debug_assert_eq!(targets.shape().num_elements(), rows, "one target a row");
    let probabilities = softmax(logits.reshape(&[rows, width]), 1, device);
    let (ids, weights) = weighed::<B>(targets, rows, settings, device);
    let even = probabilities.shift(-settings.smoothing / width as f32);
    let minus = Float::<B>::full(settings.smoothing - 1.0, &[rows, 1], device);
    let out = Float(B::float_scatter(1, even.0, ids, minus.0, IndexingUpdateOp::Add));
    Ok(out.mul(weights).mul(g.reshape(&[1, 1])).reshape(&shape))
}
