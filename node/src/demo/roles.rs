//! A plan as a person reads it: who runs what, and what tensors look like on links.

use std::fmt::Write as _;

use wattle_protocol::ids::PeerId;
use wattle_protocol::schedule::forms::EdgeForms;
use wattle_protocol::schedule::{Plan, StagePlan};

/// Writes a plan as a person reads it.
pub fn plan_text(plan: &Plan, leader: PeerId, base: u64, restart: bool) -> String {
    let mut text = format!(
        "Plan of epoch {} (leader {leader}), from step {base}{}: predicted {} a step, {:.0} % bubble",
        plan.epoch.number(),
        if restart { ", all state anew" } else { "" },
        plan.prediction.step,
        f64::from(plan.prediction.bubble_permille) / 10.0,
    );
    for stage in plan.stage_ids() {
        let roles = &plan.stages[stage.index()];
        let nodes = plan.assignment.iter().filter(|s| **s == stage).count();
        let backups: Vec<String> = roles.backups.iter().map(ToString::to_string).collect();
        let compute = plan.prediction.stage_compute.get(stage.index()).copied().unwrap_or_default();
        // Writing into a String cannot fail.
        write!(
            text,
            "\n  stage {stage}: owner {}, {}{nodes} operators, {compute} compute; backup {}",
            roles.owner,
            replicas_text(roles),
            if backups.is_empty() { "none".into() } else { backups.join(", ") },
        )
        .unwrap_or_default();
    }
    for (edge, forms) in plan.forms.iter().enumerate() {
        let EdgeForms { there, back } = forms;
        write!(text, "\n  edge {edge}: {there} there, {back} back").unwrap_or_default();
    }
    text
}

/// Names a stage's replicas, with how many micro-batches of a step each runs.
fn replicas_text(roles: &StagePlan) -> String {
    let one = |(place, peer): (u16, &PeerId)| {
        let count = roles.turns.iter().filter(|turn| **turn == place).count();
        format!("{peer} ({count} micro-batches)")
    };
    let all: Vec<String> = (1..).zip(&roles.replicas).map(one).collect();
    match all.len() {
        0 => String::new(),
        1 => format!("replica {}, ", all[0]),
        _ => format!("replicas {}, ", all.join(", ")),
    }
}
