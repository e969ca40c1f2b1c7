//! JSON lines that several commands print: one schema, one function.

use serde_json::{Value, json};
use wattle_protocol::ids::JobId;
use wattle_protocol::units::Instant;
use wattle_protocol::wire::message::{SpanKind, StageStats};

use crate::runlog::StepLog;
use crate::up::hex;

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
