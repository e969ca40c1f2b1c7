//! Laws of backward passes, on random networks. Their numbers are checked by the executor's tests.

use proptest::prelude::*;

use super::*;
use crate::dag::op::Unary;
use crate::dag::sample::random_dag;
use crate::dag::{Fact, Init};

proptest! {
    #[test]
    fn gradients_have_the_shapes_of_what_they_are_gradients_of(seed: u64, nodes in 6usize..120) {
        let training = differentiate(random_dag(seed, nodes), 3).unwrap();
        let dag = training.dag.clone().checked().unwrap();
        for (value, cotangent) in &training.cotangents {
            prop_assert_eq!(dag.fact(*value), dag.fact(*cotangent));
        }
        for part in &training.gradients {
            prop_assert_eq!(dag.fact(part.parameter), dag.fact(part.value));
        }
        for parameter in dag.parameters() {
            let parts: Vec<u16> =
                training.gradients.iter().filter(|p| p.parameter == parameter).map(|p| p.part).collect();
            prop_assert!(!parts.is_empty(), "{} gets no gradient", dag.value(parameter).name);
            prop_assert!(parts.iter().copied().eq(0..u16::try_from(parts.len()).unwrap()));
        }
    }

    /// What lets a cut place backward nodes beside their forward nodes.
    #[test]
    fn backward_nodes_read_what_their_forward_node_sees(seed: u64, nodes in 6usize..120) {
        let training = differentiate(random_dag(seed, nodes), 1).unwrap();
        let dag = &training.dag;
        prop_assert_eq!(training.origin.len(), dag.nodes().len() - training.forward_nodes);
        let forward = training.forward_values();
        for (node, origin) in dag.nodes()[training.forward_nodes..].iter().zip(&training.origin) {
            let origin = dag.node(*origin);
            for id in node.inputs.iter().filter(|id| id.index() < forward) {
                prop_assert!(origin.inputs.contains(id) || origin.outputs.contains(id));
            }
        }
        prop_assert!(training.origin.is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn no_backward_node_is_dead(seed: u64, nodes in 6usize..120) {
        let training = differentiate(random_dag(seed, nodes), 1).unwrap();
        let mut needed: BTreeSet<ValueId> = training.gradients.iter().map(|p| p.value).collect();
        for node in training.dag.nodes()[training.forward_nodes..].iter().rev() {
            prop_assert!(node.outputs.iter().any(|v| needed.contains(v)), "{} is dead", node.name);
            needed.extend(&node.inputs);
        }
    }
}

fn refusal(build: impl FnOnce(&mut DagBuilder) -> ValueId) -> GradError {
    let mut builder = DagBuilder::new("refused");
    let loss = build(&mut builder);
    builder.output(loss);
    differentiate(builder.finish().unwrap(), 1).unwrap_err()
}

const TOTAL: [usize; 2] = [0, 1];

fn total(b: &mut DagBuilder, x: ValueId) -> ValueId {
    let axes = TOTAL[..b.fact(x).rank()].to_vec();
    b.op("loss", Op::ReduceSum { axes, keep: false }, &[x]).unwrap()
}

#[test]
fn what_cannot_be_trained_is_refused_by_name() {
    let error = refusal(|b| b.parameter("p", &[], Init::Constant(1.0), false));
    assert!(matches!(error, GradError::Loss { .. }), "a loss that no node computes: {error}");
    let error = refusal(|b| {
        let p = b.parameter("p", &[2], Init::Constant(1.0), false);
        b.op("y", Op::Unary(Unary::Tanh), &[p]).unwrap()
    });
    assert!(matches!(error, GradError::Loss { .. }), "a loss with axes: {error}");
    let error = refusal(|b| {
        let x = b.input("x", Fact::f32(&[2, 2]));
        total(b, x)
    });
    assert_eq!(error, GradError::NoPath("loss".into()));
    let error = refusal(|b| {
        let p = b.parameter("p", &[2], Init::Constant(1.0), false);
        let y = b.op("y", Op::ReluGrad, &[p, p]).unwrap();
        total(b, y)
    });
    assert_eq!(error, GradError::NotDifferentiable { node: "y".into(), op: "relu_grad" });
    let error = refusal(|b| {
        let p = b.parameter("p", &[2, 2], Init::Constant(1.0), false);
        let gain = b.parameter("gain", &[2], Init::Constant(1.0), false);
        let y = b.apply("y", Op::LayerNorm { eps: 1e-5 }, &[p, gain, gain]).unwrap();
        total(b, y[1])
    });
    assert_eq!(error, GradError::Auxiliary("y#1".into()));
}

#[test]
fn a_fan_out_is_summed_from_its_latest_consumer_on() {
    let mut b = DagBuilder::new("fan-out");
    let p = b.parameter("p", &[2], Init::Constant(1.0), false);
    let x = b.op("x", Op::Unary(Unary::Tanh), &[p]).unwrap();
    let square = b.op("square", Op::Mul, &[x, x]).unwrap();
    let y = b.op("y", Op::Sub, &[square, x]).unwrap();
    let loss = total(&mut b, y);
    b.output(loss);
    let training = differentiate(b.finish().unwrap(), 1).unwrap();
    let names: Vec<usize> = training.contributions[&x].iter().map(|c| c.consumer.index()).collect();
    assert_eq!(names, [2, 1, 1], "the difference, then both operands of the product");
    let sum = training.dag.producer(training.cotangents[&x]).unwrap();
    assert_eq!(training.dag.node(sum).op, Op::AddN);
    assert_eq!(training.origin[sum.index() - training.forward_nodes], NodeId::new(0));
}

#[test]
fn a_frozen_batch_norm_passes_gradients_through_itself() {
    let mut b = DagBuilder::new("frozen");
    let w = b.parameter("w", &[2, 3, 4, 5], Init::Normal(1.0), true);
    let gain = b.parameter("gain", &[3], Init::Constant(1.0), false);
    let bias = b.parameter("bias", &[3], Init::Constant(0.0), false);
    let mean = b.buffer("mean", &[3], Init::Constant(0.0));
    let var = b.buffer("var", &[3], Init::Constant(1.0));
    let op = Op::BatchNormInference { eps: 1e-5 };
    let y = b.op("y", op, &[w, gain, bias, mean, var]).unwrap();
    let axes = vec![0, 1, 2, 3];
    let loss = b.op("loss", Op::ReduceSum { axes, keep: false }, &[y]).unwrap();
    b.output(loss);
    let training = differentiate(b.finish().unwrap(), 1).unwrap();
    assert_eq!(training.gradients.len(), 3);
}

/// Lengths that all differ leave only one way to arrange the products.
#[test]
fn products_give_gradients_however_their_operands_lie() {
    let leads: [(&[usize], &[usize]); 4] = [(&[], &[]), (&[5], &[]), (&[], &[5]), (&[5, 1], &[6])];
    for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
        for (a_lead, b_lead) in leads {
            let mut b = DagBuilder::new("product");
            let rows: &[usize] = if transpose_a { &[3, 2] } else { &[2, 3] };
            let columns: &[usize] = if transpose_b { &[4, 3] } else { &[3, 4] };
            let left = b.parameter("a", &[a_lead, rows].concat(), Init::Normal(1.0), true);
            let right = b.parameter("b", &[b_lead, columns].concat(), Init::Normal(1.0), true);
            let product = Op::MatMul { transpose_a, transpose_b };
            let y = b.op("y", product, &[left, right]).unwrap();
            let axes = (0..b.fact(y).rank()).collect();
            let loss = b.op("loss", Op::ReduceSum { axes, keep: false }, &[y]).unwrap();
            b.output(loss);
            let training = differentiate(b.finish().unwrap(), 1).unwrap();
            assert_eq!(training.gradients.len(), 2);
            for part in &training.gradients {
                assert_eq!(training.dag.fact(part.value), training.dag.fact(part.parameter));
            }
        }
    }
}
