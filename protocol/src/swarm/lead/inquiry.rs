//! Who of a job's members is gone, what the others hold, and from where the job goes on.
//!
//! Asked after every loss and at the start of each reign; ends in a proposal. Not here: making and sending proposals
//! (`offer`).

use std::collections::{BTreeMap, BTreeSet};

use super::offer::{Offer, Placed, living_adverts, needed, shown};
use super::{INQUIRY, KEEP, Phase, SETTLE};
use crate::ids::{Epoch, PeerId, StageId, Step, Term};
use crate::job::Start;
use crate::schedule::advert::Advert;
use crate::schedule::repair::repair;
use crate::schedule::{Basis, Plan, PlanError, Standing};
use crate::swarm::Ctx;
use crate::swarm::job::Job;
use crate::wire::message::{Commit, Holding, JobMessage, News};

/// What a member has reported of itself.
#[derive(Debug)]
pub(in crate::swarm) struct Report {
    /// Highest version of a plan that it has adopted or accepted.
    pub(in crate::swarm) epoch: Epoch,
    pub(in crate::swarm) holdings: Vec<Holding>,
    pub(in crate::swarm) last: Option<Commit>,
}

impl Job {
    /// Asks all living members what they hold.
    pub(in crate::swarm) fn inquire(&mut self, ctx: &mut Ctx<'_>) {
        let (Some(lead), Some(plan)) = (&mut self.lead, &self.plan) else {
            return;
        };
        lead.phase = Phase::Inquiring { reports: BTreeMap::new(), since: ctx.now };
        let term = lead.term;
        for peer in plan.members() {
            ctx.send(peer, self.id, JobMessage::Inquire { term });
        }
    }

    /// Asks those again who have not answered: the question or the answer may have been lost.
    pub(super) fn ask_again(&self, ctx: &mut Ctx<'_>) {
        let (Some(lead), Some(plan)) = (&self.lead, &self.plan) else {
            return;
        };
        let Phase::Inquiring { reports, .. } = &lead.phase else {
            return;
        };
        for peer in plan.members().into_iter().filter(|peer| !reports.contains_key(peer)) {
            ctx.send(peer, self.id, JobMessage::Inquire { term: lead.term });
        }
    }

    /// Tells the submitter who of the plan in force is gone.
    pub(in crate::swarm) fn tell_losses(&mut self, ctx: &mut Ctx<'_>) {
        let Some(plan) = self.plan.clone() else {
            return;
        };
        let step = self.last.map(|l| l.step.next()).unwrap_or_default();
        for peer in &plan.members() {
            if *peer == self.submitter || !self.is_gone(*peer, ctx) {
                continue;
            }
            let works = |s: &StageId| plan.stages[s.index()].workers().any(|p| p == *peer);
            let stages = plan.stage_ids().filter(works).collect();
            self.tell(News::Lost { peer: *peer, stages, step }, ctx);
        }
    }

    /// Says whether a member cannot be counted on: lost, or alive without the plan in force.
    ///
    /// A peer that restarts is back before anybody misses it, but remembers nothing: it grants no lease.
    fn is_gone(&self, peer: PeerId, ctx: &Ctx<'_>) -> bool {
        if peer == ctx.me {
            return false;
        }
        let silent = self.lead.as_ref().is_some_and(|lead| {
            let granted = lead.current.get(&peer).copied().unwrap_or_default();
            ctx.now.since(granted.max(lead.settled)) >= ctx.config.lost_after
        });
        silent || !ctx.membership.is_living(peer)
    }

    /// Looks for lost participants at once; once a plan has settled, for lost voters, and for peers that could fill a gap
    /// among the backups.
    pub(super) fn watch(&mut self, ctx: &mut Ctx<'_>) {
        let (Some(lead), Some(plan)) = (&self.lead, self.plan.clone()) else {
            return;
        };
        if needed(&plan).iter().any(|p| self.is_gone(*p, ctx)) {
            self.tell_losses(ctx);
            return self.inquire(ctx);
        }
        if self.is_abandoned(ctx) {
            return self.inquire(ctx);
        }
        if ctx.now.since(lead.settled) < SETTLE {
            return;
        }
        // Whoever stands by for nothing still counts for a majority: one that is gone for good, or is back without a
        // memory, would weaken the council until no leader can be elected.
        if plan.council.iter().any(|p| *p != self.submitter && self.is_gone(*p, ctx)) {
            self.tell_losses(ctx);
            return self.inquire(ctx);
        }
        let wanted = usize::from(self.spec.swarm.backups);
        let able: Vec<PeerId> = ctx
            .gossip
            .all()
            .filter(|s| s.advert.hardware.is_some())
            .map(|s| s.advert.peer)
            .filter(|p| *p == ctx.me || ctx.membership.is_living(*p))
            .collect();
        let gap = plan.stage_ids().zip(&plan.stages).any(|(id, s)| {
            let fits =
                |p: &PeerId| s.holders().all(|q| q != *p) && !lead.is_barred(*p, id, ctx.now);
            s.followers().count() < wanted && able.iter().any(fits)
        });
        if gap {
            return self.inquire(ctx);
        }
        self.look(ctx);
    }

