//! Leading a job: place it, propose plans, renew the lease, decide steps, repair after losses.
//!
//! | phase     | meaning                                             | leaves by                                        |
//! |-----------|-----------------------------------------------------|--------------------------------------------------|
//! | Placing   | no plan yet: waits for enough measured peers        | a plan -> Proposing                              |
//! | Inquiring | asks all living members what they hold              | all (or a majority in time) answered -> Proposing|
//! | Proposing | asks for consent to a plan                          | all it needs and a majority -> Running           |
//! | Running   | decides steps                                       | a participant lost or failed -> Inquiring        |
//! | Done      | all steps are decided                               |                                                  |
//!
//! A repair goes on from the last decided step. A stage that nobody holds any more sends the job back to step 0,
//! which is drawn from the seed: redone with equal numbers. Not here: elections (`elect`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Ctx;
use super::job::Job;
use crate::ids::{Epoch, PeerId, StageId, Step, Term};
use crate::schedule::advert::{Advert, SignedAdvert};
use crate::schedule::fence::{Request, place};
use crate::schedule::repair::repair;
use crate::schedule::{Basis, Plan, PlanError};
use crate::units::{Duration, Instant};
use crate::wire::message::{Commit, Holding, JobMessage, News, StageStats};

/// How long an inquiry waits for silent members that count as living.
const INQUIRY: Duration = Duration::from_millis(1000);
/// A proposal is sent again to those who have not answered after this.
const REPEAT: Duration = Duration::from_millis(500);
/// How long a job may wait for enough peers before it is given up.
const PLACING_MAX: Duration = Duration::from_millis(120_000);
/// Pause after a repair before a missing backup is worth another one.
const SETTLE: Duration = Duration::from_millis(5_000);
/// How long a finished job's state is kept for a submitter that is gone.
const KEEP: Duration = Duration::from_millis(600_000);
/// Failed tasks without a step between them after which a job is given up: a deterministic fault would fail for ever.
const FAILURES_MAX: u32 = 6;

/// What a stage has reported of a step.
#[derive(Debug)]
struct Ready {
    owner: PeerId,
    sum_of_squares: f64,
    loss: Option<f64>,
    stats: StageStats,
}

/// What a member has reported of itself.
#[derive(Debug)]
pub(super) struct Report {
    /// Highest version of a plan that it has adopted or accepted.
    pub(super) epoch: Epoch,
    pub(super) holdings: Vec<Holding>,
    pub(super) last: Option<Commit>,
}

#[derive(Debug)]
enum Phase {
    Placing,
    Inquiring { reports: BTreeMap<PeerId, Report>, since: Instant },
    Proposing { offer: Box<Offer>, accepted: BTreeSet<PeerId>, sent: Instant },
    Running { ready: BTreeMap<StageId, Ready> },
    Done,
}

/// A proposal in the making, as it is sent.
#[derive(Debug, Clone)]
struct Offer {
    plan: Plan,
    basis: Basis,
    evidence: Vec<SignedAdvert>,
    base: Step,
    last: Option<Commit>,
    restart: bool,
    /// Whose majority it needs: the council of the plan in force, or its own where there is none.
    voters: Vec<PeerId>,
}

/// A leader's state.
#[derive(Debug)]
pub(super) struct Lead {
    term: Term,
    phase: Phase,
    /// Highest epoch proposed.
    epoch: Epoch,
    /// When each member's last granted lease was asked for.
    granted: BTreeMap<PeerId, Instant>,
    /// The same for leases that were granted under the plan in force.
    current: BTreeMap<PeerId, Instant>,
    began: Instant,
    /// When the last step was decided, or the plan adopted.
    decided: Instant,
    settled: Instant,
    failures: u32,
    waiting: Option<String>,
}

impl Lead {
    /// A founder: the submitter chose this peer.
    pub(super) fn founding(term: Term, now: Instant) -> Self {
        Self::new(term, Phase::Placing, Epoch::default(), now)
    }

    /// A successor.
    pub(super) fn elected(term: Term, epoch: Epoch, now: Instant) -> Self {
        Self::new(term, Phase::Placing, epoch, now)
    }

    fn new(term: Term, phase: Phase, epoch: Epoch, now: Instant) -> Self {
        Self {
            term,
            phase,
            epoch,
            granted: BTreeMap::new(),
            current: BTreeMap::new(),
            began: now,
            decided: now,
            settled: now,
            failures: 0,
            waiting: None,
        }
    }
}

