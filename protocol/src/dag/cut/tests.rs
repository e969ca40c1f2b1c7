//! Laws of cuts, on random networks: every cut computes what the whole network computes, and costs as much.
//!
//! The networks run on numbers that stand for terms: an operator's result is a hash of the operator and its operands,
//! except that sums are sums (modulo a prime). So two programs agree exactly where they compute the same terms up to
//! the order of additions, which is what a cut may change.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::dag::cost::{network_cost, stage_cost};
use crate::dag::grad::differentiate;
use crate::dag::op::Unary;
use crate::dag::rewrite::recompute;
use crate::dag::sample::{random_assignment, random_dag};
use crate::dag::{DagBuilder, Fact, Init, Op, Source};

const PRIME: u64 = (1 << 61) - 1;

type Terms = BTreeMap<ValueId, u64>;

fn hash(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()) % PRIME
}

/// Runs a program on terms; panics where it reads what is not there, or makes what is there already.
fn run(program: &Program, mut terms: Terms) -> Terms {
    for node in &program.nodes {
        let inputs: Vec<u64> = node.inputs.iter().map(|id| terms[id]).collect();
        for (slot, id) in node.outputs.iter().enumerate() {
            let term = match node.op {
                Op::AddN => inputs.iter().fold(0, |sum, x| (sum + x) % PRIME),
                _ => hash(&format!("{:?} {inputs:?} {slot}", node.op)),
            };
            assert_eq!(terms.insert(*id, term), None, "{} is made twice", node.name);
        }
    }
    program.outputs.iter().map(|id| (*id, terms[id])).collect()
}

fn leaves(stage: &StageGraph, ids: &[ValueId]) -> Terms {
    ids.iter().map(|id| (*id, hash(&stage.values[id].name))).collect()
}

/// What a step computes: the loss, other results, the sums of gradient parts, and what flows into buffers.
#[derive(Debug, PartialEq)]
struct Step {
    loss: u64,
    gradients: BTreeMap<(ValueId, u16), u64>,
    updates: BTreeMap<ValueId, u64>,
}

fn step(cut: &Cut) -> Step {
    let mut activations = Terms::new();
    let mut saved = Vec::new();
    let mut step = Step { loss: 0, gradients: BTreeMap::new(), updates: BTreeMap::new() };
    for stage in &cut.stages {
        let mut terms =
            leaves(stage, &[&stage.data[..], &stage.parameters, &stage.buffers].concat());
        terms.extend(stage.receives.iter().map(|(_, e)| (e.value, activations[&e.value])));
        let made = run(&stage.forward, terms.clone());
        activations.extend(stage.sends.iter().map(|(_, e)| (e.value, made[&e.value])));
        step.loss += stage.loss.map_or(0, |loss| made[&loss]);
        step.updates.extend(stage.updates.iter().map(|u| (u.buffer, made[&u.from])));
        terms.extend(made);
        saved.push(stage.saved.iter().map(|id| (*id, terms[id])).collect::<Terms>());
    }
    let mut cotangents: BTreeMap<EdgeId, u64> = BTreeMap::new();
    for (stage, mut terms) in cut.stages.iter().zip(saved).rev() {
        terms.extend(leaves(stage, &[&stage.parameters[..], &stage.buffers].concat()));
        for (id, edge) in &stage.sends {
            terms.extend(edge.cotangent.map(|value| (value, cotangents[id])));
        }
        let made = run(&stage.backward, terms);
        for (id, edge) in &stage.receives {
            cotangents.extend(edge.cotangent.map(|value| (*id, made[&value])));
        }
        for part in &stage.gradients {
            let term = made[&part.value];
            assert_eq!(step.gradients.insert((part.parameter, part.part), term), None);
        }
    }
    step
}

fn sample(seed: u64, nodes: usize, stages: u16) -> (Training, Cut) {
    let training = differentiate(random_dag(seed, nodes), 4).unwrap();
    let assignment = random_assignment(seed ^ 1, &training, stages);
    let cut = cut(&training, &assignment).unwrap();
    (training, cut)
}

fn check_edges(cut: &Cut) {
    let mut cotangents = BTreeSet::new();
    for (edge, id) in cut.edges.iter().zip(0..) {
        let id = EdgeId::new(id);
        let (from, to) = (&cut.stages[edge.from.index()], &cut.stages[edge.to.index()]);
        assert!(edge.from < edge.to);
        assert!(
            from.sends.contains(&(id, edge.clone())) && to.receives.contains(&(id, edge.clone()))
        );
        assert_eq!(from.values[&edge.value].fact, edge.fact);
        if let Some(cotangent) = edge.cotangent {
            assert!(cotangents.insert(cotangent), "two edges share a cotangent");
            assert_eq!(from.values[&cotangent].fact, edge.fact);
            assert!(to.backward.nodes.iter().any(|node| node.outputs.contains(&cotangent)));
        }
    }
    let ends: usize = cut.stages.iter().map(|s| s.sends.len() + s.receives.len()).sum();
    assert_eq!(ends, 2 * cut.edges.len());
}

