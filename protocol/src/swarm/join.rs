//! A member's side of a job's messages: checks proposals before consenting, follows leaders, answers inquiries.
//!
//! A proposal is made again from its evidence and compared: a plan that does not follow from signed adverts, or a
//! network that does not check, is refused with the reason.

use std::sync::Arc;

use super::elect::Election;
use super::io::{Effect, Outbox, StageWork, Timer};
use super::job::{Ending, Job, Proposal};
use super::lead::{Report, shown};
use super::{Ctx, JOBS_MAX, Peer};
use crate::codec::choice::RATIO_MAX;
use crate::ids::{Epoch, JobId, PeerId, Step, Term};
use crate::job::{
    DEPTH_MAX, JobSpec, MICRO_BATCHES_MAX, PipelineOrder, REPLICAS_MAX, STAGES_MAX,
    STAGES_PER_PEER_MAX,
};
use crate::schedule::advert::{Advert, SignedAdvert};
use crate::schedule::deeds::Deed;
use crate::schedule::fence::{Request, stage_graphs};
use crate::schedule::repair::repair;
use crate::schedule::{Basis, Plan};
use crate::units::Instant;
use crate::wire::frame::job_id;
use crate::wire::message::{Commit, JobMessage, Message};

/// Everything that a proposal says.
struct Proposed {
    term: Term,
    spec: Box<JobSpec>,
    plan: Box<Plan>,
    basis: Basis,
    evidence: Vec<SignedAdvert>,
    deeds: Vec<Deed>,
    base: Step,
    last: Option<Commit>,
    restart: bool,
}

/// Why a proposal is not accepted.
enum Objection {
    /// A part in it cannot be done, or it does not follow from its evidence; for people.
    Refuse(String),
    /// It counts on deeds of this peer that its own clock has not seen.
    Dispute,
}

impl From<String> for Objection {
    fn from(reason: String) -> Self {
        Self::Refuse(reason)
    }
}

/// Checks a stranger's job: its network anew, its numbers against the limits.
///
/// *Errors*: what is wrong, for people.
pub(super) fn check_spec(spec: &JobSpec) -> Result<(), String> {
    spec.dag.clone().checked().map_err(|error| error.to_string())?;
    spec.start.check(&spec.dag)?;
    let train = &spec.train;
    if train.micro_batches == 0 || train.micro_batches > MICRO_BATCHES_MAX {
        let got = train.micro_batches;
        return Err(format!("micro_batches is {got}; 1 to {MICRO_BATCHES_MAX} are possible"));
    }
    if spec.swarm.stages.is_some_and(|n| n == 0 || n > STAGES_MAX) {
        return Err(format!("stages is {:?}; 1 to {STAGES_MAX} are possible", spec.swarm.stages));
    }
    if spec.swarm.replicas == 0 || spec.swarm.replicas > REPLICAS_MAX {
        let got = spec.swarm.replicas;
        return Err(format!("replicas is {got}; 1 to {REPLICAS_MAX} are possible"));
    }
    let (most, got) = (STAGES_PER_PEER_MAX, spec.swarm.stages_per_peer);
    if got == 0 || got > most {
        return Err(format!("stages_per_peer is {got}; 1 to {most} are possible"));
    }
    if !spec.swarm.codec.is_legal() {
        return Err(format!("the codec is {}; its ratio is 1 to {RATIO_MAX}", spec.swarm.codec));
    }
    if let Some(order @ PipelineOrder::Deep(depth)) = spec.swarm.order
        && (depth == 0 || depth > DEPTH_MAX)
    {
        return Err(format!("the order is {order}; 1f1b:{DEPTH_MAX} is the deepest"));
    }
    let rate = train.learning_rate;
    if !(rate.peak.is_finite() && rate.floor.is_finite()) {
        return Err("the learning rate is not finite".into());
    }
    Ok(())
}

impl Peer {
    pub(super) fn on_job_message(
        &mut self,
        from: PeerId,
        id: JobId,
        body: JobMessage,
        now: Instant,
        out: &mut Outbox,
    ) {
        match body {
            JobMessage::Propose {
                term,
                spec,
                plan,
                basis,
                evidence,
                deeds,
                base,
                last,
                restart,
            } => {
                let proposed =
                    Proposed { term, spec, plan, basis, evidence, deeds, base, last, restart };
                self.on_propose(from, id, proposed, now, out);
            }
            JobMessage::Release => self.with_job(id, now, out, |job, ctx| {
                if job.submitter == from || job.election.leader == Some(from) {
                    job.unload(|_| true, ctx);
                    job.ending = Some(Ending::Over);
                }
            }),
            JobMessage::News(news) => self.on_news(from, id, *news, now, out),
            other => self.with_job(id, now, out, |job, ctx| job.on_message(from, other, ctx)),
        }
    }