impl Job {
    /// Lets time pass for the leader.
    pub(super) fn lead_tick(&mut self, ctx: &mut Ctx<'_>) {
        let Some(lead) = &self.lead else {
            return;
        };
        match &lead.phase {
            Phase::Done => {
                // The lease goes on: whoever holds the state must not look for another leader.
                self.renew(ctx);
                return self.forget(ctx);
            }
            Phase::Placing if self.plan.is_none() => return self.found(ctx),
            Phase::Placing
            | Phase::Inquiring { .. }
            | Phase::Proposing { .. }
            | Phase::Running { .. } => {}
        }
        if !self.renew(ctx) {
            return;
        }
        let Some(lead) = &mut self.lead else {
            return;
        };
        match &mut lead.phase {
            Phase::Inquiring { .. } => self.conclude(ctx),
            Phase::Proposing { offer, accepted, sent } => {
                let needed = needed(&offer.plan);
                if needed.iter().any(|p| *p != ctx.me && !ctx.membership.is_living(*p)) {
                    return self.start_over(ctx);
                }
                if ctx.now.since(*sent) >= REPEAT {
                    *sent = ctx.now;
                    let (offer, accepted) = (offer.clone(), accepted.clone());
                    self.send_offer(&offer, &accepted, ctx);
                }
            }
            Phase::Running { .. } => self.watch(ctx),
            Phase::Placing | Phase::Done => {}
        }
    }

    /// Lets a finished job go that nobody has asked for in a long time.
    fn forget(&mut self, ctx: &mut Ctx<'_>) {
        let Some(lead) = &self.lead else {
            return;
        };
        let alone = self.submitter != ctx.me && !ctx.membership.is_living(self.submitter);
        if !alone || ctx.now.since(lead.decided) < KEEP {
            return;
        }
        let council = self.plan.as_ref().map(|p| p.council.clone()).unwrap_or_default();
        for peer in council {
            ctx.send(peer, self.id, JobMessage::Release);
        }
    }

    /// Sends leases; steps down when no majority has granted one lately.
    fn renew(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let (Some(lead), Some(plan)) = (&mut self.lead, self.plan.clone()) else {
            // Before the first plan there is nobody to hold a lease from.
            return true;
        };
        for peer in &plan.council {
            if *peer != ctx.me {
                let body = JobMessage::Lease { term: lead.term, epoch: plan.epoch, sent: ctx.now };
                ctx.send(*peer, self.id, body);
            }
        }
        let young = ctx.now.since(lead.began) < ctx.config.lease;
        let granted = |p: &&PeerId| {
            **p == ctx.me
                || lead.granted.get(p).is_some_and(|at| ctx.now.since(*at) < ctx.config.lease)
        };
        if young || plan.council.iter().filter(granted).count() >= plan.majority() {
            return true;
        }
        tracing::warn!(job = %self.id, "steps down: no majority of the council answers");
        self.lead = None;
        self.election.leader = None;
        false
    }

    pub(super) fn on_granted(
        &mut self,
        from: PeerId,
        term: Term,
        epoch: Epoch,
        sent: Instant,
        ctx: &mut Ctx<'_>,
    ) {
        let in_force = self.epoch();
        let Some(lead) = &mut self.lead else {
            return;
        };
        if lead.term != term {
            return;
        }
        lead.granted.insert(from, sent);
        if epoch == in_force {
            lead.current.insert(from, sent);
        }
        if epoch < in_force && matches!(lead.phase, Phase::Running { .. } | Phase::Done) {
            // The member missed the adoption; it keeps the proposal.
            ctx.send(from, self.id, JobMessage::Adopt { term, epoch: in_force });
        }
    }

