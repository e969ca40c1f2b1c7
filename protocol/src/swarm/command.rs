//! What a user of this machine asks of its peer.

use super::Peer;
use super::io::{Command, Effect, Event, Outbox};
use super::job::Job;
use super::submit::Submission;
use crate::ids::JobId;
use crate::units::Instant;
use crate::wire::frame::job_id;
use crate::wire::message::{JobMessage, Message, News};

impl Peer {
    pub(super) fn on_command(&mut self, command: Command, now: Instant, out: &mut Outbox) {
        match command {
            Command::Submit(spec) => match job_id(&spec) {
                Ok(id) => {
                    self.submissions.insert(id, Submission::new(spec));
                    self.submit(now, out);
                }
                Err(error) => {
                    let news = Box::new(News::Failed { reason: error.to_string() });
                    let job = JobId::new([0; 16]);
                    out.push(Effect::Notify(Event::Job { job, news }));
                }
            },
            Command::Pull(id) => self.with_job(id, now, out, Job::pull),
            Command::Release(id) => self.with_job(id, now, out, |job, ctx| {
                let members = job.plan.as_ref().map(|p| p.members()).unwrap_or_default();
                for peer in members {
                    ctx.send(peer, id, JobMessage::Release);
                }
            }),
            Command::AskRuns => {
                for to in self.membership.connected() {
                    out.push(Effect::Send { to, message: Box::new(Message::WhatRuns) });
                }
            }
            Command::AskTraces(job) => self.ask_traces(job, now, out),
            Command::Leave => {
                for to in self.membership.connected() {
                    out.push(Effect::Send { to, message: Box::new(Message::Goodbye) });
                }
                out.push(Effect::Notify(Event::MayStop));
            }
        }
    }
}