    fn on_propose(
        &mut self,
        from: PeerId,
        id: JobId,
        proposed: Proposed,
        now: Instant,
        out: &mut Outbox,
    ) {
        let (term, epoch) = (proposed.term, proposed.plan.epoch);
        if !self.jobs.contains_key(&id) {
            if job_id(&proposed.spec) != Ok(id) || !Term::default().may_hear(term) {
                return;
            }
            if self.jobs.len() >= JOBS_MAX {
                let reason = format!("takes part in {JOBS_MAX} jobs already");
                let body = Box::new(JobMessage::Refuse { term, epoch, reason });
                let message = Box::new(Message::Job { job: id, body });
                return out.push(Effect::Send { to: from, message });
            }
            let spec = Arc::new((*proposed.spec).clone());
            let submitter = proposed.plan.submitter;
            let job = Job::new(id, spec, submitter, Election::new(term, Some(from), now));
            self.jobs.insert(id, job);
            let at = now + self.config.heartbeat;
            out.push(Effect::SetTimer { timer: Timer::Job(id), at });
        }
        self.with_job(id, now, out, |job, ctx| job.on_propose(from, proposed, ctx));
    }
}

impl Job {
    fn on_propose(&mut self, from: PeerId, proposed: Proposed, ctx: &mut Ctx<'_>) {
        let (term, epoch) = (proposed.term, proposed.plan.epoch);
        if self.plan.is_some() && !self.heed(from, term, ctx) {
            return;
        }
        if !self.election.may_follow(from, term) {
            return;
        }
        let accepted = self.proposal.as_ref().filter(|p| p.term == term).map(|p| &p.plan);
        let known = [accepted, self.plan.as_ref()].into_iter().flatten();
        if known.into_iter().any(|plan| **plan == *proposed.plan) {
            // The answer may have been lost.
            self.heed(from, term, ctx);
            return ctx.send(from, self.id, JobMessage::Accept { term, epoch });
        }
        let newest = accepted.map(|plan| plan.epoch).unwrap_or_default().max(self.epoch());
        if epoch <= newest {
            return;
        }
        match self.check(from, proposed, ctx) {
            Ok(proposal) => {
                // Before the first plan there is no council: whoever makes a sound one is followed.
                self.accepted = self.accepted.max(epoch);
                self.proposal = Some(proposal);
                self.heed(from, term, ctx);
                ctx.send(from, self.id, JobMessage::Accept { term, epoch });
            }
            Err(objection) => {
                let body = match objection {
                    Objection::Refuse(reason) => JobMessage::Refuse { term, epoch, reason },
                    Objection::Dispute => JobMessage::Dispute { term, epoch },
                };
                ctx.send(from, self.id, body);
                if self.plan.is_none() && self.proposal.is_none() && self.lead.is_none() {
                    self.ending = Some(Ending::Over);
                }
            }
        }
    }

    /// Makes a proposed plan again from its evidence and compares.
    fn check(
        &self,
        from: PeerId,
        proposed: Proposed,
        ctx: &Ctx<'_>,
    ) -> Result<Proposal, Objection> {
        let me = ctx.me;
        let Proposed { term, spec, plan, basis, evidence, deeds, base, last, restart } = proposed;
        if self.plan.is_none() {
            check_spec(&spec)?;
        }
        let wrong = |error: crate::schedule::PlanError| error.to_string();
        if from != me {
            for signed in &evidence {
                signed.check().map_err(|error| error.to_string())?;
            }
            let own = evidence.iter().find(|signed| signed.advert.peer == me);
            if own.is_some_and(|own| ctx.deeds.contradicts(&own.advert, &deeds, ctx.now)) {
                return Err(Objection::Dispute);
            }
            let shown = shown(&evidence, &deeds);
            let adverts: Vec<&Advert> = shown.iter().collect();
            let request = Request { submitter: plan.submitter, ..self.request(plan.epoch, from) };
            let again = match &basis {
                Basis::Fresh => (ctx.planner)(request, &adverts).map_err(wrong)?,
                Basis::Repair { previous, standing } => {
                    repair(request, previous, standing, &adverts).map_err(wrong)?
                }
            };
            if again != *plan {
                return Err(String::from("the plan does not follow from its evidence").into());
            }
        }
        let has_part = |s: &crate::schedule::StagePlan| s.holders().any(|p| p == me);
        if plan.stages.iter().any(has_part) && !ctx.gossip.has_device() {
            return Err(String::from("this peer has no device to compute on").into());
        }
        let owns = |s: &crate::schedule::StagePlan| s.owner == me;
        let holdings = self.holdings();
        for stage in plan.stage_ids() {
            let able = base == Step::default()
                || holdings.iter().any(|h| {
                    let near = h.applied == base || (h.applied.next() == base && h.next_gradient);
                    h.stage == stage && near
                });
            if owns(&plan.stages[stage.index()]) && !able {
                return Err(format!("stage {stage} is not held here at step {base}").into());
            }
        }
        let cut = stage_graphs(&self.spec, &plan.assignment, plan.recompute).map_err(wrong)?;
        let stages = cut.stages.into_iter();
        let work = |graph| Arc::new(StageWork::of(&self.spec, graph, &plan.forms));
        let works = stages.map(work).collect();
        Ok(Proposal { term, plan: Arc::new(*plan), works, base, last, restart })
    }

