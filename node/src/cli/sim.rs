//! `wattle sim run`: a scenario in the simulator. This command alone, with its folder, knows the simulator.

mod replicas;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use wattle_sim::{Outcome, Scenario, ScenarioError};

use super::table::Table;
use crate::output::Output;

/// Arguments of `wattle sim`.
#[derive(Debug, Args)]
pub(super) struct SimArgs {
    #[command(subcommand)]
    command: SimCommand,
}

#[derive(Debug, Subcommand)]
enum SimCommand {
    /// Run a scenario.
    Run(RunArgs),
    /// Compare how data-parallel replicas may exchange gradients.
    Replicas(replicas::ReplicasArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The scenario file.
    scenario: PathBuf,
    /// Seed of jitter and of random faults; the same seed gives the same run.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds to run, counting up.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: u64,
    /// Write the trace here; of the last seed, where there are several.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// Runs the command.
///
/// *Errors*: a scenario that cannot be run, a job that does not end, or a violated rule; see also [`replicas::run`].
pub(super) fn run(args: SimArgs, output: &Output) -> anyhow::Result<()> {
    match args.command {
        SimCommand::Run(args) => run_scenario(&args, output),
        SimCommand::Replicas(args) => replicas::run(&args, output),
    }
}

/// Says whether a scenario is to blame.
pub(super) fn is_of_a_scenario(error: &anyhow::Error) -> bool {
    error.is::<ScenarioError>()
}

fn run_scenario(args: &RunArgs, output: &Output) -> anyhow::Result<()> {
    let name = args.scenario.display().to_string();
    let text = std::fs::read_to_string(&args.scenario)
        .with_context(|| format!("while reading the scenario {name}"))?;
    let scenario = Scenario::parse(&text).with_context(|| format!("in the scenario {name}"))?;
    let mut table = Table::new(&[
        "seed",
        "steps",
        "last loss",
        "virtual time",
        "plans",
        "kills",
        "recovery",
        "trace",
    ]);
    let mut bad = Vec::new();
    for seed in (args.seed..).take(usize::try_from(args.seeds).unwrap_or(usize::MAX)) {
        let outcome = wattle_sim::run(&scenario, seed, args.trace.is_some())
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        if output.is_json() {
            output.data(&line(&name, seed, &outcome), "");
        }
        table.row(row(seed, &outcome));
        if !outcome.finished || !outcome.violations.is_empty() {
            bad.push(complaint(&name, seed, &outcome));
        }
        if let Some(path) = &args.trace {
            std::fs::write(path, outcome.lines.concat())
                .with_context(|| format!("while writing the trace {}", path.display()))?;
        }
    }
    output.text(&table.to_string());
    anyhow::ensure!(bad.is_empty(), "{}", bad.join("\n"));
    Ok(())
}

fn complaint(name: &str, seed: u64, outcome: &Outcome) -> String {
    let mut what = outcome.violations.clone();
    if !outcome.finished {
        let reason = outcome.failed.clone().unwrap_or_else(|| "it ran out of time".into());
        what.push(format!("the job did not end: {reason}"));
    }
    format!("{}\n  replay: wattle sim run {name} --seed {seed}", what.join("\n"))
}

fn row(seed: u64, outcome: &Outcome) -> Vec<String> {
    let loss = outcome.losses.values().next_back();
    let recovery: Vec<String> = outcome.recoveries.iter().map(|s| format!("{s:.2} s")).collect();
    vec![
        seed.to_string(),
        outcome.losses.len().to_string(),
        loss.map_or("-".into(), |l| format!("{l:.4}")),
        format!("{:.2} s", outcome.seconds),
        outcome.plans.to_string(),
        outcome.kills.len().to_string(),
        recovery.join(", "),
        outcome.trace.chars().take(16).collect(),
    ]
}

fn line(name: &str, seed: u64, outcome: &Outcome) -> serde_json::Value {
    let bytes: Vec<_> = outcome.bytes.iter().map(|((from, to), n)| json!([from, to, n])).collect();
    json!({
        "schema": "wattle.sim.v1",
        "scenario": name,
        "seed": seed,
        "finished": outcome.finished,
        "failed": outcome.failed,
        "steps": outcome.losses.len(),
        "losses": outcome.losses.values().collect::<Vec<_>>(),
        "plans": outcome.plans,
        "restarts": outcome.restarts,
        "virtual_seconds": outcome.seconds,
        "predicted_step_seconds": outcome.predicted_step,
        "step_seconds": outcome.step_seconds(),
        "kills": outcome.kills,
        "recovery_seconds": outcome.recoveries,
        "bytes": bytes,
        "events": outcome.events,
        "trace": outcome.trace,
        "violations": outcome.violations,
    })
}
