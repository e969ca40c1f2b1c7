//! Handing a job in, and founding one that was handed in.
//!
//! A submitter asks the fastest peer to lead its job, and another one when that does not place it in time.

use std::sync::Arc;

use super::elect::Election;
use super::io::{Effect, Outbox, Timer};
use super::job::Job;
use super::lead::Lead;
use super::{JOBS_MAX, Peer, join};
use crate::ids::{PeerId, Term};
use crate::job::JobSpec;
use crate::units::{Duration, Instant};
use crate::wire::frame::job_id;
use crate::wire::message::Message;

/// A submitter asks another peer when the first has not placed its job after this.
const SUBMIT_AGAIN: Duration = Duration::from_millis(2_000);

/// A job that this machine wants trained and that is not placed yet.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) spec: Box<JobSpec>,
    pub(super) term: Term,
    pub(super) asked: Option<Instant>,
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
            let attempt = usize::try_from(submission.term.number()).unwrap_or(0);
            let (_, to) = able[attempt % able.len()];
            submission.term = submission.term.next();
            submission.asked = Some(now);
            let (spec, term) = (submission.spec.clone(), submission.term);
            if to == self.me {
                own.push((spec, term));
            } else {
                out.push(Effect::Send { to, message: Box::new(Message::Submit { spec, term }) });
            }
        }
        for (spec, term) in own {
            self.on_submit(self.me, spec, term, now, out);
        }
    }

    /// Becomes the founding leader of a job.
    pub(super) fn on_submit(
        &mut self,
        from: PeerId,
        spec: Box<JobSpec>,
        term: Term,
        now: Instant,
        out: &mut Outbox,
    ) {
        let checked = job_id(&spec)
            .map_err(|e| e.to_string())
            .and_then(|id| join::check_spec(&spec).map(|()| id));
        let id = match checked {
            Ok(id) => id,
            Err(reason) => {
                tracing::warn!(from = %from, reason, "refuses a job");
                return;
            }
        };
        if self.jobs.get(&id).is_some_and(|j| j.plan.is_some()) {
            return self.with_job(id, now, out, |job, ctx| job.on_claim(from, ctx));
        }
        let known = self.jobs.get(&id).is_some_and(|j| j.election.term >= term);
        if known || self.jobs.len() >= JOBS_MAX {
            return;
        }
        let mut job = Job::new(id, Arc::new(*spec), from, Election::new(term, Some(self.me), now));
        job.lead = Some(Lead::founding(term, now));
        self.jobs.insert(id, job);
        out.push(Effect::SetTimer { timer: Timer::Job(id), at: now + self.config.heartbeat });
        self.with_job(id, now, out, Job::lead_tick);
    }
}
