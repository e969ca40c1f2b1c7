//! What a step's passes say of the peers that ran them: samples for deeds, at the leader and at each member of itself.

use std::collections::BTreeMap;

use super::Ctx;
use super::io::StageWork;
use crate::ids::{MicroBatch, PeerId};
use crate::schedule::Plan;
use crate::schedule::estimate::pass_loads;
use crate::units::Duration;
use crate::wire::message::{Span, SpanKind};

/// Most micro-batches of one step that are samples.
const SAMPLES: usize = 64;

/// Takes in what the passes of one stage took at a peer.
pub(super) fn learn(
    peer: PeerId,
    work: &StageWork,
    plan: &Plan,
    spans: &[Span],
    ctx: &mut Ctx<'_>,
) {
    let hardware = ctx.gossip.advert(peer).and_then(|signed| signed.advert.hardware.clone());
    let Some(hardware) = hardware else {
        return;
    };
    // Peers of one machine share it, which is no fault of theirs: placement counts with it too.
    let mut sharing: Vec<PeerId> = plan.stages.iter().flat_map(|stage| stage.workers()).collect();
    sharing.sort_unstable();
    sharing.dedup();
    let demand: u64 = sharing
        .iter()
        .filter_map(|other| ctx.gossip.advert(*other)?.advert.hardware.as_ref())
        .filter(|other| other.host == hardware.host && hardware.host != 0)
        .map(|other| u64::from(other.demand))
        .sum();
    let capacity = u64::from(hardware.host_capacity).max(1);
    let (forward, backward) = pass_loads(&work.graph);
    let predicted = |load| {
        let alone = hardware.time(load).micros();
        let crowded = hardware.host_capacity > 0 && demand > capacity;
        let shared = if crowded { alone.saturating_mul(demand) / capacity } else { alone };
        Duration::from_micros(shared)
    };
    let (forward, backward) = (predicted(forward), predicted(backward));
    // There and back together are a sample: a kind of pass that is predicted badly makes none of its own.
    let mut took: BTreeMap<MicroBatch, (Duration, Duration)> = BTreeMap::new();
    for span in spans {
        let predicted = match span.kind {
            SpanKind::Forward => forward,
            SpanKind::Backward => backward,
            SpanKind::Reduce | SpanKind::Optimizer => continue,
        };
        if let Some(micro_batch) = span.micro_batch {
            let sums = took.entry(micro_batch).or_default();
            *sums = (sums.0 + predicted, sums.1 + span.ended.since(span.began));
        }
    }
    for sample in took.into_values().take(SAMPLES) {
        ctx.deeds.observe(peer, &hardware, sample, ctx.now);
    }
}
