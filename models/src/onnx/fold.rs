//! Evaluating nodes while importing: shapes of values are static, so what computes with them is known.
//!
//! Exporters write `Reshape(x, Concat(Gather(Shape(x), 0), [-1]))` and the like; none of it becomes an operator. Small
//! float constants fold too, weights do not: they are to be trained. A node that is not folded is mapped.
//!
//! Reading order: `places` (index arithmetic), `layout` (moving elements), `arithmetic`, `reduce`, `make` (constants), `run`
//! (all else).

mod arithmetic;
mod layout;
pub(super) mod make;
pub(super) mod places;
mod reduce;
mod run;

use super::array::Array;
use super::call::Call;
use super::import::{Role, Term};
use super::report::Reason;

/// Most elements of a folded result; larger ones are computed by the network.
const ELEMENTS_MAX: usize = 1 << 20;

type Folded = Result<Option<Vec<Array>>, Reason>;

/// Evaluates a node if its operands are known and it computes no weight; none if it has to be mapped.
///
/// *Errors*: the node contradicts its operands.
pub(super) fn evaluate(call: &Call<'_>) -> Folded {
    if let Some(arrays) = make::of_shapes(call)? {
        return Ok(Some(arrays));
    }
    let to_integers =
        call.operator() == "Cast" && !make::target(call)?.is_some_and(|k| k.is_float());
    let is_small = |term: &Term| match term {
        Term::Known(known) => {
            known.array.count() <= ELEMENTS_MAX && (known.role == Role::Constant || to_integers)
        }
        Term::Built(..) => false,
    };
    if !call.terms().all(is_small) {
        return Ok(None);
    }
    for family in [make::evaluate, layout::evaluate, arithmetic::evaluate, reduce::evaluate] {
        if let Some(arrays) = family(call)? {
            return Ok(Some(arrays));
        }
    }
    Ok(run::evaluated(call))
}

fn one(array: Array) -> Folded {
    Ok(Some(vec![array]))
}