    /// Tries to place the job for the first time.
    fn found(&mut self, ctx: &mut Ctx<'_>) {
        let Some(lead) = &mut self.lead else {
            return;
        };
        let evidence = living_adverts(ctx);
        let adverts: Vec<&Advert> = evidence.iter().map(|s| &s.advert).collect();
        let request = Request {
            spec: &self.spec,
            job: self.id,
            epoch: lead.epoch.next(),
            submitter: self.submitter,
            leader: ctx.me,
        };
        match place(request, &adverts) {
            Ok(plan) => {
                let voters = plan.council.clone();
                let offer = Offer {
                    plan,
                    basis: Basis::Fresh,
                    evidence,
                    base: Step::default(),
                    last: None,
                    restart: self.plan.is_some(),
                    voters,
                };
                self.propose(offer, ctx);
            }
            Err(error @ PlanError::NotEnoughPeers { .. }) => {
                let reason = error.to_string();
                let waited = ctx.now.since(lead.began);
                if waited > PLACING_MAX {
                    let reason = format!("{reason}; gave up after {waited}; start more peers");
                    return self.fail(reason, ctx);
                }
                if lead.waiting.as_ref() != Some(&reason) {
                    lead.waiting = Some(reason.clone());
                    self.tell(News::Waiting { reason }, ctx);
                }
            }
            Err(error) => self.fail(error.to_string(), ctx),
        }
    }

    fn fail(&mut self, reason: String, ctx: &mut Ctx<'_>) {
        if let Some(lead) = &mut self.lead {
            lead.phase = Phase::Done;
        }
        self.tell(News::Failed { reason }, ctx);
    }

    /// Sends news to the submitter, which may be this peer.
    fn tell(&mut self, news: News, ctx: &mut Ctx<'_>) {
        ctx.send(self.submitter, self.id, JobMessage::News(Box::new(news)));
    }

    /// Asks all living members what they hold.
    pub(super) fn inquire(&mut self, ctx: &mut Ctx<'_>) {
        let (Some(lead), Some(plan)) = (&mut self.lead, &self.plan) else {
            return;
        };
        lead.phase = Phase::Inquiring { reports: BTreeMap::new(), since: ctx.now };
        let term = lead.term;
        for peer in plan.council.clone() {
            ctx.send(peer, self.id, JobMessage::Inquire { term });
        }
    }

    /// Somebody hands in a job that runs already: where its submitter is gone, the job is theirs from the next plan on.
    pub(super) fn on_claim(&mut self, from: PeerId, ctx: &mut Ctx<'_>) {
        let Some(lead) = &self.lead else {
            return;
        };
        // A submitter that is back after a restart has lost its plan; one that is merely impatient has not.
        let abandoned = match from == self.submitter {
            true => ctx.now.since(lead.settled) >= SETTLE,
            false => !ctx.membership.is_living(self.submitter) && self.submitter != ctx.me,
        };
        let idle = match lead.phase {
            Phase::Running { .. } | Phase::Done => true,
            Phase::Placing | Phase::Inquiring { .. } | Phase::Proposing { .. } => false,
        };
        if abandoned && idle {
            self.submitter = from;
            self.inquire(ctx);
        }
    }

