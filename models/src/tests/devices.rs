//! The GPU path agrees with the CPU: every operator and its derivative on both; and brings over what is listed.

use super::gpu;
use super::vjp::{cases, largest, loss_and_gradient};
use crate::{DeviceChoice, Executor};

/// Differences between devices, relative to the largest element of the same tensor: other orders of sums and other
/// exponentials.
const TOLERANCE: f32 = 2e-4;
/// Difference of losses that cancel: rounding of their terms, which are about 1.
const ABSOLUTE: f64 = 1e-6;

#[test]
fn every_operator_agrees_between_cpu_and_gpu() {
    let Some(mut gpu) = gpu() else { return };
    let mut cpu = Executor::new(DeviceChoice::Cpu).unwrap();
    println!("comparing {} with {}", cpu.device_name(), gpu.device_name());
    let mut wrong = Vec::new();
    for case in cases() {
        let dag = case.dag();
        let (state, work) = (case.state(&dag), case.work(&dag));
        let (loss, want) = loss_and_gradient(&mut cpu, &work, &state);
        let (gpu_loss, got) = loss_and_gradient(&mut gpu, &work, &state);
        if (loss - gpu_loss).abs() > ABSOLUTE + f64::from(TOLERANCE) * loss.abs() {
            wrong.push(format!("{}: loss {loss} and {gpu_loss}", case.name));
        }
        for ((name, want), (_, got)) in want.iter().zip(&got) {
            let most = largest(want);
            let off = want.iter().zip(got).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            if off > TOLERANCE * most {
                wrong.push(format!("{}: {name} off {off} of {most}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    super::crossings::check_listed();
}
