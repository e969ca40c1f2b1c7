//! Sums of gradients on their way to a stage's owner: along the chain of its workers, piece by piece.

use super::{Progress, Shift, TASKS_AHEAD};
use crate::ids::MicroBatch;
use crate::swarm::Ctx;
use crate::swarm::io::{Task, TensorName};
use crate::swarm::tasks::Purpose;

impl Shift {
    /// Adds this worker's groups to those of the workers behind it, piece by piece as they come.
    pub(super) fn gather(&mut self, ctx: &mut Ctx<'_>) {
        let (source, sink) = match self.roles() {
            Some(roles) => (roles.source(self.place), roles.sink(self.place)),
            None => (None, None),
        };
        let has_part = sink.is_some() || (self.place == 0 && source.is_some());
        let (job, stage, step, worker) = (self.job, self.id, self.step, self.place);
        let count = if has_part { u16::try_from(self.chunks.len()).unwrap_or(u16::MAX) } else { 0 };
        while self.gathered < count {
            let chunk = self.gathered;
            let name = source.map(|worker| TensorName::GroupSums { stage, worker, chunk });
            if self.running.len() >= TASKS_AHEAD || name.is_some_and(|name| !self.has(name)) {
                return;
            }
            let first = self.first_group();
            let task = Task::GatherGradients { job, stage, step, chunk, worker, source, first };
            self.gathered += 1;
            self.running.push_back(ctx.run((job, stage), Purpose::Gather(chunk), task));
        }
        if self.running.is_empty() {
            self.progress = Progress::Done;
            self.stats.ready = ctx.now;
        }
    }

    /// Returns how many groups the workers behind this one run.
    pub(super) fn first_group(&self) -> u16 {
        let all = (0..self.work.train.micro_batches).map(MicroBatch::new);
        let behind = all.filter(|m| self.turn(*m) > self.place);
        behind.map(|m| self.work.groups.group(m) + 1).max().unwrap_or(0)
    }

    /// Sends a piece of the sums to the next worker towards the owner.
    pub(super) fn hand_on(&mut self, chunk: u16, ctx: &mut Ctx<'_>) {
        let to = self.roles().and_then(|roles| {
            let sink = roles.sink(self.place)?;
            roles.workers().nth(usize::from(sink))
        });
        if let Some(to) = to {
            let name = TensorName::GroupSums { stage: self.id, worker: self.place, chunk };
            self.ship(self.key(name), to, ctx);
        }
    }
}
