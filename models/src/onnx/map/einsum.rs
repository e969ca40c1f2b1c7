//! Sums of products over named axes: the composition, under ONNX's name.

use wattle_protocol::dag::compose::einsum;

use super::super::call::Call;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[("Einsum", contraction)];

fn contraction(call: &mut Call<'_>) -> Mapped {
    let equation = call.text("equation", "")?;
    let operands = call.values()?;
    let y = call.compose(|scope| einsum::einsum(scope, equation, &operands))?;
    call.like_first(y)
}
