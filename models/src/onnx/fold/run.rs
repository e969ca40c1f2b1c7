//! Folding what has no rule here, by running it: the node becomes a network of its own, whose operands are constants.
//!
//! So whatever is mapped also folds, and shapes may be computed with any operator.

use std::collections::BTreeMap;

use super::super::array::{Array, Kind};
use super::super::call::Call;
use super::super::graph::Step;
use super::super::import::{Importer, Term};
use super::super::map;
use crate::exec::device::DeviceChoice;
use crate::exec::evaluate::{HostValues, evaluate};

/// Most elements of all operands together: what computes sizes and small tables.
const ELEMENTS_MAX: usize = 1 << 12;

/// Most operators that are run for one node.
const NODES_MAX: usize = 1 << 10;

/// Returns a node's results if its operands are small constants and it runs; none if not.
pub(super) fn evaluated(call: &Call<'_>) -> Option<Vec<Array>> {
    let mut small = Importer::new("constant", None);
    let mut operands = Vec::new();
    let mut count = 0;
    for at in 0..call.count() {
        operands.push(match call.shared(at) {
            Some(known) => {
                count += known.array.count();
                Some(small.constant(&known.name, known.array.clone()))
            }
            None => None,
        });
    }
    if count > ELEMENTS_MAX || operands.iter().all(Option::is_none) {
        return None;
    }
    let step = Step { node: call.step.node.clone(), opset: call.step.opset };
    let terms = map::apply(&mut Call::new(&mut small, &step, operands)).ok()?;
    let mut results = Vec::new();
    for term in &terms {
        results.push(match term {
            Term::Known(known) => Ok(known.array.clone()),
            Term::Built(value, kind) => {
                small.builder.output(*value);
                Err((*value, *kind))
            }
        });
    }
    if results.iter().all(Result::is_ok) {
        return results.into_iter().map(Result::ok).collect();
    }
    let state: BTreeMap<String, Vec<f32>> =
        small.weights.into_values().map(|(name, _, values)| (name, values)).collect();
    let dag = small.builder.finish().ok()?;
    let most = dag.values().iter().map(|value| value.fact.elements()).max()?;
    if most > super::ELEMENTS_MAX || dag.nodes().len() > NODES_MAX {
        return None;
    }
    let outputs = evaluate(&dag, &BTreeMap::new(), &state, DeviceChoice::Cpu).ok()?;
    let mut outputs = outputs.into_iter();
    let arrays = results.into_iter().map(|result| match result {
        Ok(array) => Some(array),
        Err((value, kind)) => typed(kind, dag.fact(value).shape.clone(), outputs.next()?),
    });
    arrays.collect()
}

fn typed(kind: Kind, shape: Vec<usize>, values: HostValues) -> Option<Array> {
    Some(match values {
        HostValues::Floats(values) if kind.is_float() => Array::floats(kind, shape, values),
        HostValues::Ints(values) if !kind.is_float() => {
            Array::ints(kind, shape, values.into_iter().map(i64::from).collect())
        }
        HostValues::Floats(_) | HostValues::Ints(_) => return None,
    })
}
