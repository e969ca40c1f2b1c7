//! ONNX operators in Wattle's: one function each, a file a family.
//!
//! A mapping reads a [`Call`] and returns its results. What it cannot express it refuses with the reason; it never
//! approximates.

mod activation;
mod arithmetic;
mod attention;
mod control;
mod conv;
mod einsum;
mod grid;
mod index;
pub(super) mod layout;
mod logic;
mod loss;
mod matrix;
mod norm;
mod pad;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod resize;
mod signal;
mod state;
mod window;

use super::call::Call;
use super::import::Term;
use super::report::Reason;

/// The results of a node, in order.
pub(super) type Mapped = Result<Vec<Term>, Reason>;
/// An operator with its mapping.
type Entry = (&'static str, fn(&mut Call<'_>) -> Mapped);

/// The families.
const FAMILIES: [&[Entry]; 21] = [
    activation::TABLE,
    arithmetic::TABLE,
    attention::TABLE,
    control::TABLE,
    conv::TABLE,
    einsum::TABLE,
    grid::TABLE,
    index::TABLE,
    layout::TABLE,
    logic::TABLE,
    loss::TABLE,
    matrix::TABLE,
    norm::TABLE,
    pad::TABLE,
    pool::TABLE,
    quantize::TABLE,
    recurrent::TABLE,
    reduce::TABLE,
    resize::TABLE,
    signal::TABLE,
    state::TABLE,
];

fn find(operator: &str) -> Option<&'static Entry> {
    FAMILIES.iter().flat_map(|family| family.iter()).find(|(name, _)| *name == operator)
}

/// Says whether an operator has a mapping.
pub(super) fn is_mapped(operator: &str) -> bool {
    find(operator).is_some()
}

/// Maps a node.
///
/// *Errors*: [`Reason`].
pub(super) fn apply(call: &mut Call<'_>) -> Mapped {
    let (_, mapping) = find(call.operator()).ok_or(Reason::Operator)?;
    mapping(call)
}

/// Returns the names of all operators that have a mapping, sorted.
pub(super) fn operators() -> Vec<&'static str> {
    let mut names: Vec<&str> =
        FAMILIES.iter().flat_map(|f| f.iter().map(|(name, _)| *name)).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operator_is_mapped_once() {
        let names = operators();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
    }
}
