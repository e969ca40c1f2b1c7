//! Handing a job in, and founding one that was handed in.
//!
//! A submitter first asks its neighbours what they run: a job that runs already is claimed from its leader. Otherwise
//! it asks the fastest peer to lead its job, and another one when that does not place it in time.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::elect::Election;
use super::io::{Effect, Event, Outbox, Timer};
use super::job::{Ending, Job};
use super::lead::Lead;
use super::{JOBS_MAX, Peer, join};
use crate::ids::{JobId, PeerId, Term};
use crate::job::JobSpec;
use crate::units::{Duration, Instant};
use crate::wire::frame::job_id;
use crate::wire::message::{JobMessage, Message, News};

/// A submitter asks another peer when the first has not placed its job after this.
const SUBMIT_AGAIN: Duration = Duration::from_millis(2_000);

/// How long neighbours get to say that they take part in the job already: a stranger to it would found it anew.
const ASK_FIRST: Duration = Duration::from_millis(400);

/// A job that this machine wants trained and that is not placed yet.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) spec: Box<JobSpec>,
    pub(super) term: Term,
    pub(super) asked: Option<Instant>,
    /// Who has been asked to lead it.
    of: BTreeSet<PeerId>,
    /// When the neighbours were asked what they run.
    inquired: Option<Instant>,
    /// Who takes part in it already, and whom they follow.
    members: BTreeSet<PeerId>,
    leader: Option<PeerId>,
}

impl Submission {
    pub(super) fn new(spec: Box<JobSpec>) -> Self {
        Self {
            spec,
            term: Term::default(),
            asked: None,
            of: BTreeSet::new(),
            inquired: None,
            members: BTreeSet::new(),
            leader: None,
        }
    }
}

impl Submission {
    /// A neighbour says what it runs.
    pub(super) fn hear(&mut self, from: PeerId, leader: Option<PeerId>) {
        self.members.insert(from);
        self.leader = leader.or(self.leader);
    }

    /// Returns whom to ask next: who leads the job or takes part in it, else the fastest.
    fn next(&self, able: &[PeerId]) -> PeerId {
        let attempt = usize::try_from(self.term.number()).unwrap_or(0);
        whom(attempt, self.leader, &self.members, able)
    }
}

/// Returns whom to ask at an attempt: who leads the job or takes part in it, in turn; else the fastest, in turn.
fn whom(
    attempt: usize,
    leader: Option<PeerId>,
    members: &BTreeSet<PeerId>,
    able: &[PeerId],
) -> PeerId {
    let known = leader.iter().chain(members).filter(|p| able.contains(p));
    let known: Vec<PeerId> = known.copied().collect();
    let list = if known.is_empty() { able } else { &known };
    list[attempt % list.len()]
}

impl Peer {
    /// Asks the fastest living peer to lead each job that is not placed; another one after a while.
    pub(super) fn submit(&mut self, now: Instant, out: &mut Outbox) {
        let mut able: Vec<(std::cmp::Reverse<u64>, PeerId)> = self
            .gossip
            .all()
            .filter(|s| s.advert.peer == self.me || self.membership.is_connected(s.advert.peer))
            .filter_map(|s| {
                let hardware = s.advert.hardware.as_ref()?;
                Some((std::cmp::Reverse(hardware.speed.flops_per_second()), s.advert.peer))
            })
            .collect();
        able.sort();
        let able: Vec<PeerId> = able.into_iter().map(|(_, peer)| peer).collect();
        let me = self.me;
        self.submissions.retain(|id, _| {
            let plan = self.jobs.get(id).and_then(|j| j.plan.as_ref());
            plan.is_none_or(|p| p.submitter != me)
        });
        let mut own = Vec::new();
        for submission in self.submissions.values_mut() {
            let due = submission.asked.is_none_or(|at| now.since(at) >= SUBMIT_AGAIN);
            if !due || able.is_empty() {
                continue;
            }
            let Some(inquired) = submission.inquired else {
                submission.inquired = Some(now);
                for to in able.iter().copied().filter(|to| *to != me) {
                    out.push(Effect::Send { to, message: Box::new(Message::WhatRuns) });
                }
                continue;
            };
            if now.since(inquired) < ASK_FIRST && able.iter().any(|p| *p != me) {
                continue;
            }
            let to = submission.next(&able);
            submission.term = submission.term.next();
            submission.asked = Some(now);
            submission.of.insert(to);
            let (spec, term) = (submission.spec.clone(), submission.term);
            if to == self.me {
                own.push((spec, term));
            } else {
                out.push(Effect::Send { to, message: Box::new(Message::Submit { spec, term }) });
            }
        }
        for (spec, term) in own {
            self.on_submit(self.me, *spec, term, now, out);
        }
    }

