//! JSON lines that several commands print: one schema, one function.

use serde_json::{Value, json};
use wattle_protocol::ids::{JobId, PeerId};
use wattle_protocol::swarm::io::Event;
use wattle_protocol::units::Instant;
use wattle_protocol::wire::message::{News, SpanKind, StageStats};

use crate::demo::roles::plan_text;
use crate::demo::show::stage_list;
use crate::runlog::StepLog;
use crate::up::hex;

/// What a peer tells the people at its machine, if a program may want to know.
pub fn event(event: &Event) -> Option<Value> {
    match event {
        Event::PeerAlive(peer) => Some(membership(*peer, "here")),
        Event::PeerLost(peer) => Some(membership(*peer, "gone")),
        Event::Job { job, news } => Some(self::news(*job, news)),
        Event::Runs { .. } | Event::Pulled { .. } | Event::Traces(_) | Event::MayStop => None,
    }
}

/// A peer that came or went (`wattle.membership.v1`).
fn membership(peer: PeerId, state: &str) -> Value {
    json!({ "schema": "wattle.membership.v1", "peer": hex(peer.bytes()), "state": state })
}

/// A job's news: `wattle.waiting.v1`, `wattle.adopted.v1`, `wattle.step.v1`, `wattle.lost.v1`, `wattle.finished.v1` or
/// `wattle.failed.v1`.
pub fn news(job: JobId, news: &News) -> Value {
    let id = hex(job.bytes());
    match news {
        News::Waiting { reason } => {
            json!({ "schema": "wattle.waiting.v1", "job": id, "reason": reason })
        }
        News::Adopted { plan, leader, base, restart } => {
            let stage = |(index, roles): (usize, &wattle_protocol::schedule::StagePlan)| {
                json!({
                    "stage": index,
                    "owner": hex(roles.owner.bytes()),
                    "replicas": roles.replicas.iter().map(|r| hex(r.bytes())).collect::<Vec<_>>(),
                    "backups": roles.backups.iter().map(|b| hex(b.bytes())).collect::<Vec<_>>(),
                })
            };
            json!({
                "schema": "wattle.adopted.v1",
                "job": id,
                "epoch": plan.epoch.number(),
                "leader": hex(leader.bytes()),
                "base": base.number(),
                "restart": restart,
                "predicted_step_seconds": plan.prediction.step.seconds(),
                "predicted_commit_seconds": plan.prediction.commit.seconds(),
                "predicted_compute_seconds": plan.prediction.stage_compute.iter()
                    .map(|d| d.seconds()).collect::<Vec<_>>(),
                "predicted_bubble": f64::from(plan.prediction.bubble_permille) / 1000.0,
                "stages": plan.stages.iter().enumerate().map(stage).collect::<Vec<_>>(),
                "forms": plan.forms.iter()
                    .map(|forms| json!({"there": forms.there.to_string(), "back": forms.back.to_string()}))
                    .collect::<Vec<_>>(),
            })
        }
        News::Step { commit, epoch, elapsed, stages } => {
            let log = StepLog {
                commit: *commit,
                epoch: *epoch,
                elapsed: *elapsed,
                heard: Instant::default(),
                stages: stages.clone(),
            };
            step(job, &log)
        }
        News::Lost { peer, stages, step } => json!({
            "schema": "wattle.lost.v1",
            "job": id,
            "peer": hex(peer.bytes()),
            "stages": stages.iter().map(|s| s.index()).collect::<Vec<_>>(),
            "step": step.number(),
        }),
        News::Finished { steps, .. } => {
            json!({ "schema": "wattle.finished.v1", "job": id, "steps": steps.number() })
        }
        News::Failed { reason } => {
            json!({ "schema": "wattle.failed.v1", "job": id, "reason": reason })
        }
    }
}

/// Writes a job's news as a person reads it.
pub fn text(news: &News) -> String {
    match news {
        News::Waiting { reason } => format!("waiting: {reason}"),
        News::Adopted { plan, leader, base, restart } => {
            plan_text(plan, *leader, base.number(), *restart)
        }
        News::Step { commit, elapsed, .. } => {
            format!("step {}, loss {:.4}, {elapsed}", commit.step.number(), commit.loss)
        }
        News::Lost { peer, stages, step } => {
            format!("peer {peer} is lost ({}) in step {step}", stage_list(stages))
        }
        News::Finished { steps, .. } => format!("finished after {steps} steps"),
        News::Failed { reason } => format!("failed: {reason}"),
    }
}

/// A committed step (`wattle.step.v1`). Spans are `[kind, micro_batch or null, began, ended]` in microseconds from the
/// earliest beginning of the step's stages, by their owners' clocks.
pub fn step(job: JobId, step: &StepLog) -> Value {
    let origin = step.stages.iter().map(|(.., s)| s.began).min().unwrap_or_default();
    let stages: Vec<Value> = step
        .stages
        .iter()
        .map(|(stage, owner, stats)| {
            json!({
                "stage": stage.index(),
                "owner": hex(owner.bytes()),
                "ready_micros": since(stats.ready, origin),
                "bytes": stats.shipped.iter().map(|l| json!([hex(l.to.bytes()), l.bytes.count()])).collect::<Vec<_>>(),
                "spans": spans(stats, origin),
            })
        })
        .collect();
    json!({
        "schema": "wattle.step.v1",
        "job": hex(job.bytes()),
        "step": step.commit.step.number(),
        "loss": step.commit.loss,
        "gradient_norm": step.commit.norm,
        "seconds": step.elapsed.seconds(),
        "bytes": step.bytes().count(),
        "bubble": step.bubble(),
        "epoch": step.epoch.number(),
        "stages": stages,
    })
}

fn spans(stats: &StageStats, origin: Instant) -> Vec<Value> {
    stats
        .spans
        .iter()
        .map(|span| {
            let micro_batch = span.micro_batch.map(|m| m.index());
            json!([
                kind(span.kind),
                micro_batch,
                since(span.began, origin),
                since(span.ended, origin)
            ])
        })
        .collect()
}

/// Microseconds from the origin; the update of the step before lies before it.
fn since(moment: Instant, origin: Instant) -> i64 {
    let micros = |at: Instant| i64::try_from(at.micros()).unwrap_or(i64::MAX);
    micros(moment) - micros(origin)
}

fn kind(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::Forward => "forward",
        SpanKind::Backward => "backward",
        SpanKind::Reduce => "reduce",
        SpanKind::Optimizer => "optimizer",
    }
}
