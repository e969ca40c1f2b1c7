//! Values of recurrent layers, general attention and sampled volumes against PyTorch's, which `sequences.py` prints.

use std::collections::BTreeMap;

use wattle_protocol::dag::compose::{Built, Scope, recurrent, sample, volume};
use wattle_protocol::dag::op::Op;
use wattle_protocol::dag::{DagBuilder, Fact};
use wattle_protocol::ids::ValueId;

use crate::DeviceChoice;
use crate::exec::evaluate::{HostValues, evaluate};

/// The values have six decimals; sums run in another order.
const TOLERANCE: f32 = 2e-6;

/// Elements `sin(0.7 i + start)`.
fn waves(count: usize, start: f32) -> Vec<f32> {
    (0..count).map(|i| (f32::from(u16::try_from(i).unwrap()) * 0.7 + start).sin()).collect()
}

/// Builds over inputs of these shapes and elements, runs on the CPU and compares.
fn check(
    inputs: &[(&[usize], Vec<f32>)],
    build: impl Fn(&mut Scope<'_>, &[ValueId]) -> Built,
    expected: &[f32],
) {
    let mut b = DagBuilder::new("case");
    let ids: Vec<ValueId> = inputs
        .iter()
        .enumerate()
        .map(|(i, (shape, _))| b.input(format!("x{i}"), Fact::f32(shape)))
        .collect();
    let y = build(&mut Scope::new(&mut b, "y"), &ids).unwrap();
    b.output(y);
    let given = ids.iter().zip(inputs).map(|(id, (_, x))| (*id, HostValues::Floats(x.clone())));
    let given: BTreeMap<ValueId, HostValues> = given.collect();
    let dag = b.finish().unwrap();
    let found = evaluate(&dag, &given, &BTreeMap::new(), DeviceChoice::Cpu).unwrap();
    let HostValues::Floats(found) = &found[0] else { panic!("floats") };
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < TOLERANCE, "{found} but PyTorch has {expected}");
    }
}

fn layer(gates: usize) -> [(&'static [usize], Vec<f32>); 5] {
    let (weight, bias): (&[usize], &[usize]) = match gates {
        4 => (&[8, 2], &[8]),
        _ => (&[6, 2], &[6]),
    };
    let rows = gates * 2;
    [
        (&[3, 2, 2], waves(12, 0.0)),
        (weight, waves(rows * 2, 1.0)),
        (weight, waves(rows * 2, 2.0)),
        (bias, waves(rows, 3.0)),
        (bias, waves(rows, 4.0)),
    ]
}

fn weights(p: &[ValueId]) -> recurrent::Weights {
    recurrent::Weights { input: p[1], recurrent: p[2], biases: Some([p[3], p[4]]) }
}

#[test]
fn recurrent_layers_agree_with_pytorch() {
    let hidden = [
        0.203689, 0.118974, 0.407898, 0.130049, 0.075092, 0.155823, 0.107223, 0.12904, 0.02617,
        0.113889, 0.405907, 0.116123,
    ];
    let lstm = |s: &mut Scope<'_>, p: &[ValueId]| recurrent::lstm(s, p[0], weights(p), None, false);
    check(&layer(4), |s, p| Ok(lstm(s, p)?.hidden), &hidden);
    check(&layer(4), |s, p| Ok(lstm(s, p)?.last), &hidden[8..]);
    check(&layer(4), |s, p| Ok(lstm(s, p)?.cell), &[0.032072, 0.129384, 0.645057, 0.248492]);
    let hidden = [
        0.293501, 0.532889, 0.707545, 0.879204, -0.051375, 0.446246, -0.552169, 0.218065,
        -0.337559, 0.009939, 0.518075, 0.839274,
    ];
    let gru = |s: &mut Scope<'_>, p: &[ValueId]| recurrent::gru(s, p[0], weights(p), None, false);
    check(&layer(3), |s, p| Ok(gru(s, p)?.hidden), &hidden);
}

#[test]
fn attention_with_masks_and_groups_agrees_with_pytorch() {
    let scale = 1.0 / 2f32.sqrt();
    let mut mask = waves(9, 3.0);
    mask[3] = f32::NEG_INFINITY;
    let (kv, mask_shape): (&[usize], &[usize]) = (&[1, 2, 3, 2], &[3, 3]);
    let masked: [(&[usize], Vec<f32>); 4] = [
        (&[1, 4, 3, 2], waves(24, 0.0)),
        (kv, waves(12, 1.0)),
        (kv, waves(12, 2.0)),
        (mask_shape, mask),
    ];
    let expected = [
        0.468789, 0.040556, -0.478966, -0.784268, -0.15546, -0.436351, -0.485533, -0.515831,
        -0.830229, -0.730799, 0.374471, -0.080299, 0.486662, 0.39799, 0.606441, 0.138677, 0.195296,
        0.553077, 0.422755, 0.505601, 0.557009, 0.034269, 0.455245, 0.411222,
    ];
    check(&masked, |s, p| s.op(Op::Attention { causal: false, scale }, p), &expected);
    let kv: &[usize] = &[1, 2, 5, 2];
    let causal: [(&[usize], Vec<f32>); 3] =
        [(&[1, 4, 3, 2], waves(24, 0.0)), (kv, waves(20, 1.0)), (kv, waves(20, 2.0))];
    let expected = [
        0.909297, 0.42738, 0.52165, 0.012837, -0.163803, -0.410251, 0.909297, 0.42738, 0.308594,
        -0.215001, 0.410778, -0.03325, 0.412118, -0.27176, -0.506681, -0.80735, -0.640106,
        -0.346235, 0.412118, -0.27176, 0.175753, -0.409543, -0.391154, -0.471557,
    ];
    check(&causal, |s, p| s.op(Op::Attention { causal: true, scale }, p), &expected);
}

#[test]
fn sampled_volumes_agree_with_pytorch() {
    let squares = (0..24u8).map(|i| f32::from(u16::from(i) * u16::from(i) % 7)).collect();
    let places = vec![-0.9, 0.3, 0.2, 0.5, -1.2, 0.8, 1.3, 0.1, -0.4, 0.05, 0.65, -0.7];
    let inputs: [(&[usize], Vec<f32>); 2] =
        [(&[1, 1, 2, 3, 4], squares), (&[1, 1, 1, 4, 3], places)];
    let cases = [
        (sample::Beyond::Zeros, false, [1.624, 0.07, 0.0, 2.228]),
        (sample::Beyond::Zeros, true, [2.525, 0.46, 0.737, 2.4125]),
        (sample::Beyond::Border, false, [2.32, 0.5, 0.67, 2.785]),
        (sample::Beyond::Border, true, [2.525, 0.575, 1.34, 2.4125]),
    ];
    for (beyond, aligned, expected) in cases {
        check(&inputs, |s, p| volume::grid_sample(s, p[0], p[1], beyond, aligned), &expected);
    }
}
