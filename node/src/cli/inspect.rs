//! `wattle inspect`: what a network consists of and costs, without its weights.

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use wattle_models::zoo;
use wattle_protocol::dag::cost::{NetworkCost, cost, network_cost};
use wattle_protocol::dag::grad::differentiate;
use wattle_protocol::dag::text::to_text;
use wattle_protocol::dag::{Dag, Fact, Node, Source};

use super::table::Table;
use crate::output::Output;

/// Arguments of `wattle inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Name of the network; without it, all networks are listed.
    model: Option<String>,
    /// Samples in a micro-batch; by default the network's own choice.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    micro_batch: Option<u32>,
    /// Print the whole network in text form instead.
    #[arg(long)]
    dag: bool,
}

/// Runs the command.
///
/// *Errors*: there is no such network.
pub(super) fn run(args: &InspectArgs, output: &Output) -> anyhow::Result<()> {
    let Some(name) = &args.model else {
        return list(output);
    };
    let micro_batch = args.micro_batch.map(usize::try_from).transpose()?;
    let Some(dag) = zoo::by_name(name, micro_batch) else {
        bail!("there is no network \"{name}\"; there are {}", zoo::names().join(", "));
    };
    let dag = dag.with_context(|| format!("while building {name}"))?;
    if args.dag {
        let text = to_text(&dag);
        output.data(
            &json!({"schema": "wattle.dag.v1", "model": name, "text": text}),
            text.trim_end(),
        );
        return Ok(());
    }
    nodes(&dag, output);
    let operators = dag.nodes().len();
    let training =
        differentiate(dag, 1).with_context(|| format!("while differentiating {name}"))?;
    let whole = network_cost(&training);
    let line = json!({
        "schema": "wattle.inspect.v1",
        "model": name,
        "parameters": whole.parameters,
        "parameter_bytes": whole.parameter_bytes.count(),
        "operators": operators,
        "forward_flops": whole.forward.count(),
        "backward_flops": whole.backward.count(),
        "saved_bytes": whole.saved_bytes.count(),
    });
    output.data(&line, &summary(name, operators, &whole));
    Ok(())
}

fn summary(name: &str, operators: usize, whole: &NetworkCost) -> String {
    format!(
        "\n{name}: {} parameters ({}), {operators} operators\none micro-batch: forward {}, backward {}, {} kept between them",
        whole.parameters, whole.parameter_bytes, whole.forward, whole.backward, whole.saved_bytes,
    )
}

fn list(output: &Output) -> anyhow::Result<()> {
    let mut table = Table::new(&["network", "parameters", "data", "what it is"]);
    for entry in zoo::entries() {
        let dag = zoo::by_name(entry.name, None).context("an entry is a network")??;
        let line = json!({
            "schema": "wattle.network.v1",
            "model": entry.name,
            "parameters": dag.parameter_count(),
            "data": entry.data,
            "about": entry.about,
        });
        if output.is_json() {
            output.data(&line, "");
        }
        table.row(vec![
            entry.name.into(),
            dag.parameter_count().to_string(),
            entry.data.into(),
            entry.about.into(),
        ]);
    }
    output.text(&table.to_string());
    Ok(())
}

fn nodes(dag: &Dag, output: &Output) {
    if !output.is_json() {
        output.text(&table(dag).to_string());
        return;
    }
    for id in dag.node_ids() {
        let node = dag.node(id);
        let what = cost(dag, id);
        let line = json!({
            "schema": "wattle.operator.v1",
            "name": node.name,
            "kind": node.op.name(),
            "inputs": node.inputs.iter().map(|v| dag.value(*v).name.as_str()).collect::<Vec<_>>(),
            "parameters": node.inputs.iter().filter(|v| matches!(dag.value(**v).source, Source::Parameter { .. })).count(),
            "results": results(dag, node),
            "flops": what.flops.count(),
            "parameter_bytes": what.parameter_bytes.count(),
            "output_bytes": what.output_bytes.count(),
        });
        output.data(&line, "");
    }
}

fn table(dag: &Dag) -> Table {
    let mut table = Table::new(&["operator", "kind", "result", "arithmetic", "parameters"]);
    for id in dag.node_ids() {
        let node = dag.node(id);
        let what = cost(dag, id);
        table.row(vec![
            node.name.clone(),
            node.op.name().into(),
            results(dag, node).join(", "),
            what.flops.to_string(),
            what.parameter_bytes.to_string(),
        ]);
    }
    table
}

fn results(dag: &Dag, node: &Node) -> Vec<String> {
    node.outputs.iter().map(|v| shape(dag.fact(*v))).collect()
}

fn shape(fact: &Fact) -> String {
    let lengths: Vec<String> = fact.shape.iter().map(ToString::to_string).collect();
    format!("{:?}[{}]", fact.dtype, lengths.join(", ")).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what a person reads of a network.
    fn shown(name: &str) -> String {
        let dag = zoo::by_name(name, None).unwrap().unwrap();
        let (text, operators) = (table(&dag).to_string(), dag.nodes().len());
        let whole = network_cost(&differentiate(dag, 1).unwrap());
        format!("{text}\n{}", summary(name, operators, &whole))
    }

    #[test]
    fn a_small_gpt2_reads_as_recorded() {
        insta::assert_snapshot!("gpt2-nano", shown("gpt2-nano"));
    }

    #[test]
    fn a_small_resnet_reads_as_recorded() {
        insta::assert_snapshot!("resnet-tiny", shown("resnet-tiny"));
    }
}
