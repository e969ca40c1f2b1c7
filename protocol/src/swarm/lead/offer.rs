//! Proposals: made from adverts, sent to everybody concerned, adopted once all who are needed and a majority consent.

use std::collections::{BTreeMap, BTreeSet};

use super::{PLACING_MAX, Phase};
use crate::ids::{Epoch, PeerId, Step, Term};
use crate::schedule::advert::{Advert, SignedAdvert};
use crate::schedule::deeds::{Deed, corrected};
use crate::schedule::fence::Request;
use crate::schedule::{Basis, Plan, PlanError, StagePlan};
use crate::swarm::Ctx;
use crate::swarm::job::Job;
use crate::wire::message::{Commit, JobMessage, News};

/// A proposal in the making, as it is sent.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) plan: Plan,
    pub(super) basis: Basis,
    pub(super) evidence: Vec<SignedAdvert>,
    pub(super) deeds: Vec<Deed>,
    pub(super) base: Step,
    pub(super) last: Option<Commit>,
    pub(super) restart: bool,
    /// Whose majority it needs: the council of the plan in force, or its own where there is none.
    pub(super) voters: Vec<PeerId>,
}

/// A plan, and what it was made from.
pub(super) struct Placed {
    pub(super) plan: Plan,
    pub(super) evidence: Vec<SignedAdvert>,
    pub(super) deeds: Vec<Deed>,
}

