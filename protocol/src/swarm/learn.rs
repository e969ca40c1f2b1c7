//! What a step's passes say of the peers that ran them: one sample for deeds a peer and step, all its stages together, at
//! the leader of the others and at each member of itself.
//!
//! Taken when the step is decided, however often a stage has reported it.

use super::Ctx;
use super::io::StageWork;
use super::job::Job;
use crate::ids::{PeerId, Step};
use crate::schedule::Plan;
use crate::schedule::load::Load;
use crate::units::Duration;
use crate::wire::message::{Span, SpanKind};

/// Passes of a step that take and promise less together count as a promise kept: of small stages, models are off by a
/// multiple.
const SMALL: Duration = Duration::from_millis(50);

/// Takes in what the passes of one step took at a peer, by stages.
pub(super) fn learn(peer: PeerId, parts: &[(&StageWork, &[Span])], plan: &Plan, ctx: &mut Ctx<'_>) {
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
    let predicted = |load: Load| {
        let alone = hardware.time(load).micros();
        let crowded = hardware.host_capacity > 0 && demand > capacity;
        let shared = if crowded { alone.saturating_mul(demand) / capacity } else { alone };
        Duration::from_micros(shared)
    };
    // There and back and all stages together are a sample: what is predicted badly makes none of its own.
    let (mut promised, mut took) = (Duration::ZERO, Duration::ZERO);
    for (work, spans) in parts {
        let (forward, backward) = (predicted(work.loads.0), predicted(work.loads.1));
        for span in *spans {
            promised += match span.kind {
                SpanKind::Forward => forward,
                SpanKind::Backward => backward,
                SpanKind::Reduce | SpanKind::Optimizer => continue,
            };
            took += span.ended.since(span.began);
        }
    }
    if took == Duration::ZERO {
        // Who ran nothing has kept no promise.
        return;
    }
    // Left out, the small ones would leave their stalls alone behind.
    let is_small = promised.max(took) < SMALL;
    let sample = if is_small { (SMALL, SMALL) } else { (promised, took) };
    ctx.deeds.observe(peer, &hardware, sample, ctx.now);
}

impl Job {
    /// Takes in what this peer's own passes of a step took, as owner or as replica.
    pub(super) fn learn_own(&self, step: Step, ctx: &mut Ctx<'_>) {
        let Some(plan) = &self.plan else {
            return;
        };
        let owned = self.stages.values().map(|stage| &stage.shift);
        let shared = self.backups.values().filter_map(|backup| backup.shift.as_ref());
        let done = owned.chain(shared).filter(|shift| shift.has_done(step));
        let parts: Vec<(&StageWork, &[Span])> =
            done.map(|shift| (&*shift.work, shift.stats.spans.as_slice())).collect();
        learn(ctx.me, &parts, plan, ctx);
    }
}
