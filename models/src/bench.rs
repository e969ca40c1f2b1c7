//! How fast this machine is: what `probe` runs, bounded to a few seconds.
//!
//! Each figure is the best of a few repetitions, since other work on the machine only ever makes them worse.

use std::time::{Duration, Instant};

use burn::backend::Dispatch;
use burn_backend::tensor::Device;
use burn_backend::{Backend, DType, FloatDType};
use sysinfo::System;
use wattle_protocol::swarm::io::TaskError;

use crate::exec::tensor::Float;
use crate::exec::{Executor, contain};

/// Longest time for one figure.
const BUDGET: Duration = Duration::from_millis(400);
/// Most repetitions for one figure.
const REPETITIONS: usize = 12;

/// What was measured; rates per second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measurements {
    /// Name of the device.
    pub device: String,
    /// Floating-point operations of matrix products, in single precision.
    pub matmul_f32: f64,
    /// The same in half precision, where the device runs it.
    pub matmul_f16: Option<f64>,
    /// The same in brain floats, where the device runs them.
    pub matmul_bf16: Option<f64>,
    /// Floating-point operations of a 3 x 3 convolution, in single precision.
    pub conv_f32: f64,
    /// Bytes that element-wise operators read and write.
    pub touch: f64,
    /// Bytes from host to device.
    pub upload: f64,
    /// Bytes from device to host.
    pub download: f64,
    /// Time of an operator on a tensor of four elements.
    pub overhead: Duration,
    /// Memory of the machine in bytes.
    pub memory: u64,
    /// Part of it that is free.
    pub free_memory: u64,
}

type F = Float<Dispatch>;

/// Measures the device of an executor.
///
/// *Errors*: [`TaskError`] where single precision does not run; other types are left out instead.
pub fn measure(executor: &Executor) -> Result<Measurements, TaskError> {
    let device = executor.device();
    let size = if executor.device_name() == "cpu" { 384 } else { 1024 };
    let (memory, free_memory) = machine_memory();
    Ok(Measurements {
        device: executor.device_name().into(),
        matmul_f32: contain(|| matmul(device, size, FloatDType::F32))?,
        matmul_f16: other(device, size, FloatDType::F16),
        matmul_bf16: other(device, size, FloatDType::BF16),
        conv_f32: contain(|| conv(device))?,
        touch: contain(|| touch(device))?,
        upload: contain(|| upload(device))?,
        download: contain(|| download(device))?,
        overhead: contain(|| overhead(device))?,
        memory,
        free_memory,
    })
}

/// Returns the machine's memory and the free part of it; zero where the system does not tell.
fn machine_memory() -> (u64, u64) {
    let Ok(mut system) = System::new() else {
        return (0, 0);
    };
    system.refresh_memory();
    (system.total_memory(), system.available_memory())
}

/// Returns the best time of a piece of work; the first run warms caches and compilers up.
fn best(mut work: impl FnMut() -> Result<(), TaskError>) -> Result<f64, TaskError> {
    work()?;
    let start = Instant::now();
    let mut best = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let one = Instant::now();
        work()?;
        best = best.min(one.elapsed().as_secs_f64());
        if start.elapsed() > BUDGET {
            break;
        }
    }
    Ok(best.max(1e-9))
}

/// Values between -1 and 1 that are no constant.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| f32::from(u8::try_from(i * 37 % 251).unwrap_or(0)) / 125.0 - 1.0).collect()
}

/// Waits until the device has computed a tensor, by reading one element of it.
fn wait(tensor: F) -> Result<(), TaskError> {
    let count = tensor.shape().iter().product();
    let one = tensor.reshape(&[count]).slice(0, 0, 1);
    Float::<Dispatch>(cast(one, FloatDType::F32)).values().map(drop)
}

fn cast(tensor: F, dtype: FloatDType) -> burn_backend::tensor::FloatTensor<Dispatch> {
    use burn_backend::ops::FloatTensorOps;
    <Dispatch as FloatTensorOps<Dispatch>>::float_cast(tensor.0, dtype)
}