impl Job {
    /// Returns what a plan is asked for, of this leader or of another one.
    pub(in crate::swarm) fn request(&self, epoch: Epoch, leader: PeerId) -> Request<'_> {
        let (job, submitter, codec) = (self.id, self.submitter, self.spec.swarm.codec);
        Request { spec: &self.spec, job, epoch, submitter, leader, codec }
    }

    /// Returns what this leader says of the deeds of peers, beyond their adverts; nothing of those that dispute it.
    pub(super) fn deeds_of(&self, evidence: &[SignedAdvert], ctx: &Ctx<'_>) -> Vec<Deed> {
        let mut deeds = ctx.deeds.of(evidence.iter().map(|signed| &signed.advert), ctx.now);
        if let Some(lead) = &self.lead {
            deeds.retain(|deed| !lead.disputed.contains(&deed.peer));
        }
        deeds
    }

    /// Tries to place the job for the first time.
    pub(super) fn found(&mut self, ctx: &mut Ctx<'_>) {
        let Some(lead) = &mut self.lead else {
            return;
        };
        let epoch = lead.epoch.next();
        let waited = ctx.now.since(lead.began);
        match self.place_anew(epoch, ctx) {
            Ok(Placed { plan, evidence, deeds }) => {
                let voters = plan.council.clone();
                let (basis, base, last) = (Basis::Fresh, Step::default(), None);
                let restart = false;
                let offer = Offer { plan, basis, evidence, deeds, base, last, restart, voters };
                self.propose(offer, ctx);
            }
            Err(error @ PlanError::NotEnoughPeers { .. }) => {
                let reason = error.to_string();
                if waited > PLACING_MAX {
                    let reason = format!("{reason}; gave up after {waited}; start more peers");
                    return self.fail(reason, ctx);
                }
                let Some(lead) = &mut self.lead else {
                    return;
                };
                if lead.waiting.as_ref() != Some(&reason) {
                    lead.waiting = Some(reason.clone());
                    self.tell(News::Waiting { reason }, ctx);
                }
            }
            Err(error) => self.fail(error.to_string(), ctx),
        }
    }

    /// Places the job from nothing, with those who have not failed at it lately; with all where those are too few.
    pub(super) fn place_anew(&self, epoch: Epoch, ctx: &Ctx<'_>) -> Result<Placed, PlanError> {
        let request = self.request(epoch, ctx.me);
        let all = living_adverts(ctx);
        let bars = self.lead.as_ref().map(|lead| lead.bars(ctx.now)).unwrap_or_default();
        let disputed = self.lead.as_ref().map(|lead| lead.disputed.clone()).unwrap_or_default();
        let fails = |peer: PeerId| {
            bars.iter().any(|(_, barred)| *barred == peer) || disputed.contains(&peer)
        };
        let evidence: Vec<SignedAdvert> =
            all.iter().filter(|s| !fails(s.advert.peer)).cloned().collect();
        let place_on = |evidence: &[SignedAdvert]| {
            let deeds = self.deeds_of(evidence, ctx);
            let shown = shown(evidence, &deeds);
            let plan = (ctx.planner)(request, &shown.iter().collect::<Vec<_>>())?;
            Ok((plan, deeds))
        };
        match place_on(&evidence) {
            Err(PlanError::NotEnoughPeers { .. } | PlanError::OutOfMemory { .. })
                if evidence.len() < all.len() =>
            {
                let (plan, deeds) = place_on(&all)?;
                Ok(Placed { plan, evidence: all, deeds })
            }
            placed => {
                let (plan, deeds) = placed?;
                Ok(Placed { plan, evidence, deeds })
            }
        }
    }

    pub(super) fn propose(&mut self, offer: Offer, ctx: &mut Ctx<'_>) {
        let Some(lead) = &mut self.lead else {
            return;
        };
        lead.epoch = offer.plan.epoch;
        lead.phase = Phase::Proposing {
            offer: Box::new(offer.clone()),
            accepted: BTreeSet::new(),
            since: ctx.now,
            sent: ctx.now,
        };
        self.send_offer(&offer, &BTreeSet::new(), ctx);
    }

    pub(super) fn send_offer(&self, offer: &Offer, except: &BTreeSet<PeerId>, ctx: &mut Ctx<'_>) {
        let Some(lead) = &self.lead else {
            return;
        };
        for peer in members(&offer.plan, &offer.voters) {
            if except.contains(&peer) {
                continue;
            }
            let body = JobMessage::Propose {
                term: lead.term,
                spec: Box::new((*self.spec).clone()),
                plan: Box::new(offer.plan.clone()),
                basis: offer.basis.clone(),
                evidence: offer.evidence.clone(),
                deeds: offer.deeds.clone(),
                base: offer.base,
                last: offer.last,
                restart: offer.restart,
            };
            ctx.send(peer, self.id, body);
        }
    }

    pub(in crate::swarm) fn on_accept(
        &mut self,
        from: PeerId,
        term: Term,
        epoch: Epoch,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(lead) = &mut self.lead else {
            return;
        };
        let Phase::Proposing { offer, accepted, .. } = &mut lead.phase else {
            return;
        };
        if lead.term != term || offer.plan.epoch != epoch {
            return;
        }
        accepted.insert(from);
        let votes = offer.voters.iter().filter(|p| accepted.contains(p)).count();
        let majority = votes > offer.voters.len() / 2;
        if !majority || !needed(&offer.plan).iter().all(|p| accepted.contains(p)) {
            return;
        }
        let offer = offer.clone();
        lead.phase = Phase::Running { ready: BTreeMap::new() };
        lead.trace.restart();
        lead.watched.restart();
        lead.placed_by.clone_from(&offer.deeds);
        lead.decided = ctx.now;
        lead.settled = ctx.now;
        lead.began = ctx.now;
        for peer in members(&offer.plan, &offer.voters) {
            ctx.send(peer, self.id, JobMessage::Adopt { term, epoch });
        }
        let news = News::Adopted {
            plan: Box::new(offer.plan),
            leader: ctx.me,
            base: offer.base,
            restart: offer.restart,
        };
        self.tell(news, ctx);
        if offer.base >= self.steps() {
            self.finish(self.last, ctx);
        }
    }
}

/// Returns the adverts that a plan is made from: the speeds that peers say, corrected by their deeds.
pub(in crate::swarm) fn shown(evidence: &[SignedAdvert], deeds: &[Deed]) -> Vec<Advert> {
    let words: Vec<&Advert> = evidence.iter().map(|signed| &signed.advert).collect();
    corrected(&words, deeds)
}

/// Whose consent a plan needs, whatever the majority says: those with a part in it.
pub(super) fn needed(plan: &Plan) -> BTreeSet<PeerId> {
    let stages = plan.stages.iter();
    stages.flat_map(StagePlan::holders).collect()
}

/// Everybody whom a change of plan concerns, in order.
pub(super) fn members(plan: &Plan, voters: &[PeerId]) -> BTreeSet<PeerId> {
    plan.council.iter().chain(voters).copied().chain(needed(plan)).collect()
}

/// Adverts of living peers and of this one, in the order of their peers.
pub(super) fn living_adverts(ctx: &Ctx<'_>) -> Vec<SignedAdvert> {
    let living = |p: PeerId| p == ctx.me || ctx.membership.is_living(p);
    ctx.gossip.all().filter(|s| living(s.advert.peer)).cloned().collect()
}