    /// Tells the submitter who of the plan in force is gone.
    pub(super) fn tell_losses(&mut self, ctx: &mut Ctx<'_>) {
        let Some(plan) = self.plan.clone() else {
            return;
        };
        let step = self.last.map(|l| l.step.next()).unwrap_or_default();
        for peer in &plan.council {
            if *peer == self.submitter || !self.is_gone(*peer, ctx) {
                continue;
            }
            let stages = plan.stage_ids().filter(|s| plan.owner(*s) == Some(*peer)).collect();
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

    /// Looks for lost participants, and for peers that could fill a gap among the backups.
    fn watch(&mut self, ctx: &mut Ctx<'_>) {
        let (Some(lead), Some(plan)) = (&self.lead, self.plan.clone()) else {
            return;
        };
        if needed(&plan).iter().any(|p| self.is_gone(*p, ctx)) {
            self.tell_losses(ctx);
            return self.inquire(ctx);
        }
        if ctx.now.since(lead.settled) < SETTLE {
            return;
        }
        let wanted = usize::from(self.spec.swarm.backups);
        let able: Vec<PeerId> = ctx
            .gossip
            .all()
            .filter(|s| s.advert.hardware.is_some())
            .map(|s| s.advert.peer)
            .filter(|p| *p == ctx.me || ctx.membership.is_living(*p))
            .collect();
        let gap = plan.stages.iter().any(|s| {
            s.backups.len() < wanted && able.iter().any(|p| *p != s.owner && !s.backups.contains(p))
        });
        if gap {
            self.inquire(ctx);
        }
    }

    pub(super) fn on_report(
        &mut self,
        from: PeerId,
        term: Term,
        report: Report,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(lead) = &mut self.lead else {
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
    fn conclude(&mut self, ctx: &mut Ctx<'_>) {
        let (Some(lead), Some(plan)) = (&self.lead, self.plan.clone()) else {
            return;
        };
        let Phase::Inquiring { reports, since } = &lead.phase else {
            return;
        };
        let living = |p: &&PeerId| !self.is_gone(**p, ctx);
        let all = plan.council.iter().filter(living).all(|p| reports.contains_key(p));
        let majority =
            plan.council.iter().filter(|p| reports.contains_key(p)).count() >= plan.majority();
        if !majority || (!all && ctx.now.since(*since) < INQUIRY) {
            return;
        }
        let (base, last, holders) = standing(&plan, reports);
        // Whatever was ever adopted, a majority had accepted: one of these reports knows of it.
        let seen = reports.values().map(|r| r.epoch).max().unwrap_or_default();
        let epoch = lead.epoch.max(plan.epoch).max(seen).next();
        let evidence = living_adverts(ctx);
        let adverts: Vec<&Advert> = evidence.iter().map(|s| &s.advert).collect();
        let request = Request {
            spec: &self.spec,
            job: self.id,
            epoch,
            submitter: self.submitter,
            leader: ctx.me,
        };
        let voters = plan.council.clone();
        if holders.iter().all(|h| !h.is_empty()) {
            let basis =
                Basis::Repair { previous: Box::new((*plan).clone()), holders: holders.clone() };
            match repair(request, &plan, &holders, &adverts) {
                Ok(plan) => {
                    let offer = Offer { plan, basis, evidence, base, last, restart: false, voters };
                    return self.propose(offer, ctx);
                }
                Err(error) => return self.fail(error.to_string(), ctx),
            }
        }
        tracing::warn!(job = %self.id, "a stage is lost with all its backups: begins anew from the seed");
        match place(request, &adverts) {
            Ok(plan) => {
                let (basis, base) = (Basis::Fresh, Step::default());
                let offer =
                    Offer { plan, basis, evidence, base, last: None, restart: true, voters };
                self.propose(offer, ctx);
            }
            // More peers may come (back): the inquiry stays open and is concluded again on the next tick.
            Err(PlanError::NotEnoughPeers { .. }) => {}
            Err(error) => self.fail(error.to_string(), ctx),
        }
    }

    fn propose(&mut self, offer: Offer, ctx: &mut Ctx<'_>) {
        let Some(lead) = &mut self.lead else {
            return;
        };
        lead.epoch = offer.plan.epoch;
        lead.phase = Phase::Proposing {
            offer: Box::new(offer.clone()),
            accepted: BTreeSet::new(),
            sent: ctx.now,
        };
        self.send_offer(&offer, &BTreeSet::new(), ctx);
    }

    fn send_offer(&self, offer: &Offer, except: &BTreeSet<PeerId>, ctx: &mut Ctx<'_>) {
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
                base: offer.base,
                last: offer.last,
                restart: offer.restart,
            };
            ctx.send(peer, self.id, body);
        }
    }

    pub(super) fn on_accept(&mut self, from: PeerId, term: Term, epoch: Epoch, ctx: &mut Ctx<'_>) {
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
            self.finish(ctx);
        }
    }

    /// A member refuses a proposal, or fails at a stage: ask around again, or give up.
    pub(super) fn on_failure(&mut self, from: PeerId, reason: &str, ctx: &mut Ctx<'_>) {
        let Some(lead) = &mut self.lead else {
            return;
        };
        lead.failures += 1;
        tracing::warn!(job = %self.id, peer = %from, reason, "a member cannot do its part");
        if lead.failures > FAILURES_MAX {
            return self.fail(format!("peer {from}: {reason}"), ctx);
        }
        self.start_over(ctx);
    }

    fn start_over(&mut self, ctx: &mut Ctx<'_>) {
        if self.plan.is_some() {
            return self.inquire(ctx);
        }
        if let Some(lead) = &mut self.lead {
            lead.phase = Phase::Placing;
        }
    }

    /// A stage is ready with a step; when all are, the step is decided.
    pub(super) fn on_ready(&mut self, from: PeerId, body: JobMessage, ctx: &mut Ctx<'_>) {
        let JobMessage::StepReady { epoch, step, stage, sum_of_squares, loss, stats } = body else {
            return;
        };
        let (Some(lead), Some(plan)) = (&mut self.lead, self.plan.clone()) else {
            return;
        };
        if epoch != plan.epoch || plan.owner(stage) != Some(from) {
            return;
        }
        if let Some(last) = self.last
            && last.step == step
        {
            // The decision got lost on its way.
            return ctx.send(from, self.id, JobMessage::StepCommit { epoch, commit: last });
        }
        let next = self.last.map(|l| l.step.next()).unwrap_or_default();
        let Phase::Running { ready } = &mut lead.phase else {
            return;
        };
        if step != next {
            return;
        }
        ready.insert(stage, Ready { owner: from, sum_of_squares, loss, stats: *stats });
        if ready.len() == plan.stages.len() {
            self.decide(step, &plan, ctx);
        }
    }

    fn decide(&mut self, step: Step, plan: &Arc<Plan>, ctx: &mut Ctx<'_>) {
        let Some(lead) = &mut self.lead else {
            return;
        };
        let Phase::Running { ready } = &mut lead.phase else {
            return;
        };
        let ready = std::mem::take(ready);
        // Summed in stage order, so that every leader finds the same bits.
        let norm = ready.values().map(|r| r.sum_of_squares).sum::<f64>().sqrt();
        let losses = ready.values().filter_map(|r| r.loss).sum::<f64>();
        let loss = losses / f64::from(self.spec.train.micro_batches.max(1));
        if !norm.is_finite() || !loss.is_finite() {
            let reason = format!(
                "step {step}: the loss ({loss}) or the gradient norm ({norm}) is not finite; lower the learning rate"
            );
            return self.fail(reason, ctx);
        }
        let scale = match self.spec.train.clip_norm {
            Some(most) if norm > f64::from(most) => f64::from(most) / norm,
            Some(_) | None => 1.0,
        };
        let commit = Commit { step, scale, loss, norm };
        let elapsed = ctx.now.since(lead.decided);
        lead.decided = ctx.now;
        lead.failures = 0;
        let stages = ready.into_iter().map(|(id, r)| (id, r.owner, r.stats)).collect();
        let epoch = plan.epoch;
        self.tell(News::Step { commit, epoch, elapsed, stages }, ctx);
        for peer in &plan.council {
            ctx.send(*peer, self.id, JobMessage::StepCommit { epoch, commit });
        }
        if step.next() >= self.steps() {
            self.finish(ctx);
        }
    }

    fn finish(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(lead) = &mut self.lead {
            lead.phase = Phase::Done;
        }
        self.tell(News::Finished { steps: self.steps() }, ctx);
    }
}

/// Whose consent a plan needs, whatever the majority says: those with a part in it.
fn needed(plan: &Plan) -> BTreeSet<PeerId> {
    let stages = plan.stages.iter();
    stages.flat_map(|s| std::iter::once(s.owner).chain(s.backups.iter().copied())).collect()
}

/// Everybody whom a change of plan concerns, in order.
fn members(plan: &Plan, voters: &[PeerId]) -> BTreeSet<PeerId> {
    plan.council.iter().chain(voters).copied().chain(needed(plan)).collect()
}

/// Adverts of living peers and of this one, in the order of their peers.
fn living_adverts(ctx: &Ctx<'_>) -> Vec<SignedAdvert> {
    let living = |p: PeerId| p == ctx.me || ctx.membership.is_living(p);
    ctx.gossip.all().filter(|s| living(s.advert.peer)).cloned().collect()
}

/// From which step the job goes on, what was decided last, and who can go on with each stage, best first.
fn standing(
    plan: &Plan,
    reports: &BTreeMap<PeerId, Report>,
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
                .filter(|(_, h)| h.stage == stage && can_reach(h))
                .map(|(p, _)| p)
                .collect();
            let roles = &plan.stages[stage.index()];
            let mut order: Vec<PeerId> = std::iter::once(roles.owner)
                .chain(roles.backups.iter().copied())
                .filter(|p| able.contains(p))
                .collect();
            let others: Vec<PeerId> = able.iter().copied().filter(|p| !order.contains(p)).collect();
            order.extend(others);
            order
        })
        .collect();
    (base, last, holders)
}
