//! Matrix products.

use wattle_protocol::dag::Op;
use wattle_protocol::ids::ValueId;

use super::super::array::Kind;
use super::super::call::Call;
use super::super::import::Term;
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] =
    &[("MatMul", matmul), ("Gemm", gemm), ("MatMulInteger", matmul_integer)];

type Made = Result<ValueId, Reason>;

/// A product in which vectors are matrices of one row or column, as NumPy has it.
pub(super) fn product(call: &mut Call<'_>, a: ValueId, b: ValueId) -> Made {
    let (a_shape, b_shape) = (call.shape_of(a), call.shape_of(b));
    let (a_vector, b_vector) = (a_shape.len() == 1, b_shape.len() == 1);
    let is_int = call.is_int(a);
    let (mut x, mut y) = (call.as_float(a)?, call.as_float(b)?);
    if a_vector {
        x = call.reshape(x, &[1, a_shape[0]])?;
    }
    if b_vector {
        y = call.reshape(y, &[b_shape[0], 1])?;
    }
    // A plain weight on the right is one large product over all leading axes.
    let mut z = if call.shape_of(y).len() == 2 && call.shape_of(x).len() >= 2 {
        call.op(Op::Linear, &[x, y])?
    } else {
        call.matmul(x, y)?
    };
    let mut shape = call.shape_of(z);
    if b_vector {
        shape.pop();
    }
    if a_vector {
        shape.remove(shape.len() - usize::from(!b_vector) - 1);
    }
    z = call.reshape(z, &shape)?;
    if is_int { call.as_int(z) } else { Ok(z) }
}

fn matmul(call: &mut Call<'_>) -> Mapped {
    let (a, b) = (call.value(0)?, call.value(1)?);
    need_exact(call)?;
    let y = product(call, a, b)?;
    call.like_first(y)
}

/// Products of integers are computed as floats, which are exact as long as the integers are narrow.
fn need_exact(call: &Call<'_>) -> Result<(), Reason> {
    let kind = call.kind(0)?;
    if kind.is_float() || kind.size() == 1 {
        return Ok(());
    }
    Err(Reason::form(format!("matrices of {kind} are not supported; cast to float")))
}

fn gemm(call: &mut Call<'_>) -> Mapped {
    let (alpha, beta) = (call.float("alpha", 1.0)?, call.float("beta", 1.0)?);
    let (transpose_a, transpose_b) = (call.flag("transA", false)?, call.flag("transB", false)?);
    let (a, b, c) = (call.value(0)?, call.value(1)?, call.optional(2)?);
    if !call.kind(0)?.is_float() {
        return Err(Reason::form("matrices of integers are not supported; cast to float"));
    }
    let rows = call.shape_of(b);
    let is_bias = |shape: &[usize]| rows.len() == 2 && *shape == rows[1..];
    let bias = c.filter(|c| is_bias(&call.shape_of(*c)));
    if alpha == 1.0 && beta == 1.0 && !transpose_a && !transpose_b && bias.is_some() == c.is_some()
    {
        let operands: Vec<ValueId> = [a, b].into_iter().chain(bias).collect();
        let y = call.op(Op::Linear, &operands)?;
        return call.like_first(y);
    }
    let mut y = call.op(Op::MatMul { transpose_a, transpose_b }, &[a, b])?;
    if alpha != 1.0 {
        y = call.scale(y, alpha)?;
    }
    if let Some(mut c) = c.filter(|_| beta != 0.0) {
        if beta != 1.0 {
            c = call.scale(c, beta)?;
        }
        y = call.add(y, c)?;
    }
    call.like_first(y)
}

/// Zero points are taken off first; each is a number, or one a row of A or a column of B.
fn matmul_integer(call: &mut Call<'_>) -> Mapped {
    let (mut a, mut b) = (call.value(0)?, call.value(1)?);
    if let Some(zero) = call.optional(2)? {
        let rows = call.shape_of(zero);
        let zero =
            if rows.len() == 1 && rows[0] > 1 { call.reshape(zero, &[rows[0], 1])? } else { zero };
        a = call.sub(a, zero)?;
    }
    if let Some(zero) = call.optional(3)? {
        b = call.sub(b, zero)?;
    }
    let y = product(call, a, b)?;
    Ok(vec![Term::Built(y, Kind::I32)])
}