    /// Becomes the founding leader of a job, or says why not.
    pub(super) fn on_submit(
        &mut self,
        from: PeerId,
        spec: JobSpec,
        term: Term,
        now: Instant,
        out: &mut Outbox,
    ) {
        let Ok(id) = job_id(&spec) else {
            // No message could carry it, so none did.
            return;
        };
        let begun = match self.jobs.get_mut(&id) {
            Some(job) if job.plan.is_some() => {
                return self.with_job(id, now, out, |job, ctx| job.on_claim(from, ctx));
            }
            Some(job) if job.election.term >= term => return,
            Some(job) => job.lead.take(),
            None => None,
        };
        if !Term::default().may_hear(term) {
            return;
        }
        let full = self.jobs.len() >= JOBS_MAX && !self.jobs.contains_key(&id);
        let refusal = match join::check_spec(&spec) {
            Ok(()) => full.then(|| format!("takes part in {JOBS_MAX} jobs already")),
            Err(reason) => Some(reason),
        };
        if let Some(reason) = refusal {
            tracing::warn!(from = %from, reason, "refuses a job");
            let reason = format!("peer {} refuses the job: {reason}", self.me);
            return self.answer(from, id, News::Failed { reason }, out);
        }
        let mut job = Job::new(id, Arc::new(spec), from, Election::new(term, Some(self.me), now));
        job.lead = Some(match begun {
            Some(lead) => lead.refounding(term),
            None => Lead::founding(term, now),
        });
        self.jobs.insert(id, job);
        out.push(Effect::SetTimer { timer: Timer::Job(id), at: now + self.config.heartbeat });
        self.with_job(id, now, out, Job::lead_tick);
    }

    fn answer(&mut self, to: PeerId, job: JobId, news: News, out: &mut Outbox) {
        let body = JobMessage::News(Box::new(news));
        if to == self.me {
            return self.local.push_back((job, body));
        }
        let message = Box::new(Message::Job { job, body: Box::new(body) });
        out.push(Effect::Send { to, message });
    }

    /// Takes news of a job: from its leader, or, before there is a plan, from whom this peer has asked to lead it.
    pub(super) fn on_news(
        &mut self,
        from: PeerId,
        id: JobId,
        news: News,
        now: Instant,
        out: &mut Outbox,
    ) {
        let job = self.jobs.get(&id);
        let leads = job.is_some_and(|job| job.election.leader == Some(from));
        let asked = job.is_none_or(|job| job.plan.is_none())
            && self.submissions.get(&id).is_some_and(|s| s.of.contains(&from));
        if !leads && !asked {
            return;
        }
        // A leader that has taken a claim, and decides the last step before the claim's plan, says so to whom it cannot yet give
        // anything; it says so again under that plan.
        if job.is_none_or(|job| job.plan.is_none()) && matches!(news, News::Finished { .. }) {
            return;
        }
        if asked && matches!(news, News::Failed { .. }) {
            self.submissions.remove(&id);
        }
        if self.jobs.contains_key(&id) {
            return self.with_job(id, now, out, |job, ctx| {
                job.notify(news, ctx);
                if job.over && job.plan.is_none() {
                    job.ending = Some(Ending::Over);
                }
            });
        }
        // Who is asked may have to wait, or refuse, before there is a plan to take part in.
        out.push(Effect::Notify(Event::Job { job: id, news: Box::new(news) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a submitter is not told of an end before it has a plan, under which alone it is given anything; of a refusal it is.
    #[test]
    fn an_end_that_comes_before_a_plan_is_not_told() {
        let mut peer = Peer::new(&[1; 32], crate::swarm::Config::default());
        let (leader, now) = (PeerId::new([2; 32]), Instant::from_micros(1));
        let spec = crate::schedule::sample::problem(1, 3, 6).spec;
        let id = job_id(&spec).unwrap();
        let mut submission = Submission::new(Box::new(spec));
        submission.of.insert(leader);
        peer.submissions.insert(id, submission);
        let mut told = |news| {
            let mut out = Outbox::new();
            peer.on_news(leader, id, news, now, &mut out);
            out.drain().filter(|effect| matches!(effect, Effect::Notify(_))).count()
        };
        assert_eq!(told(News::Finished { steps: crate::ids::Step::new(4), last: None }), 0);
        assert_eq!(told(News::Failed { reason: "it is full".into() }), 1);
    }

    /// A peer that has never heard of a job would found it a second time, beside the one that runs.
    #[test]
    fn a_job_that_runs_is_claimed_from_who_runs_it() {
        let [fast, member, leader] = [1, 2, 3].map(|n| PeerId::new([n; 32]));
        let able = [fast, member, leader];
        let members = BTreeSet::from([member, leader]);
        assert_eq!(whom(0, Some(leader), &members, &able), leader);
        assert!((0..9).all(|attempt| whom(attempt, Some(leader), &members, &able) != fast));
        assert_eq!(whom(0, None, &BTreeSet::new(), &able), fast);
        // Members that cannot be reached do not count.
        assert_eq!(whom(0, Some(leader), &members, &[fast]), fast);
    }
}
