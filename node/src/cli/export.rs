//! `wattle export`: a safetensors file that a job left, as a folder that other tools read.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use wattle_models::huggingface::{Layout, copy_tokenizer};
use wattle_models::weights::Named;
use wattle_models::weights::checkpoint::Checkpoint;
use wattle_models::weights::given::Given;
use wattle_models::zoo;

use crate::output::Output;

/// Arguments of `wattle export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The weights: a safetensors file, or a folder.
    weights: PathBuf,
    /// Name of the network that they are of.
    #[arg(long)]
    model: String,
    /// The folder that is written.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// A folder whose tokenizer is copied.
    #[arg(long, value_name = "FOLDER")]
    tokenizer: Option<PathBuf>,
}

/// Runs the command.
///
/// *Errors*: a network that other tools do not have, weights that do not fit, a folder that cannot be written.
pub(super) fn run(args: &ExportArgs, output: &Output) -> anyhow::Result<()> {
    let Some(layout) = Layout::named(&args.model) else {
        let known = zoo::names().into_iter().filter(|name| Layout::named(name).is_some());
        let known: Vec<&str> = known.collect();
        bail!("other tools have no network \"{}\"; there are {}", args.model, known.join(", "));
    };
    let dag = layout.build(1).with_context(|| format!("while building {}", args.model))?;
    let reading = || format!("while reading {}", args.weights.display());
    let checkpoint = Checkpoint::open(&args.weights).with_context(reading)?;
    let given = Given::stored(checkpoint, &dag).map_err(|misfits| {
        let list: Vec<String> =
            misfits.iter().map(|m| format!("  {}: {}", m.name, m.why)).collect();
        anyhow::anyhow!("the weights are not those of {}:\n{}", args.model, list.join("\n"))
    })?;
    let tensor = |id| {
        let value = dag.value(id);
        anyhow::Ok((value.name.clone(), value.fact.shape.clone(), given.elements(&value.name)?))
    };
    let tensors: Vec<Named> = dag
        .parameters()
        .chain(dag.buffers())
        .map(tensor)
        .collect::<Result<_, _>>()
        .with_context(reading)?;
    let count = tensors.len();
    let writing = || format!("while writing {}", args.out.display());
    layout.write(&args.out, tensors).with_context(writing)?;
    let tokenizer = match &args.tokenizer {
        Some(folder) => copy_tokenizer(folder, &args.out).with_context(writing)?,
        None => 0,
    };
    let line = json!({
        "schema": "wattle.export.v1",
        "model": args.model,
        "folder": args.out.display().to_string(),
        "tensors": count,
        "tokenizer_files": tokenizer,
    });
    output.data(&line, &format!("{count} tensors of {} are in {}", args.model, args.out.display()));
    Ok(())
}