    /// Takes a message of this job.
    fn on_message(&mut self, from: PeerId, body: JobMessage, ctx: &mut Ctx<'_>) {
        match body {
            JobMessage::RequestVote { term, epoch } => self.on_request_vote(from, term, epoch, ctx),
            JobMessage::Vote { term, granted, epoch } => {
                self.on_vote(from, (term, granted), epoch, ctx);
            }
            JobMessage::Lease { term, epoch, sent, last } => {
                self.on_lease(from, (term, epoch, last), sent, ctx);
            }
            JobMessage::LeaseGranted { term, epoch, sent } => {
                self.on_granted(from, term, epoch, sent, ctx);
            }
            JobMessage::Inquire { term } => {
                if self.heed(from, term, ctx) {
                    let (holdings, last) = (self.holdings(), self.last);
                    let epoch = self.epoch_seen();
                    ctx.send(from, self.id, JobMessage::Report { term, epoch, holdings, last });
                }
            }
            JobMessage::Report { term, epoch, holdings, last } => {
                self.on_report(from, term, Report { epoch, holdings, last }, ctx);
            }
            JobMessage::Accept { term, epoch } => self.on_accept(from, term, epoch, ctx),
            JobMessage::Refuse { term, epoch, reason } => {
                self.on_refused(from, (term, epoch), &reason, ctx);
            }
            JobMessage::Dispute { term, epoch } => self.on_disputed(from, (term, epoch), ctx),
            JobMessage::StageFailed { epoch, stage, reason, of_numbers } => {
                self.on_stage_failed(from, (epoch, stage), (&reason, of_numbers), ctx);
            }
            JobMessage::Adopt { term, epoch } => {
                if self.heed(from, term, ctx) {
                    ctx.leader = Some(from);
                    self.adopt(term, epoch, ctx);
                }
            }
            ready @ JobMessage::StepReady { .. } => self.on_ready(from, ready, ctx),
            JobMessage::StepCommit { epoch, commit } => {
                if epoch == self.epoch() && self.election.leader == Some(from) {
                    self.on_step_commit(commit, ctx);
                }
            }
            JobMessage::GradientHeld { epoch, stage, step, losses, stats } => {
                if epoch == self.epoch()
                    && let Some(stage) = self.stages.get_mut(&stage)
                {
                    stage.on_held(from, step, (losses, stats), ctx);
                }
            }
            JobMessage::Pull { stage, applied } => self.on_pull(from, stage, applied, ctx),
            // Routed by `Peer::on_job_message` before a job is looked up.
            JobMessage::Propose { .. } | JobMessage::Release | JobMessage::News(_) => {}
        }
    }

    fn on_lease(
        &mut self,
        from: PeerId,
        (term, epoch, last): (Term, Epoch, Option<Commit>),
        sent: Instant,
        ctx: &mut Ctx<'_>,
    ) {
        if !self.heed(from, term, ctx) {
            return;
        }
        // The plan in force may have been adopted, and a step decided, while this member was away.
        self.adopt(term, epoch, ctx);
        let is_news = |commit: &Commit| self.last.is_none_or(|last| last.step < commit.step);
        if let Some(commit) = last.filter(|commit| epoch == self.epoch() && is_news(commit)) {
            self.on_step_commit(commit, ctx);
        }
        let epoch = self.epoch();
        ctx.send(from, self.id, JobMessage::LeaseGranted { term, epoch, sent });
    }
}
