//! Rewrites of graphs that keep what they compute: recomputation, frozen parameters, other names of inputs.
//!
//! Recomputation trades arithmetic for memory (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"):
//! a stage keeps only what came from outside and runs the forward nodes that its backward pass needs once more.

use std::collections::{BTreeMap, BTreeSet};

use super::cut::StageGraph;
use super::{Dag, DagError, Node, Source};
use crate::ids::ValueId;

/// Lets a stage recompute its activations in the backward pass instead of keeping them.
///
/// What is kept shrinks to data inputs and received activations. The backward program becomes the needed forward nodes
/// again, then the backward nodes. Dropout repeats its mask, since that is drawn from a counter. The statistics that a
/// recomputed batch normalisation gives flow into no buffer: updates belong to the forward program alone.
#[must_use]
pub fn recompute(mut stage: StageGraph) -> StageGraph {
    let mut needed: BTreeSet<ValueId> = stage.saved.iter().copied().collect();
    let mut again: Vec<Node> = Vec::new();
    for node in stage.forward.nodes.iter().rev() {
        if node.outputs.iter().any(|v| needed.contains(v)) {
            needed.extend(&node.inputs);
            again.push(node.clone());
        }
    }
    again.reverse();
    again.append(&mut stage.backward.nodes);
    stage.backward.nodes = again;

    let made: BTreeSet<ValueId> =
        stage.forward.nodes.iter().flat_map(|node| &node.outputs).copied().collect();
    let fixed: BTreeSet<ValueId> = stage.parameters.iter().chain(&stage.buffers).copied().collect();
    stage.saved = needed.into_iter().filter(|v| !made.contains(v) && !fixed.contains(v)).collect();

    let sent = stage.sends.iter().map(|(_, edge)| edge.value);
    let results = stage.results.iter().copied().chain(stage.loss);
    let updates = stage.updates.iter().map(|update| update.from);
    let kept: BTreeSet<ValueId> =
        sent.chain(results).chain(updates).chain(stage.saved.iter().copied()).collect();
    stage.forward.outputs = kept.into_iter().collect();
    stage
}

/// Lets parameters stand as they start: those that `is_frozen` names become buffers, which nothing flows into.
#[must_use]
pub fn freeze(mut dag: Dag, is_frozen: impl Fn(&str) -> bool) -> Dag {
    for value in &mut dag.values {
        if let Source::Parameter { init, .. } = value.source
            && is_frozen(&value.name)
        {
            value.source = Source::Buffer { init };
        }
    }
    dag
}

/// Gives data inputs other names: those under which a data source has what they are fed with.
///
/// *Errors*: [`DagError`] where a name is taken already, or is no name.
pub fn rename_inputs(mut dag: Dag, names: &BTreeMap<String, String>) -> Result<Dag, DagError> {
    for value in dag.values.iter_mut().filter(|v| v.source == Source::Input) {
        if let Some(name) = names.get(&value.name) {
            value.name.clone_from(name);
        }
    }
    dag.checked()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::grad::{GradError, differentiate};
    use crate::dag::{DagBuilder, Fact, Init, Op};

    fn network() -> Dag {
        let mut b = DagBuilder::new("two");
        let mut x = b.input("x", Fact::f32(&[2, 3]));
        for name in ["a", "b"] {
            let w = b.parameter(format!("{name}.weight"), &[3, 3], Init::Normal(0.1), true);
            x = b.op(name, Op::Linear, &[x, w]).unwrap();
        }
        let loss = b.op("loss", Op::ReduceMean { axes: vec![0, 1], keep: false }, &[x]).unwrap();
        b.output(loss);
        b.finish().unwrap()
    }

    #[test]
    fn what_is_frozen_gets_no_gradient() {
        let dag = freeze(network(), |name| name.starts_with("a.")).checked().unwrap();
        let training = differentiate(dag.clone(), 1).unwrap();
        let trained: BTreeSet<&str> = training
            .gradients
            .iter()
            .map(|g| training.dag.value(g.parameter).name.as_str())
            .collect();
        assert_eq!(trained, BTreeSet::from(["b.weight"]));
        assert_eq!(dag.buffers().count(), 1);
        let none = differentiate(freeze(network(), |_| true), 1);
        assert!(matches!(none, Err(GradError::NoPath(_))));
    }

    #[test]
    fn inputs_get_the_names_of_a_source() {
        let names = BTreeMap::from([("x".to_owned(), "images".to_owned())]);
        let dag = rename_inputs(network(), &names).unwrap();
        assert_eq!(dag.value(dag.inputs().next().unwrap()).name, "images");
        let taken = BTreeMap::from([("x".to_owned(), "a".to_owned())]);
        assert_eq!(rename_inputs(network(), &taken), Err(DagError::DuplicateName("a".into())));
    }
}
