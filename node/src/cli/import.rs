//! `wattle import`: an ONNX model as a network of Wattle, with its weights as safetensors.
//!
//! Everything that stands in the way is told at once, and the command ends with 65. `--check` runs the network on the
//! CPU and compares its outputs with another tool's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use wattle_models::onnx::array::Array;
use wattle_models::onnx::check::{ONNX_TOLERANCE, compare, execute};
use wattle_models::onnx::{ImportError, ImportOptions, Imported, Port, ReadError, import};
use wattle_models::{DeviceChoice, npz, weights};
use wattle_protocol::dag::text::to_text;

use super::table::Table;
use crate::output::Output;

/// Arguments of `wattle import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The model file; weights may lie in files beside it.
    model: PathBuf,
    /// Length of the inputs' first axis where the model leaves it open.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Length of another axis that the model leaves open; may be given several times.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = dimension)]
    dims: Vec<(String, usize)>,
    /// Arrays by name for inputs that become constants, such as shapes.
    #[arg(long, value_name = "FILE.npz")]
    fix: Option<PathBuf>,
    /// Where the weights go.
    #[arg(long, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,
    /// Where the network goes, in text form.
    #[arg(long, value_name = "FILE")]
    dag: Option<PathBuf>,
    /// Run the network with arrays named as its inputs and compare with arrays named as its outputs.
    #[arg(long, value_name = "FILE.npz")]
    check: Option<PathBuf>,
}

/// The model cannot be imported, or computes something else: the input is to blame, not the program.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unusable(String);

fn dimension(text: &str) -> Result<(String, usize), String> {
    let wrong = || "a length is given as NAME=N, such as sequence=128".to_owned();
    let (name, length) = text.rsplit_once('=').ok_or_else(wrong)?;
    match length.parse() {
        Ok(length) if length > 0 && !name.is_empty() => Ok((name.to_owned(), length)),
        _ => Err(wrong()),
    }
}

/// Runs the command.
///
/// *Errors*: [`Unusable`] for what the model is to blame for; files that cannot be read or written.
pub(super) fn run(args: &ImportArgs, output: &Output) -> anyhow::Result<()> {
    let fixed = match &args.fix {
        Some(path) => arrays(path)?,
        None => BTreeMap::new(),
    };
    let dims = args.dims.iter().cloned().collect();
    let options = ImportOptions { batch: usize::try_from(args.batch)?, dims, fixed };
    let model = args.model.display();
    let imported = import(&args.model, &options).map_err(|error| match error {
        ImportError::Problems(problems) => {
            Unusable(format!("{model} is not imported. {problems}")).into()
        }
        ImportError::Read(error @ ReadError::Io { .. }) => {
            anyhow::Error::new(error).context(format!("while reading the model {model}"))
        }
        ImportError::Read(error) => Unusable(format!("{model} is not imported: {error}")).into(),
    })?;
    if let Some(path) = &args.out {
        weights::save(path, &imported.weights)
            .with_context(|| format!("while writing the weights to {}", path.display()))?;
    }
    if let Some(path) = &args.dag {
        std::fs::write(path, to_text(&imported.dag))
            .with_context(|| format!("while writing the network to {}", path.display()))?;
    }
    summary(&imported, output);
    match &args.check {
        Some(path) => check(&imported, &arrays(path)?, output),
        None => Ok(()),
    }
}

fn arrays(path: &Path) -> anyhow::Result<BTreeMap<String, Array>> {
    npz::read(path).with_context(|| format!("while reading the arrays in {}", path.display()))
}

fn described(imported: &Imported, port: &Port) -> String {
    format!("{} {} {:?}", port.name, port.kind, imported.dag.fact(port.value).shape)
}

fn summary(imported: &Imported, output: &Output) {
    let dag = &imported.dag;
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for node in dag.nodes() {
        *kinds.entry(node.op.name()).or_default() += 1;
    }
    let ports = |ports: &[Port]| -> Vec<_> {
        let one = |port: &Port| {
            let shape = &dag.fact(port.value).shape;
            json!({"name": port.name, "type": port.kind.to_string(), "shape": shape})
        };
        ports.iter().map(one).collect()
    };
    let line = json!({
        "schema": "wattle.import.v1",
        "model": dag.name(),
        "opset": imported.opset,
        "nodes": imported.nodes,
        "operators": dag.nodes().len(),
        "kinds": kinds,
        "parameters": dag.parameter_count(),
        "buffers": dag.buffers().count(),
        "inputs": ports(&imported.inputs),
        "outputs": ports(&imported.outputs),
    });
    let listed = |ports: &[Port]| -> String {
        ports.iter().map(|port| format!("\n  {}", described(imported, port))).collect()
    };
    let kinds: Vec<String> = kinds.iter().map(|(name, n)| format!("{name} {n}")).collect();
    let text = format!(
        "{}: opset {}, {} nodes became {} operators, {} parameters\ninputs:{}\noutputs:{}\noperators: {}",
        dag.name(),
        imported.opset,
        imported.nodes,
        dag.nodes().len(),
        dag.parameter_count(),
        listed(&imported.inputs),
        listed(&imported.outputs),
        kinds.join(", "),
    );
    output.data(&line, &text);
}

fn check(
    imported: &Imported,
    arrays: &BTreeMap<String, Array>,
    output: &Output,
) -> anyhow::Result<()> {
    let found = execute(imported, arrays, DeviceChoice::Cpu)
        .map_err(|error| Unusable(format!("the network is not compared: {error}")))?;
    let mut table = Table::new(&["output", "largest difference", "relative", "verdict"]);
    let mut wrong = BTreeSet::new();
    for (port, found) in imported.outputs.iter().zip(&found) {
        let Some(expected) = arrays.get(&port.name) else {
            output.progress(&format!("There is no array named {} to compare with.", port.name));
            continue;
        };
        let difference = compare(found, expected, ONNX_TOLERANCE);
        let verdict = match (difference.alike, difference.is_within()) {
            (false, _) => "another type or shape",
            (true, true) => "equal",
            (true, false) => "differs",
        };
        if !difference.is_within() {
            wrong.insert(port.name.as_str());
        }
        if output.is_json() {
            let line = json!({
                "schema": "wattle.import-check.v1",
                "output": port.name,
                "max_absolute": difference.absolute,
                "max_relative": difference.relative,
                "elements_outside": difference.outside,
                "equal": difference.is_within(),
            });
            output.data(&line, "");
        }
        table.row(vec![
            port.name.clone(),
            format!("{:.3e}", difference.absolute),
            format!("{:.3e}", difference.relative),
            verdict.into(),
        ]);
    }
    output.text(&table.to_string());
    if wrong.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = wrong.into_iter().collect();
    Err(Unusable(format!("outputs differ from the given ones: {}", names.join(", "))).into())
}
