//! `wattle probe`: what this machine can do, as its advert would say it, and the raw figures behind it.

use clap::Args;
use serde_json::json;
use wattle_models::Executor;
use wattle_models::bench::{Measurements, measure};
use wattle_protocol::schedule::advert::Hardware;

use super::DeviceArg;
use super::table::Table;
use crate::output::Output;
use crate::worker::WorkerConfig;

/// Arguments of `wattle probe`.
#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// What is measured.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArg,
    /// Then run training passes of these networks, and set what the measured figures predict beside what they take.
    #[arg(long, value_name = "NETWORK", num_args = 0.., default_missing_values = CHECKED)]
    check: Vec<String>,
}

/// Networks that `--check` runs unless it names others.
const CHECKED: [&str; 6] =
    ["gpt2-nano", "gpt2-mini", "llama-nano", "resnet-tiny", "resnet18", "lstm-nano"];

/// Runs the command.
///
/// *Errors*: there is no such network or device, or the device does not compute in single precision.
pub(super) fn run(args: &ProbeArgs, output: &Output) -> anyhow::Result<()> {
    let unknown: Vec<&String> = args
        .check
        .iter()
        .filter(|name| wattle_models::zoo::by_name(name, None).is_none())
        .collect();
    for name in &unknown {
        output.progress(&format!("There is no network {name:?}; `wattle inspect` lists them."));
    }
    anyhow::ensure!(unknown.is_empty(), "{} of the networks to check do not exist", unknown.len());
    let device = crate::device::choice(args.device.name())?;
    let mut executor = Executor::new(device)?;
    output.progress(&format!(
        "Measuring {}: a few seconds, on a GPU also what compiling its shaders takes.",
        executor.device_name()
    ));
    let raw = measure(&executor)
        .map_err(|error| anyhow::anyhow!("the device does not work: {error:?}"))?;
    let config = WorkerConfig { device, share: 1.0, memory: None, remember: false };
    let trained = crate::probe::hardware(&mut executor, &config);
    output.data(&line(&raw, &trained), &text(&raw, &trained));
    check(&mut executor, &trained, &args.check, output);
    Ok(())
}

/// Sets predicted passes of whole networks beside measured ones.
fn check(executor: &mut Executor, found: &Hardware, names: &[String], output: &Output) {
    let mut table = Table::new(&["network", "predicted", "measured", "off"]);
    for name in names {
        let Some((predicted, measured)) = crate::probe::compared(executor, found, name) else {
            output.progress(&format!("{name} does not run."));
            continue;
        };
        let line = json!({
            "schema": "wattle.probe-check.v1",
            "network": name,
            "predicted_seconds": predicted,
            "measured_seconds": measured,
        });
        if output.is_json() {
            output.data(&line, "");
        }
        let millis = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
        let off = format!("{:+.0} %", 100.0 * (predicted / measured - 1.0));
        table.row(vec![name.clone(), millis(predicted), millis(measured), off]);
    }
    if !table.is_empty() {
        output.text(&table.to_string());
    }
}

fn line(raw: &Measurements, trained: &Hardware) -> serde_json::Value {
    json!({
        "schema": "wattle.probe.v1",
        "device": raw.device,
        "matmul_f32_flops_per_second": raw.matmul_f32,
        "matmul_f16_flops_per_second": raw.matmul_f16,
        "matmul_bf16_flops_per_second": raw.matmul_bf16,
        "conv_f32_flops_per_second": raw.conv_f32,
        "touch_bytes_per_second": raw.touch,
        "upload_bytes_per_second": raw.upload,
        "download_bytes_per_second": raw.download,
        "overhead_seconds": raw.overhead.as_secs_f64(),
        "memory_bytes": raw.memory,
        "free_memory_bytes": raw.free_memory,
        "advert": {
            "products_flops_per_second": trained.speed.flops_per_second(),
            "convolutions_flops_per_second": trained.conv_speed.flops_per_second(),
            "elements_flops_per_second": trained.vector_speed.flops_per_second(),
            "touch_bytes_per_second": trained.touch_rate.bytes_per_second(),
            "overhead_seconds": trained.overhead.seconds(),
            "memory_bytes": trained.memory.count(),
        },
    })
}

fn text(raw: &Measurements, trained: &Hardware) -> String {
    let giga = |value: f64| format!("{:.2} G", value / 1e9);
    let other = |value: Option<f64>| value.map_or("does not run".into(), |v| giga(v) + "FLOP/s");
    let mut table = Table::new(&[raw.device.as_str(), "alone", "in training (advertised)"]);
    let mut row = |name: &str, alone: String, advertised: String| {
        table.row(vec![name.into(), alone, advertised]);
    };
    row("matrix products, f32", giga(raw.matmul_f32) + "FLOP/s", trained.speed.to_string());
    row("matrix products, f16", other(raw.matmul_f16), String::new());
    row("matrix products, bf16", other(raw.matmul_bf16), String::new());
    row("convolutions, f32", giga(raw.conv_f32) + "FLOP/s", trained.conv_speed.to_string());
    row("element-wise arithmetic", String::new(), trained.vector_speed.to_string());
    let touch = trained.touch_rate.bytes_per_second() as f64;
    row("reading and writing", giga(raw.touch) + "B/s", giga(touch) + "B/s");
    row("host to device", giga(raw.upload) + "B/s", String::new());
    row("device to host", giga(raw.download) + "B/s", String::new());
    let overhead = format!("{:.1} us", raw.overhead.as_secs_f64() * 1e6);
    row("an operator, however small", overhead, trained.overhead.to_string());
    row("memory (free)", giga(raw.free_memory as f64) + "B", trained.memory.to_string());
    table.to_string()
}