#[expect(clippy::cast_precision_loss, reason = "a count of operations, to be divided by a time")]
fn matmul(device: &Device<Dispatch>, size: usize, dtype: FloatDType) -> Result<f64, TaskError> {
    let make =
        || -> F { Float(cast(Float::new(values(size * size), &[size, size], device), dtype)) };
    let (a, b) = (make(), make());
    let time = best(|| wait(a.clone().matmul(b.clone())))?;
    Ok(2.0 * (size * size * size) as f64 / time)
}

fn other(device: &Device<Dispatch>, size: usize, dtype: FloatDType) -> Option<f64> {
    if !Dispatch::supports_dtype(device, DType::from(dtype)) {
        return None;
    }
    contain(|| matmul(device, size, dtype)).ok()
}

#[expect(clippy::cast_precision_loss, reason = "a count of operations, to be divided by a time")]
fn conv(device: &Device<Dispatch>) -> Result<f64, TaskError> {
    let (batch, channels, side) = (2, 32, 28);
    let x: F =
        Float::new(values(batch * channels * side * side), &[batch, channels, side, side], device);
    let w: F = Float::new(values(channels * channels * 9), &[channels, channels, 3, 3], device);
    let shape = wattle_protocol::dag::op::Conv2d {
        stride: [1; 2],
        padding: [1; 2],
        dilation: [1; 2],
        groups: 1,
    };
    let work =
        || wait(crate::exec::kernel::conv::conv2d(x.clone(), w.clone(), None, &shape, device));
    let time = best(work)?;
    Ok(2.0 * (batch * side * side * channels * channels * 9) as f64 / time)
}

/// Elements of the tensors that are moved: 4 MB, more than the caches of small machines.
const MOVED: usize = 1 << 20;

#[expect(clippy::cast_precision_loss, reason = "a count of bytes, to be divided by a time")]
fn bytes(tensors: usize) -> f64 {
    (MOVED * 4 * tensors) as f64
}

fn touch(device: &Device<Dispatch>) -> Result<f64, TaskError> {
    let a: F = Float::new(values(MOVED), &[MOVED], device);
    let b: F = Float::new(values(MOVED), &[MOVED], device);
    Ok(bytes(3) / best(|| wait(a.clone().add(b.clone())))?)
}

fn upload(device: &Device<Dispatch>) -> Result<f64, TaskError> {
    let data = values(MOVED);
    Ok(bytes(1) / best(|| wait(Float::new(data.clone(), &[MOVED], device)))?)
}

fn download(device: &Device<Dispatch>) -> Result<f64, TaskError> {
    let a: F = Float::new(values(MOVED), &[MOVED], device);
    Ok(bytes(1) / best(|| a.clone().values().map(drop))?)
}

/// Operators in a row for the overhead of one.
const CHAIN: u32 = 200;

fn overhead(device: &Device<Dispatch>) -> Result<Duration, TaskError> {
    let a: F = Float::new(values(4), &[4], device);
    let time = best(|| wait((0..CHAIN).fold(a.clone(), |x, _| x.add(a.clone()))))?;
    Ok(Duration::from_secs_f64(time / f64::from(CHAIN)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceChoice;

    #[test]
    fn a_probe_finds_plausible_figures_in_a_few_seconds() {
        let executor = Executor::new(DeviceChoice::Cpu).unwrap();
        let start = Instant::now();
        let found = measure(&executor).unwrap();
        assert!(start.elapsed() < Duration::from_secs(30));
        assert!(found.matmul_f32 > 1e7 && found.conv_f32 > 1e6, "{found:?}");
        assert!(found.touch > 1e6 && found.upload > 1e6 && found.download > 1e6, "{found:?}");
        assert!(found.overhead > Duration::ZERO && found.overhead < Duration::from_millis(50));
        assert!(found.memory > 1 << 28 && found.free_memory <= found.memory);
    }
}
