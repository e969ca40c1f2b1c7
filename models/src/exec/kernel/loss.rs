//! Cross-entropy over the last axis.

use burn_backend::tensor::{Device, IndexingUpdateOp, IntTensor};
use burn_backend::{Shape, TensorMetadata};
use wattle_protocol::swarm::io::TaskError;

use crate::exec::host::rows;
use crate::exec::kernel::attention::softmax;
use crate::exec::tensor::{Float, HostBackend};

fn outside() -> TaskError {
    TaskError::Missing("a target that is a class".into())
}

/// Mean negative log-likelihood in nats.
///
/// *Errors*: [`TaskError::Missing`] if a target is no class (where the targets lie in host memory).
pub fn cross_entropy<B: HostBackend>(
    logits: Float<B>,
    targets: IntTensor<B>,
    device: &Device<B>,
) -> Result<Float<B>, TaskError> {
    let (rows, width) = flat(&logits);
    if let (Some(logits), Some(targets)) = (logits.host(), B::host_int(&targets)) {
        let loss = rows::cross_entropy(&logits, &targets, width).ok_or_else(outside)?;
        return Ok(Float::new(vec![loss], &[], device));
    }
    let logits = logits.reshape(&[rows, width]);
    let centred = logits.clone().sub(logits.max_axis(1));
    let total = centred.clone().exp().sum_axes(&[1]).log();
    let ids = B::int_reshape(targets, Shape::from(vec![rows, 1]));
    let picked = Float(B::float_gather(1, centred.0, ids));
    Ok(total.sub(picked).mean_axes(&[0]).reshape(&[]))
}

fn flat<B: HostBackend>(logits: &Float<B>) -> (usize, usize) {
    let shape = logits.shape();
    let width = shape.last().copied().unwrap_or(1);
    (shape[..shape.len() - 1].iter().product(), width)
}

/// Gradient of the logits.
///
/// *Errors*: [`TaskError::Missing`] if a target is no class (where the targets lie in host memory).
#[expect(clippy::cast_precision_loss, reason = "row counts are far below 2^24")]
pub fn cross_entropy_grad<B: HostBackend>(
    logits: Float<B>,
    targets: IntTensor<B>,
    g: Float<B>,
    device: &Device<B>,
) -> Result<Float<B>, TaskError> {
    let shape = logits.shape();
    let (rows, width) = flat(&logits);
    if let (Some(logits), Some(targets), Some(g)) = (logits.host(), B::host_int(&targets), g.host())
    {
        let out = rows::cross_entropy_grad(&logits, &targets, g[0], width).ok_or_else(outside)?;
        return Ok(Float::new(out, &shape, device));
    }
    debug_assert_eq!(targets.shape().num_elements(), rows, "one target a row");
    let probabilities = softmax(logits.reshape(&[rows, width]), 1);
    let ids = B::int_reshape(targets, Shape::from(vec![rows, 1]));
    let minus = Float::<B>::full(-1.0, &[rows, 1], device);
    let out = B::float_scatter(1, probabilities.0, ids, minus.0, IndexingUpdateOp::Add);
    Ok(Float(out).mul(g.reshape(&[1, 1]).scale(1.0 / rows as f32)).reshape(&shape))
}
