//! Trains a network of the zoo in one process and prints the loss and the time of each step.
//!
//! `cargo run --release -p wattle-models --example single -- gpt2-nano 20`

use std::time::Instant;

use wattle_models::single::run_single;
use wattle_models::{DeviceChoice, zoo};
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, Start, SwarmSpec, TrainSpec,
};

#[expect(clippy::print_stdout, reason = "an example prints what it shows")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "gpt2-nano".into());
    let steps = args.next().map_or(Ok(20), |s| s.parse())?;
    let device: DeviceChoice = args.next().map_or(Ok(DeviceChoice::Cpu), |s| s.parse())?;
    let entry = zoo::find(&name).ok_or("no such network")?;
    let dag = zoo::by_name(&name, None).ok_or("no such network")??;
    let optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let learning_rate = LearningRate { peak: 1e-3, floor: 1e-4, warmup: 5 };
    let train = TrainSpec {
        steps,
        micro_batches: 8,
        optimizer,
        learning_rate,
        clip_norm: Some(1.0),
        seed: 1,
    };
    let swarm = SwarmSpec::PLAIN;
    let data = DataSpec { source: entry.data.into(), seed: 1 };
    let spec = JobSpec { name, dag, start: Start::Seed, data, train, swarm };
    let mut last = Instant::now();
    run_single(&spec, device, |step, loss| {
        let took = last.elapsed();
        last = Instant::now();
        println!("step {step:3}  loss {loss:.4}  {took:.1?}");
    })?;
    Ok(())
}
