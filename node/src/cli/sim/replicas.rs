//! `wattle sim replicas`: exchanges of gradients between replicas, timed and, where the scenario says how, trained with.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use wattle_sim::replicas::{self, Learnt, ReplicaScenario, Timed};

use crate::cli::table::Table;
use crate::output::Output;

/// How much more than the first exchange's last loss counts as having reached it.
const NEAR: f64 = 1.01;

/// Arguments of `wattle sim replicas`.
#[derive(Debug, Args)]
pub(super) struct ReplicasArgs {
    /// The scenario file.
    scenario: PathBuf,
    /// Say what steps take, without training.
    #[arg(long)]
    times_only: bool,
}

/// Runs the command.
///
/// *Errors*: a scenario with mistakes, a run that does not come to its end, or workers that end with different bits.
pub(super) fn run(args: &ReplicasArgs, output: &Output) -> anyhow::Result<()> {
    let name = args.scenario.display().to_string();
    let text = std::fs::read_to_string(&args.scenario)
        .with_context(|| format!("while reading the scenario {name}"))?;
    let scenario = ReplicaScenario::parse(&text)?;
    let times = replicas::times(&scenario).map_err(|error| anyhow::anyhow!("{error}"))?;
    if output.is_json() {
        for timed in &times {
            output.data(&time_line(&name, timed), "");
        }
    }
    output.text(&time_table(&times));
    let Some(train) = scenario.train.as_ref().filter(|_| !args.times_only) else {
        return Ok(());
    };
    let mut runs: Vec<Vec<Learnt>> = Vec::new();
    for exchange in &scenario.exchanges {
        let mut same = Vec::new();
        for seed in &train.seeds {
            output.status(&format!("{}, seed {seed}", exchange.name));
            let learnt = replicas::learn(&scenario, exchange, *seed)
                .with_context(|| format!("while training with {}, seed {seed}", exchange.name))?;
            if output.is_json() {
                output.data(&run_line(&name, &learnt), "");
            }
            same.push(learnt);
        }
        runs.push(same);
    }
    output.text(&format!("\n{}", run_table(&runs)));
    let unequal = runs.iter().flatten().filter(|run| !run.is_equal);
    let unequal: Vec<String> =
        unequal.map(|run| format!("{}, seed {}", run.name, run.seed)).collect();
    anyhow::ensure!(
        unequal.is_empty(),
        "workers ended with different bits: {}",
        unequal.join("; ")
    );
    Ok(())
}

fn time_table(times: &[Timed]) -> String {
    let mut table = Table::new(&[
        "exchange",
        "groups",
        "one in",
        "MB a step",
        "step",
        "passes",
        "selecting",
        "sending",
        "exposed",
        "gain",
        "most",
        "hidden",
        "speed-up",
    ]);
    for timed in times {
        let time = timed.time;
        table.row(vec![
            timed.name.clone(),
            time.groups.to_string(),
            format!("{:.1}", time.ratio),
            format!("{:.2}", megabytes(time.bytes.count())),
            time.step.to_string(),
            time.passes.to_string(),
            time.selecting.to_string(),
            time.sending.to_string(),
            time.exposed.to_string(),
            format!("{:.2}", time.gain),
            format!("{:.2}", time.gain_max),
            format!("{:.0} %", time.hidden_share() * 100.0),
            format!("{:.2}", timed.speedup),
        ]);
    }
    table.to_string()
}

fn run_table(runs: &[Vec<Learnt>]) -> String {
    let mut table = Table::new(&[
        "exchange",
        "loss",
        "held-out loss",
        "perplexity",
        "against first",
        "accuracy",
        "points against first",
        "MB in all",
        "virtual time",
        "to the first's loss",
    ]);
    let Some(first) = runs.first() else { return table.to_string() };
    for same in runs {
        let mean = |value: &dyn Fn(&Learnt) -> f64| average(same.iter().map(value));
        let pairs = || same.iter().zip(first);
        let perplexity = |run: &Learnt| run.held_loss.exp();
        let off = pairs().map(|(run, base)| {
            format!("{:+.2} %", 100.0 * (perplexity(run) / perplexity(base) - 1.0))
        });
        let points = pairs()
            .map(|(run, base)| format!("{:+.2}", 100.0 * (run.held_accuracy - base.held_accuracy)));
        let reached = pairs().map(|(run, base)| run.seconds_to(base.last_loss() * NEAR));
        let reached: Option<Vec<f64>> = reached.collect();
        table.row(vec![
            same.first().map_or(String::new(), |run| run.name.clone()),
            format!("{:.4}", mean(&Learnt::last_loss)),
            format!("{:.4}", mean(&|run| run.held_loss)),
            format!("{:.3}", mean(&perplexity)),
            off.collect::<Vec<_>>().join(", "),
            format!("{:.2} %", 100.0 * mean(&|run| run.held_accuracy)),
            points.collect::<Vec<_>>().join(", "),
            format!("{:.1}", average(same.iter().map(|run| megabytes(run.bytes)))),
            format!("{:.2} s", mean(&|run| run.seconds.last().copied().unwrap_or(0.0))),
            reached.map_or("not each".into(), |all| format!("{:.2} s", average(all.into_iter()))),
        ]);
    }
    table.to_string()
}

#[expect(clippy::cast_precision_loss, reason = "there are few runs")]
fn average(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn time_line(name: &str, timed: &Timed) -> serde_json::Value {
    let time = timed.time;
    json!({
        "schema": "wattle.replicas.v1",
        "scenario": name,
        "exchange": timed.name,
        "merge_groups": time.groups,
        "ratio": time.ratio,
        "bytes": time.bytes.count(),
        "step_seconds": time.step.seconds(),
        "passes_seconds": time.passes.seconds(),
        "selecting_seconds": time.selecting.seconds(),
        "sending_seconds": time.sending.seconds(),
        "exposed_seconds": time.exposed.seconds(),
        "gain": time.gain,
        "gain_max": time.gain_max,
        "hidden": time.hidden_share(),
        "speedup": timed.speedup,
    })
}

fn run_line(name: &str, run: &Learnt) -> serde_json::Value {
    json!({
        "schema": "wattle.replicas-run.v1",
        "scenario": name,
        "exchange": run.name,
        "seed": run.seed,
        "losses": run.losses,
        "virtual_seconds": run.seconds,
        "last_loss": run.last_loss(),
        "held_loss": run.held_loss,
        "held_accuracy": run.held_accuracy,
        "bytes": run.bytes,
        "equal": run.is_equal,
    })
}
