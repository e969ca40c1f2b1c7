//! Members that could not do their part: what they get no part in for a while, and when a job is given up over them.
//!
//! Only members are believed, and only of the plan in force or in proposal: a stale word or a stranger's changes nothing.

use super::offer::{Offer, members};
use super::{Lead, Phase};
use crate::ids::{Epoch, PeerId, StageId, Term};
use crate::schedule::Plan;
use crate::swarm::Ctx;
use crate::swarm::job::Job;
use crate::units::{Duration, Instant};

/// How long a member that failed at a stage gets no part in it: a device does not grow by itself.
const BARRED: Duration = Duration::from_millis(600_000);
/// Failures without a step between them after which a job is given up: a deterministic fault would fail for ever.
const FAILURES_MAX: u32 = 6;

impl Lead {
    /// Says whether a peer gets no part in a stage.
    pub(super) fn is_barred(&self, peer: PeerId, stage: StageId, now: Instant) -> bool {
        self.barred.get(&(stage, peer)).is_some_and(|(_, at)| now.since(*at) < BARRED)
    }

    /// Returns who gets no part in which stage.
    pub(super) fn bars(&self, now: Instant) -> Vec<(StageId, PeerId)> {
        let young = self.barred.iter().filter(|(_, (_, at))| now.since(*at) < BARRED);
        young.map(|(key, _)| *key).collect()
    }

    /// Returns the proposal that a member speaks of, if it is the one in work.
    fn offer(&self, term: Term, epoch: Epoch) -> Option<&Offer> {
        match &self.phase {
            Phase::Proposing { offer, .. } if self.term == term && offer.plan.epoch == epoch => {
                Some(offer)
            }
            Phase::Proposing { .. }
            | Phase::Placing
            | Phase::Inquiring { .. }
            | Phase::Running { .. }
            | Phase::Done => None,
        }
    }
}

impl Job {
    /// A member refuses the proposal in work. One that has no part in it merely gives no vote.
    pub(in crate::swarm) fn on_refused(
        &mut self,
        from: PeerId,
        (term, epoch): (Term, Epoch),
        reason: &str,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(offer) = self.lead.as_ref().and_then(|lead| lead.offer(term, epoch)) else {
            return;
        };
        let parts = parts(&offer.plan, from);
        if !parts.is_empty() {
            self.on_failure(from, (epoch, &parts), (reason, false), ctx);
        }
    }

    /// A member disputes what the proposal in work says of its deeds: nobody is barred over a difference of clocks. From here
    /// on it is taken at its word where it has a part already, and gets none by it that others can do.
    pub(in crate::swarm) fn on_disputed(
        &mut self,
        from: PeerId,
        (term, epoch): (Term, Epoch),
        ctx: &mut Ctx<'_>,
    ) {
        let Some(lead) = &mut self.lead else {
            return;
        };
        let counts_on = |offer: &Offer| offer.deeds.iter().any(|deed| deed.peer == from);
        if lead.offer(term, epoch).is_some_and(counts_on) && lead.disputed.insert(from) {
            tracing::warn!(job = %self.id, peer = %from, "a member disputes its deeds");
            self.start_over(ctx);
        }
    }

    /// A member fails at a stage that the plan in force, or the one in proposal, gives it.
    pub(in crate::swarm) fn on_stage_failed(
        &mut self,
        from: PeerId,
        (epoch, stage): (Epoch, StageId),
        why: (&str, bool),
        ctx: &mut Ctx<'_>,
    ) {
        let Some(lead) = &self.lead else {
            return;
        };
        let proposed = lead.offer(lead.term, epoch).map(|offer| &offer.plan);
        let in_force = self.plan.as_deref().filter(|plan| plan.epoch == epoch);
        let plans = proposed.into_iter().chain(in_force);
        if plans.into_iter().any(|plan| parts(plan, from).contains(&stage)) {
            self.on_failure(from, (epoch, &[stage]), why, ctx);
        }
    }

    /// Nobody who is needed may hold a proposal up by silence.
    pub(super) fn on_silence(&mut self, ctx: &mut Ctx<'_>) {
        let Some(Phase::Proposing { offer, accepted, .. }) = self.lead.as_ref().map(|l| &l.phase)
        else {
            return;
        };
        let epoch = offer.plan.epoch;
        let founding = self.plan.is_none();
        let silent =
            members(&offer.plan, &offer.voters).into_iter().filter(|p| !accepted.contains(p));
        let late: Vec<(PeerId, Vec<StageId>)> = silent
            .map(|peer| match parts(&offer.plan, peer) {
                // The first plan's own council votes on it: whoever does not answer is left out of the next attempt.
                none if none.is_empty() && founding => (peer, offer.plan.stage_ids().collect()),
                parts => (peer, parts),
            })
            .filter(|(_, stages)| !stages.is_empty())
            .collect();
        for (peer, stages) in late {
            let why = ("does not answer a proposal", false);
            self.on_failure(peer, (epoch, &stages), why, ctx);
        }
    }

    /// Bars a member from what it failed at and asks around again, or gives up: after many failures without a step between
    /// them, or where the numbers of one step fail a second time, at this peer or at another, which has the same ones.
    fn on_failure(
        &mut self,
        from: PeerId,
        (epoch, stages): (Epoch, &[StageId]),
        (reason, of_numbers): (&str, bool),
        ctx: &mut Ctx<'_>,
    ) {
        let step = self.last.map(|last| last.step.next()).unwrap_or_default();
        let Some(lead) = &mut self.lead else {
            return;
        };
        let known = lead.barred.iter().any(|((_, peer), (of, _))| *peer == from && *of == epoch);
        let fresh =
            |stage: &StageId| lead.barred.get(&(*stage, from)).is_none_or(|(of, _)| *of != epoch);
        let stages: Vec<StageId> = stages.iter().copied().filter(fresh).collect();
        if stages.is_empty() {
            // Heard before.
            return;
        }
        tracing::warn!(job = %self.id, peer = %from, reason, "a member cannot do its part");
        lead.barred.extend(stages.iter().map(|stage| ((*stage, from), (epoch, ctx.now))));
        // One device that dies under several stages is one failure.
        lead.failures += u32::from(!known);
        let again = of_numbers && lead.overflowed.replace(step) == Some(step);
        if again {
            return self.fail(format!("step {step}, twice: {reason}"), ctx);
        }
        if lead.failures > FAILURES_MAX {
            return self.fail(format!("peer {from}: {reason}"), ctx);
        }
        self.start_over(ctx);
    }
}

/// Returns the stages that a plan gives a peer, as owner, replica or backup.
fn parts(plan: &Plan, peer: PeerId) -> Vec<StageId> {
    let has_part = |stage: &StageId| {
        let roles = &plan.stages[stage.index()];
        roles.holders().any(|p| p == peer)
    };
    plan.stage_ids().filter(has_part).collect()
}
