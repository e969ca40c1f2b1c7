//! Gradients against central differences of the results: a second opinion that needs no reference values.

use std::collections::BTreeMap;

use wattle_protocol::dag::{Dag, Dtype};

use crate::DeviceChoice;
use crate::suite::run::{results, run};
use crate::suite::{Case, cases, formula};

/// Half the distance between the two points of a difference: large enough that f32 rounding of the results (some 1e-7)
/// stays small against it, small enough for its square to be.
const STEP: f32 = 1e-2;
/// Share of the gradient that a difference may be off: curvature (`STEP^2`) and rounding (`1e-7 / STEP`) together.
const RELATIVE: f64 = 6e-3;
/// The same for gradients near zero, as a share of the largest gradient of the operand.
const OF_LARGEST: f64 = 2e-3;
/// Elements of each operand that are moved.
const ELEMENTS: usize = 24;

/// Returns the loss in f64 with one element of one operand moved.
fn loss(case: &Case, dag: &Dag, weights: &[f32], (at, element, by): (usize, usize, f32)) -> f64 {
    let mut moved = vec![0.0; case.operands[at].shape.iter().product()];
    moved[element] = by;
    let moved = BTreeMap::from([(format!("p{at}"), moved)]);
    let results = results(case, dag, &moved, DeviceChoice::Cpu).unwrap();
    let pairs = results[0].iter().zip(weights);
    pairs.map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
}

fn check(case: &Case, wrong: &mut Vec<String>) {
    let dag = case.dag().unwrap();
    let result = dag.fact(dag.outputs()[1]);
    assert_eq!(result.dtype, Dtype::F32, "{}", case.id());
    let weights = formula::weights(result.elements());
    let gradients = run(case, DeviceChoice::Cpu).unwrap().gradients;
    for (at, gradient) in case.trained().zip(&gradients) {
        let largest = gradient.iter().fold(0.0f64, |most, g| most.max(f64::from(g.abs())));
        if largest < 1e-2 {
            wrong.push(format!("{} operand {at}: the gradient tells nothing", case.id()));
        }
        for element in formula::chosen(gradient.len(), ELEMENTS) {
            let above = loss(case, &dag, &weights, (at, element, STEP));
            let below = loss(case, &dag, &weights, (at, element, -STEP));
            let difference = (above - below) / (2.0 * f64::from(STEP));
            let want = f64::from(gradient[element]);
            if (difference - want).abs() > OF_LARGEST * largest + RELATIVE * want.abs() {
                let id = case.id();
                wrong.push(format!("{id} operand {at} element {element}: {want} but {difference}"));
            }
        }
    }
}

#[test]
fn every_derivative_agrees_with_central_differences() {
    let mut wrong = Vec::new();
    let smooth = cases().into_iter().filter(|case| !case.is_rough);
    smooth.filter(|case| case.trained().next().is_some()).for_each(|case| check(&case, &mut wrong));
    let first = &wrong[..wrong.len().min(30)];
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), first.join("\n"));
}
