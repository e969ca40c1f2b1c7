//! Matrix products, dense layers and embedding tables.

use burn_backend::tensor::{Device, IndexingUpdateOp, IntTensor};
use burn_backend::{Shape, TensorMetadata};
use wattle_protocol::swarm::io::TaskError;

use crate::exec::host::product::{self, Matrix};
use crate::exec::host::rows;
use crate::exec::tensor::{Float, HostBackend};

/// Matrix product of the last two axes, each operand transposed first where asked.
pub fn matmul<B: HostBackend>(a: Float<B>, b: Float<B>, ta: bool, tb: bool) -> Float<B> {
    // One product of a tall matrix is faster than a batch of small ones with a shared right-hand side.
    let is_tall = !ta && b.rank() == 2 && a.rank() > 2;
    if let Some(y) = on_host(&a, &b, (ta, tb), is_tall) {
        return y;
    }
    if is_tall {
        let b = if tb { b.transpose() } else { b };
        return tall(a, b);
    }
    let a = if ta { a.transpose() } else { a };
    let b = if tb { b.transpose() } else { b };
    a.matmul(b)
}

/// The same where both lie in host memory: matrices, batches of them without broadcasting, or one tall matrix.
fn on_host<B: HostBackend>(
    a: &Float<B>,
    b: &Float<B>,
    (ta, tb): (bool, bool),
    is_tall: bool,
) -> Option<Float<B>> {
    let (mut shape, of_b) = (a.shape(), b.shape());
    let (first, last) = (shape.len().checked_sub(2)?, of_b.len().checked_sub(2)?);
    let swap = |[rows, columns]: [usize; 2], turned: bool| match turned {
        true => [columns, rows],
        false => [rows, columns],
    };
    let batch: usize = shape[..first].iter().product();
    if !is_tall && shape[..first] != of_b[..last] {
        return None;
    }
    let (x, w) = (a.host()?, b.host()?);
    let size = swap([shape[first], shape[first + 1]], ta);
    let of_b = swap([of_b[last], of_b[last + 1]], tb);
    (shape[first], shape[first + 1]) = (size[0], of_b[1]);
    let w = Matrix::maybe_turned(&w, of_b, tb);
    let y = if is_tall {
        product::product(Matrix::new(&x, [batch * size[0], size[1]]), w, None)
    } else if batch == 1 {
        product::product(Matrix::maybe_turned(&x, size, ta), w, None)
    } else {
        product::products(batch, Matrix::maybe_turned(&x, size, ta), w)
    };
    Some(Float::new(y, &shape, &a.0.device()))
}

/// `[.., I] x [I, O] -> [.., O]` as one product.
fn tall<B: HostBackend>(x: Float<B>, w: Float<B>) -> Float<B> {
    let mut shape = x.shape();
    let inner = shape.pop().unwrap_or(1);
    let rows = shape.iter().product();
    shape.push(w.shape()[1]);
    x.reshape(&[rows, inner]).matmul(w).reshape(&shape)
}

/// Dense layer.
pub fn linear<B: HostBackend>(
    x: Float<B>,
    w: Float<B>,
    bias: Option<Float<B>>,
    device: &Device<B>,
) -> Float<B> {
    if let (Some(a), Some(b)) = (x.host(), w.host()) {
        let (mut shape, sizes) = (x.shape(), w.shape());
        let last = shape.len() - 1;
        shape[last] = sizes[1];
        let bias = bias.and_then(|bias| bias.host());
        let a = Matrix::new(&a, [a.len() / sizes[0].max(1), sizes[0]]);
        let y = product::product(a, Matrix::new(&b, [sizes[0], sizes[1]]), bias.as_deref());
        return Float::new(y, &shape, device);
    }
    let y = tall(x, w);
    match bias {
        Some(bias) => y.add(bias),
        None => y,
    }
}

/// Weight gradient of a dense layer, summed over leading axes.
pub fn weight_grad<B: HostBackend>(x: Float<B>, g: Float<B>) -> Float<B> {
    let width = |t: &Float<B>| t.shape().last().copied().unwrap_or(1);
    let size = [width(&x), width(&g)];
    let device = x.0.device();
    if let (Some(x), Some(g)) = (x.host(), g.host()) {
        let rows = x.len() / size[0].max(1);
        let x = Matrix::maybe_turned(&x, [size[0], rows], true);
        let y = product::product(x, Matrix::new(&g, [rows, size[1]]), None);
        return Float::new(y, &size, &device);
    }
    let flat = |t: Float<B>, width: usize| {
        let rows = t.shape()[..t.rank() - 1].iter().product();
        t.reshape(&[rows, width])
    };
    flat(x, size[0]).transpose().matmul(flat(g, size[1]))
}

fn outside() -> TaskError {
    TaskError::Missing("an id that is a row of its table".into())
}

/// Rows of a table.
///
/// *Errors*: [`TaskError::Missing`] if an id is no row (where the ids lie in host memory).
pub fn embedding<B: HostBackend>(
    table: Float<B>,
    ids: IntTensor<B>,
    device: &Device<B>,
) -> Result<Float<B>, TaskError> {
    let width = table.shape()[1];
    let mut shape = ids.shape().to_vec();
    let count: usize = shape.iter().product();
    shape.push(width);
    if let (Some(table), Some(ids)) = (table.host(), B::host_int(&ids)) {
        let rows = rows::embedding(&table, &ids, width).ok_or_else(outside)?;
        return Ok(Float::new(rows, &shape, device));
    }
    let ids = B::int_reshape(ids, Shape::from(vec![count]));
    Ok(Float(B::float_select(table.0, 0, ids)).reshape(&shape))
}

/// Gradient of a table: rows of g summed in the order of ids.
///
/// *Errors*: [`TaskError::Missing`] if an id is no row (where the ids lie in host memory).
pub fn embedding_grad<B: HostBackend>(
    ids: IntTensor<B>,
    g: Float<B>,
    rows: usize,
    device: &Device<B>,
) -> Result<Float<B>, TaskError> {
    let width = g.shape().last().copied().unwrap_or(1);
    let count: usize = ids.shape().to_vec().iter().product();
    if let (Some(g), Some(ids)) = (g.host(), B::host_int(&ids)) {
        let table = rows::embedding_grad(&ids, &g, rows, width).ok_or_else(outside)?;
        return Ok(Float::new(table, &[rows, width], device));
    }
    let ids = B::int_reshape(ids, Shape::from(vec![count]));
    let zeros = Float::<B>::full(0.0, &[rows, width], device);
    let g = g.reshape(&[count, width]);
    Ok(Float(B::float_select_assign(zeros.0, 0, ids, g.0, IndexingUpdateOp::Add)))
}