    /// Says whether nothing is decided in a long time because weights are awaited from a submitter that is gone.
    fn is_abandoned(&self, ctx: &Ctx<'_>) -> bool {
        let waits = matches!(self.spec.start, Start::Given(_)) && self.last.is_none();
        let is_gone = self.submitter != ctx.me && !ctx.membership.is_living(self.submitter);
        let decided = self.lead.as_ref().map(|lead| lead.decided).unwrap_or_default();
        waits && is_gone && ctx.now.since(decided) >= KEEP
    }

    pub(in crate::swarm) fn on_report(
        &mut self,
        from: PeerId,
        term: Term,
        report: Report,
        ctx: &mut Ctx<'_>,
    ) {
        let is_member = self.plan.as_ref().is_some_and(|plan| plan.members().contains(&from));
        let Some(lead) = self.lead.as_mut().filter(|_| is_member) else {
            return;
        };
        let Phase::Inquiring { reports, .. } = &mut lead.phase else {
            return;
        };
        if lead.term == term {
            reports.insert(from, report);
            self.conclude(ctx);
        }
    }

    /// Ends an inquiry when enough has been reported: who goes on with each stage, and from which step.
    pub(super) fn conclude(&mut self, ctx: &mut Ctx<'_>) {
        let (Some(lead), Some(plan)) = (&self.lead, self.plan.clone()) else {
            return;
        };
        let Phase::Inquiring { reports, since } = &lead.phase else {
            return;
        };
        let living = |p: &&PeerId| !self.is_gone(**p, ctx);
        let all = plan.members().iter().filter(living).all(|p| reports.contains_key(p));
        let majority =
            plan.council.iter().filter(|p| reports.contains_key(p)).count() >= plan.majority();
        if !majority || (!all && ctx.now.since(*since) < INQUIRY) {
            return;
        }
        let (base, last, holders) =
            standing(&plan, reports, &|p, stage| lead.is_barred(p, stage, ctx.now));
        let barred = lead.bars(ctx.now);
        let mut standing = Standing { holders, barred, wanted: Vec::new() };
        // Whatever was ever adopted, a majority had accepted: one of these reports knows of it.
        let seen = reports.values().map(|r| r.epoch).max().unwrap_or_default();
        let epoch = lead.epoch.max(plan.epoch).max(seen).next();
        let voters = plan.council.clone();
        if standing.holders.iter().all(|h| !h.is_empty()) {
            if let Some(lead) = &mut self.lead {
                lead.arrange_moves(&mut standing, (plan.epoch, epoch), ctx.now);
            }
            let evidence = living_adverts(ctx);
            let deeds = self.deeds_of(&evidence, ctx);
            let shown = shown(&evidence, &deeds);
            let adverts: Vec<&Advert> = shown.iter().collect();
            let request = self.request(epoch, ctx.me);
            return match repair(request, &plan, &standing, &adverts) {
                Ok(next) => {
                    if self.drop_moves(&standing.wanted, &next, ctx) {
                        return;
                    }
                    let basis = Basis::Repair { previous: Box::new((*plan).clone()), standing };
                    let (plan, restart) = (next, false);
                    let offer = Offer { plan, basis, evidence, deeds, base, last, restart, voters };
                    self.propose(offer, ctx);
                }
                Err(error) => self.fail(error.to_string(), ctx),
            };
        }
        if self.is_abandoned(ctx) {
            let reason =
                "it starts from weights that its submitter holds, who is gone; hand it in again";
            return self.fail(reason.into(), ctx);
        }
        tracing::warn!(job = %self.id, "a stage is lost with all its backups: begins anew");
        match self.place_anew(epoch, ctx) {
            Ok(Placed { plan, evidence, deeds }) => {
                if let Some(lead) = &mut self.lead {
                    lead.moving = None;
                }
                let (basis, base, last) = (Basis::Fresh, Step::default(), None);
                let restart = true;
                let offer = Offer { plan, basis, evidence, deeds, base, last, restart, voters };
                self.propose(offer, ctx);
            }
            // More peers may come (back): the inquiry stays open and is concluded again on the next tick.
            Err(PlanError::NotEnoughPeers { .. }) => {}
            Err(error) => self.fail(error.to_string(), ctx),
        }
    }
}

/// From which step the job goes on, what was decided last, and who can go on with each stage, best first.
fn standing(
    plan: &Plan,
    reports: &BTreeMap<PeerId, Report>,
    is_barred: &dyn Fn(PeerId, StageId) -> bool,
) -> (Step, Option<Commit>, Vec<Vec<PeerId>>) {
    let holdings = || reports.iter().flat_map(|(p, r)| r.holdings.iter().map(move |h| (*p, *h)));
    let base = holdings().map(|(_, h)| h.applied).max().unwrap_or_default();
    let last = reports.values().filter_map(|r| r.last).find(|commit| commit.step.next() == base);
    let can_reach = |h: &Holding| {
        h.applied == base || (h.applied.next() == base && h.next_gradient && last.is_some())
    };
    let holders = plan
        .stage_ids()
        .map(|stage| {
            let able: BTreeSet<PeerId> = holdings()
                .filter(|(p, h)| h.stage == stage && can_reach(h) && !is_barred(*p, stage))
                .map(|(p, _)| p)
                .collect();
            let roles = &plan.stages[stage.index()];
            let mut order: Vec<PeerId> = roles.holders().filter(|p| able.contains(p)).collect();
            let others: Vec<PeerId> = able.iter().copied().filter(|p| !order.contains(p)).collect();
            order.extend(others);
            order
        })
        .collect();
    (base, last, holders)
}
