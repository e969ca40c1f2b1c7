//! The GPU path agrees with the CPU: every operator and its derivative on both. Skips loudly without an adapter.

use super::vjp::{cases, loss_and_gradient};
use crate::{DeviceChoice, Executor};

/// Differences between devices, relative to the largest element: other orders of sums and other exponentials.
const TOLERANCE: f32 = 2e-4;

#[test]
fn every_operator_agrees_between_cpu_and_gpu() {
    let mut gpu = match Executor::new(DeviceChoice::Wgpu) {
        Ok(gpu) => gpu,
        Err(error) => {
            println!("SKIPPED: {error}");
            return;
        }
    };
    let mut cpu = Executor::new(DeviceChoice::Cpu).unwrap();
    println!("comparing {} with {}", cpu.device_name(), gpu.device_name());
    let mut wrong = Vec::new();
    for case in cases() {
        let dag = case.dag();
        let state = case.state(&dag);
        let (loss, want) = loss_and_gradient(&mut cpu, &dag, &state);
        let (gpu_loss, got) = loss_and_gradient(&mut gpu, &dag, &state);
        let largest = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        let off = want.iter().zip(&got).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        if off > TOLERANCE * largest || (loss - gpu_loss).abs() > 1e-3 * loss.abs().max(1.0) {
            wrong
                .push(format!("{}: off {off} of {largest}, loss {loss} and {gpu_loss}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
