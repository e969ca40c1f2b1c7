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
//! which is drawn from the seed, or given by the submitter again: redone with equal numbers, where links are dense.
//! Not here: elections (`elect`).

mod barred;
mod inquiry;
mod moving;
mod offer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Ctx;
use super::job::{Ending, Job};
use super::trace::Decisions;
use crate::ids::{Epoch, PeerId, StageId, Step, Term};
use crate::schedule::deeds::Deed;
use crate::schedule::{Plan, StagePlan};
use crate::units::{Duration, Instant};
use crate::wire::message::{Commit, JobMessage, News, StageStats};
pub(super) use inquiry::Report;
use moving::{Moving, Watched};
pub(super) use offer::shown;
use offer::{Offer, needed};

/// How long an inquiry waits for silent members that count as living.
const INQUIRY: Duration = Duration::from_millis(1000);
/// A proposal is sent again to those who have not answered after this.
const REPEAT: Duration = Duration::from_millis(500);
/// How long a job may wait for enough peers before it is given up.
const PLACING_MAX: Duration = Duration::from_millis(120_000);
/// Pause after a repair before a missing backup is worth another one.
const SETTLE: Duration = Duration::from_millis(5_000);
/// How long a job waits for a submitter that is gone: a finished one with its state, one from given weights for them.
const KEEP: Duration = Duration::from_millis(600_000);
/// A proposal that somebody needed has not answered after this is given up.
const ANSWER: Duration = Duration::from_millis(10_000);

/// What a stage has reported of a step.
#[derive(Debug)]
struct Ready {
    sum_of_squares: f64,
    loss: Option<f64>,
    /// What it cost each worker, the owner first.
    stats: Vec<(PeerId, StageStats)>,
}

#[derive(Debug)]
enum Phase {
    Placing,
    Inquiring { reports: BTreeMap<PeerId, Report>, since: Instant },
    Proposing { offer: Box<Offer>, accepted: BTreeSet<PeerId>, since: Instant, sent: Instant },
    Running { ready: BTreeMap<StageId, Ready> },
    Done,
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
    /// The step whose numbers have failed at a member.
    overflowed: Option<Step>,
    /// Who failed at which stage, in which epoch and when.
    barred: BTreeMap<(StageId, PeerId), (Epoch, Instant)>,
    /// Who has disputed what this leader says of its deeds.
    disputed: BTreeSet<PeerId>,
    waiting: Option<String>,
    /// The deeds that the plan in force was made from.
    placed_by: Vec<Deed>,
    /// Moves of stages that are under way, and what they are judged by.
    moving: Option<Moving>,
    watched: Watched,
    pub(super) trace: Decisions,
}

impl Lead {
    /// A founder: the submitter chose this peer.
    pub(super) fn founding(term: Term, now: Instant) -> Self {
        Self::new(term, Phase::Placing, Epoch::default(), now)
    }

    /// A founder that is asked anew: the reign is another, and its patience goes on.
    pub(super) fn refounding(self, term: Term) -> Self {
        Self { term, phase: Phase::Placing, ..self }
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
            overflowed: None,
            barred: BTreeMap::new(),
            disputed: BTreeSet::new(),
            waiting: None,
            placed_by: Vec::new(),
            moving: None,
            watched: Watched::default(),
            trace: Decisions::default(),
        }
    }
}

