//! Every operator and composition against PyTorch's values, on each device, and against central differences.
//!
//! `cover` finds what has no case, `differences` holds the differences.

mod cover;
mod differences;

use std::collections::BTreeSet;

use super::gpu;
use crate::DeviceChoice;
use crate::suite::reference::References;
use crate::suite::run::run;
use crate::suite::{Case, cases};

/// Compares all cases that have a tolerance with the reference, and lists what is beyond it.
fn check(device: DeviceChoice, tolerance: impl Fn(&Case) -> Option<f32>) {
    let references = References::load().unwrap();
    let mut wrong = Vec::new();
    for case in cases() {
        let Some(tolerance) = tolerance(&case) else { continue };
        let found = match run(&case, device) {
            Ok(found) => found,
            Err(error) => {
                wrong.push(error.to_string());
                continue;
            }
        };
        match references.compare(&case, &found) {
            Ok(off) if off.forward.max(off.gradient) <= tolerance => {}
            Ok(off) => wrong.push(format!(
                "{}: off by {:.1e}, gradient by {:.1e}, of {tolerance:.0e}",
                case.id(),
                off.forward,
                off.gradient
            )),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_operator_agrees_with_pytorch_on_a_cpu() {
    check(DeviceChoice::Cpu, |case| Some(case.cpu));
}

#[test]
fn every_operator_agrees_with_pytorch_on_a_gpu() {
    let Some(gpu) = gpu() else { return };
    println!("comparing {} with PyTorch", gpu.device_name());
    check(DeviceChoice::Wgpu, |case| case.gpu);
}

#[test]
fn reference_values_and_cases_have_the_same_names() {
    let cases = cases();
    let own: BTreeSet<String> = cases.iter().map(Case::id).collect();
    assert_eq!(own.len(), cases.len(), "two cases have one name");
    let references = References::load().unwrap();
    let theirs: BTreeSet<String> = references.ids().map(str::to_owned).collect();
    let apart: Vec<_> = own.symmetric_difference(&theirs).collect();
    assert!(apart.is_empty(), "only in one of both, see models/src/suite/make.py: {apart:?}");
}
