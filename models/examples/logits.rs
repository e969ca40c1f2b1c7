//! Prints the logits of a folder's network for a fixed batch, with that batch, as JSON: for comparison with other tools.
//!
//! `logits FOLDER --window N` reads `config.json`; `logits FOLDER NAME` takes a network of the zoo.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use wattle_models::DeviceChoice;
use wattle_models::exec::evaluate::{HostValues, evaluate};
use wattle_models::huggingface::Layout;
use wattle_models::weights::checkpoint::Checkpoint;
use wattle_models::weights::given::Given;
use wattle_protocol::dag::{Dag, Dtype};

#[expect(clippy::print_stdout, reason = "an example prints what it shows")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = Path::new(args.first().ok_or("which folder?")?);
    let wrong = |misfits: Vec<wattle_models::weights::given::Misfit>| format!("{misfits:?}");
    let (layout, rows) = match args.get(1..) {
        Some([flag, window]) if flag == "--window" => {
            (Layout::read(folder, Some(window.parse()?)).map_err(wrong)?, 1)
        }
        Some([name]) => (Layout::named(name).ok_or("no such network")?, 2),
        _ => return Err("a window or a name is wanted".into()),
    };
    let dag = layout.build(rows)?;
    let given = Given::stored(Checkpoint::open(folder)?, &dag).map_err(wrong)?;
    let ids = dag.parameters().chain(dag.buffers());
    let read = |name: &str| Ok((name.to_owned(), given.elements(name)?));
    let state = ids.map(|id| read(&dag.value(id).name));
    let state = state.collect::<Result<BTreeMap<_, _>, wattle_models::weights::WeightsError>>()?;
    let batch = |id| {
        let fact = dag.fact(id);
        match fact.dtype {
            Dtype::I32 => (id, HostValues::Ints((0..fact.elements()).map(token).collect())),
            _ => (id, HostValues::Floats((0..fact.elements()).map(pixel).collect())),
        }
    };
    let inputs: BTreeMap<_, _> = dag.inputs().map(batch).collect();
    let outputs = evaluate(&with_logits(&dag)?, &inputs, &state, DeviceChoice::Cpu)?;
    let shown = |values: &HostValues| match values {
        HostValues::Floats(values) => json!(values),
        HostValues::Ints(values) => json!(values),
    };
    let first = dag.inputs().next().and_then(|id| inputs.get(&id)).ok_or("no input")?;
    println!("{}", json!({"inputs": shown(first), "logits": shown(&outputs[0])}));
    Ok(())
}

/// A token id below 256 that looks like no pattern.
fn token(at: usize) -> i32 {
    i32::try_from(at * 89 % 251).unwrap_or(0)
}

/// A pixel in [-1, 1).
fn pixel(at: usize) -> f32 {
    f32::from(u16::try_from(at * 7919 % 10_007).unwrap_or(0)) / 5003.5 - 1.0
}

/// Returns the network with what its loss reads as its output. A label is any token: the loss is not asked for.
fn with_logits(dag: &Dag) -> Result<Dag, Box<dyn std::error::Error>> {
    let loss = dag.outputs().first().and_then(|id| dag.producer(*id)).ok_or("no loss")?;
    let mut value = serde_json::to_value(dag)?;
    value["outputs"] = json!([dag.node(loss).inputs[0]]);
    Ok(serde_json::from_value(value)?)
}
