//! What must never happen in a simulated swarm, noted as it happens.
//!
//! Safety: in one epoch a stage has one owner, and each micro-batch one worker there; a pass of a micro-batch is not computed twice without a reset; a
//! step that is decided twice has equal losses; whoever holds a stage after the same number of updates holds the same
//! state. Liveness is the scenario's time limit.

use std::collections::{BTreeMap, BTreeSet};

use wattle_protocol::ids::{Epoch, JobId, StageId, Step, ValueId};
use wattle_protocol::swarm::io::{StateSource, Task};

use crate::device::place;

/// Most violations that are kept; the first is what matters.
const VIOLATIONS_MAX: usize = 20;

/// Which values a stage touches: a job that begins anew may be cut elsewhere.
type Cut = Vec<ValueId>;

/// Notes of one world.
#[derive(Debug, Default)]
pub struct Check {
    owners: BTreeMap<(JobId, Epoch, StageId), usize>,
    workers: BTreeMap<(JobId, Epoch, StageId, u32), usize>,
    epochs: BTreeMap<(usize, JobId, StageId), Epoch>,
    passes: BTreeSet<(usize, JobId, StageId, Step, u32, bool)>,
    losses: BTreeMap<(JobId, Step), u64>,
    states: BTreeMap<(JobId, StageId, Step, Cut), [u8; 32]>,
    /// Where each holder's stage is cut.
    cuts: BTreeMap<(usize, JobId, StageId), Cut>,
    /// Updates that each holder's state of a stage has seen.
    applied: BTreeMap<(usize, JobId, StageId), Step>,
    violations: Vec<String>,
}

impl Check {
    fn violated(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    /// A peer begins a task.
    pub fn begins(&mut self, peer: usize, task: &Task) {
        let (job, stage) = place(task);
        let (step, micro_batch, back) = match task {
            Task::Forward { step, micro_batch, .. } => (*step, micro_batch.index(), false),
            Task::Backward { step, micro_batch, .. } => (*step, micro_batch.index(), true),
            Task::ResetStep { epoch, .. } => {
                self.epochs.insert((peer, job, stage), *epoch);
                self.passes.retain(|p| (p.0, p.1, p.2) != (peer, job, stage));
                return;
            }
            // Only a job that begins anew loads initial state after an update.
            Task::LoadStage { source: StateSource::Initial | StateSource::Given(_), .. } => {
                let is_late = |(of, at, applied, _): &(JobId, StageId, Step, Cut)| {
                    *of == job && *at == stage && *applied > Step::default()
                };
                if self.states.keys().any(is_late) {
                    self.restarted(job);
                }
                return;
            }
            Task::ReduceGradients { .. } => return self.reduces(peer, (job, stage)),
            _ => return,
        };
        if !self.passes.insert((peer, job, stage, step, micro_batch, back)) {
            self.violated(format!(
                "peer {peer} computes micro-batch {micro_batch} of step {step} at {stage} twice"
            ));
        }
        let epoch = self.epochs.get(&(peer, job, stage)).copied().unwrap_or_default();
        let worker = *self.workers.entry((job, epoch, stage, micro_batch)).or_insert(peer);
        if worker != peer {
            self.violated(format!(
                "in epoch {epoch:?} micro-batch {micro_batch} of stage {stage} has two workers: peers {worker} and {peer}"
            ));
        }
    }

    /// Only the owner of a stage reduces.
    fn reduces(&mut self, peer: usize, (job, stage): (JobId, StageId)) {
        let epoch = self.epochs.get(&(peer, job, stage)).copied().unwrap_or_default();
        let owner = *self.owners.entry((job, epoch, stage)).or_insert(peer);
        if owner != peer {
            self.violated(format!(
                "in epoch {epoch:?} stage {stage} has two owners: peers {owner} and {peer}"
            ));
        }
    }

    /// A peer has finished a task; `state` is the stage's fingerprint after it.
    pub fn ended(&mut self, peer: usize, task: &Task, state: Option<[u8; 32]>) {
        let (job, stage) = place(task);
        let applied = match task {
            Task::LoadStage { step, work, .. } => {
                let cut = work.graph.values.keys().copied().collect();
                self.cuts.insert((peer, job, stage), cut);
                *step
            }
            Task::OptimizerStep { step, .. } => step.next(),
            _ => return,
        };
        self.applied.insert((peer, job, stage), applied);
        let Some(state) = state else {
            return;
        };
        let cut = self.cuts.get(&(peer, job, stage)).cloned().unwrap_or_default();
        let known = *self.states.entry((job, stage, applied, cut)).or_insert(state);
        if known != state {
            self.violated(format!(
                "peer {peer} holds another state of stage {stage} after {applied} updates"
            ));
        }
    }

    /// A job begins anew, perhaps with other cuts: what was is compared no more.
    fn restarted(&mut self, job: JobId) {
        self.losses.retain(|(of, _), _| *of != job);
        self.states.retain(|(of, ..), _| *of != job);
    }

    /// A submitter hears of a decided step.
    pub fn decided(&mut self, job: JobId, step: Step, loss: f64) {
        let known = *self.losses.entry((job, step)).or_insert(loss.to_bits());
        if known != loss.to_bits() {
            let before = f64::from_bits(known);
            self.violated(format!(
                "step {step} was decided with loss {before} and then with {loss}"
            ));
        }
    }

    /// Returns the fingerprint of each stage's state after so many updates, which all its holders share.
    pub fn states(&self) -> BTreeMap<(u16, u64), [u8; 32]> {
        let states = self.states.iter();
        let number = |stage: StageId| u16::try_from(stage.index()).unwrap_or(u16::MAX);
        states
            .map(|((_, stage, step, _), state)| ((number(*stage), step.number()), *state))
            .collect()
    }

    /// Returns what was violated.
    pub fn finish(self) -> Vec<String> {
        self.violations
    }
}

#[cfg(test)]
mod tests {
    use wattle_protocol::ids::MicroBatch;

    use super::*;

    fn forward(step: u64) -> Task {
        let (job, stage) = (JobId::new([1; 16]), StageId::new(0));
        Task::Forward { job, stage, step: Step::new(step), micro_batch: MicroBatch::new(0) }
    }

    #[test]
    fn two_owners_or_workers_doubled_passes_and_changed_losses_are_noted() {
        let mut check = Check::default();
        check.begins(0, &forward(0));
        check.begins(0, &forward(1));
        assert!(check.violations.is_empty());
        check.begins(0, &forward(1));
        check.begins(1, &forward(2));
        let (job, stage, step) = (JobId::new([1; 16]), StageId::new(0), Step::new(2));
        for peer in 0..2 {
            let (shared_from, publish) = (vec![], true);
            let task = Task::ReduceGradients { job, stage, step, shared_from, publish };
            check.begins(peer, &task);
        }
        check.decided(job, Step::new(3), 1.0);
        check.decided(job, Step::new(3), 1.0);
        check.decided(job, Step::new(3), 1.5);
        assert_eq!(check.finish().len(), 4);
    }
}
