//! Operators that read, write, select, accumulate or make elements along an axis.
//!
//! Where indices lie in host memory they are checked; on a GPU an index out of range reads or writes what the back-end
//! lets it (clamped or nothing), never another tensor.

use burn_backend::tensor::{Device, IndexingUpdateOp, IntTensor};
use burn_backend::{Shape, TensorMetadata};
use wattle_protocol::dag::op::{Numbers, Rotary};
use wattle_protocol::swarm::io::TaskError;

use crate::exec::host::select;
use crate::exec::tensor::{Float, HostBackend, Tensor, int_values};

/// Checks indices that lie in host memory.
fn check<B: HostBackend>(ids: &IntTensor<B>, len: usize) -> Result<(), TaskError> {
    let Some(values) = B::host_int(ids) else {
        return Ok(());
    };
    let inside = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < len);
    match values.iter().find(|id| !inside(id)) {
        None => Ok(()),
        Some(id) => Err(TaskError::Missing(format!("index {id} of an axis of length {len}"))),
    }
}

fn flat<B: HostBackend>(ids: IntTensor<B>) -> IntTensor<B> {
    let count = ids.shape().num_elements();
    B::int_reshape(ids, Shape::from(vec![count]))
}

/// x read at ids along an axis.
///
/// *Errors*: [`TaskError::Missing`] for an index out of range (host memory).
pub fn gather<B: HostBackend>(
    x: Tensor<B>,
    ids: IntTensor<B>,
    axis: usize,
) -> Result<Tensor<B>, TaskError> {
    let from = x.shape();
    check::<B>(&ids, from[axis])?;
    let shape = [&from[..axis], &ids.shape().to_vec(), &from[axis + 1..]].concat();
    let ids = flat::<B>(ids);
    let read = match x {
        Tensor::Float(x) => Tensor::Float(Float(B::float_select(x.0, axis, ids))),
        Tensor::Int(x) => Tensor::Int(B::int_select(x, axis, ids)),
    };
    Ok(super::any::reshape(read, &shape))
}

/// g added into zeros where `gather` read.
///
/// *Errors*: [`TaskError::Missing`] for an index out of range (host memory).
pub fn gather_grad<B: HostBackend>(
    ids: IntTensor<B>,
    g: Float<B>,
    axis: usize,
    len: usize,
    device: &Device<B>,
) -> Result<Float<B>, TaskError> {
    check::<B>(&ids, len)?;
    let from = g.shape();
    let rank = ids.shape().to_vec().len();
    let count = ids.shape().num_elements();
    let (lead, tail) = (from.get(..axis).unwrap_or(&[]), from.get(axis + rank..).unwrap_or(&[]));
    let g = g.reshape(&[lead, &[count], tail].concat());
    let zeros = Float::<B>::full(0.0, &[lead, &[len], tail].concat(), device);
    let ids = flat::<B>(ids);
    Ok(Float(B::float_select_assign(zeros.0, axis, ids, g.0, IndexingUpdateOp::Add)))
}

/// x cut down to the extent of ids on the axes other than `axis`.
fn within<B: HostBackend>(x: Tensor<B>, ids: &[usize], axis: usize) -> Tensor<B> {
    let shape = x.shape();
    (0..shape.len())
        .filter(|a| *a != axis && ids[*a] < shape[*a])
        .fold(x, |x, a| super::any::slice(x, a, 0, ids[a]))
}

/// x read along an axis at the index that stands at each place.
///
/// *Errors*: [`TaskError::Missing`] for an index out of range (host memory).
pub fn gather_elements<B: HostBackend>(
    x: Tensor<B>,
    ids: IntTensor<B>,
    axis: usize,
) -> Result<Tensor<B>, TaskError> {
    check::<B>(&ids, x.shape()[axis])?;
    Ok(match within(x, &ids.shape().to_vec(), axis) {
        Tensor::Float(x) => Tensor::Float(Float(B::float_gather(axis, x.0, ids))),
        Tensor::Int(x) => Tensor::Int(B::int_gather(axis, x, ids)),
    })
}

