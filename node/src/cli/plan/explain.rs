//! A plan for people and as JSON: stages, owners, cuts, what is predicted, what bounds it, and what else there is.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::json;
use wattle_protocol::ids::StageId;
use wattle_protocol::job::JobSpec;
use wattle_protocol::schedule::account::{Account, Crossing, Limit};
use wattle_protocol::schedule::advert::Advert;
use wattle_protocol::schedule::fence::{Baseline, Request, place_as};
use wattle_protocol::schedule::{Plan, StagePlan};
use wattle_protocol::units::Duration;

use super::Swarm;
use crate::cli::table::Table;
use crate::jobfile::samples;
use crate::sizes::Tried;
use crate::up::hex;

/// Random orders that are averaged.
const ORDERS: u64 = 20;
/// Names of values that are listed for a cut.
const NAMES: usize = 3;

/// Another placement: its name, and its predicted step or why there is none.
pub(super) type Other = (&'static str, Result<Duration, String>);

/// Predicts placements that look at no link.
pub(super) fn others(request: Request<'_>, adverts: &[&Advert]) -> Vec<Other> {
    let step = |baseline: Baseline| match place_as(baseline, request, adverts) {
        Ok(Some(plan)) => Ok(plan.prediction.step),
        Ok(None) => Err("a stage does not fit its peer's memory".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let steps: Vec<Duration> =
        (0..ORDERS).filter_map(|seed| step(Baseline::RandomOrder(seed)).ok()).collect();
    let mean = match u64::try_from(steps.len()) {
        Ok(count) if count > 0 => {
            let sum: u64 = steps.iter().map(|s| s.micros()).sum();
            Ok(Duration::from_micros(sum / count))
        }
        _ => Err("no order fits the peers' memory".into()),
    };
    vec![
        ("equal number of operators", step(Baseline::EqualNumber)),
        ("equal compute", step(Baseline::EqualCompute)),
        ("equal compute, random order (mean of 20)", mean),
        ("even layers", step(Baseline::EvenLayers)),
        ("best single peer", step(Baseline::BestSingle)),
    ]
}

/// Writes a plan as a person would read it.
pub(super) fn text(
    swarm: &Swarm,
    spec: &JobSpec,
    (plan, account): (&Plan, &Account),
    (tried, others): (&[Tried], &[Other]),
) -> String {
    let mut text = String::new();
    let prediction = &plan.prediction;
    if let Some(testbed) = &swarm.testbed {
        write!(text, "{}: {}\n\n", testbed.name, testbed.about).unwrap_or_default();
    }
    let peers: BTreeSet<_> = plan.stages.iter().flat_map(StagePlan::workers).collect();
    write!(
        text,
        "{} of {} peers, {} stages: {} a step (compute {}, busiest link {}, commit {}), {:.0} % bubble\nlimited by {}; passes in the order {}, activations are {}\n\n",
        peers.len(),
        swarm.adverts.len(),
        plan.stages.len(),
        prediction.step,
        prediction.compute,
        prediction.transfer,
        prediction.commit,
        f64::from(prediction.bubble_permille) / 10.0,
        limit(swarm, account),
        plan.order,
        if plan.recompute { "computed again" } else { "kept" },
    )
    .unwrap_or_default();
    text.push_str(&stages(swarm, spec, plan).to_string());
    if !account.crossings.is_empty() {
        write!(text, "\n{}", cuts(account)).unwrap_or_default();
    }
    if !tried.is_empty() {
        write!(text, "\n{}", divisions(spec, tried)).unwrap_or_default();
    }
    if !others.is_empty() {
        write!(text, "\n{}", comparison(plan, others)).unwrap_or_default();
    }
    text
}

fn stages(swarm: &Swarm, spec: &JobSpec, plan: &Plan) -> Table {
    let head = [
        "stage",
        "owner",
        "replicas",
        "operators",
        "first ... last",
        "compute",
        "memory",
        "backup",
    ];
    let mut table = Table::new(&head);
    for stage in plan.stage_ids() {
        let StagePlan { owner, replicas, backups, .. } = &plan.stages[stage.index()];
        let nodes: Vec<&str> = plan
            .assignment
            .iter()
            .zip(spec.dag.nodes())
            .filter(|(of, _)| **of == stage)
            .map(|(_, node)| node.name.as_str())
            .collect();
        let ends = match (nodes.first(), nodes.last()) {
            (Some(first), Some(last)) if first != last => format!("{first} ... {last}"),
            (Some(only), _) => (*only).to_owned(),
            _ => String::new(),
        };
        let prediction = &plan.prediction;
        let backups: Vec<String> = backups.iter().map(|peer| swarm.name(*peer)).collect();
        table.row(vec![
            stage.to_string(),
            swarm.name(*owner),
            replicas.len().to_string(),
            nodes.len().to_string(),
            ends,
            prediction.stage_compute.get(stage.index()).copied().unwrap_or_default().to_string(),
            prediction.memory.get(stage.index()).copied().unwrap_or_default().to_string(),
            if backups.is_empty() { "none".into() } else { backups.join(", ") },
        ]);
    }
    table
}

fn cuts(account: &Account) -> Table {
    let mut table =
        Table::new(&["cut", "values", "dense", "there", "back", "link", "busy a micro-batch"]);
    for crossing in &account.crossings {
        let Crossing { from, to, values, dense, there, back, rates, busy } = crossing;
        let mut names = values.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
        if values.len() > NAMES {
            write!(names, ", and {} more", values.len() - NAMES).unwrap_or_default();
        }
        table.row(vec![
            format!("{from} to {to}"),
            names,
            dense.to_string(),
            there.to_string(),
            back.to_string(),
            format!("{}, back {}", rates.0, rates.1),
            format!("{}, back {}", busy.0, busy.1),
        ]);
    }
    table
}

fn comparison(plan: &Plan, others: &[Other]) -> Table {
    let mut table = Table::new(&["placement", "step", "against this plan"]);
    table.row(vec!["this plan".into(), plan.prediction.step.to_string(), "1.00".into()]);
    for (name, step) in others {
        let (step, share) = match step {
            Ok(step) => {
                let share = step.seconds() / plan.prediction.step.seconds();
                (step.to_string(), format!("{share:.2} times as long"))
            }
            Err(why) => ("none".into(), why.clone()),
        };
        table.row(vec![(*name).into(), step, share]);
    }
    table
}

/// Lists how else a step might be divided, where that was left open.
fn divisions(spec: &JobSpec, tried: &[Tried]) -> Table {
    let mut table = Table::new(&["micro-batches", "samples each", "step", ""]);
    for Tried { samples: size, micro_batches, step } in tried {
        let (step, why) = match step {
            Ok(step) if *size == samples(&spec.dag) => (step.to_string(), "taken"),
            Ok(step) => (step.to_string(), ""),
            Err(why) => ("none".into(), why.as_str()),
        };
        table.row(vec![micro_batches.to_string(), size.to_string(), step, why.into()]);
    }
    table
}

fn limit(swarm: &Swarm, account: &Account) -> String {
    match &account.limit {
        Limit::Compute(peer, time) => format!("the arithmetic of {}, {time}", swarm.name(*peer)),
        Limit::Link(from, to, time) => {
            format!("the link from {} to {}, {time}", swarm.name(*from), swarm.name(*to))
        }
        Limit::Commit(time) => format!("gathering, storing and committing gradients, {time}"),
        Limit::Latency(_) => {
            "filling and draining the pipeline: nothing is busy for half of the step".into()
        }
    }
}

/// Returns a plan as one line.
pub(super) fn line(
    swarm: &Swarm,
    spec: &JobSpec,
    (plan, account): (&Plan, &Account),
    (tried, others): (&[Tried], &[Other]),
) -> serde_json::Value {
    let prediction = &plan.prediction;
    let hexes = |peers: &[wattle_protocol::ids::PeerId]| -> Vec<String> {
        peers.iter().map(|peer| hex(peer.bytes())).collect()
    };
    let stage = |stage: StageId| {
        let roles = &plan.stages[stage.index()];
        json!({
            "stage": stage.index(),
            "owner": hex(roles.owner.bytes()),
            "replicas": hexes(&roles.replicas),
            "backups": hexes(&roles.backups),
            "operators": plan.assignment.iter().filter(|s| **s == stage).count(),
            "compute_seconds": prediction.stage_compute.get(stage.index()).map(|d| d.seconds()),
            "memory_bytes": prediction.memory.get(stage.index()).map(|m| m.count()),
        })
    };
    let cut = |crossing: &Crossing| {
        json!({
            "from": crossing.from.index(),
            "to": crossing.to.index(),
            "values": crossing.values,
            "dense_bytes": crossing.dense.count(),
            "there_bytes": crossing.there.count(),
            "back_bytes": crossing.back.count(),
        })
    };
    let other = |(name, step): &Other| {
        let seconds = step.as_ref().ok().map(|step| step.seconds());
        json!({ "placement": name, "step_seconds": seconds, "why_not": step.as_ref().err() })
    };
    json!({
        "schema": "wattle.plan.v1",
        "job": hex(plan.job.bytes()),
        "testbed": swarm.testbed.as_ref().map(|t| &t.name),
        "stages": plan.stage_ids().map(stage).collect::<Vec<_>>(),
        "cuts": account.crossings.iter().map(cut).collect::<Vec<_>>(),
        "predicted_step_seconds": prediction.step.seconds(),
        "slowest_stage_seconds": prediction.compute.seconds(),
        "busiest_link_seconds": prediction.transfer.seconds(),
        "commit_seconds": prediction.commit.seconds(),
        "order": plan.order.to_string(),
        "recompute": plan.recompute,
        "micro_batch": samples(&spec.dag),
        "micro_batches": spec.train.micro_batches,
        "divisions": tried.iter().map(Tried::line).collect::<Vec<_>>(),
        "bubble": f64::from(prediction.bubble_permille) / 1000.0,
        "limited_by": limit(swarm, account),
        "others": others.iter().map(other).collect::<Vec<_>>(),
    })
}