/// Returns what a step cost each worker of a stage, the owner first: each worker once, and of each no more than an honest
/// one has.
fn workers(
    roles: &StagePlan,
    (owner, stats): (PeerId, StageStats),
    replicas: Vec<(PeerId, StageStats)>,
) -> Vec<(PeerId, StageStats)> {
    let works = |peer: PeerId| peer != owner && roles.place(peer).is_some();
    let replicas: BTreeMap<PeerId, StageStats> =
        replicas.into_iter().filter(|(peer, _)| works(*peer)).collect();
    let all = std::iter::once((owner, stats)).chain(replicas);
    all.map(|(peer, stats)| (peer, stats.bounded())).collect()
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
            Phase::Inquiring { .. } => {
                self.ask_again(ctx);
                self.conclude(ctx);
            }
            Phase::Proposing { offer, accepted, since, sent } => {
                let needed = needed(&offer.plan);
                if needed.iter().any(|p| *p != ctx.me && !ctx.membership.is_living(*p)) {
                    return self.start_over(ctx);
                }
                if ctx.now.since(*since) >= ANSWER {
                    return self.on_silence(ctx);
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
        let members = self.plan.as_ref().map(|p| p.members()).unwrap_or_default();
        for peer in members {
            ctx.send(peer, self.id, JobMessage::Release);
        }
    }

    /// Sends leases; steps down when no majority has granted one lately.
    fn renew(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let (Some(lead), Some(plan)) = (&mut self.lead, self.plan.clone()) else {
            // Before the first plan there is nobody to hold a lease from.
            return true;
        };
        let (term, epoch, sent, last) = (lead.term, plan.epoch, ctx.now, self.last);
        let me = ctx.me;
        for peer in plan.members().into_iter().filter(|peer| *peer != me) {
            ctx.send(peer, self.id, JobMessage::Lease { term, epoch, sent, last });
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
        let is_member = self.plan.as_ref().is_some_and(|plan| plan.members().contains(&from));
        if lead.term != term || !is_member {
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

    fn fail(&mut self, reason: String, ctx: &mut Ctx<'_>) {
        if let Some(lead) = &mut self.lead {
            lead.phase = Phase::Done;
        }
        if self.plan.is_none() {
            // Nobody holds anything yet.
            self.ending = Some(Ending::Over);
        }
        self.tell(News::Failed { reason }, ctx);
    }

    /// Sends news to the submitter, which may be this peer.
    fn tell(&mut self, news: News, ctx: &mut Ctx<'_>) {
        ctx.send(self.submitter, self.id, JobMessage::News(Box::new(news)));
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
        let JobMessage::StepReady { epoch, step, stage, sum_of_squares, loss, stats, replicas } =
            body
        else {
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
        if step != next || !matches!(lead.phase, Phase::Running { .. }) {
            return;
        }
        lead.trace.heard(stage, ctx.now);
        let Phase::Running { ready } = &mut lead.phase else {
            return;
        };
        let stats = workers(&plan.stages[stage.index()], (from, *stats), replicas);
        ready.insert(stage, Ready { sum_of_squares, loss, stats });
        if ready.len() == plan.stages.len() {
            self.decide(step, &plan, ctx);
        }
    }

    fn decide(&mut self, step: Step, plan: &Arc<Plan>, ctx: &mut Ctx<'_>) {
        let Some(Lead { phase: Phase::Running { ready }, .. }) = &mut self.lead else {
            return;
        };
        let ready = std::mem::take(ready);
        self.take_in(&ready, plan, ctx);
        let Some(lead) = &mut self.lead else {
            return;
        };
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
        lead.trace.decided(step, ctx.now);
        lead.failures = 0;
        let each = ready.into_iter();
        let each = each.flat_map(|(id, r)| r.stats.into_iter().map(move |(p, s)| (id, p, s)));
        let stages = each.collect();
        let epoch = plan.epoch;
        self.tell(News::Step { commit, epoch, elapsed, stages }, ctx);
        for peer in plan.members() {
            ctx.send(peer, self.id, JobMessage::StepCommit { epoch, commit });
        }
        if step.next() >= self.steps() {
            return self.finish(Some(commit), ctx);
        }
        self.go_on_moving(ctx);
    }

    fn finish(&mut self, last: Option<Commit>, ctx: &mut Ctx<'_>) {
        if let Some(lead) = &mut self.lead {
            lead.phase = Phase::Done;
        }
        self.tell(News::Finished { steps: self.steps(), last }, ctx);
    }
}