/// Updates written, or added, where `gather_elements` would read; in row-major order.
///
/// *Errors*: [`TaskError`] for an index out of range, or what the device says while its data are read back.
pub fn scatter_elements<B: HostBackend>(
    x: Tensor<B>,
    ids: IntTensor<B>,
    updates: Tensor<B>,
    (axis, add): (usize, bool),
    device: &Device<B>,
) -> Result<Tensor<B>, TaskError> {
    let (shape, at) = (x.shape(), ids.shape().to_vec());
    check::<B>(&ids, shape[axis])?;
    if let (true, Tensor::Float(x), Tensor::Float(u), None) = (
        add && shape.len() == at.len() && within_axes(&shape, &at, axis),
        &x,
        &updates,
        B::host_int(&ids),
    ) {
        let (x, u) = (x.0.clone(), u.0.clone());
        return Ok(Tensor::Float(Float(B::float_scatter(axis, x, ids, u, IndexingUpdateOp::Add))));
    }
    // Replacing has no primitive with a defined order, so a GPU's data pass through the host.
    let places = select::places(&shape, &at, axis, &int_values::<B>(ids)?);
    Ok(match (x, updates) {
        (Tensor::Float(x), Tensor::Float(updates)) => {
            let (mut x, updates) = (x.values()?, updates.values()?);
            select::write(&mut x, &places, &updates, |old, new| if add { old + new } else { new });
            Tensor::floats(x, &shape, device)
        }
        (Tensor::Int(x), Tensor::Int(updates)) => {
            let (mut x, updates) = (int_values::<B>(x)?, int_values::<B>(updates)?);
            select::write(&mut x, &places, &updates, |old, new| match add {
                true => old.wrapping_add(new),
                false => new,
            });
            Tensor::ints(x, &shape, device)
        }
        _ => return Err(TaskError::Missing("x and updates of one dtype".into())),
    })
}

/// Says whether ids cover x on every other axis.
fn within_axes(x: &[usize], ids: &[usize], axis: usize) -> bool {
    x.iter().zip(ids).enumerate().all(|(a, (x, ids))| a == axis || x == ids)
}

/// The k largest (or smallest) along an axis and their places, the earlier first among equals.
///
/// *Errors*: what the device says while its data are read back.
pub fn top_k<B: HostBackend>(
    x: Float<B>,
    (axis, k, smallest): (usize, usize, bool),
    device: &Device<B>,
) -> Result<Vec<Tensor<B>>, TaskError> {
    // The primitives leave the order among equals open, so a GPU's data pass through the host.
    let mut shape = x.shape();
    let (values, places) = select::top_k(&x.values()?, &shape, axis, k, smallest);
    shape[axis] = k;
    Ok(vec![Tensor::floats(values, &shape, device), Tensor::ints(places, &shape, device)])
}

/// Running sums along an axis.
pub fn cum_sum<B: HostBackend>(
    x: Float<B>,
    (axis, exclusive, reverse): (usize, bool, bool),
    device: &Device<B>,
) -> Float<B> {
    if let Some(values) = x.host() {
        let shape = x.shape();
        return Float::new(
            select::cum_sum(&values, &shape, axis, exclusive, reverse),
            &shape,
            device,
        );
    }
    let flip = |x: Float<B>| if reverse { Float(B::float_flip(x.0, &[axis])) } else { x };
    let x = flip(x);
    let sums = Float::<B>(B::float_cumsum(x.0.clone(), axis));
    flip(if exclusive { sums.sub(x) } else { sums })
}

/// Each element's place along an axis: only the places of one row are uploaded.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "shape inference keeps places within i32"
)]
pub fn iota<B: HostBackend>(shape: &[usize], axis: usize, device: &Device<B>) -> Tensor<B> {
    let mut row = vec![1; shape.len()];
    row[axis] = shape[axis];
    let places = Tensor::ints((0..shape[axis]).map(|i| i as i32).collect(), &row, device);
    super::any::expand(places, shape, device)
}

/// Numbers of the network itself.
pub fn literal<B: HostBackend>(
    shape: &[usize],
    numbers: &Numbers,
    device: &Device<B>,
) -> Tensor<B> {
    match numbers {
        Numbers::Floats(list) => Tensor::floats(list.clone(), shape, device),
        Numbers::Ints(list) => Tensor::ints(list.clone(), shape, device),
    }
}

/// Rotary position embedding of the last two axes.
pub fn rotary<B: HostBackend>(x: Float<B>, rotary: &Rotary, device: &Device<B>) -> Float<B> {
    let shape = x.shape();
    let (length, width) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    let (cos, sin) = select::angles(length, width, rotary);
    if let Some(values) = x.host() {
        let turned = select::turn(&values, &cos, &sin, width, rotary.interleaved);
        return Float::new(turned, &shape, device);
    }
    let half = width / 2;
    let angles = |values: Vec<f32>| Float::<B>::new(values, &[length, half], device);
    let (cos, sin) = (angles(cos), angles(sin));
    let lead = &shape[..shape.len() - 1];
    let rank = shape.len();
    let (a, b) = if rotary.interleaved {
        let pairs = x.reshape(&[lead, &[half, 2]].concat());
        let part =
            |at: usize| pairs.clone().slice(rank, at, at + 1).reshape(&[lead, &[half]].concat());
        (part(0), part(1))
    } else {
        (x.clone().slice(rank - 1, 0, half), x.slice(rank - 1, half, width))
    };
    let first = a.clone().mul(cos.clone()).sub(b.clone().mul(sin.clone()));
    let second = a.mul(sin).add(b.mul(cos));
    if rotary.interleaved {
        let column = |x: Float<B>| x.reshape(&[lead, &[half, 1]].concat());
        return Float::concat(vec![column(first), column(second)], rank).reshape(&shape);
    }
    Float::concat(vec![first, second], rank - 1)
}
