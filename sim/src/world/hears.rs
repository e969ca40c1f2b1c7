//! What the simulated submitter is told: losses, plans and the end, with the faults that wait for them.

use wattle_protocol::schedule::StagePlan;
use wattle_protocol::swarm::io::Event;
use wattle_protocol::units::Instant;
use wattle_protocol::wire::message::News;

use super::World;

impl World<'_> {
    /// The submitter hears something.
    pub(super) fn hear(&mut self, event: Event) {
        let Event::Job { job, news } = event else {
            return;
        };
        match *news {
            News::Waiting { .. } | News::Lost { .. } => {}
            News::Adopted { plan, leader, restart, .. } => {
                self.outcome.plans += 1;
                self.outcome.restarts += usize::from(restart);
                if restart {
                    self.outcome.losses.clear();
                    self.outcome.heard.clear();
                }
                self.trace.line(self.now, &format!("plan of epoch {:?}", plan.epoch));
                if self.started.is_none() {
                    self.started = Some(self.now);
                    self.outcome.predicted_step = plan.prediction.step.seconds();
                    let stages = plan.stages.iter();
                    self.outcome.workers = stages.map(|s| s.workers().count()).collect();
                    self.set_faults();
                }
                let place = |s: &StagePlan| self.places.get(&s.owner).copied();
                self.outcome.owners = plan.stages.iter().filter_map(place).collect();
                self.plan = Some((*plan, leader));
            }
            News::Step { commit, .. } => {
                self.check.decided(job, commit.step, commit.loss);
                self.outcome.losses.insert(commit.step.number(), commit.loss);
                let heard = self.now.since(Instant::default()).seconds();
                self.outcome.heard.insert(commit.step.number(), heard);
                self.trace.line(
                    self.now,
                    &format!("step {} loss {:x}", commit.step, commit.loss.to_bits()),
                );
                let now = self.now;
                let done = commit.step.number();
                self.waiting.retain(|(killed, step)| {
                    // The step in work may have been decided before the kill was noticed.
                    let recovered = done > *step;
                    if recovered {
                        self.outcome.recoveries.push(now.since(*killed).seconds());
                    }
                    !recovered
                });
                self.faults_after(done);
            }
            News::Finished { .. } => self.outcome.finished = true,
            News::Failed { reason } => self.outcome.failed = Some(reason),
        }
    }
}
