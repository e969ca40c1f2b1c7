//! What a builder makes passes the check; what a stranger twists is refused, and nothing panics.

use proptest::prelude::*;

use super::*;
use crate::dag::cut::{cut, renumber, whole};
use crate::dag::grad::differentiate;
use crate::dag::op::{Conv2d, Pool2d};
use crate::dag::sample::{random_assignment, random_dag};
use crate::dag::text::{parse, to_text};

/// Twists one thing in a Dag. `pick` and `number` may be anything.
fn twist(dag: &mut Dag, what: u8, pick: usize, number: usize) {
    let node = pick % dag.nodes.len();
    let value = pick % dag.values.len();
    let id = ValueId::new(u32::try_from(number).unwrap_or(u32::MAX));
    match what {
        0 => dag.nodes[node].inputs = vec![id],
        1 => dag.nodes[node].inputs.push(id),
        2 => drop(dag.nodes[node].inputs.pop()),
        3 => dag.nodes[node].outputs.push(id),
        4 => dag.nodes[node].outputs.clear(),
        5 => dag.values[value].fact.shape.push(number),
        6 => dag.values[value].fact.dtype = Dtype::Bf16,
        7 => dag.values[value].source = Source::Node { node: NodeId::new(9), slot: 3 },
        8 => dag.values[value].source = Source::Input,
        9 => dag.values.truncate(value),
        10 => dag.nodes.truncate(node),
        11 => dag.outputs = vec![id],
        12 => dag.outputs.clear(),
        13 => dag.updates.push(BufferUpdate { buffer: id, from: id, momentum: 0.5 }),
        14 => dag.nodes.swap(node, 0),
        15 => dag.values.swap(value, 0),
        16 => dag.values[value].name = dag.values[0].name.clone(),
        17 => dag.values[value].name.clear(),
        18 => dag.nodes[node].op = Op::Reshape { shape: vec![number, number] },
        19 => dag.nodes[node].op = Op::Slice { axis: number, start: pick, end: number },
        20 => dag.nodes[node].op = Op::Unslice { axis: 0, start: number, len: pick },
        21 => dag.nodes[node].op = Op::Fill { shape: vec![number; 3], value: f32::NAN },
        22 => dag.nodes[node].op = Op::Transpose { perm: vec![number, pick, 0] },
        23 => {
            let (stride, padding) = ([number, 1], [pick, number]);
            let conv = Conv2d { stride, padding, dilation: [number, 1], groups: pick };
            dag.nodes[node].op = Op::Conv2dInputGrad { conv, shape: [number; 4] };
        }
        24 => {
            let pool = Pool2d { kernel: [number, 2], stride: [pick, 1], padding: [number, 0] };
            dag.nodes[node].op = Op::AvgPool2dGrad { pool, shape: [pick; 4] };
        }
        25 => dag.nodes[node].op = Op::Expand { shape: vec![number; 12] },
        26 => dag.nodes[node].op = Op::ReduceMean { axes: vec![number, pick], keep: true },
        27 => dag.nodes[node].op = Op::Softmax { axis: number },
        28 => dag.nodes[node].op = Op::EmbeddingGrad { rows: number },
        29 => dag.nodes[node].op = Op::LinearWeightGrad,
        30 => dag.nodes[node].op = Op::Relu,
        _ => dag.nodes[node].op = Op::AddN,
    }
}

/// Numbers at which arithmetic breaks, and ordinary ones.
fn number() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..12, Just(usize::MAX), Just(1 << 35), Just(1 << 63), any::<usize>()]
}

proptest! {
    #[test]
    fn what_a_builder_makes_passes_the_check_and_reads_back(seed: u64, nodes in 6usize..120) {
        let dag = random_dag(seed, nodes);
        prop_assert_eq!(&dag.clone().checked().unwrap(), &dag);
        prop_assert_eq!(&parse(&to_text(&dag)).unwrap(), &dag);
        let training = differentiate(dag, 7).unwrap();
        prop_assert_eq!(&parse(&to_text(&training.dag)).unwrap(), &training.dag);
    }

    #[test]
    fn a_twisted_dag_never_panics(seed: u64, what in 0u8..32, pick in number(), number in number()) {
        let mut dag = random_dag(seed, 40);
        twist(&mut dag, what, pick, number);
        // A twist that leaves a valid Dag must leave one that can be trained or is refused, and that can be cut.
        if let Ok(dag) = dag.checked() && let Ok(training) = differentiate(dag, 1) {
            let assignment = random_assignment(seed, &training, 4);
            prop_assert!(renumber(&training, &assignment).is_ok());
            let cut = cut(&training, &assignment);
            prop_assert_eq!(whole(&training).stages.len(), 1);
            prop_assert!(cut.is_ok(), "{:?}", cut.err());
        }
    }

    #[test]
    fn a_twisted_text_never_panics(seed: u64, place: prop::sample::Index, with in "[ -~]{0,3}", cut in 0usize..4) {
        let mut text = to_text(&random_dag(seed, 20));
        let at = place.index(text.len());
        let end = (at + cut).min(text.len());
        text.replace_range(at..end, &with);
        let _verdict = parse(&text);
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text in "(dag|output|update|%[0-9]{1,3}|[a-z_]{1,9}|[ -~]|\n|\\PC){0,60}") {
        let _verdict = parse(&text);
        let _verdict = parse(&format!("dag a\n%0 x: {text}"));
        let _verdict = parse(&format!("dag a\n%0 x: f32[2] = {text}"));
    }

    #[test]
    fn names_of_any_characters_read_back(name in "\\PC{1,20}|[ -~]{1,20}|\u{1}\n\r\t\"\\\\") {
        let mut b = DagBuilder::new(name.clone());
        let x = b.input(name.clone(), Fact::f32(&[2]));
        let y = b.op(format!("{name}#0"), Op::Relu, &[x]).unwrap();
        b.output(y);
        let dag = b.finish().unwrap();
        prop_assert_eq!(&parse(&to_text(&dag)).unwrap(), &dag);
    }
}

#[test]
fn twists_that_leave_no_valid_dag_are_refused() {
    let dag = random_dag(1, 40);
    for what in [4, 5, 6, 7, 12, 13, 16, 17, 21, 23, 24, 25] {
        let mut twisted = dag.clone();
        twist(&mut twisted, what, 17, usize::MAX);
        assert!(twisted.checked().is_err(), "twist {what} passed");
    }
}

#[test]
fn mistakes_name_the_node_and_the_shapes() {
    let mut b = DagBuilder::new("wrong");
    let x = b.input("x", Fact::f32(&[2, 3]));
    let w = b.parameter("w", &[4, 3], Init::Normal(0.1), true);
    let error = b.op("fc", Op::Linear, &[x, w]).unwrap_err().to_string();
    assert!(error.contains("fc") && error.contains("f32[2,3], f32[4,3]"), "{error}");
    assert!(matches!(b.op("x", Op::Relu, &[x]), Err(DagError::DuplicateName(_))));
    let gone = ValueId::new(77);
    assert!(matches!(b.op("y", Op::Relu, &[gone]), Err(DagError::UnknownValue { .. })));
    assert!(matches!(b.update(w, x, 0.1), Err(DagError::Update { .. })));
    assert_eq!(b.clone().finish().unwrap_err(), DagError::NoOutput);
    b.parameter("w", &[0], Init::Normal(-1.0), true);
    b.output(x);
    assert!(matches!(b.finish(), Err(DagError::Leaf { .. })));
}