fn check_stage(training: &Training, stage: &StageGraph) {
    let fixed: BTreeSet<ValueId> = stage.parameters.iter().chain(&stage.buffers).copied().collect();
    assert!(stage.saved.iter().all(|id| !fixed.contains(id)));
    for part in &stage.gradients {
        assert_eq!(stage.values[&part.value].fact, *training.dag.fact(part.parameter));
        assert!(stage.backward.nodes.iter().any(|node| node.outputs.contains(&part.value)));
    }
    for (id, value) in &stage.values {
        let is_own = id.index() < training.dag.values().len();
        assert!(!is_own || training.dag.value(*id) == value);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn a_cut_computes_what_the_whole_computes(seed: u64, nodes in 6usize..90, stages in 1u16..9) {
        let (training, cut) = sample(seed, nodes, stages);
        check_edges(&cut);
        cut.stages.iter().for_each(|stage| check_stage(&training, stage));
        let expected = step(&whole(&training));
        prop_assert_eq!(&step(&cut), &expected);
        prop_assert_eq!(expected.gradients.len(), training.gradients.len());

        let stages: Vec<StageGraph> = cut.stages.into_iter().map(recompute).collect();
        for stage in &stages {
            let received = stage.receives.iter().map(|(_, e)| e.value);
            let outside: BTreeSet<ValueId> = received.chain(stage.data.iter().copied()).collect();
            prop_assert!(stage.saved.iter().all(|id| outside.contains(id)));
        }
        prop_assert_eq!(step(&Cut { stages, edges: cut.edges }), expected);
    }

    #[test]
    fn a_cut_covers_each_node_once_and_costs_as_much(seed: u64, nodes in 6usize..90, stages in 1u16..9) {
        let (training, cut) = sample(seed, nodes, stages);
        let mut names: Vec<&str> =
            cut.stages.iter().flat_map(|s| &s.forward.nodes).map(|n| n.name.as_str()).collect();
        names.sort_unstable();
        let mut expected: Vec<&str> =
            training.dag.nodes()[..training.forward_nodes].iter().map(|n| n.name.as_str()).collect();
        expected.sort_unstable();
        prop_assert_eq!(names, expected);

        let network = network_cost(&training);
        let stages: Vec<_> = cut.stages.iter().map(stage_cost).collect();
        let sum = |part: fn(&crate::dag::cost::StageCost) -> u64| stages.iter().map(part).sum::<u64>();
        prop_assert_eq!(sum(|s| s.forward.count()), network.forward.count());
        prop_assert_eq!(sum(|s| s.backward.count()), network.backward.count());
        prop_assert_eq!(sum(|s| s.sent_bytes.count()), sum(|s| s.received_bytes.count()));
        let back = sum(|s| s.cotangent_sent_bytes.count());
        prop_assert_eq!(back, sum(|s| s.cotangent_received_bytes.count()));
        // A parameter that several stages read is held by each; all but the one at home are copies.
        let at_home = cut.stages.iter().flat_map(|stage| {
            stage.shared.iter().filter(|shared| shared.home == stage.stage)
        });
        let copies: u64 = at_home
            .map(|s| training.dag.fact(s.parameter).bytes().count() * (s.stages.len() as u64 - 1))
            .sum();
        prop_assert_eq!(sum(|s| s.parameter_bytes.count()), network.parameter_bytes.count() + copies);
        prop_assert_eq!(stage_cost(&whole(&training).stages[0]).saved_bytes, network.saved_bytes);
    }

    #[test]
    fn shuffled_stages_are_put_in_order(seed: u64, stages in 2u16..9) {
        let training = differentiate(random_dag(seed, 60), 1).unwrap();
        let ordered = random_assignment(seed, &training, stages);
        let mirrored: Vec<StageId> = ordered
            .iter()
            .map(|s| StageId::new(stages - 1 - u16::try_from(s.index()).unwrap()))
            .collect();
        let repaired = renumber(&training, &mirrored).unwrap();
        prop_assert!(cut(&training, &repaired).is_ok());
        // The same nodes are together.
        let pairs = |a: &[StageId], b: &[StageId]| -> BTreeSet<(StageId, StageId)> {
            a.iter().copied().zip(b.iter().copied()).collect()
        };
        prop_assert_eq!(pairs(&mirrored, &repaired).len(), usize::from(stages));
    }
}

/// `x -> a -> b -> loss`, all with one weight.
fn chain() -> Training {
    let mut b = DagBuilder::new("chain");
    let x = b.input("x", Fact::f32(&[2, 3]));
    let w = b.parameter("w", &[3, 3], Init::Normal(0.1), true);
    let first = b.op("a", Op::Linear, &[x, w]).unwrap();
    let second = b.op("b", Op::Linear, &[first, w]).unwrap();
    let loss = b.op("loss", Op::ReduceMean { axes: vec![0, 1], keep: false }, &[second]).unwrap();
    b.output(loss);
    differentiate(b.finish().unwrap(), 1).unwrap()
}

fn stages(numbers: &[u16]) -> Vec<StageId> {
    numbers.iter().copied().map(StageId::new).collect()
}

#[test]
fn illegal_cuts_are_refused_with_the_stages_and_the_value() {
    let training = chain();
    let check = |numbers: &[u16], expected: &CutError| {
        assert_eq!(&cut(&training, &stages(numbers)).unwrap_err(), expected);
    };
    let [s0, s1, s2] = [0, 1, 2].map(StageId::new);
    check(&[0, 0], &CutError::Length { nodes: 3, assigned: 2 });
    check(&[0, 2, 2], &CutError::Gap { empty: s1, last: s2 });
    check(&[1, 0, 0], &CutError::Order { from: s1, to: s0, value: "a".into() });
    assert!(matches!(cut(&training, &stages(&[0, 1, 0])), Err(CutError::Cyclic { .. })));
    assert_eq!(renumber(&training, &stages(&[1, 0, 0])).unwrap(), stages(&[0, 1, 1]));
}

#[test]
fn a_tied_weight_is_shared_with_its_parts_in_order() {
    let cut = cut(&chain(), &stages(&[0, 1, 2])).unwrap();
    let shared = &cut.stages[0].shared[0];
    assert_eq!(shared.parts, stages(&[1, 0]), "the latest use comes first");
    assert_eq!(shared.stages, stages(&[0, 1]));
    assert_eq!(shared.home, StageId::new(0));
    assert_eq!(cut.stages[1].shared, cut.stages[0].shared);
    assert!(cut.stages[2].shared.is_empty());
    assert!(cut.stages[2].loss.is_some() && cut.stages[0].loss.is_none());
}

#[test]
fn a_cotangent_that_is_handed_on_unchanged_gets_a_value_for_each_edge() {
    let mut b = DagBuilder::new("sum");
    let [p, q] = ["p", "q"].map(|name| b.parameter(name, &[2], Init::Constant(1.0), false));
    let a = b.op("a", Op::Unary(Unary::Tanh), &[p]).unwrap();
    let c = b.op("c", Op::Add, &[a, q]).unwrap();
    let d = b.op("d", Op::Add, &[c, a]).unwrap();
    let loss = b.op("loss", Op::ReduceSum { axes: vec![0], keep: false }, &[d]).unwrap();
    b.output(loss);
    let training = differentiate(b.finish().unwrap(), 1).unwrap();
    let cut = cut(&training, &stages(&[0, 1, 2, 3])).unwrap();
    check_edges(&cut);
    cut.stages.iter().for_each(|stage| check_stage(&training, stage));
    assert_eq!(step(&cut), step(&whole(&training)));
}

#[test]
fn a_buffer_must_be_updated_where_it_is_used() {
    let mut b = DagBuilder::new("running");
    let x = b.input("x", Fact::f32(&[2, 3]));
    let w = b.parameter("w", &[3], Init::Constant(1.0), false);
    let running = b.buffer("running", &[3], Init::Constant(0.0));
    let y = b.op("y", Op::Mul, &[x, w]).unwrap();
    let mean = b.op("mean", Op::ReduceMean { axes: vec![0], keep: false }, &[y]).unwrap();
    let centered = b.op("centered", Op::Sub, &[y, running]).unwrap();
    let loss = b.op("loss", Op::ReduceMean { axes: vec![0, 1], keep: false }, &[centered]).unwrap();
    b.update(running, mean, 0.1).unwrap();
    b.output(loss);
    let training = differentiate(b.finish().unwrap(), 1).unwrap();
    let error = cut(&training, &stages(&[0, 0, 1, 1])).unwrap_err();
    assert!(matches!(error, CutError::BufferSplit { .. }), "{error}");
    let cut = cut(&training, &stages(&[0, 1, 1, 1])).unwrap();
    assert_eq!(cut.stages[1].updates.len(), 1);
    assert!(matches!(cut.stages[1].values[&running].source, Source::Buffer { .. }));
}
