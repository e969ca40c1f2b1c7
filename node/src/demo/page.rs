//! The demonstration's report: what happened, turned into the plain data that `report` draws.

use wattle_protocol::ids::{PeerId, StageId};
use wattle_protocol::wire::message::SpanKind;

use super::show::{Story, stage_list};
use super::view;
use crate::report::{Arrow, Bar, Curve, Dot, Report, Row};
use crate::runlog::StepLog;

/// Gathers what the report shows.
pub fn page(story: &Story<'_>) -> Report {
    let options = story.options;
    let steps = story.log.steps.len();
    let peers = options.peers;
    let fault = story.fault.as_ref().map(|fault| {
        format!(
            " Peer {} ({}{}) was killed during step {}; {}.",
            fault.peer,
            stage_list(&fault.stages),
            if fault.leader { ", leader" } else { "" },
            fault.step,
            story.recovery()
        )
    });
    let summary = format!(
        "{peers} processes trained {} ({} parameters) on {} for {steps} steps, each holding a part of the network.{}",
        options.model,
        options.spec.dag.parameter_count(),
        options.spec.data.source,
        fault.unwrap_or_default(),
    );
    Report {
        title: format!("Wattle: {} on {peers} peers", options.model),
        summary,
        figures: figures(story),
        curve: curve(story),
        dots: dots(story),
        arrows: arrows(story),
        timelines: timelines(story),
        rows: story.rows().into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        notes: notes(story),
    }
}

fn figures(story: &Story<'_>) -> Vec<(String, String)> {
    let losses = story.log.loss_curve();
    let mut list = vec![("steps".to_owned(), losses.len().to_string())];
    if let (Some(first), Some(last)) = (losses.first(), losses.last()) {
        list.push(("loss".to_owned(), format!("{first:.2} → {last:.2}")));
    }
    if let Some(step) = story.log.step_time() {
        list.push(("a step takes".to_owned(), step.to_string()));
    }
    list.push(("over links".to_owned(), story.log.bytes().to_string()));
    if let Some(seconds) = story.recovery_seconds() {
        list.push(("recovery".to_owned(), format!("{seconds:.1} s")));
    }
    if let Some(comparison) = &story.comparison {
        let equal = format!("{} of {}", comparison.equal, comparison.tensors);
        list.push(("tensors bit-equal to one process".to_owned(), equal));
    }
    list
}

fn curve(story: &Story<'_>) -> Curve {
    let numbered = |losses: Vec<f64>| (0..).zip(losses).collect();
    let faults = story.fault.iter().map(|f| {
        let name = format!("peer {} killed", f.peer);
        (f.step.number(), name)
    });
    Curve {
        losses: numbered(story.log.loss_curve()),
        reference: numbered(
            story.comparison.as_ref().map(|c| c.losses.clone()).unwrap_or_default(),
        ),
        level: story.unigram_entropy().map(|e| ("unigram entropy of the corpus".to_owned(), e)),
        faults: faults.collect(),
    }
}

fn dots(story: &Story<'_>) -> Vec<Dot> {
    let last = story.log.plan();
    let members = &story.cast.members;
    members
        .iter()
        .map(|member| {
            let peer = member.role.peer;
            let hardware = view(story.peers, peer)
                .and_then(|v| v.advert.as_ref())
                .and_then(|a| a.hardware.as_ref());
            let roles = |plan: &wattle_protocol::schedule::Plan| {
                let works = |s: &StageId| plan.stages[s.index()].place(peer).is_some();
                let owned: Vec<StageId> = plan.stage_ids().filter(works).collect();
                let stands_by = plan.stages.iter().any(|s| s.backups.contains(&peer));
                match (owned.is_empty(), stands_by) {
                    (false, _) => stage_list(&owned),
                    (true, true) => "backup".to_owned(),
                    (true, false) => "no part".to_owned(),
                }
            };
            let first = story.log.plans.first().map(|p| roles(&p.plan)).unwrap_or_default();
            let then = last.map(|p| roles(&p.plan)).unwrap_or_default();
            let part = match (member.killed, first == then) {
                (true, _) => format!("{first}, killed"),
                (false, true) => first,
                (false, false) => format!("{first}, then {then}"),
            };
            let speed = hardware.map(|h| h.speed).unwrap_or_default();
            Dot {
                name: peer.short(),
                detail: format!("{part}; {speed}"),
                speed: speed.flops_per_second() as f64,
                killed: member.killed,
                leader: last.is_some_and(|p| p.leader == peer),
            }
        })
        .collect()
}

fn arrows(story: &Story<'_>) -> Vec<Arrow> {
    let place = |peer: PeerId| story.cast.place(peer);
    let shipped = story.log.shipped.iter();
    shipped
        .filter_map(|((from, to), bytes)| {
            let measured = view(story.peers, *from)
                .and_then(|v| v.advert.as_ref())
                .and_then(|a| a.links.iter().find(|l| l.peer == *to))
                .map_or(String::new(), |l| format!(", {}", l.rate));
            Some(Arrow {
                from: place(*from)?,
                to: place(*to)?,
                bytes: bytes.count(),
                label: bytes.to_string(),
                title: format!("{} to {}: {bytes}{measured}", from.short(), to.short()),
            })
        })
        .collect()
}

/// One step of each plan: the median one, so that neither the first nor an unlucky one is shown.
fn timelines(story: &Story<'_>) -> Vec<(String, Vec<Row>)> {
    let typical = |plan: &crate::runlog::PlanLog| {
        let mut steps: Vec<&StepLog> = story
            .log
            .steps
            .values()
            .filter(|s| s.epoch == plan.plan.epoch && s.commit.step != plan.base)
            .filter(|s| !s.stages.is_empty())
            .collect();
        steps.sort_by_key(|s| s.elapsed);
        steps.get(steps.len() / 2).copied()
    };
    let plans = story.log.plans.iter();
    plans
        .filter_map(|plan| {
            let step = typical(plan)?;
            let bubble = step.bubble().unwrap_or_default() * 100.0;
            let caption = format!(
                "Step {} under the plan of epoch {}: {}, {bubble:.0} % of the stages' time idle. \
                 The number on a bar is its micro-batch.",
                step.commit.step,
                plan.plan.epoch.number(),
                step.elapsed,
            );
            Some((caption, rows(step)))
        })
        .collect()
}

fn rows(step: &StepLog) -> Vec<Row> {
    step.stages
        .iter()
        .map(|(stage, owner, stats)| Row {
            name: format!("{stage}  {}", owner.short()),
            bars: stats
                .spans
                .iter()
                .map(|span| Bar {
                    kind: match span.kind {
                        SpanKind::Forward => 0,
                        SpanKind::Backward => 1,
                        SpanKind::Reduce => 2,
                        SpanKind::Optimizer => 3,
                    },
                    micro_batch: span.micro_batch.map(|m| m.index()),
                    began: span.began.micros() as f64 / 1e3,
                    ended: span.ended.micros() as f64 / 1e3,
                })
                .collect(),
        })
        .collect()
}

fn notes(story: &Story<'_>) -> Vec<String> {
    let mut notes = vec![
        "Every peer was a separate process; tensors crossed QUIC connections between them."
            .to_owned(),
    ];
    if story.options.limits {
        notes.push(
            "Emulated, since all ran on one machine: each peer's share of a core, and the rate and latency of each link."
                .to_owned(),
        );
    }
    notes
}
