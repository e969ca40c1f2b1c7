//! Why a plan takes as long as it does: what crosses between stages, every pass and transfer of a predicted step, and
//! what bounds it. For people; no decision rests on it.

use std::collections::BTreeMap;

use super::course::Span as CourseSpan;
use super::estimate::Placement;
use super::fence::{Request, stage_graphs};
use super::links::Links;
use super::pipeline::Pass;
use super::roles::{able_peers, ground_of};
use super::{Plan, PlanError, StagePlan};
use crate::ids::{MicroBatch, PeerId, StageId};
use crate::schedule::advert::Advert;
use crate::units::{Bytes, Duration, Instant, Rate};

/// What crosses from one stage to another for each micro-batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// The sending stage.
    pub from: StageId,
    /// The receiving stage.
    pub to: StageId,
    /// Names of the values.
    pub values: Vec<String>,
    /// Their bytes, dense.
    pub dense: Bytes,
    /// Bytes on the wire forwards.
    pub there: Bytes,
    /// Bytes of cotangents on the wire backwards.
    pub back: Bytes,
    /// Rates of the link between the owners, forwards and backwards.
    pub rates: (Rate, Rate),
    /// How long one micro-batch occupies the link, forwards and backwards.
    pub busy: (Duration, Duration),
}

/// What a peer or a link does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A forward pass.
    Forward(StageId, MicroBatch),
    /// A backward pass.
    Backward(StageId, MicroBatch),
    /// Sends a tensor to a peer.
    Send(PeerId),
}

/// One pass or transfer of the predicted step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Who.
    pub peer: PeerId,
    /// What.
    pub work: Work,
    /// From, since the step began.
    pub start: Instant,
    /// To.
    pub end: Instant,
}

/// What takes the largest part of the predicted step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A peer computes nearly all the time.
    Compute(PeerId, Duration),
    /// A link carries tensors nearly all the time.
    Link(PeerId, PeerId, Duration),
    /// Gathering, storing and committing gradients.
    Commit(Duration),
    /// Nothing is busy most of the time: filling and draining the pipeline, and travel.
    Latency(Duration),
}

/// The account of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What crosses, by stages.
    pub crossings: Vec<Crossing>,
    /// What happens in the predicted step, in the order of its beginning.
    pub spans: Vec<Span>,
    /// What bounds it.
    pub limit: Limit,
}

/// Accounts for a plan on the adverts that it was made from.
///
/// *Errors*: [`PlanError::Network`] if the plan is for another network.
pub fn account(
    request: Request<'_>,
    adverts: &[&Advert],
    plan: &Plan,
) -> Result<Account, PlanError> {
    let spec = request.spec;
    let cut = stage_graphs(spec, &plan.assignment, plan.recompute)?;
    let links = Links::of(adverts);
    let able = able_peers(adverts);
    let backups = plan.stages.iter().flat_map(|s| s.backups.iter().copied());
    let parts = plan.stages.iter().flat_map(StagePlan::workers).chain(backups);
    let ground = ground_of(&able, parts.chain([request.leader]), adverts, &links);
    let (leader, forms) = (request.leader, plan.forms.as_slice());
    let (order, stages, ground) = (plan.order, plan.stages.as_slice(), &ground);
    let placement = Placement { spec, cut: &cut, order, stages, leader, ground, forms };
    let (wires, outcome) = placement.recorded();

    let mut crossings: BTreeMap<(StageId, StageId), Crossing> = BTreeMap::new();
    for (edge, wire) in cut.edges.iter().zip(&wires) {
        let owner = |stage: StageId| plan.stages[stage.index()].owner;
        let (from, to) = (owner(edge.from), owner(edge.to));
        let name = cut.stages[edge.from.index()].values.get(&edge.value);
        let entry = crossings.entry((edge.from, edge.to)).or_insert_with(|| Crossing {
            from: edge.from,
            to: edge.to,
            values: Vec::new(),
            dense: Bytes::ZERO,
            there: Bytes::ZERO,
            back: Bytes::ZERO,
            rates: (links.link(from, to).0, links.link(to, from).0),
            busy: (Duration::ZERO, Duration::ZERO),
        });
        entry.values.extend(name.map(|value| value.name.clone()));
        entry.dense += edge.fact.bytes();
        entry.there += wire.there;
        entry.back += wire.back.unwrap_or_default();
        entry.busy.0 += links.transfer(from, to, wire.there).0;
        entry.busy.1 += links.transfer(to, from, wire.back.unwrap_or_default()).0;
    }
    let span = |span: &CourseSpan| match *span {
        CourseSpan::Pass { stage, device, pass, start, end } => {
            let stage = StageId::new(u16::try_from(stage).unwrap_or(u16::MAX));
            let work = match pass {
                Pass::Forward(m) => Work::Forward(stage, m),
                Pass::Backward(m) => Work::Backward(stage, m),
            };
            let (start, end) = (Instant::from_micros(start), Instant::from_micros(end));
            Span { peer: ground.peer(device), work, start, end }
        }
        CourseSpan::Transfer { from, to, start, end } => {
            let (start, end) = (Instant::from_micros(start), Instant::from_micros(end));
            Span { peer: ground.peer(from), work: Work::Send(ground.peer(to)), start, end }
        }
    };
    let mut spans: Vec<Span> = outcome.spans.iter().map(span).collect();
    spans.sort_by_key(|s| (s.start, s.end, s.peer));
    let limit = limit(plan, &spans);
    Ok(Account { crossings: crossings.into_values().collect(), spans, limit })
}

/// Names what is busy longest; latency where that is less than half of the step.
fn limit(plan: &Plan, spans: &[Span]) -> Limit {
    let mut peers: BTreeMap<PeerId, Duration> = BTreeMap::new();
    let mut links: BTreeMap<(PeerId, PeerId), Duration> = BTreeMap::new();
    for span in spans {
        let took = span.end.since(span.start);
        match span.work {
            Work::Forward(..) | Work::Backward(..) => *peers.entry(span.peer).or_default() += took,
            Work::Send(to) => *links.entry((span.peer, to)).or_default() += took,
        }
    }
    let compute = peers.into_iter().map(|(peer, time)| (time, Limit::Compute(peer, time)));
    let link = links.into_iter().map(|((from, to), time)| (time, Limit::Link(from, to, time)));
    let commit = plan.prediction.commit;
    let candidates = compute.chain(link).chain([(commit, Limit::Commit(commit))]);
    let longest = candidates.max_by_key(|(time, _)| *time);
    match longest {
        Some((time, limit)) if time * 2 >= plan.prediction.step => limit,
        _ => Limit::Latency(plan.prediction.step),
    }
}
